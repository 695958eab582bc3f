//! Conditional flow matching: regress the network's velocity on the conditional one.
//!
//! `L = E‖v_θ(x_t, t) − (α'·data + σ'·noise)‖²` has the same gradient as the regression on the
//! marginal velocity `E[α'·data + σ'·noise | x_t]`, which nobody can evaluate. Source: Lipman et
//! al. 2023, theorem 2.

use candle_core::{Device, Tensor};

use super::path::{Coef, Path};
use crate::{Error, Result};

/// Where each sample of a batch is on its path, and how fast it moves there.
#[derive(Clone, Debug)]
pub struct CfmBatch {
    /// The state `x_t`, shape of the data.
    pub x_t: Tensor,
    /// The velocity in the path's own time, shape of the data: what the network must predict.
    pub velocity: Tensor,
}

/// States and velocities of the samples `data` `[b, ..]` and `noise` `[b, ..]` at the path's own
/// times `t`, one per sample.
///
/// # Errors
/// When data and noise differ in shape, or the number of times is not b.
pub fn cfm(path: &Path, data: &Tensor, noise: &Tensor, t: &[f64]) -> Result<CfmBatch> {
    if data.dims() != noise.dims() || data.dims().first() != Some(&t.len()) {
        return Err(Error::Invalid(format!(
            "flow matching: expected data and noise of one shape [b, ..] and b times, \
             got {:?}, {:?} and {} times",
            data.dims(),
            noise.dims(),
            t.len()
        )));
    }
    let coefs: Vec<Coef> = t.iter().map(|&t| path.at(t)).collect();
    let mut column_shape = vec![1; data.rank()];
    column_shape[0] = t.len();
    let column = |of: fn(&Coef) -> f64| -> Result<Tensor> {
        let values: Vec<f64> = coefs.iter().map(of).collect();
        let column = Tensor::from_vec(values, column_shape.as_slice(), &Device::Cpu)?;
        Ok(column.to_dtype(data.dtype())?.to_device(data.device())?)
    };
    let combine = |a: Tensor, b: Tensor| -> Result<Tensor> {
        Ok((data.broadcast_mul(&a)? + noise.broadcast_mul(&b)?)?)
    };
    Ok(CfmBatch {
        x_t: combine(column(|c| c.alpha)?, column(|c| c.sigma)?)?,
        velocity: combine(column(|c| c.d_alpha)?, column(|c| c.d_sigma)?)?,
    })
}

/// The mean over all elements of `weight·(pred − target)²`, a scalar. `weight` is broadcast to the
/// shape of `pred`; elements of weight 0 still count in the mean, as in LeRobot's padding mask.
///
/// # Errors
/// When the shapes do not fit.
pub fn mse(pred: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
    let squared = (pred - target)?.sqr()?;
    let squared = match weight {
        Some(weight) => squared.broadcast_mul(weight)?,
        None => squared,
    };
    Ok(squared.mean_all()?)
}
