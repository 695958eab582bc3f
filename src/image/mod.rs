//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

pub mod grid;
pub mod output;
pub mod parameters;
pub mod pixels;
pub mod png;
pub mod png_text;
pub mod settings;

pub use settings::{Settings, Source};
