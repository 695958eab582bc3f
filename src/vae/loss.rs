//! What an autoencoder is trained to.
//!
//! ```text
//! nll = Σ (|x − x̂| + w_p·perceptual(x, x̂))/b          sums over channels and pixels, mean over the batch
//! loss = nll + w_kl·KL + d_w·adaptive·(−mean D(x̂))     w_kl = 1e-6 is small against summed pixels
//! perceptual = Σ_levels mean_pixels Σ_c lin·(f/‖f‖ − f̂/‖f̂‖)²
//! ```
//!
//! Sources: Rombach et al. 2022, appendix G, in the form of their `contperceptual.py`, where the
//! perceptual distance of a picture is added to each of its numbers before the sum; Zhang et al. 2018,
//! equation 1. The features are those of our own net (`features.rs`), so this is not LPIPS.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::features::FeatureNet;
use super::posterior::Posterior;
use crate::{Error, Result};

/// How a number differs from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// `|x − y|`.
    #[default]
    L1,
    /// `(x − y)²`.
    L2,
}

impl Distance {
    fn of(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        if x.dims() != y.dims() {
            return Err(Error::shape("reconstruction", x.dims(), y.dims()));
        }
        let difference = (x - y)?;
        Ok(match self {
            Self::L1 => difference.abs()?,
            Self::L2 => difference.sqr()?,
        })
    }
}

/// The divergence of the posterior from the standard normal, summed over a latent, mean over the batch:
/// a scalar.
///
/// # Errors
/// When a tensor operation fails.
pub fn kl(posterior: &Posterior) -> Result<Tensor> {
    Ok(posterior.kl()?.mean_all()?)
}

/// The distance of the pictures `y` from `x`, both `[b, c, h, w]`, summed over a picture, mean over the
/// batch: a scalar.
///
/// # Errors
/// When the shapes differ.
pub fn reconstruction(x: &Tensor, y: &Tensor, distance: Distance) -> Result<Tensor> {
    let pictures = x.dim(0)?.max(1) as f64;
    Ok((distance.of(x, y)?.sum_all()? / pictures)?)
}

/// [`reconstruction`] with, for each of the c·h·w numbers of a picture, the `weight` of its perceptual
/// distance `perceptual` `[b]` on top: a scalar.
///
/// # Errors
/// When a shape differs.
pub fn nll(
    x: &Tensor,
    y: &Tensor,
    distance: Distance,
    (perceptual, weight): (&Tensor, f64),
) -> Result<Tensor> {
    if perceptual.dims() != [x.dim(0)?] {
        return Err(Error::shape("perceptual distance", [x.dim(0)?], perceptual.dims()));
    }
    let numbers = x.elem_count() as f64 / x.dim(0)?.max(1) as f64;
    Ok((reconstruction(x, y, distance)? + (perceptual.mean_all()? * (weight * numbers))?)?)
}

/// Distance of the pictures `y` from `x`, both `[b, c, h, w]`, in the features of `net`: `[b]`.
///
/// # Errors
/// When the shapes differ or do not suit the net.
pub fn perceptual(net: &FeatureNet, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    weighted_perceptual(net, x, y, &[])
}

/// [`perceptual`] with a weight `lin` `[c]` for the channels of each level; levels for which there is
/// none have 1.
///
/// # Errors
/// When the shapes differ or do not suit the net.
pub fn weighted_perceptual(
    net: &FeatureNet,
    x: &Tensor,
    y: &Tensor,
    lin: &[Tensor],
) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(Error::shape("perceptual distance", x.dims(), y.dims()));
    }
    let (of_x, of_y) = (net.features(x)?, net.features(y)?);
    let mut total = Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?;
    for (level, (of_x, of_y)) in of_x.iter().zip(&of_y).enumerate() {
        let (_, h, w, _) = of_x.dims4()?;
        let mut terms = (unit(of_x)? - unit(of_y)?)?.sqr()?;
        if let Some(lin) = lin.get(level) {
            terms = terms.broadcast_mul(lin)?;
        }
        total = (total + (terms.flatten_from(1)?.sum(D::Minus1)? / (h * w) as f64)?)?;
    }
    Ok(total)
}

/// Feature vectors `[b, h, w, c]` of length 1. The length has a floor of 1e-10, so that a vector of
/// zeros has a gradient.
fn unit(features: &Tensor) -> Result<Tensor> {
    let length = (features.sqr()?.sum_keepdim(D::Minus1)? + 1e-20)?.sqrt()?;
    Ok(features.broadcast_div(&length)?)
}
