//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

pub mod grid;
mod merges;
pub mod output;
pub mod parameters;
pub mod png;
pub mod png_text;
pub mod settings;
pub mod tokenizer;

pub use settings::{Settings, Source};
pub use tokenizer::{Tokenizer, Tokens};
