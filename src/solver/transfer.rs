//! The one first-order step: from a state's data and noise to the state at the next time.
//!
//! ```text
//! x_s = α_s·data + √(σ_s² − n²)·noise + n·z        z standard normal, drawn where n > 0
//! ```
//!
//! | noising | n² | known as |
//! |---|---|---|
//! | `Eta(0)` | 0 | DDIM, Euler in σ/α, FlowMatchEuler, DPM-Solver++(1), k-diffusion's `euler` |
//! | `Eta(1)` | σ_s²·(1 − SNR_t/SNR_s) | DDPM (small variance), Euler ancestral, SDE-DPM-Solver++(1) |
//! | `Eta(η)` | η² of that | DDIM with η |
//! | `Renoise` | σ_s² | LCM, FlowMatchEuler with stochastic sampling |
//!
//! With `Eta(0)` the step is exact where data and noise stay as they are, in either direction; with
//! η > 0 it must go towards the data. Sources: Ho et al. 2020, Song et al. 2021 (DDIM, equation 16),
//! Karras et al. 2022, Lu et al. 2022, Luo et al. 2023 (LCM).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::grid;
use super::solution::{Draw, Observer, Solution, walk};
use crate::flow::combine::combine;
use crate::flow::{Coef, Denoiser, Estimate, Path};
use crate::{Error, Result};

/// How much of the noise is new after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noising {
    /// η from 0 (none: an ODE) to 1 (as much as the reverse of the noising process has).
    Eta(f64),
    /// All of it.
    Renoise,
}

impl Default for Noising {
    fn default() -> Self {
        Self::Eta(0.0)
    }
}

impl Noising {
    /// Checks η.
    ///
    /// # Errors
    /// [`Error::Range`] when it is outside [0, 1].
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Eta(eta) => check_eta(eta),
            Self::Renoise => Ok(()),
        }
    }
}

pub(super) fn check_eta(eta: f64) -> Result<()> {
    if (0.0..=1.0).contains(&eta) { Ok(()) } else { Err(Error::range("eta", "0 to 1", eta)) }
}

/// `√(SNR_t/SNR_s)`, which is `e^(−h)` for a step of h in λ: 0 from pure noise and to pure data.
///
/// # Errors
/// [`Error::Grid`] when the step does not go towards the data.
pub(super) fn decay(from: &Coef, to: &Coef) -> Result<f64> {
    // Two quotients near 1 in a small step, so no large logarithms are subtracted.
    let decay = if to.sigma == 0.0 && from.sigma > 0.0 {
        0.0
    } else {
        (from.alpha / to.alpha) * (to.sigma / from.sigma)
    };
    if (0.0..1.0).contains(&decay) {
        return Ok(decay);
    }
    Err(Error::Grid {
        expected: "steps towards the data; only an ODE of one step goes back".into(),
        got: format!("a step from {from:?} to {to:?}"),
    })
}

/// The weights of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Of the data estimate: `α_s`.
    pub data: f64,
    /// Of the noise estimate: `√(σ_s² − n²)`.
    pub noise: f64,
    /// Of fresh noise: n.
    pub fresh: f64,
}

impl Step {
    /// The step between two times of a path.
    ///
    /// # Errors
    /// [`Error::Range`] when η is outside [0, 1]; [`Error::Grid`] when η > 0 and the step does not
    /// go towards the data.
    pub fn new(from: &Coef, to: &Coef, noising: Noising) -> Result<Self> {
        noising.validate()?;
        let data = to.alpha;
        Ok(match noising {
            Noising::Renoise => Self { data, noise: 0.0, fresh: to.sigma },
            Noising::Eta(0.0) => Self { data, noise: to.sigma, fresh: 0.0 },
            Noising::Eta(eta) => {
                let decay = decay(from, to)?;
                // 1 − decay² and σ_s² − n² without the difference of two near numbers.
                let fresh = eta * ((1.0 - decay) * (1.0 + decay)).sqrt();
                let noise = ((1.0 - eta) * (1.0 + eta) + (eta * decay).powi(2)).sqrt();
                Self { data, noise: to.sigma * noise, fresh: to.sigma * fresh }
            }
        })
    }

    /// diffusers' own DDPM step on a table that is rounded as diffusers has it.
    fn of_table(path: &Path, from: &Coef, times: &[f64], noising: Noising) -> Option<Self> {
        let Path::Discrete(table) = path else { return None };
        let [data, state, fresh] = match noising {
            Noising::Eta(1.0) => table.ddpm_step(times[0], times[1])?,
            _ => return None,
        };
        // The state is α·data + σ·noise.
        Some(Self { data: data + state * from.alpha, noise: state * from.sigma, fresh })
    }

    /// The next state, from the estimate at the last one and fresh noise.
    ///
    /// # Errors
    /// When `z` is missing where it is needed, or shapes differ.
    pub fn apply(&self, estimate: &Estimate, z: Option<&Tensor>) -> Result<Tensor> {
        let (data, noise) = ((self.data, &estimate.data), (self.noise, &estimate.noise));
        match z {
            Some(z) => combine(&[data, noise, (self.fresh, z)]),
            None if self.fresh == 0.0 => combine(&[data, noise]),
            None => Err(Error::Invalid(format!(
                "step: expected fresh noise of weight {}, got none",
                self.fresh
            ))),
        }
    }
}

/// One step between two times of a path: [`Step::new`] and [`Step::apply`].
///
/// # Errors
/// As these.
pub fn step(
    from: &Coef,
    to: &Coef,
    noising: Noising,
    estimate: &Estimate,
    z: Option<&Tensor>,
) -> Result<Tensor> {
    Step::new(from, to, noising)?.apply(estimate, z)
}

/// Carries `x` over the times of `grid`, one evaluation a step.
///
/// Noise is drawn for step i by `draw(i, x)`, and only where some is added. All weights are made
/// before the first step.
///
/// # Errors
/// When `grid` is no grid on `path`, η is outside [0, 1], the denoiser fails or returns a number that
/// is not finite.
pub fn transfer(
    denoiser: &mut Denoiser<'_>,
    path: &Path,
    x: Tensor,
    grid: &[f64],
    noising: Noising,
    draw: &mut Draw<'_>,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    noising.validate()?;
    grid::validate_on(grid, path)?;
    let coefs: Vec<Coef> = grid.iter().map(|t| path.at(*t)).collect();
    let steps: Vec<Step> = coefs
        .windows(2)
        .zip(grid.windows(2))
        .map(|(coefs, times)| match Step::of_table(path, &coefs[0], times, noising) {
            Some(step) => Ok(step),
            None => Step::new(&coefs[0], &coefs[1], noising),
        })
        .collect::<Result<_>>()?;
    walk(x, grid, observer, &mut |i, x| {
        let estimate = denoiser(x, grid[i])?;
        let z = if steps[i].fresh > 0.0 { Some(draw(i, x)?) } else { None };
        steps[i].apply(&estimate, z.as_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_exact() {
        for path in [Path::Straight, Path::Cosine, Path::CosineReversed] {
            let ((noise, data), half) = (path.ends(), path.at(0.5));
            for noising in
                [Noising::Eta(0.0), Noising::Eta(0.6), Noising::Eta(1.0), Noising::Renoise]
            {
                let last = Step::new(&half, &path.at(data), noising).unwrap();
                assert_eq!(last, Step { data: 1.0, noise: 0.0, fresh: 0.0 }, "{noising:?}");
                // From pure noise the SNR is 0: with η = 1 all of the noise is new.
                let first = Step::new(&path.at(noise), &half, noising).unwrap();
                let variance = first.noise.powi(2) + first.fresh.powi(2);
                assert!((variance - half.sigma.powi(2)).abs() < 1e-15);
                if noising == Noising::Eta(1.0) {
                    assert_eq!((first.noise, first.fresh), (0.0, half.sigma));
                }
            }
        }
    }

    #[test]
    fn small_steps_do_not_cancel() {
        // n²/σ_s² = 1 − (1 − 1e-9)² = 2e-9: eight digits are left of it where ratios are subtracted
        // in f64, and none in f32.
        let coef = |sigma: f64| Coef { alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 };
        let step = Step::new(&coef(1.0), &coef(1.0 - 1e-9), Noising::Eta(1.0)).unwrap();
        assert!((step.fresh.powi(2) / 2e-9 - 1.0).abs() < 1e-6, "{}", step.fresh);
        let variance = step.noise.powi(2) + step.fresh.powi(2);
        assert!((variance - (1.0 - 1e-9f64).powi(2)).abs() < 1e-15);
    }

    #[test]
    fn eta_has_a_range_and_a_direction() {
        let (from, to) = (Path::Straight.at(0.6), Path::Straight.at(0.5));
        for eta in [-0.1, 1.1, f64::NAN] {
            let error = Step::new(&from, &to, Noising::Eta(eta));
            assert!(matches!(error, Err(Error::Range { .. })), "{eta}");
        }
        assert!(Step::new(&to, &from, Noising::Eta(0.0)).is_ok());
        assert!(matches!(Step::new(&to, &from, Noising::Eta(0.5)), Err(Error::Grid { .. })));
        let (data, half) = (Path::Straight.at(0.0), Path::Straight.at(0.5));
        assert!(matches!(Step::new(&data, &half, Noising::Eta(0.5)), Err(Error::Grid { .. })));
    }
}
