//! Layers with a backward pass, where candle-nn's have none.
//!
//! candle-nn's `LayerNorm`, `RmsNorm` and `softmax_last_dim` run fused kernels that silently cut
//! the gradient. These are written with plain tensor operations.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

/// Layer normalisation over the last dimension: `weight·(x − mean)/√(var + eps) + bias`.
/// Source: Ba, Kiros, Hinton 2016, equation 3.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight` and `bias`, both `[dim]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(dim: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints(dim, "weight", candle_nn::init::ONE)?;
        let bias = vb.get_with_hints(dim, "bias", candle_nn::init::ZERO)?;
        Ok(Self { weight, bias, eps })
    }

    /// `x` `[.., dim]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension is not `dim`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let inverse = (variance + self.eps)?.sqrt()?.recip()?;
        centred.broadcast_mul(&inverse)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
