//! The transformer between the residual blocks of a UNet: pixels look at each other and at tokens.
//!
//! `x + proj_out(blocks(proj_in(GroupNorm(x))))` over the pixels as a sequence, where a block is
//! `x + attn1(LN(x))`, `x + attn2(LN(x), tokens)`, `x + FF(LN(x))` and FF is a gated GELU:
//! `W₂·(a·gelu(g))` with `[a, g] = W₁·x` and the GELU by erf. The channels lie last, so that pixels
//! are tokens without moving a number. Sources: Rombach et al. 2022, appendix E.2.1; Shazeer 2020
//! (GEGLU); diffusers `models/transformers/transformer_2d.py` and `BasicTransformerBlock`.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use super::activation::{gelu, gelu_tanh};
use super::attention::{Attention, AttentionConfig};
use super::condition::Context;
use super::conv2d::{Conv2d, Geometry};
use super::gated::gated_gelu;
use super::linear::Linear;
use super::norm::{GroupNorm, LayerNorm};
use crate::Result;

const GROUP_EPS: f64 = 1e-6;
const LAYER_EPS: f64 = 1e-5;

/// Size of a [`Transformer2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transformer2dConfig {
    pub(super) channels: usize,
    pub(super) heads: usize,
    /// Channels per head.
    pub(super) dim_head: usize,
    /// Channels of the tokens.
    pub(super) context: usize,
    /// Blocks on top of each other.
    pub(super) depth: usize,
    pub(super) groups: usize,
    /// The projections are linear layers, not convolutions of one pixel: only their shape differs.
    pub(super) linear_projection: bool,
    /// `attn1` looks at the tokens too.
    pub(super) only_cross_attention: bool,
}

/// The layer.
#[derive(Clone, Debug)]
pub(super) struct Transformer2d {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl Transformer2d {
    /// Loads `norm`, `proj_in`, `transformer_blocks.<i>` and `proj_out`.
    ///
    /// # Errors
    /// When a size is impossible, or a tensor is missing or has another shape.
    pub(super) fn load(config: &Transformer2dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (channels, inner) = (config.channels, config.heads * config.dim_head);
        let projection =
            if config.linear_projection { Projection::linear } else { Projection::conv };
        let block = |i: usize| TransformerBlock::load(config, vb.pp("transformer_blocks").pp(i));
        Ok(Self {
            norm: GroupNorm::load(channels, config.groups, GROUP_EPS, vb.pp("norm"))?,
            proj_in: projection(channels, inner, vb.pp("proj_in"))?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            proj_out: projection(inner, channels, vb.pp("proj_out"))?,
        })
    }

    /// `x` `[b, h, w, channels]` to the same shape.
    ///
    /// # Errors
    /// When a shape is another.
    pub(super) fn forward_last(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let (batch, height, width, _) = x.dims4()?;
        let h = self.proj_in.forward_last(&self.norm.forward_last(x)?)?;
        let inner = h.dim(3)?;
        let mut h = h.reshape((batch, height * width, inner))?;
        for block in &self.blocks {
            h = block.forward(&h, context)?;
        }
        let h = self.proj_out.forward_last(&h.reshape((batch, height, width, inner))?)?;
        Ok((h + x)?)
    }
}

/// A change of channels, pixel by pixel.
#[derive(Clone, Debug)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn linear(input: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self::Linear(Linear::load(input, out, vb)?))
    }

    fn conv(input: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let geometry = Geometry { stride: 1, padding: 0, dilation: 1 };
        Ok(Self::Conv(Conv2d::load([input, out, 1], geometry, true, vb)?))
    }

    fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(linear) => Ok(linear.forward(x)?),
            Self::Conv(conv) => conv.forward_last(x),
        }
    }
}

/// Attention among the pixels, attention to the tokens, feed-forward.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
    only_cross_attention: bool,
}

impl TransformerBlock {
    fn load(config: &Transformer2dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let dim = config.heads * config.dim_head;
        let attention = |to_tokens: bool, name: &str| {
            let config = AttentionConfig {
                query_dim: dim,
                cross_attention_dim: to_tokens.then_some(config.context),
                heads: config.heads,
                dim_head: config.dim_head,
                bias: false,
            };
            Attention::load(&config, vb.pp(name))
        };
        Ok(Self {
            norm1: LayerNorm::load(dim, LAYER_EPS, vb.pp("norm1"))?,
            attn1: attention(config.only_cross_attention, "attn1")?,
            norm2: LayerNorm::load(dim, LAYER_EPS, vb.pp("norm2"))?,
            attn2: attention(true, "attn2")?,
            norm3: LayerNorm::load(dim, LAYER_EPS, vb.pp("norm3"))?,
            ff: FeedForward::load(dim, FeedForwardKind::Gated, vb.pp("ff"))?,
            only_cross_attention: config.only_cross_attention,
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let Context { tokens, bias } = context;
        // As in diffusers, the mask of the tokens does not reach `attn1`.
        let seen = self.only_cross_attention.then_some(tokens);
        let x = (self.attn1.forward(&self.norm1.forward(x)?, seen, None)? + x)?;
        let h = self.attn2.forward(&self.norm2.forward(&x)?, Some(tokens), bias.as_ref())?;
        let x = (h + x)?;
        Ok((self.ff.forward(&self.norm3.forward(&x)?)? + x)?)
    }
}

/// What stands between the two linear layers of a [`FeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedForwardKind {
    /// GELU by erf of one half times the other.
    Gated,
    /// GELU by erf.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
}

/// Two layers of four times the width, under diffusers' names `net.0.proj` and `net.2`.
#[derive(Clone, Debug)]
pub(super) struct FeedForward {
    proj: Linear,
    out: Linear,
    kind: FeedForwardKind,
}

impl FeedForward {
    pub(super) fn load(
        dim: usize,
        kind: FeedForwardKind,
        vb: VarBuilder<'_>,
    ) -> TensorResult<Self> {
        let wide = if kind == FeedForwardKind::Gated { 8 * dim } else { 4 * dim };
        Ok(Self {
            proj: Linear::load(dim, wide, vb.pp("net.0.proj"))?,
            out: Linear::load(4 * dim, dim, vb.pp("net.2"))?,
            kind,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        let h = self.proj.forward(x)?;
        let h = match self.kind {
            FeedForwardKind::Gelu => gelu(&h)?,
            FeedForwardKind::GeluTanh => gelu_tanh(&h)?,
            FeedForwardKind::Gated => gated_gelu(&h)?,
        };
        self.out.forward(&h)
    }
}
