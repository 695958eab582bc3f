//! What samplers must do, in f64 on a field known in closed form: the one formula is every
//! scheduler's own, orders of convergence, marginals of the stochastic ones, both time conventions,
//! the same bits in every batch, and errors.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor};
use pathline::flow::{Coef, Denoiser, Discrete, Estimate, Noise, Path};
use pathline::solver::sde::Form;
use pathline::solver::transfer::{Noising, step};
use pathline::solver::{Adaptive, Diffusion, Draw, Sampler, grid, tableau};
use pathline::{Error, Result};

/// Mixture of normal distributions in the plane: weight, mean, deviation.
const MIXTURE: [(f64, [f64; 2], f64); 3] =
    [(0.5, [-1.5, 0.5], 0.4), (0.3, [0.7, -1.0], 0.6), (0.2, [2.5, 1.0], 0.3)];

/// E[data | x] and E[noise | x] of the mixture, for states `[.., 2]`.
fn mixture(path: &Path) -> impl FnMut(&Tensor, f64) -> Result<Estimate> + '_ {
    move |x, t| {
        let Coef { alpha, sigma, .. } = path.at(t);
        let numbers = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let (mut data, mut noise) = (Vec::new(), Vec::new());
        for point in numbers.chunks(2) {
            let (mut total, mut d, mut n) = (0.0, [0.0; 2], [0.0; 2]);
            for (weight, mean, std) in MIXTURE {
                let variance = (alpha * std).powi(2) + sigma * sigma;
                let off = [point[0] - alpha * mean[0], point[1] - alpha * mean[1]];
                let size = off[0] * off[0] + off[1] * off[1];
                let share = weight / variance * (-0.5 * size / variance).exp();
                total += share;
                for k in 0..2 {
                    d[k] += share * (mean[k] + alpha * std * std / variance * off[k]);
                    n[k] += share * sigma / variance * off[k];
                }
            }
            data.extend(d.map(|x| x / total));
            noise.extend(n.map(|x| x / total));
        }
        let tensor = |v| Tensor::from_vec(v, x.dims(), x.device())?.to_dtype(x.dtype());
        Ok(Estimate { data: tensor(data)?, noise: tensor(noise)? })
    }
}

fn start(samples: usize) -> Tensor {
    let like = Tensor::zeros((samples, 2), DType::F64, &Device::Cpu).unwrap();
    Noise::new(5).normal_like(0, 0, &like).unwrap()
}

fn quiet(_: usize, _: f64, _: &Tensor) -> Result<()> {
    Ok(())
}

fn noise_of(seed: u64) -> impl FnMut(usize, &Tensor) -> Result<Tensor> {
    move |i, x| Noise::new(seed).normal_like(0, i as u64 + 1, x)
}

/// The state at the end, with the mixture as denoiser.
fn sample(sampler: &Sampler, path: &Path, x: &Tensor, grid: &[f64], draw: &mut Draw<'_>) -> Tensor {
    let solution = sampler.run(&mut mixture(path), path, x.clone(), grid, draw, &mut quiet);
    solution.unwrap_or_else(|error| panic!("{sampler:?} on {path:?}: {error}")).x
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    numbers(a).iter().zip(numbers(b)).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

fn named(name: &str) -> Sampler {
    Sampler::by_name(name).unwrap()
}

#[test]
fn the_one_formula_is_every_scheduler_s_own() {
    let draw = |k: u64| {
        let like = Tensor::zeros((1, 64), DType::F64, &Device::Cpu).unwrap();
        Noise::new(9).normal_like(0, k, &like).unwrap()
    };
    // One number after the other, so that each formula reads as in its source.
    let (data, noise, z) = (numbers(&draw(0)), numbers(&draw(1)), numbers(&draw(2)));
    let estimate = Estimate { data: draw(0), noise: draw(1) };
    let check =
        |name: &str, from: &Coef, to: &Coef, noising, own: &dyn Fn(f64, f64, f64) -> f64| {
            let ours = numbers(&step(from, to, noising, &estimate, Some(&draw(2))).unwrap());
            let worst =
                (0..64).fold(0f64, |m, i| m.max((ours[i] - own(data[i], noise[i], z[i])).abs()));
            assert!(worst < 1e-12, "{name} from {from:?} to {to:?}: {worst:e}");
        };
    let table = Path::Discrete(Discrete::new(Default::default()).unwrap());
    for (t, s) in [(999.0, 979.0), (501.0, 451.0), (101.0, 51.0), (51.0, 1.0), (1.0, 0.0)] {
        let (from, to) = (table.at(t), table.at(s));
        let (bar_t, bar_s) = (from.alpha.powi(2), to.alpha.powi(2));
        let x_t = |d: f64, e: f64| from.alpha * d + from.sigma * e;
        // Ho et al. 2020, equation 7, in diffusers' variables.
        let beta = 1.0 - bar_t / bar_s;
        check("DDPM", &from, &to, Noising::Eta(1.0), &|d, e, z| {
            let mean = bar_s.sqrt() * beta / (1.0 - bar_t) * d
                + (bar_t / bar_s).sqrt() * (1.0 - bar_s) / (1.0 - bar_t) * x_t(d, e);
            mean + ((1.0 - bar_s) / (1.0 - bar_t) * beta).sqrt() * z
        });
        // Song et al. 2021, equations 12 and 16.
        let deviation = 0.3 * ((1.0 - bar_s) / (1.0 - bar_t) * (1.0 - bar_t / bar_s)).sqrt();
        check("DDIM", &from, &to, Noising::Eta(0.3), &|d, e, z| {
            bar_s.sqrt() * d + (1.0 - bar_s - deviation.powi(2)).sqrt() * e + deviation * z
        });
        // k-diffusion's Euler and ancestral Euler, at unit scale of the data.
        let (hat_t, hat_s) = (from.sigma_hat(), to.sigma_hat());
        check("Euler", &from, &to, Noising::Eta(0.0), &|d, e, _| {
            let y = x_t(d, e) / from.alpha;
            to.alpha * (y + (hat_s - hat_t) * (y - d) / hat_t)
        });
        let up = (hat_s.powi(2) * (hat_t.powi(2) - hat_s.powi(2)) / hat_t.powi(2)).sqrt();
        let down = (hat_s.powi(2) - up.powi(2)).sqrt();
        check("Euler ancestral", &from, &to, Noising::Eta(1.0), &|d, e, z| {
            let y = x_t(d, e) / from.alpha;
            to.alpha * (y + (down - hat_t) * (y - d) / hat_t + up * z)
        });
        // Lu et al. 2022, equations 9 and 18.
        let h = to.lambda() - from.lambda();
        check("DPM-Solver++(1)", &from, &to, Noising::Eta(0.0), &|d, e, _| {
            to.sigma / from.sigma * x_t(d, e) - to.alpha * ((-h).exp() - 1.0) * d
        });
        check("SDE-DPM-Solver++(1)", &from, &to, Noising::Eta(1.0), &|d, e, z| {
            to.sigma / from.sigma * (-h).exp() * x_t(d, e)
                + to.alpha * (1.0 - (-2.0 * h).exp()) * d
                + to.sigma * (1.0 - (-2.0 * h).exp()).sqrt() * z
        });
        // Luo et al. 2023, algorithm 3.
        check("LCM", &from, &to, Noising::Renoise, &|d, _, z| {
            bar_s.sqrt() * d + (1.0 - bar_s).sqrt() * z
        });
    }
    for (t, s) in [(1.0, 0.9), (0.7, 0.5), (0.2, 0.0)] {
        let (from, to) = (Path::Straight.at(t), Path::Straight.at(s));
        check("FlowMatchEuler", &from, &to, Noising::Eta(0.0), &|d, e, _| {
            (1.0 - t) * d + t * e + (s - t) * (e - d)
        });
        check("FlowMatchEuler, stochastic", &from, &to, Noising::Renoise, &|d, _, z| {
            (1.0 - s) * d + s * z
        });
    }
    // The broken twin: η in the wrong place.
    let (from, to) = (table.at(501.0), table.at(451.0));
    let right = step(&from, &to, Noising::Eta(0.3), &estimate, Some(&draw(2))).unwrap();
    let wrong = step(&from, &to, Noising::Eta(0.09), &estimate, Some(&draw(2))).unwrap();
    assert!(gap(&right, &wrong) > 1e-2);
}

#[test]
fn the_second_step_is_k_diffusion_s_2m() {
    let table = Path::Discrete(Discrete::new(Default::default()).unwrap());
    let times = [801.0, 701.0, 620.0];
    let answers = [1.3, -0.4];
    for eta in [0.0, 0.5, 1.0] {
        let mut calls = 0;
        let mut scripted = |x: &Tensor, _: f64| {
            calls += 1;
            let data = x.affine(0.0, answers[calls - 1])?;
            Ok(Estimate { noise: data.clone(), data })
        };
        let mut draw = |i: usize, x: &Tensor| Ok(x.affine(0.0, 0.7 + i as f64)?);
        let x = Tensor::new(&[[0.9f64]], &Device::Cpu).unwrap();
        let sampler = Sampler::Multistep2 { eta };
        let out = sampler.run(&mut scripted, &table, x, &times, &mut draw, &mut quiet).unwrap();
        // sample_dpmpp_2m_sde, midpoint, at unit scale of the data.
        let hats = times.map(|t| table.at(t).sigma_hat());
        let mut y = 0.9 / table.at(801.0).alpha;
        let mut before: Option<(f64, f64)> = None;
        for i in 0..2 {
            let h = (hats[i] / hats[i + 1]).ln();
            let whole = -((-h - eta * h).exp() - 1.0);
            y = hats[i + 1] / hats[i] * (-eta * h).exp() * y + whole * answers[i];
            if let Some((last, h_last)) = before {
                y += 0.5 * whole / (h_last / h) * (answers[i] - last);
            }
            y += (0.7 + i as f64) * hats[i + 1] * (1.0 - (-2.0 * eta * h).exp()).sqrt();
            before = Some((answers[i], h));
        }
        let want = y * table.at(620.0).alpha;
        assert!((numbers(&out.x)[0] - want).abs() < 1e-12, "{eta}: {} {want}", numbers(&out.x)[0]);
    }
}

/// Times equally far apart in λ.
fn lambda_grid(path: &Path, from: f64, to: f64, steps: usize) -> Vec<f64> {
    let lambdas = grid::uniform(from, to, steps).unwrap();
    lambdas.iter().map(|l| path.t_of_lambda(*l)).collect()
}

#[test]
fn transfer_is_of_order_1_and_multistep2_of_order_2_in_lambda() {
    let x = start(4);
    let paths = [
        Path::Straight,
        Path::StraightReversed,
        Path::Cosine,
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
    ];
    for path in &paths {
        let exact = {
            let grid = lambda_grid(path, -3.0, 3.0, 4000);
            let rk4 = Sampler::RungeKutta { tableau: &tableau::RK4, euler_at_final: false };
            sample(&rk4, path, &x, &grid, &mut noise_of(0))
        };
        let order = |sampler: &Sampler| {
            let error = |steps| {
                let grid = lambda_grid(path, -3.0, 3.0, steps);
                gap(&sample(sampler, path, &x, &grid, &mut noise_of(0)), &exact)
            };
            (error(512) / error(1024)).log2()
        };
        let (first, second) = (order(&named("ddim")), order(&named("dpmpp_2m")));
        println!("{path:?}: Transfer {first:.3}, Multistep2 {second:.3}");
        assert!((first - 1.0).abs() < 0.1, "{path:?}: {first}");
        assert!((second - 2.0).abs() < 0.1, "{path:?}: {second}");
        // The broken twin: the estimate of the step before, so D₋ for D.
        let twin = |steps| {
            let grid = lambda_grid(path, -3.0, 3.0, steps);
            let (mut inner, mut last) = (mixture(path), None);
            let mut late = |x: &Tensor, t: f64| {
                let now = inner(x, t)?;
                Ok(last.replace(now.clone()).unwrap_or(now))
            };
            let twin = named("dpmpp_2m");
            let out = twin.run(&mut late, path, x.clone(), &grid, &mut noise_of(0), &mut quiet);
            gap(&out.unwrap().x, &exact)
        };
        assert!((twin(512) / twin(1024)).log2() < 1.5);
    }
}

/// Mean and covariance of points in the plane.
fn moments(points: &[f64]) -> ([f64; 2], [f64; 3]) {
    let n = points.len() as f64 / 2.0;
    let mean = [0, 1].map(|k| points.chunks(2).map(|p| p[k]).sum::<f64>() / n);
    let cov = [(0, 0), (0, 1), (1, 1)].map(|(i, j)| {
        points.chunks(2).map(|p| (p[i] - mean[i]) * (p[j] - mean[j])).sum::<f64>() / n
    });
    (mean, cov)
}

fn exact_moments() -> ([f64; 2], [f64; 3]) {
    let mean = [0, 1].map(|k| MIXTURE.iter().map(|(w, m, _)| w * m[k]).sum::<f64>());
    let cov = [(0, 0), (0, 1), (1, 1)].map(|(i, j)| {
        let own = |s: f64| if i == j { s * s } else { 0.0 };
        let part =
            |(w, m, s): &(f64, [f64; 2], f64)| w * ((m[i] - mean[i]) * (m[j] - mean[j]) + own(*s));
        MIXTURE.iter().map(part).sum()
    });
    (mean, cov)
}

/// The largest error of a mean or covariance, in standard errors of 20,000 exact samples.
fn deviation(points: &[f64]) -> f64 {
    let ((mean, cov), (mean0, cov0)) = (moments(points), exact_moments());
    let n = points.len() as f64 / 2.0;
    let mut worst = 0f64;
    for k in 0..2 {
        worst = worst.max((mean[k] - mean0[k]).abs() / (cov0[2 * k] / n).sqrt());
    }
    for (k, (i, j)) in [(0, 0), (0, 1), (1, 1)].into_iter().enumerate() {
        // The variance of a product of two numbers, measured.
        let product = |p: &[f64]| (p[i] - mean[i]) * (p[j] - mean[j]);
        let spread = points.chunks(2).map(|p| (product(p) - cov[k]).powi(2)).sum::<f64>() / n;
        worst = worst.max((cov[k] - cov0[k]).abs() / (spread / n).sqrt());
    }
    worst
}

#[test]
fn stochastic_samplers_have_the_marginals_of_the_data() {
    let x = start(20_000);
    let vp = Path::Vp { beta_min: 0.1, beta_max: 20.0 };
    // The same noise for all.
    let noises: Vec<Tensor> = (0..200).map(|i| noise_of(11)(i, &x).unwrap()).collect();
    let sde = |form, scale| Sampler::EulerMaruyama { diffusion: Diffusion { form, scale } };
    for (path, sampler) in [
        (Path::Straight, named("ddpm")),
        (Path::StraightReversed, Sampler::Transfer { noising: Noising::Eta(0.5) }),
        (Path::Straight, named("dpmpp_2m_sde")),
        (Path::Straight, sde(Form::Sigma, 1.0)),
        (Path::CosineReversed, sde(Form::Linear, 1.0)),
        (Path::Straight, sde(Form::Constant, 0.3)),
        (Path::Cosine, sde(Form::Decreasing, 1.0)),
        (Path::CosineReversed, sde(Form::IncreasingDecreasing, 1.0)),
        (vp, sde(Form::Sbdm, 1.0)),
    ] {
        let grid = grid::uniform(path.ends().0, path.own_time(1e-3), 200).unwrap();
        let run = |scale: f64| {
            let mut draw = |i: usize, _: &Tensor| Ok((&noises[i] * scale)?);
            deviation(&numbers(&sample(&sampler, &path, &x, &grid, &mut draw)))
        };
        let (right, wrong) = (run(1.0), run(0.9));
        println!("{sampler:?} on {path:?}: {right:.2} standard errors; with 0.9·z {wrong:.2}");
        assert!(right < 4.0, "{sampler:?} on {path:?}: {right}");
        assert!(wrong > 4.0, "{sampler:?} on {path:?}: the broken twin passes with {wrong}");
    }
}

#[test]
fn both_time_conventions_give_the_same_samples() {
    let x = start(5);
    for name in Sampler::NAMES {
        for (inside, reversed) in
            [(Path::Straight, Path::StraightReversed), (Path::Cosine, Path::CosineReversed)]
        {
            for steps in [1, 4, 20] {
                let here = grid::uniform(1.0, 0.0, steps).unwrap();
                let there: Vec<f64> = here.iter().map(|t| reversed.own_time(*t)).collect();
                let a = sample(&named(name), &inside, &x, &here, &mut noise_of(3));
                let b = sample(&named(name), &reversed, &x, &there, &mut noise_of(3));
                assert!(gap(&a, &b) < 1e-12, "{name}, {steps} steps: {:e}", gap(&a, &b));
            }
        }
    }
    // The broken twin: the grid of the other direction, with its times but not its path.
    let here = grid::uniform(1.0, 0.0, 20).unwrap();
    let back: Vec<f64> = here.iter().rev().copied().collect();
    let a = sample(&named("ddim"), &Path::Straight, &x, &here, &mut noise_of(3));
    let b = sample(&named("ddim"), &Path::Straight, &x, &back, &mut noise_of(3));
    assert!(gap(&a, &b) > 0.1);
}

#[test]
fn a_sample_has_the_same_bits_alone_and_in_a_batch() {
    let noise = Noise::new(17);
    let like = |n: usize| Tensor::zeros((n, 3, 2), DType::F32, &Device::Cpu).unwrap();
    let path = Path::Straight;
    let grid = grid::uniform(1.0, 0.0, 9).unwrap();
    for name in Sampler::NAMES.into_iter().filter(|name| *name != "dopri5") {
        let run = |first: u64, n: usize| {
            let x = noise.normal_like(first, 0, &like(n)).unwrap();
            let mut draw = |i: usize, x: &Tensor| noise.normal_like(first, i as u64 + 1, x);
            let x = sample(&named(name), &path, &x, &grid, &mut draw);
            let bits = |x: f32| x.to_bits();
            let all: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            all.into_iter().map(bits).collect::<Vec<_>>()
        };
        let batch = run(0, 8);
        for i in 0..8 {
            assert_eq!(run(i as u64, 1), batch[6 * i..6 * i + 6], "{name}, sample {i}");
        }
        // The broken twin: noise that does not know its sample.
        assert_ne!(run(0, 1), batch[6..12], "{name}");
    }
}

#[test]
fn noise_is_drawn_where_it_is_added_and_evaluations_are_counted() {
    let (path, x) = (Path::Straight, start(1));
    let grid = grid::uniform(1.0, 0.0, 5).unwrap();
    for (name, nfe, draws) in [
        ("ddim", 5, 0),
        ("ddpm", 5, 4),
        ("lcm", 5, 4),
        ("dpmpp_2m", 5, 0),
        ("dpmpp_2m_sde", 5, 4),
        ("euler_maruyama", 5, 4),
        ("heun", 9, 0),
        ("midpoint", 10, 0),
        ("rk4", 20, 0),
    ] {
        let (mut drawn, mut seen, mut calls) = (Vec::new(), Vec::new(), 0);
        let mut draw = |i: usize, x: &Tensor| {
            drawn.push(i);
            noise_of(1)(i, x)
        };
        let mut show = |i: usize, t: f64, x: &Tensor| {
            seen.push((i, t, numbers(x)));
            Ok(())
        };
        let mut inner = mixture(&path);
        let mut counted = |x: &Tensor, t: f64| {
            calls += 1;
            inner(x, t)
        };
        let sampler = named(name);
        let run = sampler.run(&mut counted, &path, x.clone(), &grid, &mut draw, &mut show);
        let solution = run.unwrap();
        assert_eq!((solution.nfe, calls, solution.accepted), (nfe, nfe, 5), "{name}");
        assert_eq!(drawn, (0..draws).collect::<Vec<_>>(), "{name}");
        assert_eq!(seen.len(), 6, "{name}");
        assert!(seen.iter().enumerate().all(|(k, (i, t, _))| k == *i && *t == grid[k]), "{name}");
        assert_eq!((&seen[0].2, &seen[5].2), (&numbers(&x), &numbers(&solution.x)), "{name}");
    }
}

fn fails(sampler: &Sampler, path: &Path, grid: &[f64], denoiser: &mut Denoiser<'_>) -> Error {
    sampler.run(denoiser, path, start(2), grid, &mut noise_of(0), &mut quiet).unwrap_err()
}

#[test]
fn numbers_that_are_not_finite_stop_every_sampler_at_their_step() {
    let path = Path::Straight;
    let grid = grid::uniform(1.0, 0.0, 5).unwrap();
    for name in Sampler::NAMES {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut inner = mixture(&path);
            // From the fourth step, and so for Euler's last one too.
            let mut broken = |x: &Tensor, t: f64| {
                let estimate = inner(x, t)?;
                let data = if t < 0.45 { (&estimate.data * bad)? } else { estimate.data };
                Ok(Estimate { data, ..estimate })
            };
            let error = fails(&named(name), &path, &grid, &mut broken);
            let Error::NotFinite { step, t, .. } = error else { panic!("{name}: {error}") };
            // Heun looks ahead; dopri5 counts its own steps.
            let at = if name == "heun" || name == "rk4" { 2 } else { 3 };
            assert!(step == at || name == "dopri5", "{name}: {error}");
            assert!(t < 0.45, "{name}: {error}");
        }
    }
    let mut last = |x: &Tensor, t: f64| {
        let estimate = mixture(&path)(x, t)?;
        Ok(Estimate { data: (estimate.data / if t < 0.25 { 0.0 } else { 1.0 })?, ..estimate })
    };
    let heun = Sampler::RungeKutta { tableau: &tableau::MIDPOINT, euler_at_final: true };
    let grid = [1.0, 0.8, 0.6, 0.2, 0.0];
    let error = fails(&heun, &path, &grid, &mut last);
    assert!(matches!(error, Error::NotFinite { step: 3, .. }), "{error}");
}

#[test]
fn bad_input_is_one_typed_error_each() {
    let path = Path::Straight;
    let mut field = mixture(&path);
    let good = [1.0, 0.5, 0.0];
    for name in Sampler::NAMES {
        let sampler = named(name);
        for grid in [&[][..], &[1.0], &[1.0, 0.2, 0.4, 0.0], &[0.5, 0.5]] {
            let error = fails(&sampler, &path, grid, &mut field);
            assert!(matches!(error, Error::Grid { .. }), "{name}: {error}");
        }
        let error = fails(&sampler, &path, &[1.5, 0.5, 0.0], &mut field);
        assert!(matches!(error, Error::Time { .. }), "{name}: {error}");
    }
    let eta = |eta| Sampler::Transfer { noising: Noising::Eta(eta) };
    let scale =
        |scale| Sampler::EulerMaruyama { diffusion: Diffusion { form: Form::Constant, scale } };
    for sampler in [
        eta(-0.1),
        eta(1.1),
        eta(f64::NAN),
        Sampler::Multistep2 { eta: 2.0 },
        Sampler::Adaptive(Adaptive { rtol: -1.0, ..Adaptive::default() }),
        scale(-1.0),
        scale(f64::INFINITY),
        Sampler::EulerMaruyama { diffusion: Diffusion { form: Form::Sbdm, scale: 1.0 } },
    ] {
        let error = fails(&sampler, &path, &good, &mut field);
        assert!(matches!(error, Error::Range { .. }), "{sampler:?}: {error}");
    }
    // Noise can only be added on the way to the data; an ODE goes both ways.
    for name in ["ddpm", "dpmpp_2m_sde", "euler_maruyama"] {
        let error = fails(&named(name), &path, &[0.1, 0.5, 0.9], &mut field);
        assert!(matches!(error, Error::Grid { .. }), "{name}: {error}");
    }
    let back = sample(&named("ddim"), &path, &start(2), &[0.1, 0.5, 0.9], &mut noise_of(0));
    assert!(numbers(&back).iter().all(|x| x.is_finite()));
    // An estimate of another shape.
    let mut narrow = |x: &Tensor, t: f64| {
        let estimate = mixture(&path)(x, t)?;
        Ok(Estimate { data: estimate.data.narrow(0, 0, 1)?, ..estimate })
    };
    for name in ["ddim", "dpmpp_2m", "euler_maruyama"] {
        let error = fails(&named(name), &path, &good, &mut narrow);
        assert!(matches!(error, Error::Shape { .. }), "{name}: {error}");
    }
}
