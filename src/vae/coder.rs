//! The encoder and the decoder that AutoencoderKL and VQModel share.
//!
//! ```text
//! encoder: conv_in, down_blocks (resnets, half the size except after the last), mid_block, norm, silu, conv_out
//! decoder: conv_in, mid_block, up_blocks (one resnet more, twice the size except after the last), norm, silu, conv_out
//! mid_block: resnet, x + attention(norm(x)) with one head over all pixels, resnet
//! ```
//!
//! Channels last. Every normalisation has eps 1e-6. Source: diffusers `models/autoencoders/vae.py`
//! and `models/unets/unet_2d_blocks.py`.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::config::{CoderConfig, DownBlock, UpBlock};
use crate::Result;
use crate::nn::conv2d::Conv2d;
use crate::nn::norm::GroupNorm;
use crate::nn::pixel_attention::PixelAttention;
use crate::nn::resnet2d::{Downsample2d, ResnetBlock2d, ResnetBlock2dConfig, SAME, Upsample2d};

const EPS: f64 = 1e-6;

/// Residual blocks, each with or without an attention behind it.
#[derive(Clone, Debug)]
struct Blocks(Vec<(ResnetBlock2d, Option<PixelAttention>)>);

impl Blocks {
    /// `resnets.i` and, with attention, `attentions.i`; the first takes `input` channels.
    fn load(
        [input, out]: [usize; 2],
        count: usize,
        groups: usize,
        with_attention: bool,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let block = |i: usize| {
            let from = if i == 0 { input } else { out };
            let config = ResnetBlock2dConfig::plain(from, out, groups, EPS);
            let resnet = ResnetBlock2d::load(&config, vb.pp("resnets").pp(i))?;
            let attention = || {
                PixelAttention::load(
                    [out, 1, out],
                    Some(groups),
                    [EPS, 1.0],
                    vb.pp("attentions").pp(i),
                )
            };
            Ok((resnet, with_attention.then(attention).transpose()?))
        };
        Ok(Self((0..count).map(block).collect::<Result<_>>()?))
    }

    fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (resnet, attention) in &self.0 {
            x = resnet.forward_last(&x, None)?;
            if let Some(attention) = attention {
                x = attention.forward_last(&x)?;
            }
        }
        Ok(x)
    }
}

#[derive(Clone, Debug)]
struct MidBlock {
    first: ResnetBlock2d,
    attention: Option<PixelAttention>,
    second: ResnetBlock2d,
}

impl MidBlock {
    fn load(config: &CoderConfig<'_>, vb: VarBuilder<'_>) -> Result<Self> {
        let (channels, groups) = (config.deepest(), config.groups);
        let resnet = |i: usize| {
            let config = ResnetBlock2dConfig::plain(channels, channels, groups, EPS);
            ResnetBlock2d::load(&config, vb.pp("resnets").pp(i))
        };
        let sizes = [channels, 1, channels];
        let attention =
            || PixelAttention::load(sizes, Some(groups), [EPS, 1.0], vb.pp("attentions.0"));
        Ok(Self {
            first: resnet(0)?,
            attention: config.mid_attention.then(attention).transpose()?,
            second: resnet(1)?,
        })
    }

    fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.first.forward_last(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward_last(&x)?;
        }
        self.second.forward_last(&x, None)
    }
}

/// Pictures to the channels that `out` counts.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    down: Vec<(Blocks, Option<Downsample2d>)>,
    mid: MidBlock,
    norm: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn load(config: &CoderConfig<'_>, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let CoderConfig { channels, groups, .. } = *config;
        let first = config.shallowest();
        let mut down = Vec::new();
        let mut input = first;
        for (i, (&out, kind)) in channels.iter().zip(config.down).enumerate() {
            let vb = vb.pp("down_blocks").pp(i);
            let attends = *kind == DownBlock::AttnDownEncoderBlock2D;
            let blocks = Blocks::load([input, out], config.layers, groups, attends, &vb)?;
            let half = || Downsample2d::load(out, out, 0, vb.pp("downsamplers.0"));
            down.push((blocks, (i + 1 < channels.len()).then(half).transpose()?));
            input = out;
        }
        Ok(Self {
            conv_in: Conv2d::load([config.pictures[0], first, 3], SAME, true, vb.pp("conv_in"))?,
            down,
            mid: MidBlock::load(config, vb.pp("mid_block"))?,
            norm: GroupNorm::load(input, groups, EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load([input, out, 3], SAME, true, vb.pp("conv_out"))?,
        })
    }

    pub(super) fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward_last(x)?;
        for (blocks, half) in &self.down {
            x = blocks.forward_last(&x)?;
            if let Some(half) = half {
                x = half.forward_last(&x)?;
            }
        }
        let x = self.mid.forward_last(&x)?;
        self.conv_out.forward_last(&self.norm.silu_last(&x)?)
    }
}

/// Latents to pictures.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid: MidBlock,
    up: Vec<(Blocks, Option<Upsample2d>)>,
    norm: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn load(config: &CoderConfig<'_>, vb: VarBuilder<'_>) -> Result<Self> {
        let CoderConfig { channels, groups, latent, .. } = *config;
        let deepest = config.deepest();
        let mut up = Vec::new();
        let mut input = deepest;
        for (i, (&out, kind)) in channels.iter().rev().zip(config.up).enumerate() {
            let vb = vb.pp("up_blocks").pp(i);
            let attends = *kind == UpBlock::AttnUpDecoderBlock2D;
            let blocks = Blocks::load([input, out], config.layers + 1, groups, attends, &vb)?;
            let twice = || Upsample2d::load(out, out, vb.pp("upsamplers.0"));
            up.push((blocks, (i + 1 < channels.len()).then(twice).transpose()?));
            input = out;
        }
        Ok(Self {
            conv_in: Conv2d::load([latent, deepest, 3], SAME, true, vb.pp("conv_in"))?,
            mid: MidBlock::load(config, vb.pp("mid_block"))?,
            up,
            norm: GroupNorm::load(input, groups, EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load([input, config.pictures[1], 3], SAME, true, vb.pp("conv_out"))?,
        })
    }

    /// Everything before the last convolution.
    pub(super) fn before_last(&self, z: &Tensor) -> Result<Tensor> {
        let mut x = self.mid.forward_last(&self.conv_in.forward_last(z)?)?;
        for (blocks, twice) in &self.up {
            x = blocks.forward_last(&x)?;
            if let Some(twice) = twice {
                x = twice.forward_last(&x, None)?;
            }
        }
        Ok(self.norm.silu_last(&x)?)
    }

    /// The last convolution alone.
    pub(super) fn last(&self, x: &Tensor) -> Result<Tensor> {
        self.conv_out.forward_last(x)
    }
}

/// `[b, c, h, w]` to `[b, h, w, c]`.
pub(super) fn to_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
}

/// `[b, h, w, c]` to `[b, c, h, w]`.
pub(super) fn to_first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}
