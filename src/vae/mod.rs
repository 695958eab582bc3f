//! Autoencoders: pictures to latents and back, and what they are trained with.
//!
//! ```text
//! x [b, 3, h, w] ─► encode ─► posterior │ h │ z ─► (z − shift)·scale ─► latents [b, c, h/f, w/f]
//! latents ─► z/scale + shift ─► decode ─► [b, 3, h, w] in −1..1, not clamped
//! ```
//!
//! Three kinds under diffusers' class names, keys and configurations: [`AutoencoderKl`] (a Gaussian
//! posterior), [`VqModel`] (a codebook) and [`AutoencoderTiny`] (for previews). Inside, the channels
//! stand last. Sources: Kingma, Welling 2014; van den Oord et al. 2017; Esser et al. 2021; Rombach
//! et al. 2022, section 3.1; the key names and orders of operations of diffusers
//! `models/autoencoders`.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a VarBuilder is a cheap handle and goes by value, as everywhere in candle"
)]

mod autoencoder;
mod coder;
mod config;
pub mod discriminator;
pub mod features;
mod kl;
pub mod loss;
mod names;
mod posterior;
mod quantize;
mod tiling;
mod tiny;
mod vq;

pub use autoencoder::{Autoencoder, FOLDER};
pub use config::{AutoencoderConfig, DownBlock, Side, UpBlock};
pub use kl::{AutoencoderKl, AutoencoderKlConfig};
pub use posterior::Posterior;
pub use quantize::{Beta, Quantized};
pub use tiling::Tiling;
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig};
pub use vq::{VqModel, VqModelConfig};
