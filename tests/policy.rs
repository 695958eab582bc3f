//! Policy folders that cannot be used, and the laws of inference.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{Device, Tensor};
use pathline::Error;
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::config::{ENVIRONMENT_STATE, FeatureEncoder, PolicyConfig};
use pathline::policy::{Observation, Policy};
use pathline::train::eval::{EvalOptions, check_task, evaluate, observation};
use pathline_sim::pusht::PushT;
use serde_json::{Value, json};

const STATE_FILE: &str = "policy_preprocessor_step_4_normalizer_processor.safetensors";
const POST_STATE_FILE: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";

/// A change to the steps of a pipeline.
type Edit = Box<dyn Fn(&mut Vec<Value>)>;

fn load(dir: &Path) -> pathline::Result<Policy> {
    Policy::load(dir, &device::cpu())
}

fn tiny(overrides: &[&str]) -> (tempfile::TempDir, Policy) {
    let dir = tempfile::tempdir().unwrap();
    support::write(dir.path(), &support::config(overrides));
    let policy = load(dir.path()).unwrap();
    (dir, policy)
}

fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn edit_tensors(path: &Path, edit: impl Fn(&mut HashMap<String, Tensor>)) {
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

type Damage = Box<dyn Fn(&Path)>;

/// What is done to a good folder, and what the error must name.
fn damages() -> Vec<(&'static str, Damage, Vec<&'static str>)> {
    const MODEL: &str = "model.safetensors";
    const CONFIG: &str = "config.json";
    const PRE: &str = "policy_preprocessor.json";
    const POST: &str = "policy_postprocessor.json";
    let mut all: Vec<(&'static str, Damage, Vec<&'static str>)> = Vec::new();
    for file in [MODEL, CONFIG, PRE, POST, STATE_FILE, POST_STATE_FILE] {
        let mut file_is = |what, damage: fn(&Path)| {
            all.push((what, Box::new(move |d: &Path| damage(&d.join(file))), vec![file]));
        };
        file_is("missing", |path| fs::remove_file(path).unwrap());
        file_is("truncated", truncate);
        file_is("empty", |path| fs::write(path, "").unwrap());
        file_is("of a hostile length", |path| {
            fs::write(path, [[0xff; 8], *b"[0, 1, 2"].concat()).unwrap();
        });
    }
    let mut tensors =
        |what, file, edit: fn(&mut HashMap<String, Tensor>), named: &[&'static str]| {
            let named = [&[file][..], named].concat();
            all.push((what, Box::new(move |d: &Path| edit_tensors(&d.join(file), edit)), named));
        };
    tensors("a tensor is missing", MODEL, |t| drop(t.remove("time.weight")), &["time.weight"]);
    tensors(
        "a tensor too many",
        MODEL,
        |t| drop(t.insert("blocks.1.up.bias".into(), t["blocks.0.up.bias"].clone())),
        &["blocks.1.up.bias"],
    );
    tensors(
        "a tensor of another shape",
        MODEL,
        |t| drop(t.insert("time.bias".into(), Tensor::zeros(3, f32_(), &Device::Cpu).unwrap())),
        &["time.bias", "[16]", "[3]"],
    );
    for bad in [f32::NAN, f32::INFINITY] {
        all.push((
            "a weight is not finite",
            Box::new(move |d: &Path| {
                edit_tensors(&d.join(MODEL), |t| {
                    t.insert("norm.weight".into(), Tensor::new(&[bad; 16], &Device::Cpu).unwrap());
                });
            }),
            vec![MODEL, "norm.weight"],
        ));
    }
    let mut stats = |what, edit: fn(&mut HashMap<String, Tensor>), named: &[&'static str]| {
        let named = named.to_vec();
        all.push((
            what,
            Box::new(move |d: &Path| edit_tensors(&d.join(POST_STATE_FILE), edit)),
            named,
        ));
    };
    stats("a statistic is missing", |t| drop(t.remove("action.std")), &["action.std"]);
    stats(
        "a statistic of another shape",
        |t| drop(t.insert("action.std".into(), Tensor::new(&[1f32; 4], &Device::Cpu).unwrap())),
        &["action.std", "4"],
    );
    stats(
        "a statistic is not finite",
        |t| {
            drop(
                t.insert("action.std".into(), Tensor::new(&[f32::NAN; 32], &Device::Cpu).unwrap()),
            );
        },
        &["action.std"],
    );
    stats(
        "a statistic without a feature",
        |t| drop(t.insert("std".into(), Tensor::new(&[1f32], &Device::Cpu).unwrap())),
        &["std", "<feature>.<stat>"],
    );
    let mut config = |what, edit: fn(&mut Value), named: &[&'static str]| {
        let named = [&[CONFIG][..], named].concat();
        all.push((what, Box::new(move |d: &Path| edit_json(&d.join(CONFIG), edit)), named));
    };
    config("an unknown key", |c| c["n_obs_stepz"] = json!(2), &["n_obs_stepz"]);
    config("an unknown key inside", |c| c["network"]["widht"] = json!(2), &["widht"]);
    config("another type", |c| c["type"] = json!("act"), &["\"act\"", "`feature_encoder`"]);
    config("an unknown type", |c| c["type"] = json!("pi0"), &["\"pi0\"", "pathline_flow"]);
    config("no type", |c| drop(c.as_object_mut().unwrap().remove("type")), &["\"type\""]);
    config("a missing key", |c| drop(c.as_object_mut().unwrap().remove("horizon")), &["horizon"]);
    config("horizon 0", |c| c["horizon"] = json!(0), &["horizon"]);
    config("a negative horizon", |c| c["horizon"] = json!(-1), &["-1"]);
    config(
        "steps beyond the chunk",
        |c| c["n_action_steps"] = json!(17),
        &["n_action_steps", "17"],
    );
    config("no steps", |c| c["num_inference_steps"] = json!(0), &["num_inference_steps"]);
    config("a solver", |c| c["solver"] = json!("ddpm"), &["ddpm", "heun"]);
    config("a path", |c| c["path"] = json!("cosinus"), &["cosinus", "straight"]);
    config("a network", |c| c["network"]["kind"] = json!("dit"), &["dit", "mlp"]);
    config("a width", |c| c["network"]["width"] = json!(0), &["width"]);
    config("an odd embedding", |c| c["network"]["time_embed_dim"] = json!(1), &["time_embed_dim"]);
    config("a huge depth", |c| c["network"]["depth"] = json!(1u64 << 60), &["depth"]);
    config(
        "a unet that does not fit",
        |c| {
            c["network"] = json!({"kind": "unet1d", "action_dim": 2, "cond_dim": 118,
                "down_dims": [8, 16], "kernel_size": u64::MAX, "n_groups": 8,
                "diffusion_step_embed_dim": 8, "use_film_scale_modulation": true});
        },
        &["kernel_size"],
    );
    config(
        "a camera",
        |c| {
            c["input_features"]["observation.images.top"] =
                json!({"type": "VISUAL", "shape": [3, 96, 96]});
        },
        &["observation.images.top"],
    );
    config(
        "a state of another type",
        |c| c["input_features"]["observation.state"]["type"] = json!("ACTION"),
        &["observation.state", "Action"],
    );
    config(
        "no action",
        |c| drop(c["output_features"].as_object_mut().unwrap().remove("action")),
        &["action"],
    );
    config(
        "an encoder that does not fit",
        |c| c["input_features"]["observation.environment_state"]["shape"] = json!([3]),
        &["keypoint"],
    );
    for (file, relative) in
        [(PRE, "relative_actions_processor"), (POST, "absolute_actions_processor")]
    {
        let mut steps = |what, edit: Edit, named: &[&'static str]| {
            let named = [&[file][..], named].concat();
            let damage = move |d: &Path| {
                edit_json(&d.join(file), |p| edit(p["steps"].as_array_mut().unwrap()));
            };
            all.push((what, Box::new(damage), named));
        };
        steps(
            "an unknown step",
            Box::new(|s: &mut Vec<Value>| {
                s.push(json!({"registry_name": "tokenizer_processor", "config": {}}));
            }),
            &["tokenizer_processor"],
        );
        steps(
            "a step without a name",
            Box::new(|s: &mut Vec<Value>| s.push(json!({}))),
            &["registry_name"],
        );
        steps(
            "relative actions switched off",
            Box::new(move |s: &mut Vec<Value>| {
                let at = find(s, relative);
                s[at]["config"]["enabled"] = json!(false);
            }),
            &[relative, "use_relative_actions"],
        );
        steps(
            "relative actions left out",
            Box::new(move |s: &mut Vec<Value>| drop(s.remove(find(s, relative)))),
            &[relative],
        );
        steps(
            "excluded joints",
            Box::new(move |s: &mut Vec<Value>| {
                let at = find(s, relative);
                s[at]["config"]["exclude_joints"] = json!(["gripper"]);
            }),
            &["exclude_joints"],
        );
        let normalizer = "normalizer_processor";
        steps(
            "no normalizer",
            Box::new(move |s: &mut Vec<Value>| drop(s.remove(find(s, normalizer)))),
            &[normalizer],
        );
        let mut option = |what, edit: fn(&mut Value), named: &[&'static str]| {
            steps(
                what,
                Box::new(move |s: &mut Vec<Value>| {
                    let at = find(s, normalizer);
                    edit(&mut s[at]);
                }),
                named,
            );
        };
        option(
            "a state file elsewhere",
            |s| s["state_file"] = json!("../stats.safetensors"),
            &["state_file", "../stats.safetensors"],
        );
        option(
            "a state file at the root",
            |s| s["state_file"] = json!("/etc/hostname"),
            &["/etc/hostname"],
        );
        option("no state file", |s| s["state_file"] = Value::Null, &["state_file"]);
        option(
            "a normalisation that nobody knows",
            |s| s["config"]["norm_map"]["ACTION"] = json!("MAX_MIN"),
            &[normalizer, "MAX_MIN"],
        );
        option("an epsilon below zero", |s| s["config"]["eps"] = json!(-1e-3), &["eps", "-0.001"]);
    }
    all
}

fn find(steps: &[Value], name: &str) -> usize {
    steps.iter().position(|s| s["registry_name"].as_str().unwrap().ends_with(name)).unwrap()
}

fn f32_() -> candle_core::DType {
    candle_core::DType::F32
}

#[test]
fn a_damaged_folder_is_one_error_that_names_file_and_key() {
    let good = tempfile::tempdir().unwrap();
    support::write(good.path(), &support::config(&[]));
    load(good.path()).unwrap();
    let mut failures = Vec::new();
    for (what, damage, named) in damages() {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(good.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        damage(dir.path());
        match load(dir.path()) {
            Ok(_) => failures.push(format!("{what} {named:?}: loaded")),
            Err(error) => {
                let error = error.to_string();
                if named.iter().any(|name| !error.contains(name)) || error.len() > 700 {
                    failures.push(format!("{what} {named:?}: {error}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    let missing = load(Path::new("policies/nowhere")).err().unwrap().to_string();
    assert!(missing.contains("policies/nowhere") && missing.contains("config.json"), "{missing}");
}

#[test]
fn a_policy_for_another_robot_is_not_run_in_pusht() {
    let mut config = support::config(&[]);
    let PolicyConfig::Flow(flow) = &mut config else { panic!("{config:?}") };
    flow.feature_encoder = FeatureEncoder::Flat;
    flow.input_features.get_mut(ENVIRONMENT_STATE).unwrap().shape = vec![8];
    let dir = tempfile::tempdir().unwrap();
    support::write(dir.path(), &config);
    let policy = load(dir.path()).unwrap();
    let error = check_task(&policy).unwrap_err().to_string();
    assert!(error.contains("observation.environment_state [16]"), "{error}");
    assert!(error.contains("[8]"), "{error}");
    let (_dir, policy) = tiny(&[]);
    check_task(&policy).unwrap();
}

/// Histories of `n` different observations.
fn histories(policy: &Policy, n: u64) -> Vec<Vec<Observation>> {
    (0..n)
        .map(|seed| {
            let mut env = PushT::reset(seed);
            let mut history = vec![observation(&env)];
            while history.len() < policy.signature().n_obs_steps {
                env.step([100.0, 300.0]);
                history.push(observation(&env));
            }
            history
        })
        .collect()
}

fn batch(policy: &Policy, n: u64) -> Vec<f32> {
    let histories = histories(policy, n);
    let rows: Vec<&[Observation]> = histories.iter().map(Vec::as_slice).collect();
    let noise: Vec<f32> =
        (0..n).flat_map(|i| Noise::new(3).normal(i, 0, policy.chunk_len())).collect();
    policy.infer(&rows, noise, &policy.solver(None, None).unwrap()).unwrap().normalized
}

#[test]
fn a_chunk_is_the_same_alone_and_in_a_batch() {
    let (_dir, policy) = tiny(&["policy.network.width=96", "policy.network.depth=3"]);
    let together = batch(&policy, 9);
    assert_eq!(together, batch(&policy, 9), "the same bits twice");
    let len = policy.chunk_len();
    let solver = policy.solver(None, None).unwrap();
    for (i, history) in histories(&policy, 9).iter().enumerate() {
        let noise = Noise::new(3).normal(i as u64, 0, len);
        let alone = policy.infer(&[history], noise, &solver).unwrap().normalized;
        assert!(alone == together[i * len..][..len], "sample {i}: other bits alone");
        let other = &together[(i + 1) % 9 * len..][..len];
        assert!(alone.iter().zip(other).any(|(a, b)| (a - b).abs() > 0.1), "samples differ");
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    const NAME: &str = "the_bits_do_not_depend_on_the_number_of_threads";
    // The number of threads is read once a process, so this test starts itself again.
    if std::env::var_os("PATHLINE_PRINT_BITS").is_some() {
        let (_dir, policy) = tiny(&["policy.network.width=256", "policy.network.depth=2"]);
        let bits: Vec<String> =
            batch(&policy, 200).iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        println!("bits {}", bits.join(""));
        return;
    }
    let bits = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("PATHLINE_PRINT_BITS", "1")
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let at = text.find("bits ").unwrap();
        text[at..].lines().next().unwrap().to_owned()
    };
    let one = bits("1");
    assert!(one.len() > 200 * 32 * 8);
    for threads in ["2", "3"] {
        assert!(one == bits(threads), "{threads} threads give other bits than 1");
    }
}

#[test]
fn a_trace_begins_with_the_noise_and_ends_with_the_chunk() {
    let (_dir, policy) = tiny(&[
        "policy.use_relative_actions=false",
        "policy.normalization_mapping.ACTION=\"IDENTITY\"",
    ]);
    let history = &histories(&policy, 1)[0];
    let noise = Noise::new(1).normal(0, 0, policy.chunk_len());
    let solver = policy.solver(Some("heun"), Some(5)).unwrap();
    let mut seen: Vec<(f64, Vec<f32>)> = Vec::new();
    let traced = policy
        .infer_traced(&[history], noise.clone(), &solver, &mut |t, x| seen.push((t, x.to_vec())))
        .unwrap();
    let times: Vec<f64> = seen.iter().map(|(t, _)| *t).collect();
    assert_eq!(times, [1.0, 0.8, 0.6, 0.4, 0.19999999999999996, 0.0]);
    assert_eq!(seen[0].1, noise);
    assert_eq!(seen[5].1, traced.actions);
    assert_ne!(seen[4].1, traced.actions);
    assert_eq!(policy.infer(&[history], noise, &solver).unwrap().actions, traced.actions);
}

#[test]
fn a_trace_is_in_robot_units() {
    let (_dir, policy) = tiny(&[]);
    let history = &histories(&policy, 1)[0];
    let noise = Noise::new(1).normal(0, 0, policy.chunk_len());
    let mut first = None;
    let solver = policy.solver(None, None).unwrap();
    let chunks = policy
        .infer_traced(&[history], noise.clone(), &solver, &mut |_, x| {
            first.get_or_insert_with(|| x.to_vec());
        })
        .unwrap();
    // MEAN_STD over rows of the chunk, relative to the newest position.
    let stats = &support::stats(policy.signature())["action"];
    let newest = &history.last().unwrap().state;
    let robot = |z: &[f32]| -> Vec<f32> {
        z.iter()
            .enumerate()
            .map(|(i, z)| z * stats["std"].values()[i] + stats["mean"].values()[i] + newest[i % 2])
            .collect()
    };
    assert_eq!(first.unwrap(), robot(&noise));
    assert_eq!(chunks.actions, robot(&chunks.normalized));
}

#[test]
fn observations_that_cannot_be_used_are_rejected() {
    let (_dir, policy) = tiny(&[]);
    let good = histories(&policy, 1).remove(0);
    let solver = policy.solver(None, None).unwrap();
    let noise = || Noise::new(0).normal(0, 0, policy.chunk_len());
    let infer = |history: &[Observation]| policy.infer(&[history], noise(), &solver);
    infer(&good).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for step in 0..good.len() {
            let mut history = good.clone();
            history[step].environment_state[15] = bad;
            let error = infer(&history).unwrap_err();
            assert!(matches!(error, Error::Rejected { .. }), "{error}");
            assert!(error.to_string().contains("observation.environment_state"), "{error}");
        }
    }
    let mut short = good.clone();
    short[1].state.pop();
    let error = infer(&short).unwrap_err().to_string();
    assert!(error.contains("observation.state: expected 2 values, got 1"), "{error}");
    let error = infer(&good[1..]).unwrap_err().to_string();
    assert!(error.contains("n_obs_steps = 2, got 1"), "{error}");

    // Far outside anything that it was trained on: an error or numbers, never NaN.
    for size in [1e9, 1e20, 1e30, 1e36, 3e38] {
        let mut far = good.clone();
        far[1].state = vec![size, -size];
        far[1].environment_state[3] = size;
        if let Ok(chunk) = infer(&far) {
            assert!(chunk.actions.iter().all(|a| a.is_finite()), "{size}");
        }
    }

    let error = policy.infer(&[&good], vec![0.0; 3], &solver).unwrap_err().to_string();
    assert!(error.contains("[1, 16, 2]") && error.contains("3 values"), "{error}");
    assert!(policy.infer(&[], Vec::new(), &solver).is_err());
    let mut noise = noise();
    noise[31] = f32::NAN;
    assert!(policy.infer(&[&good], noise, &solver).is_err());
}

#[test]
fn the_solver_is_the_configurations_unless_the_user_says() {
    let (_dir, policy) = tiny(&[]);
    let history = &histories(&policy, 1)[0];
    let infer = |name: Option<&str>, steps: Option<usize>| {
        let noise = Noise::new(0).normal(0, 0, policy.chunk_len());
        policy.infer(&[history], noise, &policy.solver(name, steps).unwrap()).unwrap()
    };
    let own = infer(None, None);
    assert_eq!(own.nfe, 2);
    assert_eq!(own.normalized, infer(Some("euler"), Some(2)).normalized);
    for (name, evaluations) in [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)] {
        for steps in [1, 2, 7] {
            assert_eq!(infer(Some(name), Some(steps)).nfe, evaluations * steps, "{name} {steps}");
        }
    }
    // More steps come closer to the path that the field defines.
    let exact = infer(Some("rk4"), Some(64)).normalized;
    let error = |steps| {
        let chunk = infer(Some("euler"), Some(steps)).normalized;
        chunk.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    let errors = [2, 8, 32, 128].map(error);
    assert!(errors.windows(2).all(|pair| pair[1] < 0.5 * pair[0]), "{errors:?}");
    assert!(errors[0] > 1e-3, "the field bends: {errors:?}");

    for (name, steps, expected) in
        [(Some("ddpm"), None, "heun"), (None, Some(0), "steps"), (None, Some(1001), "1000")]
    {
        let error = policy.solver(name, steps).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_reversed_path_is_the_same_policy_with_its_time_and_velocity_turned() {
    // The network is the same, so the other convention must give another chunk: the path counts.
    let (_a, straight) = tiny(&[]);
    let (_b, reversed) = tiny(&["policy.path=\"straight_reversed\""]);
    assert_ne!(batch(&straight, 2), batch(&reversed, 2));
}

#[test]
fn the_shipped_policy_is_whole_and_solves_pusht() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow");
    if !dir.join("model.safetensors").is_file() {
        eprintln!("skipped: policies/pusht-flow/model.safetensors is not there");
        return;
    }
    let policy = load(&dir).unwrap();
    check_task(&policy).unwrap();
    let bytes: u64 =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 20_000_000, "{bytes} bytes");
    assert!(dir.join("README.md").is_file(), "the card");
    assert!(dir.join("recipe.toml").is_file(), "the recipe");
    let card: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("eval.json")).unwrap()).unwrap();
    let promised = card["pc_success"].as_f64().unwrap();
    let episodes = card["n_episodes"].as_u64().unwrap();
    assert!(promised >= 95.0 && episodes >= 500, "{promised} % of {episodes}");

    let solver = policy.solver(None, None).unwrap();
    assert!(solver.evaluations() <= 4, "evaluations a chunk");
    let options = EvalOptions::new(&policy, 20, 300_000);
    let report = evaluate(&policy, &solver, &options, &mut |_, _, _| ()).unwrap();
    let solved = report.per_episode.iter().filter(|episode| episode.success).count();
    assert!(solved >= 19, "{solved} of 20");
}
