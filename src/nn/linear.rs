//! A linear layer whose bits do not depend on the batch size: `y = x·Wᵀ + b`.
//!
//! Names, shapes and initial values are those of candle-nn's `Linear` (PyTorch's `weight`
//! `[out, input]` and `bias` `[out]`); the product is that of `product.rs`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::product::Weight;

/// The layer.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer of `weight` `[out, input]` and `bias` `[out]`.
    ///
    /// # Errors
    /// When the weight has another rank.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        weight.dims2()?;
        Ok(Self { weight: Weight::new(weight)?, bias })
    }

    /// Loads `weight` and `bias`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(input: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1.0 / (input as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let layer = Self::load_no_bias(input, out, vb.clone())?;
        Ok(Self { bias: Some(vb.get_with_hints(out, "bias", init)?), ..layer })
    }

    /// Loads `weight` alone.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn load_no_bias(input: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = candle_nn::init::DEFAULT_KAIMING_NORMAL;
        Self::new(vb.get_with_hints((out, input), "weight", init)?, None)
    }

    /// `x` `[.., input]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last dimension is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let bias = self.bias.as_ref();
        let y = match *dims {
            [_, _] => self.weight.affine(x, bias)?,
            [.., input] => self.weight.affine(&x.reshape(((), input))?, bias)?,
            [] => candle_core::bail!("linear: expected [.., input], got a scalar"),
        };
        if let Some(last) = dims.last_mut() {
            *last = y.dim(1)?;
        }
        y.reshape(dims)
    }
}
