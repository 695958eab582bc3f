//! Batch normalisation as a trained network uses it: with the statistics of its training.
//!
//! ```text
//! y = x·scale + (bias − mean·scale)       scale = weight/√(var + eps)
//! ```
//!
//! Source: Ioffe, Szegedy 2015, and in this order of operations PyTorch's `BatchNorm2d` in eval mode
//! and torchvision's `FrozenBatchNorm2d` (`torchvision/ops/misc.py`). The statistics are constants:
//! they receive no gradient, and a new layer starts with mean 0 and variance 1.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::{Error, Result};

/// What a checkpoint holds of the layer beside `weight`, `bias`, `running_mean` and `running_var`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNormKind {
    /// PyTorch's `BatchNorm2d`: also `num_batches_tracked`, a single number that changes nothing.
    Tracked,
    /// torchvision's `FrozenBatchNorm2d`: nothing else, and `weight` and `bias` are constants too.
    Frozen,
}

/// The layer.
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
}

impl BatchNorm2d {
    /// Loads the layer for `channels`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        channels: usize,
        eps: f64,
        kind: BatchNormKind,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let get = |name: &str, start: f64| vb.get_with_hints(channels, name, Init::Const(start));
        let (weight, bias) = (get("weight", 1.0)?, get("bias", 0.0)?);
        let mean = get("running_mean", 0.0)?.detach();
        let variance = get("running_var", 1.0)?.detach();
        Ok(match kind {
            BatchNormKind::Tracked => {
                vb.get_with_hints((), "num_batches_tracked", Init::Const(0.0))?;
                Self { weight, bias, mean, variance, eps }
            }
            BatchNormKind::Frozen => {
                Self { weight: weight.detach(), bias: bias.detach(), mean, variance, eps }
            }
        })
    }

    /// `x` `[b, channels, h, w]` to the same shape.
    ///
    /// # Errors
    /// When there are other channels or dimensions.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        if !matches!(*x.dims(), [_, got, _, _] if got == channels) {
            return Err(Error::shape("batch norm", format!("[b, {channels}, h, w]"), x.dims()));
        }
        let (scale, shift) = self.scale_and_shift()?;
        let (scale, shift) = (scale.reshape((channels, 1, 1))?, shift.reshape((channels, 1, 1))?);
        Ok(x.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }

    /// [`Self::forward`] with the channels last: `x` `[.., channels]`.
    pub(crate) fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.scale_and_shift()?;
        Ok(x.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }

    fn scale_and_shift(&self) -> Result<(Tensor, Tensor)> {
        let scale = (&self.weight * (&self.variance + self.eps)?.sqrt()?.recip()?)?;
        let shift = (&self.bias - (&self.mean * &scale)?)?;
        Ok((scale, shift))
    }
}
