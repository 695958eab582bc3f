//! Weights of the squared error, as functions of where on the path a sample is.
//!
//! A weight is stated as its paper states it, in the parameterisation of the paper, and converted to
//! the target that the network emits by the ratio of squared determinants ([`Target::loss_ratio`]).
//! With `A = ‖error of noise‖²/‖error of output‖²` and `B = ‖error of data‖²/‖error of output‖²`
//! (so `A = SNR·B`), the weight of the output's own squared error is
//!
//! | weight | on the data's error | on the output's error |
//! |---|---|---|
//! | unit | B⁻¹ | 1 |
//! | snr | SNR | A |
//! | min_snr γ | min(SNR, γ) | min(A, γ·B) |
//! | truncated | max(SNR, 1) | max(A, B) |
//! | edm σ_d | 1/σ̂² + 1/σ_d² | A + B/σ_d² |
//! | as another target | ‖error of it‖²/‖error of data‖² | ‖error of it‖²/‖error of output‖² |
//!
//! For a variance preserving path and the outputs noise, data and v, min_snr is diffusers' recipe:
//! min(SNR, γ) over SNR, over 1 and over SNR + 1.
//!
//! Sources: Salimans and Ho 2022 (truncated), Hang et al. 2023 (min-SNR), Karras et al. 2022 (EDM).

use serde::{Deserialize, Serialize};

use super::path::Coef;
use super::target::Target;
use crate::{Error, Result};

/// How the squared error of a sample is weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Weight {
    /// 1 on the network's own output: DDPM's simple loss when that is the noise.
    #[default]
    Unit,
    /// The signal-to-noise ratio on the data's error: unit weight on the noise's.
    Snr,
    /// `min(SNR, gamma)` on the data's error.
    MinSnr {
        /// The largest weight; Hang et al. use 5.
        gamma: f64,
    },
    /// `max(SNR, 1)` on the data's error: the larger of the errors of noise and data.
    Truncated,
    /// `1/σ̂² + 1/sigma_data²` on the data's error.
    Edm {
        /// Deviation of the data; Karras et al. use 0.5.
        sigma_data: f64,
    },
    /// The loss of this target, whatever the network emits.
    As(Target),
}

impl Weight {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] when one is not a number above 0.
    pub fn validate(self) -> Result<()> {
        let (what, value) = match self {
            Self::MinSnr { gamma } => ("weight min_snr: gamma", gamma),
            Self::Edm { sigma_data } => ("weight edm: sigma_data", sigma_data),
            _ => return Ok(()),
        };
        if value > 0.0 && value.is_finite() {
            return Ok(());
        }
        Err(Error::range(what, "a number above 0", value))
    }

    /// The weight of `‖error of an output of this target‖²` at one place of the path.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not finite there: the target has no finite loss in that
    /// parameterisation.
    pub fn of(self, target: Target, coef: &Coef) -> Result<f64> {
        // A determinant may be 0 or infinite; the ratio to itself is 1 all the same.
        let ratio = |of: Target| if of == target { 1.0 } else { of.loss_ratio(target, coef) };
        let (noise, data) = (ratio(Target::Noise), ratio(Target::Data));
        let weight = match self {
            Self::Unit => 1.0,
            Self::Snr => noise,
            Self::MinSnr { gamma } => smaller(noise, gamma * data),
            Self::Truncated if noise.is_nan() || data.is_nan() => f64::NAN,
            Self::Truncated => noise.max(data),
            Self::Edm { sigma_data } => noise + data / (sigma_data * sigma_data),
            Self::As(other) => ratio(other),
        };
        if weight.is_finite() {
            return Ok(weight);
        }
        Err(Error::Invalid(format!(
            "weight {self:?}: expected a time where it is finite for an output of {target:?}, got \
             {coef:?} (weight {weight}); draw times inside the path or choose another weight"
        )))
    }
}

/// The smaller number; unlike `f64::min` it does not pass over a NaN.
fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Path;

    #[test]
    fn variance_preserving_weights_are_the_published_formulas() {
        for i in 1..40 {
            let coef = Path::Cosine.at(f64::from(i) / 40.0);
            let snr = coef.snr();
            let close = |weight: Weight, target, want: f64| {
                let got = weight.of(target, &coef).unwrap();
                assert!((got / want - 1.0).abs() < 1e-12, "{weight:?} {target:?}: {got} {want}");
            };
            for (target, base) in
                [(Target::Noise, snr), (Target::Data, 1.0), (Target::V, snr + 1.0)]
            {
                close(Weight::Unit, target, 1.0);
                close(Weight::Snr, target, snr / base);
                close(Weight::MinSnr { gamma: 5.0 }, target, snr.min(5.0) / base);
                close(Weight::Truncated, target, snr.max(1.0) / base);
                close(Weight::As(Target::V), target, (snr + 1.0) / base);
                close(Weight::Edm { sigma_data: 0.5 }, target, (snr + 4.0) / base);
            }
        }
    }

    #[test]
    fn karras_weight_is_one_over_c_out_squared() {
        // λ(σ) = (σ² + σ_d²)/(σ·σ_d)², EDM table 1.
        for sigma in [0.002, 0.3, 1.0, 80.0f64] {
            let coef = Path::Edm { sigma_max: 80.0 }.at(sigma);
            let got = Weight::Edm { sigma_data: 0.5 }.of(Target::Data, &coef).unwrap();
            let want = (sigma * sigma + 0.25) / (sigma * 0.5).powi(2);
            assert!((got / want - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn ends_are_finite_where_the_limit_is() {
        let (noise, data) = (Path::Cosine.at(1.0), Path::Cosine.at(0.0));
        let min_snr = Weight::MinSnr { gamma: 5.0 };
        assert_eq!(min_snr.of(Target::Noise, &noise).unwrap(), 1.0);
        assert_eq!(min_snr.of(Target::Noise, &data).unwrap(), 0.0);
        assert_eq!(min_snr.of(Target::V, &noise).unwrap(), 0.0);
        assert_eq!(Weight::Unit.of(Target::Score, &data).unwrap(), 1.0);
        for (weight, target, coef) in [
            (Weight::Snr, Target::Data, &data),
            (Weight::As(Target::Data), Target::Noise, &noise),
            (Weight::Truncated, Target::Noise, &noise),
        ] {
            assert!(matches!(weight.of(target, coef), Err(Error::Invalid(_))), "{weight:?}");
        }
    }

    #[test]
    fn recipes_are_read_and_nonsense_is_refused() {
        let read = serde_json::from_str::<Weight>;
        assert_eq!(read("\"unit\"").unwrap(), Weight::Unit);
        assert_eq!(read(r#"{"min_snr":{"gamma":5}}"#).unwrap(), Weight::MinSnr { gamma: 5.0 });
        assert_eq!(read(r#"{"as":"v_prediction"}"#).unwrap(), Weight::As(Target::V));
        assert!(read(r#"{"min_snr":{"gamma":5,"delta":1}}"#).is_err());
        assert!(read("\"p2\"").unwrap_err().to_string().contains("min_snr"));
        for weight in [Weight::MinSnr { gamma: 0.0 }, Weight::Edm { sigma_data: f64::NAN }] {
            assert!(matches!(weight.validate(), Err(Error::Range { .. })));
        }
    }
}
