//! The extra noise of a path between two given ends: `x_t = α·data + σ·noise + γ(t)·extra`.
//!
//! Where `noise` is not noise but the other end of a pair, a path may be blurred around the curve
//! between its ends. With τ the share of the way from data (0) to noise (1):
//!
//! ```text
//! none          γ = 0                 flow matching
//! constant      γ = s                 I-CFM's σ: a tube around the straight line
//! schrodinger   γ = s·√(τ(1 − τ))     a Brownian bridge of diffusion s: SB-CFM
//! ```
//!
//! The velocity gains `γ'·extra`; for the bridge `γ' = γ·(1 − 2τ)/(2τ(1 − τ))·dτ/dt`, so that on the
//! straight path `u = (1 − 2t)/(2t(1 − t))·(x − μ) + x₁ − x₀`. torchcfm 1.0.7 adds 1e-8 to that
//! denominator; here it is exact, and the two ends, where u is infinite, are refused.
//!
//! Sources: Tong et al. 2024, "Improving and generalizing flow-based generative models with
//! minibatch optimal transport", section 3.

use serde::{Deserialize, Serialize};

use super::path::Path;
use crate::{Error, Result};

/// How wide the extra noise is along the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Bridge {
    /// No extra noise.
    #[default]
    None,
    /// The same width everywhere.
    Constant {
        /// The width.
        sigma: f64,
    },
    /// The width of a Brownian bridge, 0 at both ends.
    Schrodinger {
        /// The diffusion: twice the width half-way.
        sigma: f64,
    },
}

impl Bridge {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] when the width is not a number above 0.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Constant { sigma } | Self::Schrodinger { sigma }
                if !(sigma > 0.0 && sigma.is_finite()) =>
            {
                Err(Error::range("bridge: sigma", "a number above 0", sigma))
            }
            _ => Ok(()),
        }
    }

    /// γ and its derivative in the path's own time, at the path's own time `t`.
    ///
    /// # Errors
    /// [`Error::Time`] when `t` is outside the path; [`Error::Range`] at the ends of a Schrödinger
    /// bridge, where the derivative is infinite.
    pub fn at(self, path: &Path, t: f64) -> Result<(f64, f64)> {
        path.check(t)?;
        match self {
            Self::None => Ok((0.0, 0.0)),
            Self::Constant { sigma } => Ok((sigma, 0.0)),
            Self::Schrodinger { sigma } => {
                let (noise, data) = path.ends();
                let span = noise - data;
                let (from_data, from_noise) = ((t - data) / span, (noise - t) / span);
                let spread = from_data * from_noise;
                if spread <= 0.0 {
                    return Err(Error::range(
                        "bridge schrodinger: time",
                        "a time strictly between the ends of the path",
                        t,
                    ));
                }
                let gamma = sigma * spread.sqrt();
                Ok((gamma, gamma * (from_noise - from_data) / (2.0 * spread * span)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_match_differences_in_both_directions() {
        for path in [Path::Straight, Path::StraightReversed, Path::Edm { sigma_max: 3.0 }] {
            for bridge in [Bridge::Constant { sigma: 0.3 }, Bridge::Schrodinger { sigma: 0.7 }] {
                for i in 1..10 {
                    let (t, h) = (path.own_time(f64::from(i) / 10.0), 1e-5);
                    let width = |t| bridge.at(&path, t).unwrap().0;
                    let slope = (width(t + h) - width(t - h)) / (2.0 * h);
                    let (_, exact) = bridge.at(&path, t).unwrap();
                    assert!((slope - exact).abs() < 1e-7, "{path:?} {bridge:?} {t}");
                }
            }
        }
        let (middle, slope) = Bridge::Schrodinger { sigma: 0.7 }.at(&Path::Straight, 0.5).unwrap();
        assert_eq!((middle, slope), (0.35, 0.0));
    }

    #[test]
    fn ends_and_widths_that_mean_nothing_are_refused() {
        let bridge = Bridge::Schrodinger { sigma: 1.0 };
        for end in [0.0, 1.0] {
            assert!(matches!(bridge.at(&Path::Straight, end), Err(Error::Range { .. })));
            assert!(Bridge::Constant { sigma: 1.0 }.at(&Path::Straight, end).is_ok());
        }
        for outside in [-0.1, f64::NAN] {
            for bridge in [bridge, Bridge::None] {
                assert!(matches!(bridge.at(&Path::Straight, outside), Err(Error::Time { .. })));
            }
        }
        for sigma in [0.0, -1.0, f64::INFINITY] {
            assert!(matches!(Bridge::Constant { sigma }.validate(), Err(Error::Range { .. })));
        }
    }
}
