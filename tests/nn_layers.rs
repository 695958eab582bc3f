//! Parity of single layers with PyTorch and diffusers: outputs and every gradient.
//! The golden file is written by tests/golden/layers.py.

#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use pathline::Result;
use pathline::nn::activation::{gelu, gelu_tanh};
use pathline::nn::attention::{Attention, AttentionConfig, causal_mask};
use pathline::nn::embed::TimestepEmbedding;
use pathline::nn::linear::Linear;
use pathline::nn::norm::{GroupNorm, LayerNorm, RmsNorm};
use pathline::nn::rope::{Pairing, Rope};
use pathline::nn::softmax::softmax;
use pathline::nn::upsample::nearest_2x;

type Tensors = BTreeMap<String, Tensor>;

fn golden() -> HashMap<String, Tensor> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layers.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
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

/// Runs `layer(weights, inputs)` against case `name`; returns the errors of output and gradients.
fn errors(
    name: &str,
    dtype: DType,
    layer: &dyn Fn(VarBuilder<'_>, &Tensors) -> Result<Tensor>,
) -> (f64, f64) {
    let golden = golden();
    let under = |prefix: &str| -> Tensors {
        let prefix = format!("{name}/{prefix}/");
        let of = golden.iter().filter_map(|(key, tensor)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), tensor.to_dtype(dtype).unwrap()))
        });
        of.collect()
    };
    let one = |key: &str| golden[&format!("{name}/{key}")].to_dtype(dtype).unwrap();
    let vars = |tensors: Tensors| -> BTreeMap<String, Var> {
        tensors.into_iter().map(|(k, t)| (k, Var::from_tensor(&t).unwrap())).collect()
    };
    let as_tensors = |vars: &BTreeMap<String, Var>| -> Tensors {
        vars.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect()
    };
    let builder = |tensors: Tensors| {
        VarBuilder::from_tensors(tensors.into_iter().collect(), dtype, &Device::Cpu)
    };
    let (weights, inputs) = (vars(under("weight")), vars(under("input")));
    let out = layer(builder(as_tensors(&weights)), &as_tensors(&inputs)).unwrap();
    let grads = (&out * one("cotangent")).unwrap().sum_all().unwrap().backward().unwrap();
    let pairs: Vec<(&Var, Tensor)> = (under("grad").into_iter().map(|(k, g)| (&weights[&k], g)))
        .chain(under("grad_input").into_iter().map(|(k, g)| (&inputs[&k], g)))
        .collect();
    assert_eq!(under("grad").len(), weights.len());
    // The bias of an attention's keys has no gradient but rounding.
    let floor = 0.01 * pairs.iter().map(|(_, g)| largest(g)).fold(0.0, f64::max);
    let gradient = pairs.iter().map(|(var, g)| error(grads.get(var).unwrap(), g, floor));
    let gradient = gradient.fold(0.0, f64::max);
    // Weights without a gradient are kept in another order.
    let fixed = layer(builder(under("weight")), &under("input")).unwrap();
    (error(&out, &one("out"), 0.0).max(error(&fixed, &one("out"), 0.0)), gradient)
}

fn check(name: &str, layer: &dyn Fn(VarBuilder<'_>, &Tensors) -> Result<Tensor>) {
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 2e-7)] {
        let (output, gradient) = errors(name, dtype, layer);
        println!("{name} {dtype:?}: output {output:.1e}, gradients {gradient:.1e}");
        assert!(output < bound && gradient < bound, "{name} {dtype:?}: {output} {gradient}");
    }
}

#[test]
fn functions() {
    check("softmax", &|_, i| Ok(softmax(&i["x"])?));
    check("gelu", &|_, i| Ok(gelu(&i["x"])?));
    check("gelu_tanh", &|_, i| Ok(gelu_tanh(&i["x"])?));
    check("silu", &|_, i| Ok(i["x"].silu()?));
    check("upsample", &|_, i| nearest_2x(&i["x"]));
    for (name, pairing) in
        [("rope_halves", Pairing::Halves), ("rope_interleaved", Pairing::Interleaved)]
    {
        check(name, &|_, i| {
            let positions = [0.0, 1.0, 2.0, 5.0, 100.0];
            let x = &i["x"];
            Rope::new(8, 1e4, &positions, pairing, x.dtype(), x.device())?.forward(x)
        });
    }
}

#[test]
fn layers() {
    check("linear", &|vb, i| Ok(Linear::load(5, 3, vb)?.forward(&i["input"])?));
    check("layer_norm", &|vb, i| Ok(LayerNorm::load(6, 1e-5, vb)?.forward(&i["x"])?));
    check("rms_norm", &|vb, i| Ok(RmsNorm::load(6, 1e-6, vb)?.forward(&i["x"])?));
    check("group_norm_1d", &|vb, i| GroupNorm::load(6, 3, 1e-5, vb)?.forward(&i["x"]));
    check("group_norm_2d", &|vb, i| GroupNorm::load(8, 2, 1e-6, vb)?.forward(&i["x"]));
}

#[test]
fn attention() {
    let of = |query_dim, cross_attention_dim, heads, dim_head, bias| AttentionConfig {
        query_dim,
        cross_attention_dim,
        heads,
        dim_head,
        bias,
    };
    for (name, config) in [
        ("attention_self", of(8, None, 2, 3, false)),
        ("attention_bias", of(6, None, 3, 4, true)),
        ("attention_cross", of(8, Some(5), 2, 4, false)),
        ("attention_causal", of(8, None, 2, 4, false)),
    ] {
        check(name, &|vb, i| {
            Attention::load(&config, vb)?.forward(&i["x"], i.get("context"), i.get("mask"))
        });
    }
    let mask = golden()["attention_causal/input/mask"].squeeze(0).unwrap();
    let own = causal_mask(5, &Device::Cpu).unwrap();
    assert_eq!(own.to_vec2::<f32>().unwrap(), mask.to_vec2::<f32>().unwrap());
}

#[test]
fn timestep_embeddings() {
    let golden = golden();
    let t: Vec<f32> = golden["timestep/t"].to_vec1().unwrap();
    let t: Vec<f64> = t.into_iter().map(f64::from).collect();
    let sd =
        TimestepEmbedding { flip_sin_to_cos: true, freq_shift: 0.0, ..TimestepEmbedding::new(8) };
    let odd = TimestepEmbedding { dim: 7, scale: 2.0, max_period: 1000.0, ..sd.clone() };
    for (name, config) in [("sd", sd.clone()), ("ddpm", TimestepEmbedding::new(8)), ("odd", odd)] {
        let got = config.embed(&t, DType::F32, &Device::Cpu).unwrap();
        let error = error(&got, &golden[&format!("timestep/{name}")], 0.0);
        println!("timestep {name}: {error:.1e}");
        assert!(error < 1e-5, "{name}: {error}");
    }
    // Late times, where an angle in f32 would be off by 6e-5: against the definition in f64.
    let late = sd.embed(&[999.0], DType::F64, &Device::Cpu).unwrap();
    for (i, got) in late.flatten_all().unwrap().to_vec1::<f64>().unwrap().into_iter().enumerate() {
        let angle = 999.0 * 1e4f64.powf(-((i % 4) as f64) / 4.0);
        let expected = if i < 4 { angle.cos() } else { angle.sin() };
        assert!((got - expected).abs() < 1e-12, "{i}: {got} {expected}");
    }
}

#[test]
fn impossible_sizes_and_shapes_are_refused() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let vb = || VarBuilder::zeros(DType::F32, &Device::Cpu);
    let config = AttentionConfig {
        query_dim: 4,
        cross_attention_dim: None,
        heads: 2,
        dim_head: 2,
        bias: false,
    };
    let layer = Attention::load(&config, vb()).unwrap();
    let rope = |dim, theta, positions: &[f64]| {
        Rope::new(dim, theta, positions, Pairing::Halves, DType::F32, &Device::Cpu)
    };
    let embed = |config: TimestepEmbedding| config.embed(&[0.0], DType::F32, &Device::Cpu);
    let faults: [(Result<Tensor>, &str); 11] = [
        (layer.forward(&zeros(&[1, 4]), None, None), "[b, t, c]"),
        (layer.forward(&zeros(&[2, 3, 4]), Some(&zeros(&[1, 3, 4])), None), "[1, 3, 4]"),
        (layer.forward(&zeros(&[1, 3, 4]), None, Some(&zeros(&[3, 2]))), "attention mask"),
        (
            Attention::load(&AttentionConfig { heads: 0, ..config }, vb()).map(|_| zeros(&[1])),
            "heads",
        ),
        (GroupNorm::load(6, 4, 1e-5, vb()).map(|_| zeros(&[1])), "6 and 4"),
        (GroupNorm::load(6, 3, 1e-5, vb()).unwrap().forward(&zeros(&[2, 5, 4])), "[b, 6, ..]"),
        (nearest_2x(&zeros(&[2, 3, 4])), "[b, c, h, w]"),
        (rope(5, 1e4, &[0.0]).map(|_| zeros(&[1])), "even"),
        (rope(4, 1e4, &[f64::NAN]).map(|_| zeros(&[1])), "finite"),
        (rope(4, 1e4, &[0.0]).unwrap().forward(&zeros(&[2, 2, 4])), "[.., 1, 4]"),
        (embed(TimestepEmbedding::new(2)), "freq_shift"),
    ];
    for (got, named) in faults {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
