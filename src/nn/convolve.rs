//! A convolution of pictures as one operation, for training.
//!
//! Made of a gathering and a product, the gradient of the gathered rows, nine times as large as the
//! picture, would pass through candle's store of gradients, which clears and adds each: a third of a
//! training's time. Here the rows are made, used and forgotten, some pictures at a time, in both
//! directions; they are gathered once more on the way back, which is cheaper than to keep them.
//!
//! ```text
//! rows = gather(x),  y = rows·Wᵀ;   dW = dyᵀ·rows,  dx = scatter(dy·W)
//! ```
//!
//! The weight is taken as a checkpoint has it and turned here, which keeps that out of the graph too.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result as TensorResult, Shape, Storage,
    Tensor, WithDType,
};

use super::conv2d::{GATHERED, Geometry};
use super::gather::{Gather, Scatter, part};
use super::product::Weight;

/// `x` `[b, h, w, c]` and `weight` `[out, c, kernel, kernel]` to `[b, h', w', out]`.
#[derive(Clone, Copy)]
pub(super) struct Convolve {
    pub(super) kernel: usize,
    pub(super) geometry: Geometry,
    /// Lines and columns of the output.
    pub(super) output: [usize; 2],
}

impl Convolve {
    /// For so many pictures at a time, where one has `c` channels.
    fn together(&self, c: usize) -> usize {
        (GATHERED / (self.output[0] * self.output[1] * self.kernel * self.kernel * c)).max(1)
    }

    fn gather(&self, pictures: usize) -> Gather {
        Gather {
            kernel: self.kernel,
            geometry: self.geometry,
            output: self.output,
            first: 0,
            count: pictures * self.output[0],
        }
    }

    fn forward<T: WithDType>(
        &self,
        x: &[T],
        [_, h, w, c]: [usize; 4],
        weight: &[T],
        out: usize,
    ) -> TensorResult<Vec<T>> {
        let taps = self.kernel * self.kernel;
        let inputs = taps * c;
        let turn = Turn { rows: c, columns: taps };
        let weight = Tensor::from_vec(turn.each(weight), (out, inputs), &Device::Cpu)?;
        let weight = Weight::new(weight)?;
        let pixels = self.output[0] * self.output[1];
        let mut y = Vec::with_capacity(x.len() / (h * w * c).max(1) * pixels * out);
        for x in x.chunks(self.together(c) * h * w * c) {
            let gather = self.gather(x.len() / (h * w * c));
            let rows = gather.gather(x, [h, w, c]);
            let count = rows.len() / inputs;
            let rows = Tensor::from_vec(rows, (count, inputs), &Device::Cpu)?;
            let product = weight.product(&rows)?.contiguous()?;
            let (storage, layout) = product.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else {
                candle_core::bail!("conv2d: expected a tensor on the CPU");
            };
            y.extend_from_slice(part(storage.as_slice()?, layout)?);
        }
        Ok(y)
    }
}

impl CustomOp2 for Convolve {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, c) = x_layout.shape().dims4()?;
        let (out, _, _, _) = weight_layout.shape().dims4()?;
        let size = [b, h, w, c];
        let y = match (x, weight) {
            (CpuStorage::F32(x), CpuStorage::F32(weight)) => CpuStorage::F32(self.forward(
                part(x, x_layout)?,
                size,
                part(weight, weight_layout)?,
                out,
            )?),
            (CpuStorage::F64(x), CpuStorage::F64(weight)) => CpuStorage::F64(self.forward(
                part(x, x_layout)?,
                size,
                part(weight, weight_layout)?,
                out,
            )?),
            _ => candle_core::bail!("conv2d: expected f32 or f64"),
        };
        Ok((y, (b, self.output[0], self.output[1], out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
        let (b, h, w, c) = x.dims4()?;
        let (out, taps) = (weight.dim(0)?, self.kernel * self.kernel);
        let x = x.detach();
        let turned = weight.detach().apply_op1_no_bwd(&Turn { rows: c, columns: taps })?;
        let turned = turned.reshape((out, taps * c))?;
        let (together, rows_each) = (self.together(c), self.output[0] * self.output[1]);
        let grad = grad.contiguous()?.reshape((b * rows_each, out))?;
        let mut d_weight: Option<Tensor> = None;
        let mut d_x = Vec::new();
        for first in (0..b).step_by(together) {
            let count = together.min(b - first);
            let gather = self.gather(count);
            let rows = x.narrow(0, first, count)?.apply_op1_no_bwd(&gather)?;
            let grad = grad.narrow(0, first * rows_each, count * rows_each)?;
            let share = grad.t()?.matmul(&rows)?;
            d_weight = Some(match d_weight {
                Some(sum) => (sum + share)?,
                None => share,
            });
            drop(rows);
            let scatter = Scatter { gather, size: [count, h, w, c] };
            d_x.push(grad.matmul(&turned)?.apply_op1_no_bwd(&scatter)?);
        }
        let d_x = match d_x.len() {
            0 => None,
            1 => d_x.pop(),
            _ => Some(Tensor::cat(&d_x, 0)?),
        };
        let turn = |d: Tensor| d.apply_op1_no_bwd(&Turn { rows: taps, columns: c });
        let d_weight = d_weight.map(|d| turn(d)?.reshape(weight.shape())).transpose()?;
        Ok((d_x, d_weight))
    }
}

/// Many small matrices `[rows, columns]` behind each other, each transposed.
struct Turn {
    rows: usize,
    columns: usize,
}

impl Turn {
    fn each<T: WithDType>(&self, from: &[T]) -> Vec<T> {
        let mut to = Vec::with_capacity(from.len());
        for matrix in from.chunks_exact((self.rows * self.columns).max(1)) {
            for column in 0..self.columns {
                to.extend(matrix[column..].iter().step_by(self.columns));
            }
        }
        to
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let turned = match storage {
            CpuStorage::F32(all) => CpuStorage::F32(self.each(part(all, layout)?)),
            CpuStorage::F64(all) => CpuStorage::F64(self.each(part(all, layout)?)),
            _ => candle_core::bail!("conv2d: expected f32 or f64"),
        };
        Ok((turned, layout.shape().clone()))
    }
}
