//! The likelihood of data under a flow, by the instantaneous change of variables.
//!
//! Along a trajectory `dx/dt = v(x, t)` the log-density changes by `−div v`, so with the noise's
//! density known at the other end
//!
//! ```text
//! log p(x) = log N(x_T; 0, σ_T²·I) + ∫ div v(x_t, t) dt        from the data's time to the noise's
//! ```
//!
//! The noise end is taken to be pure: VP paths keep `α_T` of the data there (0.0066 for β from 0.1
//! to 20), which costs about `α_T²·E‖x‖²/2` nats on average; EDM likewise with `1/σ_max²`.
//!
//! The divergence is exact (one backward pass a dimension) or Hutchinson's estimate
//! `E[zᵀ·J·z]` with signs z that stay fixed for the whole solve. State and logarithm are integrated
//! as one vector, with the same stages. Sources: Chen et al. 2018 (theorem 1), Grathwohl et al. 2019
//! (FFJORD), Song et al. 2021 (appendix D.2).
//!
//! Few steps give numbers that mean nothing (−9.9 bits a dimension with 8 Euler steps where the
//! truth is 3.12), so such a request is refused: below [`MIN_EVALUATIONS`], and where the grid and
//! every second point of it disagree. So is a field whose gradient is not that of its values
//! (layers without a backward pass drop a part of it, silently): checked once by a difference.

use candle_core::{D, DType, Device, Tensor, Var};

use super::grid;
use super::integrate::integrate;
use super::jacobian::{check_gradient, signs, vjp};
use super::solution::Field;
use super::tableau::Tableau;
use crate::flow::{Noise, Path};
use crate::{Error, Result};

/// Fewest evaluations of the field over the grid.
pub const MIN_EVALUATIONS: usize = 32;

/// Most dimensions for an exact divergence: each costs a backward pass at every evaluation.
pub const MAX_EXACT_DIMENSIONS: usize = 256;

/// How the divergence is computed.
#[derive(Clone, Copy, Debug)]
pub enum Divergence {
    /// The trace of the Jacobian: one backward pass a dimension.
    Exact,
    /// The mean of `zᵀ·J·z` over fixed vectors of signs: unbiased, one backward pass a probe.
    Hutchinson {
        /// Number of vectors for each sample.
        probes: usize,
        /// Their signs: those of sample i and probe j depend on (i, j) alone.
        noise: Noise,
    },
}

/// How a likelihood is computed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The method over the grid.
    pub tableau: &'static Tableau,
    /// The divergence.
    pub divergence: Divergence,
    /// Largest disagreement between the grid and every second point of it, in bits a dimension. The
    /// error of the result is smaller by about `2^order − 1`.
    pub tolerance: f64,
}

impl Settings {
    /// A method and a divergence with a tolerance of 0.05 bits a dimension.
    pub fn new(tableau: &'static Tableau, divergence: Divergence) -> Self {
        Self { tableau, divergence, tolerance: 0.05 }
    }
}

/// What is known of the data then.
#[derive(Clone, Debug)]
pub struct Likelihood {
    /// `log p(x)` of each row, in nats.
    pub log_density: Vec<f64>,
    /// Where each row came from: the state at the noise end, shape of the data.
    pub noise: Tensor,
    /// Numbers in a row.
    pub dimensions: usize,
    /// Evaluations of the field, those of the checks included. Each has its backward passes on top.
    pub nfe: usize,
    /// Largest disagreement with every second point of the grid, in bits a dimension.
    pub disagreement: f64,
}

impl Likelihood {
    /// `−log₂ p(x)/d` of each row.
    pub fn bits_per_dimension(&self) -> Vec<f64> {
        self.log_density.iter().map(|nats| bits(-nats, self.dimensions)).collect()
    }

    /// Bits a dimension of the 8-bit pictures that the rows stand for, where a picture's levels
    /// 0 … 255 lie 1/128 apart in [−1, 1] and are filled with uniform noise of that width:
    /// `−log₂ p(x)/d + 7`, as 7 = log₂ 128.
    pub fn bits_per_dimension_8bit(&self) -> Vec<f64> {
        self.bits_per_dimension().into_iter().map(|bits| bits + 7.0).collect()
    }
}

/// The log-likelihood of the rows of `x` `[b, ..]` under the velocity `field` of `path`.
///
/// The grid runs from the data (or a little beside: VP's velocity is infinite at t = 0) to the noise
/// end in an even number of steps. The field must keep the gradient to its input, and each row of
/// its output must depend on that row of the input alone. Numbers are computed in the dtype of x.
///
/// # Errors
/// [`Error::Grid`] when the grid is not such a grid, [`Error::Range`] when the evaluations are too
/// few, the dimensions too many for an exact divergence or the disagreement too large; and when the
/// field fails, has no gradient or is not finite.
pub fn log_likelihood(
    path: &Path,
    field: &mut Field<'_>,
    x: &Tensor,
    grid: &[f64],
    settings: &Settings,
) -> Result<Likelihood> {
    let rows = x.dims().first().copied().unwrap_or(0);
    let dimensions = x.elem_count().checked_div(rows).unwrap_or(0);
    if dimensions == 0 {
        return Err(Error::shape("likelihood: data", "[b, ..] with a number in it", x.dims()));
    }
    check(path, grid, dimensions, settings)?;
    let mut field = |x: &Tensor, t: f64| {
        let velocity = field(x, t)?;
        if velocity.dims() != x.dims() {
            return Err(Error::shape("likelihood: velocity", x.dims(), velocity.dims()));
        }
        Ok(velocity)
    };
    let tried = check_gradient(&mut field, x, grid[grid.len() / 2])?;
    let probes = probes(x, settings.divergence)?;
    let mut solve = |grid: &[f64]| solve(path, &mut field, x, grid, settings.tableau, &probes);
    let (log_density, noise, fine) = solve(grid)?;
    let every_second: Vec<f64> = grid.iter().copied().step_by(2).collect();
    let (other, _, coarse) = solve(&every_second)?;
    let gap = |(a, b): (&f64, &f64)| bits((a - b).abs(), dimensions);
    let disagreement = log_density.iter().zip(&other).map(gap).fold(0.0, worse);
    // Not `>`: a NaN agrees with nothing.
    let agrees = disagreement <= settings.tolerance;
    if !agrees {
        return Err(Error::range(
            "likelihood: disagreement of the grid and every second point of it",
            format!("at most {} bits a dimension; use more steps", settings.tolerance),
            disagreement,
        ));
    }
    Ok(Likelihood { log_density, noise, dimensions, nfe: tried + fine + coarse, disagreement })
}

/// The larger, and a NaN once there is one.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn bits(nats: f64, dimensions: usize) -> f64 {
    nats / (dimensions as f64 * std::f64::consts::LN_2)
}

fn check(path: &Path, grid: &[f64], dimensions: usize, settings: &Settings) -> Result<()> {
    grid::validate_on(grid, path)?;
    let (noise, data) = path.ends();
    let (first, last) = (grid[0], grid[grid.len() - 1]);
    if last != noise || grid.len().is_multiple_of(2) {
        return Err(Error::Grid {
            expected: format!(
                "an even number of steps from the data (t = {data}) to the noise (t = {noise})"
            ),
            got: format!("{} steps from {first} to {last}", grid.len() - 1),
        });
    }
    let evaluations = (grid.len() - 1) * settings.tableau.evals();
    if evaluations < MIN_EVALUATIONS {
        let expected = format!("at least {MIN_EVALUATIONS}: with fewer a likelihood means nothing");
        return Err(Error::range("likelihood: evaluations", expected, evaluations as f64));
    }
    match settings.divergence {
        Divergence::Exact if dimensions > MAX_EXACT_DIMENSIONS => {
            let expected = format!(
                "at most {MAX_EXACT_DIMENSIONS}: each costs a backward pass; use Hutchinson's estimate"
            );
            Err(Error::range(
                "likelihood: dimensions of an exact divergence",
                expected,
                dimensions as f64,
            ))
        }
        Divergence::Hutchinson { probes: 0, .. } => {
            Err(Error::range("likelihood: probes", "1 or more", 0.0))
        }
        _ => Ok(()),
    }
}

/// The vectors that the Jacobian is multiplied by from both sides, of the shape of `x`; their
/// products are summed. The unit vectors for the exact trace.
fn probes(x: &Tensor, divergence: Divergence) -> Result<Probes> {
    let (rows, dimensions) = (x.dim(0)?, x.elem_count() / x.dim(0)?);
    match divergence {
        Divergence::Exact => {
            let unit = |i: usize| -> Result<Tensor> {
                let mut row = vec![0.0; dimensions];
                row[i] = 1.0;
                let row =
                    Tensor::from_vec(row, (1, dimensions), &Device::Cpu)?.to_dtype(x.dtype())?;
                Ok(row.to_device(x.device())?.broadcast_as((rows, dimensions))?.contiguous()?)
            };
            let vectors = (0..dimensions).map(unit).collect::<Result<_>>()?;
            Ok(Probes { vectors, share: 1.0 })
        }
        Divergence::Hutchinson { probes, noise } => {
            let flat = x.reshape((rows, dimensions))?;
            let of = |probe: usize| signs(&flat, &noise, probe as u64);
            let vectors = (0..probes).map(of).collect::<Result<_>>()?;
            Ok(Probes { vectors, share: 1.0 / probes as f64 })
        }
    }
}

struct Probes {
    vectors: Vec<Tensor>,
    share: f64,
}

/// Log-densities, states at the noise end, and evaluations.
fn solve(
    path: &Path,
    field: &mut Field<'_>,
    x: &Tensor,
    grid: &[f64],
    tableau: &Tableau,
    probes: &Probes,
) -> Result<(Vec<f64>, Tensor, usize)> {
    let (rows, dimensions) = (x.dim(0)?, x.elem_count() / x.dim(0)?);
    // Column d of the state is the integral of the divergence.
    let flat = x.reshape((rows, dimensions))?.detach();
    let start = Tensor::cat(&[&flat, &flat.narrow(1, 0, 1)?.zeros_like()?], 1)?;
    let mut augmented = |state: &Tensor, t: f64| -> Result<Tensor> {
        let x = state.narrow(1, 0, dimensions)?.reshape(x.dims())?;
        let x = Var::from_tensor(&x.contiguous()?)?;
        let velocity = field(&x, t)?.reshape((rows, dimensions))?;
        let divergence = divergence(&velocity, &x, probes)?;
        Ok(Tensor::cat(&[&velocity.detach(), &divergence], 1)?)
    };
    let solution = integrate(&mut augmented, start, grid, tableau)?;
    let end = solution.x.narrow(1, 0, dimensions)?.contiguous()?;
    let sigma = path.at(path.ends().0).sigma;
    let on_host = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let square = on_host(&end)?.sqr()?.sum(D::Minus1)?.to_vec1::<f64>()?;
    let integral = solution.x.narrow(1, dimensions, 1)?;
    let integral = on_host(&integral)?.flatten_all()?.to_vec1::<f64>()?;
    let constant = -0.5 * dimensions as f64 * (std::f64::consts::TAU * sigma * sigma).ln();
    let of_row =
        |(square, integral): (&f64, f64)| constant - 0.5 * square / (sigma * sigma) + integral;
    let log_density = square.iter().zip(integral).map(of_row).collect();
    Ok((log_density, end.reshape(x.dims())?, solution.nfe))
}

/// The divergence of each row `[b, 1]`: one backward pass a probe.
fn divergence(velocity: &Tensor, x: &Var, probes: &Probes) -> Result<Tensor> {
    let mut sum = velocity.narrow(1, 0, 1)?.zeros_like()?;
    for probe in &probes.vectors {
        let product = vjp(velocity, x, probe)?;
        let product = (product.reshape(probe.dims())? * probe)?.sum_keepdim(1)?;
        sum = (sum + product)?;
    }
    Ok(sum.affine(probes.share, 0.0)?)
}
