//! Pathline: a runtime for flow-matching and diffusion robot policies.

mod error;
pub use error::{Error, Result};

pub mod action;
pub mod wire;

#[cfg(feature = "nn")]
pub mod dataset;
#[cfg(feature = "nn")]
pub mod device;
#[cfg(feature = "nn")]
pub mod flow;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "nn")]
pub mod plot;
#[cfg(feature = "nn")]
pub mod policy;
#[cfg(feature = "nn")]
pub mod solver;
#[cfg(feature = "nn")]
pub mod train;

#[cfg(feature = "node")]
pub mod node;
