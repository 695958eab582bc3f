//! LeRobot's DiffusionPolicy from its own folders, stage by stage and to the action.
//!
//! `tests/golden/lerobot/make.py` made the folders and the numbers with LeRobot 0.4.4.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

#[path = "support/formula.rs"]
mod formula;
#[path = "support/golden_folder.rs"]
mod golden_folder;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use pathline::flow::schedule::{BetaSchedule, Discrete, DiscreteConfig};
use pathline::policy::config::{ENVIRONMENT_STATE, FeatureType, PolicyConfig, STATE};
use pathline::policy::queue::Queue;
use pathline::policy::{Draws, Net, Observation, Picture, Policy};
use pathline::tensors::header::Header;
use pathline::{device, tensors};

type Tensors = HashMap<String, Tensor>;

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, absolute.
fn gap(got: &[f32], want: &Tensor) -> f64 {
    let want = values(want);
    assert_eq!(got.len(), want.len());
    got.iter().zip(&want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Rows `first .. first + n` of every observation tensor, as `pathline infer` reads them.
fn history(policy: &Policy, golden: &Tensors, first: usize, n: usize) -> Vec<Observation> {
    let row = |key: &str, i: usize| golden[key].get(first + i).unwrap();
    let signature = policy.signature();
    (0..n)
        .map(|i| {
            let mut observation = Observation::default();
            for (key, feature) in &signature.input_features {
                match (key.as_str(), feature.kind) {
                    (STATE, _) => observation.state = values(&row(key, i)),
                    (ENVIRONMENT_STATE, _) => {
                        observation.environment_state = values(&row(key, i));
                    }
                    (key, FeatureType::Visual) => observation.images.push(Picture {
                        name: Picture::name_of(key).into(),
                        height: feature.shape[1],
                        width: feature.shape[2],
                        data: row(key, i).flatten_all().unwrap().to_vec1().unwrap(),
                    }),
                    other => panic!("{other:?}"),
                }
            }
            observation
        })
        .collect()
}

fn draws(golden: &Tensors) -> Draws {
    Draws {
        noise: values(&golden["noise"]),
        step_noise: golden.get("step_noise").map(values).unwrap_or_default(),
    }
}

/// Largest error of actions in robot units, each over the range of its own dimension.
fn gap_over_range(policy: &Policy, got: &[f32], want: &Tensor) -> f64 {
    let (rows, dim) = (policy.signature().horizon, policy.signature().action_dim());
    let (mut low, mut high) = (vec![-1f32; rows * dim], vec![1f32; rows * dim]);
    let state = vec![0.0; policy.signature().state_dim()];
    policy.processor().unnormalize_actions(&state, &mut low);
    policy.processor().unnormalize_actions(&state, &mut high);
    let want = values(want);
    assert_eq!(got.len(), want.len());
    let errors = got.iter().zip(&want).enumerate();
    errors
        .map(|(i, (a, b))| f64::from((a - b).abs() / (high[i] - low[i]).abs()))
        .fold(0.0, f64::max)
}

/// LeRobot's distance from itself, f32 from f64, in the normalised chunk.
fn floor(dir: &Path) -> f64 {
    let header = Header::read(&dir.join("golden.safetensors")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&header.metadata["golden"]).unwrap();
    golden["floor"]["action_normalized"].as_f64().unwrap()
}

/// The chunk with the network in f64, from LeRobot's own conditioning vector.
fn chunk_in_f64(policy: &Policy, dir: &Path, golden: &Tensors) -> Vec<f32> {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let weights = tensors::load(&dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = weights.iter().map(|(name, tensor)| (name.clone(), wide(tensor))).collect();
    let vb = VarBuilder::from_tensors(weights, DType::F64, &Device::Cpu);
    let net = Net::load(policy.config(), vb).unwrap();
    let process = policy.config().process().unwrap().unwrap();
    let solver = policy.solver(None, None).unwrap();
    let condition = wide(&golden["stage.global_cond"].flatten_all().unwrap().unsqueeze(0).unwrap());
    let mut network = |x: &Tensor, t: f64| net.predict(&condition, x, &[t]);
    let mut draw = |i: usize, _: &Tensor| {
        Ok(wide(&golden["step_noise"].get(i).unwrap().unsqueeze(0).unwrap()))
    };
    let x = wide(&golden["noise"].unsqueeze(0).unwrap());
    let solution = process.run(&solver, x, &mut network, &mut draw, &mut |_, _, _| Ok(())).unwrap();
    values(&solution.x)
}

/// Errors of one folder: encoder, condition, network, normalised chunk, action over its range, and the
/// chunk with the network in f64.
fn errors(dir: &Path) -> [f64; 6] {
    let policy = Policy::load(dir, &device::cpu()).unwrap();
    let golden = tensors::load(&dir.join("golden.safetensors"), &Device::Cpu).unwrap();
    let n_obs = policy.signature().n_obs_steps;
    let history = history(&policy, &golden, 0, n_obs);
    let inputs = policy.inputs(&history).unwrap();
    for input in &inputs.0 {
        // Of pictures LeRobot's numbers would be large; the encoder's features show them.
        let Some(want) = golden.get(&format!("stage.normalized.{}", input.key)) else { continue };
        let error = gap(&input.data, want);
        assert!(error <= 1e-6, "{}: {}: {error:e}", dir.display(), input.key);
    }
    let net = policy.net().diffusion().unwrap();
    let mut worst = [0f64; 6];
    for (i, input) in inputs.cameras().enumerate() {
        let pictures =
            Tensor::from_slice(&input.data, input.shape.as_slice(), &Device::Cpu).unwrap();
        let features = values(&net.encode(i, &pictures).unwrap());
        worst[0] = worst[0].max(gap(&features, &golden[&format!("stage.encoder.{i}")]));
    }
    let condition = net.condition(std::slice::from_ref(&inputs), &Device::Cpu).unwrap();
    worst[1] = gap(&values(&condition), &golden["stage.global_cond"]);
    let reference = golden["stage.global_cond"].flatten_all().unwrap().unsqueeze(0).unwrap();
    for k in 0..3 {
        let part = |name: &str| &golden[&format!("stage.unet.{k}.{name}")];
        let x = part("x").reshape((1, policy.signature().horizon, ())).unwrap();
        let t = f64::from(values(part("t"))[0]);
        let out = net.predict(&reference, &x, &[t]).unwrap();
        worst[2] = worst[2].max(gap(&values(&out), part("out")));
    }
    let solver = policy.solver(None, None).unwrap();
    let chunks = policy.infer(&[&history], draws(&golden), &solver).unwrap();
    worst[3] = gap(&chunks.normalized, &golden["action_normalized"]);
    let rows = policy.config().predicted_rows() * policy.signature().action_dim();
    worst[4] = gap_over_range(&policy, &chunks.actions[..rows], &golden["action"]);
    worst[5] = gap(&chunk_in_f64(&policy, dir, &golden), &golden["action_normalized"]);
    worst
}

#[test]
fn every_golden_folder_gives_lerobots_numbers() {
    let mut failures = Vec::new();
    println!(
        "{:32} encoder  condition  unet     chunk    action/range  chunk in f64  LeRobot f32 to f64",
        "folder"
    );
    for name in golden_folder::names() {
        let dir = golden_folder::copy(&name);
        if !dir.path().join("golden.safetensors").is_file() {
            continue;
        }
        let (errors, floor) = (errors(dir.path()), floor(dir.path()));
        let line = errors.map(|e| format!("{e:8.1e}")).join("  ") + &format!("  {floor:8.1e}");
        println!("{name:32} {line}");
        // A network in f32 may stretch the last place of its first steps as far as LeRobot's does:
        // DDIM's first data estimate is 6 times as wrong as the noise. In f64 only the formulas can
        // differ, and LeRobot's own rounding is left.
        let chunk = f64::max(1e-5, 8.0 * floor);
        let bounds = [1e-5, 1e-5, 1e-5, chunk, 1e-4, 3.0 * floor + 1e-6];
        if errors.iter().zip(bounds).any(|(error, bound)| error.is_nan() || *error > bound) {
            failures.push(format!("{name}: {line}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// LeRobot's own policy object and ours through the same 100 observations, queue and all.
#[test]
fn a_rollout_gives_the_same_actions() {
    for name in golden_folder::names() {
        let dir = golden_folder::copy(&name);
        let path = dir.path().join("rollout.safetensors");
        if !path.is_file() {
            continue;
        }
        let policy = Policy::load(dir.path(), &device::cpu()).unwrap();
        let golden = tensors::load(&path, &Device::Cpu).unwrap();
        let solver = policy.solver(None, None).unwrap();
        let steps = golden["action"].dim(0).unwrap();
        assert!(steps >= 100, "{name}");
        let observations = history(&policy, &golden, 0, steps);
        let mut queue = Queue::new(&policy).unwrap();
        let (mut chunk, mut worst) = (0, 0f64);
        for (tick, observation) in observations.into_iter().enumerate() {
            if tick == 60 {
                queue.reset();
            }
            let noise = || {
                let noise = golden["noise"].get(chunk).unwrap();
                chunk += 1;
                let step_noise = golden.get("step_noise").map(|all| all.get(chunk - 1).unwrap());
                Draws {
                    noise: values(&noise),
                    step_noise: step_noise.as_ref().map(values).unwrap_or_default(),
                }
            };
            let action = policy.select_action(&mut queue, observation, &solver, noise).unwrap();
            let want = golden["action"].get(tick).unwrap();
            worst = worst.max(gap_over_range(&policy, &action, &want));
        }
        println!("{name}: {steps} actions, {chunk} chunks, largest error / range {worst:.1e}");
        assert_eq!(chunk, golden["noise"].dim(0).unwrap(), "{name}: chunks");
        assert!(worst <= 1e-4, "{name}: {worst:e}");
    }
}

/// A wrong order of cameras, padding or first row is not within the bounds.
#[test]
fn broken_twins_are_caught() {
    let dir = golden_folder::copy("two_cameras_shared");
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let PolicyConfig::Diffusion(mut config) = PolicyConfig::parse(&text).unwrap() else {
        panic!("a diffusion policy")
    };
    config.input_features.sort_keys();
    let sorted = serde_json::to_string(&PolicyConfig::Diffusion(config)).unwrap();
    std::fs::write(&path, sorted).unwrap();
    assert!(errors_without_stages(dir.path()) > 1e-3, "cameras in the order of the alphabet");
}

fn errors_without_stages(dir: &Path) -> f64 {
    let policy = Policy::load(dir, &device::cpu()).unwrap();
    let golden = tensors::load(&dir.join("golden.safetensors"), &Device::Cpu).unwrap();
    let history = history(&policy, &golden, 0, policy.signature().n_obs_steps);
    let solver = policy.solver(None, None).unwrap();
    let chunks = policy.infer(&[&history], draws(&golden), &solver).unwrap();
    gap(&chunks.normalized, &golden["action_normalized"])
}

/// Tables as diffusers has them, in units of the last place of an f32.
#[test]
fn tables_have_diffusers_rounding() {
    let text = include_str!("golden/lerobot/tables.json");
    let golden: serde_json::Value = serde_json::from_str(text).unwrap();
    let (mut off, mut all) = (0, 0);
    for case in golden["tables"].as_array().unwrap() {
        let steps = case["num_train_timesteps"].as_u64().unwrap() as usize;
        let schedule = case["beta_schedule"].as_str().unwrap();
        let table = Discrete::new(DiscreteConfig {
            num_train_timesteps: steps,
            beta_schedule: BetaSchedule::by_name(schedule).unwrap(),
            float32: true,
            ..DiscreteConfig::default()
        })
        .unwrap();
        let ours = table.alphas_cumprod().iter().step_by((steps / 50).max(1));
        let mut worst = 0;
        for (ours, bits) in ours.zip(case["alphas_cumprod"].as_array().unwrap()) {
            assert_eq!(f64::from(*ours as f32), *ours, "a table of f32");
            let apart = i64::from((*ours as f32).to_bits()) - bits.as_i64().unwrap();
            worst = worst.max(apart.abs());
            off += usize::from(apart != 0);
            all += 1;
        }
        println!("{schedule} {steps}: at most {worst} units in the last place");
        assert!(worst <= 1, "{schedule} {steps}: {worst}");
    }
    println!("{off} of {all} differ");
    assert!(off * 20 <= all, "{off} of {all}");
}
