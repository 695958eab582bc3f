//! What the network emits, and what follows from it.
//!
//! Every target is a weighted sum of data and noise, `out = p·data + q·noise`, as the state is,
//! `x_t = α·data + σ·noise`. So one 2×2 solve turns any target into data and noise, and those into
//! any other target:
//!
//! ```text
//! data = (q·x_t − σ·out)/det      noise = (α·out − p·x_t)/det      det = α·q − σ·p
//! ```
//!
//! | target | p | q | det |
//! |---|---|---|---|
//! | noise | 0 | 1 | α |
//! | data | 1 | 0 | −σ |
//! | velocity | α' | σ' | α·σ' − α'·σ |
//! | v_prediction | −σ | α | α² + σ² |
//! | score | 0 | −1/σ | −α/σ |
//!
//! At one state the squared errors of two targets are in the ratio of their squared determinants.
//! Sources: Ho et al. 2020 (noise), Salimans and Ho 2022 (data, v), Song et al. 2021 (score).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::path::Coef;
use crate::{Error, Result};

/// What a network predicts. The names in files are LeRobot's and diffusers' `prediction_type`, with
/// `velocity` (diffusers: `flow_prediction`) and `score` beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// The noise ε.
    #[serde(rename = "epsilon")]
    Noise,
    /// The data x₀.
    #[serde(rename = "sample")]
    Data,
    /// The velocity `α'·data + σ'·noise` in the path's own time.
    #[default]
    #[serde(alias = "flow_prediction")]
    Velocity,
    /// `α·noise − σ·data`: the velocity of the same path timed by its angle.
    #[serde(rename = "v_prediction")]
    V,
    /// The gradient of the log-density, `−noise/σ` on average.
    Score,
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 5] = [Self::Noise, Self::Data, Self::Velocity, Self::V, Self::Score];

    /// The weights (p, q) of `out = p·data + q·noise`.
    pub fn weights(self, coef: &Coef) -> (f64, f64) {
        match self {
            Self::Noise => (0.0, 1.0),
            Self::Data => (1.0, 0.0),
            Self::Velocity => (coef.d_alpha, coef.d_sigma),
            Self::V => (-coef.sigma, coef.alpha),
            Self::Score => (0.0, -1.0 / coef.sigma),
        }
    }

    /// `α·q − σ·p`: 0 or not finite where the output does not determine data and noise.
    pub fn determinant(self, coef: &Coef) -> f64 {
        let (p, q) = self.weights(coef);
        coef.alpha * q - coef.sigma * p
    }

    /// `‖error of self‖² / ‖error of other‖²` at one state and time.
    pub fn loss_ratio(self, other: Self, coef: &Coef) -> f64 {
        (self.determinant(coef) / other.determinant(coef)).powi(2)
    }
}

/// What `x_t` is made of, by the network's opinion. Both tensors have the shape of `x_t`.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The data end of the path.
    pub data: Tensor,
    /// The noise end of the path.
    pub noise: Tensor,
}

impl Estimate {
    /// Solves for (data, noise) from a state and the network's output there.
    ///
    /// # Errors
    /// When the output does not determine them at this time, or the shapes differ.
    pub fn from_output(target: Target, coef: &Coef, x_t: &Tensor, output: &Tensor) -> Result<Self> {
        let (p, q) = target.weights(coef);
        let det = target.determinant(coef);
        // Not `== 0`: 1/det must be a number too.
        if !det.is_normal() || !p.is_finite() || !q.is_finite() {
            return Err(Error::Invalid(format!(
                "target {target:?}: expected a time where state and output determine data and \
                 noise, got {coef:?} (determinant {det}); choose a time inside the path"
            )));
        }
        // Where the output is one of the two, it is taken as it is.
        let data = match target {
            Target::Data => output.clone(),
            _ => combine(q / det, x_t, -coef.sigma / det, output)?,
        };
        let noise = match target {
            Target::Noise => output.clone(),
            _ => combine(-p / det, x_t, coef.alpha / det, output)?,
        };
        Ok(Self { data, noise })
    }

    /// The estimate whose data is `data`: the noise that the state then holds.
    ///
    /// # Errors
    /// When there is no noise at this time (σ = 0), or the shapes differ.
    pub fn from_data(coef: &Coef, x_t: &Tensor, data: &Tensor) -> Result<Self> {
        Self::from_output(Target::Data, coef, x_t, data)
    }

    /// What a network of this `target` would have emitted: `p·data + q·noise`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn output(&self, target: Target, coef: &Coef) -> Result<Tensor> {
        match target {
            Target::Data => Ok(self.data.clone()),
            Target::Noise => Ok(self.noise.clone()),
            _ => {
                let (p, q) = target.weights(coef);
                combine(p, &self.data, q, &self.noise)
            }
        }
    }

    /// The velocity `α'·data + σ'·noise`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn velocity(&self, coef: &Coef) -> Result<Tensor> {
        self.output(Target::Velocity, coef)
    }

    /// The score `−noise/σ`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn score(&self, coef: &Coef) -> Result<Tensor> {
        Ok(self.noise.affine(-1.0 / coef.sigma, 0.0)?)
    }

    /// The state `α·data + σ·noise`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn state(&self, coef: &Coef) -> Result<Tensor> {
        combine(coef.alpha, &self.data, coef.sigma, &self.noise)
    }
}

/// `a·x + b·y`; a term of weight 0 is left out.
pub(crate) fn combine(a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(Error::shape("state and estimate", x.dims(), y.dims()));
    }
    Ok(match (a == 0.0, b == 0.0) {
        (_, true) => x.affine(a, 0.0)?,
        (true, _) => y.affine(b, 0.0)?,
        _ => (x.affine(a, 0.0)? + y.affine(b, 0.0)?)?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::flow::path::Path;

    fn row(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap()
    }

    fn coefs() -> Vec<Coef> {
        let paths = [
            Path::Straight,
            Path::StraightReversed,
            Path::Cosine,
            Path::Vp { beta_min: 0.1, beta_max: 20.0 },
            Path::Edm { sigma_max: 1.0 },
        ];
        let times = (1..10).map(|i| f64::from(i) / 10.0);
        times.flat_map(|t| paths.clone().map(|path| path.at(t))).collect()
    }

    #[test]
    fn every_target_gives_back_data_and_noise() {
        let truth = Estimate { data: row(&[0.3, -1.7, 2.0]), noise: row(&[-0.4, 0.9, 1.1]) };
        for coef in coefs() {
            let x_t = truth.state(&coef).unwrap();
            for target in Target::ALL {
                let output = truth.output(target, &coef).unwrap();
                let back = Estimate::from_output(target, &coef, &x_t, &output).unwrap();
                // The worst is alpha = 0.018, of a state of size 1.
                assert!(gap(&back.data, &truth.data) < 1e-12, "{target:?} {coef:?}");
                assert!(gap(&back.noise, &truth.noise) < 1e-12, "{target:?} {coef:?}");
            }
        }
    }

    #[test]
    fn the_ends_are_in_the_path_where_the_target_allows_it() {
        let truth = Estimate { data: row(&[0.3, -1.7]), noise: row(&[-0.4, 0.9]) };
        for path in [Path::Straight, Path::StraightReversed, Path::Cosine, Path::CosineReversed] {
            for t in [0.0, 1.0] {
                let coef = path.at(t);
                let x_t = truth.state(&coef).unwrap();
                for target in [Target::Velocity, Target::V] {
                    let output = truth.output(target, &coef).unwrap();
                    let back = Estimate::from_output(target, &coef, &x_t, &output).unwrap();
                    assert!(gap(&back.data, &truth.data) < 1e-14, "{path:?} {t}");
                    assert!(gap(&back.noise, &truth.noise) < 1e-14, "{path:?} {t}");
                }
            }
        }
    }

    #[test]
    fn squared_errors_are_in_the_ratio_of_squared_determinants() {
        let (x_t, right, wrong) = (row(&[0.2, 0.5]), row(&[1.0, -1.0]), row(&[1.5, -1.25]));
        let norm = |a: &Tensor, b: &Tensor| {
            (a - b).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        for coef in coefs() {
            for from in Target::ALL {
                let a = Estimate::from_output(from, &coef, &x_t, &right).unwrap();
                let b = Estimate::from_output(from, &coef, &x_t, &wrong).unwrap();
                for to in Target::ALL {
                    let (u, v) = (a.output(to, &coef).unwrap(), b.output(to, &coef).unwrap());
                    let want = to.loss_ratio(from, &coef) * norm(&right, &wrong);
                    assert!((norm(&u, &v) / want - 1.0).abs() < 1e-12, "{from:?} {to:?} {coef:?}");
                }
            }
        }
    }

    #[test]
    fn a_singular_time_is_an_error() {
        let still = Coef { alpha: 1.0, sigma: 0.0, d_alpha: 0.0, d_sigma: 0.0 };
        let (data, noise) = (Path::Straight.at(0.0), Path::Straight.at(1.0));
        for (target, coef) in [
            (Target::Velocity, still),
            (Target::Data, data),
            (Target::Score, data),
            (Target::Noise, noise),
            (Target::Score, noise),
        ] {
            let error = Estimate::from_output(target, &coef, &row(&[1.0]), &row(&[1.0]));
            assert!(error.unwrap_err().to_string().contains("inside the path"), "{target:?}");
        }
    }

    #[test]
    fn names_are_those_of_prediction_type() {
        for (name, target) in [
            ("epsilon", Target::Noise),
            ("sample", Target::Data),
            ("v_prediction", Target::V),
            ("flow_prediction", Target::Velocity),
            ("velocity", Target::Velocity),
            ("score", Target::Score),
        ] {
            let read: Target = serde_json::from_str(&format!("{name:?}")).unwrap();
            assert_eq!(read, target);
        }
    }
}
