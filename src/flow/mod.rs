//! The flow: a path between noise and data, the velocity along it, and the loss that learns it.
//!
//! ```text
//! x_t = α(t)·data + σ(t)·noise        v = α'(t)·data + σ'(t)·noise
//! ```
//!
//! Time convention: inside Pathline t = 1 is noise and t = 0 is data. It is a property of the
//! [`Path`] value: a network trained the other way is used with [`Path::StraightReversed`], and no
//! other code negates a time or a velocity. All schedule arithmetic is f64 on the host; tensors
//! carry only state. Noise is an argument, drawn from the counter-based [`Noise`].
//!
//! Sources: Lipman et al. 2023 (flow matching), Liu et al. 2023 (rectified flow), Albergo and
//! Vanden-Eijnden 2023 (interpolants).

pub mod assignment;
pub mod bridge;
pub mod clip;
pub(crate) mod combine;
pub mod coupling;
pub mod denoiser;
pub mod guidance;
pub mod known;
pub mod marginal;
pub mod mixture;
pub mod noise;
pub mod objective;
pub mod path;
mod philox;
pub mod prefix;
mod quantile;
pub mod reflow;
pub mod schedule;
pub mod shortcut;
pub mod target;
pub mod time_law;
pub mod vlb;
pub mod weight;

pub use bridge::Bridge;
pub use coupling::Coupling;
pub use denoiser::Denoiser;
pub use guidance::{Guidance, guided};
pub use known::Known;
pub use mixture::GaussianMixture;
pub use noise::Noise;
pub use objective::{Batch, CfmBatch, Objective, cfm, mse};
pub use path::{Coef, Path};
pub use prefix::Prefix;
pub use schedule::Discrete;
pub use shortcut::Shortcut;
pub use target::{Estimate, Target};
pub use time_law::TimeLaw;
pub use weight::Weight;
