//! Two-step exponential integration in `λ = ln(α/σ)`: DPM-Solver++ 2M (midpoint) and its SDE.
//!
//! With `h = λ_s − λ_t` and the data estimates `D` of this step and `D₋` of the last, of size `h₋`:
//!
//! ```text
//! x_s = (σ_s/σ_t)·e^(−η·h)·x_t + α_s·(1 − e^(−(1+η)·h))·(D + (D − D₋)·h/(2·h₋)) + σ_s·√(1 − e^(−2η·h))·z
//! ```
//!
//! η = 0 is the ODE (order 2 in λ), η = 1 SDE-DPM-Solver++(2M); η stands in the exponent as in
//! k-diffusion. The first step has no `D₋`, and a step to pure data (σ_s = 0, h infinite) or after
//! one from pure noise (h₋ infinite) has no use for it: those are of first order. Source: Lu et al.
//! 2022, "DPM-Solver++", algorithm 2 and equation 19.

use candle_core::Tensor;

use super::grid;
use super::solution::{Draw, Observer, Solution, walk};
use super::transfer::{check_eta, decay};
use crate::Result;
use crate::flow::combine::combine;
use crate::flow::{Coef, Denoiser, Path};

/// The weights of one step.
struct Step {
    state: f64,
    data: f64,
    before: f64,
    fresh: f64,
}

/// The weights of all steps.
fn steps(coefs: &[Coef], eta: f64) -> Result<Vec<Step>> {
    let mut last_h = None;
    let step = |ends: &[Coef]| {
        let (from, to) = (&ends[0], &ends[1]);
        let h = -decay(from, to)?.ln();
        // e^(−k·h) − 1, also where h is infinite and k is 0.
        let shrink = |k: f64| if k == 0.0 { 0.0 } else { (-k * h).exp_m1() };
        let whole = -to.alpha * shrink(1.0 + eta);
        let back = match last_h.replace(h) {
            Some(last) if h.is_finite() => whole * h / (2.0 * last),
            _ => 0.0,
        };
        Ok(Step {
            state: to.sigma / from.sigma * (1.0 + shrink(eta)),
            data: whole + back,
            before: -back,
            fresh: to.sigma * (-shrink(2.0 * eta)).sqrt(),
        })
    };
    coefs.windows(2).map(step).collect()
}

/// Carries `x` over the times of `grid`, one evaluation a step; the grid goes towards the data.
///
/// # Errors
/// When `grid` is no grid on `path` towards the data, η is outside [0, 1], the denoiser fails or
/// returns a number that is not finite.
pub fn multistep2(
    denoiser: &mut Denoiser<'_>,
    path: &Path,
    x: Tensor,
    grid: &[f64],
    eta: f64,
    draw: &mut Draw<'_>,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    check_eta(eta)?;
    grid::validate_on(grid, path)?;
    let coefs: Vec<Coef> = grid.iter().map(|t| path.at(*t)).collect();
    let steps = steps(&coefs, eta)?;
    let mut before = None;
    walk(x, grid, observer, &mut |i, x| {
        let step = &steps[i];
        let data = denoiser(x, grid[i])?.data;
        let z = if step.fresh > 0.0 { Some(draw(i, x)?) } else { None };
        let mut terms = vec![(step.state, x), (step.data, &data)];
        terms.extend(before.as_ref().map(|before| (step.before, before)));
        terms.extend(z.as_ref().map(|z| (step.fresh, z)));
        let next = combine(&terms)?;
        before = Some(data);
        Ok(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_of_first_order_and_finite() {
        for eta in [0.0, 0.5, 1.0] {
            let coefs: Vec<Coef> = [1.0, 0.7, 0.3, 0.0].map(|t| Path::Straight.at(t)).into();
            let steps = steps(&coefs, eta).unwrap();
            let all = steps.iter().flat_map(|s| [s.state, s.data, s.before, s.fresh]);
            assert!(all.clone().all(f64::is_finite), "{:?}", all.collect::<Vec<_>>());
            // The step after the one from pure noise has an infinite h behind it.
            assert_eq!((steps[0].before, steps[1].before, steps[2].before), (-0.0, -0.0, -0.0));
            let last = &steps[2];
            assert_eq!((last.state, last.data, last.fresh), (0.0, 1.0, 0.0));
        }
        let coefs: Vec<Coef> = [0.9, 0.7, 0.3].map(|t| Path::Straight.at(t)).into();
        assert!(steps(&coefs, 0.0).unwrap()[1].before < 0.0);
    }
}
