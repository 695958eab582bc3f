//! Any of the three autoencoders, by its class name.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::config::AutoencoderConfig;
use super::kl::AutoencoderKl;
use super::names;
use super::tiling::Tiling;
use super::tiny::AutoencoderTiny;
use super::vq::VqModel;
use crate::tensors::folder::{self, Kind};
use crate::{Error, Result, tensors};

/// File of the weights.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// What is looked for where a user names an autoencoder.
pub const FOLDER: Kind =
    Kind { name: "folder of an autoencoder", file: "config.json", with: WEIGHTS };

impl AutoencoderConfig {
    /// Writes a folder that [`Autoencoder::open`] and diffusers read: `config.json` and the `weights`,
    /// under diffusers' names. The folder is made if it is not there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, weights: &HashMap<String, Tensor>) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        tensors::save(weights, &dir.join(WEIGHTS))?;
        self.write(dir)
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Vq(config) => config.embed_dim(),
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// Channels of the pictures, encoded and decoded.
    pub fn picture_channels(&self) -> [usize; 2] {
        match self {
            Self::Kl(config) => [config.in_channels, config.out_channels],
            Self::Vq(config) => [config.in_channels, config.out_channels],
            Self::Tiny(config) => [config.in_channels, config.out_channels],
        }
    }
}

/// An autoencoder between pictures `[b, c, h, w]` in −1..1 and scaled latents.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Autoencoder {
    /// With a Gaussian posterior.
    Kl(AutoencoderKl),
    /// With a codebook.
    Vq(VqModel),
    /// Small and without a posterior.
    Tiny(AutoencoderTiny),
}

impl Autoencoder {
    /// Reads a folder of diffusers, or the newest checkpoint of a run: `config.json` and
    /// `diffusion_pytorch_model.safetensors` (or its index and shards, or `.fp16.safetensors`). Older
    /// names of the attention are known.
    ///
    /// # Errors
    /// When a file is missing, the class is no autoencoder, the configuration asks for what is not
    /// supported, or the weights do not fit it.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let dir = folder::resolve(dir, &FOLDER)?;
        let config = AutoencoderConfig::open(&dir)?;
        names::load(&dir, device, |vb| Self::from_config(&config, vb))
    }

    /// The network of a configuration, with the builder's weights.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a tensor is missing or has another shape.
    pub fn from_config(config: &AutoencoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(match config {
            AutoencoderConfig::Kl(config) => Self::Kl(AutoencoderKl::load(config, vb)?),
            AutoencoderConfig::Vq(config) => Self::Vq(VqModel::load(config, vb)?),
            AutoencoderConfig::Tiny(config) => Self::Tiny(AutoencoderTiny::load(config, vb)?),
        })
    }

    /// What it was made from.
    pub fn config(&self) -> AutoencoderConfig {
        match self {
            Self::Kl(net) => AutoencoderConfig::Kl(net.config.clone()),
            Self::Vq(net) => AutoencoderConfig::Vq(net.config.clone()),
            Self::Tiny(net) => AutoencoderConfig::Tiny(net.config.clone()),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(net) => net.config.latent_channels,
            Self::Vq(net) => net.config.embed_dim(),
            Self::Tiny(net) => net.config.latent_channels,
        }
    }

    /// How many times smaller a side of the latents is than that of the picture.
    pub fn downsampling(&self) -> usize {
        match self {
            Self::Kl(net) => net.downsampling(),
            Self::Vq(net) => net.downsampling(),
            Self::Tiny(net) => net.downsampling(),
        }
    }

    /// Pictures `x` `[b, c, h, w]` to scaled latents. `noise` of their shape draws from the posterior;
    /// without it they are its mean. A codebook and a tiny autoencoder have no use for noise.
    ///
    /// # Errors
    /// When there are other channels, a side is too small, or the noise has another shape.
    pub fn encode(&self, x: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Kl(net) => {
                let posterior = net.encode(x)?;
                net.scale(&match noise {
                    Some(noise) => posterior.sample(noise)?,
                    None => posterior.mode(),
                })
            }
            Self::Vq(net) => Ok((net.encode(x)? * net.config.scaling_factor)?),
            Self::Tiny(net) => {
                let z = (net.encode(x)? - net.config.shift_factor)?;
                Ok((z * net.config.scaling_factor)?)
            }
        }
    }

    /// Scaled latents to pictures in −1..1, which are not clamped.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(net) => net.decode(&net.unscale(latents)?),
            Self::Vq(net) => net.decode(&(latents / net.config.scaling_factor)?),
            Self::Tiny(net) => {
                let z = (latents / net.config.scaling_factor)?;
                net.decode(&(z + net.config.shift_factor)?)
            }
        }
    }

    /// As [`Self::decode`] in tiles, whatever the size, with memory that does not grow with the
    /// picture: those of [`AutoencoderKl::tiling`] where they fit, else of at least 64 latents.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_tiled(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(net) => {
                let f = net.downsampling();
                let own = Some(net.tiling()).filter(|tiling| tiling.decoding(f).is_ok());
                let side = net.config.sample_size.first();
                let tiling = own.unwrap_or_else(|| Tiling::automatic(side, f));
                net.decode_tiled(&net.unscale(latents)?, &tiling)
            }
            Self::Vq(net) => {
                let z_q = net.quantize(&(latents / net.config.scaling_factor)?)?.z_q;
                let f = net.downsampling();
                let plan = Tiling::automatic(net.config.sample_size.first(), f).decoding(f)?;
                plan.run(&z_q, &|z| net.decode_quantized(z))
            }
            Self::Tiny(net) => {
                let z = ((latents / net.config.scaling_factor)? + net.config.shift_factor)?;
                Tiling::automatic(1, net.upsampling())
                    .decoding(net.upsampling())?
                    .run(&z, &|z| net.decode(z))
            }
        }
    }
}
