//! Parity of the UNet with LeRobot's, outputs and every gradient.
//! The golden file is written by tests/golden/unet1d.py.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use pathline::nn::unet1d::{UNet1d, UNet1dConfig};
use safetensors::SafeTensors;

struct Golden {
    config: UNet1dConfig,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// The network called `name` with all tensors in `dtype`.
    fn read(name: &str, dtype: DType) -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet1d.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let config = metadata.metadata().as_ref().unwrap()[name].clone();
        let prefix = format!("{name}/");
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .unwrap()
            .into_iter()
            .filter_map(|(key, tensor)| {
                Some((key.strip_prefix(&prefix)?.to_owned(), tensor.to_dtype(dtype).unwrap()))
            })
            .collect();
        Self { config: serde_json::from_str(&config).unwrap(), tensors }
    }

    fn get(&self, key: &str) -> &Tensor {
        &self.tensors[key]
    }

    /// The weights as variables under their LeRobot names.
    fn weights(&self) -> BTreeMap<String, Var> {
        let weights = self.tensors.iter().filter_map(|(key, tensor)| {
            Some((key.strip_prefix("weight/")?.to_owned(), Var::from_tensor(tensor).unwrap()))
        });
        weights.collect()
    }
}

fn builder(weights: &BTreeMap<String, Var>, dtype: DType) -> VarBuilder<'static> {
    let tensors =
        weights.iter().map(|(k, v)| (format!("diffusion.unet.{k}"), v.as_tensor().clone()));
    VarBuilder::from_tensors(tensors.collect(), dtype, &Device::Cpu).pp("diffusion.unet")
}

fn largest(tensor: &Tensor) -> f64 {
    let wide = tensor.to_dtype(DType::F64).unwrap().abs().unwrap();
    wide.flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
}

/// Largest difference over the largest number of the golden tensor (at least `floor`).
fn error(got: &Tensor, golden: &Tensor, floor: f64) -> f64 {
    assert_eq!(got.dims(), golden.dims());
    largest(&(got - golden).unwrap()) / largest(golden).max(floor)
}

/// Largest relative errors of the output and of all gradients of one network.
fn errors(name: &str, dtype: DType) -> (f64, f64) {
    let golden = Golden::read(name, dtype);
    let weights = golden.weights();
    let net = UNet1d::load(&golden.config, builder(&weights, dtype)).unwrap();
    let x = Var::from_tensor(golden.get("x")).unwrap();
    let cond = Var::from_tensor(golden.get("cond")).unwrap();
    let out = net.forward(&x, golden.get("t"), &cond).unwrap();
    let loss = (&out * golden.get("cotangent")).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let mut pairs = vec![("grad_x".to_owned(), &x), ("grad_cond".to_owned(), &cond)];
    pairs.extend(weights.iter().map(|(key, var)| (format!("grad/{key}"), var)));
    // A bias before a normalisation group of one channel has a gradient of zero up to rounding, so
    // small tensors are measured against the network's largest gradient.
    let scale = pairs.iter().map(|(key, _)| largest(golden.get(key))).fold(0.0, f64::max);
    let floor = scale * if dtype == DType::F64 { 1e-4 } else { 0.1 };
    let of_grads = pairs.iter().map(|(key, var)| {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name}: no gradient for {key}"));
        error(grad, golden.get(key), floor)
    });
    (error(&out, golden.get("out"), 0.0), of_grads.fold(0.0, f64::max))
}

#[test]
fn outputs_and_gradients_match_lerobot() {
    for name in ["film", "shift", "flat"] {
        for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 2e-6)] {
            let (output, gradient) = errors(name, dtype);
            println!("{name} {dtype:?}: output {output:.1e}, gradients {gradient:.1e}");
            assert!(output < bound && gradient < bound, "{name} {dtype:?}: {output} {gradient}");
        }
    }
}

#[test]
fn the_network_asks_for_the_tensors_of_the_checkpoint_and_no_others() {
    let golden = Golden::read("film", DType::F32);
    let weights = golden.weights();
    let mut fewer = weights.clone();
    for key in weights.keys() {
        let var = fewer.remove(key).unwrap();
        let error = UNet1d::load(&golden.config, builder(&fewer, DType::F32)).unwrap_err();
        assert!(error.to_string().contains(key), "{key}: {error}");
        fewer.insert(key.clone(), var);
    }
}

#[test]
fn impossible_sizes_and_shapes_are_refused() {
    let golden = Golden::read("film", DType::F32);
    let vb = || builder(&golden.weights(), DType::F32);
    let net = UNet1d::load(&golden.config, vb()).unwrap();
    let (x, t, cond) = (golden.get("x"), golden.get("t"), golden.get("cond"));
    for (x, t, cond) in [
        (x.narrow(1, 0, 6).unwrap(), t.clone(), cond.clone()),
        (x.narrow(1, 0, 0).unwrap(), t.clone(), cond.clone()),
        (x.narrow(2, 0, 1).unwrap(), t.clone(), cond.clone()),
        (x.clone(), t.narrow(0, 0, 1).unwrap(), cond.clone()),
        (x.clone(), t.clone(), cond.narrow(0, 0, 1).unwrap()),
        (x.clone(), t.clone(), cond.narrow(1, 0, 1).unwrap()),
        (x.get(0).unwrap(), t.clone(), cond.clone()),
    ] {
        let error = net.forward(&x, &t, &cond).unwrap_err().to_string();
        assert!(error.contains("a multiple of 4"), "{error}");
    }
    let base = golden.config.clone();
    for (config, named) in [
        (UNet1dConfig { down_dims: vec![], ..base.clone() }, "down_dims"),
        (UNet1dConfig { down_dims: vec![12, 16], ..base.clone() }, "n_groups"),
        (UNet1dConfig { down_dims: vec![12], n_groups: 4, ..base.clone() }, "n_groups"),
        (UNet1dConfig { n_groups: 0, ..base.clone() }, "n_groups"),
        (UNet1dConfig { kernel_size: 4, ..base.clone() }, "kernel_size"),
        (UNet1dConfig { diffusion_step_embed_dim: 2, ..base.clone() }, "embed_dim"),
        (UNet1dConfig { action_dim: 0, ..base.clone() }, "action_dim"),
    ] {
        let error = UNet1d::load(&config, vb()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let wider = UNet1dConfig { kernel_size: 3, ..base };
    assert!(UNet1d::load(&wider, vb()).is_err());
}
