//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

pub mod grid;
mod json;
mod merges;
mod methods;
pub mod output;
pub mod parameters;
pub mod plan;
pub mod pixels;
pub mod png;
pub mod png_text;
pub mod scheduler;
pub mod settings;
pub mod tokenizer;
mod walk;

pub use methods::names as method_names;
pub use plan::{Choice, Plan};
pub use scheduler::Scheduler;
pub use settings::{Settings, Source};
pub use tokenizer::{Tokenizer, Tokens};
