//! What each output of a convolution sees, gathered into one row; and its transposed.
//!
//! One operation on the CPU with one backward pass: made of candle's slices and concatenations it
//! would copy every number twice. The numbers are only moved, so that nothing here rounds; the
//! backward pass adds them in the order of the outputs, picture by picture.

use candle_core::{
    CpuStorage, CustomOp1, Layout, Result as TensorResult, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use super::kernel::Window;

/// From so many numbers on, the threads share the work.
const SHARED: usize = 1 << 18;

/// `[b, h, w, c]` to the rows `[count·w', kernel·kernel·c]` of `count` lines of the output.
#[derive(Clone, Copy)]
pub(super) struct Gather {
    pub(super) window: Window,
    /// The first line, counted over all pictures.
    pub(super) first: usize,
    pub(super) count: usize,
}

impl Gather {
    /// Calls `run(to, from, length)` for every run of numbers that lie side by side both in the row
    /// (`to`, from the beginning of the line) and in the picture (`from`).
    fn runs(
        &self,
        [height, width, c]: [usize; 3],
        line: usize,
        mut run: impl FnMut(usize, usize, usize),
    ) {
        let Window { kernel: [down, across], stride, padding, dilation, output } = self.window;
        // Taps that are neighbours in the picture go together.
        let (together, apart) = if dilation == 1 { (across, 1) } else { (1, across) };
        for (column, u) in (0..output[1]).flat_map(|column| (0..down).map(move |u| (column, u))) {
            let y = line * stride[0] + u * dilation;
            if y < padding[0] || y >= height + padding[0] {
                continue;
            }
            for v in 0..apart {
                // Pixels of the padded picture, from `start`; those between padding and width exist.
                let start = column * stride[1] + v * dilation;
                let (from, to) =
                    (start.max(padding[1]), (start + together).min(width + padding[1]));
                if from < to {
                    let tap = (column * down + u) * across + v + (from - start);
                    let pixel = (y - padding[0]) * width + from - padding[1];
                    run(tap * c, pixel * c, (to - from) * c);
                }
            }
        }
    }

    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    fn line_length(&self, channels: usize) -> usize {
        self.window.output[1] * self.taps() * channels
    }

    pub(super) fn gather<T: WithDType>(&self, x: &[T], [height, width, c]: [usize; 3]) -> Vec<T> {
        let line_length = self.line_length(c);
        let total = self.count * line_length;
        let at = |i: usize| {
            ((self.first + i) / self.window.output[0], (self.first + i) % self.window.output[0])
        };
        // Even a pool of one thread is another thread.
        if total < SHARED || rayon::current_num_threads() == 1 {
            // The runs come in the order of the row, so that nothing need be cleared before.
            let mut rows = Vec::with_capacity(total);
            for i in 0..self.count {
                let ((picture, line), begin) = (at(i), rows.len());
                let x = &x[picture * height * width * c..];
                self.runs([height, width, c], line, |to, from, length| {
                    rows.resize(begin + to, T::zero());
                    rows.extend_from_slice(&x[from..from + length]);
                });
                rows.resize(begin + line_length, T::zero());
            }
            return rows;
        }
        let mut rows = vec![T::zero(); total];
        rows.par_chunks_mut(line_length).enumerate().for_each(|(i, row)| {
            let (picture, line) = at(i);
            let x = &x[picture * height * width * c..];
            self.runs([height, width, c], line, |to, from, length| {
                row[to..to + length].copy_from_slice(&x[from..from + length]);
            });
        });
        rows
    }

    /// The transposed of [`Self::gather`]: adds the rows to where they came from.
    fn scatter<T: WithDType>(&self, rows: &[T], [b, height, width, c]: [usize; 4]) -> Vec<T> {
        let line_length = self.line_length(c);
        let mut x = vec![T::zero(); b * height * width * c];
        let scatter = |(picture, x): (usize, &mut [T])| {
            let lines = self.window.output[0];
            let begin = picture * lines;
            let from = begin.max(self.first);
            let to = (begin + lines).min(self.first + self.count);
            for line in from..to {
                let row = &rows[(line - self.first) * line_length..];
                self.runs([height, width, c], line - begin, |to, from, length| {
                    let sums = x[from..from + length].iter_mut();
                    sums.zip(&row[to..to + length]).for_each(|(x, &g)| *x += g);
                });
            }
        };
        if rows.len() < SHARED || rayon::current_num_threads() == 1 {
            x.chunks_mut(height * width * c).enumerate().for_each(scatter);
        } else {
            x.par_chunks_mut(height * width * c).enumerate().for_each(scatter);
        }
        x
    }
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "conv2d-gather"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (_, height, width, c) = layout.shape().dims4()?;
        let size = [height, width, c];
        let rows = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(self.gather(part(x, layout)?, size)),
            CpuStorage::F64(x) => CpuStorage::F64(self.gather(part(x, layout)?, size)),
            _ => candle_core::bail!("conv2d: expected f32 or f64"),
        };
        Ok((rows, (self.count * self.window.output[1], self.taps() * c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        let scatter = Scatter { gather: *self, size: x.dims4()?.into() };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&scatter)?))
    }
}

pub(super) struct Scatter {
    pub(super) gather: Gather,
    pub(super) size: [usize; 4],
}

impl CustomOp1 for Scatter {
    fn name(&self) -> &'static str {
        "conv2d-scatter"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let x = match storage {
            CpuStorage::F32(g) => CpuStorage::F32(self.gather.scatter(part(g, layout)?, self.size)),
            CpuStorage::F64(g) => CpuStorage::F64(self.gather.scatter(part(g, layout)?, self.size)),
            _ => candle_core::bail!("conv2d: expected f32 or f64"),
        };
        let [b, height, width, c] = self.size;
        Ok((x, (b, height, width, c).into()))
    }
}

/// The numbers of a contiguous tensor.
pub(super) fn part<'a, T: WithDType>(data: &'a [T], layout: &Layout) -> TensorResult<&'a [T]> {
    match layout.contiguous_offsets().and_then(|(from, to)| data.get(from..to)) {
        Some(part) => Ok(part),
        None => candle_core::bail!("expected a contiguous tensor"),
    }
}

/// The f32 numbers of a contiguous tensor, for operations that have no other dtype.
pub(super) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> TensorResult<&'a [f32]> {
    match storage {
        CpuStorage::F32(data) => part(data, layout),
        _ => candle_core::bail!("expected f32"),
    }
}
