//! A residual MLP that predicts the velocity of a whole action chunk.
//!
//! The observation is encoded once into a context; per evaluation the chunk and the time pass
//! through `depth` pre-norm residual blocks, each of which sees the context:
//! `h ← h + W₂·silu(W₁·LN(h) + U·silu(context + time))`. The last layer starts small, so an
//! untrained network predicts a velocity near zero.
//!
//! With `token_embed_dim` each row of the chunk has a time of its own, as training-time real-time chunking
//! needs (Black et al. 2025, arXiv 2512.05964): its embedding is added where the chunk enters. That
//! layer starts at zero, so a network without it can be trained on.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::embed::sinusoidal;
use super::linear::Linear;
use super::norm::LayerNorm;
use crate::{Error, Result};

/// Name of the layer for the times of the rows.
pub const TOKEN_TIME: &str = "token_time";

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
    /// Width of the embedding of each row's own time; 0 if the rows have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub token_embed_dim: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
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
        } else if self.token_embed_dim > 1024 || self.token_embed_dim % 2 == 1 {
            format!("an even token_embed_dim of 0 to 1024, got {}", self.token_embed_dim)
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
    token_time: Option<Linear>,
    input: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
    config: MlpConfig,
    horizon: usize,
}

#[derive(Clone, Debug)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    context: Linear,
    down: Linear,
}

impl FlowMlp {
    /// Loads a network for features `[b, features]` and chunks `[b, horizon·action_dim]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        config: &MlpConfig,
        features: usize,
        [horizon, action_dim]: [usize; 2],
        vb: VarBuilder<'_>,
    ) -> TensorResult<Self> {
        let (width, chunk) = (config.width, horizon * action_dim);
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
        let token_time = match config.token_embed_dim {
            0 => None,
            dim => {
                let vb = vb.pp(TOKEN_TIME);
                let shape = (width, horizon * dim);
                let weight = vb.get_with_hints(shape, "weight", candle_nn::init::ZERO)?;
                Some(Linear::new(weight, None)?)
            }
        };
        Ok(Self {
            encoder: [
                Linear::load(features, width, vb.pp("encoder.0"))?,
                Linear::load(width, width, vb.pp("encoder.1"))?,
            ],
            time: Linear::load(config.time_embed_dim, width, vb.pp("time"))?,
            token_time,
            input: Linear::load(chunk, width, vb.pp("input"))?,
            blocks: (0..config.depth)
                .map(|i| block(vb.pp(format!("blocks.{i}"))))
                .collect::<TensorResult<_>>()?,
            norm: LayerNorm::load(width, 1e-5, vb.pp("norm"))?,
            output: Linear::new(
                out.get_with_hints((chunk, width), "weight", small)?,
                Some(out.get_with_hints(chunk, "bias", candle_nn::init::ZERO)?),
            )?,
            config: config.clone(),
            horizon,
        })
    }

    /// Whether each row of the chunk has a time of its own.
    pub fn takes_token_times(&self) -> bool {
        self.token_time.is_some()
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
    /// `tokens` are the times of the rows, `b·horizon` of them; those of their sample where absent.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn velocity(
        &self,
        context: &Tensor,
        x_t: &Tensor,
        t: &[f64],
        tokens: Option<&[f64]>,
    ) -> TensorResult<Tensor> {
        let device = x_t.device();
        let time = sinusoidal(t, self.config.time_embed_dim, 0.05, 4.0, device)?;
        let condition = (context + self.time.forward(&time)?)?.silu()?;
        let mut h = self.input.forward(x_t)?;
        if let Some(layer) = &self.token_time {
            let own: Vec<f64> = match tokens {
                Some(tokens) => tokens.to_vec(),
                None => t.iter().flat_map(|t| vec![*t; self.horizon]).collect(),
            };
            let embedding = sinusoidal(&own, self.config.token_embed_dim, 0.05, 4.0, device)?;
            h = (h + layer.forward(&embedding.reshape((t.len(), ()))?)?)?;
        }
        for block in &self.blocks {
            let up = block.up.forward(&block.norm.forward(&h)?)?;
            let up = (up + block.context.forward(&condition)?)?.silu()?;
            h = (h + block.down.forward(&up)?)?;
        }
        self.output.forward(&self.norm.forward(&h)?)
    }
}
