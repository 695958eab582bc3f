//! The sampler of a learned flow map: every step is one evaluation, however long.
//!
//! `x_r = x_t + (r − t)·u(x_t, t, r)` over the times of a grid, for the average velocity u that
//! [`crate::flow::shortcut`] teaches. Source: Frans et al. 2024, Geng et al. 2025 (MeanFlow).

use candle_core::Tensor;

use super::grid;
use super::solution::{Observer, Solution, check_finite};
use crate::Result;

/// The average velocity `u(x, t, r)` from t to r: a tensor of the shape of x.
pub type AverageField<'a> = dyn FnMut(&Tensor, f64, f64) -> Result<Tensor> + 'a;

/// Carries `x` along `field` from the first to the last time of `grid`, one evaluation a step;
/// `on_step` sees every state.
///
/// # Errors
/// When the grid is not a grid, the field or `on_step` fails, or the field returns a number that is
/// not finite.
pub fn flow_map(
    field: &mut AverageField<'_>,
    x: Tensor,
    grid: &[f64],
    on_step: &mut Observer<'_>,
) -> Result<Solution> {
    grid::validate(grid)?;
    let mut x = x;
    on_step(0, grid[0], &x)?;
    for (step, ends) in grid.windows(2).enumerate() {
        let (t, r) = (ends[0], ends[1]);
        let average = field(&x, t, r)?;
        check_finite(&average, step, t)?;
        x = (x + average.affine(r - t, 0.0)?)?;
        on_step(step + 1, r, &x)?;
    }
    let steps = grid.len() - 1;
    Ok(Solution { x, nfe: steps, accepted: steps, rejected: 0 })
}
