//! How training times are drawn. Times are in the path's own convention, as each paper prints them.
//!
//! Most laws give a share u of the path's time from its smaller end to its larger, and
//! [`TimeLaw::sample_on`] turns it into the path's own time:
//!
//! ```text
//! ends 0 and 1   t = u, whichever end is noise
//! discrete       t = ⌊u·N⌋, a whole training step from 0 to N − 1
//! edm            t = u·σ_max
//! ```
//!
//! The law of `ln σ̂` gives a place on the curve instead, so it means the same on every path: the
//! time where `ln(α/σ) = −ln σ̂`, or the end that is nearest; on a table the nearest whole step.
//!
//! Sources: uniform (Lipman 2023), logit-normal and mode (Esser et al. 2024, SD3, §3.1), shifted
//! beta (π0, Black et al. 2024, appendix B: alpha 1.5, beta 1, min 0.001, max 1, noise at t = 1),
//! log-normal σ̂ (Karras et al. 2022, table 1: mean −1.2, std 1.2).

use serde::{Deserialize, Serialize};

use super::noise::{Noise, Purpose, Words};
use super::path::Path;
use crate::{Error, Result};

/// The distribution of the training time.
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
    /// `ln σ̂` is normal, where `σ̂ = σ/α` is the noise beside unit data.
    LogNormal {
        /// Mean of ln σ̂; above 0 favours noise.
        mean: f64,
        /// Standard deviation of ln σ̂.
        std: f64,
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
    LogNormal { mean: f64, std: f64 },
}

impl TryFrom<Written> for TimeLaw {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let law = match written {
            Written::Uniform {} => Self::Uniform,
            Written::LogitNormal { mean, std } => Self::LogitNormal { mean, std },
            Written::Beta { alpha, beta, min, max } => Self::Beta { alpha, beta, min, max },
            Written::Mode { scale } => Self::Mode { scale },
            Written::LogNormal { mean, std } => Self::LogNormal { mean, std },
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
    /// When no distribution has them.
    pub fn validate(&self) -> Result<()> {
        let (fine, expected) = match *self {
            Self::Uniform => (true, ""),
            Self::LogitNormal { mean, std } | Self::LogNormal { mean, std } => {
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

    /// The time on the straight path of draw number `draw` for sample number `sample`: the share u
    /// itself, or `σ̂/(1 + σ̂)`.
    pub fn sample(&self, noise: &Noise, sample: u64, draw: u64) -> f64 {
        self.sample_on(&Path::Straight, noise, sample, draw)
    }

    /// The path's own time of draw number `draw` for sample number `sample`; the first section of
    /// this page says how a law meets a path. Its bits are of their own kind: normals and uniforms
    /// with the same two numbers are independent of it.
    pub fn sample_on(&self, path: &Path, noise: &Noise, sample: u64, draw: u64) -> f64 {
        let mut words = noise.stream(sample, draw, Purpose::Time).words();
        let share = match *self {
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
            Self::LogNormal { mean, std } => {
                return nearest(path, path.t_of_lambda(-(mean + std * words.normal())));
            }
        };
        match path {
            Path::Discrete(table) => {
                let n = table.steps() as f64;
                (share * n).floor().min(n - 1.0)
            }
            Path::Edm { sigma_max } => share * sigma_max,
            _ => share,
        }
    }
}

/// The time of `path` where `σ̂ = σ/α` is `shift` times that at the path's own time `t`: the shift of
/// SD3 and Flux, `λ → λ − ln shift`. Above 1 it leads towards noise; the ends stay. On a table the
/// result is the nearest whole step. Source: Esser et al. 2024, §5.3.2.
pub fn shifted(path: &Path, t: f64, shift: f64) -> f64 {
    if shift == 1.0 {
        return t;
    }
    nearest(path, path.t_of_lambda(path.lambda(t) - shift.ln()))
}

/// A network over a table is trained at whole steps only.
fn nearest(path: &Path, t: f64) -> f64 {
    match path {
        Path::Discrete(table) => t.round().clamp(0.0, table.steps() as f64 - 1.0),
        _ => t,
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

    fn tables() -> Path {
        Path::Discrete(crate::flow::Discrete::new(Default::default()).unwrap())
    }

    #[test]
    fn every_law_meets_every_path() {
        let noise = Noise::new(3);
        let paths = [
            Path::Straight,
            Path::StraightReversed,
            Path::Lipman { sigma_min: 0.1 },
            Path::Cosine,
            Path::Vp { beta_min: 0.1, beta_max: 20.0 },
            tables(),
            Path::Edm { sigma_max: 80.0 },
        ];
        let laws = [
            TimeLaw::Uniform,
            TimeLaw::LogitNormal { mean: 0.0, std: 1.0 },
            TimeLaw::Beta { alpha: 1.5, beta: 1.0, min: 0.001, max: 1.0 },
            TimeLaw::Mode { scale: 1.29 },
            TimeLaw::LogNormal { mean: -1.2, std: 1.2 },
        ];
        for path in &paths {
            for law in &laws {
                for sample in 0..500 {
                    let t = law.sample_on(path, &noise, sample, 0);
                    path.check(t).unwrap();
                    if matches!(path, Path::Discrete(_)) {
                        assert!(t.fract() == 0.0 && (0.0..1000.0).contains(&t), "{law:?} {t}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_law_of_sigma_is_one_law_on_all_paths() {
        let (law, noise, n) = (TimeLaw::LogNormal { mean: -1.2, std: 1.2 }, Noise::new(8), 50_000);
        let edm = Path::Edm { sigma_max: 1e9 };
        let (mut sum, mut squares) = (0.0, 0.0);
        for sample in 0..n {
            let log = law.sample_on(&edm, &noise, sample, 0).ln();
            (sum, squares) = (sum + log, squares + log * log);
            for path in [Path::Straight, Path::StraightReversed, Path::Cosine] {
                let t = law.sample_on(&path, &noise, sample, 0);
                assert!((path.lambda(t) + log).abs() < 1e-9, "{path:?}");
            }
        }
        let mean = sum / n as f64;
        let deviation = (squares / n as f64 - mean * mean).sqrt();
        assert!((mean + 1.2).abs() < 0.03 && (deviation - 1.2).abs() < 0.03, "{mean} {deviation}");
    }

    #[test]
    fn whole_steps_are_uniform() {
        let config =
            crate::flow::schedule::DiscreteConfig { num_train_timesteps: 10, ..Default::default() };
        let path = Path::Discrete(crate::flow::Discrete::new(config).unwrap());
        let mut counts = [0u32; 10];
        for sample in 0..50_000 {
            counts[TimeLaw::Uniform.sample_on(&path, &Noise::new(1), sample, 0) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 5e3).powi(2) / 5e3).sum();
        assert!(chi2 < 40.0, "chi² with 9 degrees of freedom: {chi2} {counts:?}");
    }

    #[test]
    fn the_shift_multiplies_the_noise_and_keeps_the_ends() {
        for t in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let sd3 = 3.0 * t / (1.0 + 2.0 * t);
            assert!((shifted(&Path::Straight, t, 3.0) - sd3).abs() < 1e-15);
            // The same place of the same curve, run the other way.
            assert!((shifted(&Path::StraightReversed, 1.0 - t, 3.0) - (1.0 - sd3)).abs() < 1e-15);
            assert_eq!(shifted(&Path::Cosine, t, 1.0), t);
        }
        let path = Path::Edm { sigma_max: 80.0 };
        assert!((shifted(&path, 2.0, 3.0) - 6.0).abs() < 1e-12);
        let table = tables();
        for t in [0.0, 500.0, 999.0] {
            let there = shifted(&table, t, 3.0);
            assert!(there.fract() == 0.0 && there >= t && table.check(there).is_ok());
        }
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
            (r#"{"law":"log_normal","mean":-1.2,"std":0}"#, "std above 0"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
