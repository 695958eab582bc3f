//! Training: minibatches, optimiser, checkpoints, evaluation in the simulator.
//!
//! ```text
//! recipe.toml ─ dataset ─ samples ─ cfm loss ─ gradients ─ AdamW ─ EMA ─► checkpoints/<step>/pretrained_model
//!                                                              └ every so often: evaluate, plot
//! ```
//!
//! A run is a function of its recipe: the order of samples, the flow times and the noise are read
//! from the counter-based generator at (seed, step), so that a run that was stopped anywhere and
//! resumed writes the same bytes as one that was not.

mod adamw;
pub mod checkpoint;
pub mod clip;
pub mod dagger;
pub mod ema;
mod epochs;
pub mod eval;
mod log;
pub mod optimizer;
pub mod pictures;
mod progress;
pub mod quality;
pub mod recipe;
pub mod run;
pub mod samples;
pub mod schedule;
