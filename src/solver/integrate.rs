//! The integrator: any explicit tableau over any grid.
//!
//! The field may have state (a cache, a counter), so it is `FnMut`. Times are f64; tensors keep the
//! dtype they came with, so the same code runs in f64 for the tests of order.

use candle_core::{DType, Tensor};

use super::grid;
use super::tableau::Tableau;
use crate::{Error, Result};

/// The velocity field `v(x, t)`: a tensor of the shape of x.
pub type Field<'a> = dyn FnMut(&Tensor, f64) -> Result<Tensor> + 'a;

/// Called at every grid point with its index, its time and the state there: first with the initial
/// state at index 0, last with the result.
pub type Observer<'a> = dyn FnMut(usize, f64, &Tensor) -> Result<()> + 'a;

/// The state at the end of the grid.
#[derive(Clone, Debug)]
pub struct Solution {
    /// Final state, shape of the initial one.
    pub x: Tensor,
    /// Evaluations of the field.
    pub nfe: usize,
}

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
    Ok(Solution { x, nfe })
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

/// One sum shows a NaN or an infinity anywhere in the tensor.
fn check_finite(velocity: &Tensor, step: usize, t: f64) -> Result<()> {
    let wide = match velocity.dtype() {
        DType::F64 => velocity.clone(),
        _ => velocity.to_dtype(DType::F32)?,
    };
    let sum = wide.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if sum.is_finite() {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "integration: expected finite velocities, got a sum of {sum} at step {step}, t = {t}; \
         check the observation and the checkpoint for values that are not finite"
    )))
}
