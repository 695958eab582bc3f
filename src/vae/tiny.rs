//! The tiny autoencoder: latents of another autoencoder to pictures in a fraction of its time.
//!
//! ```text
//! block: relu(conv(act(conv(act(conv(x))))) + x)
//! encoder: conv, blocks, then per level conv of stride 2 and blocks, conv      of (x + 1)/2
//! decoder: conv, act, then per level blocks, nearest, conv      of 3·tanh(z/3), result·2 − 1
//! ```
//!
//! Source: TAESD (madebyollin 2023); diffusers `models/autoencoders/autoencoder_tiny.py`.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::coder::{to_first, to_last};
use super::config::{MAX_SIZE, check_act, check_picture, check_scale, check_sizes, wrong};
use super::tiling::{Tiling, in_parts};
use crate::Result;
use crate::nn::activation::{gelu, mish};
use crate::nn::conv2d::{Conv2d, Geometry};
use crate::nn::resnet2d::SAME;
use crate::nn::upsample::nearest_last;

/// `config.json` of an AutoencoderTiny.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderTinyConfig {
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the pictures that are decoded.
    pub out_channels: usize,
    /// Channels of each level of the encoder; all alike.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of each level of the decoder; all alike.
    pub decoder_block_out_channels: Vec<usize>,
    /// The activation: `relu`, `silu` (or `swish`), `gelu` or `mish`.
    pub act_fn: String,
    /// `nearest` is supported.
    pub upsample_fn: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// How many times larger each level of the decoder is than the one before.
    pub upsampling_scaling_factor: usize,
    /// Residual blocks of each level of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of each level of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// Of the latents when they are stored as bytes; not looked at.
    pub latent_magnitude: f64,
    /// Of the latents when they are stored as bytes; not looked at.
    pub latent_shift: f64,
    /// Whether diffusers widens to f32; here everything is f32.
    pub force_upcast: bool,
    /// What latents are multiplied by.
    pub scaling_factor: f64,
    /// What is subtracted from them before.
    pub shift_factor: f64,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".to_owned(),
            upsample_fn: "nearest".to_owned(),
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            force_upcast: false,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        }
    }
}

impl AutoencoderTinyConfig {
    pub(super) fn check(&self) -> Result<()> {
        check_sizes("in_channels", &[self.in_channels])?;
        check_sizes("out_channels", &[self.out_channels])?;
        check_sizes("latent_channels", &[self.latent_channels])?;
        check_sizes("upsampling_scaling_factor", &[self.upsampling_scaling_factor])?;
        for (key, channels, blocks) in [
            ("encoder", &self.encoder_block_out_channels, &self.num_encoder_blocks),
            ("decoder", &self.decoder_block_out_channels, &self.num_decoder_blocks),
        ] {
            check_sizes(&format!("{key}_block_out_channels"), channels)?;
            let alike = channels.iter().all(|c| Some(c) == channels.first());
            if !alike || channels.len() != blocks.len() || channels.len() > 8 {
                let expected = format!(
                    "up to eight levels that are alike, and as many of num_{key}_blocks ({blocks:?})"
                );
                return Err(wrong(&format!("{key}_block_out_channels"), &expected, channels));
            }
            if let Some(count) = blocks.iter().find(|&&count| count > MAX_SIZE) {
                let expected = format!("at most {MAX_SIZE} blocks");
                return Err(wrong(&format!("num_{key}_blocks"), &expected, count));
            }
        }
        if self.upsample_fn != "nearest" {
            let expected = "\"nearest\" (others are not supported)";
            return Err(wrong("upsample_fn", expected, &self.upsample_fn));
        }
        check_act(&self.act_fn, &["relu", "silu", "swish", "gelu", "mish"])?;
        check_scale(self.scaling_factor, self.shift_factor)
    }
}

/// `act_fn`.
#[derive(Clone, Copy, Debug)]
enum Act {
    Relu,
    Silu,
    Gelu,
    Mish,
}

impl Act {
    /// Of a name that the configuration's check let pass.
    fn named(name: &str) -> Self {
        match name {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "mish" => Self::Mish,
            _ => Self::Relu,
        }
    }

    fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Relu => x.relu()?,
            Self::Silu => x.silu()?,
            Self::Gelu => gelu(x)?,
            Self::Mish => mish(x)?,
        })
    }
}

/// What stands in a sequence.
#[derive(Clone, Debug)]
enum Layer {
    Conv(Conv2d),
    Act(Act),
    Block([Conv2d; 3], Act),
    Nearest(usize),
}

impl Layer {
    fn block(channels: usize, act: Act, vb: VarBuilder<'_>) -> Result<Self> {
        let conv =
            |i: usize| Conv2d::load([channels, channels, 3], SAME, true, vb.pp("conv").pp(i));
        Ok(Self::Block([conv(0)?, conv(2)?, conv(4)?], act))
    }

    /// Without a bias.
    fn bare(channels: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1.0 / ((channels * 9) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let geometry = Geometry { stride, ..SAME };
        Ok(Self::Conv(Conv2d::load_no_bias([channels, channels, 3], geometry, init, vb)?))
    }

    fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Conv(conv) => conv.forward_last(x),
            Self::Act(act) => act.forward(x),
            Self::Block([first, second, third], act) => {
                let h = act.forward(&first.forward_last(x)?)?;
                let h = act.forward(&second.forward_last(&h)?)?;
                Ok((third.forward_last(&h)? + x)?.relu()?)
            }
            Self::Nearest(factor) => {
                let (_, h, w, _) = x.dims4()?;
                nearest_last(x, [h * factor, w * factor])
            }
        }
    }
}

fn sequence(layers: &[Layer], x: Tensor) -> Result<Tensor> {
    layers.iter().try_fold(x, |x, layer| layer.forward_last(&x))
}

/// The network.
#[derive(Clone, Debug)]
pub struct AutoencoderTiny {
    /// What it was made from.
    pub config: AutoencoderTinyConfig,
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
}

impl AutoencoderTiny {
    /// Loads `encoder.layers` and `decoder.layers`.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a tensor is missing or has another shape.
    pub fn load(config: &AutoencoderTinyConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config: config.clone(),
            encoder: encoder(config, &vb.pp("encoder.layers"))?,
            decoder: decoder(config, &vb.pp("decoder.layers"))?,
        })
    }

    /// How many times smaller a side of the latents is.
    pub fn downsampling(&self) -> usize {
        1 << (self.config.num_encoder_blocks.len() - 1)
    }

    /// How many times larger a side of the decoded picture is.
    pub(super) fn upsampling(&self) -> usize {
        let levels = self.config.num_decoder_blocks.len() as u32 - 1;
        self.config.upsampling_scaling_factor.saturating_pow(levels)
    }

    /// `x` `[b, in_channels, h, w]` to `[b, latent_channels, h/f, w/f]`, rounded up. A picture whose
    /// largest activation would exceed 2²⁸ numbers goes in tiles.
    ///
    /// # Errors
    /// When there are other channels, or a side is less than f pixels.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        let f = self.downsampling();
        let [h, w] = check_picture("pictures to encode", x, self.config.in_channels, f)?;
        let widest = self.config.encoder_block_out_channels.first().copied().unwrap_or_default();
        let tiles = Tiling::automatic(512, f).encoding(f)?;
        in_parts(x, h * w * widest, &tiles, &|x| {
            to_first(&sequence(&self.encoder, to_last(x)?.affine(0.5, 0.5)?)?)
        })
    }

    /// `z` `[b, latent_channels, h, w]` to `[b, out_channels, h·f, w·f]`. A picture whose largest
    /// activation would exceed 2²⁸ numbers comes in tiles.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let [h, w] = check_picture("latents", z, self.config.latent_channels, 1)?;
        let f = self.upsampling();
        let widest = self.config.decoder_block_out_channels.first().copied().unwrap_or_default();
        let largest = [f, f, h, w].into_iter().fold(widest, usize::saturating_mul);
        let tiles = Tiling::automatic(512, f).decoding(f)?;
        in_parts(z, largest, &tiles, &|z| {
            let z = to_last(z)?.affine(1.0 / 3.0, 0.0)?.tanh()?.affine(3.0, 0.0)?;
            to_first(&sequence(&self.decoder, z)?.affine(2.0, -1.0)?)
        })
    }
}

fn encoder(config: &AutoencoderTinyConfig, vb: &VarBuilder<'_>) -> Result<Vec<Layer>> {
    let act = Act::named(&config.act_fn);
    let channels = config.encoder_block_out_channels.first().copied().unwrap_or_default();
    let mut layers = Vec::new();
    for (level, &blocks) in config.num_encoder_blocks.iter().enumerate() {
        let vb_next = vb.pp(layers.len());
        layers.push(match level {
            0 => Layer::Conv(Conv2d::load([config.in_channels, channels, 3], SAME, true, vb_next)?),
            _ => Layer::bare(channels, 2, vb_next)?,
        });
        for _ in 0..blocks {
            layers.push(Layer::block(channels, act, vb.pp(layers.len()))?);
        }
    }
    let sizes = [channels, config.latent_channels, 3];
    layers.push(Layer::Conv(Conv2d::load(sizes, SAME, true, vb.pp(layers.len()))?));
    Ok(layers)
}

fn decoder(config: &AutoencoderTinyConfig, vb: &VarBuilder<'_>) -> Result<Vec<Layer>> {
    let act = Act::named(&config.act_fn);
    let channels = config.decoder_block_out_channels.first().copied().unwrap_or_default();
    let sizes = [config.latent_channels, channels, 3];
    let mut layers = vec![Layer::Conv(Conv2d::load(sizes, SAME, true, vb.pp(0))?), Layer::Act(act)];
    let levels = config.num_decoder_blocks.len();
    for (level, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        for _ in 0..blocks {
            layers.push(Layer::block(channels, act, vb.pp(layers.len()))?);
        }
        if level + 1 < levels {
            layers.push(Layer::Nearest(config.upsampling_scaling_factor));
            layers.push(Layer::bare(channels, 1, vb.pp(layers.len()))?);
        }
    }
    let sizes = [channels, config.out_channels, 3];
    layers.push(Layer::Conv(Conv2d::load(sizes, SAME, true, vb.pp(layers.len()))?));
    Ok(layers)
}
