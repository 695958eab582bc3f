//! Parity of the networks over pictures with diffusers', and the laws they must keep.
//! The golden file is written by tests/golden/unet2d.py; weights follow a formula of their name.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![cfg(feature = "nn")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};
use pathline::Result;
use pathline::flow::schedule::DiscreteConfig;
use pathline::flow::{Discrete, Objective, Path, Target, mse};
use pathline::nn::condition::Condition;
use pathline::nn::denoiser::{DenoiserConfig, DenoiserNet};
use pathline::nn::params::Params;
use pathline::train::optimizer::{AdamW, OptimizerConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};

#[path = "support/formula.rs"]
mod formula;
#[path = "support/slopes.rs"]
mod slopes;

use slopes::values;

const NETWORKS: [&str; 11] = [
    "sd1",
    "sd2",
    "odd",
    "class",
    "options",
    "nested",
    "ddpm",
    "labels",
    "nomid",
    "dit",
    "dit_larger",
];

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
    fn weights(&self) -> (VarBuilder<'static>, Asked) {
        let asked = Asked::default();
        let backend = Formula { name: self.name.to_owned(), asked: Arc::clone(&asked) };
        (VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu), asked)
    }
}

/// The names that a network asks for, with shapes.
type Asked = Arc<Mutex<BTreeMap<String, Vec<usize>>>>;

/// Weights by formula, as `rule` in the golden script has them.
struct Formula {
    name: String,
    asked: Asked,
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

/// Largest difference over the largest number of the golden tensor.
fn error(got: &Tensor, golden: &Tensor) -> f64 {
    assert_eq!(got.dims(), golden.dims());
    let (got, golden) = (values(got), values(golden));
    let largest = golden.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    got.iter().zip(&golden).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// The network of the golden file with `changes` in its configuration.
fn network(golden: &Golden, changes: &[(&str, Value)], vb: VarBuilder<'_>) -> DenoiserNet {
    let mut config = golden.case["config"].clone();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    let config = config.to_string();
    DenoiserNet::load(&DenoiserConfig::parse(&config).unwrap(), vb).unwrap()
}

/// Largest relative errors of the output and of the gradient of the input.
fn errors(golden: &Golden) -> [f64; 2] {
    let (vb, asked) = golden.weights();
    let net = network(golden, &[], vb);
    let keys: String =
        asked.lock().unwrap().iter().map(|(key, shape)| format!("{key} {shape:?}\n")).collect();
    let keys = formula::fnv1a(keys.as_bytes()).to_string();
    assert_eq!(golden.case["keys"], keys, "{}: other tensors", golden.name);
    let x = Var::from_tensor(&golden.x()).unwrap();
    let out = net.forward(&x, &golden.numbers("t"), &golden.condition()).unwrap();
    let name = format!("{}/cotangent", golden.name);
    let cotangent = formula::tensor(&name, out.dims(), 0.0, 1.7);
    let grads = (&out * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    [error(&out, &golden.out), error(grads.get(&x).unwrap(), &golden.grad)]
}

#[test]
fn outputs_and_gradients_match_diffusers() {
    for name in NETWORKS {
        let [output, gradient] = errors(&Golden::read(name));
        println!("{name}: output {output:.1e}, gradient {gradient:.1e}");
        assert!(output < 1e-5 && gradient < 2e-5, "{name}: {output} {gradient}");
    }
}

fn normal(sample: u64, shape: &[usize], dtype: DType) -> Tensor {
    slopes::normal(sample, shape).to_dtype(dtype).unwrap()
}

/// Configurations that have every kind of block and option between them.
fn small() -> [(DenoiserConfig, Condition); 4] {
    let config = |json: Value| serde_json::from_value::<DenoiserConfig>(json).unwrap();
    let mask = Tensor::new(&[[1f64, 1.0, 0.0], [1.0, 1.0, 1.0]], &Device::Cpu).unwrap();
    let tokens = Some(normal(5, &[2, 3, 6], DType::F64));
    let concat = Some(normal(6, &[2, 1, 6, 5], DType::F64));
    let class = Some(vec![3, 1]);
    let (tokens2, concat2) = (tokens.clone(), concat.clone());
    [
        (
            config(json!({
                "_class_name": "UNet2DConditionModel", "in_channels": 3, "out_channels": 2,
                "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2,
                "down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "CrossAttnUpBlock2D"],
                "cross_attention_dim": 6, "attention_head_dim": 2, "num_class_embeds": 4
            })),
            Condition { tokens: tokens.clone(), mask: Some(mask), class: class.clone(), concat },
        ),
        (
            config(json!({
                "_class_name": "UNet2DConditionModel", "in_channels": 2, "out_channels": 2,
                "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "cross_attention_dim": 6, "attention_head_dim": [1, 2], "use_linear_projection": true,
                "only_cross_attention": true, "class_embed_type": "timestep",
                "timestep_post_act": "mish", "time_embedding_act_fn": "gelu",
                "resnet_time_scale_shift": "scale_shift", "class_embeddings_concat": true
            })),
            Condition { tokens, class: class.clone(), ..Condition::default() },
        ),
        (
            config(json!({
                "_class_name": "UNet2DModel", "in_channels": 2, "out_channels": 2,
                "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 4,
                "num_class_embeds": 4, "downsample_padding": 0, "center_input_sample": true
            })),
            Condition { class: class.clone(), ..Condition::default() },
        ),
        (
            config(json!({
                "_class_name": "DiTTransformer2DModel", "in_channels": 3, "out_channels": 2,
                "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "sample_size": 4,
                "patch_size": 1, "num_embeds_ada_norm": 3, "cross_attention_dim": 6,
                "norm_elementwise_affine": true
            })),
            Condition { tokens: tokens2, mask: None, class, concat: concat2 },
        ),
    ]
}

/// The gradients are right in f64, and those in f32, which go other ways in places, are the same.
fn check_gradients(which: usize) {
    let (config, condition) = &small()[which];
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
    let net = DenoiserNet::load(config, vb).unwrap();
    let params = slopes::randomised(&vars);
    let loss = |net: &DenoiserNet, dtype: DType, condition: &Condition| {
        let shape = [2, 2, 6, 5];
        let (x, target) = (normal(0, &shape, dtype), normal(1, &shape, dtype));
        mse(&net.forward(&x, &[30.0, 700.5], condition)?, &target, None)
    };
    let mut faults = slopes::faults(&params, &|| loss(&net, DType::F64, condition));
    // What is added to all keys alike is lost in the softmax: this gradient is 0.
    faults.retain(|fault| !fault.contains("to_k.bias: gradient of norm"));
    assert!(faults.is_empty(), "{faults:#?}");

    let single = Params::new(0);
    let net_f32 = DenoiserNet::load(config, single.builder(&Device::Cpu)).unwrap();
    let narrow = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    let tensors = params.iter().map(|(name, var)| (name.clone(), narrow(var))).collect();
    single.assign(&tensors).unwrap();
    let in_f32 = Condition {
        tokens: condition.tokens.as_ref().map(narrow),
        concat: condition.concat.as_ref().map(narrow),
        ..condition.clone()
    };
    let double = loss(&net, DType::F64, condition).unwrap().backward().unwrap();
    let grads = loss(&net_f32, DType::F32, &in_f32).unwrap().backward().unwrap();
    let largest = |x: &Tensor| values(x).into_iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let pairs: Vec<_> = params
        .iter()
        .zip(single.named())
        .map(|((name, wide), (_, var))| {
            let got = grads.get(&var).unwrap_or_else(|| panic!("{name}: no gradient in f32"));
            (name, got.to_dtype(DType::F64).unwrap(), double.get(wide).unwrap())
        })
        .collect();
    // A bias before a group of one channel has a gradient of zero up to rounding.
    let floor = 1e-2 * pairs.iter().map(|(_, _, wide)| largest(wide)).fold(0.0, f64::max);
    let mut worst = 0.0f64;
    for (name, got, wide) in pairs {
        let error = largest(&(got - wide).unwrap()) / largest(wide).max(floor);
        assert!(error < 1e-4, "{name}: {error}");
        worst = worst.max(error);
    }
    println!("network {which}: gradients in f32 within {worst:.1e}");
}

#[test]
fn every_parameter_with_tokens_mask_class_and_concat_has_its_gradient() {
    check_gradients(0);
}

#[test]
fn every_parameter_with_linear_projections_and_scale_shift_has_its_gradient() {
    check_gradients(1);
}

#[test]
fn every_parameter_without_tokens_has_its_gradient() {
    check_gradients(2);
}

#[test]
fn every_parameter_of_the_transformer_has_its_gradient() {
    check_gradients(3);
}

/// Steps of AdamW on one batch until the loss is below a thousandth of what it was, at most `most`.
fn overfit(
    net: &dyn Fn(&Tensor, &[f64]) -> Result<Tensor>,
    params: &Params,
    objective: &Objective,
    most: usize,
) -> [f64; 2] {
    let config = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
    let mut optimizer = AdamW::new(config, params.named()).unwrap();
    let (data, noise) =
        (normal(2, &[3, 2, 6, 5], DType::F32), normal(3, &[3, 2, 6, 5], DType::F32));
    // What the network is told: a timestep, or 1000 times the flow's time.
    let told = [199.0, 500.0, 900.0];
    let own = if matches!(objective.path, Path::Discrete(_)) { 1.0 } else { 1e-3 };
    let batch = objective.batch(&data, &noise, None, &told.map(|t| own * t)).unwrap();
    let mut first = None;
    for step in 0.. {
        let loss = batch.loss(&net(&batch.x_t, &told).unwrap(), None).unwrap();
        let value = values(&loss)[0];
        let first = *first.get_or_insert(value);
        if value < 1e-3 * first || step == most {
            return [value / first, step as f64];
        }
        let lr = 5e-3 * (1.0 - step as f64 / most as f64);
        optimizer.update(&loss.backward().unwrap(), lr).unwrap();
    }
    unreachable!()
}

/// DDPM's noise prediction, and the velocity of flow matching.
fn objectives() -> [(&'static str, Objective); 2] {
    let table = Discrete::new(DiscreteConfig::default()).unwrap();
    let ddpm =
        Objective { path: Path::Discrete(table), target: Target::Noise, ..Objective::default() };
    [("ddpm", ddpm), ("flow", Objective::default())]
}

fn learn_by_heart(objective: &str) {
    let (_, objective) = objectives().into_iter().find(|(name, _)| *name == objective).unwrap();
    for (config, condition) in small() {
        let condition = Condition {
            tokens: condition.tokens.map(|_| normal(7, &[3, 4, 6], DType::F32)),
            mask: None,
            class: condition.class.map(|_| vec![0, 3, 2]),
            concat: condition.concat.map(|_| normal(8, &[3, 1, 6, 5], DType::F32)),
        };
        let params = Params::new(4);
        let net = DenoiserNet::load(&config, params.builder(&Device::Cpu)).unwrap();
        let [ratio, steps] =
            overfit(&|x, t| net.forward(x, t, &condition), &params, &objective, 500);
        println!("loss {ratio:.1e} of the first after {steps} steps");
        assert!(ratio < 1e-3, "{ratio}");
    }
}

#[test]
fn one_batch_is_learnt_by_heart_as_noise() {
    learn_by_heart("ddpm");
}

#[test]
fn one_batch_is_learnt_by_heart_as_a_velocity() {
    learn_by_heart("flow");
}

#[test]
fn a_slip_in_the_configuration_or_the_condition_is_seen() {
    // The broken twins: as many weights of the same shapes, another result.
    for (name, key, value) in [
        ("sd1", "attention_head_dim", json!(4)),
        ("sd1", "flip_sin_to_cos", json!(false)),
        ("sd1", "freq_shift", json!(1)),
        ("sd2", "attention_head_dim", json!([1, 2, 1, 3])),
        ("class", "mid_block_scale_factor", json!(1.0)),
        ("class", "attention_head_dim", json!([4, 4])),
        ("options", "center_input_sample", json!(false)),
        ("options", "downsample_padding", json!(1)),
        ("options", "norm_eps", json!(1e-5)),
        ("options", "timestep_post_act", json!(null)),
        ("options", "time_embedding_act_fn", json!("silu")),
        ("ddpm", "downsample_padding", json!(1)),
        ("labels", "attention_head_dim", json!(8)),
        ("dit", "activation_fn", json!("gelu")),
        ("dit", "sample_size", json!(16)),
        ("dit_larger", "num_attention_heads", json!(2)),
    ] {
        let golden = Golden::read(name);
        let changes = match key {
            "num_attention_heads" => vec![(key, value), ("attention_head_dim", json!(6))],
            _ => vec![(key, value)],
        };
        let net = network(&golden, &changes, golden.weights().0);
        let out = net.forward(&golden.x(), &golden.numbers("t"), &golden.condition()).unwrap();
        let error = error(&out, &golden.out);
        println!("{name}, {changes:?}: {error:.1e}");
        assert!(error > 1e-4, "{name}, {changes:?}: {error}");
    }
    let golden = Golden::read("sd2");
    let net = network(&golden, &[], golden.weights().0);
    let (x, t, condition) = (golden.x(), golden.numbers("t"), golden.condition());
    let unmasked = Condition { mask: None, ..condition.clone() };
    let swapped = [t[1], t[0]];
    for (t, condition) in [(t.as_slice(), &unmasked), (&swapped, &condition)] {
        assert!(error(&net.forward(&x, t, condition).unwrap(), &golden.out) > 1e-3);
    }
}

fn bits(x: &Tensor) -> Vec<u32> {
    let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    x.into_iter().map(f32::to_bits).collect()
}

/// Sample `i` of a condition alone.
fn alone(condition: &Condition, i: usize) -> Condition {
    let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
    Condition {
        tokens: condition.tokens.as_ref().map(row),
        mask: condition.mask.as_ref().map(row),
        class: condition.class.as_ref().map(|class| vec![class[i]]),
        concat: condition.concat.as_ref().map(row),
    }
}

#[test]
fn a_sample_has_the_same_bits_alone_and_in_a_batch() {
    for name in NETWORKS {
        let golden = Golden::read(name);
        let net = network(&golden, &[], golden.weights().0);
        let (x, t, condition) = (golden.x(), golden.numbers("t"), golden.condition());
        let together = net.forward(&x, &t, &condition).unwrap();
        for i in 0..t.len() {
            let (one, condition) = (x.narrow(0, i, 1).unwrap(), alone(&condition, i));
            let out = net.forward(&one, &t[i..=i], &condition).unwrap();
            assert_eq!(bits(&out), bits(&together.get(i).unwrap()), "{name}, sample {i}");
        }
    }
}

#[test]
fn configurations_come_back_with_the_same_keys() {
    for name in NETWORKS {
        let golden = Golden::read(name);
        let config = DenoiserConfig::parse(&golden.case["config"].to_string()).unwrap();
        let written = serde_json::to_value(&config).unwrap();
        for (key, value) in golden.case["config"].as_object().unwrap() {
            match (value.as_f64(), written[key].as_f64()) {
                (Some(a), Some(b)) => assert!(a == b, "{name}: {key}"),
                _ => assert_eq!(value, &written[key], "{name}: {key}"),
            }
        }
        assert_eq!(written["_diffusers_version"], "0.42.1");
        let unknown = config.unknown_keys();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
        assert_eq!(serde_json::from_value::<DenoiserConfig>(written).unwrap(), config);
    }
    // A recipe has the same table.
    let recipe = "_class_name = 'UNet2DModel'\nblock_out_channels = [8, 16]\nsample_size = 32\n\
                  down_block_types = ['DownBlock2D', 'AttnDownBlock2D']\n\
                  up_block_types = ['AttnUpBlock2D', 'UpBlock2D']\nnorm_num_groups = 4\nnorm_eps = 1e-6";
    toml::from_str::<DenoiserConfig>(recipe).unwrap().validate().unwrap();
    let misspelt = json!({ "_class_name": "UNet2DModel", "norm_num_group": 4 });
    let config: DenoiserConfig = serde_json::from_value(misspelt).unwrap();
    assert_eq!(config.unknown_keys(), ["norm_num_group"]);
    let sd15: DenoiserConfig = serde_json::from_value(json!({
        "_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "sample_size": 64
    }))
    .unwrap();
    assert_eq!(sd15.cross_attention_dim(), Some(768));
    assert_eq!((sd15.in_channels(), sd15.sample_size()), (4, Some([64, 64])));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, key, value) in [
        ("sd1", "dual_cross_attention", json!(true)),
        ("sd1", "addition_embed_type", json!("text_time")),
        ("sd1", "encoder_hid_dim", json!(8)),
        ("sd1", "time_embedding_type", json!("fourier")),
        ("sd1", "time_cond_proj_dim", json!(8)),
        ("sd1", "attention_type", json!("gated")),
        ("sd1", "class_embed_type", json!("projection")),
        ("sd1", "act_fn", json!("mish")),
        ("sd1", "mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("sd1", "resnet_time_scale_shift", json!("spatial")),
        ("sd1", "down_block_types", json!(["KDownBlock2D", "DownBlock2D", "DownBlock2D"])),
        ("sd1", "up_block_types", json!(["UpBlock2D"])),
        ("sd1", "block_out_channels", json!([8, 16, 0])),
        ("sd1", "block_out_channels", json!([8, 16, 1_000_000_000_000u64])),
        ("sd1", "layers_per_block", json!(1_000_000_000)),
        ("sd1", "transformer_layers_per_block", json!([1, [1, 1], 1])),
        ("sd1", "attention_head_dim", json!([2, 2])),
        ("sd1", "attention_head_dim", json!(0)),
        ("sd1", "cross_attention_dim", json!([10, 10, 12])),
        ("sd1", "conv_in_kernel", json!(4)),
        ("sd1", "norm_eps", json!(0.0)),
        ("sd1", "mid_block_scale_factor", json!(0)),
        ("ddpm", "time_embedding_type", json!("learned")),
        ("ddpm", "downsample_type", json!("resnet")),
        ("ddpm", "down_block_types", json!(["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"])),
        ("dit", "norm_type", json!("ada_norm_single")),
        ("dit", "activation_fn", json!("swiglu")),
        ("dit", "patch_size", json!(0)),
        ("dit", "num_layers", json!(1_000_000)),
        ("dit", "sample_size", json!(1)),
    ] {
        let mut config = Golden::read(name).case["config"].clone();
        config[key] = value.clone();
        let error = DenoiserConfig::parse(&config.to_string()).unwrap_err().to_string();
        assert!(error.contains(key), "{key} {value}: {error}");
    }
    for (text, wanted) in [
        ("{", "EOF"),
        ("{}", "got none"),
        (r#"{"_class_name": "FluxTransformer2DModel"}"#, "UNet2DConditionModel"),
        (r#"{"_class_name": "UNet2DModel", "layers_per_block": "two"}"#, "two"),
    ] {
        let error = DenoiserConfig::parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_wrong_input_is_refused() {
    let tokens = |shape: &[usize]| Some(normal(1, shape, DType::F32));
    let sd1 = Condition { tokens: tokens(&[2, 3, 10]), ..Condition::default() };
    let class = |class: &[u32]| Condition { class: Some(class.to_vec()), ..Condition::default() };
    let mask = |shape: &[usize]| Condition { mask: tokens(shape), ..sd1.clone() };
    for (name, shape, times, condition, wanted) in [
        ("sd1", vec![2, 4, 8, 8], 1, sd1.clone(), "times"),
        ("sd1", vec![2, 3, 8, 8], 2, sd1.clone(), "concat"),
        ("sd1", vec![2, 4, 8], 2, sd1.clone(), "concat"),
        ("sd1", vec![2, 4, 8, 8], 2, Condition::default(), "tokens"),
        (
            "sd1",
            vec![2, 4, 8, 8],
            2,
            Condition { tokens: tokens(&[2, 3, 9]), ..sd1.clone() },
            "tokens",
        ),
        (
            "sd1",
            vec![2, 4, 8, 8],
            2,
            Condition { tokens: tokens(&[1, 3, 10]), ..sd1.clone() },
            "tokens",
        ),
        ("sd1", vec![2, 4, 8, 8], 2, Condition { class: Some(vec![1, 1]), ..sd1.clone() }, "class"),
        (
            "sd1",
            vec![2, 4, 8, 8],
            2,
            Condition { concat: tokens(&[2, 1, 8, 8]), ..sd1.clone() },
            "concat",
        ),
        ("sd1", vec![2, 4, 8, 8], 2, mask(&[2, 2]), "mask"),
        ("labels", vec![2, 1, 8, 8], 2, Condition::default(), "class"),
        ("labels", vec![2, 1, 8, 8], 2, class(&[1]), "class"),
        ("labels", vec![2, 1, 8, 8], 2, class(&[1, 11]), "class"),
        (
            "labels",
            vec![2, 1, 8, 8],
            2,
            Condition { class: Some(vec![1, 1]), ..sd1.clone() },
            "tokens",
        ),
        ("dit", vec![2, 4, 9, 8], 2, class(&[1, 1]), "patch"),
        ("dit", vec![2, 4, 8, 8], 3, class(&[1, 1]), "times"),
        ("dit", vec![2, 4, 8, 8], 2, class(&[1, 6]), "class"),
    ] {
        let golden = Golden::read(name);
        let net = network(&golden, &[], golden.weights().0);
        let (x, t) = (normal(0, &shape, DType::F32), vec![1.0; times]);
        let error = net.forward(&x, &t, &condition).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name} {shape:?}, expected {wanted}: {error}");
    }
}

#[test]
fn old_names_and_shapes_of_the_attention_are_read() {
    let golden = Golden::read("ddpm");
    let (vb, asked) = golden.weights();
    let net = network(&golden, &[], vb);
    let (x, t) = (golden.x(), golden.numbers("t"));
    let out = net.forward(&x, &t, &Condition::default()).unwrap();
    let keys: Vec<_> = asked.lock().unwrap().clone().into_iter().collect();
    let (vb, _) = golden.weights();
    // diffusers before 0.15; files converted from the original program have convolutions of one pixel.
    let names = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let tensors = keys.into_iter().map(|(key, shape)| {
        let tensor = vb.get(shape.as_slice(), &key).unwrap();
        let old = names.iter().find(|(new, _)| key.contains(&format!(".{new}.")));
        match old {
            None => (key, tensor),
            Some((new, old)) => {
                let tensor = match *tensor.dims() {
                    [out, input] if key.contains("mid_block") => {
                        tensor.reshape((out, input, 1, 1)).unwrap()
                    }
                    _ => tensor,
                };
                (key.replace(new, old), tensor)
            }
        }
    });
    let old = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let net = network(&golden, &[], old);
    let again = net.forward(&x, &t, &Condition::default()).unwrap();
    assert_eq!(bits(&out), bits(&again));
}

#[test]
fn the_transformer_takes_oblong_pictures_and_does_without_classes() {
    let config = json!({
        "_class_name": "DiTTransformer2DModel", "in_channels": 2, "num_attention_heads": 2,
        "attention_head_dim": 4, "num_layers": 1, "sample_size": 4, "num_embeds_ada_norm": null
    });
    let config = DenoiserConfig::parse(&config.to_string()).unwrap();
    assert_eq!(config.num_class_embeds(), None);
    let params = Params::new(3);
    let net = DenoiserNet::load(&config, params.builder(&Device::Cpu)).unwrap();
    assert!(params.named().iter().all(|(name, _)| !name.contains("class_embedder")));
    let x = normal(0, &[1, 2, 4, 8], DType::F32);
    let forward = |x: &Tensor| net.forward(x, &[5.0], &Condition::default()).unwrap();
    // adaLN-Zero: a new network says nothing.
    assert!(values(&forward(&x)).iter().all(|value| *value == 0.0));
    for (i, (_, var)) in params.named().iter().enumerate() {
        var.set(&normal(i as u64, var.dims(), DType::F32).affine(0.3, 0.0).unwrap()).unwrap();
    }
    let out = forward(&x);
    assert_eq!(out.dims(), [1, 2, 4, 8]);
    // Lines and columns have places of their own.
    let turned = forward(&x.transpose(2, 3).unwrap().contiguous().unwrap());
    assert!(error(&turned.transpose(2, 3).unwrap(), &out) > 1e-2);
}
