//! The codebook: the nearest vector for every pixel of the latents, and what moves both together.
//!
//! ```text
//! z_q = e[argmin ‖z − e‖]            forward z_q, backward as if it were z: z + sg(z_q − z)
//! codebook = mean ‖z_q − sg(z)‖²     commitment = mean ‖sg(z_q) − z‖²
//! paper:  codebook + β·commitment    legacy: commitment + β·codebook
//! ```
//!
//! The legacy form, which diffusers computes and the published autoencoders were trained with, has
//! β at the wrong term. Source: van den Oord et al. 2017, equation 3; diffusers `VectorQuantizer`.

use candle_core::{D, DType, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::coder::{to_first, to_last};
use crate::Result;

/// So many distances are computed at a time.
const DISTANCES: usize = 1 << 22;
/// diffusers' β.
const BETA: f64 = 0.25;

/// Which of the two terms β weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beta {
    /// That of the codebook, as in diffusers.
    #[default]
    Legacy,
    /// That of the encoder, as in the paper.
    Paper,
}

/// Latents and their nearest vectors.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The vectors `[b, c, h, w]`, with the gradient of what was quantised.
    pub z_q: Tensor,
    /// Their numbers `[b, h, w]`, u32.
    pub indices: Tensor,
    /// diffusers' loss: [`Beta::Legacy`] with β = 0.25. A scalar.
    pub loss: Tensor,
    /// `mean ‖z_q − sg(z)‖²`: moves the codebook. A scalar.
    pub codebook: Tensor,
    /// `mean ‖sg(z_q) − z‖²`: moves the encoder. A scalar.
    pub commitment: Tensor,
    /// `exp(−Σ p·ln p)` over the use of the vectors: 1 if all pixels take the same, the number of
    /// vectors if all are taken equally often.
    pub perplexity: f64,
    /// Number of vectors that are taken at all.
    pub used: usize,
}

impl Quantized {
    /// The loss with another `beta`, at one or the other term.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn loss_with(&self, beta: f64, at: Beta) -> Result<Tensor> {
        let (whole, weighed) = match at {
            Beta::Legacy => (&self.commitment, &self.codebook),
            Beta::Paper => (&self.codebook, &self.commitment),
        };
        Ok((whole + (weighed * beta)?)?)
    }
}

/// The vectors.
#[derive(Clone, Debug)]
pub(super) struct Codebook {
    weight: Tensor,
}

impl Codebook {
    /// Loads `weight` `[count, dim]`; a new one is uniform in ±1/count.
    pub(super) fn load(count: usize, dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1.0 / count as f64;
        let init = Init::Uniform { lo: -bound, up: bound };
        Ok(Self { weight: vb.get_with_hints((count, dim), "weight", init)? })
    }

    pub(super) fn quantize(&self, h: &Tensor) -> Result<Quantized> {
        let z = to_last(h)?;
        let (b, height, width, dim) = z.dims4()?;
        let rows = z.reshape((b * height * width, dim))?;
        let indices = self.nearest(&rows.detach())?;
        let taken = self.weight.index_select(&indices, 0)?.reshape(z.shape())?;
        let straight = (&z + (&taken - &z)?.detach())?;
        let codebook = (&taken - z.detach())?.sqr()?.mean_all()?;
        let commitment = (taken.detach() - &z)?.sqr()?.mean_all()?;
        let (perplexity, used) = self.use_of(&indices)?;
        Ok(Quantized {
            z_q: to_first(&straight)?,
            indices: indices.reshape((b, height, width))?,
            loss: (&commitment + (&codebook * BETA)?)?,
            codebook,
            commitment,
            perplexity,
            used,
        })
    }

    /// The nearest vector of each of the `rows` `[n, dim]`: `[n]`, the first of several. In f64, where
    /// `‖e‖² − 2·z·e` orders vectors that lie close together as their distances do.
    fn nearest(&self, rows: &Tensor) -> Result<Tensor> {
        let codes = self.weight.detach().to_dtype(DType::F64)?;
        let squares = codes.sqr()?.sum(D::Minus1)?;
        let codes = codes.t()?.contiguous()?.affine(-2.0, 0.0)?;
        let (count, step) = (rows.dim(0)?, (DISTANCES / squares.dim(0)?).max(1));
        let parts = (0..count).step_by(step).map(|first| {
            let rows = rows.narrow(0, first, step.min(count - first))?;
            let rows = rows.to_dtype(DType::F64)?.contiguous()?;
            Ok(rows.matmul(&codes)?.broadcast_add(&squares)?.argmin(D::Minus1)?)
        });
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn use_of(&self, indices: &Tensor) -> Result<(f64, usize)> {
        let mut counts = vec![0usize; self.weight.dim(0)?];
        let indices = indices.to_vec1::<u32>()?;
        for &index in &indices {
            if let Some(count) = counts.get_mut(index as usize) {
                *count += 1;
            }
        }
        let shares = counts.iter().filter(|&&count| count > 0);
        let shares: Vec<f64> = shares.map(|&count| count as f64 / indices.len() as f64).collect();
        let entropy: f64 = shares.iter().map(|p| -p * p.ln()).sum();
        Ok((entropy.exp(), shares.len()))
    }
}
