//! Layer normalisation and softmax by rows, each one operation in both directions.
//!
//! ```text
//! x̂ = (x − mean)/√(var + eps), y = weight·x̂ + bias;   dx = (weight·dy − mean(weight·dy) − x̂·mean(weight·dy·x̂))/√(var + eps)
//! y = e^(x − max)/Σ e^(x − max);                       dx = y·(dy − Σ dy·y)
//! ```
//!
//! For f32 on the CPU; of tensor operations a transformer's normalisations alone took a tenth of its
//! training. A row is summed in eight lanes, whatever the machine, so that the bits are the same.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result as TensorResult, Shape, Tensor,
};
use rayon::prelude::*;

use super::gather::numbers;
use super::simd::{exp, vectorised};

/// Lanes of a sum.
const LANES: usize = 8;
/// From so many numbers on, the threads share the rows.
const SHARED: usize = 1 << 16;
/// Rows that a thread takes at a time.
const ROWS: usize = 64;

#[inline(always)]
fn sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (lane, i) in (whole..n).enumerate() {
        lanes[lane] += term(i);
    }
    lanes.iter().sum()
}

/// Puts `e^(x − max)` in the place of each number of a row, and gives back 1 by their sum; NaN where the row
/// holds one, or no number above −∞.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (max, x) in lanes.iter_mut().zip(chunk) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    for (max, x) in lanes.iter_mut().zip(rest) {
        *max = if *x > *max { *x } else { *max };
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for x in &mut *row {
        let below = *x - max;
        // Beyond that `exp` stops; −∞ is no share at all, and NaN must not become one.
        *x = if below < -87.0 { 0.0 } else { exp(below) + 0.0 * below };
    }
    let total = sum(row.len(), |i| row[i]);
    if max.is_finite() { 1.0 / total } else { f32::NAN }
}

/// Calls `rows(first row, the rows' part of out)` for all rows, shared among threads where that pays.
pub(super) fn by_rows(out: &mut [f32], c: usize, rows: impl Fn(usize, &mut [f32]) + Sync) {
    let each = ROWS * c.max(1);
    if out.len() < SHARED || rayon::current_num_threads() == 1 {
        out.chunks_mut(each).enumerate().for_each(|(i, out)| rows(i * ROWS, out));
    } else {
        out.par_chunks_mut(each).enumerate().for_each(|(i, out)| rows(i * ROWS, out));
    }
}

/// Mean and 1/√(var + eps) of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> [f32; 2] {
    let count = x.len() as f32;
    let mean = sum(x.len(), |i| x[i]) / count;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / count;
    [mean, 1.0 / (variance + eps).sqrt()]
}

/// `x` `[rows, c]`, `weight` `[c]`, `bias` `[c]` to the shape of x.
#[derive(Clone, Copy)]
pub(super) struct NormRows {
    pub(super) eps: f64,
}

impl CustomOp3 for NormRows {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (_, c) = x_layout.shape().dims2()?;
        let x = numbers(x, x_layout)?;
        let (weight, bias) = (numbers(weight, weight_layout)?, numbers(bias, bias_layout)?);
        let eps = self.eps as f32;
        let mut y = vec![0f32; x.len()];
        by_rows(&mut y, c, |first, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(c).enumerate() {
                        let x = &x[(first + row) * c..(first + row + 1) * c];
                        let [mean, inverse] = moments(x, eps);
                        let scaled = x.iter().zip(weight).zip(bias);
                        y.iter_mut().zip(scaled).for_each(|(y, ((x, weight), bias))| {
                            *y = (x - mean) * inverse * weight + bias;
                        });
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c) = (x.elem_count(), weight.elem_count());
        let all = x.apply_op3_no_bwd(weight, &grad.contiguous()?, &NormGradients(*self))?;
        let d_x = all.narrow(0, 0, n)?.reshape(x.shape())?;
        Ok((Some(d_x), Some(all.narrow(0, n, c)?), Some(all.narrow(0, n + c, c)?)))
    }
}

/// `x`, weight and the gradient of y: the gradients of x, weight and bias behind each other.
struct NormGradients(NormRows);

impl CustomOp3 for NormGradients {
    fn name(&self) -> &'static str {
        "layer-norm-gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (_, c) = x_layout.shape().dims2()?;
        let (x, grad) = (numbers(x, x_layout)?, numbers(grad, grad_layout)?);
        let weight = numbers(weight, weight_layout)?;
        let eps = self.0.eps as f32;
        let mut all = vec![0f32; x.len() + 2 * c];
        let (d_x, d_params) = all.split_at_mut(x.len());
        by_rows(d_x, c, |first, d_x| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, d_x) in d_x.chunks_exact_mut(c).enumerate() {
                        let of = (first + row) * c..(first + row + 1) * c;
                        let (x, g) = (&x[of.clone()], &grad[of]);
                        let [mean, inverse] = moments(x, eps);
                        let count = c as f32;
                        let flat = sum(c, |i| weight[i] * g[i]) / count;
                        let tilted =
                            sum(c, |i| weight[i] * g[i] * ((x[i] - mean) * inverse)) / count;
                        for (i, d_x) in d_x.iter_mut().enumerate() {
                            let normal = (x[i] - mean) * inverse;
                            *d_x = (weight[i] * g[i] - flat - normal * tilted) * inverse;
                        }
                    }
                },
            );
        });
        // In the order of the rows, by one thread: the same bits with any number of them.
        let (d_weight, d_bias) = d_params.split_at_mut(c);
        let mut sums = vec![0f64; 2 * c];
        vectorised(
            #[inline(always)]
            || {
                let (weights, biases) = sums.split_at_mut(c);
                for (x, g) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
                    let [mean, inverse] = moments(x, eps);
                    for (i, (weight, bias)) in weights.iter_mut().zip(&mut *biases).enumerate() {
                        *weight += f64::from(g[i] * ((x[i] - mean) * inverse));
                        *bias += f64::from(g[i]);
                    }
                }
            },
        );
        let both = d_weight.iter_mut().chain(d_bias);
        both.zip(sums).for_each(|(out, sum)| *out = sum as f32);
        let n = all.len();
        Ok((CpuStorage::F32(all), n.into()))
    }
}

/// `x` `[rows, c]` to the shares of each row.
pub(super) struct SoftmaxRows;

impl CustomOp1 for SoftmaxRows {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (_, c) = layout.shape().dims2()?;
        let x = numbers(x, layout)?;
        let mut y = vec![0f32; x.len()];
        by_rows(&mut y, c, |first, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(c).enumerate() {
                        y.copy_from_slice(&x[(first + row) * c..(first + row + 1) * c]);
                        let inverse = exponentials(y);
                        y.iter_mut().for_each(|y| *y *= inverse);
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&grad.contiguous()?, &SoftmaxGradient)?))
    }
}

/// y and its gradient, `[rows, c]`: the gradient of x.
struct SoftmaxGradient;

impl CustomOp2 for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (_, c) = y_layout.shape().dims2()?;
        let (y, grad) = (numbers(y, y_layout)?, numbers(grad, grad_layout)?);
        let mut d_x = vec![0f32; y.len()];
        by_rows(&mut d_x, c, |first, d_x| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, d_x) in d_x.chunks_exact_mut(c).enumerate() {
                        let of = (first + row) * c..(first + row + 1) * c;
                        let (y, g) = (&y[of.clone()], &grad[of]);
                        let mean = sum(c, |i| g[i] * y[i]);
                        let both = y.iter().zip(g);
                        d_x.iter_mut().zip(both).for_each(|(d, (y, g))| *d = y * (g - mean));
                    }
                },
            );
        });
        Ok((CpuStorage::F32(d_x), y_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::{norm::LayerNorm, softmax};
    use super::*;
    use crate::flow::Noise;
    use crate::nn::params::Params;

    fn normal(sample: u64, shape: (usize, usize, usize)) -> Tensor {
        let n = shape.0 * shape.1 * shape.2;
        Tensor::from_vec(Noise::new(3).normal(sample, 0, n), shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        largest(&(a - b).unwrap()) / largest(b)
    }

    #[test]
    fn both_are_what_the_plain_ones_are() {
        for shape in [(2, 7, 12), (3, 100, 64), (1, 1, 5)] {
            let x = Var::from_tensor(&(normal(0, shape) + 3.0).unwrap()).unwrap();
            let seen = normal(1, shape);
            let slopes = |y: &Tensor| (y * &seen).unwrap().sum_all().unwrap().backward().unwrap();
            let (fused, plain) = (softmax::softmax(&x).unwrap(), softmax::plain(&x).unwrap());
            assert!(gap(&fused, &plain) < 5e-7);
            let (a, b) = (slopes(&fused), slopes(&plain));
            assert!(gap(a.get(&x).unwrap(), b.get(&x).unwrap()) < 2e-6);

            let params = Params::new(4);
            let norm = LayerNorm::load(shape.2, 1e-5, params.builder(&Device::Cpu)).unwrap();
            for (i, (_, var)) in params.named().iter().enumerate() {
                let values = Noise::new(5).normal(i as u64, 0, shape.2);
                var.set(&Tensor::from_vec(values, shape.2, &Device::Cpu).unwrap()).unwrap();
            }
            let (fused, plain) = (norm.forward(&x).unwrap(), norm.plain(&x).unwrap());
            assert!(gap(&fused, &plain) < 1e-6);
            let (a, b) = (slopes(&fused), slopes(&plain));
            let vars = params.named();
            for var in vars.iter().map(|(_, var)| var).chain([&x]) {
                let gap = gap(a.get(var).unwrap(), b.get(var).unwrap());
                assert!(gap < 5e-6, "{gap}");
            }
        }
    }

    #[test]
    fn a_masked_number_has_no_share_and_a_masked_row_is_no_number() {
        let x = Tensor::new(&[[0f32, f32::NEG_INFINITY, 0.0]], &Device::Cpu).unwrap();
        let y: Vec<Vec<f32>> = softmax::softmax(&x).unwrap().to_vec2().unwrap();
        assert_eq!(y, [[0.5, 0.0, 0.5]]);
        let x = Tensor::full(f32::NEG_INFINITY, (1, 3), &Device::Cpu).unwrap();
        let y: Vec<Vec<f32>> = softmax::softmax(&x).unwrap().to_vec2().unwrap();
        assert!(y[0].iter().all(|y| y.is_nan()));
    }
}
