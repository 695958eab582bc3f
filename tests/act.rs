//! Parity of ACT with LeRobot's, stage by stage, and what its loader asks for.
//! The golden folders are written by tests/golden/act.py.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![cfg(feature = "nn")]

#[path = "support/formula.rs"]
mod formula;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use pathline::policy::act::{ActInputs, ActNet};
use pathline::policy::config::act::ActConfig;
use pathline::policy::config::{ENVIRONMENT_STATE, FeatureType, NormalizationMode, STATE};
use pathline::policy::ensemble::Ensembler;
use pathline::policy::processor::{Input, Inputs};
use pathline::policy::queue::Queue;
use pathline::policy::{Draws, Observation, Picture, Policy};
use pathline::tensors;
use serde::Deserialize;

const KEYPOINTS: [&str; 3] = ["keypoints", "ensemble", "prenorm"];
const CAMERAS: [&str; 2] = ["cameras", "dilation"];

fn folder(name: &str) -> PathBuf {
    // A path that is absolute replaces all before it.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/act").join(name)
}

fn read(name: &str, file: &str) -> HashMap<String, Tensor> {
    tensors::load(&folder(name).join(file), &Device::Cpu).unwrap()
}

/// `config.json` of any policy, as far as this test goes.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum AnyConfig {
    Act(ActConfig),
}

fn parse(text: &str) -> Result<ActConfig, String> {
    let AnyConfig::Act(config) = serde_json::from_str(text).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn config(name: &str) -> ActConfig {
    parse(&std::fs::read_to_string(folder(name).join("config.json")).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Rule {
    shape: Vec<usize>,
    offset: f32,
    scale: f32,
}

fn weights(name: &str) -> HashMap<String, Tensor> {
    let Ok(rules) = std::fs::read_to_string(folder(name).join("weights.json")) else {
        return read(name, "model.safetensors");
    };
    let rules: BTreeMap<String, Rule> = serde_json::from_str(&rules).unwrap();
    let mut weights = read(name, "literal.safetensors");
    weights.extend(rules.iter().map(|(key, rule)| {
        (key.clone(), formula::tensor(key, &rule.shape, rule.offset, rule.scale))
    }));
    weights
}

fn builder(weights: HashMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
}

/// Pictures as LeRobot's preprocessor makes them, all f32: `(x/255 − mean)/(std + 1e-8)`.
fn picture(raw: &Tensor, mean: &Tensor, std: &Tensor) -> Tensor {
    let x = raw.permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F32).unwrap();
    let x = (x.contiguous().unwrap() / 255.0).unwrap();
    x.broadcast_sub(mean).unwrap().broadcast_div(&(std + 1e-8).unwrap()).unwrap()
}

fn inputs(name: &str, config: &ActConfig, expected: &HashMap<String, Tensor>) -> ActInputs {
    let stats = read(name, "policy_preprocessor_step_3_normalizer_processor.safetensors");
    let seen =
        |key: &str, dim: usize| (dim > 0).then(|| expected[&format!("normalized/{key}")].clone());
    ActInputs {
        state: seen(STATE, config.state_dim()),
        environment_state: seen(ENVIRONMENT_STATE, config.environment_dim()),
        images: config
            .cameras()
            .map(|(key, _)| {
                let stat = |stat: &str| &stats[&format!("{key}.{stat}")];
                picture(&expected[&format!("input/{key}")], stat("mean"), stat("std"))
            })
            .collect(),
    }
}

/// The golden samples `rows`, in that order.
fn select(inputs: &ActInputs, rows: &[u32]) -> ActInputs {
    let rows = Tensor::new(rows, &Device::Cpu).unwrap();
    let pick = |x: &Tensor| x.index_select(&rows, 0).unwrap();
    ActInputs {
        state: inputs.state.as_ref().map(pick),
        environment_state: inputs.environment_state.as_ref().map(pick),
        images: inputs.images.iter().map(pick).collect(),
    }
}

fn largest_gap(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let gap = (got - expected).unwrap().abs().unwrap().flatten_all().unwrap();
    gap.max(0).unwrap().to_scalar().unwrap()
}

fn unnormalize(name: &str, config: &ActConfig, actions: &Tensor) -> Tensor {
    let stats = read(name, "policy_postprocessor_step_0_unnormalizer_processor.safetensors");
    let stat = |stat: &str| &stats[&format!("action.{stat}")];
    match config.normalization_mapping[&FeatureType::Action] {
        NormalizationMode::MeanStd => {
            actions.broadcast_mul(stat("std")).unwrap().broadcast_add(stat("mean")).unwrap()
        }
        _ => {
            let range = (stat("max") - stat("min")).unwrap();
            let unit = ((actions + 1.0).unwrap() / 2.0).unwrap();
            unit.broadcast_mul(&range).unwrap().broadcast_add(stat("min")).unwrap()
        }
    }
}

#[test]
fn a_batch_of_robots_is_gathered_by_key() {
    let (config, expected) = (config("dilation"), read("dilation", "expected.safetensors"));
    let whole = inputs("dilation", &config, &expected);
    let batch: Vec<Inputs> = (0..2)
        .map(|row| {
            let input = |key: &str, kind: FeatureType, x: &Tensor| Input {
                key: key.to_owned(),
                kind,
                shape: [&[1], &x.dims()[1..]].concat(),
                data: x.get(row).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
            };
            Inputs(vec![
                input(
                    ENVIRONMENT_STATE,
                    FeatureType::Env,
                    whole.environment_state.as_ref().unwrap(),
                ),
                input("observation.image", FeatureType::Visual, &whole.images[0]),
                input(STATE, FeatureType::State, whole.state.as_ref().unwrap()),
            ])
        })
        .collect();
    let got = ActInputs::gather(&config, &batch, &Device::Cpu).unwrap();
    assert_eq!(largest_gap(&got.images[0], &whole.images[0]), 0.0);
    assert_eq!(largest_gap(&got.state.unwrap(), &whole.state.unwrap()), 0.0);
    let environment = got.environment_state.unwrap();
    assert_eq!(largest_gap(&environment, &whole.environment_state.unwrap()), 0.0);
    let mut less = batch.clone();
    less[1].0.pop();
    let error = ActInputs::gather(&config, &less, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains(STATE) && error.contains("[3]"), "{error}");
}

fn check_parity(name: &str) {
    let (config, expected) = (config(name), read(name, "expected.safetensors"));
    let net = ActNet::load(&config, builder(weights(name))).unwrap();
    let inputs = inputs(name, &config, &expected);
    let tokens = net.tokens(&inputs).unwrap();
    let memory = net.encode(&tokens).unwrap();
    let actions = net.forward(&inputs).unwrap();
    for (stage, got, bound) in [
        ("positions", &tokens.positions, 2e-7),
        ("tokens", &tokens.values, 1e-5),
        ("encoder_out", &memory, 1e-5),
        ("action_normalized", &actions, 5e-6),
        // Robot units: about 100 from end to end.
        ("action", &unnormalize(name, &config, &actions), 2e-4),
    ] {
        let gap = largest_gap(got, &expected[stage]);
        println!("{name} {stage} {:?}: largest error {gap:.2e}", got.dims());
        assert!(gap <= bound, "{name} {stage}: {gap:e}");
    }
    // Each stage from LeRobot's own input of it.
    let tokens = pathline::policy::act::Tokens {
        values: expected["tokens"].clone(),
        positions: expected["positions"].clone(),
    };
    let gap = largest_gap(&net.encode(&tokens).unwrap(), &expected["encoder_out"]);
    let actions = net.decode(&expected["encoder_out"], &expected["positions"]).unwrap();
    let last = largest_gap(&actions, &expected["action_normalized"]);
    println!("{name} alone: encoder {gap:.2e}, decoder {last:.2e}");
    assert!(gap <= 5e-6 && last <= 5e-6, "{name}: {gap:e} {last:e}");
}

#[test]
fn keypoint_policies_give_lerobots_numbers() {
    KEYPOINTS.into_iter().for_each(check_parity);
}

#[test]
fn camera_policies_give_lerobots_numbers() {
    CAMERAS.into_iter().for_each(check_parity);
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn check_bits(name: &str) {
    let (config, expected) = (config(name), read(name, "expected.safetensors"));
    let net = ActNet::load(&config, builder(weights(name))).unwrap();
    let inputs = inputs(name, &config, &expected);
    let alone = [0, 1].map(|row| bits(&net.forward(&select(&inputs, &[row])).unwrap()));
    assert_ne!(alone[0], alone[1]);
    for rows in [&[0, 1][..], &[1, 0, 1], &[1, 1, 1, 0, 0, 1, 0, 1, 1]] {
        let together = net.forward(&select(&inputs, rows)).unwrap();
        for (i, &row) in rows.iter().enumerate() {
            let same = bits(&together.get(i).unwrap()) == alone[row as usize];
            assert!(same, "{name}: sample {i} of {}", rows.len());
        }
    }
}

#[test]
fn a_sample_has_the_same_bits_in_any_batch() {
    KEYPOINTS.into_iter().chain(["cameras"]).for_each(check_bits);
}

/// A checkpoint that remembers what was asked for.
struct Recorder {
    tensors: HashMap<String, Tensor>,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("{name}: expected {shape:?}, got {:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> TensorResult<Tensor> {
        self.asked.lock().unwrap().insert(name.to_owned());
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// What the loader says, and which tensors it asked for.
fn load(
    name: &str,
    tensors: HashMap<String, Tensor>,
) -> (Result<ActNet, String>, BTreeSet<String>) {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let backend = Recorder { tensors, asked: asked.clone() };
    let vb = VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu);
    let net = ActNet::load(&config(name), vb).map_err(|e| e.to_string());
    let asked = asked.lock().unwrap().clone();
    (net, asked)
}

#[test]
fn every_tensor_of_the_file_is_asked_for_with_its_shape() {
    for name in KEYPOINTS.into_iter().chain(CAMERAS) {
        let weights = weights(name);
        let (net, asked) = load(name, weights.clone());
        net.unwrap();
        assert_eq!(asked, weights.keys().cloned().collect(), "{name}");
        if CAMERAS.contains(&name) {
            continue;
        }
        // Twins with one tensor less, and with one of another shape.
        for key in &asked {
            let mut less = weights.clone();
            less.remove(key);
            assert!(load(name, less).0.unwrap_err().contains(key.as_str()), "{name} without {key}");
            let mut other = weights.clone();
            other.insert(key.clone(), weights[key].unsqueeze(0).unwrap());
            assert!(load(name, other).0.is_err(), "{name} with another {key}");
        }
    }
}

/// Any tensor that is asked for, as one number seen in its shape.
struct Placeholders(Var);

impl SimpleBackend for Placeholders {
    fn get(&self, shape: Shape, _: &str, _: Init, _: DType, _: &Device) -> TensorResult<Tensor> {
        self.0.as_tensor().broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> TensorResult<Tensor> {
        candle_core::bail!("{name}: asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The highest memory of this process so far, bytes.
#[cfg(target_os = "linux")]
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A survey of a network of 2 GB costs no memory: nothing reads or copies a tensor while loading.
#[cfg(target_os = "linux")]
#[test]
fn a_survey_of_the_tensors_costs_no_memory() {
    let text = r#"{"type": "act", "dim_model": 2048, "dim_feedforward": 8192, "n_decoder_layers": 2,
        "vision_backbone": "resnet50", "input_features": {"observation.state": {"type": "STATE",
        "shape": [7]}, "observation.image": {"type": "VISUAL", "shape": [3, 480, 640]}},
        "output_features": {"action": {"type": "ACTION", "shape": [7]}}}"#;
    let backend = Placeholders(Var::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let vb = VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu);
    let before = peak();
    let net = ActNet::load(&parse(text).unwrap(), vb).unwrap();
    // The kernel counts pages a processor at a time: its figure may step back a little.
    let grown = peak().saturating_sub(before);
    println!("a survey of 0.57 G parameters: {} MB", grown >> 20);
    // Other tests run beside this one; a copy would be 2 GB.
    assert!(grown < 1 << 30, "{grown} bytes");
    drop(net);
}

#[test]
fn every_parameter_of_inference_has_a_gradient() {
    for name in KEYPOINTS {
        let config = config(name);
        let vars: BTreeMap<String, Var> = weights(name)
            .into_iter()
            .map(|(key, x)| (key, Var::from_tensor(&x).unwrap()))
            .collect();
        let tracked = vars.iter().map(|(key, var)| (key.clone(), var.as_tensor().clone()));
        let net = ActNet::load(&config, builder(tracked.collect())).unwrap();
        let expected = read(name, "expected.safetensors");
        let out = net.forward(&inputs(name, &config, &expected)).unwrap();
        assert!(largest_gap(&out, &expected["action_normalized"]) <= 1e-5);
        let grads = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (key, var) in vars {
            // The latent is zero, and the first layer of the decoder starts from zeros: all rows have
            // the same value there, whatever looks at what.
            let none = key.contains(".vae_encoder")
                || key == "model.encoder_latent_input_proj.weight"
                || (config.pre_norm && key == "model.decoder.layers.0.norm1.weight")
                || (!config.pre_norm && key == "model.decoder.layers.0.self_attn.in_proj_weight");
            let largest = grads.get(&var).map_or(0.0, |grad| {
                let zeros = grad.zeros_like().unwrap();
                largest_gap(grad, &zeros)
            });
            assert!(largest.is_finite(), "{name} {key}: {largest}");
            if !none {
                assert!(largest > 1e-6, "{name} {key}: {largest}");
            }
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let name = "keypoints";
    let (config, expected) = (config(name), read(name, "expected.safetensors"));
    let net = ActNet::load(&config, builder(weights(name))).unwrap();
    let good = inputs(name, &config, &expected);
    let state = good.state.clone().unwrap();
    let wrong = [
        ActInputs::default(),
        ActInputs { state: None, ..good.clone() },
        ActInputs { environment_state: None, ..good.clone() },
        ActInputs { images: vec![state.clone()], ..good.clone() },
        ActInputs { state: Some(state.narrow(0, 0, 1).unwrap()), ..good.clone() },
        ActInputs { state: Some(state.narrow(1, 0, 2).unwrap()), ..good.clone() },
        ActInputs { state: Some(state.unsqueeze(1).unwrap()), ..good.clone() },
        ActInputs { state: Some(state.get(0).unwrap().get(0).unwrap()), ..good },
    ];
    for (i, wrong) in wrong.iter().enumerate() {
        assert!(net.forward(wrong).is_err(), "{i}");
    }
}

#[test]
fn the_ensemble_gives_lerobots_actions() {
    let path = folder("ensemble.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let coefficients = &metadata.metadata().as_ref().unwrap()["coefficients"];
    let coefficients: Vec<f64> = serde_json::from_str(coefficients).unwrap();
    let golden = tensors::load(&path, &Device::Cpu).unwrap();
    let chunks: Vec<Vec<Vec<f32>>> = golden["chunks"].to_vec3().unwrap();
    for (i, coefficient) in coefficients.iter().enumerate() {
        let mut ensembler = Ensembler::new(*coefficient, 8).unwrap();
        let expected: Vec<Vec<f32>> = golden[&format!("actions/{i}")].to_vec2().unwrap();
        let mut largest = 0f32;
        for (chunk, expected) in chunks.iter().zip(&expected) {
            let got = ensembler.update(&chunk.concat(), 3).unwrap();
            assert_eq!(got.len(), 3);
            let gaps = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
            largest = gaps.fold(largest, f32::max);
        }
        println!("ensemble, coefficient {coefficient}: largest error {largest:.2e}");
        assert!(largest <= 1e-6, "{coefficient}: {largest:e}");
    }
}

/// LeRobot's `select_action` and ours through the same observations: queue, ensemble, reset.
#[test]
fn a_rollout_gives_lerobots_actions() {
    for name in KEYPOINTS {
        let policy = Policy::load(&folder(name), &Device::Cpu).unwrap();
        let golden = read(name, "rollout.safetensors");
        let rows = |key: &str| -> Vec<Vec<f32>> { golden[key].to_vec2().unwrap() };
        let states = rows(&format!("input/{STATE}"));
        let environments = rows(&format!("input/{ENVIRONMENT_STATE}"));
        let solver = policy.solver(None, None).unwrap();
        let mut queue = Queue::new(&policy).unwrap();
        let mut largest = 0f32;
        for (tick, expected) in rows("action").iter().enumerate() {
            if tick == 40 {
                queue.reset();
            }
            let observation = Observation {
                state: states[tick].clone(),
                environment_state: environments[tick].clone(),
                images: Vec::new(),
            };
            let got = policy.select_action(&mut queue, observation, &solver, Draws::default);
            let got = got.unwrap();
            assert_eq!(got.len(), expected.len());
            let gaps = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
            largest = gaps.fold(largest, f32::max);
        }
        // Robot units: about 100 from end to end.
        println!("{name} rollout: largest error {largest:.2e}");
        assert!(largest <= 2e-4, "{name}: {largest:e}");
    }
}

/// The raw golden observations through the whole policy: actions in robot units.
fn end_to_end(name: &str, config: &ActConfig, expected: &HashMap<String, Tensor>) -> Tensor {
    let policy = Policy::load(&folder(name), &Device::Cpu).unwrap();
    let vector = |key: &str, dim: usize, row: usize| -> Vec<f32> {
        let row = |x: &Tensor| x.get(row).unwrap().to_vec1().unwrap();
        if dim == 0 { Vec::new() } else { row(&expected[&format!("input/{key}")]) }
    };
    let observation = |row: usize| Observation {
        state: vector(STATE, config.state_dim(), row),
        environment_state: vector(ENVIRONMENT_STATE, config.environment_dim(), row),
        images: config
            .cameras()
            .map(|(key, [_, height, width])| Picture {
                name: key.rsplit('.').next().unwrap().to_owned(),
                height,
                width,
                data: expected[&format!("input/{key}")]
                    .get(row)
                    .and_then(|x| x.flatten_all()?.to_vec1())
                    .unwrap(),
            })
            .collect(),
    };
    let solver = policy.solver(None, None).unwrap();
    let histories = [[observation(0)], [observation(1)]];
    let histories = [&histories[0][..], &histories[1]];
    let chunks = policy.infer(&histories, Draws::default(), &solver).unwrap();
    Tensor::from_vec(chunks.actions, expected["action"].dims(), &Device::Cpu).unwrap()
}

/// Folders that `python tests/golden/act.py $PATHLINE_ACT_FOLDERS SEED COUNT` made.
#[test]
#[ignore = "needs folders from LeRobot in PATHLINE_ACT_FOLDERS"]
fn random_folders_give_lerobots_numbers() {
    let root = std::env::var("PATHLINE_ACT_FOLDERS").unwrap();
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    let mut worst = [0f32; 4];
    for folder in folders {
        let name = folder.to_str().unwrap();
        let (config, expected) = (config(name), read(name, "expected.safetensors"));
        let (net, asked) = load(name, weights(name));
        let net = net.unwrap();
        assert_eq!(asked, weights(name).into_keys().collect(), "{name}");
        let inputs = inputs(name, &config, &expected);
        let tokens = net.tokens(&inputs).unwrap();
        let memory = net.encode(&tokens).unwrap();
        let actions = net.decode(&memory, &tokens.positions).unwrap();
        let whole = end_to_end(name, &config, &expected);
        let stages = [
            ("tokens", &tokens.values),
            ("encoder_out", &memory),
            ("action_normalized", &actions),
            ("action", &whole),
        ];
        let gaps = stages.map(|(stage, got)| {
            let expected = &expected[stage];
            let size = largest_gap(expected, &expected.zeros_like().unwrap());
            (largest_gap(got, expected), size)
        });
        let said = gaps.map(|(gap, size)| format!("{gap:.1e} of {size:.1}"));
        println!("{}: largest error of largest number: {}", folder.display(), said.join(", "));
        for (worst, (gap, size)) in worst.iter_mut().zip(gaps) {
            *worst = worst.max(gap / size.max(1.0));
        }
    }
    let said = worst.map(|worst| format!("{worst:.1e}")).join(", ");
    println!("worst of tokens, encoder, actions, robot units over the largest number or 1: {said}");
    assert!(worst.iter().all(|&worst| worst <= 1e-5), "{worst:?}");
}

#[test]
fn a_config_is_lerobots_or_an_error_that_names_the_key() {
    let features = r#""input_features": {"observation.environment_state": {"type": "ENV", "shape": [6]}},
        "output_features": {"action": {"type": "ACTION", "shape": [4]}}"#;
    let with = |more: &str| parse(&format!(r#"{{"type": "act", {features}{more}}}"#));
    let config = with("").unwrap();
    assert_eq!((config.chunk_size, config.n_action_steps, config.dim_model), (100, 100, 512));
    assert_eq!((config.n_heads, config.dim_feedforward, config.latent_dim), (8, 3200, 32));
    assert_eq!((config.n_encoder_layers, config.n_decoder_layers), (4, 1));
    assert_eq!(config.normalization_mapping.len(), 3);
    assert!(config.use_vae && !config.pre_norm);
    for (more, flag) in [("false", false), ("true", true), ("0", false), ("1", true)] {
        let config = with(&format!(r#", "replace_final_stride_with_dilation": {more}"#)).unwrap();
        assert_eq!(config.replace_final_stride_with_dilation, flag);
    }
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(parse(&written.replacen('{', r#"{"type": "act", "#, 1)).unwrap(), config);
    // LeRobot keeps other state features, and the network does not see them.
    let prenorm = self::config("prenorm");
    assert!(prenorm.input_features.contains_key("observation.effort") && prenorm.state_dim() == 3);
    let seen = prenorm.signature().input_features;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [STATE, ENVIRONMENT_STATE]);
    let cameras = self::config("cameras");
    let names: Vec<_> = cameras.cameras().map(|(key, _)| key).collect();
    assert_eq!(names, ["observation.images.wrist", "observation.images.front"]);

    for (more, key) in [
        (r#""n_obs_steps": 2"#, "n_obs_steps"),
        (r#""chunk_size": 0, "n_action_steps": 0"#, "chunk_size"),
        (r#""n_action_steps": 101"#, "n_action_steps"),
        (r#""n_action_steps": 0"#, "n_action_steps"),
        (r#""temporal_ensemble_coeff": 0.01"#, "n_action_steps"),
        (r#""temporal_ensemble_coeff": -9, "n_action_steps": 1"#, "temporal_ensemble_coeff"),
        (r#""use_peft": true"#, "use_peft"),
        (r#""feedforward_activation": "glu""#, "feedforward_activation"),
        (r#""feedforward_activation": "silu""#, "silu"),
        (r#""vision_backbone": "vit""#, "vision_backbone"),
        (r#""dim_model": 510"#, "dim_model"),
        (r#""n_heads": 0"#, "n_heads"),
        (r#""dim_feedforward": 0"#, "dim_feedforward"),
        (r#""latent_dim": 100000"#, "latent_dim"),
        (r#""n_encoder_layers": 100000"#, "n_encoder_layers"),
        (r#""replace_final_stride_with_dilation": "no""#, "boolean or an integer"),
        (r#""relative_actions": true"#, "relative_actions"),
        (r#""chunk_size": -1"#, "-1"),
    ] {
        let error = with(&format!(", {more}")).unwrap_err();
        assert!(error.contains(key), "{more}: {error}");
    }
    let camera = |shape: &str, more: &str| {
        parse(&format!(
            r#"{{"type": "act", "input_features": {{"observation.images.a": {{"type": "VISUAL",
            "shape": {shape}}}}}, "output_features": {{"action": {{"type": "ACTION", "shape": [4]}}}}
            {more}}}"#
        ))
    };
    camera("[3, 480, 640]", "").unwrap();
    let dilates = r#", "replace_final_stride_with_dilation": true"#;
    camera("[3, 480, 640]", &format!(r#"{dilates}, "vision_backbone": "resnet50""#)).unwrap();
    for (shape, more, key) in [
        ("[3, 480]", "", "observation.images.a"),
        ("[1, 480, 640]", "", "observation.images.a"),
        ("[3, 480, 640000]", "", "observation.images.a"),
        ("[3, 480, 640]", dilates, "replace_final_stride_with_dilation"),
        ("[3, 480, 640]", r#", "vision_backbone": "resnet19""#, "resnet19"),
        ("[3, 480, 640]", r#", "n_heads": 2, "dim_model": 6"#, "dim_model"),
    ] {
        let error = camera(shape, more).unwrap_err();
        assert!(error.contains(key), "{shape} {more}: {error}");
    }
    for (inputs, outputs, key) in [
        (r#"{}"#, r#"{"action": {"type": "ACTION", "shape": [4]}}"#, "VISUAL"),
        (r#"{"a": {"type": "ENV", "shape": [4]}}"#, r#"{}"#, "action"),
        (
            r#"{"a": {"type": "ENV", "shape": [4]}}"#,
            r#"{"action": {"type": "ACTION", "shape": [4]}}"#,
            "observation.environment_state",
        ),
    ] {
        let text = format!(
            r#"{{"type": "act", "input_features": {inputs}, "output_features": {outputs}}}"#
        );
        let error = parse(&text).unwrap_err();
        assert!(error.contains(key), "{text}: {error}");
    }
}
