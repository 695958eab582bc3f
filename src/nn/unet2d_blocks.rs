//! The levels of a UNet over pictures: residual blocks, each with attention behind it or not.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::condition::Context;
use super::pixel_attention::PixelAttention;
use super::resnet2d::{Downsample2d, ResnetBlock2d, ResnetBlock2dConfig, Upsample2d};
use super::transformer2d::{Transformer2d, Transformer2dConfig};
use super::unet2d_config::invalid;
use super::unet2d_plan::{AttentionPlan, LevelPlan, MidPlan, Plan};
use crate::Result;

/// What every block is told.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// The embedded time `[b, told]`.
    pub(super) time: &'a Tensor,
    pub(super) context: Option<&'a Context>,
}

/// A level on the way down.
#[derive(Clone, Debug)]
pub(super) struct Down {
    layers: Vec<Layer>,
    downsample: Option<Downsample2d>,
}

/// A level on the way up.
#[derive(Clone, Debug)]
pub(super) struct Up {
    layers: Vec<Layer>,
    upsample: Option<Upsample2d>,
}

/// The middle.
#[derive(Clone, Debug)]
pub(super) struct Mid {
    first: ResnetBlock2d,
    /// Attention comes first here.
    rest: Vec<(Option<LayerAttention>, ResnetBlock2d)>,
}

/// A residual block, and attention.
#[derive(Clone, Debug)]
struct Layer {
    resnet: ResnetBlock2d,
    attention: Option<LayerAttention>,
}

#[derive(Clone, Debug)]
enum LayerAttention {
    Pixels(PixelAttention),
    Tokens(Transformer2d),
}

/// Loads `resnets.<i>` of a block.
fn resnet(
    plan: &Plan,
    [input, out]: [usize; 2],
    scale: f64,
    vb: VarBuilder<'_>,
) -> Result<ResnetBlock2d> {
    let config = ResnetBlock2dConfig {
        temb: Some(plan.time.told()),
        output_scale_factor: scale,
        scale_shift: plan.norm.scale_shift,
        ..ResnetBlock2dConfig::plain(input, out, plan.norm.groups, plan.norm.eps)
    };
    ResnetBlock2d::load(&config, vb)
}

impl LayerAttention {
    fn load(
        plan: &Plan,
        attention: Option<AttentionPlan>,
        channels: usize,
        scale: f64,
        vb: VarBuilder<'_>,
    ) -> Result<Option<Self>> {
        Ok(match attention {
            None => None,
            Some(AttentionPlan::Pixels { heads, dim_head, groups }) => {
                let sizes = [channels, heads, dim_head];
                let eps = [plan.norm.eps, scale];
                Some(Self::Pixels(PixelAttention::load(sizes, groups, eps, vb)?))
            }
            Some(AttentionPlan::Tokens { heads, dim_head, context, depth, linear, only }) => {
                let config = Transformer2dConfig {
                    channels,
                    heads,
                    dim_head,
                    context,
                    depth,
                    groups: plan.norm.groups,
                    linear_projection: linear,
                    only_cross_attention: only,
                };
                Some(Self::Tokens(Transformer2d::load(&config, vb)?))
            }
        })
    }

    fn forward_last(&self, x: &Tensor, context: Option<&Context>) -> Result<Tensor> {
        match (self, context) {
            (Self::Pixels(attention), _) => attention.forward_last(x),
            (Self::Tokens(transformer), Some(context)) => transformer.forward_last(x, context),
            (Self::Tokens(_), None) => Err(invalid("expected tokens, got none".to_owned())),
        }
    }
}

impl Layer {
    fn forward_last(&self, x: &Tensor, told: Told<'_>) -> Result<Tensor> {
        let h = self.resnet.forward_last(x, Some(told.time))?;
        match &self.attention {
            None => Ok(h),
            Some(attention) => attention.forward_last(&h, told.context),
        }
    }
}

impl Down {
    /// Loads level `i` on the way down, and puts the channels that it keeps for the way up behind
    /// `skips`, whose last is its input.
    pub(super) fn load(
        plan: &Plan,
        i: usize,
        skips: &mut Vec<usize>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let LevelPlan { channels, attention } = &plan.down[i];
        let mut layers = Vec::with_capacity(attention.len());
        for (j, &attention) in attention.iter().enumerate() {
            let input = skips.last().copied().unwrap_or(*channels);
            let of_attention = vb.pp("attentions").pp(j);
            layers.push(Layer {
                resnet: resnet(plan, [input, *channels], 1.0, vb.pp("resnets").pp(j))?,
                attention: LayerAttention::load(plan, attention, *channels, 1.0, of_attention)?,
            });
            skips.push(*channels);
        }
        let downsample = match i + 1 < plan.down.len() {
            false => None,
            true => {
                skips.push(*channels);
                let vb = vb.pp("downsamplers.0");
                Some(Downsample2d::load(*channels, *channels, plan.downsample_padding, vb)?)
            }
        };
        Ok(Self { layers, downsample })
    }

    /// Takes the last of `skips` further, and puts every result behind it.
    pub(super) fn forward_last(
        &self,
        skips: &mut Vec<Tensor>,
        mut h: Tensor,
        told: Told<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            h = layer.forward_last(&h, told)?;
            skips.push(h.clone());
        }
        if let Some(downsample) = &self.downsample {
            h = downsample.forward_last(&h)?;
            skips.push(h.clone());
        }
        Ok(h)
    }
}

impl Mid {
    pub(super) fn load(
        plan: &Plan,
        mid: &MidPlan,
        channels: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let block = |j: usize| resnet(plan, [channels; 2], mid.scale, vb.pp("resnets").pp(j));
        let mut rest = Vec::with_capacity(mid.attention.len());
        for (j, &attention) in mid.attention.iter().enumerate() {
            let vb = vb.pp("attentions").pp(j);
            let attention = LayerAttention::load(plan, attention, channels, mid.scale, vb)?;
            rest.push((attention, block(j + 1)?));
        }
        Ok(Self { first: block(0)?, rest })
    }

    pub(super) fn forward_last(&self, x: &Tensor, told: Told<'_>) -> Result<Tensor> {
        let mut h = self.first.forward_last(x, Some(told.time))?;
        for (attention, resnet) in &self.rest {
            if let Some(attention) = attention {
                h = attention.forward_last(&h, told.context)?;
            }
            h = resnet.forward_last(&h, Some(told.time))?;
        }
        Ok(h)
    }
}

impl Up {
    /// Loads level `i` on the way up for an input of `input` channels, and takes the channels it is
    /// joined with from `skips`.
    pub(super) fn load(
        plan: &Plan,
        i: usize,
        mut input: usize,
        skips: &mut Vec<usize>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let LevelPlan { channels, attention } = &plan.up[i];
        let mut layers = Vec::with_capacity(attention.len());
        for (j, &attention) in attention.iter().enumerate() {
            let skip = skips.pop().ok_or_else(|| invalid("more levels up than down".to_owned()))?;
            let of_attention = vb.pp("attentions").pp(j);
            layers.push(Layer {
                resnet: resnet(plan, [input + skip, *channels], 1.0, vb.pp("resnets").pp(j))?,
                attention: LayerAttention::load(plan, attention, *channels, 1.0, of_attention)?,
            });
            input = *channels;
        }
        let upsample = match i + 1 < plan.up.len() {
            false => None,
            true => Some(Upsample2d::load(*channels, *channels, vb.pp("upsamplers.0"))?),
        };
        Ok(Self { layers, upsample })
    }

    /// Joins `h` with the last of `skips`, block by block, and brings it to the size of the next.
    pub(super) fn forward_last(
        &self,
        skips: &mut Vec<Tensor>,
        mut h: Tensor,
        told: Told<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            let skip = skips.pop().ok_or_else(|| invalid("more levels up than down".to_owned()))?;
            h = layer.forward_last(&Tensor::cat(&[&h, &skip], 3)?, told)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(skip)) => {
                upsample.forward_last(&h, Some([skip.dim(1)?, skip.dim(2)?]))
            }
            _ => Ok(h),
        }
    }
}
