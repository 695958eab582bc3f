//! Group normalisation with the channels last, and the activation behind it, in one pass over memory each
//! way.
//!
//! Written with tensor operations the two take ten passes forward and twenty backward, which costs as
//! much as the convolution that follows. For f32 on the CPU this is one operation:
//!
//! ```text
//! x̂ = (x − mean)/√(var + eps),  z = weight·x̂ + bias,  y = act(z)             (Wu, He 2018)
//! SiLU: y = z·s,  dz = dy·s·(1 + z·(1 − s)),  s = sigmoid(z)
//! Mish: y = z·w,  dz = dy·(w + z·4e·(e + 1)/(n + 2)²),  e = e^z,  n = e·(e + 2),  w = n/(n + 2)
//! dx = (weight·dz − mean(weight·dz) − x̂·mean(weight·dz·x̂))/√(var + eps)      means over the group
//! ```
//!
//! Sums run over 64 pixels in f32 and over those in f64, sixteen of them at a time, which is what threads
//! share.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as TensorResult, Shape, Tensor};
use rayon::prelude::*;

use super::gather::numbers;
use super::simd::{exp, sigmoid, vectorised};

/// So many pixels are summed in f32.
const BLOCK: usize = 64;
/// So many pixels are a thread's at a time.
const SPAN: usize = 16 * BLOCK;
/// From so many numbers on, the threads share the samples and pixels.
const SHARED: usize = 1 << 16;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    None,
    Silu,
    Mish,
}

impl Act {
    /// Above it Mish is the identity to the last bit, and its exponential would overflow.
    const LINEAR: f32 = 20.0;

    #[inline(always)]
    fn value(self, z: f32) -> f32 {
        match self {
            Self::None => z,
            Self::Silu => z * sigmoid(z),
            Self::Mish => {
                let e = exp(z.min(Self::LINEAR));
                let n = e * (e + 2.0);
                z * (n / (n + 2.0))
            }
        }
    }

    #[inline(always)]
    fn slope(self, z: f32) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Silu => {
                let s = sigmoid(z);
                s * (1.0 + z * (1.0 - s))
            }
            Self::Mish => {
                let e = exp(z.min(Self::LINEAR));
                let n = e * (e + 2.0);
                let below = 1.0 / (n + 2.0);
                n * below + z * (4.0 * e * (e + 1.0) * below * below)
            }
        }
    }
}

/// `x` `[b, h, w, c]`, `weight` `[c]`, `bias` `[c]` to the shape of x.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormAct {
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) act: Act,
}

/// Per channel: what is taken away from x, and the factor that makes it x̂.
struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

impl NormAct {
    /// Per group, the sum over its channels of `sums` `[c]`.
    fn per_group(&self, sums: &[f64]) -> Vec<f64> {
        sums.chunks(sums.len() / self.groups).map(|group| group.iter().sum()).collect()
    }

    fn per_channel(&self, groups: &[f64], c: usize) -> Vec<f32> {
        let size = c / self.groups;
        groups.iter().flat_map(|&value| std::iter::repeat_n(value as f32, size)).collect()
    }

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
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let c = weight.len();
        let Moments { mean, inverse } = self.moments(x, c);
        let scale: Vec<f32> = inverse.iter().zip(weight).map(|(i, w)| i * w).collect();
        spans(x, y, c, |x, y| match self.act {
            Act::None => normalised(x, y, [&mean, &scale, bias], |z| z),
            Act::Silu => normalised(x, y, [&mean, &scale, bias], |z| Act::Silu.value(z)),
            Act::Mish => normalised(x, y, [&mean, &scale, bias], |z| Act::Mish.value(z)),
        });
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
            if self.act == Act::None {
                dz.copy_from_slice(grad);
                continue;
            }
            let channels = mean.iter().zip(&inverse).zip(weight.iter().zip(bias));
            for (((x, grad), dz), ((mean, inverse), (weight, bias))) in
                x.iter().zip(grad).zip(dz).zip(channels)
            {
                let z = (x - mean) * (inverse * weight) + bias;
                *dz = grad * self.act.slope(z);
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

/// `act((x − mean)·scale + bias)` per channel.
#[inline(always)]
fn normalised(
    x: &[f32],
    y: &mut [f32],
    [mean, scale, bias]: [&[f32]; 3],
    act: impl Fn(f32) -> f32,
) {
    let c = mean.len();
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        let channels = x.iter().zip(y).zip(mean.iter().zip(scale).zip(bias));
        channels.for_each(|((x, y), ((mean, scale), bias))| *y = act((x - mean) * scale + bias));
    }
}

/// Whether the threads share so many numbers.
fn shared(count: usize) -> bool {
    count >= SHARED && rayon::current_num_threads() > 1
}

/// Calls `work` with the same pixels of x and y, some at a time.
fn spans(x: &[f32], y: &mut [f32], c: usize, work: impl Fn(&[f32], &mut [f32]) + Sync) {
    let run = |(x, y): (&[f32], &mut [f32])| {
        vectorised(
            #[inline(always)]
            || work(x, y),
        );
    };
    let each = SPAN * c;
    if shared(x.len()) {
        x.par_chunks(each).zip(y.par_chunks_mut(each)).for_each(run);
    } else {
        x.chunks(each).zip(y.chunks_mut(each)).for_each(run);
    }
}

/// The sum over all pixels, per channel, of what `add` adds to the sums of a block.
pub(super) fn column_sums(
    x: &[f32],
    c: usize,
    add: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Vec<f64> {
    let span = |x: &[f32]| {
        vectorised(
            #[inline(always)]
            || {
                let mut all = vec![0.0; c];
                let mut sums = vec![0f32; c];
                for block in x.chunks(BLOCK * c) {
                    sums.fill(0.0);
                    block.chunks_exact(c).for_each(|row| add(row, &mut sums));
                    all.iter_mut().zip(&sums).for_each(|(all, sum)| *all += f64::from(*sum));
                }
                all
            },
        )
    };
    let each = SPAN * c;
    let parts: Vec<Vec<f64>> = match shared(x.len()) {
        true => x.par_chunks(each).map(span).collect(),
        false => x.chunks(each).map(span).collect(),
    };
    parts.into_iter().fold(vec![0.0; c], |mut all, part| {
        all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
        all
    })
}

impl CustomOp3 for NormAct {
    fn name(&self) -> &'static str {
        "group-norm"
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
        let run = |(x, y): (&[f32], &mut [f32])| self.forward(x, weight, bias, y);
        if !shared(x.len()) {
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
struct Gradients(NormAct);

impl CustomOp3 for Gradients {
    fn name(&self) -> &'static str {
        "group-norm-gradients"
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
        let sums: Vec<[Vec<f64>; 2]> = if !shared(x.len()) {
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
