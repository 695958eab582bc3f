//! What the network emits, and what follows from it.
//!
//! The network predicts the velocity `v = α'·data + σ'·noise`. Together with
//! `x_t = α·data + σ·noise` that is a 2×2 system, solved with f64 coefficients:
//! `data = (σ'·x_t − σ·v)/D`, `noise = (α·v − α'·x_t)/D`, `D = α·σ' − α'·σ`.

use candle_core::Tensor;

use super::path::Coef;
use crate::{Error, Result};

/// What `x_t` is made of, by the network's opinion. Both tensors have the shape of `x_t`.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The data end of the path.
    pub data: Tensor,
    /// The noise end of the path.
    pub noise: Tensor,
}

impl Estimate {
    /// Solves for (data, noise) from a state and its velocity at the same time.
    ///
    /// # Errors
    /// When the path stands still in this sense (`D = 0`), or the shapes differ.
    pub fn from_velocity(coef: &Coef, x_t: &Tensor, velocity: &Tensor) -> Result<Self> {
        let d = coef.determinant();
        if !d.is_normal() {
            return Err(Error::Invalid(format!(
                "expected a time where state and velocity determine data and noise, got {coef:?} \
                 (alpha·d_sigma − d_alpha·sigma = {d}); choose a time inside the path"
            )));
        }
        Ok(Self {
            data: combine(coef.d_sigma / d, x_t, -coef.sigma / d, velocity)?,
            noise: combine(-coef.d_alpha / d, x_t, coef.alpha / d, velocity)?,
        })
    }

    /// The velocity `α'·data + σ'·noise`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn velocity(&self, coef: &Coef) -> Result<Tensor> {
        combine(coef.d_alpha, &self.data, coef.d_sigma, &self.noise)
    }

    /// The state `α·data + σ·noise`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn state(&self, coef: &Coef) -> Result<Tensor> {
        combine(coef.alpha, &self.data, coef.sigma, &self.noise)
    }
}

/// `a·x + b·y`.
fn combine(a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<Tensor> {
    Ok((x.affine(a, 0.0)? + y.affine(b, 0.0)?)?)
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

    /// A curved path with D ≠ 1, so that the solve is not exercised on straight lines alone.
    fn cosine(t: f64) -> Coef {
        let (half, angle) = (std::f64::consts::FRAC_PI_2, std::f64::consts::FRAC_PI_2 * t);
        Coef {
            alpha: angle.cos(),
            sigma: angle.sin(),
            d_alpha: -half * angle.sin(),
            d_sigma: half * angle.cos(),
        }
    }

    #[test]
    fn velocity_and_state_give_back_data_and_noise() {
        let truth = Estimate { data: row(&[0.3, -1.7, 2.0]), noise: row(&[-0.4, 0.9, 1.1]) };
        for i in 0..=10 {
            let t = f64::from(i) / 10.0;
            for coef in [Path::Straight.at(t), Path::StraightReversed.at(t), cosine(t)] {
                let (x_t, v) = (truth.state(&coef).unwrap(), truth.velocity(&coef).unwrap());
                let back = Estimate::from_velocity(&coef, &x_t, &v).unwrap();
                assert!(gap(&back.data, &truth.data) < 1e-14, "{coef:?}");
                assert!(gap(&back.noise, &truth.noise) < 1e-14, "{coef:?}");
            }
        }
    }

    #[test]
    fn errors_in_velocity_scale_by_d_over_alpha_and_d_over_sigma() {
        let (x_t, right, wrong) = (row(&[0.2, 0.5]), row(&[1.0, -1.0]), row(&[1.5, -1.25]));
        let norm = |a: &Tensor, b: &Tensor| {
            (a - b).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        for coef in [Path::Straight.at(0.3), Path::StraightReversed.at(0.8), cosine(0.6)] {
            let a = Estimate::from_velocity(&coef, &x_t, &right).unwrap();
            let b = Estimate::from_velocity(&coef, &x_t, &wrong).unwrap();
            let (v, d) = (norm(&right, &wrong), coef.determinant());
            let by_noise = (d / coef.alpha).powi(2) * norm(&a.noise, &b.noise);
            let by_data = (d / coef.sigma).powi(2) * norm(&a.data, &b.data);
            assert!((v - by_noise).abs() < 1e-13 && (v - by_data).abs() < 1e-13, "{coef:?}");
        }
    }

    #[test]
    fn a_singular_time_is_an_error() {
        let coef = Coef { alpha: 1.0, sigma: 0.0, d_alpha: 0.0, d_sigma: 0.0 };
        assert!(Estimate::from_velocity(&coef, &row(&[1.0]), &row(&[1.0])).is_err());
    }
}
