//! Attention among the pixels of a picture, on its own: `(x + attention(GroupNorm(x)))/scale`.
//!
//! The projections have biases. Old files call them `query`, `key`, `value` and `proj_attn`, and some
//! have them as convolutions of one pixel. Source: diffusers `models/attention_processor.py`,
//! `Attention` with `_from_deprecated_attn_block`.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use super::attention::Attention;
use super::linear::Linear;
use super::norm::GroupNorm;
use crate::Result;

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct PixelAttention {
    norm: Option<GroupNorm>,
    attention: Attention,
    scale: f64,
}

impl PixelAttention {
    /// Loads `group_norm` where there are `groups`, and the four projections.
    ///
    /// # Errors
    /// When a size is impossible, or a tensor is missing or has another shape.
    pub(crate) fn load(
        [channels, heads, dim_head]: [usize; 3],
        groups: Option<usize>,
        [eps, scale]: [f64; 2],
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let norm = |groups| GroupNorm::load(channels, groups, eps, vb.pp("group_norm"));
        let names = match vb.contains_tensor("query.weight") {
            true => ["query", "key", "value", "proj_attn"],
            false => ["to_q", "to_k", "to_v", "to_out.0"],
        };
        let inner = heads * dim_head;
        let inward = |name: &str| projection(channels, inner, vb.pp(name));
        let projections = [
            inward(names[0])?,
            inward(names[1])?,
            inward(names[2])?,
            projection(inner, channels, vb.pp(names[3]))?,
        ];
        Ok(Self {
            norm: groups.map(norm).transpose()?,
            attention: Attention::new(projections, heads, dim_head)?,
            scale,
        })
    }

    /// `x` `[b, h, w, channels]` to the same shape.
    ///
    /// # Errors
    /// When a shape is another.
    pub(crate) fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let h = match &self.norm {
            Some(norm) => norm.forward_last(x)?,
            None => x.clone(),
        };
        let h = h.reshape((batch, height * width, channels))?;
        let h = self.attention.forward(&h, None, None)?.reshape(x.shape())?;
        Ok(((h + x)? / self.scale)?)
    }
}

/// A linear layer whose weight may have the shape of a convolution of one pixel.
fn projection(input: usize, out: usize, vb: VarBuilder<'_>) -> TensorResult<Linear> {
    Linear::load(input, out, vb.clone()).or_else(|error| {
        let weight = vb.get((out, input, 1, 1), "weight").map_err(|_| error)?;
        Linear::new(weight.reshape((out, input))?, Some(vb.get(out, "bias")?))
    })
}
