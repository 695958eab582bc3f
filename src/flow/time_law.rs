//! How training times are drawn. Times are in the path's own convention, as each paper prints them.
//!
//! Sources: uniform (Lipman 2023), logit-normal and mode (Esser et al. 2024, SD3, §3.1), shifted
//! beta (π0, Black et al. 2024, appendix B: alpha 1.5, beta 1, min 0.001, max 1, noise at t = 1).

use serde::{Deserialize, Serialize};

use super::noise::{Noise, Purpose, Words};
use crate::{Error, Result};

/// The distribution of the training time t in [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "law", rename_all = "snake_case", try_from = "Written")]
#[non_exhaustive]
pub enum TimeLaw {
    /// Uniform on [0, 1).
    #[default]
    Uniform,
    /// `t = 1/(1 + e^−z)` with z normal.
    LogitNormal {
        /// Mean of z; above 0 favours t near 1.
        mean: f64,
        /// Standard deviation of z.
        std: f64,
    },
    /// `t = min + (max − min)·B` with B from Beta(alpha, beta).
    Beta {
        /// First shape parameter; above `beta` favours t near `max`.
        alpha: f64,
        /// Second shape parameter.
        beta: f64,
        /// Smallest time.
        min: f64,
        /// Largest time.
        max: f64,
    },
    /// `t = 1 − u − scale·(cos²(πu/2) − 1 + u)` with u uniform.
    Mode {
        /// Positive favours the middle, negative the ends; monotone in u from −1 to 1.75.
        scale: f64,
    },
}

/// A law as written in a recipe: unknown fields are refused also where a law has none, and values
/// are checked before they become a [`TimeLaw`].
#[derive(Deserialize)]
#[serde(tag = "law", rename_all = "snake_case", deny_unknown_fields)]
enum Written {
    Uniform {},
    LogitNormal { mean: f64, std: f64 },
    Beta { alpha: f64, beta: f64, min: f64, max: f64 },
    Mode { scale: f64 },
}

impl TryFrom<Written> for TimeLaw {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let law = match written {
            Written::Uniform {} => Self::Uniform,
            Written::LogitNormal { mean, std } => Self::LogitNormal { mean, std },
            Written::Beta { alpha, beta, min, max } => Self::Beta { alpha, beta, min, max },
            Written::Mode { scale } => Self::Mode { scale },
        };
        law.validate()?;
        Ok(law)
    }
}

/// Above this scale the mode law is no longer monotone in u (SD3: 2/(π − 2)).
const MODE_SCALE_MAX: f64 = 1.751_938_393_884_108_6;

impl TimeLaw {
    /// Checks the parameters.
    ///
    /// # Errors
    /// When no distribution on [0, 1] has them.
    pub fn validate(&self) -> Result<()> {
        let (fine, expected) = match *self {
            Self::Uniform => (true, ""),
            Self::LogitNormal { mean, std } => {
                (mean.is_finite() && std.is_finite() && std > 0.0, "a finite mean and std above 0")
            }
            Self::Beta { alpha, beta, min, max } => (
                [alpha, beta].iter().all(|x| x.is_finite() && *x > 0.0)
                    && (0.0..max).contains(&min)
                    && max <= 1.0,
                "alpha and beta above 0 and 0 ≤ min < max ≤ 1",
            ),
            Self::Mode { scale } => {
                ((-1.0..=MODE_SCALE_MAX).contains(&scale), "a scale from −1 to 1.75")
            }
        };
        if fine {
            return Ok(());
        }
        Err(Error::Invalid(format!("time law: expected {expected}, got {self:?}")))
    }

    /// The time of draw number `draw` for sample number `sample`. Its bits are of their own kind:
    /// normals and uniforms with the same two numbers are independent of it.
    pub fn sample(&self, noise: &Noise, sample: u64, draw: u64) -> f64 {
        let mut words = noise.stream(sample, draw, Purpose::Time).words();
        match *self {
            Self::Uniform => words.uniform(),
            Self::LogitNormal { mean, std } => 1.0 / (1.0 + (-(mean + std * words.normal())).exp()),
            Self::Beta { alpha, beta, min, max } => {
                let (a, b) = (gamma(&mut words, alpha), gamma(&mut words, beta));
                min + (max - min) * (a / (a + b))
            }
            Self::Mode { scale } => {
                let u = words.uniform();
                let cosine = (std::f64::consts::FRAC_PI_2 * u).cos();
                (1.0 - u - scale * (cosine * cosine - 1.0 + u)).clamp(0.0, 1.0)
            }
        }
    }
}

/// A Gamma(shape, 1) number by rejection. Source: Marsaglia and Tsang 2000, with their boost
/// `Gamma(a) = Gamma(a + 1)·u^(1/a)` for shapes below 1.
fn gamma(words: &mut Words, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = words.open_uniform().powf(1.0 / shape);
        return gamma(words, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let z = words.normal();
        let v = (1.0 + c * z).powi(3);
        if v > 0.0 && words.open_uniform().ln() < 0.5 * z * z + d * (1.0 - v + v.ln()) {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(law: TimeLaw) -> (f64, f64, f64) {
        let (noise, n) = (Noise::new(11), 200_000u32);
        let mut t: Vec<f64> = (0..n).map(|i| law.sample(&noise, u64::from(i), 0)).collect();
        assert!(t.iter().all(|t| (0.0..=1.0).contains(t)), "{law:?}");
        t.sort_by(f64::total_cmp);
        let mean = t.iter().sum::<f64>() / f64::from(n);
        let variance = t.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / f64::from(n);
        (mean, variance, t[n as usize / 2])
    }

    #[test]
    fn laws_have_their_moments() {
        let beta = |alpha: f64, beta: f64| {
            let sum = alpha + beta;
            (alpha / sum, alpha * beta / (sum * sum * (sum + 1.0)))
        };
        for (law, (mean, variance)) in [
            (TimeLaw::Uniform, (0.5, 1.0 / 12.0)),
            (TimeLaw::Beta { alpha: 1.5, beta: 1.0, min: 0.0, max: 1.0 }, beta(1.5, 1.0)),
            (TimeLaw::Beta { alpha: 0.4, beta: 2.5, min: 0.0, max: 1.0 }, beta(0.4, 2.5)),
        ] {
            let (m, v, _) = moments(law);
            let bound = 5.0 * (variance / 2e5f64).sqrt();
            assert!((m - mean).abs() < bound && (v - variance).abs() < bound, "{law:?}: {m} {v}");
        }
        // The median of a monotone map is the map of the median.
        let (_, _, median) = moments(TimeLaw::LogitNormal { mean: -0.4, std: 1.0 });
        assert!((median - 1.0 / (1.0 + 0.4f64.exp())).abs() < 3e-3, "{median}");
        let (mean, _, median) = moments(TimeLaw::Mode { scale: 1.29 });
        assert!((mean - 0.5).abs() < 3e-3 && (median - 0.5).abs() < 3e-3, "{mean} {median}");
        let (mean, _, _) = moments(TimeLaw::Beta { alpha: 1.5, beta: 1.0, min: 0.001, max: 1.0 });
        assert!((mean - (0.001 + 0.999 * 0.6)).abs() < 3e-3, "{mean}");
    }

    #[test]
    fn a_time_depends_on_its_keys_only() {
        let (law, noise) = (TimeLaw::LogitNormal { mean: 0.0, std: 1.0 }, Noise::new(5));
        assert_eq!(law.sample(&noise, 3, 4).to_bits(), law.sample(&noise, 3, 4).to_bits());
        assert_ne!(law.sample(&noise, 3, 4).to_bits(), law.sample(&noise, 4, 3).to_bits());
        assert_ne!(TimeLaw::Uniform.sample(&noise, 3, 4), noise.uniform(3, 4));
    }

    #[test]
    fn recipes_are_read_and_nonsense_is_refused() {
        let read = serde_json::from_str::<TimeLaw>;
        assert_eq!(read(r#"{"law":"uniform"}"#).unwrap(), TimeLaw::Uniform);
        let beta = TimeLaw::Beta { alpha: 1.5, beta: 1.0, min: 0.001, max: 1.0 };
        let written = serde_json::to_string(&beta).unwrap();
        assert_eq!(read(&written).unwrap(), beta);
        for (text, named) in [
            (r#"{"law":"uniform","mean":0.5}"#, "mean"),
            (r#"{"law":"normal"}"#, "logit_normal"),
            (r#"{"law":"logit_normal","mean":0}"#, "std"),
            (r#"{"law":"logit_normal","mean":0,"std":-1}"#, "std above 0"),
            (r#"{"law":"beta","alpha":1.5,"beta":1,"min":0.5,"max":0.2}"#, "min < max"),
            (r#"{"law":"mode","scale":3}"#, "1.75"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
