//! What every sampler takes and gives back.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// The velocity field `v(x, t)`: a tensor of the shape of x.
pub type Field<'a> = dyn FnMut(&Tensor, f64) -> Result<Tensor> + 'a;

/// Standard normals for step number `step`, of the shape of the given state: the noise of a
/// stochastic sampler is an argument. Usually `|step, x| noise.normal_like(0, step as u64 + 1, x)`.
pub type Draw<'a> = dyn FnMut(usize, &Tensor) -> Result<Tensor> + 'a;

/// Called at every grid point with its index, its time and the state there: first with the initial
/// state at index 0, last with the result.
pub type Observer<'a> = dyn FnMut(usize, f64, &Tensor) -> Result<()> + 'a;

/// The state at the end, and what it cost.
#[derive(Clone, Debug)]
pub struct Solution {
    /// Final state, shape of the initial one.
    pub x: Tensor,
    /// Evaluations of the field or denoiser.
    pub nfe: usize,
    /// Steps made; those of the grid where there is one.
    pub accepted: usize,
    /// Steps that an adaptive method tried and took back.
    pub rejected: usize,
}

/// Walks a grid with one evaluation a step: `step(i, x)` gives the state at `grid[i + 1]` from that at
/// `grid[i]`. The next state holds every number of the estimate that is used, so it alone is checked.
pub(crate) fn walk(
    x: Tensor,
    grid: &[f64],
    observer: &mut Observer<'_>,
    step: &mut dyn FnMut(usize, &Tensor) -> Result<Tensor>,
) -> Result<Solution> {
    let mut x = x;
    observer(0, grid[0], &x)?;
    for (i, ends) in grid.windows(2).enumerate() {
        x = step(i, &x)?;
        check_finite(&x, i, ends[0])?;
        observer(i + 1, ends[1], &x)?;
    }
    let steps = grid.len() - 1;
    Ok(Solution { x, nfe: steps, accepted: steps, rejected: 0 })
}

/// One sum shows a NaN or an infinity anywhere in the tensor.
pub(crate) fn check_finite(output: &Tensor, step: usize, t: f64) -> Result<()> {
    let wide = match output.dtype() {
        DType::F64 => output.clone(),
        _ => output.to_dtype(DType::F32)?,
    };
    let sum = wide.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if sum.is_finite() { Ok(()) } else { Err(Error::NotFinite { got: sum, step, t }) }
}
