//! Group normalisation with the channels last, and the SiLU behind it, in one pass over memory each
//! way.
//!
//! Written with tensor operations the two take ten passes forward and twenty backward, which costs as
//! much as the convolution that follows. For f32 on the CPU this is one operation:
//!
//! ```text
//! x̂ = (x − mean)/√(var + eps),  z = weight·x̂ + bias,  y = z·sigmoid(z)        (Wu, He 2018)
//! dz = dy·s·(1 + z·(1 − s)),  s = sigmoid(z)
//! dx = (weight·dz − mean(weight·dz) − x̂·mean(weight·dz·x̂))/√(var + eps)      means over the group
//! ```
//!
//! Sums run over 64 pixels in f32 and over those in f64.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as TensorResult, Shape, Tensor};
use rayon::prelude::*;

use super::gather::numbers;
use super::simd::{sigmoid, vectorised};

/// So many pixels are summed in f32.
const BLOCK: usize = 64;
/// From so many numbers on, the threads share the samples.
const SHARED: usize = 1 << 16;

/// `x` `[b, h, w, c]`, `weight` `[c]`, `bias` `[c]` to the shape of x.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormSilu {
    pub(super) groups: usize,
    pub(super) eps: f64,
    /// Whether SiLU follows.
    pub(super) silu: bool,
}

/// Per channel: what is taken away from x, and the factor that makes it x̂.
struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

impl NormSilu {
    /// Per group, the sum over its channels of `sums` `[c]`.
    fn per_group(&self, sums: &[f64]) -> Vec<f64> {
        sums.chunks(sums.len() / self.groups).map(|group| group.iter().sum()).collect()
    }

    fn per_channel(&self, groups: &[f64], c: usize) -> Vec<f32> {
        let size = c / self.groups;
        groups.iter().flat_map(|&value| std::iter::repeat_n(value as f32, size)).collect()
    }

    #[inline(always)]
    fn moments(&self, x: &[f32], c: usize) -> Moments {
        let count = (x.len() / self.groups) as f64;
        let sums = column_sums(x, c, |row, sum| {
            row.iter().zip(sum).for_each(|(x, sum)| *sum += x);
        });
        let mean: Vec<f64> = self.per_group(&sums).iter().map(|sum| sum / count).collect();
        let mean = self.per_channel(&mean, c);
        let squares = column_sums(x, c, |row, sum| {
            row.iter().zip(&mean).zip(sum).for_each(|((x, mean), sum)| {
                let centred = x - mean;
                *sum += centred * centred;
            });
        });
        let inverse = |sum: &f64| 1.0 / (sum / count + self.eps).sqrt();
        let inverse: Vec<f64> = self.per_group(&squares).iter().map(inverse).collect();
        Moments { inverse: self.per_channel(&inverse, c), mean }
    }

    /// One sample.
    #[inline(always)]
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let c = weight.len();
        let Moments { mean, inverse } = self.moments(x, c);
        let scale: Vec<f32> = inverse.iter().zip(weight).map(|(i, w)| i * w).collect();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let channels = x.iter().zip(y).zip(mean.iter().zip(&scale).zip(bias));
            if self.silu {
                channels.for_each(|((x, y), ((mean, scale), bias))| {
                    let z = (x - mean) * scale + bias;
                    *y = z * sigmoid(z);
                });
            } else {
                channels.for_each(|((x, y), ((mean, scale), bias))| {
                    *y = (x - mean) * scale + bias;
                });
            }
        }
    }

    /// One sample: the gradient of x, and what it adds to those of weight and bias.
    #[inline(always)]
    fn backward(
        &self,
        x: &[f32],
        [weight, bias]: [&[f32]; 2],
        grad: &[f32],
        dx: &mut [f32],
    ) -> [Vec<f64>; 2] {
        let c = weight.len();
        let Moments { mean, inverse } = self.moments(x, c);
        // dx holds dz at first.
        for ((x, grad), dz) in
            x.chunks_exact(c).zip(grad.chunks_exact(c)).zip(dx.chunks_exact_mut(c))
        {
            if !self.silu {
                dz.copy_from_slice(grad);
                continue;
            }
            let channels = mean.iter().zip(&inverse).zip(weight.iter().zip(bias));
            for (((x, grad), dz), ((mean, inverse), (weight, bias))) in
                x.iter().zip(grad).zip(dz).zip(channels)
            {
                let z = (x - mean) * (inverse * weight) + bias;
                let s = sigmoid(z);
                *dz = grad * (s * (1.0 + z * (1.0 - s)));
            }
        }
        let d_bias = column_sums(dx, c, |row, sum| {
            row.iter().zip(sum).for_each(|(dz, sum)| *sum += dz);
        });
        let mut d_weight = vec![0.0; c];
        let pixels = BLOCK * c;
        for (x, dz) in x.chunks(pixels).zip(dx.chunks(pixels)) {
            let mut sums = vec![0f32; c];
            for (x, dz) in x.chunks_exact(c).zip(dz.chunks_exact(c)) {
                let channels = x.iter().zip(dz).zip(mean.iter().zip(&inverse));
                for (((x, dz), (mean, inverse)), sum) in channels.zip(&mut sums) {
                    *sum += dz * ((x - mean) * inverse);
                }
            }
            d_weight.iter_mut().zip(sums).for_each(|(all, sum)| *all += f64::from(sum));
        }
        let count = (x.len() / self.groups) as f64;
        let group_mean = |of: &[f64]| {
            let weighed: Vec<f64> = of.iter().zip(weight).map(|(s, w)| s * f64::from(*w)).collect();
            let means: Vec<f64> = self.per_group(&weighed).iter().map(|s| s / count).collect();
            self.per_channel(&means, c)
        };
        let (first, second) = (group_mean(&d_bias), group_mean(&d_weight));
        for (x, dx) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
            let channels = mean.iter().zip(&inverse).zip(first.iter().zip(&second)).zip(weight);
            for ((x, dx), (((mean, inverse), (first, second)), weight)) in
                x.iter().zip(dx).zip(channels)
            {
                let normal = (x - mean) * inverse;
                *dx = (weight * *dx - first - normal * second) * inverse;
            }
        }
        [d_weight, d_bias]
    }
}

/// The sum over all pixels, per channel, of what `add` adds to the sums of a block.
#[inline(always)]
pub(super) fn column_sums(x: &[f32], c: usize, add: impl Fn(&[f32], &mut [f32])) -> Vec<f64> {
    let mut all = vec![0.0; c];
    let mut sums = vec![0f32; c];
    for block in x.chunks(BLOCK * c) {
        sums.fill(0.0);
        block.chunks_exact(c).for_each(|row| add(row, &mut sums));
        all.iter_mut().zip(&sums).for_each(|(all, sum)| *all += f64::from(*sum));
    }
    all
}

impl CustomOp3 for NormSilu {
    fn name(&self) -> &'static str {
        "group-norm-silu"
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
        let (batch, ..) = x_layout.shape().dims4()?;
        let x = numbers(x, x_layout)?;
        let (weight, bias) = (numbers(weight, weight_layout)?, numbers(bias, bias_layout)?);
        let mut y = vec![0f32; x.len()];
        let sample = (x.len() / batch.max(1)).max(1);
        let run = |(x, y): (&[f32], &mut [f32])| {
            vectorised(
                #[inline(always)]
                || self.forward(x, weight, bias, y),
            );
        };
        if x.len() < SHARED || rayon::current_num_threads() == 1 {
            x.chunks(sample).zip(y.chunks_mut(sample)).for_each(run);
        } else {
            x.par_chunks(sample).zip(y.par_chunks_mut(sample)).for_each(run);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c) = (x.elem_count(), weight.elem_count());
        let params = Tensor::cat(&[weight, bias], 0)?;
        let all = x.apply_op3_no_bwd(&params, &grad.contiguous()?, &Gradients(*self))?;
        let d_x = all.narrow(0, 0, n)?.reshape(x.shape())?;
        Ok((Some(d_x), Some(all.narrow(0, n, c)?), Some(all.narrow(0, n + c, c)?)))
    }
}

/// `x`, weight and bias `[2c]`, the gradient of y: the three gradients behind each other.
struct Gradients(NormSilu);

impl CustomOp3 for Gradients {
    fn name(&self) -> &'static str {
        "group-norm-silu-gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (batch, _, _, c) = x_layout.shape().dims4()?;
        let (x, grad) = (numbers(x, x_layout)?, numbers(grad, grad_layout)?);
        let (weight, bias) = numbers(params, params_layout)?.split_at(c);
        let mut all = vec![0f32; x.len() + 2 * c];
        let (d_x, d_params) = all.split_at_mut(x.len());
        let sample = (x.len() / batch.max(1)).max(1);
        let run = |((x, grad), d_x): ((&[f32], &[f32]), &mut [f32])| {
            vectorised(
                #[inline(always)]
                || self.0.backward(x, [weight, bias], grad, d_x),
            )
        };
        let sums: Vec<[Vec<f64>; 2]> = if x.len() < SHARED || rayon::current_num_threads() == 1 {
            x.chunks(sample).zip(grad.chunks(sample)).zip(d_x.chunks_mut(sample)).map(run).collect()
        } else {
            let samples = x.par_chunks(sample).zip(grad.par_chunks(sample));
            samples.zip(d_x.par_chunks_mut(sample)).map(run).collect()
        };
        for (which, out) in d_params.chunks_mut(c).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = sums.iter().map(|sums| sums[which][i]).sum::<f64>() as f32;
            }
        }
        let n = all.len();
        Ok((CpuStorage::F32(all), n.into()))
    }
}
