//! Convolutions over time as one matrix product each, with a backward pass.
//!
//! candle's `conv_transpose1d` has no backward; the backward of its `conv1d` runs through it, and
//! overflows (a panic with overflow checks) when the time axis is shorter than the kernel, as it is
//! at the bottom of a UNet. Here the inputs that an output sees are gathered into one row
//! `[b·time, input·kernel]` and multiplied by the weight as it lies in the checkpoint (PyTorch's
//! `[out, input, kernel]`): forward and both gradients are matrix products, and the bits do not
//! depend on the batch size (see `product.rs`).

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::product::{Weight, product};

/// PyTorch's `Conv1d` without groups or dilation.
#[derive(Clone, Debug)]
pub struct Conv1d {
    weight: Weight,
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
        Ok(Self {
            weight: Weight::new(weight)?,
            bias,
            sizes: [input, out, kernel],
            stride,
            padding,
        })
    }

    /// `x` `[b, input, time]` to `[b, out, (time + 2·padding − kernel)/stride + 1]`.
    ///
    /// # Errors
    /// When a shape does not fit or the kernel is longer than the padded input.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [input, out, kernel] = self.sizes;
        let (batch, channels, time) = x.dims3()?;
        let padded = time + 2 * self.padding;
        if channels != input || padded < kernel {
            candle_core::bail!(
                "conv1d: expected [b, {input}, at least {kernel} with padding], got {:?} and padding {}",
                x.dims(),
                self.padding
            );
        }
        let time_out = (padded - kernel) / self.stride + 1;
        let x = pad_time(&x.transpose(1, 2)?, self.padding, self.padding)?;
        let taps = taps(&x, kernel, self.stride, time_out)?;
        let rows = taps.reshape((batch * time_out, input * kernel))?;
        let y = self.weight.product(&rows)?.broadcast_add(&self.bias)?;
        y.reshape((batch, time_out, out))?.transpose(1, 2)
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
    /// `[dim, dim]` each: cut once, not at every call.
    Fixed(Vec<Tensor>),
}

impl Taps {
    fn get(&self, tap: usize) -> Result<Tensor> {
        match self {
            Self::Trained(weight) => weight.narrow(2, tap, 1)?.squeeze(2)?.contiguous(),
            Self::Fixed(taps) => Ok(taps[tap].clone()),
        }
    }
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
        let mut taps = Taps::Trained(weight.clone());
        if !weight.track_op() {
            taps = Taps::Fixed((0..4).map(|tap| taps.get(tap)).collect::<Result<_>>()?);
        }
        Ok(Self { taps, bias })
    }

    /// `x` `[b, dim, time]` to `[b, dim, 2·time]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, dim, time) = x.dims3()?;
        // Row i of the padded input is input i − 1.
        let x = pad_time(&x.transpose(1, 2)?, 1, 1)?;
        let phase = |first_row: usize, taps_of_rows: [usize; 2]| -> Result<Tensor> {
            let part = |offset: usize, tap: usize| -> Result<Tensor> {
                let rows = x.narrow(1, first_row + offset, time)?.contiguous()?;
                product(&rows.reshape((batch * time, dim))?, &self.taps.get(tap)?)
            };
            let [first, second] = taps_of_rows;
            (part(0, first)? + part(1, second)?)?.broadcast_add(&self.bias)
        };
        let both = Tensor::stack(&[phase(0, [3, 1])?, phase(1, [2, 0])?], 1)?;
        both.reshape((batch, time * 2, dim))?.transpose(1, 2)
    }
}

/// PyTorch's default for convolutions: uniform within `1/√fan_in`, weight and bias alike.
fn fan_in(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// `x` `[b, time, c]` with zeros before and after in time.
fn pad_time(x: &Tensor, before: usize, after: usize) -> Result<Tensor> {
    if before + after == 0 {
        return x.contiguous();
    }
    x.contiguous()?.pad_with_zeros(1, before, after)
}

/// The `kernel` inputs that each output sees: `x` `[b, time, c]` to `[b, time_out, c, kernel]`.
///
/// Tap j of output i is input `i·stride + j`. Time is folded to `[rows, stride]`, so that a strided
/// tap is a column, and slicing (which has a backward pass) is enough.
fn taps(x: &Tensor, kernel: usize, stride: usize, time_out: usize) -> Result<Tensor> {
    let (batch, time, channels) = x.dims3()?;
    if kernel == 1 && stride == 1 {
        return x.unsqueeze(3);
    }
    let rows = time_out + (kernel - 1) / stride;
    let x = match rows * stride {
        wanted if wanted > time => x.pad_with_zeros(1, 0, wanted - time)?,
        wanted => x.narrow(1, 0, wanted)?,
    };
    let folded = x.contiguous()?.reshape((batch, rows, stride, channels))?;
    let taps = (0..kernel)
        .map(|j| {
            folded
                .narrow(2, j % stride, 1)?
                .squeeze(2)?
                .narrow(1, j / stride, time_out)?
                .contiguous()
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::stack(&taps, 3)
}
