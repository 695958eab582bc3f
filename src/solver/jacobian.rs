//! Products with the Jacobian J of a field, by backward passes, and whether they are those of the field.
//!
//! A layer without a backward pass drops its part of the gradient and says nothing (candle-nn's fused
//! softmax and norms are such), so the product is compared with a difference once.

use candle_core::{DType, Device, Tensor, Var};

use super::solution::Field;
use crate::flow::Noise;
use crate::{Error, Result};

/// Most of the field's derivative that may be missing from its gradient.
const MAX_GAP: f64 = 0.05;

/// Step of the difference that shows it.
const STEP: f64 = 1e-3;

/// `Jᵀ·vector`, of the shape of `x`.
pub(super) fn vjp(velocity: &Tensor, x: &Var, vector: &Tensor) -> Result<Tensor> {
    let mut grads = (velocity * vector)?.sum_all()?.backward()?;
    let Some(product) = grads.remove(x) else {
        return Err(Error::Invalid(
            "likelihood: expected a field with a gradient in its input, got none; use \
             differentiable layers, and do not detach"
                .into(),
        ));
    };
    Ok(product.detach())
}

/// Signs of normals, of the shape of `like` `[b, d]`.
pub(super) fn signs(like: &Tensor, noise: &Noise, draw: u64) -> Result<Tensor> {
    let normal = noise.normal_like(0, draw, like)?;
    Ok(normal.ge(0.0)?.to_dtype(like.dtype())?.affine(2.0, -1.0)?)
}

/// Compares `zᵀ·J·z` of a backward pass with a central difference, for signs z at one state; gives
/// the evaluations spent. Numbers of less than 32 bits are too coarse for it.
pub(super) fn check_gradient(field: &mut Field<'_>, x: &Tensor, t: f64) -> Result<usize> {
    if !matches!(x.dtype(), DType::F32 | DType::F64) {
        return Ok(0);
    }
    let signs = signs(&x.reshape((x.dim(0)?, ()))?, &Noise::new(0), 0)?.reshape(x.dims())?;
    let var = Var::from_tensor(&x.detach())?;
    let product = vjp(&field(&var, t)?, &var, &signs)?;
    let mut moved = |h: f64| -> Result<Tensor> { field(&(x + signs.affine(h, 0.0)?)?, t) };
    let difference = (moved(STEP)? - moved(-STEP)?)?.affine(0.5 / STEP, 0.0)?.detach();
    let rows = |a: Tensor| -> Result<Tensor> { Ok((a * &signs)?.flatten_from(1)?.sum(1)?) };
    let norm = |a: &Tensor| -> Result<f64> {
        let square = a.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?;
        Ok(square.sum_all()?.to_scalar::<f64>()?.sqrt())
    };
    let gap = norm(&(rows(difference)? - rows(product.clone())?)?)?;
    let share = gap / norm(&product)?.max(1e-9);
    // A field that is not finite is reported by the solve, with its step.
    if share.is_finite() && share > MAX_GAP {
        return Err(Error::range(
            "likelihood: part of the field's derivative that its gradient leaves out",
            format!("at most {MAX_GAP}; use differentiable layers (not candle-nn's fused ones)"),
            share,
        ));
    }
    Ok(3)
}
