//! Convolutions over pictures as one matrix product each, with a backward pass.
//!
//! The backward pass of candle's `conv2d` takes the padding of the width from the height, and fails
//! with a stride where only one of them is odd. Here the pixels that an output sees are gathered into
//! one row `[b·h·w, kernel·kernel·input]` of a picture with the channels last, and multiplied by the
//! weight, as `conv.rs` does it over time: forward and both gradients are matrix products, and the
//! bits do not depend on the batch size (see `product.rs`). The rows are gathered for some lines of
//! the output at a time: where no gradient is wanted, a large picture does not take nine times its
//! memory. Source of the equation: PyTorch's `Conv2d`,
//!
//! ```text
//! y[o, i, j] = bias[o] + Σ weight[o, c, u, v]·x[c, i·stride + u·dilation − padding, j·stride + v·dilation − padding]
//! ```

use candle_core::{
    CpuStorage, CustomOp1, Layout, Result as TensorResult, Shape, Tensor, WithDType,
};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use super::product::Weight;
use crate::{Error, Result};

/// So many numbers are gathered at a time, or one line of the output if that is more. With a quarter
/// of it a ResNet takes a tenth longer, with four times as many nothing is won.
const GATHERED: usize = 1 << 20;

/// From so many numbers on, the threads share the work.
const SHARED: usize = 1 << 18;

/// How the kernel goes over the picture, alike in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Pixels from one tap to the next.
    pub dilation: usize,
}

impl Geometry {
    /// Length of the output on a side of `length` pixels, or nothing if the kernel does not fit.
    pub(crate) fn output(&self, length: usize, kernel: usize) -> Option<usize> {
        let reach = self.dilation * (kernel - 1) + 1;
        Some((length + 2 * self.padding).checked_sub(reach)? / self.stride + 1)
    }
}

/// PyTorch's `Conv2d` with a square kernel and without groups.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Kernel,
    bias: Option<Tensor>,
    /// Input channels, output channels, taps on a side.
    sizes: [usize; 3],
    geometry: Geometry,
}

/// The weight of a [`Conv2d`].
#[derive(Clone, Debug)]
enum Kernel {
    /// `[out, input, kernel, kernel]`, as an optimiser changes it.
    Trained(Tensor),
    /// Its inputs in the order of a gathered row, arranged once.
    Fixed(Weight),
}

impl Conv2d {
    /// Loads `weight` `[out, input, kernel, kernel]` and, with `bias`, `bias` `[out]`; a new weight
    /// starts as PyTorch's `Conv2d`: uniform in ±1/√(input·kernel²).
    ///
    /// # Errors
    /// When a size is zero, or a tensor is missing or has another shape.
    pub fn load(
        sizes: [usize; 3],
        geometry: Geometry,
        bias: bool,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let [input, out, kernel] = sizes;
        let bound = 1.0 / ((input * kernel * kernel).max(1) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let layer = Self::load_no_bias(sizes, geometry, init, vb.clone())?;
        let bias = if bias { Some(vb.get_with_hints(out, "bias", init)?) } else { None };
        Ok(Self { bias, ..layer })
    }

    /// Loads `weight` alone; a new one starts with `init`.
    pub(crate) fn load_no_bias(
        sizes: [usize; 3],
        geometry: Geometry,
        init: Init,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let [input, out, kernel] = sizes;
        if sizes.contains(&0) || geometry.stride == 0 || geometry.dilation == 0 {
            return Err(Error::Invalid(format!(
                "conv2d: expected channels, kernel, stride and dilation of at least 1, got {sizes:?} \
                 and {geometry:?}"
            )));
        }
        let weight = vb.get_with_hints((out, input, kernel, kernel), "weight", init)?;
        let weight = match weight.track_op() {
            true => Kernel::Trained(weight),
            false => Kernel::Fixed(Weight::new(as_gathered(&weight)?)?),
        };
        Ok(Self { weight, bias: None, sizes, geometry })
    }

    /// `x` `[b, input, h, w]` to `[b, out, h', w']` with
    /// `h' = (h + 2·padding − dilation·(kernel − 1) − 1)/stride + 1`, rounded down.
    ///
    /// # Errors
    /// When there are other channels or the kernel is larger than the padded picture.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match *x.dims() {
            [_, input, height, width] => {
                self.output([input, height, width])?;
            }
            _ => return Err(Error::shape("conv2d", self.expected(), x.dims())),
        }
        Ok(self.forward_last(&x.permute((0, 2, 3, 1))?)?.permute((0, 3, 1, 2))?)
    }

    /// [`Self::forward`] with the channels last: `x` `[b, h, w, input]` to `[b, h', w', out]`.
    pub(crate) fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let &[batch, height, width, channels] = x.dims() else {
            return Err(Error::shape("conv2d, channels last", self.expected(), x.dims()));
        };
        let [input, out, kernel] = self.sizes;
        let [lines, columns] = self.output([channels, height, width])?;
        let weight = match &self.weight {
            Kernel::Fixed(weight) => weight.clone(),
            Kernel::Trained(weight) => Weight::new(as_gathered(weight)?)?,
        };
        let x = x.contiguous()?;
        let rows = match (kernel, self.geometry) {
            (1, Geometry { stride: 1, padding: 0, .. }) => {
                weight.product(&x.reshape((batch * height * width, input))?)?
            }
            _ => {
                let total = batch * lines;
                let step = (GATHERED / (columns * kernel * kernel * input)).max(1);
                let parts = (0..total).step_by(step).map(|first| {
                    let count = step.min(total - first);
                    let gather = Gather {
                        kernel,
                        geometry: self.geometry,
                        output: [lines, columns],
                        first,
                        count,
                    };
                    weight.product(&x.apply_op1(gather)?)
                });
                Tensor::cat(&parts.collect::<TensorResult<Vec<_>>>()?, 0)?
            }
        };
        let rows = match &self.bias {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        };
        Ok(rows.reshape((batch, lines, columns, out))?)
    }

    /// Height and width of the output for a picture of `[channels, height, width]`.
    fn output(&self, [channels, height, width]: [usize; 3]) -> Result<[usize; 2]> {
        let [input, _, kernel] = self.sizes;
        let side = |length| self.geometry.output(length, kernel);
        match (side(height), side(width)) {
            (Some(lines), Some(columns)) if channels == input => Ok([lines, columns]),
            _ => {
                let got = format!("{channels} channels of {height}×{width} pixels");
                Err(Error::shape("conv2d", self.expected(), got))
            }
        }
    }

    fn expected(&self) -> String {
        let [input, _, kernel] = self.sizes;
        let reach = self.geometry.dilation * (kernel - 1) + 1;
        let padding = self.geometry.padding;
        format!("{input} channels of at least {reach}×{reach} pixels with padding {padding}")
    }
}

/// `[out, input, kernel, kernel]` with the inputs last, as a gathered row has them.
fn as_gathered(weight: &Tensor) -> TensorResult<Tensor> {
    weight.permute((0, 2, 3, 1))?.contiguous()
}

/// `[b, h, w, c]` to the rows `[count·w', kernel·kernel·c]` of `count` lines of the output.
#[derive(Clone, Copy)]
struct Gather {
    kernel: usize,
    geometry: Geometry,
    /// Lines and columns of the output.
    output: [usize; 2],
    /// The first line, counted over all pictures.
    first: usize,
    count: usize,
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
        let Geometry { stride, padding, dilation } = self.geometry;
        let k = self.kernel;
        // Taps that are neighbours in the picture go together.
        let (together, apart) = if dilation == 1 { (k, 1) } else { (1, k) };
        for (column, u) in (0..self.output[1]).flat_map(|column| (0..k).map(move |u| (column, u))) {
            let y = line * stride + u * dilation;
            if y < padding || y >= height + padding {
                continue;
            }
            for v in 0..apart {
                // Pixels of the padded picture, from `start`; those between padding and width exist.
                let start = column * stride + v * dilation;
                let (from, to) = (start.max(padding), (start + together).min(width + padding));
                if from < to {
                    let tap = (column * k + u) * k + v + (from - start);
                    let pixel = (y - padding) * width + from - padding;
                    run(tap * c, pixel * c, (to - from) * c);
                }
            }
        }
    }

    fn line_length(&self, channels: usize) -> usize {
        self.output[1] * self.kernel * self.kernel * channels
    }

    fn gather<T: WithDType>(&self, x: &[T], [height, width, c]: [usize; 3]) -> Vec<T> {
        let line_length = self.line_length(c);
        let mut rows = vec![T::zero(); self.count * line_length];
        let gather = |(i, row): (usize, &mut [T])| {
            let (picture, line) =
                ((self.first + i) / self.output[0], (self.first + i) % self.output[0]);
            let x = &x[picture * height * width * c..];
            self.runs([height, width, c], line, |to, from, length| {
                row[to..to + length].copy_from_slice(&x[from..from + length]);
            });
        };
        if rows.len() < SHARED {
            rows.chunks_mut(line_length).enumerate().for_each(gather);
        } else {
            rows.par_chunks_mut(line_length).enumerate().for_each(gather);
        }
        rows
    }

    /// The transposed of [`Self::gather`]: adds the rows to where they came from.
    fn scatter<T: WithDType>(&self, rows: &[T], [b, height, width, c]: [usize; 4]) -> Vec<T> {
        let line_length = self.line_length(c);
        let mut x = vec![T::zero(); b * height * width * c];
        x.par_chunks_mut(height * width * c).enumerate().for_each(|(picture, x)| {
            let begin = picture * self.output[0];
            let from = begin.max(self.first);
            let to = (begin + self.output[0]).min(self.first + self.count);
            for line in from..to {
                let row = &rows[(line - self.first) * line_length..];
                self.runs([height, width, c], line - begin, |to, from, length| {
                    let sums = x[from..from + length].iter_mut();
                    sums.zip(&row[to..to + length]).for_each(|(x, &g)| *x += g);
                });
            }
        });
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
        Ok((rows, (self.count * self.output[1], self.kernel * self.kernel * c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        let scatter = Scatter { gather: *self, size: x.dims4()?.into() };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&scatter)?))
    }
}

struct Scatter {
    gather: Gather,
    size: [usize; 4],
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
