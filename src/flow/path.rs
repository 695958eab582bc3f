//! Paths from noise to data: `x_t = α(t)·data + σ(t)·noise`, with derivatives in the path's own t.
//!
//! The time convention belongs to the path and to nothing else. Most paths have the inside
//! convention (noise at the larger time, as in π0, SmolVLA, SD3, DDPM); `StraightReversed`,
//! `CosineReversed` and `Lipman` run the other way (Lipman et al., torchcfm, GR00T), over the same
//! curves. All arithmetic is f64.
//!
//! | path | α | σ | t of noise, of data |
//! |---|---|---|---|
//! | straight | 1 − t | t | 1, 0 |
//! | straight_reversed | t | 1 − t | 0, 1 |
//! | lipman | t | 1 − (1 − σ_min)·t | 0, 1 |
//! | cosine | cos(πt/2) | sin(πt/2) | 1, 0 |
//! | cosine_reversed | sin(πt/2) | cos(πt/2) | 0, 1 |
//! | vp | e^(−T/2), T = t²(β_max − β_min)/2 + t·β_min | √(1 − e^(−T)) | 1, 0 |
//! | discrete | √ᾱ_t | √(1 − ᾱ_t) | N − 1, −1 |
//! | edm | 1 | t | σ_max, 0 |
//!
//! Sources: Lipman et al. 2023 (straight, Lipman), Albergo and Vanden-Eijnden 2023 (cosine), Song et
//! al. 2021 (VP), Ho et al. 2020 (discrete), Karras et al. 2022 (EDM).

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use super::schedule::Discrete;
use crate::{Error, Result};

/// Coefficients of a path at one time: `x_t = alpha·data + sigma·noise`, and their derivatives in t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coef {
    /// Weight of the data.
    pub alpha: f64,
    /// Weight of the noise.
    pub sigma: f64,
    /// Derivative of `alpha` in the path's own time.
    pub d_alpha: f64,
    /// Derivative of `sigma` in the path's own time.
    pub d_sigma: f64,
}

impl Coef {
    /// The determinant `alpha·d_sigma − d_alpha·sigma`. Zero where (x_t, velocity) does not
    /// determine (data, noise).
    pub fn determinant(&self) -> f64 {
        self.alpha * self.d_sigma - self.d_alpha * self.sigma
    }

    /// Half the logarithm of the signal-to-noise ratio, `λ = ln(alpha/sigma)`: +∞ for pure data, −∞
    /// for pure noise.
    pub fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The signal-to-noise ratio `alpha²/sigma²`.
    pub fn snr(&self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }

    /// Deviation of the noise beside unit data, `σ̂ = sigma/alpha`: the σ of EDM and k-diffusion.
    pub fn sigma_hat(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// The same curve run the other way.
    fn reversed(self) -> Self {
        Self { d_alpha: -self.d_alpha, d_sigma: -self.d_sigma, ..self }
    }
}

/// Which curve leads from noise to data, and in which direction its time runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Path {
    /// `alpha = 1 − t`, `sigma = t`: noise at t = 1, velocity `noise − data`.
    #[default]
    Straight,
    /// `alpha = t`, `sigma = 1 − t`: noise at t = 0, velocity `data − noise`.
    StraightReversed,
    /// `alpha = t`, `sigma = 1 − (1 − sigma_min)·t`: noise at t = 0, and `sigma_min` of it left at
    /// t = 1. Lipman et al. 2023, equation 20.
    Lipman {
        /// Deviation of the noise that stays on the data.
        sigma_min: f64,
    },
    /// `alpha = cos(πt/2)`, `sigma = sin(πt/2)`: noise at t = 1. SiT calls it GVP.
    Cosine,
    /// `alpha = sin(πt/2)`, `sigma = cos(πt/2)`: noise at t = 0, as in torchcfm's VP-CFM.
    CosineReversed,
    /// Variance preserving with `β(t)` linear: noise at t = 1 (nearly: alpha is e^(−T(1)/2) there).
    Vp {
        /// β at t = 0; Song et al. use 0.1.
        beta_min: f64,
        /// β at t = 1; Song et al. use 20.
        beta_max: f64,
    },
    /// Variance preserving over a table of N steps, as DDPM trains: noise at t = N − 1; t = 0 is the
    /// least noisy step of the table and t = −1 is the data.
    Discrete(Discrete),
    /// `alpha = 1`, `sigma = t`: noise of deviation `sigma_max` on the data at t = `sigma_max`.
    Edm {
        /// Deviation where sampling starts.
        sigma_max: f64,
    },
}

impl Path {
    /// Coefficients at the path's own time `t`. Outside the path ([`Path::check`]) they mean nothing.
    pub fn at(&self, t: f64) -> Coef {
        match self {
            Self::Straight => Coef { alpha: 1.0 - t, sigma: t, d_alpha: -1.0, d_sigma: 1.0 },
            Self::StraightReversed => Self::Straight.at(1.0 - t).reversed(),
            Self::Lipman { sigma_min } => {
                let shrink = 1.0 - sigma_min;
                Coef { alpha: t, sigma: 1.0 - shrink * t, d_alpha: 1.0, d_sigma: -shrink }
            }
            Self::Cosine => {
                let (sin, cos) = match t {
                    1.0 => (1.0, 0.0),
                    t => (FRAC_PI_2 * t).sin_cos(),
                };
                Coef { alpha: cos, sigma: sin, d_alpha: -FRAC_PI_2 * sin, d_sigma: FRAC_PI_2 * cos }
            }
            Self::CosineReversed => Self::Cosine.at(1.0 - t).reversed(),
            Self::Vp { beta_min, beta_max } => {
                let beta = beta_min + t * (beta_max - beta_min);
                let integral = t * beta_min + 0.5 * t * t * (beta_max - beta_min);
                let (alpha, variance) = ((-0.5 * integral).exp(), -(-integral).exp_m1());
                let sigma = variance.sqrt();
                let d_sigma = 0.5 * beta * alpha * alpha / sigma;
                Coef { alpha, sigma, d_alpha: -0.5 * beta * alpha, d_sigma }
            }
            Self::Discrete(table) => table.at(t),
            Self::Edm { .. } => Coef { alpha: 1.0, sigma: t, d_alpha: 0.0, d_sigma: 1.0 },
        }
    }

    /// The path's own times of (noise, data): sampling integrates from the first to the second.
    pub fn ends(&self) -> (f64, f64) {
        match self {
            Self::Straight | Self::Cosine | Self::Vp { .. } => (1.0, 0.0),
            Self::StraightReversed | Self::CosineReversed | Self::Lipman { .. } => (0.0, 1.0),
            Self::Discrete(table) => (table.steps() as f64 - 1.0, -1.0),
            Self::Edm { sigma_max } => (*sigma_max, 0.0),
        }
    }

    /// The path's own time for `t` of the inside convention (1 is noise, 0 is data).
    pub fn own_time(&self, t: f64) -> f64 {
        let (noise, data) = self.ends();
        // Exact at both ends, and at every t where they are 0 and 1.
        noise * t + data * (1.0 - t)
    }

    /// `λ = ln(α/σ)` at the path's own time `t`.
    pub fn lambda(&self, t: f64) -> f64 {
        self.at(t).lambda()
    }

    /// The path's own time where `ln(α/σ)` is `lambda`; beyond the ends, the end.
    pub fn t_of_lambda(&self, lambda: f64) -> f64 {
        // σ/(α + σ) on a straight path.
        let noise_share = 1.0 / (1.0 + lambda.exp());
        let angle = (-lambda).exp().atan() / FRAC_PI_2;
        match self {
            Self::Straight => noise_share,
            Self::StraightReversed => 1.0 / (1.0 + (-lambda).exp()),
            // t/(1 − (1 − s)·t) = e^λ
            Self::Lipman { sigma_min } => {
                (1.0 / ((-lambda).exp() + 1.0 - sigma_min)).clamp(0.0, 1.0)
            }
            Self::Cosine => angle,
            Self::CosineReversed => lambda.exp().atan() / FRAC_PI_2,
            Self::Vp { beta_min, beta_max } => {
                // e^(−T) = 1/(1 + e^(−2λ)), then the quadratic in t without cancellation.
                let integral = if lambda > 0.0 {
                    (-2.0 * lambda).exp().ln_1p()
                } else {
                    -2.0 * lambda + (2.0 * lambda).exp().ln_1p()
                };
                let root = (beta_min * beta_min + 2.0 * (beta_max - beta_min) * integral).sqrt();
                (2.0 * integral / (beta_min + root)).clamp(0.0, 1.0)
            }
            Self::Discrete(table) => table.t_of_sigma_hat((-lambda).exp()),
            Self::Edm { sigma_max } => (-lambda).exp().min(*sigma_max),
        }
    }

    /// Checks that `t` is a time of the path.
    ///
    /// # Errors
    /// [`Error::Time`] when it is outside, or not a number.
    pub fn check(&self, t: f64) -> Result<()> {
        let (noise, data) = self.ends();
        let (from, to) = (noise.min(data), noise.max(data));
        if (from..=to).contains(&t) { Ok(()) } else { Err(Error::Time { got: t, from, to }) }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] when no path has them.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Lipman { sigma_min } if !(0.0..1.0).contains(&sigma_min) => {
                Err(Error::range("path lipman: sigma_min", "0 up to 1", sigma_min))
            }
            Self::Vp { beta_min, .. } if !(beta_min > 0.0 && beta_min.is_finite()) => {
                Err(Error::range("path vp: beta_min", "a number above 0", beta_min))
            }
            Self::Vp { beta_min, beta_max } if !(beta_max >= beta_min && beta_max < 1e3) => {
                Err(Error::range("path vp: beta_max", "beta_min up to 1000", beta_max))
            }
            Self::Edm { sigma_max } if !(sigma_max > 0.0 && sigma_max.is_finite()) => {
                Err(Error::range("path edm: sigma_max", "a number above 0", sigma_max))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [Path; 4] =
        [Path::Straight, Path::StraightReversed, Path::Cosine, Path::CosineReversed];

    fn curved() -> Vec<Path> {
        let config = super::super::schedule::DiscreteConfig::default();
        let mut paths = PATHS.to_vec();
        paths.extend([
            Path::Lipman { sigma_min: 0.1 },
            Path::Vp { beta_min: 0.1, beta_max: 20.0 },
            Path::Discrete(Discrete::new(config).unwrap()),
            Path::Edm { sigma_max: 80.0 },
        ]);
        paths
    }

    #[test]
    fn lambda_and_its_inverse_agree() {
        for path in curved() {
            for i in 1..40 {
                let t = path.own_time(f64::from(i) / 40.0);
                let back = path.t_of_lambda(path.lambda(t));
                assert!((back - t).abs() < 1e-11 * (1.0 + t.abs()), "{path:?}: {t} {back}");
            }
            let (noise, data) = path.ends();
            assert!(path.check(noise).is_ok() && path.check(data).is_ok());
            for outside in [noise + noise - data, data + data - noise, f64::NAN] {
                assert!(matches!(path.check(outside), Err(Error::Time { .. })), "{path:?}");
            }
            assert!(path.validate().is_ok());
        }
    }

    #[test]
    fn ends_are_pure_noise_and_pure_data() {
        for path in PATHS {
            let (noise, data) = path.ends();
            assert_eq!((path.at(noise).alpha, path.at(noise).sigma), (0.0, 1.0), "{path:?}");
            assert_eq!((path.at(data).alpha, path.at(data).sigma), (1.0, 0.0), "{path:?}");
            assert_eq!((path.own_time(1.0), path.own_time(0.0)), (noise, data), "{path:?}");
        }
    }

    #[test]
    fn derivatives_match_differences() {
        for path in curved() {
            for i in 1..10 {
                // Off the points of the table, where its interpolation has corners.
                let (t, h) = (path.own_time(f64::from(i) / 10.0) + 0.003, 1e-5);
                let (before, here, after) = (path.at(t - h), path.at(t), path.at(t + h));
                let slope = |a: f64, b: f64| (b - a) / (2.0 * h);
                assert!((slope(before.alpha, after.alpha) - here.d_alpha).abs() < 1e-9);
                assert!((slope(before.sigma, after.sigma) - here.d_sigma).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn the_two_directions_are_one_curve() {
        for i in 0..=8 {
            let t = f64::from(i) / 8.0;
            let a = Path::Straight.at(t);
            let b = Path::StraightReversed.at(Path::StraightReversed.own_time(t));
            assert_eq!((a.alpha, a.sigma), (b.alpha, b.sigma));
            assert_eq!((a.d_alpha, a.d_sigma), (-b.d_alpha, -b.d_sigma));
        }
    }

    #[test]
    fn names_are_snake_case_and_unknown_ones_are_refused() {
        let name = serde_json::to_string(&Path::StraightReversed).unwrap();
        assert_eq!(name, "\"straight_reversed\"");
        let error = serde_json::from_str::<Path>("\"curved\"").unwrap_err().to_string();
        assert!(error.contains("straight_reversed"), "{error}");
    }
}
