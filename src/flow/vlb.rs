//! The variational bound of DDPM over a table of N steps, term by term.
//!
//! ```text
//! −ln p(x₀) ≤ L_T + Σ_{t ≥ 1} L_t + L_0
//! L_T = KL(q(x_{N−1}|x₀) ‖ N(0, 1))                     prior
//! L_t = KL(q(x_{t−1}|x_t, x₀) ‖ N(μ_θ(x_t), v_t))       one reverse step
//! L_0 = −ln p_θ(x₀ | state of step 0)                    decoder
//! ```
//!
//! The posterior q is normal with mean `a·x₀ + b·x_t` and variance β̃ ([`Step`]); μ_θ has x̂₀ in place
//! of x₀. So for v_t = β̃ a term is `‖ε − ε̂‖²` times `β_t²/(2·v_t·α_t·(1 − ᾱ_t))`
//! ([`Step::simple_weight`]): the simple loss is the bound with these weights left out.
//!
//! The decoder for 8-bit data in [−1, 1] gives each of 256 cells of width 2/255 the normal mass in
//! it, the outer ones open, and at least 1e-12. Deviation: guided-diffusion approximates the normal
//! distribution function by a tanh; here it is exact.
//!
//! Sources: Ho et al. 2020 (equations 5 to 12, section 3.3), Nichol and Dhariwal 2021.

use std::f64::consts::{LN_2, SQRT_2, TAU};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::denoiser::Denoiser;
use super::noise::Noise;
use super::path::Path;
use super::schedule::Discrete;
use super::target::combine;
use crate::{Error, Result};

/// The variance v_t of a reverse step; diffusers' `variance_type`. That of the last one, t = 0,
/// is β̃ of t = 1 in both cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// β̃, right for data at one point.
    #[default]
    FixedSmall,
    /// β, right for unit normal data.
    FixedLarge,
}

/// What the last step says of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// A probability for each of the 256 levels of 8-bit data in [−1, 1].
    #[default]
    Discretised,
    /// A normal density, for data on a continuous scale: the bound may be negative.
    Continuous,
}

/// One step t of the table: the transition from t − 1 and its posterior.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// ᾱ_t.
    pub alpha_bar: f64,
    /// `α_t = ᾱ_t/ᾱ_{t−1}`.
    pub alpha: f64,
    /// `β_t = 1 − α_t`.
    pub beta: f64,
    /// a: weight of x₀ in the posterior mean, `√ᾱ_{t−1}·β_t/(1 − ᾱ_t)`.
    pub of_data: f64,
    /// b: weight of x_t in the posterior mean, `√α_t·(1 − ᾱ_{t−1})/(1 − ᾱ_t)`.
    pub of_state: f64,
    /// `β̃_t = β_t·(1 − ᾱ_{t−1})/(1 − ᾱ_t)`: the posterior's variance; 0 at t = 0.
    pub beta_tilde: f64,
}

impl Step {
    /// Step `t` of a table.
    ///
    /// # Errors
    /// [`Error::Time`] when the table has no such step.
    pub fn new(table: &Discrete, t: usize) -> Result<Self> {
        let bars = table.alphas_cumprod();
        let Some(&alpha_bar) = bars.get(t) else {
            return Err(Error::Time { got: t as f64, from: 0.0, to: bars.len() as f64 - 1.0 });
        };
        let before = t.checked_sub(1).map_or(1.0, |before| bars[before]);
        let alpha = alpha_bar / before;
        // Not 1 − alpha: where steps are small, that loses digits.
        let beta = (before - alpha_bar) / before;
        let rest = 1.0 - alpha_bar;
        Ok(Self {
            alpha_bar,
            alpha,
            beta,
            of_data: before.sqrt() * beta / rest,
            of_state: alpha.sqrt() * (1.0 - before) / rest,
            beta_tilde: beta * (1.0 - before) / rest,
        })
    }

    /// The factor between `‖ε − ε̂‖²` and L_t for a reverse step of this variance:
    /// `β_t²/(2·variance·α_t·(1 − ᾱ_t))`.
    ///
    /// # Errors
    /// [`Error::Range`] where the noise does not determine the mean (α_t = 0, the last step of a
    /// table with zero terminal SNR) or the variance is 0.
    pub fn simple_weight(&self, variance: f64) -> Result<f64> {
        if !(variance > 0.0 && variance.is_finite()) {
            return Err(Error::range("variational bound: variance", "a number above 0", variance));
        }
        if self.alpha <= 0.0 {
            return Err(Error::range("variational bound: alpha", "a number above 0", self.alpha));
        }
        Ok(self.beta * self.beta / (2.0 * variance * self.alpha * (1.0 - self.alpha_bar)))
    }
}

/// The variance of the reverse step `t`.
///
/// # Errors
/// [`Error::Time`] when the table has no such step; [`Error::Range`] when it has fewer than two.
pub fn variance(table: &Discrete, kind: Variance, t: usize) -> Result<f64> {
    if table.steps() < 2 {
        return Err(Error::range("variational bound: steps", "2 or more", table.steps() as f64));
    }
    let step = Step::new(table, t)?;
    Ok(match (kind, t) {
        (_, 0) => Step::new(table, 1)?.beta_tilde,
        (Variance::FixedSmall, _) => step.beta_tilde,
        (Variance::FixedLarge, _) => step.beta,
    })
}

/// The bound of a batch, in bits per dimension of each sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// L_T of each sample.
    pub prior: Vec<f64>,
    /// L_t of each step t (0 is the decoder) and each sample.
    pub terms: Vec<Vec<f64>>,
}

impl Bound {
    /// The whole bound of each sample.
    pub fn total(&self) -> Vec<f64> {
        let sum = |i: usize| self.terms.iter().map(|term| term[i]).sum::<f64>();
        self.prior.iter().enumerate().map(|(i, prior)| prior + sum(i)).collect()
    }
}

/// Where the bound is taken: a table, the reverse variance, and what the last step means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlb {
    /// The table of training steps.
    pub table: Discrete,
    /// Variance of the reverse steps.
    #[serde(default)]
    pub variance: Variance,
    /// Meaning of the last step.
    #[serde(default)]
    pub decoder: Decoder,
}

impl Vlb {
    /// The bound of `data` `[b, ..]` with one draw of noise a step (draw number t of `noise`, samples
    /// from `first_sample` on): N evaluations. The denoiser's estimate of the data is what counts.
    ///
    /// # Errors
    /// As [`Vlb::term`], and what the denoiser says.
    pub fn bound(
        &self,
        data: &Tensor,
        noise: &Noise,
        first_sample: u64,
        denoiser: &mut Denoiser<'_>,
    ) -> Result<Bound> {
        let path = Path::Discrete(self.table.clone());
        let mut terms = Vec::with_capacity(self.table.steps());
        for t in 0..self.table.steps() {
            let coef = path.at(t as f64);
            let draw = noise.normal_like(first_sample, t as u64, data)?;
            let x_t = combine(coef.alpha, data, coef.sigma, &draw)?;
            let guess = denoiser(&x_t, t as f64)?.data;
            terms.push(self.term(t, data, &x_t, &guess)?);
        }
        Ok(Bound { prior: self.prior(data)?, terms })
    }

    /// L_T of each sample of `data` `[b, ..]`, in bits per dimension.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the data are not finite; [`Error::Shape`] when there are none.
    pub fn prior(&self, data: &Tensor) -> Result<Vec<f64>> {
        let bar = Step::new(&self.table, self.table.steps() - 1)?.alpha_bar;
        // KL(N(√ᾱ·x, 1 − ᾱ) ‖ N(0, 1)) = (ᾱ·x² − ᾱ − ln(1 − ᾱ))/2
        let constant = -0.5 * (bar + (-bar).ln_1p());
        let prior = per_dimension(&[data], |x| 0.5 * bar * x[0] * x[0] + constant)?;
        if prior.iter().all(|x| x.is_finite()) {
            return Ok(prior);
        }
        Err(Error::Invalid(format!("variational bound: expected finite data, got {prior:?}")))
    }

    /// L_t of each sample, in bits per dimension, where the network at (`x_t`, `t`) takes the data
    /// for `guess`; all of shape `[b, ..]`. Step 0 is the decoder.
    ///
    /// # Errors
    /// [`Error::Time`] when the table has no such step; [`Error::Range`] when it has fewer than two;
    /// [`Error::Shape`] when shapes differ; [`Error::NotFinite`] when the term is not finite.
    pub fn term(&self, t: usize, data: &Tensor, x_t: &Tensor, guess: &Tensor) -> Result<Vec<f64>> {
        let step = Step::new(&self.table, t)?;
        let variance = variance(&self.table, self.variance, t)?;
        let tensors = [data, x_t, guess];
        let result = if t > 0 {
            // Means differ by a·(x₀ − x̂₀); the ratio r of variances adds (r − 1 − ln r)/2.
            let ratio = step.beta_tilde / variance;
            let constant = 0.5 * (ratio - 1.0 - ratio.ln());
            let weight = 0.5 * step.of_data * step.of_data / variance;
            per_dimension(&tensors, |x| weight * (x[0] - x[2]).powi(2) + constant)?
        } else {
            // At t = 0 the posterior mean is the estimate of the data alone.
            let deviation = variance.sqrt();
            per_dimension(&tensors, |x| match self.decoder {
                Decoder::Discretised => -log_cell(x[0], x[2], deviation),
                Decoder::Continuous => {
                    let z = (x[0] - x[2]) / deviation;
                    0.5 * (z * z + TAU.ln()) + deviation.ln()
                }
            })?
        };
        match result.iter().find(|term| !term.is_finite()) {
            None => Ok(result),
            Some(&got) => Err(Error::NotFinite { got, step: t, t: t as f64 }),
        }
    }
}

/// `ln` of the normal mass, at least 1e-12, in the cell of the 8-bit level `x`.
fn log_cell(x: f64, mean: f64, deviation: f64) -> f64 {
    let below = |edge: f64| 0.5 * erfc(-(edge - mean) / (deviation * SQRT_2));
    let above = |edge: f64| 0.5 * erfc((edge - mean) / (deviation * SQRT_2));
    let (low, high) = (x - 1.0 / 255.0, x + 1.0 / 255.0);
    let mass = if x < -0.999 {
        below(high)
    } else if x > 0.999 {
        above(low)
    } else if x > mean {
        // Both edges from the thin tail, where the difference keeps its digits.
        above(low) - above(high)
    } else {
        below(high) - below(low)
    };
    // A NaN must come out as one.
    if mass < 1e-12 { 1e-12f64.ln() } else { mass.ln() }
}

/// The mean over a sample's elements of `of`, in bits, for each sample of `[b, ..]`.
fn per_dimension(tensors: &[&Tensor], of: impl Fn(&[f64]) -> f64) -> Result<Vec<f64>> {
    let shape = tensors[0].dims();
    if shape.is_empty() || tensors[0].elem_count() == 0 {
        return Err(Error::shape("variational bound: data", "[b, ..] with b above 0", shape));
    }
    let mut rows = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        if tensor.dims() != shape {
            return Err(Error::shape("variational bound: state or estimate", shape, tensor.dims()));
        }
        rows.push(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
    }
    let size = rows[0].len() / shape[0];
    let mut values = vec![0.0; rows.len()];
    let mut result = vec![0.0; shape[0]];
    for i in 0..rows[0].len() {
        for (value, row) in values.iter_mut().zip(&rows) {
            *value = row[i];
        }
        result[i / size] += of(&values) / (size as f64 * LN_2);
    }
    Ok(result)
}

/// `1 − erf(x)` to 1e-15 of itself: the power series near 0, the continued fraction in the tails.
/// Source: Abramowitz and Stegun 7.1.6 and 7.1.14.
fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let bell = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 1.5 {
        // erf = bell·Σ 2(2x²)ⁿx/(1·3·…·(2n + 1))
        let (mut term, mut sum) = (2.0 * x, 2.0 * x);
        for n in 1..60 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - bell * sum;
    }
    // √π·e^(x²)·erfc = 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))), from the inside out.
    let fraction = (1..=200).rev().fold(x, |inner, n| x + 0.5 * f64::from(n) / inner);
    bell / fraction
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::flow::schedule::DiscreteConfig;
    use crate::flow::{Noise, Target};

    fn table(rescale_betas_zero_snr: bool) -> Discrete {
        let config = DiscreteConfig { rescale_betas_zero_snr, ..Default::default() };
        Discrete::new(config).unwrap()
    }

    fn normal(sample: u64) -> Tensor {
        let z = Tensor::from_vec(Noise::new(6).normal(sample, 0, 12), (3, 4), &Device::Cpu);
        z.unwrap().to_dtype(DType::F64).unwrap()
    }

    #[test]
    fn the_complementary_error_function_is_right() {
        // Python's math.erfc.
        for (x, want) in [
            (0.0, 1.0),
            (0.3, 0.671_373_240_540_872_6),
            (1.49, 0.035_102_135_156_795_79),
            (1.51, 0.032_723_251_871_288_36),
            (2.0, 0.004_677_734_981_047_266),
            (5.0, 1.537_459_794_428_035_1e-12),
            (-1.0, 1.842_700_792_949_715),
        ] {
            assert!((erfc(x) / want - 1.0f64).abs() < 1e-13, "{x}: {} {want}", erfc(x));
        }
        assert!(erfc(f64::INFINITY) == 0.0 && erfc(f64::NEG_INFINITY) == 2.0);
    }

    #[test]
    fn the_cells_hold_all_the_mass() {
        for (mean, deviation) in [(0.0, 0.3), (0.93, 0.01), (-1.2, 0.05), (0.2, 2.0)] {
            let mass: f64 = (0..256)
                .map(|level| log_cell(f64::from(level) / 127.5 - 1.0, mean, deviation).exp())
                .sum();
            // Thin cells count as 1e-12 each.
            assert!((mass - 1.0).abs() < 1e-9, "{mean} {deviation}: {mass}");
        }
        assert_eq!(log_cell(0.9, -0.9, 1e-3), 1e-12f64.ln());
        assert!(log_cell(0.9, f64::NAN, 1e-3).is_nan());
    }

    #[test]
    fn the_posterior_is_bayes_rule() {
        for table in [table(false), table(true)] {
            for t in [1, 2, 500, 998, 999] {
                let step = Step::new(&table, t).unwrap();
                let before = table.alphas_cumprod()[t - 1];
                // q(x_{t−1}|x₀) = N(√ᾱ_{t−1}·x₀, 1 − ᾱ_{t−1}), q(x_t|x_{t−1}) = N(√α·x_{t−1}, β).
                let precision = 1.0 / (1.0 - before) + step.alpha / step.beta;
                let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} {b}");
                close(step.beta_tilde, 1.0 / precision);
                close(step.of_data, before.sqrt() / (1.0 - before) / precision);
                close(step.of_state, step.alpha.sqrt() / step.beta / precision);
            }
            let first = Step::new(&table, 0).unwrap();
            assert_eq!((first.of_data, first.of_state, first.beta_tilde), (1.0, 0.0, 0.0));
        }
    }

    #[test]
    fn a_step_is_the_simple_loss_with_its_weight() {
        let table = table(false);
        let path = Path::Discrete(table.clone());
        let vlb = |variance| Vlb { table: table.clone(), variance, decoder: Decoder::Discretised };
        let (data, noise, wrong) = (normal(0), normal(1), normal(2));
        for t in [1, 10, 500, 999] {
            let coef = path.at(t as f64);
            let x_t = combine(coef.alpha, &data, coef.sigma, &noise).unwrap();
            let guess = crate::flow::Estimate::from_output(Target::Noise, &coef, &x_t, &wrong);
            let guess = guess.unwrap().data;
            let squares = ((&noise - &wrong).unwrap().sqr().unwrap().mean(1)).unwrap();
            let squares = squares.to_vec1::<f64>().unwrap();
            for kind in [Variance::FixedSmall, Variance::FixedLarge] {
                let v = variance(&table, kind, t).unwrap();
                let step = Step::new(&table, t).unwrap();
                let weight = step.simple_weight(v).unwrap();
                let ratio = step.beta_tilde / v;
                let constant = 0.5 * (ratio - 1.0 - ratio.ln());
                let terms = vlb(kind).term(t, &data, &x_t, &guess).unwrap();
                for (term, square) in terms.iter().zip(&squares) {
                    let want = (weight * square + constant) / LN_2;
                    assert!((term / want - 1.0).abs() < 1e-11, "{kind:?} {t}: {term} {want}");
                }
                // a²·(σ/α)²/(2v): the same weight by the 2×2 solve.
                let solved = (step.of_data * coef.sigma / coef.alpha).powi(2) / (2.0 * v);
                assert!((weight / solved - 1.0).abs() < 1e-12, "{kind:?} {t}");
            }
        }
    }

    #[test]
    fn what_has_no_bound_is_refused() {
        let last = Step::new(&table(true), 999).unwrap();
        assert!(matches!(last.simple_weight(1.0), Err(Error::Range { .. })));
        assert!(matches!(last.simple_weight(0.0), Err(Error::Range { .. })));
        assert!(matches!(Step::new(&table(false), 1000), Err(Error::Time { .. })));
        let vlb = Vlb {
            table: table(false),
            variance: Variance::FixedSmall,
            decoder: Decoder::Discretised,
        };
        let (x, nan) = (normal(0), normal(0).affine(f64::NAN, 0.0).unwrap());
        for t in [0, 7] {
            let error = vlb.term(t, &x, &x, &nan).unwrap_err();
            assert!(matches!(error, Error::NotFinite { step, .. } if step == t), "{error}");
            let narrow = x.narrow(1, 0, 2).unwrap();
            assert!(matches!(vlb.term(t, &x, &x, &narrow), Err(Error::Shape { .. })));
        }
        assert!(matches!(vlb.prior(&nan), Err(Error::Invalid(_))));
        let single = DiscreteConfig { num_train_timesteps: 1, ..Default::default() };
        let single = Discrete::new(single).unwrap();
        assert!(matches!(variance(&single, Variance::FixedSmall, 0), Err(Error::Range { .. })));
    }
}
