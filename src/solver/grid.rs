//! Time grids: the points between which a sampler steps, f64, first to last.
//!
//! Two kinds of numbers are walked: the path's own times, and times of the inside convention or
//! deviations `σ̂ = σ/α`, which [`times_of`] and [`Path::own_time`] turn into the former. Grids by
//! name and by training table are in [`super::spacing`].

use serde::{Deserialize, Serialize};

use crate::flow::Path;
use crate::{Error, Result};

/// `steps` equal steps from `from` to `to`, both ends exact: `steps + 1` times.
///
/// # Errors
/// When there is no step or the ends are equal or not finite.
pub fn uniform(from: f64, to: f64, steps: usize) -> Result<Vec<f64>> {
    let mut grid: Vec<f64> =
        (0..=steps).map(|i| from + (to - from) * (i as f64 / steps as f64)).collect();
    if let (true, Some(last)) = (steps > 0, grid.last_mut()) {
        *last = to;
    }
    validate(&grid)?;
    Ok(grid)
}

/// Checks that a grid has at least one step and runs strictly in one direction.
///
/// # Errors
/// When it does not; the message names the first offending point.
pub fn validate(grid: &[f64]) -> Result<()> {
    let wrong = |got: String| {
        let expected = "at least two finite times in one direction".into();
        Err(Error::Grid { expected, got })
    };
    let (&[first, .., last], true) = (grid, grid.iter().all(|t| t.is_finite())) else {
        return wrong(format!("{grid:?}; give at least one step"));
    };
    let forward = last > first;
    match grid.windows(2).position(|w| if forward { w[1] <= w[0] } else { w[1] >= w[0] }) {
        Some(i) => wrong(format!("{} then {} at step {i}", grid[i], grid[i + 1])),
        None => Ok(()),
    }
}

/// [`validate`], and every time is a time of `path`.
///
/// # Errors
/// When it is not a grid, or a time is outside the path.
pub fn validate_on(grid: &[f64], path: &Path) -> Result<()> {
    validate(grid)?;
    grid.iter().try_for_each(|t| path.check(*t))
}

/// The times as they are, checked.
///
/// # Errors
/// When they are not a grid.
pub fn explicit(times: &[f64]) -> Result<Vec<f64>> {
    validate(times)?;
    Ok(times.to_vec())
}

/// `σ̂_i = (σ_max^(1/ρ) + i/(n−1)·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ` for n steps, and 0: deviations
/// beside unit data, for [`times_of`]. Karras et al. 2022, equation 5; there ρ = 7.
///
/// # Errors
/// When there is no step, or the numbers are not `0 < sigma_min ≤ sigma_max` and `rho > 0`.
pub fn karras(steps: usize, sigma_max: f64, sigma_min: f64, rho: f64) -> Result<Vec<f64>> {
    if !(rho > 0.0 && rho.is_finite()) {
        return Err(Error::range("karras grid: rho", "a number above 0", rho));
    }
    let root = 1.0 / rho;
    ramp(steps, sigma_max, sigma_min, |s| s.powf(root), |s| s.powf(rho))
}

/// n deviations `σ̂` from `sigma_max` to `sigma_min`, equally far apart in ln σ̂ and so in λ, and 0.
///
/// # Errors
/// When there is no step, or the numbers are not `0 < sigma_min ≤ sigma_max`.
pub fn exponential(steps: usize, sigma_max: f64, sigma_min: f64) -> Result<Vec<f64>> {
    ramp(steps, sigma_max, sigma_min, f64::ln, f64::exp)
}

/// Equal steps under `there`, which `back` takes back; then 0.
fn ramp(
    steps: usize,
    sigma_max: f64,
    sigma_min: f64,
    there: impl Fn(f64) -> f64,
    back: impl Fn(f64) -> f64,
) -> Result<Vec<f64>> {
    if !(sigma_min > 0.0 && sigma_min.is_finite()) {
        return Err(Error::range("sigma_min", "a number above 0", sigma_min));
    }
    if !(sigma_max >= sigma_min && sigma_max.is_finite()) {
        return Err(Error::range("sigma_max", "a number from sigma_min", sigma_max));
    }
    let (from, to) = (there(sigma_max), there(sigma_min));
    let share = |i: usize| i as f64 / (steps.max(2) - 1) as f64;
    let mut grid: Vec<f64> = (0..steps).map(|i| back(from + share(i) * (to - from))).collect();
    if let Some(first) = grid.first_mut() {
        *first = sigma_max;
    }
    if steps > 1 {
        grid[steps - 1] = sigma_min;
    }
    grid.push(0.0);
    validate(&grid)?;
    Ok(grid)
}

/// The path's own times of deviations `σ̂ = σ/α`; 0 is the data end.
///
/// # Errors
/// When they are no grid there: two of them lie beyond the path's noise end.
pub fn times_of(path: &Path, sigma_hats: &[f64]) -> Result<Vec<f64>> {
    let time = |s: &f64| if *s == 0.0 { path.ends().1 } else { path.t_of_lambda(-s.ln()) };
    let times: Vec<f64> = sigma_hats.iter().map(time).collect();
    validate_on(&times, path)?;
    Ok(times)
}

/// Moves a time of the inside convention (1 is noise) towards the noise: `s·u/(1 + (s − 1)·u)`.
/// On the straight path that is `λ → λ − ln s`. Esser et al. 2024, equation 23.
pub fn shift(u: f64, s: f64) -> f64 {
    s * u / (1.0 + (s - 1.0) * u)
}

/// [`shift`] of every time of the inside convention.
///
/// # Errors
/// [`Error::Range`] when `s` is not a number above 0.
pub fn shifted(times: &[f64], s: f64) -> Result<Vec<f64>> {
    if s > 0.0 && s.is_finite() {
        return Ok(times.iter().map(|u| shift(*u, s)).collect());
    }
    Err(Error::range("shift", "a number above 0", s))
}

/// A shift that grows with the number of tokens: `s = e^μ`, μ linear in the length. Flux.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicShift {
    /// μ at `base_image_seq_len`.
    pub base_shift: f64,
    /// μ at `max_image_seq_len`.
    pub max_shift: f64,
    /// A number of tokens.
    pub base_image_seq_len: usize,
    /// Another number of tokens.
    pub max_image_seq_len: usize,
}

impl Default for DynamicShift {
    fn default() -> Self {
        Self { base_shift: 0.5, max_shift: 1.15, base_image_seq_len: 256, max_image_seq_len: 4096 }
    }
}

impl DynamicShift {
    /// μ for this many tokens; beyond the two lengths the line goes on.
    pub fn mu(&self, tokens: usize) -> f64 {
        let (from, to) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
        let slope = (self.max_shift - self.base_shift) / (to - from);
        tokens as f64 * slope + (self.base_shift - slope * from)
    }

    /// The shift `e^μ` for this many tokens.
    pub fn shift(&self, tokens: usize) -> f64 {
        self.mu(tokens).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_grids_hit_both_ends_exactly() {
        for steps in [1, 3, 7, 10, 49, 1000] {
            for (from, to) in [(1.0, 0.0), (0.0, 1.0), (0.999, 0.001)] {
                let grid = uniform(from, to, steps).unwrap();
                assert_eq!((grid.len(), grid[0], grid[steps]), (steps + 1, from, to));
                let h = (to - from) / steps as f64;
                assert!(grid.windows(2).all(|w| (w[1] - w[0] - h).abs() < 1e-15));
            }
        }
    }

    #[test]
    fn grids_that_go_nowhere_or_back_are_refused() {
        assert!(uniform(1.0, 0.0, 0).is_err());
        assert!(uniform(0.5, 0.5, 4).is_err());
        assert!(uniform(f64::NAN, 0.0, 4).is_err());
        for grid in
            [&[][..], &[1.0], &[1.0, 0.5, 0.5, 0.0], &[1.0, 0.2, 0.4, 0.0], &[0.0, f64::INFINITY]]
        {
            assert!(validate(grid).is_err(), "{grid:?}");
        }
        let error = validate(&[0.0, 0.6, 0.4, 1.0]).unwrap_err().to_string();
        assert!(error.contains("0.6 then 0.4 at step 1"), "{error}");
        assert!(validate(&[1.0, 0.9, 0.1, 0.0]).is_ok());
    }

    #[test]
    fn karras_and_exponential_grids_have_their_ends_and_their_spacing() {
        // k-diffusion's get_sigmas_karras(4, 0.1, 10): a second implementation in f64.
        let grid = karras(4, 10.0, 0.1, 7.0).unwrap();
        let root = |s: f64| s.powf(1.0 / 7.0);
        assert_eq!((grid.len(), grid[0], grid[3], grid[4]), (5, 10.0, 0.1, 0.0));
        assert!((root(grid[1]) - (2.0 * root(10.0) + root(0.1)) / 3.0).abs() < 1e-14);
        let grid = exponential(3, 4.0, 1.0).unwrap();
        assert!((grid[1] - 2.0).abs() < 1e-15 && grid[3] == 0.0);
        assert_eq!(karras(1, 10.0, 0.1, 7.0).unwrap(), [10.0, 0.0]);
        for wrong in [karras(0, 1.0, 0.1, 7.0), exponential(0, 1.0, 0.1)] {
            assert!(matches!(wrong, Err(Error::Grid { .. })));
        }
        for wrong in
            [karras(3, 1.0, 0.0, 7.0), karras(3, 0.1, 1.0, 7.0), karras(3, 1.0, 0.1, f64::NAN)]
        {
            assert!(matches!(wrong, Err(Error::Range { .. })));
        }
    }

    #[test]
    fn deviations_become_times_on_every_path() {
        for path in [Path::Straight, Path::StraightReversed, Path::Edm { sigma_max: 80.0 }] {
            let sigmas = karras(5, 60.0, 0.02, 7.0).unwrap();
            let times = times_of(&path, &sigmas).unwrap();
            assert_eq!(times[5], path.ends().1);
            for (t, s) in times[..5].iter().zip(&sigmas) {
                assert!((path.at(*t).sigma_hat() / s - 1.0).abs() < 1e-11, "{path:?} {t} {s}");
            }
        }
        let beyond = times_of(&Path::Edm { sigma_max: 1.0 }, &[3.0, 2.0, 0.0]);
        assert!(matches!(beyond, Err(Error::Grid { .. })));
    }

    #[test]
    fn a_shift_moves_lambda_by_its_logarithm() {
        let lambda = |u: f64| Path::Straight.lambda(u);
        for u in [0.01, 0.3, 0.9] {
            assert!((lambda(shift(u, 3.0)) - lambda(u) + 3f64.ln()).abs() < 1e-13);
        }
        assert_eq!(shifted(&[1.0, 0.5, 0.0], 3.0).unwrap(), [1.0, 0.75, 0.0]);
        assert!(matches!(shifted(&[1.0, 0.0], 0.0), Err(Error::Range { .. })));
        let dynamic = DynamicShift::default();
        assert!((dynamic.mu(256) - 0.5).abs() < 1e-15 && (dynamic.mu(4096) - 1.15).abs() < 1e-15);
        assert!((dynamic.mu(1024) - 0.63).abs() < 1e-12);
    }
}
