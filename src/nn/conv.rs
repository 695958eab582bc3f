//! Convolutions over time as one matrix product each, with a backward pass.
//!
//! candle's `conv_transpose1d` has no backward; the backward of its `conv1d` runs through it, and
//! overflows (a panic with overflow checks) when the time axis is shorter than the kernel, as it is
//! at the bottom of a UNet. Here time is a picture of one line with the channels last (`convolve.rs`):
//! forward and both gradients are matrix products, and the bits do not depend on the batch size.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

use super::convolve::Kernel;
use super::gather::numbers;
use super::kernel::{self, Panels, Window, Windows};
use super::product::{Weight, multiplied, product};

/// PyTorch's `Conv1d` without groups or dilation.
#[derive(Clone, Debug)]
pub struct Conv1d {
    weight: Kernel,
    bias: Tensor,
    /// Input channels, output channels, taps.
    sizes: [usize; 3],
    stride: usize,
    padding: usize,
}

impl Conv1d {
    /// Loads `weight` `[out, input, kernel]` and `bias` `[out]`. `padding` zeros go on both sides.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        [input, out, kernel]: [usize; 3],
        stride: usize,
        padding: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let init = fan_in(input * kernel);
        let weight = vb.get_with_hints((out, input, kernel), "weight", init)?;
        let bias = vb.get_with_hints(out, "bias", init)?;
        let sizes = [input, out, kernel];
        Ok(Self { weight: Kernel::new(weight)?, bias, sizes, stride, padding })
    }

    /// `x` `[b, input, time]` to `[b, out, (time + 2·padding − kernel)/stride + 1]`.
    ///
    /// # Errors
    /// When a shape does not fit or the kernel is longer than the padded input.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_last(&x.transpose(1, 2)?)?.transpose(1, 2)
    }

    /// [`Self::forward`] with the channels last: `x` `[b, time, input]` to `[b, time', out]`.
    ///
    /// # Errors
    /// When a shape does not fit or the kernel is longer than the padded input.
    pub fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let [input, out, kernel] = self.sizes;
        let (batch, time, channels) = x.dims3()?;
        let padded = time + 2 * self.padding;
        if channels != input || padded < kernel {
            candle_core::bail!(
                "conv1d: expected [b, {input}, at least {kernel} with padding], got {batch}, \
                 {channels}, {time} and padding {}",
                self.padding
            );
        }
        let time_out = (padded - kernel) / self.stride + 1;
        let window = Window {
            kernel: [1, kernel],
            stride: [1, self.stride],
            padding: [0, self.padding],
            dilation: 1,
            output: [1, time_out],
        };
        let y = self.weight.forward(&x.unsqueeze(1)?, window, Some(&self.bias))?;
        y.reshape((batch, time_out, out))
    }
}

/// PyTorch's `ConvTranspose1d(dim, dim, kernel 4, stride 2, padding 1)`: doubles the time axis.
///
/// Tap j of input i goes to output 2i + j − 1. Even outputs 2m therefore see only taps 3 and 1 of
/// inputs m − 1 and m, odd outputs 2m + 1 taps 2 and 0 of inputs m and m + 1: two convolutions of
/// two taps, interleaved.
#[derive(Clone, Debug)]
pub struct Upsample1d {
    taps: Taps,
    bias: Tensor,
}

/// The weight of an [`Upsample1d`].
#[derive(Clone, Debug)]
enum Taps {
    /// `[dim, dim, 4]`, as an optimiser changes it.
    Trained(Tensor),
    /// The taps of even and of odd outputs, packed.
    Packed([Arc<Panels>; 2]),
}

impl Upsample1d {
    /// Loads `weight` `[dim, dim, 4]` (input channels first, as PyTorch has it) and `bias` `[dim]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = fan_in(dim * 4);
        let weight = vb.get_with_hints((dim, dim, 4), "weight", init)?;
        let bias = vb.get_with_hints(dim, "bias", init)?;
        // Taps 3 and 1, 2 and 0: from the first of them backwards by two.
        let half = |start: usize| {
            let strides = [4, -2, 4 * dim as isize];
            let layout = kernel::Layout { outputs: dim, taps: 2, channels: dim, start, strides };
            Weight::pack(&weight, layout)
        };
        let taps = match weight.track_op() || bias.track_op() || !super::product::ours(&weight) {
            true => Taps::Trained(weight),
            false => Taps::Packed([half(3)?, half(2)?]),
        };
        Ok(Self { taps, bias })
    }

    /// `x` `[b, dim, time]` to `[b, dim, 2·time]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_last(&x.transpose(1, 2)?)?.transpose(1, 2)
    }

    /// [`Self::forward`] with the channels last: `x` `[b, time, dim]` to `[b, 2·time, dim]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, time, dim) = x.dims3()?;
        let x = x.contiguous()?;
        let weight = match &self.taps {
            Taps::Packed(halves) if !x.track_op() => {
                let op = Interleaved { halves: halves.clone(), bias: self.bias.clone() };
                return x.apply_op1_no_bwd(&op);
            }
            Taps::Packed(_) => candle_core::bail!("upsample1d: a fixed weight passes no gradient"),
            Taps::Trained(weight) => weight,
        };
        // Row i of the padded input is input i − 1.
        let x = x.pad_with_zeros(1, 1, 1)?;
        let phase = |first_row: usize, taps_of_rows: [usize; 2]| -> Result<Tensor> {
            let part = |offset: usize, tap: usize| -> Result<Tensor> {
                let rows = x.narrow(1, first_row + offset, time)?.contiguous()?;
                let weight = weight.narrow(2, tap, 1)?.squeeze(2)?.contiguous()?;
                product(&rows.reshape((batch * time, dim))?, &weight)
            };
            let [first, second] = taps_of_rows;
            (part(0, first)? + part(1, second)?)?.broadcast_add(&self.bias)
        };
        Tensor::stack(&[phase(0, [3, 1])?, phase(1, [2, 0])?], 1)?.reshape((batch, time * 2, dim))
    }
}

/// `[b, time, dim]` to `[b, 2·time, dim]` with packed taps.
struct Interleaved {
    halves: [Arc<Panels>; 2],
    bias: Tensor,
}

impl CustomOp1 for Interleaved {
    fn name(&self) -> &'static str {
        "upsample1d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, time, dim) = layout.shape().dims3()?;
        if self.halves[0].inputs() != 2 * dim {
            candle_core::bail!("upsample1d: expected other channels than {dim}");
        }
        let x = numbers(x, layout)?;
        let half = |which: usize| {
            let window = Window {
                kernel: [1, 2],
                stride: [1, 1],
                padding: [0, 1 - which],
                dilation: 1,
                output: [1, time],
            };
            let rows = Windows::new(x, [batch, 1, time, dim], window);
            multiplied(&rows, &self.halves[which], Some(&self.bias))
        };
        let (even, odd) = (half(0)?, half(1)?);
        let rows = even.chunks(dim.max(1)).zip(odd.chunks(dim.max(1)));
        let y = rows.flat_map(|(even, odd)| even.iter().chain(odd)).copied().collect();
        Ok((CpuStorage::F32(y), (batch, 2 * time, dim).into()))
    }
}

/// PyTorch's default for convolutions: uniform within `1/√fan_in`, weight and bias alike.
fn fan_in(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
