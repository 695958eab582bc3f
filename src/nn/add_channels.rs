//! `x + v` for a vector of channels, one for all or one per sample, with a backward pass that sums by
//! rows.
//!
//! The gradient of a broadcast sum is a sum over all but the last dimension, which candle does number
//! by number with an index computed for each. Here whole rows are added. f32 on the CPU; anything else
//! takes candle's own way.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result as TensorResult, Shape, Tensor,
};

use super::gather::numbers;
use super::group_norm::column_sums;

/// Adds `v` `[c]` or `[b, c]` to `x` `[b, .., c]`.
pub(super) fn add_channels(x: &Tensor, v: &Tensor) -> TensorResult<Tensor> {
    let dims = x.dims().to_vec();
    let (Some(&batch), Some(&c)) = (dims.first(), dims.last()) else {
        candle_core::bail!("expected [b, .., c], got a scalar");
    };
    if x.dtype() != DType::F32 || !x.device().is_cpu() {
        let mut shape = vec![1; dims.len()];
        shape[dims.len() - 1] = c;
        if v.rank() == 2 {
            shape[0] = batch;
        }
        return x.broadcast_add(&v.reshape(shape)?);
    }
    let rows = if v.rank() == 2 { v.dim(0)? } else { 1 };
    if v.elem_count() != rows * c || (rows != 1 && rows != batch) {
        candle_core::bail!("expected a vector of {c} channels for {dims:?}, got {:?}", v.dims());
    }
    x.contiguous()?.apply_op2(&v.contiguous()?, AddChannels)
}

struct AddChannels;

impl CustomOp2 for AddChannels {
    fn name(&self) -> &'static str {
        "add-channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let c = x_layout.dims().last().copied().unwrap_or(1).max(1);
        let (x, v) = (numbers(x, x_layout)?, numbers(v, v_layout)?);
        let each = (x.len() / (v.len() / c).max(1)).max(1);
        let mut y = Vec::with_capacity(x.len());
        for (x, v) in x.chunks(each).zip(v.chunks(c)) {
            for row in x.chunks(c) {
                y.extend(row.iter().zip(v).map(|(x, v)| x + v));
            }
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
        let c = v.dims().last().copied().unwrap_or(1);
        let rows = grad.contiguous()?.reshape((v.elem_count() / c.max(1), (), c))?;
        let d_v = rows.apply_op1_no_bwd(&SumRows)?.reshape(v.shape())?;
        Ok((Some(grad.clone()), Some(d_v)))
    }
}

/// `[r, n, c]` to `[r, c]`: the sum over n, 64 rows in f32 and those in f64.
struct SumRows;

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (r, n, c) = layout.shape().dims3()?;
        let x = numbers(x, layout)?;
        let mut out = Vec::with_capacity(r * c);
        for x in x.chunks((n * c).max(1)) {
            let sums = column_sums(x, c, |row, sum| {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            });
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
        Ok((CpuStorage::F32(out), (r, c).into()))
    }
}
