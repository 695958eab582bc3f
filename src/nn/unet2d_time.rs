//! The vector that tells a UNet the time, and the class.
//!
//! `linear_2(silu(linear_1(embedding(t))))`, to which a row of a table is added for a class, or the
//! class is embedded as a time. Source: diffusers `models/embeddings.py` (`TimestepEmbedding`).

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use super::activation::{gelu, mish};
use super::embed;
use super::linear::Linear;
use super::unet2d_plan::{ClassPlan, TimeActivation, TimePlan};
use crate::{Error, Result};

/// The embedding of time and class.
#[derive(Clone, Debug)]
pub(super) struct TimeEmbedding {
    sinusoidal: embed::TimestepEmbedding,
    time: TimestepMlp,
    class: ClassEmbedding,
    plan: TimePlan,
}

/// Two linear layers with SiLU between them, under diffusers' names `linear_1` and `linear_2`.
#[derive(Clone, Debug)]
pub(super) struct TimestepMlp {
    linear_1: Linear,
    linear_2: Linear,
}

#[derive(Clone, Debug)]
enum ClassEmbedding {
    None,
    Table(Tensor),
    Timestep(TimestepMlp),
}

impl TimestepMlp {
    pub(super) fn load(input: usize, width: usize, vb: VarBuilder<'_>) -> TensorResult<Self> {
        Ok(Self {
            linear_1: Linear::load(input, width, vb.pp("linear_1"))?,
            linear_2: Linear::load(width, width, vb.pp("linear_2"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// Rows of an embedding `[count, width]`.
///
/// # Errors
/// When a class is unknown.
pub(super) fn rows(table: &Tensor, classes: &[u32]) -> Result<Tensor> {
    let count = table.dim(0)?;
    if let Some(class) = classes.iter().find(|&&class| class as usize >= count) {
        let expected = format!("0 to {}", count - 1);
        return Err(Error::range("class", expected, f64::from(*class)));
    }
    Ok(table.index_select(&Tensor::new(classes, table.device())?, 0)?)
}

impl TimeEmbedding {
    /// Loads `time_embedding` and, where there are classes, `class_embedding`.
    ///
    /// # Errors
    /// When the width is impossible, or a tensor is missing or has another shape.
    pub(super) fn load(plan: &TimePlan, vb: VarBuilder<'_>) -> Result<Self> {
        let sinusoidal = embed::TimestepEmbedding {
            flip_sin_to_cos: plan.flip_sin_to_cos,
            freq_shift: plan.freq_shift,
            ..embed::TimestepEmbedding::new(plan.input)
        };
        sinusoidal.embed(&[0.0], vb.dtype(), vb.device())?;
        let of_class = vb.pp("class_embedding");
        let class = match plan.class {
            ClassPlan::None => ClassEmbedding::None,
            ClassPlan::Table(count) => {
                let init = candle_nn::Init::Randn { mean: 0.0, stdev: 1.0 };
                let shape = (count, plan.width);
                ClassEmbedding::Table(of_class.get_with_hints(shape, "weight", init)?)
            }
            ClassPlan::Timestep => {
                ClassEmbedding::Timestep(TimestepMlp::load(plan.input, plan.width, of_class)?)
            }
        };
        let time = TimestepMlp::load(plan.input, plan.width, vb.pp("time_embedding"))?;
        Ok(Self { sinusoidal, time, class, plan: plan.clone() })
    }

    pub(super) fn has_class(&self) -> bool {
        !matches!(self.class, ClassEmbedding::None)
    }

    /// The vectors `[b, told]` for the times `t` `[b]` and the classes, if there are any; `like` has the
    /// dtype and device.
    ///
    /// # Errors
    /// When a class is unknown.
    pub(super) fn forward(
        &self,
        t: &[f64],
        classes: Option<&[u32]>,
        like: &Tensor,
    ) -> Result<Tensor> {
        let embed = |t: &[f64]| self.sinusoidal.embed(t, like.dtype(), like.device());
        let time = activated(self.time.forward(&embed(t)?)?, self.plan.post_act)?;
        let class = match (&self.class, classes) {
            (ClassEmbedding::Table(table), Some(classes)) => Some(rows(table, classes)?),
            (ClassEmbedding::Timestep(mlp), Some(classes)) => {
                let classes: Vec<f64> = classes.iter().copied().map(f64::from).collect();
                Some(mlp.forward(&embed(&classes)?)?)
            }
            _ => None,
        };
        let told = match class {
            None => time,
            Some(class) if self.plan.concat_class => Tensor::cat(&[time, class], 1)?,
            Some(class) => (time + class)?,
        };
        Ok(activated(told, self.plan.final_act)?)
    }
}

fn activated(x: Tensor, activation: Option<TimeActivation>) -> TensorResult<Tensor> {
    match activation {
        None => Ok(x),
        Some(TimeActivation::Silu) => x.silu(),
        Some(TimeActivation::Mish) => mish(&x),
        Some(TimeActivation::Gelu) => gelu(&x),
    }
}
