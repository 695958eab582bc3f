//! Normalisations with a backward pass.
//!
//! candle-nn's `LayerNorm` and `RmsNorm` run fused kernels that silently cut the gradient. These are
//! written with plain tensor operations; half precision is widened to f32 inside.

use candle_core::{D, DType, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use super::activation::mish;
use super::group_norm::{Act, NormAct};
use super::rows::NormRows;
use super::softmax::widen;
use crate::{Error, Result};

/// Layer normalisation over the last dimension: `weight·(x − mean)/√(var + eps) + bias`.
/// Source: Ba, Kiros, Hinton 2016, equation 3.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight` and `bias`, both `[dim]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(dim: usize, eps: f64, vb: VarBuilder<'_>) -> TensorResult<Self> {
        let (weight, bias) = scale_and_shift(dim, &vb)?;
        Ok(Self { weight, bias, eps })
    }

    /// `x` `[.., dim]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension is not `dim`.
    pub fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        let fits = x.dims().last() == Some(&self.weight.elem_count()) && x.elem_count() > 0;
        if x.dtype() == DType::F32 && x.device().is_cpu() && fits {
            let (weight, bias) = (self.weight.contiguous()?, self.bias.contiguous()?);
            let rows = x.contiguous()?.reshape(((), weight.elem_count()))?;
            return rows.apply_op3(&weight, &bias, NormRows { eps: self.eps })?.reshape(x.shape());
        }
        self.plain(x)
    }

    /// The same of tensor operations, in any dtype and on any device.
    pub(super) fn plain(&self, x: &Tensor) -> TensorResult<Tensor> {
        let y = standardise(&widen(x)?, self.eps)?.to_dtype(x.dtype())?;
        y.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Normalisation by the root mean square of the last dimension: `weight·x/√(mean(x²) + eps)`.
/// Source: Zhang, Sennrich 2019, equation 4.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight` `[dim]`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn load(dim: usize, eps: f64, vb: VarBuilder<'_>) -> TensorResult<Self> {
        Ok(Self { weight: vb.get_with_hints(dim, "weight", candle_nn::init::ONE)?, eps })
    }

    /// `x` `[.., dim]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension is not `dim`.
    pub fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        let wide = widen(x)?;
        let inverse = inverse_root(&wide.sqr()?.mean_keepdim(D::Minus1)?, self.eps)?;
        wide.broadcast_mul(&inverse)?.to_dtype(x.dtype())?.broadcast_mul(&self.weight)
    }
}

/// Group normalisation: mean and variance over each of `groups` of the channels and all that
/// follows them, scale and shift per channel. Source: Wu, He 2018.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Loads `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// When `channels` is no multiple of `groups`, or a tensor is missing or has another shape.
    pub fn load(channels: usize, groups: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Invalid(format!(
                "group norm: expected channels a multiple of the groups, got {channels} and {groups}"
            )));
        }
        let (weight, bias) = scale_and_shift(channels, &vb)?;
        Ok(Self { weight, bias, groups, eps })
    }

    /// `x` `[b, channels, ..]` to the same shape: `[b, c, t]` and `[b, c, h, w]` alike.
    ///
    /// # Errors
    /// When there are other channels or fewer than three dimensions.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        if let ([_, c, _, ..], DType::F32, true) = (x.dims(), x.dtype(), x.device().is_cpu())
            && *c == channels
            && x.elem_count() > 0
        {
            // The channels go last, where our networks have them anyway: then nothing is moved.
            let order: Vec<usize> = [0].into_iter().chain(2..x.rank()).chain([1]).collect();
            let last = x.permute(order)?;
            let flat = last.contiguous()?.reshape((x.dim(0)?, 1, (), channels))?;
            let back: Vec<usize> = [0, x.rank() - 1].into_iter().chain(1..x.rank() - 1).collect();
            return Ok(self.last(&flat, Act::None)?.reshape(last.shape())?.permute(back)?);
        }
        let mut per_channel = vec![1; x.rank()];
        match *x.dims() {
            [batch, c, _, ..] if c == channels => {
                per_channel[1] = channels;
                let y = standardise(&widen(x)?.reshape((batch, self.groups, ()))?, self.eps)?;
                let y = y.to_dtype(x.dtype())?.reshape(x.shape())?;
                let y = y.broadcast_mul(&self.weight.reshape(per_channel.as_slice())?)?;
                Ok(y.broadcast_add(&self.bias.reshape(per_channel)?)?)
            }
            _ => Err(Error::shape("group norm", format!("[b, {channels}, ..]"), x.dims())),
        }
    }

    /// [`Self::forward_last`], then SiLU: what stands before every convolution of a UNet or autoencoder.
    pub(crate) fn silu_last(&self, x: &Tensor) -> TensorResult<Tensor> {
        self.last(x, Act::Silu)
    }

    /// [`Self::forward_last`], then Mish, over a time axis: `x` `[b, t, channels]`.
    pub(crate) fn mish_over_time(&self, x: &Tensor) -> TensorResult<Tensor> {
        self.last(&x.unsqueeze(1)?, Act::Mish)?.squeeze(1)
    }

    /// [`Self::forward`] with the channels last: `x` `[b, h, w, channels]`, in f32 or f64.
    pub(crate) fn forward_last(&self, x: &Tensor) -> TensorResult<Tensor> {
        self.last(x, Act::None)
    }

    fn last(&self, x: &Tensor, act: Act) -> TensorResult<Tensor> {
        if x.dtype() == DType::F32 && x.device().is_cpu() {
            let op = NormAct { groups: self.groups, eps: self.eps, act };
            let (weight, bias) = (self.weight.contiguous()?, self.bias.contiguous()?);
            return x.contiguous()?.apply_op3(&weight, &bias, op);
        }
        let y = self.plain_last(x)?;
        match act {
            Act::None => Ok(y),
            Act::Silu => y.silu(),
            Act::Mish => mish(&y),
        }
    }

    /// The same of tensor operations, in any dtype and on any device.
    fn plain_last(&self, x: &Tensor) -> TensorResult<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let size = channels / self.groups;
        let inverse_count = 1.0 / (height * width * size) as f64;
        let mean = |x: &Tensor| group_sums(x, self.groups)?.affine(inverse_count, 0.0);
        let per_channel = |per_group: &Tensor| {
            let per_group = per_group.unsqueeze(2)?.broadcast_as((batch, self.groups, size))?;
            per_group.reshape((batch, 1, 1, channels))
        };
        let centred = x.broadcast_sub(&per_channel(&mean(x)?)?)?;
        let inverse = inverse_root(&mean(&centred.sqr()?)?, self.eps)?;
        let scale = per_channel(&inverse)?.broadcast_mul(&self.weight)?;
        centred.broadcast_mul(&scale)?.broadcast_add(&self.bias)
    }
}

/// The sum over all pixels of each group of channels: `x` `[b, h, w, c]` to `[b, groups]`.
fn group_sums(x: &Tensor, groups: usize) -> TensorResult<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    // Line by line as a product with ones, which is many times faster than a sum over a middle
    // dimension; no sum has more than a line's terms before the lines are added.
    let ones = Tensor::ones((batch * height, 1, width), x.dtype(), x.device())?;
    let lines = ones.matmul(&x.reshape((batch * height, width, channels))?)?;
    let lines = lines.reshape((batch, height, groups, channels / groups))?;
    lines.transpose(1, 2)?.contiguous()?.flatten_from(2)?.sum(2)
}

fn scale_and_shift(dim: usize, vb: &VarBuilder<'_>) -> TensorResult<(Tensor, Tensor)> {
    let weight = vb.get_with_hints(dim, "weight", candle_nn::init::ONE)?;
    Ok((weight, vb.get_with_hints(dim, "bias", candle_nn::init::ZERO)?))
}

/// `(x − mean)/√(var + eps)` over the last dimension; the variance divides by n.
pub(super) fn standardise(x: &Tensor, eps: f64) -> TensorResult<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_mul(&inverse_root(&variance, eps)?)
}

fn inverse_root(square: &Tensor, eps: f64) -> TensorResult<Tensor> {
    (square + eps)?.sqrt()?.recip()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::flow::Noise;

    fn normal(sample: u64, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor::from_vec(Noise::new(3).normal(sample, 0, n), shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        largest(&(a - b).unwrap()) / largest(b)
    }

    /// Values and all three gradients, far from zero mean, with each activation.
    #[test]
    fn the_fused_norm_is_the_plain_one() {
        for (shape, groups, act) in [
            ([3, 5, 7, 12], 4, Act::Silu),
            ([2, 16, 16, 32], 32, Act::Silu),
            ([1, 9, 1, 6], 1, Act::None),
            ([1, 1, 16, 24], 8, Act::Mish),
            ([1, 70, 40, 32], 4, Act::Mish),
        ] {
            let x = Var::from_tensor(&(normal(0, &shape) + 3.0).unwrap()).unwrap();
            let weight = Var::from_tensor(&normal(1, &shape[3..])).unwrap();
            let bias = Var::from_tensor(&normal(2, &shape[3..])).unwrap();
            let (w, b) = (weight.as_tensor().clone(), bias.as_tensor().clone());
            let norm = GroupNorm { weight: w, bias: b, groups, eps: 1e-5 };
            let fused = norm.last(&x, act).unwrap();
            let plain = norm.plain_last(&x).unwrap();
            let plain = match act {
                Act::None => plain,
                Act::Silu => plain.silu().unwrap(),
                Act::Mish => mish(&plain).unwrap(),
            };
            assert!(gap(&fused, &plain) < 2e-6, "{}", gap(&fused, &plain));
            let seen = normal(4, &shape);
            let grads = |y: &Tensor| (y * &seen).unwrap().sum_all().unwrap().backward().unwrap();
            let (fused, plain) = (grads(&fused), grads(&plain));
            for var in [&x, &weight, &bias] {
                let gap = gap(fused.get(var).unwrap(), plain.get(var).unwrap());
                assert!(gap < 3e-6, "{gap}");
            }
        }
    }
}
