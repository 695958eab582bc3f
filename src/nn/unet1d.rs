//! The conditional 1-D UNet of Diffusion Policy, as LeRobot writes it.
//!
//! A chunk `[b, horizon, action_dim]` passes down and up a pyramid over time. Every residual block
//! is modulated (FiLM) by the embedded network time and the observation:
//! `h = GN·mish∘conv(x)`, `h ← scale·h + bias` (without 1 +), `h = GN·mish∘conv(h)`, `+ residual`.
//! Two things look like slips and are what the checkpoints contain: every level upsamples, so there
//! is one up level fewer than down levels, and the skip of the first level is never used.
//!
//! Tensor names are those below `diffusion.unet.` in a LeRobot DiffusionPolicy checkpoint. Sources:
//! Chi et al. 2023, section III; LeRobot `policies/diffusion/modeling_diffusion.py` (0.4.4).

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::activation::mish;
use super::add_channels::add_channels;
use super::conv::{Conv1d, Upsample1d};
use super::embed::TimestepEmbedding;
use super::linear::Linear;
use super::norm::GroupNorm;
use crate::{Error, Result};

/// Groups of the normalisation in the last block, whatever `n_groups` says.
const FINAL_GROUPS: usize = 8;
/// Most channels of a level: far above any real network, and no product of two overflows.
const MAX_CHANNELS: usize = 16_384;

/// Size of a [`UNet1d`], in LeRobot's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNet1dConfig {
    /// Numbers per action.
    pub action_dim: usize,
    /// Numbers in the observation's conditioning vector.
    pub cond_dim: usize,
    /// Channels per level, top first.
    pub down_dims: Vec<usize>,
    /// Taps of the convolutions; odd.
    pub kernel_size: usize,
    /// Groups of the group normalisation.
    pub n_groups: usize,
    /// Width of the embedding of the network time; even, at least 4.
    pub diffusion_step_embed_dim: usize,
    /// Whether FiLM scales as well as shifts.
    pub use_film_scale_modulation: bool,
}

impl UNet1dConfig {
    /// The horizon must be a multiple of this: each level but the last halves the time axis.
    pub fn horizon_multiple(&self) -> usize {
        1 << self.down_dims.len().saturating_sub(1)
    }

    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot; the message names the field.
    pub fn validate(&self) -> Result<()> {
        let groups_fit = |dims: &[usize], groups: usize| {
            let fits = |&dim: &usize| (1..=MAX_CHANNELS).contains(&dim) && dim % groups == 0;
            groups > 0 && dims.iter().all(fits)
        };
        let top = self.down_dims.get(..1).unwrap_or_default();
        let sized = |n: usize| (1..=1 << 20).contains(&n);
        let fault = if !sized(self.action_dim) || !sized(self.cond_dim) {
            format!(
                "action_dim and cond_dim of 1 to 2^20, got {} and {}",
                self.action_dim, self.cond_dim
            )
        } else if !(1..=16).contains(&self.down_dims.len()) {
            format!("1 to 16 levels in down_dims, got {}", self.down_dims.len())
        } else if !groups_fit(&self.down_dims, self.n_groups) || !groups_fit(top, FINAL_GROUPS) {
            format!(
                "down_dims up to {MAX_CHANNELS}, multiples of n_groups, the first one of \
                 {FINAL_GROUPS}, got {:?} and {}",
                self.down_dims, self.n_groups
            )
        } else if self.kernel_size.is_multiple_of(2) || self.kernel_size > MAX_CHANNELS {
            format!("an odd kernel_size up to {MAX_CHANNELS}, got {}", self.kernel_size)
        } else if !(4..=MAX_CHANNELS).contains(&self.diffusion_step_embed_dim)
            || self.diffusion_step_embed_dim % 2 == 1
        {
            format!(
                "an even diffusion_step_embed_dim of 4 to {MAX_CHANNELS}, got {}",
                self.diffusion_step_embed_dim
            )
        } else {
            return Ok(());
        };
        Err(Error::Invalid(format!("unet1d: expected {fault}")))
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct UNet1d {
    config: UNet1dConfig,
    step_encoder: [Linear; 2],
    down: Vec<Level<Conv1d>>,
    mid: [ResidualBlock; 2],
    up: Vec<Level<Upsample1d>>,
    final_block: ConvBlock,
    final_conv: Conv1d,
}

/// Two blocks, and the change of resolution after them.
#[derive(Clone, Debug)]
struct Level<Resample> {
    blocks: [ResidualBlock; 2],
    resample: Option<Resample>,
}

impl UNet1d {
    /// Loads a network from a builder that stands at `diffusion.unet`.
    ///
    /// # Errors
    /// When the configuration is impossible, or a tensor is missing or has another shape.
    pub fn load(config: &UNet1dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let embed = config.diffusion_step_embed_dim;
        let block = |[input, out]: [usize; 2], vb| ResidualBlock::load(config, input, out, vb);
        let steps = vb.pp("diffusion_step_encoder");
        let dims = &config.down_dims;
        let (top, bottom) = (dims[0], dims[dims.len() - 1]);

        let mut down = Vec::with_capacity(dims.len());
        for (i, &dim) in dims.iter().enumerate() {
            let vb = vb.pp("down_modules").pp(i);
            let input = if i == 0 { config.action_dim } else { dims[i - 1] };
            down.push(Level {
                blocks: [block([input, dim], vb.pp(0))?, block([dim, dim], vb.pp(1))?],
                resample: match i + 1 < dims.len() {
                    true => Some(Conv1d::load([dim, dim, 3], 2, 1, vb.pp(2))?),
                    false => None,
                },
            });
        }
        let mut up = Vec::with_capacity(dims.len() - 1);
        for (i, pair) in dims.windows(2).rev().enumerate() {
            let (dim, deeper) = (pair[0], pair[1]);
            let vb = vb.pp("up_modules").pp(i);
            up.push(Level {
                blocks: [block([deeper * 2, dim], vb.pp(0))?, block([dim, dim], vb.pp(1))?],
                resample: Some(Upsample1d::load(dim, vb.pp(2))?),
            });
        }
        let mid = vb.pp("mid_modules");
        let last = vb.pp("final_conv");
        Ok(Self {
            config: config.clone(),
            step_encoder: [
                Linear::load(embed, embed * 4, steps.pp(1))?,
                Linear::load(embed * 4, embed, steps.pp(3))?,
            ],
            down,
            mid: [block([bottom, bottom], mid.pp(0))?, block([bottom, bottom], mid.pp(1))?],
            up,
            final_block: ConvBlock::load(
                [top, top, config.kernel_size],
                FINAL_GROUPS,
                last.pp(0).pp("block"),
            )?,
            final_conv: Conv1d::load([top, config.action_dim, 1], 1, 0, last.pp(1))?,
        })
    }

    /// What the network was built from.
    pub fn config(&self) -> &UNet1dConfig {
        &self.config
    }

    /// The prediction for `x` `[b, horizon, action_dim]` at network times `t` `[b]` under
    /// `global_cond` `[b, cond_dim]`; shape of `x`. `t` is what the checkpoint was trained with
    /// (LeRobot: the diffusion step 0 … 99) and gets no gradient.
    ///
    /// # Errors
    /// When a shape is another, or the horizon is no multiple of
    /// [`UNet1dConfig::horizon_multiple`].
    pub fn forward(&self, x: &Tensor, t: &Tensor, global_cond: &Tensor) -> Result<Tensor> {
        self.check(x, t, global_cond)?;
        let [expand, contract] = &self.step_encoder;
        let t = t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let steps = TimestepEmbedding::new(self.config.diffusion_step_embed_dim);
        let steps = steps.embed(&t, x.dtype(), x.device())?;
        let steps = contract.forward(&mish(&expand.forward(&steps)?)?)?;
        // Every block applies Mish to the condition before its own linear layer: once is enough.
        let cond = mish(&Tensor::cat(&[&steps, global_cond], D::Minus1)?)?;

        // The channels lie last all the way, as they come.
        let mut h = x.contiguous()?;
        let mut skips = Vec::with_capacity(self.down.len());
        for level in &self.down {
            h = level.blocks(&h, &cond)?;
            skips.push(h.clone());
            if let Some(resample) = &level.resample {
                h = resample.forward_last(&h)?;
            }
        }
        for block in &self.mid {
            h = block.forward(&h, &cond)?;
        }
        for (level, skip) in self.up.iter().zip(skips.iter().rev()) {
            h = level.blocks(&Tensor::cat(&[&h, skip], 2)?, &cond)?;
            if let Some(resample) = &level.resample {
                h = resample.forward_last(&h)?;
            }
        }
        Ok(self.final_conv.forward_last(&self.final_block.forward(&h)?)?)
    }

    fn check(&self, x: &Tensor, t: &Tensor, global_cond: &Tensor) -> Result<()> {
        let UNet1dConfig { action_dim, cond_dim, .. } = self.config;
        let multiple = self.config.horizon_multiple();
        let fits = match *x.dims() {
            [batch, horizon, dim] => {
                dim == action_dim
                    && horizon > 0
                    && horizon.is_multiple_of(multiple)
                    && t.dims() == [batch]
                    && global_cond.dims() == [batch, cond_dim]
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "unet1d: expected a chunk [b, a multiple of {multiple}, {action_dim}], times [b] and a \
             condition [b, {cond_dim}], got {:?}, {:?} and {:?}",
            x.dims(),
            t.dims(),
            global_cond.dims()
        )))
    }
}

impl<Resample> Level<Resample> {
    fn blocks(&self, x: &Tensor, cond: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.blocks;
        second.forward(&first.forward(x, cond)?, cond)
    }
}

/// Convolution, group normalisation, Mish.
#[derive(Clone, Debug)]
struct ConvBlock {
    conv: Conv1d,
    norm: GroupNorm,
}

impl ConvBlock {
    fn load([input, out, kernel]: [usize; 3], groups: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            conv: Conv1d::load([input, out, kernel], 1, kernel / 2, vb.pp(0))?,
            norm: GroupNorm::load(out, groups, 1e-5, vb.pp(1))?,
        })
    }

    /// `x` `[b, time, input]` to `[b, time, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.norm.mish_over_time(&self.conv.forward_last(x)?)?)
    }
}

/// Two convolution blocks with FiLM between them, and a residual connection.
#[derive(Clone, Debug)]
struct ResidualBlock {
    conv1: ConvBlock,
    cond_encoder: Linear,
    conv2: ConvBlock,
    residual: Option<Conv1d>,
    with_scale: bool,
}

impl ResidualBlock {
    fn load(config: &UNet1dConfig, input: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let with_scale = config.use_film_scale_modulation;
        let cond = config.diffusion_step_embed_dim + config.cond_dim;
        let (kernel, groups) = (config.kernel_size, config.n_groups);
        let film = if with_scale { out * 2 } else { out };
        Ok(Self {
            conv1: ConvBlock::load([input, out, kernel], groups, vb.pp("conv1.block"))?,
            cond_encoder: Linear::load(cond, film, vb.pp("cond_encoder.1"))?,
            conv2: ConvBlock::load([out, out, kernel], groups, vb.pp("conv2.block"))?,
            residual: match input == out {
                true => None,
                false => Some(Conv1d::load([input, out, 1], 1, 0, vb.pp("residual_conv"))?),
            },
            with_scale,
        })
    }

    /// `x` `[b, time, input]` to `[b, time, out]`; `cond` has been through Mish.
    fn forward(&self, x: &Tensor, cond: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(x)?;
        let film = self.cond_encoder.forward(cond)?;
        let h = if self.with_scale {
            let c = h.dim(2)?;
            let scaled = h.broadcast_mul(&film.narrow(1, 0, c)?.unsqueeze(1)?)?;
            add_channels(&scaled, &film.narrow(1, c, c)?)?
        } else {
            add_channels(&h, &film)?
        };
        let h = self.conv2.forward(&h)?;
        Ok(match &self.residual {
            Some(conv) => (h + conv.forward_last(x)?)?,
            None => (h + x)?,
        })
    }
}
