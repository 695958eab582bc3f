//! Rectified flow: straighten a flow by training again on the pairs that it makes itself.
//!
//! ```text
//! pairs         (noise, ODE(noise)), in place of independent ones
//! straightness  S = ∫₀¹ E‖(Z₁ − Z₀) − dZ_u/du‖² du       along the flow's own trajectories Z
//! ```
//!
//! S is 0 if and only if every trajectory is straight, and then one Euler step is exact. The pairs
//! have the same ends in distribution and a transport cost that is not larger for any convex cost.
//! The solver is an argument: this page knows none. Source: Liu et al. 2023, "Flow straight and
//! fast", algorithm 1 and equation 5.

use candle_core::{DType, Tensor};

use super::path::Path;
use crate::{Error, Result};

/// Noise, and the data that the flow has carried it to: the next training set.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Where trajectories begin, `[b, ..]`.
    pub noise: Tensor,
    /// Where they end, same shape.
    pub data: Tensor,
}

/// The pairs of a flow: `solve` carries noise `[b, ..]` to data. More accurate than sampling needs to
/// be: an error here is learned.
///
/// # Errors
/// What `solve` says; [`Error::Shape`] when it returns another shape, [`Error::Invalid`] when its
/// result is not finite.
pub fn pairs(noise: &Tensor, mut solve: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Pairs> {
    let data = solve(noise)?;
    if data.dims() != noise.dims() {
        return Err(Error::shape("reflow: solved noise", noise.dims(), data.dims()));
    }
    let sum = data.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if !sum.is_finite() {
        return Err(Error::Invalid(format!(
            "reflow: expected finite data from the solver, got a sum of {sum}"
        )));
    }
    Ok(Pairs { noise: noise.clone(), data })
}

/// The straightness S of the trajectories that start in `noise` `[b, ..]`: squared distance summed
/// over a sample's elements, mean over samples, trapezoidal rule over `intervals` equal parts of the
/// path's time. `velocity(x, t)` is the field in the path's own time, and `advance(x, from, to)`
/// carries a state along it.
///
/// # Errors
/// What the closures say; [`Error::Range`] when `intervals` is 0; [`Error::Shape`] when a closure
/// returns another shape; [`Error::Invalid`] when the result is not finite.
pub fn straightness(
    path: &Path,
    noise: &Tensor,
    intervals: usize,
    mut velocity: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    mut advance: impl FnMut(&Tensor, f64, f64) -> Result<Tensor>,
) -> Result<f64> {
    if intervals == 0 {
        return Err(Error::range("straightness: intervals", "1 or more", 0.0));
    }
    let samples = noise.dims().first().copied().unwrap_or(0);
    if samples == 0 {
        return Err(Error::shape("straightness: noise", "[b, ..] with b above 0", noise.dims()));
    }
    let fits = |x: Tensor| {
        if x.dims() == noise.dims() {
            return Ok(x);
        }
        Err(Error::shape("straightness: field", noise.dims(), x.dims()))
    };
    let time = |i: usize| path.own_time(1.0 - i as f64 / intervals as f64);
    let (from, to) = path.ends();
    let mut x = noise.clone();
    let mut rates = Vec::with_capacity(intervals + 1);
    for i in 0..=intervals {
        // dZ/du = v·dt/du, u from 0 at noise to 1 at data.
        rates.push(fits(velocity(&x, time(i))?)?.affine(to - from, 0.0)?);
        if i < intervals {
            x = fits(advance(&x, time(i), time(i + 1))?)?;
        }
    }
    let chord = (x - noise)?;
    let mut total = 0.0;
    for (i, rate) in rates.iter().enumerate() {
        let ends = i == 0 || i == intervals;
        let gap = (&chord - rate)?.sqr()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        total += gap * if ends { 0.5 } else { 1.0 };
    }
    let result = total / (intervals * samples) as f64;
    if result.is_finite() {
        return Ok(result);
    }
    Err(Error::Invalid(format!("straightness: expected a finite field, got {result}")))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn noise() -> Tensor {
        Tensor::new(&[[0.5f64, -1.0], [2.0, 0.25]], &Device::Cpu).unwrap()
    }

    #[test]
    fn straight_lines_have_none_and_an_arc_has_its_own() {
        let x = noise();
        for path in [Path::Straight, Path::StraightReversed] {
            let constant = |x: &Tensor, _: f64| Ok(x.zeros_like()?.affine(1.0, 0.7)?);
            let advance = |x: &Tensor, a: f64, b: f64| Ok(x.affine(1.0, 0.7 * (b - a))?);
            let s = straightness(&path, &x, 4, constant, advance).unwrap();
            assert!(s < 1e-28, "{s}");
        }
        // dZ/du = w·Z: Z = Z₀·e^(wu), S = Z₀²·(w(e^2w − 1)/2 − (e^w − 1)²).
        let w = 0.8f64;
        let curved = |x: &Tensor, _: f64| Ok(x.affine(w, 0.0)?);
        let advance = |x: &Tensor, a: f64, b: f64| Ok(x.affine((w * (b - a)).exp(), 0.0)?);
        let s = straightness(&Path::StraightReversed, &x, 4000, curved, advance).unwrap();
        let square = (0.25 + 1.0 + 4.0 + 0.0625) / 2.0;
        let want = square * (w * ((2.0 * w).exp() - 1.0) / 2.0 - (w.exp() - 1.0).powi(2));
        assert!((s - want).abs() < 1e-6, "{s} {want}");
        // The same curves run the other way.
        let curved = |x: &Tensor, _: f64| Ok(x.affine(-w, 0.0)?);
        let advance = |x: &Tensor, a: f64, b: f64| Ok(x.affine((w * (a - b)).exp(), 0.0)?);
        let other = straightness(&Path::Straight, &x, 4000, curved, advance).unwrap();
        assert!((s - other).abs() < 1e-9, "{s} {other}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = noise();
        assert!(matches!(pairs(&x, |x| Ok(x.narrow(0, 0, 1)?)), Err(Error::Shape { .. })));
        assert!(matches!(pairs(&x, |x| Ok(x.affine(f64::NAN, 0.0)?)), Err(Error::Invalid(_))));
        let solved = pairs(&x, |x| Ok(x.affine(2.0, 0.0)?)).unwrap();
        assert_eq!(solved.noise.to_vec2::<f64>().unwrap(), x.to_vec2::<f64>().unwrap());
        let field = |x: &Tensor, _: f64| Ok(x.clone());
        let stay = |x: &Tensor, _: f64, _: f64| Ok(x.clone());
        let none = straightness(&Path::Straight, &x, 0, field, stay);
        assert!(matches!(none, Err(Error::Range { .. })));
        let other = |x: &Tensor, _: f64| Ok(x.narrow(0, 0, 1)?);
        let result = straightness(&Path::Straight, &x, 2, other, stay);
        assert!(matches!(result, Err(Error::Shape { .. })));
        let nan = |x: &Tensor, _: f64| Ok(x.affine(f64::NAN, 0.0)?);
        let result = straightness(&Path::Straight, &x, 2, nan, stay);
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
}
