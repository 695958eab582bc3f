//! Is every gradient of a network there, and right?
//!
//! candle has fused operations without a backward pass: they cut the graph without an error, and
//! training then leaves everything before them as it was initialised.

#![allow(dead_code, reason = "a test need not use all of it")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use pathline::Result;
use pathline::flow::Noise;

/// A builder of f64 variables, and them by name in a fixed order after `build` has run.
pub(crate) fn variables<T>(build: impl FnOnce(VarBuilder<'_>) -> T) -> (T, Vec<(String, Var)>) {
    let vars = VarMap::new();
    let built = build(VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu));
    let data = vars.data().lock().unwrap();
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    (built, named)
}

/// Seeded values of ordinary size, so that no gradient vanishes through a layer initialised at zero.
pub(crate) fn randomise(params: &[(String, Var)]) {
    for (i, (_, var)) in params.iter().enumerate() {
        let dims = var.dims();
        let fan_in = dims.iter().skip(1).product::<usize>() as f32;
        // A vector named `weight` is the gain of a normalisation: around 1.
        let (mean, std) = if dims.len() == 1 { (0.5, 0.3) } else { (0.0, 1.2 / fan_in.sqrt()) };
        let values = Noise::new(8).normal(i as u64, 0, var.elem_count());
        let values: Vec<f32> = values.into_iter().map(|z| mean + std * z).collect();
        let tensor = Tensor::from_vec(values, dims, var.device()).unwrap();
        var.set(&tensor.to_dtype(var.dtype()).unwrap()).unwrap();
    }
}

/// Standard normal numbers.
pub(crate) fn normal(sample: u64, shape: &[usize], dtype: DType) -> Tensor {
    let z = Noise::new(1).normal(sample, 0, shape.iter().product());
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// What is wrong with the gradients of `loss` for f64 parameters, one line a fault: a parameter
/// without a gradient, with one that is not finite or all zero, or whose slope along a random
/// direction is not the difference quotient's.
pub(crate) fn faults(params: &[(String, Var)], loss: &dyn Fn() -> Result<Tensor>) -> Vec<String> {
    const STEP: f64 = 1e-5;
    assert!(!params.is_empty());
    let value = loss().unwrap();
    let (grads, value) = (value.backward().unwrap(), values(&value)[0]);
    let mut faults = Vec::new();
    for (i, (name, var)) in params.iter().enumerate() {
        let Some(grad) = grads.get(var) else {
            faults.push(format!("{name}: no gradient"));
            continue;
        };
        let grad = values(grad);
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !norm.is_finite() || norm == 0.0 {
            faults.push(format!("{name}: gradient of norm {norm}"));
            continue;
        }
        let direction: Vec<f64> = Noise::new(9)
            .normal(i as u64, 0, grad.len())
            .into_iter()
            // Half along the gradient, so that the slope cannot be lost in rounding.
            .zip(&grad)
            .map(|(z, g)| f64::from(z) / (grad.len() as f64).sqrt() + g / norm)
            .collect();
        let expected: f64 = direction.iter().zip(&grad).map(|(d, g)| d * g).sum();
        let original = var.as_tensor().copy().unwrap();
        let direction = Tensor::from_vec(direction, var.dims(), &Device::Cpu).unwrap();
        let at = |h: f64| -> f64 {
            var.set(&(&original + direction.affine(h, 0.0).unwrap()).unwrap()).unwrap();
            values(&loss().unwrap())[0]
        };
        let quotient = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        var.set(&original).unwrap();
        let rounding = 20.0 * f64::EPSILON * value.abs() / STEP;
        if (quotient - expected).abs() > 1e-7 * (norm + expected.abs()) + rounding {
            faults.push(format!("{name}: slope {expected}, difference quotient {quotient}"));
        }
    }
    faults
}
