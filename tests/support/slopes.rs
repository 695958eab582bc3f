//! Whether every parameter receives a gradient, and the right one (as in tests/gradients.rs).

#![allow(dead_code, reason = "a test need not use all of it")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use pathline::Result;
use pathline::flow::Noise;

/// Parameters by name, in a fixed order, with seeded values of ordinary size.
pub(crate) fn randomised(vars: &VarMap) -> Vec<(String, Var)> {
    let data = vars.data().lock().unwrap();
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (i, (name, var)) in named.iter().enumerate() {
        let (dims, n) = (var.dims(), var.elem_count());
        let fan_in = dims.iter().skip(1).product::<usize>() as f32;
        let (mean, std) = match dims.len() {
            1 if name.ends_with("weight") => (0.8, 0.3),
            1 => (0.0, 0.3),
            _ => (0.0, 1.2 / fan_in.sqrt()),
        };
        let values = Noise::new(8).normal(i as u64, 0, n);
        let values: Vec<f32> = values.into_iter().map(|z| mean + std * z).collect();
        let tensor = Tensor::from_vec(values, dims, var.device()).unwrap();
        var.set(&tensor.to_dtype(var.dtype()).unwrap()).unwrap();
    }
    named
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Seeded normal numbers in f64.
pub(crate) fn normal(sample: u64, shape: &[usize]) -> Tensor {
    let z = Noise::new(1).normal(sample, 0, shape.iter().product());
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// What is wrong with the gradients of `loss` by `params` in f64, one line a fault: none, one that is
/// not finite or all zero, or a slope along a random direction that is not the difference quotient's.
pub(crate) fn faults(params: &[(String, Var)], loss: &dyn Fn() -> Result<Tensor>) -> Vec<String> {
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
        if !norm.is_finite() || norm < 1e-12 * value.abs() {
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
        let step = 1e-5;
        let quotient = (at(step) - at(-step)) / (2.0 * step);
        var.set(&original).unwrap();
        let rounding = 20.0 * f64::EPSILON * value.abs() / step;
        if (quotient - expected).abs() > 1e-6 * (norm + expected.abs()) + rounding {
            faults.push(format!("{name}: slope {expected}, difference quotient {quotient}"));
        }
    }
    faults
}
