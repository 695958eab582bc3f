//! Convolutions over pictures as one matrix product each, with a backward pass.
//!
//! The backward pass of candle's `conv2d` takes the padding of the width from the height, and fails
//! with a stride where only one of them is odd. Here the channels lie last, forward and both gradients are
//! matrix products (`convolve.rs`), and the bits do not depend on the batch size. Source of the equation:
//! PyTorch's `Conv2d`,
//!
//! ```text
//! y[o, i, j] = bias[o] + Σ weight[o, c, u, v]·x[c, i·stride + u·dilation − padding, j·stride + v·dilation − padding]
//! ```

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::convolve::Kernel;
use super::kernel::Window;
use crate::{Error, Result};

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
        Ok(Self { weight: Kernel::new(weight)?, bias: None, sizes, geometry })
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
        let &[_, height, width, channels] = x.dims() else {
            return Err(Error::shape("conv2d, channels last", self.expected(), x.dims()));
        };
        let Geometry { stride, padding, dilation } = self.geometry;
        let window = Window {
            kernel: [self.sizes[2]; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            dilation,
            output: self.output([channels, height, width])?,
        };
        Ok(self.weight.forward(x, window, self.bias.as_ref())?)
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
