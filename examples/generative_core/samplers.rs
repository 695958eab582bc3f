//! Samplers on the same noise, their orders of convergence, and what they leave of the data.

use std::path::Path as FilePath;

use candle_core::Tensor;
use pathline::flow::{GaussianMixture, Path, denoiser};
use pathline::plot::{Color, Figure, Layer, Mark, Panel, Scale};
use pathline::solver::likelihood::Settings;
use pathline::solver::{
    Adaptive, Diffusion, Divergence, Noising, Sampler, grid, integrate, log_likelihood, tableau,
};
use pathline::{Error, Result};

use crate::numbers::Numbers;
use crate::scene::{
    Point, STRAIGHT, Trails, heaps, heat, moons, noise, normals, points, spread, window,
};

/// Fresh noise of a stochastic sampler.
fn draw(step: usize, x: &Tensor) -> Result<Tensor> {
    noise().normal_like(0, step as u64 + 1, x)
}

fn runge_kutta(tableau: &'static tableau::Tableau) -> Sampler {
    Sampler::RungeKutta { tableau, euler_at_final: false }
}

/// Six samplers carry the same 10 points of noise to two moons.
pub(crate) fn trajectories(file: &FilePath) -> Result<()> {
    let data = moons()?;
    let start = normals(5, 10, 2)?;
    let ddpm = || Sampler::Transfer { noising: Noising::Eta(1.0) };
    let loose = Adaptive { rtol: 1e-3, atol: 1e-3, ..Adaptive::default() };
    let runs = [
        ("Euler", runge_kutta(&tableau::EULER), 4),
        ("Heun", runge_kutta(&tableau::HEUN), 4),
        ("Dopri5, adaptive", Sampler::Adaptive(loose), 60),
        ("Euler", runge_kutta(&tableau::EULER), 32),
        ("DDPM (η = 1)", ddpm(), 32),
        ("Euler–Maruyama", Sampler::EulerMaruyama { diffusion: Diffusion::default() }, 128),
    ];
    let mut figure = Figure::new("", 3, [350, 356]);
    for (name, sampler, steps) in runs {
        let mut trails = Trails::default();
        let times = grid::uniform(1.0, 0.0, steps)?;
        let mut record = |_: usize, _: f64, x: &Tensor| trails.record(x);
        let mut net = data.denoiser(&STRAIGHT);
        let solution =
            sampler.run(&mut net, &STRAIGHT, start.clone(), &times, &mut draw, &mut record)?;
        let adaptive = matches!(sampler, Sampler::Adaptive(_));
        let steps = if adaptive { solution.accepted + solution.rejected } else { steps };
        let [x, y] = window();
        let title = format!("{name}: {steps} steps, {} evaluations", solution.nfe);
        let mut back = heat(&data, &STRAIGHT, 0.0)?;
        if let Mark::Heat { values, .. } = &mut back.mark {
            values.iter_mut().for_each(|v| *v *= 0.55);
        }
        let mut panel = Panel::new(title, x, y).with(back);
        let count = trails.0.len();
        for (i, trail) in trails.0.iter().enumerate() {
            let color = Color::ramp(0.25 + 0.75 * i as f64 / (count - 1) as f64);
            panel = panel.with(Layer::thin_line(trail.clone(), 1.3).colored(color));
            if trail.len() < 8 {
                panel = panel.with(Layer::discs(trail.clone(), 2.0).colored(color));
            }
        }
        panel = panel
            .with(Layer::discs(trails.starts(), 3.0).colored(Color::GREY).named("noise, t = 1"))
            .with(Layer::discs(trails.ends(), 3.6).colored(Color::INK).named("sample, t = 0"));
        figure = figure.with(panel);
    }
    figure.save(file)
}

/// Largest error over 64 points between t = 0.9 and t = 0.3, against many steps of order 5.
pub(crate) fn orders(file: &FilePath, numbers: &mut Numbers) -> Result<()> {
    let data = heaps()?;
    let start = normals(6, 64, 2)?;
    let (from, to) = (0.9, 0.3);
    let mut field = |x: &Tensor, t: f64| data.velocity(&STRAIGHT, x, t);
    let fine = grid::uniform(from, to, 2000)?;
    let exact = integrate(&mut field, start.clone(), &fine, &tableau::DOPRI5)?.x;
    let methods = [
        ("Euler", runge_kutta(&tableau::EULER)),
        ("DPM-Solver++ 2M", Sampler::Multistep2 { eta: 0.0 }),
        ("Heun", runge_kutta(&tableau::HEUN)),
        ("RK4", runge_kutta(&tableau::RK4)),
        ("Dopri5, fixed steps", runge_kutta(&tableau::DOPRI5)),
    ];
    let axes = |label: &str| [Scale::log(label), Scale::log("largest error").within(1e-13, 1.0)];
    let [x, y] = axes("steps");
    let mut by_steps = Panel::new("error over steps: the slope is the order", x, y);
    let [x, y] = axes("evaluations of the network");
    let mut by_cost = Panel::new("error over cost", x, Scale { label: String::new(), ..y });
    for (i, (name, sampler)) in methods.into_iter().enumerate() {
        let (mut steps, mut cost) = (Vec::<Point>::new(), Vec::<Point>::new());
        for n in [8usize, 16, 32, 64, 128, 256, 512] {
            let times = match sampler {
                // Its order is one in λ.
                Sampler::Multistep2 { .. } => {
                    let ends = (STRAIGHT.lambda(from), STRAIGHT.lambda(to));
                    let mut times: Vec<f64> = spread(ends.0, ends.1, n + 1)
                        .into_iter()
                        .map(|lambda| STRAIGHT.t_of_lambda(lambda))
                        .collect();
                    (times[0], times[n]) = (from, to);
                    times
                }
                _ => grid::uniform(from, to, n)?,
            };
            let mut net = data.denoiser(&STRAIGHT);
            let mut ignore = |_: usize, _: f64, _: &Tensor| Ok(());
            let run =
                sampler.run(&mut net, &STRAIGHT, start.clone(), &times, &mut draw, &mut ignore)?;
            let error = (run.x - &exact)?.abs()?.max_all()?.to_scalar::<f64>()?;
            steps.push((n as f64, error));
            cost.push((run.nfe as f64, error));
        }
        // Two neighbours near the middle of what is not yet rounding.
        let clean: Vec<&Point> = steps.iter().filter(|(_, error)| *error > 1e-12).collect();
        if let [.., a, b] = clean[..] {
            numbers.push(format!("order of {name}"), (a.1 / b.1).log2() / (b.0 / a.0).log2());
        }
        if let Some((nfe, error)) = cost.iter().rev().find(|(nfe, _)| *nfe <= 100.0) {
            numbers.push(format!("{name}: error with {nfe} evaluations"), *error);
        }
        let color = Color::PALETTE[i];
        by_steps = by_steps.with(Layer::dotted_line(steps).colored(color).named(name));
        by_cost = by_cost.with(Layer::dotted_line(cost).colored(color).named(name));
    }
    Figure::new("", 2, [520, 420]).with(by_steps).with(by_cost).save(file)
}

/// Mean and covariance of 10,000 samples against those of the data, and log-likelihoods.
pub(crate) fn marginals(numbers: &mut Numbers) -> Result<()> {
    const N: usize = 10_000;
    let data = heaps()?;
    let runs = [
        ("Heun, 32 steps", runge_kutta(&tableau::HEUN), 32),
        ("Transfer η = 1, 128 steps", Sampler::Transfer { noising: Noising::Eta(1.0) }, 128),
        (
            "Euler–Maruyama, 128 steps",
            Sampler::EulerMaruyama { diffusion: Diffusion::default() },
            128,
        ),
    ];
    for (name, sampler, steps) in runs {
        let times = grid::uniform(1.0, 0.0, steps)?;
        let mut ignore = |_: usize, _: f64, _: &Tensor| Ok(());
        let mut net = data.denoiser(&STRAIGHT);
        let x = normals(0, N, 2)?;
        let x = sampler.run(&mut net, &STRAIGHT, x, &times, &mut draw, &mut ignore)?.x;
        let (mean, covariance) = moments(&points(&x)?, &data);
        numbers.push(format!("{name}: largest error of the mean"), mean);
        numbers.push(format!("{name}: largest error of the covariance"), covariance);
    }

    let x = data.sample(&noise(), 500, 64)?;
    let times = grid::uniform(0.0, 1.0, 128)?;
    let settings = Settings::new(&tableau::RK4, Divergence::Exact);
    let mut net = data.denoiser(&STRAIGHT);
    let mut field = denoiser::velocity(&STRAIGHT, &mut net);
    let found = log_likelihood(&STRAIGHT, &mut field, &x, &times, &settings)?;
    let truth = data.log_density(&STRAIGHT, &x, 0.0)?.to_vec1::<f64>()?;
    let gaps = found.log_density.iter().zip(&truth).map(|(a, b)| (a - b).abs());
    numbers.push("log-likelihood by the ODE, mean error in nats", gaps.sum::<f64>() / 64.0);
    numbers.push("log-likelihood, evaluations", found.nfe as f64);
    same_marginals_in_both_conventions(&data, numbers)
}

/// Largest gaps of mean and covariance.
fn moments(sample: &[Point], data: &GaussianMixture) -> (f64, f64) {
    let n = sample.len() as f64;
    let mean = sample.iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 / n, m.1 + p.1 / n));
    let mut covariance = [[0.0; 2]; 2];
    for p in sample {
        let off = [p.0 - mean.0, p.1 - mean.1];
        for (row, a) in covariance.iter_mut().zip(off) {
            row.iter_mut().zip(off).for_each(|(cell, b)| *cell += a * b / n);
        }
    }
    let truth = (data.mean(), data.covariance());
    let off = (mean.0 - truth.0[0]).abs().max((mean.1 - truth.0[1]).abs());
    let cells = covariance.iter().flatten().zip(truth.1.iter().flatten());
    (off, cells.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}

/// The same field sampled with noise at t = 1 and with noise at t = 0.
fn same_marginals_in_both_conventions(data: &GaussianMixture, numbers: &mut Numbers) -> Result<()> {
    let sample = |path: &Path| -> Result<Tensor> {
        let (from, to) = path.ends();
        let mut field = |x: &Tensor, t: f64| data.velocity(path, x, t);
        let times = grid::uniform(from, to, 32)?;
        Ok(integrate(&mut field, normals(9, 64, 2)?, &times, &tableau::HEUN)?.x)
    };
    let gap = (sample(&Path::Straight)? - sample(&Path::StraightReversed)?)?.abs()?.max_all()?;
    let gap = gap.to_scalar::<f64>()?;
    if !gap.is_finite() {
        return Err(Error::Invalid("the two conventions do not give finite samples".to_owned()));
    }
    numbers.push("noise at t = 1 and at t = 0: largest gap", gap);
    Ok(())
}
