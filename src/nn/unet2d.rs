//! The UNet over pictures and latents, as diffusers writes it: with cross-attention
//! (`UNet2DConditionModel`) and without (`UNet2DModel`).
//!
//! ```text
//! x ─ conv_in ─► level ─► level ─► … ─► middle ─► … ─► level ─► level ─► norm, SiLU, conv_out
//!                  │        └────────── skips ──────────┘        │
//!                  └─────────────────── skips ───────────────────┘
//! ```
//!
//! A level is residual blocks with attention behind each or not, then half the size; every result is
//! kept and joined, in reverse order, on the way up. A picture whose sides are no multiples of the
//! reduction comes back to the size of the kept ones. Inside, the channels lie last. Tensor names are
//! diffusers'. Sources: Ho, Jain, Abbeel 2020, appendix B; Rombach et al. 2022; diffusers
//! `models/unets/` (0.42.1).

use candle_core::Tensor;
use candle_nn::VarBuilder;

pub use super::unet2d_config::{
    ConditionalUNet2dConfig, PerLevel, PlainUNet2dConfig, UNet2dConfig,
};

use super::condition::Condition;
use super::conv2d::{Conv2d, Geometry};
use super::norm::GroupNorm;
use super::unet2d_blocks::{Down, Mid, Told, Up};
use super::unet2d_plan::Plan;
use super::unet2d_time::TimeEmbedding;
use crate::{Error, Result};

/// The network.
#[derive(Clone, Debug)]
pub struct UNet2d {
    config: UNet2dConfig,
    plan: Plan,
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<Down>,
    mid: Option<Mid>,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2d {
    /// Loads a network from a builder that stands at its root.
    ///
    /// # Errors
    /// When the configuration is impossible or not supported, or a tensor is missing or has another
    /// shape.
    pub fn load(config: &UNet2dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let plan = config.plan()?;
        let conv = |[input, out]: [usize; 2], kernel: usize, name: &str| {
            let geometry = Geometry { stride: 1, padding: (kernel - 1) / 2, dilation: 1 };
            Conv2d::load([input, out, kernel], geometry, true, vb.pp(name))
        };
        let top = plan.time.input;
        let [input, out] = plan.channels;
        let mut skips = vec![top];
        let mut down = Vec::with_capacity(plan.down.len());
        for i in 0..plan.down.len() {
            down.push(Down::load(&plan, i, &mut skips, vb.pp("down_blocks").pp(i))?);
        }
        let mut width = skips.last().copied().unwrap_or(top);
        let mid = match &plan.mid {
            Some(mid) => Some(Mid::load(&plan, mid, width, vb.pp("mid_block"))?),
            None => None,
        };
        let mut up = Vec::with_capacity(plan.up.len());
        for (i, level) in plan.up.iter().enumerate() {
            up.push(Up::load(&plan, i, width, &mut skips, vb.pp("up_blocks").pp(i))?);
            width = level.channels;
        }
        let norm = plan.norm;
        Ok(Self {
            config: config.clone(),
            conv_in: conv([input, top], plan.kernels[0], "conv_in")?,
            time: TimeEmbedding::load(&plan.time, vb.clone())?,
            down,
            mid,
            up,
            norm_out: GroupNorm::load(width, norm.groups, norm.eps, vb.pp("conv_norm_out"))?,
            conv_out: conv([width, out], plan.kernels[1], "conv_out")?,
            plan,
        })
    }

    /// What the network was built from.
    pub fn config(&self) -> &UNet2dConfig {
        &self.config
    }

    /// The prediction `[b, out_channels, h, w]` for `x` `[b, c, h, w]` at the network times `t` `[b]`
    /// under `condition`; the channels of `x` and of its `concat` are `in_channels` together. `t` is
    /// what the checkpoint was trained with (a timestep, or 1000 times the flow's t).
    ///
    /// # Errors
    /// When a shape is another, a class is unknown, or something of the condition is missing or has no
    /// use in this network.
    pub fn forward(&self, x: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let batch = x.dims().first().copied().unwrap_or(0);
        if t.len() != batch {
            return Err(Error::shape("times of the network", format!("[{batch}]"), [t.len()]));
        }
        let x = condition.joined(x, self.plan.channels[0])?;
        let context = condition.context(batch, self.plan.context)?;
        let classes = condition.classes(batch, self.time.has_class())?;
        let time = self.time.forward(t, classes, &x)?;
        let told = Told { time: &time, context: context.as_ref() };
        let x = match self.plan.center_input {
            true => x.affine(2.0, -1.0)?,
            false => x,
        };

        let mut h = self.conv_in.forward_last(&x.permute((0, 2, 3, 1))?)?;
        let mut skips = vec![h.clone()];
        for level in &self.down {
            h = level.forward_last(&mut skips, h, told)?;
        }
        if let Some(mid) = &self.mid {
            h = mid.forward_last(&h, told)?;
        }
        for level in &self.up {
            h = level.forward_last(&mut skips, h, told)?;
        }
        let h = self.conv_out.forward_last(&self.norm_out.silu_last(&h)?)?;
        Ok(h.permute((0, 3, 1, 2))?.contiguous()?)
    }
}
