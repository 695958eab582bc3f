//! Networks and the layers they are made of.
//!
//! Weights are read through candle-nn's `VarBuilder`, so the same constructor loads a checkpoint,
//! or makes trainable parameters when the builder comes from [`params::Params`]. Only operations
//! that have a backward pass are used; `tests/gradients.rs` checks that every parameter of every
//! network receives a finite, non-zero gradient.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a VarBuilder is a cheap handle and goes by value, as everywhere in candle"
)]

pub mod activation;
mod add_channels;
mod attend;
pub mod attention;
pub mod batch_norm;
pub mod clip;
pub mod condition;
pub mod conv;
pub mod conv2d;
mod convolve;
pub mod denoiser;
pub mod dense;
pub mod dit;
pub mod embed;
mod gated;
mod gather;
mod group_norm;
mod kernel;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod params;
pub(crate) mod pixel_attention;
pub mod pool;
mod product;
pub mod resize;
pub mod resnet;
pub mod resnet2d;
pub mod rope;
mod rows;
mod simd;
pub mod softmax;
pub mod spatial_softmax;
mod transformer2d;
mod transposed;
pub mod unet1d;
pub mod unet2d;
mod unet2d_blocks;
mod unet2d_config;
mod unet2d_plan;
mod unet2d_time;
pub mod upsample;

pub use kernel::{Storage, Work};
pub use product::stored_as;
