//! LeRobot's DiffusionPolicy from its own folders, stage by stage and to the action.
//!
//! `tests/golden/lerobot/make.py` made the folders and the numbers with LeRobot 0.4.4.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

#[path = "support/golden_folder.rs"]
mod golden_folder;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use pathline::policy::config::{ENVIRONMENT_STATE, FeatureType, PolicyConfig, STATE};
use pathline::policy::queue::Queue;
use pathline::policy::{Draws, Observation, Picture, Policy};
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

/// Ranges of the action in robot units, from what LeRobot unnormalises with.
fn action_range(policy: &Policy) -> f64 {
    let rows = policy.signature().horizon;
    let dim = policy.signature().action_dim();
    let (mut low, mut high) = (vec![-1f32; rows * dim], vec![1f32; rows * dim]);
    let state = vec![0.0; policy.signature().state_dim()];
    policy.processor().unnormalize_actions(&state, &mut low);
    policy.processor().unnormalize_actions(&state, &mut high);
    let widths = low.iter().zip(&high).map(|(a, b)| f64::from((b - a).abs()));
    widths.fold(f64::INFINITY, f64::min)
}

/// Errors of one folder: encoder, condition, network, normalised chunk, action over its range.
fn errors(dir: &Path) -> [f64; 5] {
    let policy = Policy::load(dir, &device::cpu()).unwrap();
    let golden = tensors::load(&dir.join("golden.safetensors"), &Device::Cpu).unwrap();
    let n_obs = policy.signature().n_obs_steps;
    let history = history(&policy, &golden, 0, n_obs);
    let inputs = policy.inputs(&history).unwrap();
    for input in &inputs.0 {
        let want = &golden[&format!("stage.normalized.{}", input.key)];
        let error = gap(&input.data, want);
        assert!(error <= 1e-6, "{}: {}: {error:e}", dir.display(), input.key);
    }
    let net = policy.net().diffusion().unwrap();
    let mut worst = [0f64; 5];
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
    worst[4] = gap(&chunks.actions[..rows], &golden["action"]) / action_range(&policy);
    worst
}

#[test]
fn every_golden_folder_gives_lerobots_numbers() {
    let mut failures = Vec::new();
    println!("{:32} encoder  condition  unet     chunk    action/range", "folder");
    for name in golden_folder::names() {
        let dir = golden_folder::copy(&name);
        if !dir.path().join("golden.safetensors").is_file() {
            continue;
        }
        let errors = errors(dir.path());
        let line = errors.map(|e| format!("{e:8.1e}")).join("  ");
        println!("{name:32} {line}");
        let bounds = [1e-5, 1e-5, 1e-5, 1e-5, 1e-4];
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
            worst = worst.max(gap(&action, &golden["action"].get(tick).unwrap()));
        }
        worst /= action_range(&policy);
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
