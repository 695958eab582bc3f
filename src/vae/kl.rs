//! The autoencoder with a Gaussian posterior, as Stable Diffusion has it.
//!
//! ```text
//! encode: encoder ─► quant_conv ─► mean, logvar          decode: post_quant_conv ─► decoder
//! latents = (z − shift_factor)·scaling_factor
//! ```
//!
//! Source: Rombach et al. 2022, section 3.1; diffusers `models/autoencoders/autoencoder_kl.py`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::coder::{Decoder, Encoder, to_first, to_last};
use super::config::{
    CoderConfig, DownBlock, Side, UpBlock, check_act, check_picture, check_scale, wrong,
};
use super::posterior::Posterior;
use super::tiling::{Tiling, in_parts};
use crate::Result;
use crate::nn::conv2d::Conv2d;
use crate::nn::resnet2d::POINT;

/// `config.json` of an AutoencoderKL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the pictures that are decoded.
    pub out_channels: usize,
    /// Levels of the encoder.
    pub down_block_types: Vec<DownBlock>,
    /// Levels of the decoder.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level; the decoder has one more.
    pub layers_per_block: usize,
    /// The activation; `silu` (or `swish`) is supported.
    pub act_fn: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Size of the pictures in training, and of a tile.
    pub sample_size: Side,
    /// What latents are multiplied by.
    pub scaling_factor: f64,
    /// What is subtracted from them before; 0 if absent.
    pub shift_factor: Option<f64>,
    /// Not supported.
    pub latents_mean: Option<Vec<f64>>,
    /// Not supported.
    pub latents_std: Option<Vec<f64>>,
    /// Whether diffusers widens to f32; here everything is f32.
    pub force_upcast: bool,
    /// Whether there is a 1×1 convolution behind the encoder.
    pub use_quant_conv: bool,
    /// Whether there is one before the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle has an attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DownBlock::DownEncoderBlock2D],
            up_block_types: vec![UpBlock::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: Side::Both(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    pub(super) fn coder(&self) -> CoderConfig<'_> {
        CoderConfig {
            pictures: [self.in_channels, self.out_channels],
            down: &self.down_block_types,
            up: &self.up_block_types,
            channels: &self.block_out_channels,
            layers: self.layers_per_block,
            groups: self.norm_num_groups,
            latent: self.latent_channels,
            mid_attention: self.mid_block_add_attention,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        self.coder().check()?;
        for (key, value) in
            [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)]
        {
            if value.is_some() {
                return Err(wrong(key, "null (others are not supported)", value));
            }
        }
        check_act(&self.act_fn, &["silu", "swish"])?;
        check_scale(self.scaling_factor, self.shift_factor.unwrap_or(0.0))
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct AutoencoderKl {
    /// What it was made from.
    pub config: AutoencoderKlConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

impl AutoencoderKl {
    /// Loads `encoder`, `decoder`, `quant_conv` and `post_quant_conv`.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a tensor is missing or has another shape.
    pub fn load(config: &AutoencoderKlConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let (coder, latent) = (config.coder(), config.latent_channels);
        let point = |channels: usize, name: &str| {
            Conv2d::load([channels, channels, 1], POINT, true, vb.pp(name))
        };
        let (quant, post) = (config.use_quant_conv, config.use_post_quant_conv);
        Ok(Self {
            config: config.clone(),
            encoder: Encoder::load(&coder, 2 * latent, vb.pp("encoder"))?,
            decoder: Decoder::load(&coder, vb.pp("decoder"))?,
            quant_conv: quant.then(|| point(2 * latent, "quant_conv")).transpose()?,
            post_quant_conv: post.then(|| point(latent, "post_quant_conv")).transpose()?,
        })
    }

    /// How many times smaller a side of the latents is.
    pub fn downsampling(&self) -> usize {
        self.config.coder().downsampling()
    }

    /// The tiles of diffusers' `enable_tiling`: as large as `sample_size`.
    pub fn tiling(&self) -> Tiling {
        Tiling::of(self.config.sample_size.first(), self.downsampling())
    }

    /// `x` `[b, in_channels, h, w]` to the posterior of `[b, latent_channels, h/f, w/f]`, rounded
    /// down. A picture whose largest activation would exceed 2²⁸ numbers goes in tiles.
    ///
    /// # Errors
    /// When there are other channels, or a side is less than f pixels.
    pub fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let (f, coder) = (self.downsampling(), self.config.coder());
        let [h, w] = check_picture("pictures to encode", x, self.config.in_channels, f)?;
        let tiling = Tiling::automatic(self.config.sample_size.first(), f);
        let largest = coder.widest_encoder(h * w);
        Posterior::new(&in_parts(x, largest, &tiling.encoding(f)?, &|x| self.moments(x))?)
    }

    /// As [`Self::encode`], in tiles.
    ///
    /// # Errors
    /// As there, and when tiles and their latents do not fit each other.
    pub fn encode_tiled(&self, x: &Tensor, tiling: &Tiling) -> Result<Posterior> {
        let f = self.downsampling();
        check_picture("pictures to encode", x, self.config.in_channels, f)?;
        Posterior::new(&tiling.encoding(f)?.run(x, &|x| self.moments(x))?)
    }

    /// `z` `[b, latent_channels, h, w]`, not scaled, to `[b, out_channels, h·f, w·f]`. A picture whose
    /// largest activation would exceed 2²⁸ numbers comes in tiles.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let (f, coder) = (self.downsampling(), self.config.coder());
        let [h, w] = check_picture("latents", z, self.config.latent_channels, 1)?;
        let tiling = Tiling::automatic(self.config.sample_size.first(), f);
        let largest = coder.widest_decoder(h * f * w * f);
        in_parts(z, largest, &tiling.decoding(f)?, &|z| self.decode_whole(z))
    }

    /// As [`Self::decode`], in tiles.
    ///
    /// # Errors
    /// As there, and when tiles and their latents do not fit each other.
    pub fn decode_tiled(&self, z: &Tensor, tiling: &Tiling) -> Result<Tensor> {
        check_picture("latents", z, self.config.latent_channels, 1)?;
        tiling.decoding(self.downsampling())?.run(z, &|z| self.decode_whole(z))
    }

    /// Everything of [`Self::decode`] before the last convolution: `[b, h·f, w·f, c]`. A trainer that
    /// weighs two losses by their gradients at the last layer needs the two halves apart.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode_hidden(&self, z: &Tensor) -> Result<Tensor> {
        check_picture("latents", z, self.config.latent_channels, 1)?;
        let z = to_last(z)?;
        self.decoder.before_last(&match &self.post_quant_conv {
            Some(conv) => conv.forward_last(&z)?,
            None => z,
        })
    }

    /// The last convolution of [`Self::decode`], on what [`Self::decode_hidden`] gave.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn decode_last(&self, hidden: &Tensor) -> Result<Tensor> {
        to_first(&self.decoder.last(hidden)?)
    }

    /// `(z − shift)·scaling`: what a latent diffusion or flow works on.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn scale(&self, z: &Tensor) -> Result<Tensor> {
        let (scaling, shift) = self.scaling();
        Ok(((z - shift)? * scaling)?)
    }

    /// `latents/scaling + shift`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        let (scaling, shift) = self.scaling();
        Ok(((latents / scaling)? + shift)?)
    }

    fn scaling(&self) -> (f64, f64) {
        (self.config.scaling_factor, self.config.shift_factor.unwrap_or(0.0))
    }

    fn moments(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.encoder.forward_last(&to_last(x)?)?;
        to_first(&match &self.quant_conv {
            Some(conv) => conv.forward_last(&h)?,
            None => h,
        })
    }

    fn decode_whole(&self, z: &Tensor) -> Result<Tensor> {
        self.decode_last(&self.decode_hidden(z)?)
    }
}
