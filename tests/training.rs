//! The training pieces against PyTorch and diffusers: AdamW, clipping, moving average, schedules.
//! The golden file is written by tests/golden/training.py.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use pathline::train::ema::{EmaWarmup, average};
use pathline::train::optimizer::{AdamW, OptimizerConfig};
use pathline::train::recipe::Recipe;
use pathline::train::schedule::LrSchedule;
use serde_json::Value;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/training.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn single(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|x| x as f32).collect()
}

/// Largest difference over the largest golden number.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    got.iter().zip(expected).fold(0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs())) / scale
}

fn values(var: &Var) -> Vec<f32> {
    var.as_tensor().flatten_all().unwrap().to_vec1().unwrap()
}

/// A gradient store that holds `grads`: that of the sum of var·grad.
fn store(vars: &[(String, Var)], grads: &[Vec<f32>]) -> candle_core::backprop::GradStore {
    let mut loss = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).unwrap();
    for ((_, var), grad) in vars.iter().zip(grads) {
        let grad = Tensor::from_slice(grad, var.dims(), &Device::Cpu).unwrap();
        loss = (loss + (var.as_tensor() * grad).unwrap().sum_all().unwrap()).unwrap();
    }
    loss.backward().unwrap()
}

fn parameters(start: &Value) -> Vec<(String, Var)> {
    let of = |key: &str, dims: &[usize]| {
        (key.to_owned(), Var::from_slice(&single(&start[key]), dims, &Device::Cpu).unwrap())
    };
    vec![of("b", &[3]), of("w", &[3, 2])]
}

#[test]
fn adamw_with_clipping_matches_torch() {
    let golden = golden();
    for (name, grad_clip_norm, grad_clip_value) in
        [("plain", 0.0, None), ("norm", 0.7, None), ("value", 0.0, Some(0.3))]
    {
        let case = &golden["adamw"][name];
        let config = OptimizerConfig {
            betas: [0.9, 0.95],
            weight_decay: 0.1,
            grad_clip_norm,
            grad_clip_value,
            ..Default::default()
        };
        config.validate().unwrap();
        let vars = parameters(&case["start"]);
        let mut adam = AdamW::new(config, vars.clone()).unwrap();
        let mut worst = 0.0f64;
        for step in case["steps"].as_array().unwrap() {
            let grads = [single(&step["grads"]["b"]), single(&step["grads"]["w"])];
            let lr = step["lr"].as_f64().unwrap();
            let norm = adam.update(&store(&vars, &grads), lr).unwrap();
            assert!((norm / step["norm"].as_f64().unwrap() - 1.0).abs() < 1e-6);
            for (key, var) in &vars {
                worst = worst.max(error(&values(var), &numbers(&step[key])));
            }
        }
        println!("adamw {name}: {worst:.1e}");
        assert_eq!(adam.step(), 20);
        assert!(worst < 1e-6, "{name}: {worst}");
    }
}

/// The arithmetic that the shipped policy was trained with, in one loop: the same bits.
#[test]
fn an_update_has_the_bits_it_always_had() {
    let golden = golden();
    let case = &golden["adamw"]["norm"];
    let config = OptimizerConfig::default();
    let vars = parameters(&case["start"]);
    let mut adam = AdamW::new(config.clone(), vars.clone()).unwrap();
    let zeros = |n: usize| vec![0f32; n];
    let mut old: Vec<_> = vars.iter().map(|(_, var)| values(var)).collect();
    let mut state: Vec<_> =
        old.iter().map(|w| (zeros(w.len()), zeros(w.len()), w.clone())).collect();
    for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let lr = config.lr_at(i, 20);
        let grads = [single(&step["grads"]["b"]), single(&step["grads"]["w"])];
        let norm = adam.update(&store(&vars, &grads), lr).unwrap();
        let clip = (config.grad_clip_norm / norm.max(1e-12)).min(1.0) as f32;
        let n = (i + 1) as f64;
        let [b1, b2] = config.betas;
        let (step_size, root) =
            ((lr / (1.0 - b1.powf(n))) as f32, (1.0 / (1.0 - b2.powf(n)).sqrt()) as f32);
        let d = config.ema_decay.min((1.0 + n) / (10.0 + n)) as f32;
        let (b1, b2, eps) = (b1 as f32, b2 as f32, config.eps as f32);
        for (p, decay) in [0.0, (lr * config.weight_decay) as f32].into_iter().enumerate() {
            let (m, v, ema) = &mut state[p];
            for (j, w) in old[p].iter_mut().enumerate() {
                let g = grads[p][j] * clip;
                m[j] = b1 * m[j] + (1.0 - b1) * g;
                v[j] = b2 * v[j] + (1.0 - b2) * g * g;
                *w = (1.0 - decay) * *w - step_size * m[j] / (v[j].sqrt() * root + eps);
                ema[j] = d * ema[j] + (1.0 - d) * *w;
            }
        }
        let averaged = adam.ema().unwrap();
        for (p, (key, var)) in vars.iter().enumerate() {
            assert_eq!(values(var), old[p], "{key} at {i}");
            let averaged: Vec<f32> = averaged[key].flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(averaged, state[p].2, "average of {key} at {i}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let vars = parameters(&golden()["adamw"]["plain"]["start"]);
    let mut adam = AdamW::new(OptimizerConfig::default(), vars.clone()).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let grads = [vec![1.0, bad, 0.0], vec![1.0; 6]];
        let before: Vec<_> = vars.iter().map(|(_, var)| values(var)).collect();
        let error = adam.update(&store(&vars, &grads), 0.1).unwrap_err().to_string();
        assert!(error.contains("not finite at step 0"), "{error}");
        let after: Vec<_> = vars.iter().map(|(_, var)| values(var)).collect();
        assert_eq!((before, adam.step()), (after, 0));
    }
}

#[test]
fn the_moving_average_matches_diffusers() {
    let golden = golden();
    let diffusers = EmaWarmup { update_after_step: 0, ..Default::default() };
    let late = EmaWarmup { update_after_step: 5, min_decay: 0.25, ..Default::default() };
    let power = EmaWarmup { inv_gamma: Some(2.0), power: 0.75, ..diffusers.clone() };
    for (name, decay, warmup) in
        [("ratio", 0.5, diffusers), ("late", 0.9, late), ("power", 0.9999, power)]
    {
        warmup.validate(decay).unwrap();
        let case = &golden["ema"][name];
        let mut ema = single(&case["start"]);
        let mut worst = 0.0f64;
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let d = warmup.decay_at(i + 1, decay);
            let expected = step["decay"].as_f64().unwrap();
            assert!((d - expected).abs() < 1e-12, "{name}, update {}: {d} {expected}", i + 1);
            average(&mut ema, &single(&step["weights"]), d as f32);
            worst = worst.max(error(&ema, &numbers(&step["ema"])));
        }
        println!("ema {name}: {worst:.1e}");
        assert!(worst < 1e-6, "{name}: {worst}");
    }
}

#[test]
fn schedules_match_diffusers() {
    for case in golden()["schedules"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut table = format!("type = \"{name}\"\n");
        if let Some(cycles) = case.get("num_cycles") {
            table += &format!("num_cycles = {:.1}\n", cycles.as_f64().unwrap());
        }
        let schedule: LrSchedule = toml::from_str(&table).unwrap();
        schedule.validate().unwrap();
        let integer = |key: &str| case[key].as_u64().unwrap() as usize;
        for (step, expected) in numbers(&case["lr"]).into_iter().enumerate() {
            let got = schedule.lr_at(0.5, [step, integer("total"), integer("warmup")], 0.0);
            assert!((got - expected).abs() < 1e-12, "{name}, step {step}: {got} {expected}");
        }
    }
    // transformers' `get_inverse_sqrt_schedule`, from its formula: continuous at the end of the warm-up.
    let schedule = LrSchedule::InverseSqrt { timescale: None };
    for (step, expected) in [(0, 0.0), (50, 0.5), (100, 1.0), (400, 0.5), (10_000, 0.1)] {
        let got = schedule.lr_at(1.0, [step, 10_000, 100], 0.0);
        assert!((got - expected).abs() < 1e-12, "step {step}: {got}");
    }
}

/// Old recipes say nothing of a schedule: the same rate to the bit at every step.
#[test]
fn old_recipes_read_and_give_the_rate_they_always_gave() {
    for file in ["recipe.toml", "recipe-1.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow").join(file);
        let recipe = Recipe::load(&path, &[]).unwrap();
        let (config, total) = (&recipe.optimizer, recipe.train.steps);
        let again = toml::to_string(config).unwrap();
        for new in ["lr_scheduler", "ema_warmup", "grad_clip_value"] {
            assert!(!again.contains(new), "{file}: {new} is written though it is the default");
        }
        for step in 0..=total + 10 {
            let old = if step < config.warmup_steps {
                config.lr * (step + 1) as f64 / config.warmup_steps as f64
            } else {
                let span = total.saturating_sub(config.warmup_steps).max(1) as f64;
                let progress = ((step - config.warmup_steps) as f64 / span).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                config.lr * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * cosine)
            };
            assert_eq!(config.lr_at(step, total).to_bits(), old.to_bits(), "{file}, {step}");
        }
    }
}

#[test]
fn recipes_name_schedule_and_average_and_bad_ones_are_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow/recipe.toml");
    let load = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|o| format!("optimizer.{o}")).collect();
        Recipe::load(&path, &overrides)
    };
    let recipe = load(&[
        "lr_scheduler={type=\"cosine\", num_cycles=1.5}",
        "ema_warmup={update_after_step=100, inv_gamma=1.0}",
        "grad_clip_norm=0.0",
        "grad_clip_value=0.5",
    ]);
    let config = recipe.unwrap().optimizer;
    assert_eq!(config.lr_scheduler, LrSchedule::Cosine { num_cycles: 1.5 });
    assert_eq!(config.ema_warmup.update_after_step, 100);
    assert_eq!(
        toml::from_str::<OptimizerConfig>(&toml::to_string(&config).unwrap()).unwrap(),
        config
    );
    for (overrides, named) in [
        (&["lr_scheduler={type=\"cosinus\"}"][..], "cosinus"),
        (&["lr_scheduler={type=\"linear\", num_cycles=1.0}"], "num_cycles"),
        (&["lr_scheduler={type=\"cosine\", num_cycles=0.0}"], "num_cycles"),
        (&["lr_scheduler={type=\"inverse_sqrt\", timescale=-1.0}"], "timescale"),
        (&["lr_scheduler={type=\"linear\"}", "final_lr_ratio=0.1"], "final_lr_ratio"),
        (&["grad_clip_value=0.5"], "grad_clip_value"),
        (&["grad_clip_norm=-1.0"], "grad_clip_norm"),
        (&["ema_warmup={power=0.0}"], "power"),
        (&["ema_warmup={min_decay=0.9999}"], "min_decay"),
        (&["ema_warmup={gamma=1.0}"], "gamma"),
    ] {
        let error = load(overrides).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
