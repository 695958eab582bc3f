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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Error;

    fn one() -> Tensor {
        Tensor::new(&[1f64], &Device::Cpu).unwrap()
    }

    fn value(x: &Tensor) -> f64 {
        x.to_vec1::<f64>().unwrap()[0]
    }

    /// The exact map of `dx/dt = x`: one step is as good as many.
    fn exponential(x: &Tensor, t: f64, r: f64) -> Result<Tensor> {
        Ok(x.affine(((r - t).exp() - 1.0) / (r - t), 0.0)?)
    }

    #[test]
    fn an_exact_map_needs_one_step_in_either_direction() {
        for (from, to) in [(1.0, 0.0), (0.0, 1.0)] {
            for steps in [1, 2, 7] {
                let grid = grid::uniform(from, to, steps).unwrap();
                let mut seen = Vec::new();
                let end = flow_map(&mut exponential, one(), &grid, &mut |i, t, x| {
                    seen.push((i, t, value(x)));
                    Ok(())
                });
                let end = end.unwrap();
                assert!((value(&end.x) - (to - from).exp()).abs() < 1e-14);
                assert_eq!((end.nfe, end.accepted, end.rejected), (steps, steps, 0));
                assert_eq!((seen.len(), seen[0]), (steps + 1, (0, from, 1.0)));
                assert_eq!(seen[steps], (steps, to, value(&end.x)));
            }
        }
        // The broken twin, an instantaneous velocity in its place, is Euler's method.
        let mut euler = |x: &Tensor, _: f64, _: f64| Ok(x.clone());
        let end = flow_map(&mut euler, one(), &[0.0, 1.0], &mut |_, _, _| Ok(())).unwrap();
        assert_eq!(value(&end.x), 2.0);
    }

    #[test]
    fn a_field_that_breaks_names_its_step_and_a_grid_must_be_one() {
        let mut broken = |x: &Tensor, t: f64, r: f64| match t {
            0.5 => Ok((x * f64::NAN)?),
            _ => exponential(x, t, r),
        };
        let quiet = &mut |_: usize, _: f64, _: &Tensor| Ok(());
        let error = flow_map(&mut broken, one(), &[1.0, 0.5, 0.0], quiet).unwrap_err();
        assert!(matches!(error, Error::NotFinite { step: 1, t: 0.5, .. }), "{error}");
        for grid in [&[][..], &[1.0], &[1.0, 1.0], &[1.0, 0.0, 0.5]] {
            let error = flow_map(&mut exponential, one(), grid, quiet).unwrap_err();
            assert!(matches!(error, Error::Grid { .. }), "{error}");
        }
    }
}
