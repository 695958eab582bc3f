//! Parity of the networks over pictures with diffusers', and the laws they must keep.
//! The golden file is written by tests/golden/unet2d.py; weights follow a formula of their name.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use pathline::Result;
use pathline::nn::condition::Condition;
use pathline::nn::unet2d::{UNet2d, UNet2dConfig};
use safetensors::SafeTensors;
use serde_json::Value;

#[path = "support/formula.rs"]
mod formula;

const UNETS: [&str; 9] =
    ["sd1", "sd2", "odd", "class", "options", "nested", "ddpm", "labels", "nomid"];

/// One network of the golden file.
struct Golden {
    name: &'static str,
    case: Value,
    out: Tensor,
    grad: Tensor,
}

impl Golden {
    fn read(name: &'static str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet2d.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let case = serde_json::from_str(&metadata.metadata().as_ref().unwrap()[name]).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        let get = |key: &str| tensors[&format!("{name}/{key}")].clone();
        Self { name, case, out: get("out"), grad: get("grad") }
    }

    fn config<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.case["config"].clone()).unwrap()
    }

    fn numbers(&self, key: &str) -> Vec<f64> {
        self.case[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
    }

    fn x(&self) -> Tensor {
        let shape: Vec<usize> = self.numbers("x").into_iter().map(|n| n as usize).collect();
        formula::tensor(&format!("{}/x", self.name), &shape, 0.0, 1.7)
    }

    fn condition(&self) -> Condition {
        let batch = self.numbers("t").len();
        let tokens = self.case["tokens"].as_u64().map(|count| {
            let width = self.case["config"]["cross_attention_dim"].as_u64().unwrap() as usize;
            let shape = [batch, count as usize, width];
            formula::tensor(&format!("{}/tokens", self.name), &shape, 0.0, 1.7)
        });
        let mask = self.case["mask"].as_array().map(|rows| {
            let rows = rows.iter().flat_map(|row| row.as_array().unwrap());
            let seen: Vec<f32> = rows.map(|seen| seen.as_f64().unwrap() as f32).collect();
            Tensor::from_vec(seen.clone(), (batch, seen.len() / batch), &Device::Cpu).unwrap()
        });
        let class = self.case["class"].as_array().map(|_| {
            self.numbers("class").into_iter().map(|class| class as u32).collect::<Vec<_>>()
        });
        Condition { tokens, mask, class, concat: None }
    }

    /// The weights, and the names and shapes that are asked for.
    fn weights(&self) -> (VarBuilder<'static>, Arc<Mutex<BTreeMap<String, Vec<usize>>>>) {
        let asked = Arc::default();
        let backend = Formula { name: self.name.to_owned(), asked: Arc::clone(&asked) };
        (VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu), asked)
    }
}

/// Weights by formula, as `rule` in the golden script has them.
struct Formula {
    name: String,
    asked: Arc<Mutex<BTreeMap<String, Vec<usize>>>>,
}

impl SimpleBackend for Formula {
    fn get(&self, shape: Shape, key: &str, _: Init, _: DType, _: &Device) -> TensorResult<Tensor> {
        let dims = shape.dims();
        self.asked.lock().unwrap().insert(key.to_owned(), dims.to_vec());
        let fan_in: usize = dims[1..].iter().product();
        let (offset, scale) = match dims.len() {
            _ if key.ends_with("class_embedding.weight")
                || key.ends_with("embedding_table.weight") =>
            {
                (0.0, 1.0)
            }
            1 if key.ends_with("weight") => (1.0, 0.4),
            1 => (0.0, 0.3),
            _ => (0.0, (3.0 / fan_in as f64).sqrt() as f32),
        };
        Ok(formula::tensor(&format!("{}/{key}", self.name), dims, offset, scale))
    }

    fn get_unchecked(&self, key: &str, _: DType, _: &Device) -> TensorResult<Tensor> {
        candle_core::bail!("{key}: no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest number of the golden tensor.
fn error(got: &Tensor, golden: &Tensor) -> f64 {
    assert_eq!(got.dims(), golden.dims());
    let (got, golden) = (values(got), values(golden));
    let largest = golden.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    got.iter().zip(&golden).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// Any of the networks.
type Forward = Box<dyn Fn(&Tensor, &[f64], &Condition) -> Result<Tensor>>;

fn unet(golden: &Golden, vb: VarBuilder<'_>) -> Forward {
    let net = UNet2d::load(&golden.config::<UNet2dConfig>(), vb).unwrap();
    Box::new(move |x, t, condition| net.forward(x, t, condition))
}

/// Largest relative errors of the output and of the gradient of the input.
fn errors(golden: &Golden, load: fn(&Golden, VarBuilder<'_>) -> Forward) -> [f64; 2] {
    let (vb, asked) = golden.weights();
    let net = load(golden, vb);
    let keys: String =
        asked.lock().unwrap().iter().map(|(key, shape)| format!("{key} {shape:?}\n")).collect();
    let keys = formula::fnv1a(keys.as_bytes()).to_string();
    assert_eq!(golden.case["keys"], keys, "{}: other tensors", golden.name);
    let x = Var::from_tensor(&golden.x()).unwrap();
    let out = net(&x, &golden.numbers("t"), &golden.condition()).unwrap();
    let name = format!("{}/cotangent", golden.name);
    let cotangent = formula::tensor(&name, out.dims(), 0.0, 1.7);
    let grads = (&out * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    [error(&out, &golden.out), error(grads.get(&x).unwrap(), &golden.grad)]
}

#[test]
fn outputs_and_gradients_match_diffusers() {
    for name in UNETS {
        let [output, gradient] = errors(&Golden::read(name), unet);
        println!("{name}: output {output:.1e}, gradient {gradient:.1e}");
        assert!(output < 1e-4 && gradient < 1e-4, "{name}: {output} {gradient}");
    }
}
