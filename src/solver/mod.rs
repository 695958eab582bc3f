//! Samplers: from noise to data over a grid of times that is plain f64.
//!
//! A sampler asks a [`crate::flow::Denoiser`] what a state is made of and makes the next state
//! ([`transfer()`], [`multistep2`], [`euler_maruyama`]), or follows its velocity ([`integrate()`] with a
//! tableau, [`adaptive()`]). [`Sampler`] names them all as data, [`Grid`] the grids. No network and no policy is
//! known here; which end is noise is the business of [`crate::flow::Path::ends`].

pub mod adaptive;
pub mod flow_map;
pub mod grid;
pub mod integrate;
mod jacobian;
pub mod likelihood;
pub mod multistep;
pub mod plms;
pub mod sampler;
pub mod sde;
pub mod solution;
pub mod spacing;
pub mod tableau;
pub mod transfer;

pub use adaptive::{Adaptive, adaptive};
pub use flow_map::flow_map;
pub use integrate::{integrate, integrate_observed};
pub use likelihood::{Divergence, Likelihood, log_likelihood};
pub use multistep::multistep2;
pub use plms::{PlmsTimes, plms};
pub use sampler::Sampler;
pub use sde::{Diffusion, euler_maruyama};
pub use solution::{Draw, Field, Observer, Solution};
pub use spacing::Grid;
pub use tableau::Tableau;
pub use transfer::{Noising, transfer};
