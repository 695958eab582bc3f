//! How good generated pictures are: distances between sets of features, nearest neighbours, accuracy.
//!
//! Features are rows of a tensor `[n, d]`: what a trained network makes of `n` pictures, or the pictures
//! themselves. With mean μ and covariance Σ (dividing by n − 1) of each set,
//! ```text
//! Fréchet   ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^½ Σ_b Σ_a^½)^½
//! kernel    mean k(a, a') + mean k(b, b') − 2 mean k(a, b),   k(x, y) = (x·y/d + 1)³,   a ≠ a', b ≠ b'
//! ```
//! The first is the squared Wasserstein distance between the two normal distributions with these
//! moments (Dowson, Landau 1982; Heusel et al. 2017 on features of Inception-v3, "FID"), the second the
//! unbiased squared MMD of Bińkowski et al. 2018 ("KID", there as a mean over subsets). With features
//! of a network of one's own neither is FID nor KID, and numbers of different networks cannot be
//! compared. The Fréchet distance of few samples is too large; compare sets of the same size. All in f64;
//! both square roots are of symmetric matrices, so that nothing is complex.

use candle_core::{DType, Tensor};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rayon::prelude::*;

use crate::{Error, Result};

/// The Fréchet distance between the normal distributions with the moments of two sets of features,
/// `[n, d]` and `[m, d]`; 0 for equal moments.
///
/// # Errors
/// Fewer than two rows, different widths, or a feature that is not finite.
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (moments(&matrix("a", a)?)?, moments(&matrix("b", b)?)?);
    let (d_a, d_b) = (a.0.len(), b.0.len());
    if d_a != d_b {
        return Err(Error::shape("features b", ("n", d_a), ("n", d_b)));
    }
    Ok(frechet(&a, &b))
}

/// The squared distance in the cubic polynomial kernel between two sets of features, `[n, d]` and
/// `[m, d]`; 0 on average for sets of the same distribution, and then sometimes negative.
///
/// # Errors
/// As [`frechet_distance`].
pub fn kernel_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (matrix("a", a)?, matrix("b", b)?);
    if a.ncols() != b.ncols() {
        return Err(Error::shape("features b", ("n", a.ncols()), ("n", b.ncols())));
    }
    let (n, m, d) = (a.nrows() as f64, b.nrows() as f64, a.ncols() as f64);
    if n < 2.0 || m < 2.0 {
        return Err(few(n.min(m)));
    }
    let kernel =
        |x: &DMatrix<f64>, y: &DMatrix<f64>| (x * y.transpose()).map(|dot| (dot / d + 1.0).powi(3));
    let within = |x: &DMatrix<f64>, n: f64| {
        let k = kernel(x, x);
        (k.sum() - k.trace()) / (n * (n - 1.0))
    };
    Ok(within(&a, n) + within(&b, m) - 2.0 * kernel(&a, &b).mean())
}

/// For each row of `queries` `[m, …]` the nearest row of `known` `[n, …]`: its index (the first of
/// equals) and the root mean squared difference of a value.
///
/// # Errors
/// The rows differ in length, or `known` has none.
pub fn nearest(known: &Tensor, queries: &Tensor) -> Result<Vec<(usize, f64)>> {
    let (known, d) = rows(known)?;
    let (queries, width) = rows(queries)?;
    if known.is_empty() || d == 0 || width != d {
        return Err(Error::shape("queries", ("m", d), ("m", width)));
    }
    let find = |query: &[f32]| {
        let distance = |row: &[f32]| -> f64 {
            row.iter().zip(query).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum()
        };
        let distances = known.chunks_exact(d).map(distance).enumerate();
        let best = distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::NAN));
        (best.0, (best.1 / d as f64).sqrt())
    };
    Ok(queries.par_chunks_exact(d).map(find).collect())
}

/// Share of rows of `logits` `[n, classes]` whose largest entry is at the label.
///
/// # Errors
/// There are no rows, or not as many as labels.
pub fn accuracy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let (n, classes) = logits.dims2()?;
    if n == 0 || n != labels.len() {
        return Err(Error::shape("labels", n, labels.len()));
    }
    let (values, _) = rows(logits)?;
    let right = values.chunks_exact(classes.max(1)).zip(labels).filter(|(row, label)| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map(|(class, _)| class) == Some(**label as usize)
    });
    Ok(right.count() as f64 / n as f64)
}

/// Mean `[d]` and covariance `[d, d]`.
type Moments = (DVector<f64>, DMatrix<f64>);

fn moments(features: &DMatrix<f64>) -> Result<Moments> {
    let n = features.nrows() as f64;
    if n < 2.0 {
        return Err(few(n));
    }
    let mean = features.row_mean();
    let mut centred = features.clone();
    for mut row in centred.row_iter_mut() {
        row -= &mean;
    }
    Ok((mean.transpose(), centred.tr_mul(&centred) / (n - 1.0)))
}

fn frechet((mean_a, cov_a): &Moments, (mean_b, cov_b): &Moments) -> f64 {
    let root = square_root(cov_a);
    let product = &root * cov_b * &root;
    let shared: f64 = roots(&eigenvalues(&product)).sum();
    (mean_a - mean_b).norm_squared() + cov_a.trace() + cov_b.trace() - 2.0 * shared
}

/// The symmetric square root of a positive semidefinite matrix.
fn square_root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(matrix.clone());
    &eigenvectors * DMatrix::from_diagonal(&roots(&eigenvalues)) * eigenvectors.transpose()
}

/// Square roots of eigenvalues; what is zero but for rounding is zero, since roots enlarge it.
fn roots(eigenvalues: &DVector<f64>) -> DVector<f64> {
    let noise = eigenvalues.amax() * f64::EPSILON * eigenvalues.len() as f64;
    eigenvalues.map(|v| if v > noise { v.sqrt() } else { 0.0 })
}

fn eigenvalues(matrix: &DMatrix<f64>) -> DVector<f64> {
    // Rounding leaves it a little unsymmetric.
    let symmetric = (matrix + matrix.transpose()) * 0.5;
    SymmetricEigen::new(symmetric).eigenvalues
}

fn matrix(name: &str, features: &Tensor) -> Result<DMatrix<f64>> {
    let (n, d) = features.dims2()?;
    if d == 0 {
        return Err(Error::shape(format!("features {name}"), "[n, d]", features.dims()));
    }
    let values: Vec<f64> = features.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::Rejected {
            reason: format!(
                "features {name}: expected finite numbers, got {} in row {}",
                values[at],
                at / d
            ),
        });
    }
    Ok(DMatrix::from_row_slice(n, d, &values))
}

/// All values, and how many a row has.
fn rows(tensor: &Tensor) -> Result<(Vec<f32>, usize)> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let n = tensor.dims().first().copied().unwrap_or(1).max(1);
    let d = values.len() / n;
    Ok((values, d))
}

fn few(got: f64) -> Error {
    Error::range("features", "two rows or more", got)
}

#[cfg(test)]
#[path = "quality_tests.rs"]
mod tests;
