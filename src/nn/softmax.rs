//! Softmax over the last dimension, with a backward pass.
//!
//! `e^(x − max)/Σ e^(x − max)`. candle-nn's `softmax_last_dim` is one fused kernel that silently cuts
//! the gradient. The largest element is a constant here: its gradient is zero in exact arithmetic.

use candle_core::{D, DType, Result, Tensor};

use super::rows::SoftmaxRows;

/// Softmax of `x` `[.., n]`; half precision is widened to f32 inside. A row may hold −∞, but not only.
///
/// # Errors
/// When a tensor operation fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let c = x.dims().last().copied().unwrap_or(0);
    if x.dtype() == DType::F32 && x.device().is_cpu() && x.rank() > 0 && x.elem_count() > 0 {
        let rows = x.contiguous()?.reshape(((), c))?;
        return rows.apply_op1(SoftmaxRows)?.reshape(x.shape());
    }
    plain(x)
}

/// The same of tensor operations, in any dtype and on any device.
pub(super) fn plain(x: &Tensor) -> Result<Tensor> {
    let wide = widen(x)?;
    let max = wide.max_keepdim(D::Minus1)?.detach();
    let e = wide.broadcast_sub(&max)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.to_dtype(x.dtype())
}

/// Half precision as f32, anything else as it is.
pub(super) fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}
