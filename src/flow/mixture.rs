//! A mixture of normal distributions as data: the one field that is known exactly on every path.
//!
//! For data from `Σ w_k·N(m_k, s_k²·I)` the state `x_t = α·data + σ·noise` of component k is normal
//! with mean `α·m_k` and variance `v_k = α²·s_k² + σ²`, so everything has a closed form:
//!
//! ```text
//! log p_t(x) = logsumexp_k(ln w_k + ln N(x; α·m_k, v_k·I))        r_k = posterior of component k
//! E[data  | x_t] = Σ r_k·(m_k + α·s_k²/v_k·(x − α·m_k))
//! E[noise | x_t] = Σ r_k·σ/v_k·(x − α·m_k)          score = −Σ r_k/v_k·(x − α·m_k)
//! ```
//!
//! Nothing divides by α or σ, so both ends of a path are right. Deviations of 0 are points: the
//! mixture is then a data set, and its field the one that a network can at best learn by heart.
//! Everything is made of plain tensor operations: gradients flow to x, in f64 and in f32.
//! Source: Bishop, Pattern Recognition and Machine Learning, 2.3 (the product of two normals).

use candle_core::{D, Device, Tensor};

use super::noise::Noise;
use super::path::{Coef, Path};
use super::target::Estimate;
use crate::{Error, Result};

/// The draw of a [`Noise`] that samples come from: far from those of a training run or a sampler, so
/// that one seed serves both and the data are not made of the noise that is mixed into them.
const DRAW: u64 = u64::MAX;

/// `Σ w_k·N(m_k, s_k²·I)` over rows of d numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianMixture {
    weights: Vec<f64>,
    means: Vec<Vec<f64>>,
    deviations: Vec<f64>,
}

impl GaussianMixture {
    /// A mixture of k components with `means` `[k, d]` and a deviation each; the weights are
    /// divided by their sum.
    ///
    /// # Errors
    /// [`Error::Shape`] when the lengths differ or are 0, [`Error::Range`] when a weight is not
    /// above 0, a deviation is below 0 or a number is not finite.
    pub fn new(weights: Vec<f64>, means: Vec<Vec<f64>>, deviations: Vec<f64>) -> Result<Self> {
        let (k, d) = (means.len(), means.first().map_or(0, Vec::len));
        let wrong = |what: &str, got: &[usize]| {
            Err(Error::shape(format!("mixture: {what}"), [k.max(1), d.max(1)], got))
        };
        if let Some(mean) = means.iter().find(|mean| mean.len() != d || d == 0) {
            return wrong("means", &[k, mean.len()]);
        }
        if k == 0 {
            return wrong("means", &[0, 0]);
        }
        if weights.len() != k || deviations.len() != k {
            return wrong("weights and deviations", &[weights.len(), deviations.len()]);
        }
        let check = |what: &str, expected: &str, bad: Option<&f64>| match bad {
            Some(got) => Err(Error::range(format!("mixture: {what}"), expected, *got)),
            None => Ok(()),
        };
        let bad = weights.iter().find(|w| !(w.is_finite() && **w > 0.0));
        check("weight", "a finite number above 0", bad)?;
        let bad = deviations.iter().find(|s| !(s.is_finite() && **s >= 0.0));
        check("deviation", "a finite number from 0", bad)?;
        check("mean", "a finite number", means.iter().flatten().find(|m| !m.is_finite()))?;
        let sum: f64 = weights.iter().sum();
        let weights = weights.into_iter().map(|w| w / sum).collect();
        Ok(Self { weights, means, deviations })
    }

    /// Equal components of one deviation; 0 makes the means a data set.
    ///
    /// # Errors
    /// As [`GaussianMixture::new`].
    pub fn isotropic(means: Vec<Vec<f64>>, deviation: f64) -> Result<Self> {
        let k = means.len();
        Self::new(vec![1.0; k], means, vec![deviation; k])
    }

    /// Component `k` alone: its field is the conditional one, whose posterior mean over k is the
    /// field of the whole.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn component(&self, k: usize) -> Result<Self> {
        let (Some(mean), Some(deviation)) = (self.means.get(k), self.deviations.get(k)) else {
            let expected = format!("0 up to {}", self.components());
            return Err(Error::range("mixture: component", expected, k as f64));
        };
        Self::new(vec![1.0], vec![mean.clone()], vec![*deviation])
    }

    /// Number k of components.
    pub fn components(&self) -> usize {
        self.weights.len()
    }

    /// Numbers d of a row.
    pub fn dimension(&self) -> usize {
        self.means.first().map_or(0, Vec::len)
    }

    /// The weights, whose sum is 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Mean of the data, d numbers.
    pub fn mean(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.dimension()];
        for (weight, mean) in self.weights.iter().zip(&self.means) {
            for (out, m) in out.iter_mut().zip(mean) {
                *out += weight * m;
            }
        }
        out
    }

    /// Covariance of the data, d rows of d numbers.
    pub fn covariance(&self) -> Vec<Vec<f64>> {
        let (d, centre) = (self.dimension(), self.mean());
        let mut out = vec![vec![0.0; d]; d];
        for ((weight, mean), s) in self.weights.iter().zip(&self.means).zip(&self.deviations) {
            for i in 0..d {
                out[i][i] += weight * s * s;
                for j in 0..d {
                    out[i][j] += weight * (mean[i] - centre[i]) * (mean[j] - centre[j]);
                }
            }
        }
        out
    }

    /// `n` rows of data `[n, d]` in f64: row i is sample `first_sample + i` of `noise`, alone or in
    /// a batch. Independent of every other draw of the same noise.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn sample(&self, noise: &Noise, first_sample: u64, n: usize) -> Result<Tensor> {
        let d = self.dimension();
        let mut out = Vec::with_capacity(n * d);
        for sample in (first_sample..).take(n) {
            let mut left = noise.uniform(sample, DRAW);
            let found = self.weights.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            // Rounding may leave a little beyond the last.
            let k = found.unwrap_or(self.components() - 1);
            let normals = noise.normal(sample, DRAW, d);
            let row = self.means[k].iter().zip(normals);
            out.extend(row.map(|(m, z)| m + self.deviations[k] * f64::from(z)));
        }
        Ok(Tensor::from_vec(out, (n, d), &Device::Cpu)?)
    }

    /// `E[data | x_t]` and `E[noise | x_t]` at the path's own time `t`, of the shape of `x`
    /// `[b, ..]` with d numbers a row. What a perfect network says.
    ///
    /// # Errors
    /// When t is outside the path, a row has not d numbers, or nothing but points is left (σ = 0
    /// with a deviation of 0).
    pub fn estimate(&self, path: &Path, x: &Tensor, t: f64) -> Result<Estimate> {
        let Marginal { coef, off, variances, joint } = self.marginal(path, x, t)?;
        let posterior = normalised(&joint)?.unsqueeze(2)?;
        let (alpha, sigma) = (coef.alpha, coef.sigma);
        let deviations = self.deviations.iter().zip(&variances);
        let gain = column(deviations.map(|(s, v)| alpha * s * s / v), x)?;
        let share = column(variances.iter().map(|v| sigma / v), x)?;
        let data = off.broadcast_mul(&gain)?.broadcast_add(&self.means_like(x)?)?;
        let noise = off.broadcast_mul(&share)?;
        let mean = |of: Tensor| -> Result<Tensor> {
            Ok(of.broadcast_mul(&posterior)?.sum(1)?.reshape(x.dims())?)
        };
        Ok(Estimate { data: mean(data)?, noise: mean(noise)? })
    }

    /// The marginal velocity `α'·E[data | x_t] + σ'·E[noise | x_t]`, shape of `x`.
    ///
    /// # Errors
    /// As [`GaussianMixture::estimate`], and where σ' is infinite (VP at t = 0).
    pub fn velocity(&self, path: &Path, x: &Tensor, t: f64) -> Result<Tensor> {
        let estimate = self.estimate(path, x, t)?;
        let coef = path.at(t);
        if !(coef.d_alpha.is_finite() && coef.d_sigma.is_finite()) {
            return Err(Error::Invalid(format!(
                "mixture: expected a time where the velocity is finite, got t = {t} with \
                 {coef:?}; stop a little before the end"
            )));
        }
        estimate.velocity(&coef)
    }

    /// The score `∇ log p_t(x)`, shape of `x`; right also where σ = 0.
    ///
    /// # Errors
    /// As [`GaussianMixture::estimate`].
    pub fn score(&self, path: &Path, x: &Tensor, t: f64) -> Result<Tensor> {
        let Marginal { off, variances, joint, .. } = self.marginal(path, x, t)?;
        let posterior = normalised(&joint)?.unsqueeze(2)?;
        let pull = off.broadcast_mul(&column(variances.iter().map(|v| -1.0 / v), x)?)?;
        Ok(pull.broadcast_mul(&posterior)?.sum(1)?.reshape(x.dims())?)
    }

    /// `log p_t(x)` `[b]` in nats, of the marginal at the path's own time `t`: at the data end of
    /// the data.
    ///
    /// # Errors
    /// As [`GaussianMixture::estimate`].
    pub fn log_density(&self, path: &Path, x: &Tensor, t: f64) -> Result<Tensor> {
        let joint = self.marginal(path, x, t)?.joint;
        Ok(log_sum_exp(&joint)?.squeeze(1)?)
    }

    /// The probability `[b, k]` that each component made `x`, given x at the path's own time `t`.
    ///
    /// # Errors
    /// As [`GaussianMixture::estimate`].
    pub fn posterior(&self, path: &Path, x: &Tensor, t: f64) -> Result<Tensor> {
        normalised(&self.marginal(path, x, t)?.joint)
    }

    /// The mixture as a denoiser along `path`, for samplers and wrappers.
    pub fn denoiser<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a {
        move |x, t| self.estimate(path, x, t)
    }

    fn means_like(&self, like: &Tensor) -> Result<Tensor> {
        on_device(self.means.concat(), (1, self.components(), self.dimension()), like)
    }

    fn marginal(&self, path: &Path, x: &Tensor, t: f64) -> Result<Marginal> {
        path.check(t)?;
        let (coef, d) = (path.at(t), self.dimension());
        let rows = x.dims().first().copied().unwrap_or(0);
        if rows * d != x.elem_count() || rows == 0 {
            return Err(Error::shape("mixture: state", format!("[b, {d}]"), x.dims()));
        }
        let variance = |s: &f64| (coef.alpha * s).powi(2) + coef.sigma * coef.sigma;
        let variances: Vec<f64> = self.deviations.iter().map(variance).collect();
        if !variances.iter().all(|v| v.is_normal()) {
            return Err(Error::Invalid(format!(
                "mixture: expected a time where every component has a density, got t = {t} with \
                 {coef:?} and deviations {:?}; stop a little before the data end",
                self.deviations
            )));
        }
        let means = self.means_like(x)?.affine(coef.alpha, 0.0)?;
        let off = x.reshape((rows, 1, d))?.broadcast_sub(&means)?;
        let scale = column(variances.iter().map(|v| -0.5 / v), x)?.squeeze(2)?;
        let weighed = self.weights.iter().zip(&variances);
        let constant =
            weighed.map(|(w, v)| w.ln() - 0.5 * d as f64 * (std::f64::consts::TAU * v).ln());
        let constant = column(constant, x)?.squeeze(2)?;
        let joint = off.sqr()?.sum(D::Minus1)?.broadcast_mul(&scale)?.broadcast_add(&constant)?;
        Ok(Marginal { coef, off, variances, joint })
    }
}

/// The components at one time: `x − α·m_k` `[b, k, d]`, `v_k`, and `ln(w_k·N(x; …))` `[b, k]`.
struct Marginal {
    coef: Coef,
    off: Tensor,
    variances: Vec<f64>,
    joint: Tensor,
}

/// One number a component, `[1, k, 1]`.
fn column(values: impl Iterator<Item = f64>, like: &Tensor) -> Result<Tensor> {
    let values: Vec<f64> = values.collect();
    let k = values.len();
    on_device(values, (1, k, 1), like)
}

/// Rounded on the host: not every device has f64.
fn on_device(values: Vec<f64>, shape: (usize, usize, usize), like: &Tensor) -> Result<Tensor> {
    let host = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(like.dtype())?;
    Ok(host.to_device(like.device())?)
}

/// `ln Σ exp` over the components, `[b, 1]`. The largest is a constant to the gradient: it cancels.
fn log_sum_exp(joint: &Tensor) -> Result<Tensor> {
    let largest = joint.max_keepdim(1)?.detach();
    let sum = joint.broadcast_sub(&largest)?.exp()?.sum_keepdim(1)?;
    Ok((sum.log()? + largest)?)
}

fn normalised(joint: &Tensor) -> Result<Tensor> {
    Ok(joint.broadcast_sub(&log_sum_exp(joint)?)?.exp()?)
}
