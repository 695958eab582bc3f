//! The autoencoder with a codebook.
//!
//! ```text
//! encode: encoder ─► quant_conv ─► h, not quantised      decode: quantise ─► post_quant_conv ─► decoder
//! ```
//!
//! A latent diffusion or flow works on `h·scaling_factor`: what decides for a vector of the codebook
//! comes last. Source: Esser et al. 2021; Rombach et al. 2022, section 3.1; diffusers
//! `models/autoencoders/vq_model.py`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::coder::{Decoder, Encoder, to_first, to_last};
use super::config::{
    CoderConfig, DownBlock, Side, UpBlock, check_act, check_picture, check_scale, check_sizes,
    wrong,
};
use super::quantize::{Codebook, Quantized};
use super::tiling::{Tiling, in_parts};
use crate::Result;
use crate::nn::conv2d::Conv2d;
use crate::nn::resnet2d::POINT;

/// `config.json` of a VQModel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VqModelConfig {
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
    /// Channels between encoder and codebook.
    pub latent_channels: usize,
    /// Size of the pictures in training.
    pub sample_size: Side,
    /// Number of vectors in the codebook.
    pub num_vq_embeddings: usize,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Length of a vector of the codebook; `latent_channels` if absent.
    pub vq_embed_dim: Option<usize>,
    /// What latents are multiplied by.
    pub scaling_factor: f64,
    /// `group` is supported.
    pub norm_type: String,
    /// Whether the middle has an attention.
    pub mid_block_add_attention: bool,
    /// Whether diffusers decodes from indices; here `decode` takes vectors in any case.
    pub lookup_from_codebook: bool,
    /// Whether diffusers widens to f32; here everything is f32.
    pub force_upcast: bool,
}

impl Default for VqModelConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DownBlock::DownEncoderBlock2D],
            up_block_types: vec![UpBlock::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 3,
            sample_size: Side::Both(32),
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            scaling_factor: 0.18215,
            norm_type: "group".to_owned(),
            mid_block_add_attention: true,
            lookup_from_codebook: false,
            force_upcast: false,
        }
    }
}

impl VqModelConfig {
    /// Length of a vector of the codebook.
    pub fn embed_dim(&self) -> usize {
        self.vq_embed_dim.unwrap_or(self.latent_channels)
    }
}

impl VqModelConfig {
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
        if self.norm_type != "group" {
            let expected = "\"group\" (others are not supported)";
            return Err(wrong("norm_type", expected, &self.norm_type));
        }
        check_sizes("num_vq_embeddings", &[self.num_vq_embeddings])?;
        check_sizes("vq_embed_dim", &[self.embed_dim()])?;
        check_act(&self.act_fn, &["silu", "swish"])?;
        check_scale(self.scaling_factor, 0.0)
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct VqModel {
    /// What it was made from.
    pub config: VqModelConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    codebook: Codebook,
}

impl VqModel {
    /// Loads `encoder`, `quant_conv`, `quantize.embedding`, `post_quant_conv` and `decoder`.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a tensor is missing or has another shape.
    pub fn load(config: &VqModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let (coder, latent, dim) = (config.coder(), config.latent_channels, config.embed_dim());
        let point = |sizes: [usize; 2], name: &str| {
            Conv2d::load([sizes[0], sizes[1], 1], POINT, true, vb.pp(name))
        };
        Ok(Self {
            config: config.clone(),
            encoder: Encoder::load(&coder, latent, vb.pp("encoder"))?,
            decoder: Decoder::load(&coder, vb.pp("decoder"))?,
            quant_conv: point([latent, dim], "quant_conv")?,
            post_quant_conv: point([dim, latent], "post_quant_conv")?,
            codebook: Codebook::load(config.num_vq_embeddings, dim, vb.pp("quantize.embedding"))?,
        })
    }

    /// How many times smaller a side of the latents is.
    pub fn downsampling(&self) -> usize {
        self.config.coder().downsampling()
    }

    /// `x` `[b, in_channels, h, w]` to `[b, vq_embed_dim, h/f, w/f]`, not quantised. A picture whose
    /// largest activation would exceed 2²⁸ numbers goes in tiles.
    ///
    /// # Errors
    /// When there are other channels, or a side is less than f pixels.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        let f = self.downsampling();
        let [h, w] = check_picture("pictures to encode", x, self.config.in_channels, f)?;
        let largest = self.config.coder().widest_encoder(h * w);
        in_parts(x, largest, &self.tiling().encoding(f)?, &|x| {
            to_first(&self.quant_conv.forward_last(&self.encoder.forward_last(&to_last(x)?)?)?)
        })
    }

    /// The nearest vectors of the codebook to `h` `[b, vq_embed_dim, h, w]`.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn quantize(&self, h: &Tensor) -> Result<Quantized> {
        check_picture("latents", h, self.config.embed_dim(), 1)?;
        self.codebook.quantize(h)
    }

    /// `h` `[b, vq_embed_dim, h, w]`, which is quantised first, to `[b, out_channels, h·f, w·f]`.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode(&self, h: &Tensor) -> Result<Tensor> {
        self.decode_quantized(&self.quantize(h)?.z_q)
    }

    /// [`Self::decode`] of vectors that are quantised already.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode_quantized(&self, z_q: &Tensor) -> Result<Tensor> {
        let f = self.downsampling();
        let [h, w] = check_picture("latents", z_q, self.config.embed_dim(), 1)?;
        let largest = self.config.coder().widest_decoder(h * f * w * f);
        in_parts(z_q, largest, &self.tiling().decoding(f)?, &|z| {
            self.decode_last(&self.decode_hidden(z)?)
        })
    }

    /// Everything of [`Self::decode_quantized`] before the last convolution: `[b, h·f, w·f, c]`.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode_hidden(&self, z_q: &Tensor) -> Result<Tensor> {
        check_picture("latents", z_q, self.config.embed_dim(), 1)?;
        self.decoder.before_last(&self.post_quant_conv.forward_last(&to_last(z_q)?)?)
    }

    /// The last convolution, on what [`Self::decode_hidden`] gave.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn decode_last(&self, hidden: &Tensor) -> Result<Tensor> {
        to_first(&self.decoder.last(hidden)?)
    }

    fn tiling(&self) -> Tiling {
        Tiling::automatic(self.config.sample_size.first(), self.downsampling())
    }
}
