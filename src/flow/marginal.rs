//! Conditional and marginal fields, as functions one can call.
//!
//! Given one data point x₁, the affine flow ψ carries unit noise to it, scaled by the standard
//! deviation σ (not the variance), and everything is known:
//!
//! ```text
//! ψ_t(x)      = σ·x + α·x₁                          p_t(y|x₁) = N(y; α·x₁, σ²)
//! u_t(y|x₁)   = (σ'/σ)·(y − α·x₁) + α'·x₁           = d/dt ψ_t(x) at x = ψ_t⁻¹(y)
//! ```
//!
//! The marginal field averages the conditional ones over the data points that may be behind y:
//!
//! ```text
//! u_t(y) = Σ_i w_i·u_t(y|x_i)        w_i = p_t(y|x_i)·π_i / Σ_j p_t(y|x_j)·π_j
//! ```
//!
//! Flow matching would regress on u_t(y); it has the gradient of the regression on u_t(y|x₁)
//! (theorem 2). For a finite set of data both can be evaluated, and a network that fits such a set
//! perfectly samples nothing but its points. Source: Lipman et al. 2023, sections 3 and 4.

use candle_core::{D, DType, Device, Tensor};

use super::path::Coef;
use super::target::{Estimate, combine};
use crate::{Error, Result};

/// The flow `ψ_t(x) = σ·x + α·data` of noise `x`, of the shape of `data`.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ.
pub fn psi(coef: &Coef, x: &Tensor, data: &Tensor) -> Result<Tensor> {
    combine(coef.sigma, x, coef.alpha, data)
}

/// The noise that [`psi`] carries to the state `x_t`.
///
/// # Errors
/// [`Error::Invalid`] where σ is 0, [`Error::Shape`] when the shapes differ.
pub fn psi_inverse(coef: &Coef, x_t: &Tensor, data: &Tensor) -> Result<Tensor> {
    noisy(coef)?;
    combine(1.0 / coef.sigma, x_t, -coef.alpha / coef.sigma, data)
}

/// The conditional field `u_t(x_t|data) = (σ'/σ)·(x_t − α·data) + α'·data`, in the path's own time.
///
/// # Errors
/// [`Error::Invalid`] where σ is 0, [`Error::Shape`] when the shapes differ.
pub fn conditional(coef: &Coef, x_t: &Tensor, data: &Tensor) -> Result<Tensor> {
    noisy(coef)?;
    let rate = coef.d_sigma / coef.sigma;
    combine(rate, x_t, coef.d_alpha - rate * coef.alpha, data)
}

/// `ln p_t(x_t|data)` of each sample of `[b, ..]`: shape `[b]`, in double precision.
///
/// # Errors
/// [`Error::Invalid`] where σ is 0, [`Error::Shape`] when the shapes differ.
pub fn log_density(coef: &Coef, x_t: &Tensor, data: &Tensor) -> Result<Tensor> {
    let (x_t, data) = (flat(x_t)?, flat(data)?);
    let z = psi_inverse(coef, &x_t, &data)?;
    let constant = z.dim(1)? as f64 * (0.5 * std::f64::consts::TAU.ln() + coef.sigma.ln());
    Ok(z.sqr()?.sum(1)?.affine(-0.5, -constant)?)
}

/// How likely each data point is to be behind each state: `[b, n]` in double precision, rows of sum
/// 1, for states `[b, ..]` and `points` `[n, ..]`, which are equally likely or have the `prior` π
/// (n numbers from 0 on; their sum does not matter). It takes the memory of b·n points.
///
/// # Errors
/// [`Error::Invalid`] where σ is 0 or when a number is not finite, [`Error::Shape`] when the shapes
/// do not fit or there are no points, [`Error::Range`] when a prior is not a probability.
pub fn posterior(
    coef: &Coef,
    x_t: &Tensor,
    points: &Tensor,
    prior: Option<&[f64]>,
) -> Result<Tensor> {
    noisy(coef)?;
    if points.rank() != x_t.rank() || points.dims().get(1..) != x_t.dims().get(1..) {
        return Err(Error::shape("data points", x_t.dims(), points.dims()));
    }
    let (x, points) = (flat(x_t)?, flat(points)?);
    let n = points.dim(0)?;
    // ‖y − α·x_i‖² without the cancellation of squares multiplied out, less the smallest of them,
    // and only then over σ²: what overflows is infinitely far from the nearest point.
    let gap = x.unsqueeze(1)?.broadcast_sub(&points.affine(coef.alpha, 0.0)?.unsqueeze(0)?)?;
    let square = gap.sqr()?.sum(2)?;
    let square = square.broadcast_sub(&square.min_keepdim(D::Minus1)?)?;
    let mut log = square.affine(1.0 / coef.sigma, 0.0)?.affine(-0.5 / coef.sigma, 0.0)?;
    if let Some(prior) = prior {
        if prior.len() != n {
            return Err(Error::shape("prior of the data points", [n], [prior.len()]));
        }
        if let Some(bad) = prior.iter().find(|p| !(**p >= 0.0 && p.is_finite())) {
            return Err(Error::range("prior of the data points", "numbers from 0 on", *bad));
        }
        if prior.iter().all(|p| *p == 0.0) {
            return Err(Error::range("prior of the data points", "one above 0", 0.0));
        }
        let prior: Vec<f64> = prior.iter().map(|p| p.ln()).collect();
        log = log.broadcast_add(&Tensor::from_vec(prior, (1, n), &Device::Cpu)?)?;
    }
    // The largest exponent becomes 0, so the sum is from 1 to n.
    let weight = log.broadcast_sub(&log.max_keepdim(D::Minus1)?)?.exp()?;
    let weight = weight.broadcast_div(&weight.sum_keepdim(D::Minus1)?)?;
    let sum = weight.sum_all()?.to_scalar::<f64>()?;
    if !sum.is_finite() {
        return Err(Error::Invalid(
            "posterior: expected finite states and data points, got a NaN or an infinity".into(),
        ));
    }
    Ok(weight)
}

/// What is known of states `[b, ..]` when the data are the finite set `points` `[n, ..]`: the mean
/// of data and noise given the state. `.velocity(coef)` is the marginal field, `.score(coef)` the
/// marginal score: both are affine in the data given the state, so the mean may be taken first.
///
/// # Errors
/// As [`posterior`].
pub fn marginal(
    coef: &Coef,
    x_t: &Tensor,
    points: &Tensor,
    prior: Option<&[f64]>,
) -> Result<Estimate> {
    let weight = posterior(coef, x_t, points, prior)?;
    let mean = weight.matmul(&flat(points)?)?.reshape(x_t.dims())?;
    Estimate::from_data(coef, x_t, &mean.to_dtype(x_t.dtype())?.to_device(x_t.device())?)
}

/// Conditional densities and fields are of a path that has noise.
fn noisy(coef: &Coef) -> Result<()> {
    if coef.sigma > 0.0 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "marginal: expected a time with noise (sigma above 0), got {coef:?}; stop before the data end"
    )))
}

/// `[b, ..]` as `[b, d]`, in double precision on the host.
fn flat(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 0 || x.elem_count() == 0 {
        return Err(Error::shape("states or data points", "[b, ..] with b above 0", x.dims()));
    }
    let x = x.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
    Ok(x.reshape((x.dim(0)?, ()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Noise, Path};

    fn normal(sample: u64, shape: &[usize]) -> Tensor {
        let z = Noise::new(6).normal(sample, 0, shape.iter().product());
        let z = Tensor::from_vec(z, shape, &Device::Cpu).unwrap();
        z.to_dtype(DType::F64).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap()
    }

    fn paths() -> [Path; 5] {
        [
            Path::Straight,
            Path::Lipman { sigma_min: 0.1 },
            Path::CosineReversed,
            Path::Vp { beta_min: 0.1, beta_max: 20.0 },
            Path::Edm { sigma_max: 3.0 },
        ]
    }

    #[test]
    fn the_conditional_field_is_the_flow_s_derivative() {
        let (x, data) = (normal(0, &[4, 3]), normal(1, &[4, 3]));
        for path in paths() {
            for t in [0.2, 0.5, 0.9] {
                let (coef, h) = (path.at(t), 1e-6);
                let y = psi(&coef, &x, &data).unwrap();
                assert!(gap(&psi_inverse(&coef, &y, &data).unwrap(), &x) < 1e-12);
                let u = conditional(&coef, &y, &data).unwrap();
                let at = |t| psi(&path.at(t), &x, &data).unwrap();
                let slope = ((at(t + h) - at(t - h)).unwrap() / (2.0 * h)).unwrap();
                assert!(gap(&slope, &u) < 1e-7, "{path:?} {t}: {}", gap(&slope, &u));
                // It is α'·data + σ'·noise: what the objective regresses on.
                let target = combine(coef.d_alpha, &data, coef.d_sigma, &x).unwrap();
                assert!(gap(&target, &u) < 1e-11);
            }
        }
    }

    #[test]
    fn the_density_is_a_normal_one() {
        let coef = Path::Straight.at(0.5);
        let x_t = Tensor::new(&[[0.5f64, 1.0]], &Device::Cpu).unwrap();
        let data = Tensor::new(&[[1.0f64, 0.0]], &Device::Cpu).unwrap();
        // z = (0, 2), σ = 1/2, d = 2.
        let want = -2.0 - std::f64::consts::TAU.ln() + 2.0 * 2f64.ln();
        let got = log_density(&coef, &x_t, &data).unwrap().to_vec1::<f64>().unwrap();
        assert!((got[0] - want).abs() < 1e-14, "{got:?} {want}");
    }

    #[test]
    fn the_marginal_field_is_the_weighted_sum_of_conditional_ones() {
        let (x, points) = (normal(0, &[4, 3]), normal(1, &[6, 3]));
        let prior = [0.1, 0.3, 0.0, 0.2, 0.2, 0.2];
        for path in paths() {
            for t in [0.3, 0.9] {
                let coef = path.at(t);
                let field = marginal(&coef, &x, &points, Some(&prior)).unwrap();
                let field = field.velocity(&coef).unwrap();
                for i in 0..4 {
                    let y = x.narrow(0, i, 1).unwrap().broadcast_as((6, 3)).unwrap();
                    let y = y.contiguous().unwrap();
                    let log = log_density(&coef, &y, &points).unwrap().to_vec1::<f64>().unwrap();
                    let w: Vec<f64> = log.iter().zip(prior).map(|(l, p)| l.exp() * p).collect();
                    let sum: f64 = w.iter().sum();
                    let w = Tensor::from_vec(w, (1, 6), &Device::Cpu).unwrap();
                    let u = conditional(&coef, &y, &points).unwrap();
                    let want = (w.matmul(&u).unwrap() / sum).unwrap();
                    let got = field.narrow(0, i, 1).unwrap();
                    assert!(gap(&got, &want) < 1e-11, "{path:?} {t}");
                }
            }
        }
    }

    #[test]
    fn far_and_near_states_have_finite_fields() {
        let points = normal(1, &[6, 3]);
        for t in [1e-200, 1e-9, 0.5, 1.0] {
            let coef = Path::Straight.at(t);
            let far = normal(0, &[4, 3]).affine(1e6, 0.0).unwrap();
            for x in [&far, &points] {
                let weight = posterior(&coef, x, &points, None).unwrap();
                let rows = weight.sum(1).unwrap().to_vec1::<f64>().unwrap();
                assert!(rows.iter().all(|sum| (sum - 1.0).abs() < 1e-12), "{t}: {rows:?}");
            }
        }
        // Close to the data the field leads to the nearest point.
        let coef = Path::Straight.at(1e-4);
        let found = marginal(&coef, &points, &points, None).unwrap();
        assert!(gap(&found.data, &points) < 1e-12);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, points, coef) = (normal(0, &[4, 3]), normal(1, &[6, 3]), Path::Straight.at(0.5));
        let shape = |r: Result<Tensor>| assert!(matches!(r, Err(Error::Shape { .. })), "{r:?}");
        shape(posterior(&coef, &x, &normal(1, &[6, 2]), None));
        shape(posterior(&coef, &x, &points, Some(&[0.5])));
        shape(log_density(&coef, &x, &points));
        shape(conditional(&coef, &x, &points));
        for prior in [[-1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [f64::NAN; 6], [0.0; 6]] {
            let error = posterior(&coef, &x, &points, Some(&prior)).unwrap_err();
            assert!(matches!(error, Error::Range { .. }), "{error}");
        }
        let nan = x.affine(f64::NAN, 0.0).unwrap();
        assert!(matches!(posterior(&coef, &nan, &points, None), Err(Error::Invalid(_))));
        let end = Path::Straight.at(0.0);
        assert!(matches!(posterior(&end, &x, &points, None), Err(Error::Invalid(_))));
        assert!(matches!(psi_inverse(&end, &x, &x), Err(Error::Invalid(_))));
    }
}
