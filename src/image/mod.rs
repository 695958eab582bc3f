//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.

mod classes;
mod conditions;
mod folder;
pub mod grid;
mod json;
mod merges;
mod methods;
mod network;
pub mod output;
pub mod parameters;
mod pipeline;
pub mod pixels;
pub mod plan;
pub mod png;
pub mod png_text;
mod request;
mod sample;
pub mod scheduler;
pub mod segmentation;
pub mod settings;
mod start;
pub mod tokenizer;
mod walk;
mod write;

pub use folder::{Defaults, FOLDER, Folder, trained_parts};
pub use methods::names as method_names;
pub use network::{interval_velocity, network_times};
pub use pipeline::Pipeline;
pub use plan::{Choice, Plan};
pub use request::{Pictures, Progress, Request};
pub use scheduler::Scheduler;
pub use settings::{Settings, Source};
pub use tokenizer::{Tokenizer, Tokens};
pub use write::{Parts, Precision, save_pipeline};
