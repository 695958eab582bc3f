//! Euler–Maruyama on the family of SDEs that share the marginals of the path.
//!
//! Towards the data, with any diffusion `w ≥ 0`, score `s` and velocity `v`:
//!
//! ```text
//! dx = (v + w·s)·dτ + √(2w)·dB
//! ```
//!
//! Because `s = −noise/σ` and `v = α'·data + σ'·noise`, one step of size `Δ` is
//!
//! ```text
//! x + Δt·α'·data + (Δt·σ' − |Δt|·w/σ)·noise + √(2w·|Δt|)·z
//! ```
//!
//! which is right in both time directions. The last step adds no noise. Sources: Song et al. 2021,
//! Albergo et al. 2023, Ma et al. 2024 (SiT, section 3.4: w is free, and its six choices).

use std::f64::consts::{FRAC_PI_2, PI};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::grid;
use super::solution::{Draw, Observer, Solution, walk};
use crate::flow::combine::combine;
use crate::flow::{Coef, Denoiser, Path};
use crate::{Error, Result};

/// The shape of `w` over the share u of the way that is left: u = 1 is noise, u = 0 is data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// 1.
    Constant,
    /// σ: no noise is left where the data are.
    #[default]
    Sigma,
    /// u.
    Linear,
    /// sin⁴(πu/2): falls from 1 at the noise to 0 at the data.
    Decreasing,
    /// sin²(πu): 0 at both ends.
    IncreasingDecreasing,
    /// `σ²·|dλ/dt|`, the diffusion of the noising process itself: its time reversal. Infinite where
    /// α = 0.
    Sbdm,
}

/// A diffusion: a form times a scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// Its shape.
    pub form: Form,
    /// What it is multiplied with; 0 is the ODE.
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for Diffusion {
    fn default() -> Self {
        Self { form: Form::default(), scale: 1.0 }
    }
}

impl Diffusion {
    /// `w` per unit of the path's own time. All forms but `Sbdm` are per way from noise to data, so
    /// that they mean the same on paths of other lengths.
    ///
    /// # Errors
    /// [`Error::Range`] when it is not a number from 0 (a negative scale, `Sbdm` at pure noise).
    pub fn at(&self, path: &Path, t: f64) -> Result<f64> {
        let (noise, data) = path.ends();
        let (u, coef) = ((t - data) / (noise - data), path.at(t));
        let per_way = |w: f64| w / (noise - data).abs();
        let form = match self.form {
            Form::Constant => per_way(1.0),
            Form::Sigma => per_way(coef.sigma),
            Form::Linear => per_way(u),
            Form::Decreasing => per_way((FRAC_PI_2 * u).sin().powi(4)),
            Form::IncreasingDecreasing => per_way((PI * u).sin().powi(2)),
            Form::Sbdm => coef.sigma * coef.determinant().abs() / coef.alpha,
        };
        let w = self.scale * form;
        if w >= 0.0 && w.is_finite() {
            return Ok(w);
        }
        let what = format!("diffusion {:?} with scale {} at t = {t}", self.form, self.scale);
        let expected = "a number from 0; use a scale from 0, and start sbdm inside the path";
        Err(Error::range(what, expected, w))
    }
}

/// The weights of one step: of data, noise and fresh noise.
type Step = [f64; 3];

fn step(path: &Path, from: f64, to: f64, w: f64) -> Result<Step> {
    let (dt, size, coef): (f64, f64, Coef) = (to - from, (to - from).abs(), path.at(from));
    let pull = if w == 0.0 { 0.0 } else { size * w / coef.sigma };
    let weights = [dt * coef.d_alpha, dt * coef.d_sigma - pull, (2.0 * w * size).sqrt()];
    if weights.iter().all(|weight| weight.is_finite()) {
        return Ok(weights);
    }
    Err(Error::Grid {
        expected: "steps from times where velocity and score are finite".into(),
        got: format!("a step from {from}, where the path has {coef:?}"),
    })
}

/// Carries `x` over the times of `grid`, one evaluation a step; the grid goes towards the data.
///
/// # Errors
/// When `grid` is no grid on `path` towards the data, the diffusion is not a number from 0 at a time
/// of it, the denoiser fails or returns a number that is not finite.
pub fn euler_maruyama(
    denoiser: &mut Denoiser<'_>,
    path: &Path,
    x: Tensor,
    grid: &[f64],
    diffusion: &Diffusion,
    draw: &mut Draw<'_>,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    grid::validate_on(grid, path)?;
    let (noise, data) = path.ends();
    if (grid[1] - grid[0]) * (data - noise) <= 0.0 {
        let expected = format!("times from noise ({noise}) towards data ({data})");
        return Err(Error::Grid { expected, got: format!("{} then {}", grid[0], grid[1]) });
    }
    let steps: Vec<Step> = grid
        .windows(2)
        .map(|w| step(path, w[0], w[1], diffusion.at(path, w[0])?))
        .collect::<Result<_>>()?;
    walk(x, grid, observer, &mut |i, x| {
        let [of_data, of_noise, fresh] = steps[i];
        let estimate = denoiser(x, grid[i])?;
        let last = i + 1 == steps.len();
        let z = if fresh > 0.0 && !last { Some(draw(i, x)?) } else { None };
        let mut terms = vec![(1.0, x), (of_data, &estimate.data), (of_noise, &estimate.noise)];
        terms.extend(z.as_ref().map(|z| (fresh, z)));
        combine(&terms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Form; 6] = [
        Form::Constant,
        Form::Sigma,
        Form::Linear,
        Form::Decreasing,
        Form::IncreasingDecreasing,
        Form::Sbdm,
    ];

    #[test]
    fn both_directions_have_the_same_diffusion() {
        for form in FORMS {
            let diffusion = Diffusion { form, scale: 0.7 };
            for u in [0.1, 0.5, 0.9] {
                let inside = diffusion.at(&Path::Straight, u).unwrap();
                let reversed = diffusion.at(&Path::StraightReversed, 1.0 - u).unwrap();
                assert!((inside - reversed).abs() < 1e-15, "{form:?}: {inside} {reversed}");
            }
        }
    }

    #[test]
    fn sbdm_is_half_the_squared_diffusion_of_the_noising_process() {
        // VP: dx = −½βx·dt + √β·dB, so 2w = β.
        let path = Path::Vp { beta_min: 0.1, beta_max: 20.0 };
        let diffusion = Diffusion { form: Form::Sbdm, scale: 1.0 };
        for t in [0.05, 0.4, 1.0] {
            let w = diffusion.at(&path, t).unwrap();
            assert!((2.0 * w / (0.1 + 19.9 * t) - 1.0).abs() < 1e-12, "{w}");
        }
        // VE: dσ² = 2σ·dσ, so w = σ.
        let w = diffusion.at(&Path::Edm { sigma_max: 80.0 }, 3.0).unwrap();
        assert_eq!(w, 3.0);
        let error = diffusion.at(&Path::Straight, 1.0).unwrap_err().to_string();
        assert!(error.contains("inside the path"), "{error}");
        assert!(Diffusion { form: Form::Sigma, scale: -1.0 }.at(&path, 0.5).is_err());
    }
}
