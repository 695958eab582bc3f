//! PushT.
mod coverage;
mod env;
pub mod expert;
mod numpy_rng;
mod physics;
pub mod render;
