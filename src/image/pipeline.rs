//! A model folder, loaded: all that turns a request into pictures.
//!
//! ```text
//! prompt ─ tokenizer ─ text encoder ─┐
//! class ─────────────────────────────┤
//! map ─ rescaler ────────────────────┼► condition ─► denoiser ◄─ guidance
//! picture, mask ─ autoencoder ───────┘                  │
//! noise(seed + i) ─────────────────► plan (scheduler) ──┴─► latents ─ autoencoder ─► picture
//! ```
//!
//! This file loads and answers what a folder can do; `sample.rs` draws.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::classes::Classes;
use super::folder::{Defaults, Folder, weights};
use super::json;
use super::scheduler::Scheduler;
use super::segmentation::{Rescaler, RescalerConfig};
use super::tokenizer::Tokenizer;
use crate::nn::clip::{ClipTextConfig, ClipTextEncoder, with_prefix};
use crate::nn::denoiser::{DenoiserConfig, DenoiserNet};
use crate::tensors::files::{MAX_TEXT, read_text};
use crate::vae::Autoencoder;
use crate::{Error, Result};

/// Stem of the weights of diffusers' networks.
pub(super) const DIFFUSION: &str = "diffusion_pytorch_model";
/// Stem of the weights of transformers' networks.
pub(super) const MODEL: &str = "model";

/// The loaded folder. Weights do not change: drawing takes it by reference.
pub struct Pipeline {
    class: String,
    network: DenoiserNet,
    config: DenoiserConfig,
    autoencoder: Option<Autoencoder>,
    text: Option<(ClipTextEncoder, Tokenizer)>,
    rescaler: Option<Rescaler>,
    preview: Option<Autoencoder>,
    scheduler: Scheduler,
    classes: Classes,
    map_classes: Vec<String>,
    defaults: Defaults,
    size: [usize; 2],
    device: Device,
}

impl Pipeline {
    /// Reads a folder in diffusers' layout (`folder.rs` lists the classes).
    ///
    /// # Errors
    /// When the folder is no such folder, a component is missing or does not fit, or the components do not
    /// fit each other.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let folder = Folder::open(dir)?;
        let Some(network_dir) = folder.network() else {
            return Err(Error::config(
                dir,
                "expected a component unet or transformer, got neither",
            ));
        };
        let path = network_dir.join("config.json");
        let of_file = |e: Error| match e {
            Error::Config { .. } | Error::Io { .. } => e,
            e => Error::config(&path, e.to_string()),
        };
        let config = DenoiserConfig::parse(&read_text(&path, MAX_TEXT)?).map_err(of_file)?;
        let network =
            weights(&network_dir, DIFFUSION)?.load(device, |vb| DenoiserNet::load(&config, vb))?;
        let coder = folder.component("vae").or_else(|| folder.component("vqvae"));
        let open = |dir: std::path::PathBuf| Autoencoder::open(&dir, device);
        let autoencoder = coder.map(open).transpose()?;
        let preview = folder.component("preview").map(open).transpose()?;
        let text = match folder.component("text_encoder") {
            None => None,
            Some(encoder) => {
                let tokenizer = Tokenizer::open(&folder.require("tokenizer")?)?;
                let encoder = text_encoder(&encoder, device)?;
                let length = encoder.config().max_position_embeddings;
                Some((encoder, tokenizer.with_length_at_most(length)))
            }
        };
        let rescaler = match folder.component("segmentation_rescaler") {
            None => None,
            Some(dir) => {
                let config = RescalerConfig::open(&dir)?;
                Some(weights(&dir, DIFFUSION)?.load(device, |vb| Rescaler::load(&config, vb))?)
            }
        };
        let classes = Classes::read(&folder, config.num_class_embeds())?;
        let scheduler = Scheduler::open(&folder.require("scheduler")?)?;
        let factor = autoencoder.as_ref().map_or(1, Autoencoder::downsampling);
        let size = match (folder.option("image_size")?, config.sample_size()) {
            (Some(size), _) => size,
            (None, Some(size)) => size.map(|side| side * factor),
            (None, None) => {
                let message = "expected sample_size in the network's config.json, got none";
                return Err(Error::config(&path, message));
            }
        };
        let pipeline = Self {
            class: folder.class().to_owned(),
            map_classes: folder.option("map_classes")?.unwrap_or_default(),
            defaults: folder.option("defaults")?.unwrap_or_default(),
            network,
            config,
            autoencoder,
            text,
            rescaler,
            preview,
            scheduler,
            classes,
            size,
            device: device.clone(),
        };
        pipeline.check().map_err(of_file)?;
        Ok(pipeline)
    }

    /// Whether the components fit each other.
    fn check(&self) -> Result<()> {
        let channels = self.channels();
        let own = self.config.out_channels();
        // Variances behind the output, as in DiT, are not used.
        if own != channels && own != 2 * channels {
            let expected = format!("{channels}, the channels of the latents");
            return Err(Error::range("out_channels", expected, own as f64));
        }
        let told = self.config.in_channels();
        let extra = told.checked_sub(channels + self.map_channels());
        let is_known = match extra {
            Some(0) => true,
            Some(1) => self.rescaler.is_none() || self.is_few_step(),
            Some(extra) => extra == channels + 1 && self.rescaler.is_none(),
            None => false,
        };
        if !is_known {
            let expected = format!(
                "{channels} (the latents), {} (a mask and a masked picture too) or {} (the length of a step \
                 too){}",
                2 * channels + 1,
                channels + 1,
                if self.rescaler.is_some() { ", and those of the map" } else { "" }
            );
            return Err(Error::range("in_channels", expected, told as f64));
        }
        let (wanted, has) = (self.config.cross_attention_dim(), self.text.as_ref());
        let width = has.map(|(encoder, _)| encoder.config().hidden_size);
        if width.is_some() && wanted != width {
            let message = format!(
                "cross_attention_dim: expected {}, the width of the text encoder, got {}",
                width.unwrap_or_default(),
                wanted.map_or("none".into(), |dim| dim.to_string())
            );
            return Err(Error::Invalid(message));
        }
        if wanted.is_some() && width.is_none() {
            let message = "cross_attention_dim: expected a text encoder in the folder, got none";
            return Err(Error::Invalid(message.into()));
        }
        Ok(())
    }

    /// Class name of the pipeline.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Height and width of its pictures unless asked otherwise, px.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Names of the classes that it draws; none where it is not told one.
    pub fn class_names(&self) -> Vec<String> {
        self.classes.list()
    }

    /// Names of what the pixels of a segmentation map show; none where it takes no map.
    pub fn map_classes(&self) -> &[String] {
        &self.map_classes
    }

    /// Whether it draws from a segmentation map.
    pub fn takes_map(&self) -> bool {
        self.rescaler.is_some()
    }

    /// Whether it reads a prompt.
    pub fn takes_prompt(&self) -> bool {
        self.text.is_some()
    }

    /// The scheduler of the folder.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(super) fn network(&self) -> &DenoiserNet {
        &self.network
    }

    pub(super) fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    pub(super) fn rescaler(&self) -> Option<&Rescaler> {
        self.rescaler.as_ref()
    }

    pub(super) fn text(&self) -> Option<(&ClipTextEncoder, &Tokenizer)> {
        self.text.as_ref().map(|(encoder, tokenizer)| (encoder, tokenizer))
    }

    pub(super) fn classes(&self) -> &Classes {
        &self.classes
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Pixels of a picture on the side of one latent.
    pub(super) fn factor(&self) -> usize {
        self.autoencoder.as_ref().map_or(1, Autoencoder::downsampling)
    }

    /// Channels of the latents.
    pub(super) fn channels(&self) -> usize {
        match &self.autoencoder {
            Some(net) => net.latent_channels(),
            // Pixels: DiT says variances too, a picture has one channel or three.
            None => self.config.out_channels(),
        }
    }

    fn map_channels(&self) -> usize {
        self.rescaler.as_ref().map_or(0, |rescaler| rescaler.config().channels)
    }

    /// Whether the network is told a mask and the latents of a masked picture.
    pub(super) fn takes_mask(&self) -> bool {
        self.config.in_channels() == 2 * self.channels() + 1 && !self.is_few_step()
    }

    /// Whether the network is told the length of its step (`network.rs`). With one channel of latents a
    /// mask would look the same: only our own class is meant so.
    pub(super) fn is_few_step(&self) -> bool {
        self.class == super::folder::OWN
            && self.config.in_channels() == self.channels() + self.map_channels() + 1
    }

    /// Pictures `[1 or b, c, H, W]` in −1 … 1 to latents `[1 or b, ..]`. `noise` draws them from the
    /// posterior; its mean is taken without.
    pub(super) fn encode(
        &self,
        image: &Tensor,
        noise: Option<&Tensor>,
        batch: usize,
    ) -> Result<Tensor> {
        let Some(net) = &self.autoencoder else { return Ok(image.clone()) };
        let image = match net.config().picture_channels()[0] {
            1 if image.dim(1)? == 3 => image.mean_keepdim(1)?,
            _ => image.clone(),
        };
        let image = match noise {
            Some(noise) if noise.dim(0)? != image.dim(0)? => image.repeat((batch, 1, 1, 1))?,
            _ => image,
        };
        net.encode(&image, noise)
    }

    /// Latents to pictures `[b, 3, H, W]` in −1 … 1, not clamped.
    pub(super) fn decode(&self, latents: &Tensor, in_tiles: bool) -> Result<Tensor> {
        let image = match &self.autoencoder {
            None => latents.clone(),
            Some(net) if in_tiles => net.decode_tiled(latents)?,
            Some(net) => net.decode(latents)?,
        };
        colour(&image)
    }

    /// What half-done latents look like, `[b, 3, h, w]` in −1 … 1: through the folder's `preview` if it has
    /// one; small and in rough colours without.
    ///
    /// # Errors
    /// When the latents are not of this model.
    pub fn preview(&self, latents: &Tensor) -> Result<Tensor> {
        if let Some(net) = &self.preview {
            return colour(&net.decode(latents)?);
        }
        if self.autoencoder.is_none() {
            return colour(latents);
        }
        let &[_, c, h, w] = latents.dims() else {
            return Err(Error::shape("latents", "[b, c, h, w]", latents.dims()));
        };
        // Small latents cost little: they are shown as they are.
        if h * w <= 1024 {
            return self.decode(latents, false);
        }
        // Three mixtures of the channels that stand at right angles, of unit variance as the latents.
        let mix: Vec<f32> = (0..3 * c)
            .map(|i| (std::f32::consts::TAU * (i / c + 1) as f32 * (i % c) as f32 / c as f32).cos())
            .collect();
        let mix = Tensor::from_vec(mix, (3, c), latents.device())?;
        let pixels = latents.permute((0, 2, 3, 1))?.reshape(((), c))?.matmul(&mix.t()?)?;
        let pixels = pixels.affine(0.5 / (c as f64).sqrt(), 0.0)?;
        Ok(pixels.reshape((latents.dim(0)?, h, w, 3))?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

/// Grey as three channels.
fn colour(image: &Tensor) -> Result<Tensor> {
    match image.dim(1)? {
        1 => Ok(image.repeat((1, 3, 1, 1))?),
        _ => Ok(image.clone()),
    }
}

fn text_encoder(dir: &Path, device: &Device) -> Result<ClipTextEncoder> {
    let path = dir.join("config.json");
    let keys = json::object(&path)?;
    let of_file = |message: String| Error::config(&path, message);
    let config: ClipTextConfig =
        serde_json::from_value(keys.into()).map_err(|e| of_file(e.to_string()))?;
    config.validate().map_err(|e| of_file(e.to_string()))?;
    let weights = weights(dir, MODEL)?.rename(with_prefix)?;
    weights.load(device, |vb| ClipTextEncoder::load(&config, vb))
}
