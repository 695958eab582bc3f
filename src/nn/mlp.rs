//! A residual MLP that predicts the velocity of a whole action chunk.
//!
//! The observation is encoded once into a context; per evaluation the chunk and the time pass
//! through `depth` pre-norm residual blocks, each of which sees the context:
//! `h ← h + W₂·silu(W₁·LN(h) + U·silu(context + time))`. The last layer starts small, so an
//! untrained network predicts a velocity near zero.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::embed::sinusoidal;
use super::linear::Linear;
use super::norm::LayerNorm;
use crate::{Error, Result};

/// Size of a [`FlowMlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of the residual stream.
    pub width: usize,
    /// Number of residual blocks.
    pub depth: usize,
    /// Width of the sinusoidal time embedding.
    pub time_embed_dim: usize,
}

impl MlpConfig {
    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot; the message names the field.
    pub fn validate(&self) -> Result<()> {
        let fault = if !(1..=16_384).contains(&self.width) {
            format!("width of 1 to 16384, got {}", self.width)
        } else if !(1..=256).contains(&self.depth) {
            format!("depth of 1 to 256, got {}", self.depth)
        } else if !(2..=16_384).contains(&self.time_embed_dim) || self.time_embed_dim % 2 == 1 {
            format!("an even time_embed_dim of 2 to 16384, got {}", self.time_embed_dim)
        } else {
            return Ok(());
        };
        Err(Error::Invalid(format!("network mlp: expected {fault}")))
    }
}

/// The network. `chunk` below is `horizon·action_dim`.
#[derive(Clone, Debug)]
pub struct FlowMlp {
    encoder: [Linear; 2],
    time: Linear,
    input: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
    time_embed_dim: usize,
}

#[derive(Clone, Debug)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    context: Linear,
    down: Linear,
}

impl FlowMlp {
    /// Loads a network for features `[b, features]` and chunks `[b, chunk]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        config: &MlpConfig,
        features: usize,
        chunk: usize,
        vb: VarBuilder<'_>,
    ) -> TensorResult<Self> {
        let width = config.width;
        let block = |vb: VarBuilder<'_>| -> TensorResult<Block> {
            Ok(Block {
                norm: LayerNorm::load(width, 1e-5, vb.pp("norm"))?,
                up: Linear::load(width, width, vb.pp("up"))?,
                context: Linear::load_no_bias(width, width, vb.pp("context"))?,
                down: Linear::load(width, width, vb.pp("down"))?,
            })
        };
        let out = vb.pp("output");
        let small = candle_nn::Init::Randn { mean: 0.0, stdev: 0.01 };
        Ok(Self {
            encoder: [
                Linear::load(features, width, vb.pp("encoder.0"))?,
                Linear::load(width, width, vb.pp("encoder.1"))?,
            ],
            time: Linear::load(config.time_embed_dim, width, vb.pp("time"))?,
            input: Linear::load(chunk, width, vb.pp("input"))?,
            blocks: (0..config.depth)
                .map(|i| block(vb.pp(format!("blocks.{i}"))))
                .collect::<TensorResult<_>>()?,
            norm: LayerNorm::load(width, 1e-5, vb.pp("norm"))?,
            output: Linear::new(
                out.get_with_hints((chunk, width), "weight", small)?,
                Some(out.get_with_hints(chunk, "bias", candle_nn::init::ZERO)?),
            )?,
            time_embed_dim: config.time_embed_dim,
        })
    }

    /// Observation features `[b, features]` to a context `[b, width]`; once per observation.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn encode(&self, features: &Tensor) -> TensorResult<Tensor> {
        let [first, second] = &self.encoder;
        second.forward(&first.forward(features)?.silu()?)
    }

    /// Velocity of the chunk `x_t` `[b, chunk]` at flow times `t` (one per sample, t = 1 is noise).
    ///
    /// # Errors
    /// When a shape is another.
    pub fn velocity(&self, context: &Tensor, x_t: &Tensor, t: &[f64]) -> TensorResult<Tensor> {
        let time = sinusoidal(t, self.time_embed_dim, 0.05, 4.0, x_t.device())?;
        let condition = (context + self.time.forward(&time)?)?.silu()?;
        let mut h = self.input.forward(x_t)?;
        for block in &self.blocks {
            let up = block.up.forward(&block.norm.forward(&h)?)?;
            let up = (up + block.context.forward(&condition)?)?.silu()?;
            h = (h + block.down.forward(&up)?)?;
        }
        self.output.forward(&self.norm.forward(&h)?)
    }
}
