//! Trainable parameters, by name, with seeded initial values.
//!
//! candle's own `VarMap` draws from an unseeded generator and iterates in random order. Here every
//! parameter is drawn from the counter-based generator under a key made of its name, so that the
//! initial network depends on the seed alone, and iteration is in the order of names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::flow::Noise;
use crate::{Error, Result};

/// Named trainable parameters. Clones share the same variables.
#[derive(Clone)]
pub struct Params {
    noise: Noise,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Params {
    /// An empty set; parameters come into being when a network asks for them.
    pub fn new(seed: u64) -> Self {
        Self { noise: Noise::new(seed), vars: Arc::default() }
    }

    /// A builder that creates the parameters that a network's constructor asks for.
    pub fn builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    /// All parameters in the order of their names.
    pub fn named(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Number of scalar parameters.
    pub fn count(&self) -> usize {
        self.lock().values().map(|var| var.elem_count()).sum()
    }

    /// Overwrites every parameter from `tensors`.
    ///
    /// # Errors
    /// When a name is missing or has another shape.
    pub fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.named() {
            let tensor = tensors.get(&name).ok_or_else(|| {
                Error::checkpoint(&name, format!("a tensor of shape {:?}", var.dims()), "nothing")
            })?;
            if tensor.dims() != var.dims() {
                return Err(Error::checkpoint(
                    &name,
                    format!("shape {:?}", var.dims()),
                    format!("{:?}", tensor.dims()),
                ));
            }
            var.set(tensor)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.vars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, shape: &Shape, name: &str, init: Init) -> Vec<f32> {
        let n = shape.elem_count();
        let key = fnv1a(name);
        let normal = |mean: f64, std: f64| -> Vec<f32> {
            let z = self.noise.normal(key, 0, n);
            z.into_iter().map(|z| (mean + std * f64::from(z)) as f32).collect()
        };
        let uniform = |lo: f64, up: f64| -> Vec<f32> {
            let u = self.noise.uniforms(key, 0, n);
            u.into_iter().map(|u| (lo + (up - lo) * u) as f32).collect()
        };
        match init {
            Init::Const(value) => vec![value as f32; n],
            Init::Randn { mean, stdev } => normal(mean, stdev),
            Init::Uniform { lo, up } => uniform(lo, up),
            Init::Kaiming { dist, fan, non_linearity } => {
                let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Uniform => uniform(-3f64.sqrt() * std, 3f64.sqrt() * std),
                    NormalOrUniform::Normal => normal(0.0, std),
                }
            }
        }
    }
}

impl SimpleBackend for Params {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        _dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        if let Some(var) = self.lock().get(name) {
            if var.shape() != &shape {
                candle_core::bail!("parameter {name}: expected {shape:?}, got {:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let tensor = Tensor::from_vec(self.draw(&shape, name, init), shape, device)?;
        let var = Var::from_tensor(&tensor)?;
        let shared = var.as_tensor().clone();
        self.lock().insert(name.to_owned(), var);
        Ok(shared)
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _device: &Device) -> TensorResult<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("parameter {name} has not been created"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

/// FNV-1a, 64 bit: a stable key for a parameter's name.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_parameters_in_any_order() {
        let build = |seed: u64, names: [&str; 2]| {
            let params = Params::new(seed);
            let vb = params.builder(&Device::Cpu);
            for name in names {
                candle_nn::linear(3, 4, vb.pp(name)).unwrap();
            }
            let named = params.named();
            named
                .iter()
                .map(|(n, v)| (n.clone(), v.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(build(1, ["a", "b"]), build(1, ["b", "a"]));
        assert_ne!(build(1, ["a", "b"]), build(2, ["a", "b"]));
    }
}
