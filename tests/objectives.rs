//! Training objectives against torchcfm, diffusers and closed forms.
//!
//! tests/golden/objectives.py made the golden file and says what is in it.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use pathline::Error;
use pathline::flow::schedule::{BetaSchedule, DiscreteConfig};
use pathline::flow::vlb::{Decoder, Step, Variance, Vlb, variance};
use pathline::flow::{
    Bridge, Coef, Discrete, Estimate, Noise, Objective, Path, Target, TimeLaw, Weight, marginal,
};

fn golden() -> HashMap<String, Tensor> {
    let bytes = include_bytes!("golden/objectives.safetensors");
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The largest difference over the largest magnitude (at least 1).
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1.0, |m: f64, b| m.max(b.abs()));
    a.iter().zip(&b).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs())) / scale
}

fn normal(sample: u64, shape: &[usize]) -> Tensor {
    let z = Noise::new(4).normal(sample, 0, shape.iter().product());
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn cfm(path: Path, bridge: Bridge) -> Objective {
    Objective { path, bridge, ..Default::default() }
}

#[test]
fn states_and_targets_are_torchcfm_s() {
    let golden = golden();
    for (dtype, bound) in [("f32", 1e-6), ("f64", 1e-12)] {
        let at = |key: &str| &golden[&format!("cfm/{dtype}/{key}")];
        let (x0, x1, eps, t) = (at("x0"), at("x1"), at("eps"), values(at("t")));
        let tube = Bridge::Constant { sigma: 0.1 };
        let bridge = Bridge::Schrodinger { sigma: 0.7 };
        for (name, objective, noise, extra) in [
            ("icfm", cfm(Path::StraightReversed, Bridge::None), x0, None),
            ("icfm_sigma", cfm(Path::StraightReversed, tube), x0, Some(eps)),
            ("target", cfm(Path::Lipman { sigma_min: 0.1 }, Bridge::None), eps, None),
            ("sb", cfm(Path::StraightReversed, bridge), x0, Some(eps)),
            ("vp", cfm(Path::CosineReversed, Bridge::None), x0, None),
            ("vp_sigma", cfm(Path::CosineReversed, tube), x0, Some(eps)),
        ] {
            let batch = objective.batch(x1, noise, extra, &t).unwrap();
            let (mut u_t, x_t) = (batch.target, at(&format!("{name}/x_t")));
            let exact = gap(&u_t, at(&format!("{name}/u_t")));
            if name == "sb" {
                // torchcfm adds 1e-8 to 2t(1 − t): the bridge's own part of u is less by that much.
                let less: Vec<f64> = t
                    .iter()
                    .map(|&t| {
                        let (_, d_gamma) = bridge.at(&objective.path, t).unwrap();
                        -d_gamma * 1e-8 / (2.0 * t * (1.0 - t) + 1e-8)
                    })
                    .collect();
                let less = Tensor::from_vec(less, (t.len(), 1, 1), &Device::Cpu).unwrap();
                let less = less.to_dtype(eps.dtype()).unwrap();
                u_t = (u_t + eps.broadcast_mul(&less).unwrap()).unwrap();
            }
            let (state, field) = (gap(&batch.x_t, x_t), gap(&u_t, at(&format!("{name}/u_t"))));
            println!("{dtype} {name}: x_t {state:.1e}, u_t {field:.1e} (exact bridge {exact:.1e})");
            assert!(state < bound && field < bound, "{dtype} {name}: {state} {field}");
            assert!(exact < 1e-6, "{dtype} {name}: {exact}");
        }
        // The broken twin: a path that runs the other way.
        let twin = cfm(Path::Straight, Bridge::None).batch(x1, x0, None, &t).unwrap();
        assert!(gap(&twin.x_t, at("icfm/x_t")) > 0.1 && gap(&twin.target, at("icfm/u_t")) > 0.1);
    }
}

#[test]
fn states_targets_and_weights_are_diffusers() {
    let golden = golden();
    let at = |key: &str| &golden[&format!("ddpm/{key}")];
    let t = values(at("t"));
    for (name, beta_schedule, beta_start, beta_end) in [
        ("linear", BetaSchedule::Linear, 1e-4, 0.02),
        ("scaled_linear", BetaSchedule::ScaledLinear, 0.00085, 0.012),
        ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2, 1e-4, 0.02),
    ] {
        let config = DiscreteConfig { beta_schedule, beta_start, beta_end, ..Default::default() };
        let path = Path::Discrete(Discrete::new(config).unwrap());
        let batch = |target, weight| {
            Objective { path: path.clone(), target, weight, ..Default::default() }
                .batch(at("x0"), at("eps"), None, &t)
                .unwrap()
        };
        let v = batch(Target::V, Weight::Unit);
        // Their table is an f32 product of a thousand factors. What differs is the table: as much as
        // its coefficients do, on data and noise of at most 4, and the rounding of f32 beside it.
        let state = gap(&v.x_t, at(&format!("{name}/x_t")));
        let field = gap(&v.target, at(&format!("{name}/v")));
        let snr = values(at(&format!("{name}/snr")));
        let coefficient = |(t, snr): (&f64, &f64)| {
            let (c, bar) = (path.at(*t), snr / (1.0 + snr));
            (c.alpha - bar.sqrt()).abs() + (c.sigma - (1.0 / (1.0 + snr)).sqrt()).abs()
        };
        let bound = 4.0 * t.iter().zip(&snr).map(coefficient).fold(0.0, f64::max) + 3e-7;
        println!("{name}: x_t {state:.1e}, v {field:.1e}, explained by the table {bound:.1e}");
        assert!(state < bound && field < bound && bound < 1e-5, "{name}: {state} {field} {bound}");
        let mut worst = 0.0f64;
        let mut compare = |ours: &[f64], theirs: &Tensor, index: usize| {
            let theirs = values(theirs)[index];
            worst = worst.max((ours[index] / theirs - 1.0).abs());
        };
        for i in 0..t.len() {
            let snr: Vec<f64> = t.iter().map(|&t| path.at(t).snr()).collect();
            compare(&snr, at(&format!("{name}/snr")), i);
            for (target, of) in
                [(Target::Noise, "epsilon"), (Target::Data, "sample"), (Target::V, "v_prediction")]
            {
                let ours = batch(target, Weight::MinSnr { gamma: 5.0 }).weight;
                compare(&ours, at(&format!("{name}/weight_{of}")), i);
            }
        }
        println!("{name}: SNR and min-SNR weights {worst:.1e}");
        // Relative error of 1 − ᾱ_0 in f32 where ᾱ_0 is nearly 1, of ᾱ after 1000 products.
        assert!(worst < 2e-3, "{name}: {worst}");
        // The broken twin: min-SNR with the noise's formula for v.
        let noise = batch(Target::Noise, Weight::MinSnr { gamma: 5.0 }).weight;
        let wrong = values(at(&format!("{name}/weight_v_prediction")))[5];
        assert!((noise[5] / wrong - 1.0).abs() > 2e-3, "{name}");
    }
}

#[test]
fn the_bound_s_terms_are_those_of_the_script() {
    let golden = golden();
    let at = |key: &str| &golden[&format!("vlb/{key}")];
    let betas = values(at("betas"));
    let config = DiscreteConfig {
        num_train_timesteps: betas.len(),
        trained_betas: Some(betas.clone()),
        ..Default::default()
    };
    let table = Discrete::new(config).unwrap();
    let (x0, path) = (at("x0"), Path::Discrete(table.clone()));
    let nats = x0.dim(1).unwrap() as f64 * std::f64::consts::LN_2;
    let close = |bits: &[f64], theirs: &Tensor| {
        let pairs = bits.iter().zip(values(theirs));
        pairs.fold(0.0f64, |m, (b, t)| m.max((b * nats / t - 1.0).abs()))
    };
    for (name, variance) in
        [("fixed_small", Variance::FixedSmall), ("fixed_large", Variance::FixedLarge)]
    {
        let vlb = Vlb { table: table.clone(), variance, decoder: Decoder::Discretised };
        let prior = vlb.prior(x0).unwrap();
        let mut worst = close(&prior, at(&format!("{name}/prior")));
        for t in 0..betas.len() {
            let row = |key: &str| at(key).get(t).unwrap();
            let coef = path.at(t as f64);
            let estimate = Estimate { data: x0.clone(), noise: row("eps") };
            let x_t = estimate.state(&coef).unwrap();
            let term = vlb.term(t, x0, &x_t, &row("guess")).unwrap();
            worst = worst.max(close(&term, &at(&format!("{name}/terms")).get(t).unwrap()));
        }
        println!("{name}: largest relative error of a term {worst:.1e}");
        assert!(worst < 1e-9, "{name}: {worst}");
    }
}

#[test]
fn the_bound_of_a_gaussian_is_above_its_entropy_and_close() {
    // Data N(m, s²) and the exact posterior mean: every term has a closed form.
    let (m, s2) = (0.3, 0.25f64);
    let n = 4000;
    let data = normal(0, &[n, 1]).affine(s2.sqrt(), m).unwrap();
    let entropy = 0.5 * (std::f64::consts::TAU * s2).ln() + 0.5;
    let entropy = entropy / std::f64::consts::LN_2;
    let mut gaps = Vec::new();
    for steps in [20, 100, 400] {
        let (start, end) = (0.1 / steps as f64, 20.0 / steps as f64);
        let config = DiscreteConfig {
            num_train_timesteps: steps,
            beta_start: start.min(0.5),
            beta_end: end.min(0.9),
            ..Default::default()
        };
        let table = Discrete::new(config).unwrap();
        let path = Path::Discrete(table.clone());
        let vlb = Vlb {
            table: table.clone(),
            variance: Variance::FixedLarge,
            decoder: Decoder::Continuous,
        };
        let share = |c: &Coef| c.alpha * s2 / (c.alpha * c.alpha * s2 + c.sigma * c.sigma);
        let mut exact = |x: &Tensor, t: f64| {
            let c = path.at(t);
            let mean = x.affine(share(&c), m - share(&c) * c.alpha * m)?;
            Estimate::from_data(&c, x, &mean)
        };
        let bound = vlb.bound(&data, &Noise::new(9), 0, &mut exact).unwrap().total();
        let mean = bound.iter().sum::<f64>() / n as f64;
        let spread = bound.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / n as f64;
        let error = (spread / n as f64).sqrt();

        let bar = table.alphas_cumprod()[steps - 1];
        let mut want = 0.5 * (bar * (m * m + s2) - bar - (1.0 - bar).ln());
        let mut decoder = 0.0;
        for t in 0..steps {
            let (c, v) = (path.at(t as f64), variance(&table, Variance::FixedLarge, t).unwrap());
            let step = Step::new(&table, t).unwrap();
            let left = s2 * (1.0 - share(&c) * c.alpha);
            want += if t == 0 {
                // The last step's variance is fixed: what that costs does not fall with the steps.
                decoder = 0.5 * (left / v - 1.0 - (left / v).ln()) / std::f64::consts::LN_2;
                0.5 * ((std::f64::consts::TAU * v).ln() + left / v)
            } else {
                let r = step.beta_tilde / v;
                0.5 * (step.of_data.powi(2) * left / v + r - 1.0 - r.ln())
            };
        }
        let want = want / std::f64::consts::LN_2;
        println!(
            "{steps} steps: bound {mean:.4} ± {error:.4}, closed form {want:.4}, entropy {entropy:.4}"
        );
        assert!((mean - want).abs() < 5.0 * error, "{steps}: {mean} {want} {error}");
        assert!(want > entropy, "{steps}: {want} {entropy}");
        gaps.push(want - entropy - decoder);
        // The broken twin: an estimate that is off by a little has a looser bound.
        let mut off = |x: &Tensor, t: f64| {
            let c = path.at(t);
            Estimate::from_data(&c, x, &x.affine(share(&c), 0.0)?)
        };
        let twin = vlb.bound(&data, &Noise::new(9), 0, &mut off).unwrap().total();
        assert!(twin.iter().sum::<f64>() / n as f64 > mean + 5.0 * error);
    }
    assert!(gaps[2] < gaps[1] && gaps[1] < gaps[0], "{gaps:?}");
    assert!(gaps[2] < 0.3, "{gaps:?}");
}

#[test]
fn losses_of_all_targets_are_one_loss_in_other_units() {
    let (data, noise, wrong) = (normal(0, &[5, 3]), normal(1, &[5, 3]), normal(2, &[5, 3]));
    for path in [
        Path::Straight,
        Path::Lipman { sigma_min: 0.1 },
        Path::CosineReversed,
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        Path::Edm { sigma_max: 3.0 },
    ] {
        let t = [0.1, 0.3, 0.5, 0.7, 0.95];
        let loss = |target, weight| {
            let objective = Objective { path: path.clone(), target, weight, ..Default::default() };
            let batch = objective.batch(&data, &noise, None, &t).unwrap();
            // One opinion of the data, in the words of every target.
            let rows: Vec<Tensor> = (0..5)
                .map(|i| {
                    let (c, row) = (path.at(t[i]), |x: &Tensor| x.narrow(0, i, 1).unwrap());
                    let estimate = Estimate::from_data(&c, &row(&batch.x_t), &row(&wrong));
                    estimate.unwrap().output(target, &c).unwrap()
                })
                .collect();
            let output = Tensor::cat(&rows, 0).unwrap();
            batch.loss(&output, None).unwrap().to_scalar::<f64>().unwrap()
        };
        for seen in Target::ALL {
            let plain = loss(seen, Weight::Unit);
            for emitted in Target::ALL {
                let same = loss(emitted, Weight::As(seen));
                assert!((same / plain - 1.0).abs() < 1e-11, "{path:?} {seen:?} {emitted:?}");
                for weight in [
                    Weight::Snr,
                    Weight::MinSnr { gamma: 5.0 },
                    Weight::Truncated,
                    Weight::Edm { sigma_data: 0.5 },
                ] {
                    let ratio = loss(emitted, weight) / loss(seen, weight);
                    assert!((ratio - 1.0).abs() < 1e-11, "{path:?} {weight:?} {emitted:?}");
                }
            }
        }
        // The broken twin: without the weight they are different losses.
        let twin = loss(Target::Noise, Weight::Unit) / loss(Target::Data, Weight::Unit);
        assert!((twin - 1.0).abs() > 1e-3, "{path:?}");
    }
}

#[test]
fn every_target_and_weight_has_the_closed_form_minimiser() {
    // Data N(1, 1/4): E[p·data + q·noise | x_t] is linear in x_t. A weight that depends on the time
    // alone does not move it, here at one time each.
    let n = 40_000;
    let (data, noise) = (normal(0, &[n, 1]).affine(0.5, 1.0).unwrap(), normal(1, &[n, 1]));
    let weights = [Weight::Unit, Weight::MinSnr { gamma: 5.0 }, Weight::Truncated];
    for path in [Path::StraightReversed, Path::Cosine] {
        for target in Target::ALL {
            for (weight, t) in weights.into_iter().zip([0.2, 0.5, 0.8]) {
                let objective =
                    Objective { path: path.clone(), target, weight, ..Default::default() };
                let batch = objective.batch(&data, &noise, None, &vec![t; n]).unwrap();
                let c = path.at(t);
                let (p, q) = target.weights(&c);
                let variance = c.alpha * c.alpha * 0.25 + c.sigma * c.sigma;
                let slope = (p * c.alpha * 0.25 + q * c.sigma) / variance;
                let shift = p - slope * c.alpha;
                let loss = |slope: f64, shift: f64| {
                    let output = batch.x_t.affine(slope, shift).unwrap();
                    batch.loss(&output, None).unwrap().to_scalar::<f64>().unwrap()
                };
                let best = loss(slope, shift);
                let size = 0.2 * (p * p + q * q).sqrt();
                for (a, b) in [(size, 0.0), (-size, 0.0), (0.0, size), (0.0, -size)] {
                    let other = loss(slope + a, shift + b);
                    assert!(other > best, "{path:?} {target:?} {t}: {other} {best}");
                }
                // A parabola through three points has its minimum there.
                let lowest = |minus: f64, plus: f64| {
                    0.5 * size * (minus - plus) / (minus + plus - 2.0 * best)
                };
                let (a, b) = (
                    lowest(loss(slope - size, shift), loss(slope + size, shift)),
                    lowest(loss(slope, shift - size), loss(slope, shift + size)),
                );
                assert!(a.abs() < 0.15 * size && b.abs() < 0.15 * size, "{target:?} {t}: {a} {b}");
            }
        }
    }
}

#[test]
fn conditional_and_marginal_regression_have_one_gradient() {
    // Theorem 2, exactly: given the state, the data are one of a few points, and the average over
    // them is a sum with the posterior's weights. A linear model, by automatic differentiation.
    let points = normal(3, &[6, 2]);
    let (states, n) = (normal(4, &[7, 2]), 6);
    for (path, t) in [(Path::Straight, 0.4), (Path::CosineReversed, 0.7)] {
        let coef = path.at(t);
        let model = Var::from_tensor(&normal(5, &[2, 2])).unwrap();
        let output = states.matmul(&model).unwrap();
        let field = marginal::marginal(&coef, &states, &points, None).unwrap();
        let field = field.velocity(&coef).unwrap();
        let fm = (&output - field).unwrap().sqr().unwrap().sum_all().unwrap();

        let weight = marginal::posterior(&coef, &states, &points, None).unwrap();
        let average = |weight: &Tensor| {
            let mut total = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
            for i in 0..n {
                let point = points.narrow(0, i, 1).unwrap().broadcast_as((7, 2)).unwrap();
                let point = point.contiguous().unwrap();
                let u = marginal::conditional(&coef, &states, &point).unwrap();
                let square = (&output - u).unwrap().sqr().unwrap();
                let square = square.broadcast_mul(&weight.narrow(1, i, 1).unwrap()).unwrap();
                total = (total + square.sum_all().unwrap()).unwrap();
            }
            total
        };
        let grad = |loss: &Tensor| loss.backward().unwrap().get(&model).unwrap().clone();
        let cfm = average(&weight);
        let (a, b) = (grad(&fm), grad(&cfm));
        println!("{path:?}: gradients differ by {:.1e}", gap(&a, &b));
        assert!(gap(&a, &b) < 1e-12, "{path:?}: {}", gap(&a, &b));
        // The losses themselves differ by the variance that no model can explain.
        let scalar = |x: &Tensor| x.to_scalar::<f64>().unwrap();
        assert!(scalar(&cfm) > scalar(&fm) + 1e-3);
        // The broken twin: data points that are equally likely behind every state.
        let even = Tensor::full(1.0 / 6.0, (7, 6), &Device::Cpu).unwrap();
        assert!(gap(&a, &grad(&average(&even))) > 1e-3);
    }
}

#[test]
fn the_marginal_field_is_the_monte_carlo_average_of_conditional_ones() {
    // One dimension: states of many (point, noise) pairs, averaged over cells of the state.
    let points = Tensor::new(&[[-1.0f64], [0.5], [2.0]], &Device::Cpu).unwrap();
    let (n, width) = (300_000usize, 0.1);
    let noise = normal(0, &[n, 1]);
    let index: Vec<u32> = (0..n as u64).map(|i| Noise::new(5).below(i, 0, 3) as u32).collect();
    let index = Tensor::from_vec(index, n, &Device::Cpu).unwrap();
    let data = points.index_select(&index, 0).unwrap();
    let (path, t) = (Path::Straight, 0.6);
    let batch = cfm(path.clone(), Bridge::None).batch(&data, &noise, None, &vec![t; n]).unwrap();
    let (x, u) = (values(&batch.x_t), values(&batch.target));
    let field = marginal::marginal(&path.at(t), &batch.x_t, &points, None).unwrap();
    let field = values(&field.velocity(&path.at(t)).unwrap());
    let mut worst = 0.0f64;
    for cell in -10..15 {
        let low = f64::from(cell) * width;
        let inside: Vec<usize> = (0..n).filter(|&i| (low..low + width).contains(&x[i])).collect();
        let count = inside.len() as f64;
        // The residual has mean 0 given the state, so within a cell too.
        let residual: Vec<f64> = inside.iter().map(|&i| u[i] - field[i]).collect();
        let mean = residual.iter().sum::<f64>() / count;
        let spread = residual.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / count;
        let z = mean.abs() / (spread / count).sqrt();
        worst = worst.max(z);
        assert!(count > 1000.0 && z < 4.5, "cell {low}: {mean} is {z} standard errors");
    }
    println!("25 cells: at most {worst:.2} standard errors");
}

#[test]
fn a_bridge_s_score_and_velocity_agree() {
    // dx/dt of the noise-free part and −γ'·γ·score: u = mean' + γ'·extra = mean' − γ'·γ·score.
    let (data, noise, extra) = (normal(0, &[3, 2]), normal(1, &[3, 2]), normal(2, &[3, 2]));
    let (t, bridge) = ([0.2, 0.5, 0.9], Bridge::Schrodinger { sigma: 0.7 });
    let batch = |target, bridge| {
        let objective = Objective { target, bridge, ..Default::default() };
        let extra = (bridge != Bridge::None).then_some(&extra);
        objective.batch(&data, &noise, extra, &t).unwrap().target
    };
    let score = batch(Target::Score, bridge);
    let turn: Vec<f64> = t
        .iter()
        .map(|&t| {
            let (gamma, d_gamma) = bridge.at(&Path::Straight, t).unwrap();
            -gamma * d_gamma
        })
        .collect();
    let turn = Tensor::from_vec(turn, (3, 1), &Device::Cpu).unwrap();
    let want = batch(Target::Velocity, Bridge::None) + score.broadcast_mul(&turn).unwrap();
    assert!(gap(&batch(Target::Velocity, bridge), &want.unwrap()) < 1e-14);
    for target in [Target::Noise, Target::Data, Target::V] {
        assert_eq!(gap(&batch(target, bridge), &batch(target, Bridge::None)), 0.0);
    }
}

#[test]
fn an_objective_is_data_in_a_recipe() {
    let text = r#"{"path":{"discrete":{"beta_schedule":"squaredcos_cap_v2"}},"target":"epsilon",
        "time":{"law":"uniform"},"weight":{"min_snr":{"gamma":5}}}"#;
    let objective: Objective = serde_json::from_str(text).unwrap();
    objective.validate().unwrap();
    assert_eq!(objective.weight, Weight::MinSnr { gamma: 5.0 });
    let written = serde_json::to_string(&objective).unwrap();
    assert_eq!(serde_json::from_str::<Objective>(&written).unwrap(), objective);
    let times = objective.times(&Noise::new(1), 0, 0, 100);
    assert!(times.iter().all(|t| t.fract() == 0.0 && (0.0..1000.0).contains(t)), "{times:?}");
    assert_eq!(times[7..9], objective.times(&Noise::new(1), 7, 0, 2));
    // The shift moves times towards noise.
    let shifted = Objective { shift: 3.0, ..objective }.times(&Noise::new(1), 0, 0, 100);
    assert!(times.iter().zip(&shifted).all(|(a, b)| b >= a) && times != shifted);
    let error = serde_json::from_str::<Objective>(r#"{"weigth":"unit"}"#).unwrap_err();
    assert!(error.to_string().contains("weigth"), "{error}");
    for (wrong, named) in [
        (Objective { shift: 0.0, ..Default::default() }, "shift"),
        (Objective { path: Path::Lipman { sigma_min: 2.0 }, ..Default::default() }, "sigma_min"),
        (Objective { weight: Weight::MinSnr { gamma: -1.0 }, ..Default::default() }, "gamma"),
        (Objective { bridge: Bridge::Constant { sigma: 0.0 }, ..Default::default() }, "bridge"),
        (
            Objective { time: TimeLaw::LogNormal { mean: 0.0, std: -1.0 }, ..Default::default() },
            "std",
        ),
    ] {
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn batches_that_mean_nothing_are_refused() {
    let (data, noise) = (normal(0, &[2, 3]), normal(1, &[2, 3]));
    let plain = Objective::default();
    let bridge = cfm(Path::Straight, Bridge::Schrodinger { sigma: 1.0 });
    for t in [[0.5, 1.5], [-0.1, 0.5], [f64::NAN, 0.5]] {
        let error = plain.batch(&data, &noise, None, &t).unwrap_err();
        assert!(matches!(error, Error::Time { .. }), "{error}");
    }
    let shape = |r: pathline::Result<_>| assert!(matches!(r, Err(Error::Shape { .. })));
    let t = [0.5, 0.5];
    shape(plain.batch(&data, &normal(1, &[2, 4]), None, &t));
    shape(plain.batch(&data, &noise, None, &[0.5]));
    shape(plain.batch(&normal(0, &[0, 3]), &normal(0, &[0, 3]), None, &[]));
    shape(bridge.batch(&data, &noise, Some(&normal(2, &[2, 4])), &t));
    let invalid = |r: pathline::Result<_>| assert!(matches!(r, Err(Error::Invalid(_))));
    invalid(plain.batch(&data, &noise, Some(&noise), &t));
    invalid(bridge.batch(&data, &noise, None, &t));
    invalid(plain.batch(&data.affine(f64::NAN, 0.0).unwrap(), &noise, None, &t));
    let score = Objective { target: Target::Score, ..Default::default() };
    invalid(score.batch(&data, &noise, None, &[0.0, 0.5]));
    let heavy = Objective { weight: Weight::As(Target::Noise), ..plain.clone() };
    let heavy = Objective { target: Target::Data, ..heavy };
    invalid(heavy.batch(&data, &noise, None, &[0.0, 0.5]));
    let error = bridge.batch(&data, &noise, Some(&noise), &[0.0, 0.5]).unwrap_err();
    assert!(matches!(error, Error::Range { .. }), "{error}");
    let batch = plain.batch(&data, &noise, None, &t).unwrap();
    let error = batch.loss(&normal(3, &[3, 2]), None).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

#[test]
fn masks_and_weights_multiply() {
    let (data, noise) = (normal(0, &[2, 3, 2]), normal(1, &[2, 3, 2]));
    let objective = Objective { weight: Weight::As(Target::Noise), ..Default::default() };
    let batch = objective.batch(&data, &noise, None, &[0.25, 0.5]).unwrap();
    // On the straight path ‖error of noise‖² is α² times that of the velocity.
    assert_eq!(batch.weight, [0.5625, 0.25]);
    let mask = Tensor::new(&[[[1f64], [1.0], [0.0]], [[1.0], [0.0], [0.0]]], &Device::Cpu).unwrap();
    let output = batch.target.affine(1.0, 2.0).unwrap();
    let loss = batch.loss(&output, Some(&mask)).unwrap().to_scalar::<f64>().unwrap();
    let want = 4.0 * (0.5625 * 4.0 + 0.25 * 2.0) / 12.0;
    assert!((loss - want).abs() < 1e-14, "{loss} {want}");
}
