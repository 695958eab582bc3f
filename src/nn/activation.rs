//! Activations with right gradients, written with plain tensor operations.
//!
//! candle's `mish` has a gradient of NaN above x = 88; the backward passes of its `gelu` and
//! `gelu_erf` use constants of six digits. Its `silu` is sound and is used as it is.

use candle_core::{Result, Tensor};

/// `x·Φ(x) = x/2·(1 + erf(x/√2))`: PyTorch's and diffusers' GELU. Source: Hendrycks, Gimpel 2016.
///
/// # Errors
/// When a tensor operation fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let erf = x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?;
    x * erf.affine(0.5, 0.5)?
}

/// `x·sigmoid(1.702·x)`: CLIP's GELU, up to 0.021 from [`gelu`]. Source: as there, section 2; Radford
/// et al. 2021.
///
/// # Errors
/// When a tensor operation fails.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    // x·sigmoid(k·x) is silu(k·x)/k, which has one backward pass.
    x.affine(1.702, 0.0)?.silu()?.affine(1.0 / 1.702, 0.0)
}

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`: PyTorch's `approximate="tanh"`, up to 4.7e-4 from
/// [`gelu`]. Source: as there, section 2.
///
/// # Errors
/// When a tensor operation fails.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let scale = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let inner = (x * x.sqr()?.affine(0.044715, 1.0)?)?;
    x * inner.affine(scale, 0.0)?.tanh()?.affine(0.5, 0.5)?
}

/// `x·tanh(softplus(x))`, as `x·n/(n + 2)` with `n = e^x·(e^x + 2)`. The exponent stops at 20, where
/// the factor is 1 to the last bit, so that neither the value nor the gradient overflows.
/// Source: Misra 2019.
///
/// # Errors
/// When a tensor operation fails.
pub fn mish(x: &Tensor) -> Result<Tensor> {
    let e = x.minimum(20f64)?.exp()?;
    let n = (&e * (&e + 2.0)?)?;
    x * (&n / (&n + 2.0)?)?
}
