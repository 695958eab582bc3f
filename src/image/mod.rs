//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

pub mod settings;

pub use settings::{Settings, Source};
