//! Time grids: the points between which the integrator steps, f64, first to last.

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
}
