//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

mod merges;
pub mod tokenizer;

pub use tokenizer::{Tokenizer, Tokens};
