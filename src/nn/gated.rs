//! A gated GELU, one operation in both directions: `a·gelu(g)` of a row `[a, g]`.
//!
//! ```text
//! y = a·g·Φ(g);   da = dy·g·Φ(g),  dg = dy·a·(Φ(g) + g·φ(g)),  Φ = (1 + erf(g/√2))/2,  φ = e^(−g²/2)/√(2π)
//! ```
//!
//! Source: Shazeer 2020 (GEGLU); Hendrycks, Gimpel 2016. For f32 on the CPU; of tensor operations it was
//! a tenth of a transformer's training.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Result as TensorResult, Shape, Tensor,
};

use super::activation::gelu;
use super::gather::numbers;
use super::rows::by_rows;
use super::simd::{erf, exp, vectorised};

/// `x` `[.., 2n]` to `[.., n]`: the first half of each row times the GELU of the second.
pub(super) fn gated_gelu(x: &Tensor) -> TensorResult<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    if x.dtype() == DType::F32 && x.device().is_cpu() && x.elem_count() > 0 {
        return x.contiguous()?.apply_op1(Gated);
    }
    plain(x, n)
}

/// The same of tensor operations, in any dtype and on any device.
fn plain(x: &Tensor, n: usize) -> TensorResult<Tensor> {
    let gate = x.narrow(D::Minus1, n, n)?.contiguous()?;
    x.narrow(D::Minus1, 0, n)? * gelu(&gate)?
}

/// Φ(x), the share of a normal distribution below x.
#[inline(always)]
fn below(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

fn halves(layout: &Layout) -> TensorResult<(Shape, usize)> {
    let mut dims = layout.dims().to_vec();
    match dims.last_mut() {
        Some(last) if last.is_multiple_of(2) => {
            *last /= 2;
            let n = *last;
            Ok((dims.into(), n))
        }
        _ => candle_core::bail!("gated gelu: expected [.., 2n], got {dims:?}"),
    }
}

struct Gated;

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (shape, n) = halves(layout)?;
        let x = numbers(x, layout)?;
        let mut y = vec![0f32; x.len() / 2];
        by_rows(&mut y, n, |first, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(n).zip(x[2 * n * first..].chunks_exact(2 * n))
                    {
                        let (a, g) = x.split_at(n);
                        for ((y, a), g) in y.iter_mut().zip(a).zip(g) {
                            *y = a * (g * below(*g));
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&grad.contiguous()?, &Gradient)?))
    }
}

/// x and the gradient of y: the gradient of x.
struct Gradient;

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "gated-gelu-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (_, n) = halves(x_layout)?;
        let (x, grad) = (numbers(x, x_layout)?, numbers(grad, grad_layout)?);
        let density = std::f32::consts::FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI / 2.0;
        let mut d_x = vec![0f32; x.len()];
        by_rows(&mut d_x, 2 * n, |first, d_x| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = x[2 * n * first..].chunks_exact(2 * n);
                    let rows = rows.zip(grad[n * first..].chunks_exact(n));
                    for (d_x, (x, grad)) in d_x.chunks_exact_mut(2 * n).zip(rows) {
                        let ((a, g), (d_a, d_g)) = (x.split_at(n), d_x.split_at_mut(n));
                        for (i, d) in grad.iter().enumerate() {
                            let (a, g) = (a[i], g[i]);
                            let share = below(g);
                            d_a[i] = d * (g * share);
                            d_g[i] = d * a * (share + g * density * exp(-0.5 * g * g));
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(d_x), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::flow::Noise;

    #[test]
    fn it_is_what_the_plain_one_is() {
        for (rows, n) in [(1, 1), (3, 7), (70, 64), (300, 256)] {
            let z = Noise::new(6).normal(0, 0, rows * 2 * n);
            let x = Tensor::from_vec(z, (rows, 2 * n), &Device::Cpu).unwrap();
            let x = Var::from_tensor(&(x * 3.0).unwrap()).unwrap();
            let seen = Noise::new(6).normal(1, 0, rows * n);
            let seen = Tensor::from_vec(seen, (rows, n), &Device::Cpu).unwrap();
            let slope = |y: &Tensor| {
                let grads = (y * &seen).unwrap().sum_all().unwrap().backward().unwrap();
                grads.get(&x).unwrap().clone()
            };
            let (fused, plain) = (gated_gelu(&x).unwrap(), plain(&x, n).unwrap());
            for (a, b) in [(&fused, &plain), (&slope(&fused), &slope(&plain))] {
                assert_eq!(a.dims(), b.dims());
                let most =
                    |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let gap = most(&(a - b).unwrap()) / most(b);
                assert!(gap < 5e-7, "{rows} {n}: {gap}");
            }
        }
    }
}
