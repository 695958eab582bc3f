//! diffusers' schedulers, k-diffusion's samplers and torchdiffeq's Dopri5, reproduced from their
//! recorded trajectories.
//!
//! tests/golden/samplers.py ran them on the closed-form network below, once as they are (f32) and
//! once with their float32 replaced by float64: there only the formulas can differ. The relative
//! error is the largest difference of a state over the largest number of that state, over all
//! states of a trajectory.
//!
//! Quirks of theirs, each reproduced with an explicit grid or the public step:
//! - DDIM goes to t − ⌊N/n⌋ and not to the next timestep: other places on linspace grids, and on
//!   trailing ones where n does not divide N.
//! - Euler, EulerAncestral and Heun walk linspace timesteps that are not whole, with σ/α linear
//!   between those of the table: `Interpolation::Linear`. On Karras and exponential grids the
//!   timestep comes from ln σ: `Interpolation::LogLinear`.
//! - DPMSolverMultistep on a Karras grid hands the network rounded timesteps, and steps between the
//!   σ that are not.
//! - FlowMatchEuler shifts its default grid twice.
//! - DDPM adds noise of variance 1e-20 in a last step that does not start at 0: added by hand.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use pathline::flow::clip::{Limit, Residue, limited};
use pathline::flow::denoiser::{denoiser, retimed};
use pathline::flow::schedule::{DiscreteConfig, Interpolation};
use pathline::flow::{Denoiser, Discrete, Path, Target};
use pathline::solver::grid::{self, DynamicShift};
use pathline::solver::spacing::{Family, Spacing, spaced};
use pathline::solver::transfer::{Noising, step};
use pathline::solver::{Adaptive, Sampler, adaptive};
use serde_json::Value;

struct Golden {
    tensors: HashMap<String, Tensor>,
    meta: HashMap<String, String>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/samplers.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    Golden { tensors, meta: meta.metadata().clone().unwrap() }
}

impl Golden {
    fn json(&self, key: &str) -> Vec<Value> {
        serde_json::from_str(&self.meta[key]).unwrap()
    }
}

const MIXTURE: [(f64, f64, f64); 3] = [(0.5, -1.2, 0.3), (0.3, 0.4, 0.5), (0.2, 1.3, 0.2)];

/// E[data | x] and E[noise | x] of one number of the mixture, at alpha·data + sigma·noise = x.
fn posterior(x: f64, alpha: f64, sigma: f64) -> (f64, f64) {
    let (mut total, mut data, mut noise) = (0.0, 0.0, 0.0);
    for (weight, mean, std) in MIXTURE {
        let variance = (alpha * std).powi(2) + sigma * sigma;
        let off = x - alpha * mean;
        let share = weight / variance.sqrt() * (-0.5 * off * off / variance).exp();
        total += share;
        data += share * (mean + alpha * std * std / variance * off);
        noise += share * sigma / variance * off;
    }
    (data / total, noise / total)
}

/// The network: computed in f64, in and out in the dtype of the state.
fn network(path: &Path, target: Target, x: &Tensor, t: f64) -> pathline::Result<Tensor> {
    let coef = path.at(t);
    let (p, q) = target.weights(&coef);
    let out: Vec<f64> = x
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?
        .into_iter()
        .map(|x| {
            let (data, noise) = posterior(x, coef.alpha, coef.sigma);
            p * data + q * noise
        })
        .collect();
    Ok(Tensor::from_vec(out, x.dims(), x.device())?.to_dtype(x.dtype())?)
}

/// What a case of the golden file says of itself.
struct Case<'a> {
    value: &'a Value,
    scheduler: &'a str,
    steps: usize,
}

impl Case<'_> {
    fn number(&self, key: &str, default: f64) -> f64 {
        self.value.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    fn says(&self, key: &str) -> bool {
        self.value.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, key: &str, default: &'static str) -> &str {
        self.value.get(key).and_then(Value::as_str).unwrap_or(default)
    }

    fn target(&self) -> Target {
        match self.text("prediction_type", "") {
            "flow" => Target::Velocity,
            name => serde_json::from_value(Value::from(name)).unwrap(),
        }
    }

    /// Neither Karras nor exponential deviations.
    fn on_timesteps(&self) -> bool {
        !self.says("use_karras_sigmas") && !self.says("use_exponential_sigmas")
    }

    fn path(&self) -> Path {
        if self.scheduler == "FlowMatchEulerDiscreteScheduler" {
            return Path::Straight;
        }
        let schedule = Value::from(self.text("beta_schedule", "linear"));
        let table = Discrete::new(DiscreteConfig {
            beta_schedule: serde_json::from_value(schedule).unwrap(),
            beta_start: self.number("beta_start", 0.0001),
            beta_end: self.number("beta_end", 0.02),
            rescale_betas_zero_snr: self.says("rescale_betas_zero_snr"),
            interpolation_type: match self.on_timesteps() {
                true => Interpolation::Linear,
                false => Interpolation::LogLinear,
            },
            ..DiscreteConfig::default()
        });
        Path::Discrete(table.unwrap())
    }

    /// The times of the path that the scheduler steps over.
    fn grid(&self, path: &Path) -> Vec<f64> {
        let n = self.steps;
        let (family, default) = match self.scheduler {
            "DDPMScheduler" | "DDIMScheduler" => (Family::Ddpm, "leading"),
            "DPMSolverMultistepScheduler" => (Family::DpmSolver, "linspace"),
            _ => (Family::Euler, "linspace"),
        };
        if self.scheduler == "FlowMatchEulerDiscreteScheduler" {
            let shift = self.number("shift", 1.0);
            let mut times = if self.says("use_dynamic_shifting") {
                let shift = DynamicShift::default().shift(1024);
                grid::shifted(&grid::uniform(1.0, 1.0 / n as f64, n - 1).unwrap(), shift).unwrap()
            } else {
                // The table's own last time is shifted, and then the grid made of it once more.
                let least = grid::shift(0.001, shift);
                grid::shifted(&grid::uniform(1.0, least, n - 1).unwrap(), shift).unwrap()
            };
            times.push(0.0);
            return times;
        }
        let (max, min) = (path.at(999.0).sigma_hat(), path.at(0.0).sigma_hat());
        if self.says("use_karras_sigmas") {
            return grid::times_of(path, &grid::karras(n, max, min, 7.0).unwrap()).unwrap();
        }
        if self.says("use_exponential_sigmas") {
            return grid::times_of(path, &grid::exponential(n, max, min).unwrap()).unwrap();
        }
        let spacing = self.text("timestep_spacing", default);
        let spacing: Spacing = serde_json::from_value(Value::from(spacing)).unwrap();
        let offset = self.number("steps_offset", 0.0) as usize;
        spaced(spacing, family, 1000, n, offset).unwrap()
    }

    fn sampler(&self) -> Sampler {
        let name = match self.scheduler {
            "DDPMScheduler" => "ddpm",
            "EulerDiscreteScheduler" => "euler",
            "EulerAncestralDiscreteScheduler" => "euler_ancestral",
            "HeunDiscreteScheduler" => "heun",
            "DPMSolverMultistepScheduler" => match self.text("algorithm_type", "dpmsolver++") {
                "dpmsolver++" => "dpmpp_2m",
                _ => "dpmpp_2m_sde",
            },
            "FlowMatchEulerDiscreteScheduler" => match self.says("stochastic_sampling") {
                true => "flow_match_stochastic",
                false => "flow_match_euler",
            },
            _ => "ddim",
        };
        Sampler::by_name(name).unwrap()
    }

    fn limit(&self) -> Option<(Limit, Residue)> {
        let anew = self.scheduler == "DDPMScheduler" || self.says("use_clipped_model_output");
        let residue = if anew { Residue::Recomputed } else { Residue::Kept };
        if self.says("thresholding") {
            let (ratio, max) = ("dynamic_thresholding_ratio", "sample_max_value");
            let (ratio, max) = (self.number(ratio, 0.995), self.number(max, 1.0));
            return Some((Limit::Dynamic { ratio, max }, residue));
        }
        let range = self.number("clip_sample_range", 1.0);
        self.says("clip_sample").then_some((Limit::Clip { range }, residue))
    }

    /// Our states, scaled as the scheduler's are.
    fn states(&self, start: &Tensor, noise: &Tensor) -> Vec<Tensor> {
        let (path, target) = (self.path(), self.target());
        let rounded = self.scheduler == "DPMSolverMultistepScheduler" && !self.on_timesteps();
        let mut plain = denoiser(&path, target, |x, t| {
            let heard = if rounded { t.round_ties_even() } else { t };
            network(&path, target, x, heard)
        });
        let mut clipped;
        let bound: &mut Denoiser<'_> = match self.limit() {
            Some((limit, residue)) => {
                clipped = limited(&path, limit, residue, &mut plain).unwrap();
                &mut clipped
            }
            None => &mut plain,
        };
        let grid = self.grid(&path);
        let mut states = Vec::new();
        let mut draw = |i: usize, x: &Tensor| Ok(noise.get(i)?.to_dtype(x.dtype())?);
        match self.scheduler {
            "DDIMScheduler" => {
                let noising = Noising::Eta(self.number("eta", 0.0));
                let last = if self.value.get("set_alpha_to_one") == Some(&Value::Bool(false)) {
                    path.at(0.0)
                } else {
                    path.at(-1.0)
                };
                let mut x = start.clone();
                states.push(x.clone());
                for (i, t) in grid[..self.steps].iter().enumerate() {
                    let back = t - (1000 / self.steps) as f64;
                    let to = if back < 0.0 { last } else { path.at(back) };
                    let z = draw(i, &x).unwrap();
                    let estimate = bound(&x, *t).unwrap();
                    x = step(&path.at(*t), &to, noising, &estimate, Some(&z)).unwrap();
                    states.push(x.clone());
                }
            }
            "HeunDiscreteScheduler" => {
                let sigmas: Vec<f64> = grid.iter().map(|t| path.at(*t).sigma_hat()).collect();
                let edm = Path::Edm { sigma_max: sigmas[0] };
                let x = start.affine(sigmas[0].hypot(1.0), 0.0).unwrap();
                let mut keep = |_: usize, _: f64, x: &Tensor| {
                    states.push(x.clone());
                    Ok(())
                };
                let mut field = retimed(&path, &edm, bound);
                let solution =
                    self.sampler().run(&mut field, &edm, x, &sigmas, &mut draw, &mut keep).unwrap();
                assert_eq!(solution.nfe, 2 * self.steps - 1);
            }
            name => {
                let unit_data = name.starts_with("Euler");
                let mut keep = |_: usize, t: f64, x: &Tensor| {
                    let scale = if unit_data { 1.0 / path.at(t).alpha } else { 1.0 };
                    states.push(x.affine(scale, 0.0)?);
                    Ok(())
                };
                let x = start.clone();
                let solution =
                    self.sampler().run(bound, &path, x, &grid, &mut draw, &mut keep).unwrap();
                assert_eq!(solution.nfe, self.steps);
                if name == "DDPMScheduler" && grid[self.steps - 1] > 0.0 {
                    let z = draw(self.steps - 1, &solution.x).unwrap();
                    states[self.steps] = (solution.x + (z * 1e-10).unwrap()).unwrap();
                }
            }
        }
        states
    }
}

fn worst(states: &[Tensor], golden: &Tensor) -> f64 {
    assert_eq!(states.len(), golden.dims()[0]);
    let numbers = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        x.to_vec1::<f64>().unwrap()
    };
    let mut worst = 0f64;
    for (i, state) in states.iter().enumerate() {
        let (ours, theirs) = (numbers(state), numbers(&golden.get(i).unwrap()));
        let size = theirs.iter().fold(0f64, |m, x| m.max(x.abs()));
        let gap = ours.iter().zip(&theirs).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(gap.is_finite());
        worst = worst.max(gap / size);
    }
    worst
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let golden = golden();
    let cases = golden.json("cases");
    let (start, noise) = (&golden.tensors["start"], &golden.tensors["noise"]);
    let mut families: Vec<(String, usize, f64, f64)> = Vec::new();
    for value in &cases {
        let name = value["name"].as_str().unwrap();
        let scheduler = value["scheduler"].as_str().unwrap();
        let case = Case { value, scheduler, steps: value["steps"].as_u64().unwrap() as usize };
        let [f32, f64] = [DType::F32, DType::F64].map(|dtype| {
            let states = case.states(&start.to_dtype(dtype).unwrap(), noise);
            let suffix = if dtype == DType::F32 { "f32" } else { "f64" };
            worst(&states, &golden.tensors[&format!("{name}.{suffix}")])
        });
        let of = |suffix: &str| &golden.tensors[&format!("{name}.{suffix}")];
        let rows: Vec<Tensor> = (0..=case.steps).map(|i| of("f32").get(i).unwrap()).collect();
        let own = worst(&rows, of("f64"));
        println!("{name:36} f32 {f32:.1e}  f64 {f64:.1e}  (their f32 against their f64 {own:.1e})");
        match families.iter_mut().find(|family| family.0 == scheduler) {
            Some(family) => {
                *family = (family.0.clone(), family.1 + 1, family.2.max(f32), family.3.max(f64));
            }
            None => families.push((scheduler.to_owned(), 1, f32, f64)),
        }
    }
    for (name, count, f32, f64) in &families {
        println!("| {name} | {count} | {f32:.1e} | {f64:.1e} |");
    }
    assert_eq!((cases.len(), families.len()), (88, 7));
    for (name, _, f32, f64) in &families {
        assert!(*f32 < 1e-5, "{name}: f32 {f32:e}");
        assert!(*f64 < 1e-13, "{name}: f64 {f64:e}");
    }
}

#[test]
fn other_samplers_and_other_grids_are_caught() {
    // Broken twins: the neighbour of a sampler, the neighbour of a grid, the noise of another step.
    let golden = golden();
    let cases = golden.json("cases");
    let (start, noise) = (&golden.tensors["start"], &golden.tensors["noise"]);
    let shuffled = noise.flip(&[0]).unwrap();
    for (name, other) in [
        ("ddpm.leading.epsilon", r#"{"timestep_spacing":"trailing"}"#),
        ("ddpm.clip", r#"{"clip_sample_range":0.9}"#),
        ("ddim.clip", r#"{"use_clipped_model_output":true}"#),
        ("ddim.leading.sample.eta0.5", r#"{"eta":0.49}"#),
        ("ddim.first_alpha", r#"{"set_alpha_to_one":true}"#),
        ("euler.trailing.epsilon", r#"{"scheduler":"HeunDiscreteScheduler"}"#),
        ("dpmsolver++.trailing.sample", r#"{"algorithm_type":"sde-dpmsolver++"}"#),
        ("flow.shift3", r#"{"shift":2.0}"#),
        ("sde-dpmsolver++.trailing.sample", "{}"),
        ("euler_ancestral.trailing.epsilon", "{}"),
    ] {
        let mut value = cases.iter().find(|case| case["name"] == name).unwrap().clone();
        let change: BTreeMap<String, Value> = serde_json::from_str(other).unwrap();
        let noise = if change.is_empty() { &shuffled } else { noise };
        for (key, change) in change {
            value[key] = change;
        }
        let scheduler = value["scheduler"].as_str().unwrap().to_owned();
        let steps = value["steps"].as_u64().unwrap() as usize;
        let case = Case { value: &value, scheduler: &scheduler, steps };
        let gap = worst(&case.states(start, noise), &golden.tensors[&format!("{name}.f64")]);
        assert!(gap > 1e-4, "{name} with {other}: {gap:e}");
    }
}

#[test]
fn trajectories_are_those_of_k_diffusion() {
    let golden = golden();
    let theirs = golden.tensors["k.sigmas"].to_vec1::<f64>().unwrap();
    let sigmas = grid::karras(10, 15.0, 0.03, 7.0).unwrap();
    // Theirs are made in f32.
    assert!(sigmas.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-6 * a));
    let path = Path::Edm { sigma_max: theirs[0] };
    let noise = &golden.tensors["noise"];
    for (name, sampler) in [
        ("euler", Sampler::by_name("euler").unwrap()),
        ("euler_ancestral", Sampler::Transfer { noising: Noising::Eta(0.5) }),
        ("heun", Sampler::by_name("heun").unwrap()),
        ("dpmpp_2m", Sampler::by_name("dpmpp_2m").unwrap()),
        ("dpmpp_2m_sde", Sampler::Multistep2 { eta: 0.5 }),
    ] {
        let mut states = Vec::new();
        let mut keep = |_: usize, _: f64, x: &Tensor| {
            states.push(x.clone());
            Ok(())
        };
        let mut draw = |i: usize, _: &Tensor| Ok(noise.get(i)?);
        let x = (&golden.tensors["start"] * theirs[0]).unwrap();
        let mut field = denoiser(&path, Target::Data, |x, t| network(&path, Target::Data, x, t));
        sampler.run(&mut field, &path, x, &theirs, &mut draw, &mut keep).unwrap();
        let gap = worst(&states, &golden.tensors[&format!("k.{name}")]);
        println!("k-diffusion {name}: f64 {gap:.1e}");
        assert!(gap < 1e-13, "{name}: {gap:e}");
    }
}

#[test]
fn dopri5_is_torchdiffeq_s() {
    let golden = golden();
    let path = Path::Straight;
    for solve in golden.json("solves") {
        let number = |key: &str| solve[key].as_f64().unwrap();
        let (name, rtol) = (solve["name"].as_str().unwrap(), number("rtol"));
        let times: Vec<f64> = serde_json::from_value(solve["times"].clone()).unwrap();
        let control = Adaptive { rtol, atol: number("atol"), ..Adaptive::default() };
        let mut states = Vec::new();
        let mut keep = |_: usize, _: f64, x: &Tensor| {
            states.push(x.clone());
            Ok(())
        };
        let mut field = |x: &Tensor, t: f64| network(&path, Target::Velocity, x, t);
        let start = golden.tensors["start"].clone();
        let solution = adaptive(&mut field, start, &times, &control, &mut keep).unwrap();
        let gap = worst(&states, &golden.tensors[name]);
        let theirs = number("nfe") as usize;
        println!(
            "{name}: nfe {} ({} accepted, {} rejected), theirs {theirs}, and {} where it may step \
             beyond the end; gap {gap:.1e}",
            solution.nfe, solution.accepted, solution.rejected, solve["nfe_beyond"]
        );
        assert!(solution.nfe.abs_diff(theirs) <= 6, "{name}");
        assert!(gap < 1e-6, "{name}: {gap:e}");
    }
}
