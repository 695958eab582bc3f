//! A convolution over the channels last, as matrix products: `[b, h, w, c]` to `[b, h', w', out]`.
//!
//! For f32 on the CPU it is one operation each way, and what an output sees is never copied on the way
//! there (see `kernel/`): made of a gathering and a product, the gradient of the gathered rows, nine times as
//! large as the picture, would pass through candle's store of gradients, which clears and adds each.
//!
//! ```text
//! y = seen(x)·Wᵀ;   dW = dyᵀ·seen(x),   dx = seen(dy)·W with the taps in reverse, or scattered with a stride
//! ```
//!
//! Other numbers take the gathered rows (`gather.rs`) and `product.rs`.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result as TensorResult, Shape, Tensor,
};

use super::add_channels::add_channels;
use super::gather::{Gather, Scatter, numbers};
use super::kernel::{self, Panels, Storage, Target, Window, Windows};
use super::product::{Weight, multiplied, ours, outer, times};

/// So many numbers are gathered at a time, or one line of the output if that is more. With a quarter
/// of it a ResNet takes a tenth longer, with four times as many nothing is won.
const GATHERED: usize = 1 << 20;

/// The weight of a convolution.
#[derive(Clone, Debug)]
pub(super) enum Kernel {
    /// `[out, c, taps..]`, as an optimiser changes it.
    Trained(Tensor),
    /// Its inputs tap by tap, arranged once.
    Fixed(Weight),
}

impl Kernel {
    /// Takes `weight` `[out, c, taps..]`.
    pub(super) fn new(weight: Tensor) -> TensorResult<Self> {
        Ok(match weight.track_op() {
            true => Self::Trained(weight),
            false => Self::Fixed(Weight::convolution(&weight)?),
        })
    }

    /// `x` `[b, h, w, c]` through the window to `[b, h', w', out]`, with a bias `[out]` added.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        window: Window,
        bias: Option<&Tensor>,
    ) -> TensorResult<Tensor> {
        let x = x.contiguous()?;
        let learns = |bias: &&Tensor| bias.track_op();
        match self {
            Self::Fixed(Weight::Packed(panels)) if !x.track_op() && !window.is_point() => {
                let inside = bias.filter(|bias| !learns(bias)).cloned();
                let op = Seen { panels: panels.clone(), window, bias: inside };
                let y = x.apply_op1_no_bwd(&op)?;
                with_bias(y, bias.filter(learns))
            }
            Self::Fixed(weight) => rows(&x, weight, window, bias),
            Self::Trained(weight) if ours(weight) && ours(&x) && !window.is_point() => {
                with_bias(x.apply_op2(&weight.contiguous()?, Convolve { window })?, bias)
            }
            Self::Trained(weight) => {
                let weight = weight.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
                rows(&x, &Weight::new(weight)?, window, bias)
            }
        }
    }
}

fn with_bias(y: Tensor, bias: Option<&Tensor>) -> TensorResult<Tensor> {
    match bias {
        Some(bias) => add_channels(&y, bias),
        None => Ok(y),
    }
}

/// The rows that the outputs see, some lines of the output at a time, times a weight.
fn rows(
    x: &Tensor,
    weight: &Weight,
    window: Window,
    bias: Option<&Tensor>,
) -> TensorResult<Tensor> {
    let (batch, height, width, c) = x.dims4()?;
    let [lines, columns] = window.output;
    let y = if window.is_point() {
        weight.affine(&x.reshape((batch * height * width, c))?, bias)?
    } else {
        let total = batch * lines;
        let step = (GATHERED / (columns * window.taps() * c).max(1)).max(1);
        let parts = (0..total).step_by(step).map(|first| {
            let gather = Gather { window, first, count: step.min(total - first) };
            weight.affine(&x.apply_op1(gather)?, bias)
        });
        Tensor::cat(&parts.collect::<TensorResult<Vec<_>>>()?, 0)?
    };
    let out = y.dim(1)?;
    y.reshape((batch, lines, columns, out))
}

/// A convolution in which nothing learns.
struct Seen {
    panels: Arc<Panels>,
    window: Window,
    bias: Option<Tensor>,
}

impl CustomOp1 for Seen {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        if c * self.window.taps() != self.panels.inputs() {
            candle_core::bail!("convolution: expected other channels than {c}");
        }
        let rows = Windows::new(numbers(x, layout)?, [b, h, w, c], self.window);
        let y = multiplied(&rows, &self.panels, self.bias.as_ref())?;
        let [lines, columns] = self.window.output;
        Ok((CpuStorage::F32(y), (b, lines, columns, self.panels.outputs()).into()))
    }
}

/// `x` `[b, h, w, c]` and `weight` `[out, c, taps..]`, which learns, to `[b, h', w', out]`.
struct Convolve {
    window: Window,
}

impl CustomOp2 for Convolve {
    fn name(&self) -> &'static str {
        "convolution-learn"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, c) = x_layout.shape().dims4()?;
        let out = weight_layout.dims().first().copied().unwrap_or(0);
        let layout = kernel::Layout::convolution(out, c, self.window.taps());
        let panels = Panels::pack(numbers(weight, weight_layout)?, layout, Storage::F32);
        let rows = Windows::new(numbers(x, x_layout)?, [b, h, w, c], self.window);
        let y = kernel::multiply(&rows, &panels, Target::default());
        let [lines, columns] = self.window.output;
        Ok((CpuStorage::F32(y), (b, lines, columns, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
        let (b, h, w, c) = x.dims4()?;
        let (out, taps) = (weight.dim(0)?, self.window.taps());
        let [lines, columns] = self.window.output;
        let wanted = x.track_op();
        let (grad, x, weight) = (grad.contiguous()?, x.detach(), weight.detach());
        let d_x = match self.window.reversed([h, w]) {
            _ if !wanted || b == 0 => None,
            Some(window) => {
                Some(grad.apply_op2_no_bwd(&weight.contiguous()?, &Reversed { window, c, taps })?)
            }
            None => {
                let turned = weight.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
                let rows = times(&grad.reshape(((), out))?, &turned.flatten_from(1)?)?;
                let gather = Gather { window: self.window, first: 0, count: b * lines };
                Some(rows.apply_op1_no_bwd(&Scatter { gather, size: [b, h, w, c] })?)
            }
        };
        let together = (GATHERED / (lines * columns * taps * c).max(1)).max(1);
        let mut d_weight: Option<Tensor> = None;
        for first in (0..b).step_by(together) {
            let count = together.min(b - first);
            let gather = Gather { window: self.window, first: 0, count: count * lines };
            let rows = x.narrow(0, first, count)?.apply_op1_no_bwd(&gather)?;
            let grad = grad.narrow(0, first, count)?.reshape((count * lines * columns, out))?;
            let share = outer(&grad, &rows)?;
            d_weight = Some(match d_weight {
                Some(sum) => (sum + share)?,
                None => share,
            });
        }
        let turn = |d: Tensor| {
            d.reshape((out, taps, c))?.transpose(1, 2)?.contiguous()?.reshape(weight.shape())
        };
        Ok((d_x, d_weight.map(turn).transpose()?))
    }
}

/// The gradient of the picture, where the window moves by one pixel: the gradient of the output seen through
/// the window in reverse.
struct Reversed {
    window: Window,
    c: usize,
    taps: usize,
}

impl CustomOp2 for Reversed {
    fn name(&self) -> &'static str {
        "convolution-reversed"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, out) = layout.shape().dims4()?;
        let reversed = kernel::Layout::reversed(out, self.c, self.taps);
        let panels = Panels::pack(numbers(weight, weight_layout)?, reversed, Storage::F32);
        let rows = Windows::new(numbers(grad, layout)?, [b, h, w, out], self.window);
        let d_x = kernel::multiply(&rows, &panels, Target::default());
        let [lines, columns] = self.window.output;
        Ok((CpuStorage::F32(d_x), Shape::from_dims(&[b, lines, columns, self.c])))
    }
}
