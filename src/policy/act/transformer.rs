//! Encoder and decoder of ACT, in the order of DETR.
//!
//! A layer is a chain of blocks. A block is `norm(x + f(x))`, or `x + f(norm(x))` with `pre_norm`, where
//! f is an attention or a feed-forward pair. The encoder ends with a norm only if `pre_norm`, the decoder
//! always. Sources: Carion et al. 2020 (DETR), appendix A.3; LeRobot `policies/act/modeling_act.py`,
//! `ACTEncoder` and `ACTDecoder` (0.4.4).

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use crate::nn::activation::gelu;
use crate::nn::attention::Attention;
use crate::nn::linear::Linear;
use crate::nn::norm::LayerNorm;
use crate::policy::config::act::{ActConfig, FeedForwardActivation};
use crate::{Error, Result};

/// torch's default.
const EPS: f64 = 1e-5;

/// A layer normalisation of the transformer's width.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub(super) fn norm(config: &ActConfig, vb: VarBuilder<'_>) -> TensorResult<LayerNorm> {
    LayerNorm::load(config.dim_model, EPS, vb)
}

/// What stands around every f.
#[derive(Clone, Debug)]
struct Residual {
    norm: LayerNorm,
    pre_norm: bool,
}

impl Residual {
    fn load(config: &ActConfig, vb: VarBuilder<'_>) -> TensorResult<Self> {
        Ok(Self { norm: norm(config, vb)?, pre_norm: config.pre_norm })
    }

    fn around(&self, x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if self.pre_norm {
            return Ok((x + f(&self.norm.forward(x)?)?)?);
        }
        Ok(self.norm.forward(&(x + f(x)?)?)?)
    }
}

#[derive(Clone, Debug)]
struct FeedForward {
    up: Linear,
    down: Linear,
    activation: FeedForwardActivation,
}

impl FeedForward {
    /// `linear1` and `linear2` of a layer.
    fn load(config: &ActConfig, vb: &VarBuilder<'_>) -> TensorResult<Self> {
        let (outer, inner) = (config.dim_model, config.dim_feedforward);
        Ok(Self {
            up: Linear::load(outer, inner, vb.pp("linear1"))?,
            down: Linear::load(inner, outer, vb.pp("linear2"))?,
            activation: config.feedforward_activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.up.forward(x)?;
        let x = match self.activation {
            FeedForwardActivation::Relu => x.relu()?,
            FeedForwardActivation::Gelu => gelu(&x)?,
            FeedForwardActivation::Glu => {
                return Err(Error::Invalid("feedforward_activation: glu does not fit".to_owned()));
            }
        };
        Ok(self.down.forward(&x)?)
    }
}

/// One layer of the encoder.
#[derive(Clone, Debug)]
pub(super) struct EncoderLayer {
    attention: Attention,
    feed_forward: FeedForward,
    residuals: [Residual; 2],
}

impl EncoderLayer {
    /// Loads the layer.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(super) fn load(config: &ActConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            attention: Attention::load_packed(
                config.dim_model,
                config.n_heads,
                vb.pp("self_attn"),
            )?,
            feed_forward: FeedForward::load(config, &vb)?,
            residuals: [
                Residual::load(config, vb.pp("norm1"))?,
                Residual::load(config, vb.pp("norm2"))?,
            ],
        })
    }

    fn forward(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.residuals;
        let x = first.around(x, |x| {
            let placed = x.broadcast_add(positions)?;
            self.attention.attend(&placed, [&placed, x], None)
        })?;
        second.around(&x, |x| self.feed_forward.forward(x))
    }
}

/// The encoder: every token looks at every token.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    layers: Vec<EncoderLayer>,
    norm: Option<LayerNorm>,
}

impl Encoder {
    /// Loads all layers.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(super) fn load(config: &ActConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layers = (0..config.n_encoder_layers)
            .map(|i| EncoderLayer::load(config, vb.pp(format!("layers.{i}"))))
            .collect::<Result<_>>()?;
        let norm = config.pre_norm.then(|| norm(config, vb.pp("norm"))).transpose()?;
        Ok(Self { layers, norm })
    }

    /// Tokens `[b, s, dim_model]` with `positions` `[s, dim_model]` to the same shape.
    ///
    /// # Errors
    /// When a shape is another.
    pub(super) fn forward(&self, tokens: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let mut x = tokens.clone();
        for layer in &self.layers {
            x = layer.forward(&x, positions)?;
        }
        match &self.norm {
            Some(norm) => Ok(norm.forward(&x)?),
            None => Ok(x),
        }
    }
}

/// One layer of the decoder.
#[derive(Clone, Debug)]
struct DecoderLayer {
    self_attention: Attention,
    cross_attention: Attention,
    feed_forward: FeedForward,
    residuals: [Residual; 3],
}

impl DecoderLayer {
    fn load(config: &ActConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let attention =
            |name: &str| Attention::load_packed(config.dim_model, config.n_heads, vb.pp(name));
        Ok(Self {
            self_attention: attention("self_attn")?,
            cross_attention: attention("multihead_attn")?,
            feed_forward: FeedForward::load(config, &vb)?,
            residuals: [
                Residual::load(config, vb.pp("norm1"))?,
                Residual::load(config, vb.pp("norm2"))?,
                Residual::load(config, vb.pp("norm3"))?,
            ],
        })
    }

    /// `memory` is key, with positions, and value.
    fn forward(&self, x: &Tensor, positions: &Tensor, memory: [&Tensor; 2]) -> Result<Tensor> {
        let [first, second, third] = &self.residuals;
        let x = first.around(x, |x| {
            let placed = x.broadcast_add(positions)?;
            self.self_attention.attend(&placed, [&placed, x], None)
        })?;
        let x = second.around(&x, |x| {
            self.cross_attention.attend(&x.broadcast_add(positions)?, memory, None)
        })?;
        third.around(&x, |x| self.feed_forward.forward(x))
    }
}

/// The decoder: every row of the chunk looks at every row and at the encoder's output.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
}

impl Decoder {
    /// Loads all layers.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(super) fn load(config: &ActConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layers = (0..config.n_decoder_layers)
            .map(|i| DecoderLayer::load(config, vb.pp(format!("layers.{i}"))))
            .collect::<Result<_>>()?;
        Ok(Self { layers, norm: norm(config, vb.pp("norm"))? })
    }

    /// Queries `[b, rows, dim_model]` with `positions` `[rows, dim_model]`, over `memory`
    /// `[b, s, dim_model]` with its positions `[s, dim_model]`; shape of the queries.
    ///
    /// # Errors
    /// When a shape is another.
    pub(super) fn forward(
        &self,
        queries: &Tensor,
        positions: &Tensor,
        memory: &Tensor,
        memory_positions: &Tensor,
    ) -> Result<Tensor> {
        let placed = memory.broadcast_add(memory_positions)?;
        let mut x = queries.clone();
        for layer in &self.layers {
            x = layer.forward(&x, positions, [&placed, memory])?;
        }
        Ok(self.norm.forward(&x)?)
    }
}
