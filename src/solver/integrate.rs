//! The integrator: any explicit tableau over any grid.
//!
//! The field may have state (a cache, a counter), so it is `FnMut`. Times are f64; tensors keep the
//! dtype they came with, so the same code runs in f64 for the tests of order.

use candle_core::Tensor;

use super::grid;
use super::solution::{Field, Observer, Solution, check_finite};
use super::tableau::Tableau;
use crate::Result;

/// Carries `x` along `field` from the first to the last time of `grid`.
///
/// # Errors
/// When the grid is not a grid, the field fails, or it returns a number that is not finite (the
/// message names the step and the time).
pub fn integrate(
    field: &mut Field<'_>,
    x: Tensor,
    grid: &[f64],
    tableau: &Tableau,
) -> Result<Solution> {
    integrate_observed(field, x, grid, tableau, &mut |_, _, _| Ok(()))
}

/// [`integrate`], showing every intermediate state to `on_step`; an error from it stops the run.
///
/// # Errors
/// As [`integrate`], and whatever `on_step` returns.
pub fn integrate_observed(
    field: &mut Field<'_>,
    x: Tensor,
    grid: &[f64],
    tableau: &Tableau,
    on_step: &mut Observer<'_>,
) -> Result<Solution> {
    grid::validate(grid)?;
    let (mut x, mut nfe) = (x, 0);
    let mut stages = Vec::with_capacity(tableau.evals());
    on_step(0, grid[0], &x)?;
    for (step, ends) in grid.windows(2).enumerate() {
        let (from, to) = (ends[0], ends[1]);
        stages.clear();
        for (row, c) in tableau.a.iter().zip(tableau.c) {
            // Exact at both ends, so that no stage lies outside the grid.
            let t = from * (1.0 - c) + to * c;
            let state = advance(&x, to - from, row, &stages)?;
            let velocity = field(&state, t)?;
            nfe += 1;
            check_finite(&velocity, step, t)?;
            stages.push(velocity);
        }
        x = advance(&x, to - from, tableau.b, &stages)?;
        on_step(step + 1, to, &x)?;
    }
    Ok(Solution { x, nfe, accepted: grid.len() - 1, rejected: 0 })
}

/// `x + h·Σ w_i·k_i`.
fn advance(x: &Tensor, h: f64, weights: &[f64], stages: &[Tensor]) -> Result<Tensor> {
    let mut out = x.clone();
    for (weight, stage) in weights.iter().zip(stages) {
        if *weight != 0.0 {
            out = (out + stage.affine(h * weight, 0.0)?)?;
        }
    }
    Ok(out)
}
