//! Paths from noise to data: `x_t = α(t)·data + σ(t)·noise`, with derivatives in the path's own t.
//!
//! The time convention belongs to the path and to nothing else. `Straight` is the inside convention
//! (t = 1 is noise, as in π0, SmolVLA, SD3); `StraightReversed` is that of Lipman et al., torchcfm
//! and GR00T (t = 0 is noise). Both describe the same curves, run in opposite directions.

use serde::{Deserialize, Serialize};

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
}

/// Which curve leads from noise to data, and in which direction its time runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Path {
    /// `alpha = 1 − t`, `sigma = t`: noise at t = 1, velocity `noise − data`.
    #[default]
    Straight,
    /// `alpha = t`, `sigma = 1 − t`: noise at t = 0, velocity `data − noise`.
    StraightReversed,
}

impl Path {
    /// Coefficients at the path's own time `t`.
    pub fn at(&self, t: f64) -> Coef {
        match self {
            Self::Straight => Coef { alpha: 1.0 - t, sigma: t, d_alpha: -1.0, d_sigma: 1.0 },
            Self::StraightReversed => {
                Coef { alpha: t, sigma: 1.0 - t, d_alpha: 1.0, d_sigma: -1.0 }
            }
        }
    }

    /// The path's own times of (noise, data): sampling integrates from the first to the second.
    pub fn ends(&self) -> (f64, f64) {
        match self {
            Self::Straight => (1.0, 0.0),
            Self::StraightReversed => (0.0, 1.0),
        }
    }

    /// The path's own time for `t` of the inside convention (1 is noise, 0 is data).
    pub fn own_time(&self, t: f64) -> f64 {
        match self {
            Self::Straight => t,
            Self::StraightReversed => 1.0 - t,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [Path; 2] = [Path::Straight, Path::StraightReversed];

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
        for path in PATHS {
            for i in 1..10 {
                let (t, h) = (f64::from(i) / 10.0, 1e-5);
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
