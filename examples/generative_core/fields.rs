//! Score and velocity, what a network of each target would emit, conditional and marginal fields.

use std::path::Path as FilePath;

use candle_core::{Device, Tensor};
use pathline::Result;
use pathline::flow::{GaussianMixture, Target};
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::solver::{grid, integrate_observed, tableau};

use crate::numbers::Numbers;
use crate::scene::{
    Point, STRAIGHT, heaps, heat, lattice, line, noise, normals, points, rows, spread, window,
};

/// Arrows of a field on a lattice; the longest is `longest` long.
fn arrows(at: Vec<Point>, vectors: &Tensor, longest: f64) -> Result<Layer> {
    let vectors = points(vectors)?;
    let most = vectors.iter().map(|v| v.0.hypot(v.1)).fold(1e-9, f64::max);
    // Roots of the lengths, so that weak parts can be seen beside strong ones.
    let eased: Vec<Point> = vectors
        .iter()
        .map(|v| {
            let ease = (v.0.hypot(v.1) / most).max(1e-6).powf(-0.5) / most;
            (v.0 * ease, v.1 * ease)
        })
        .collect();
    Ok(Layer::arrows(at, &eased, longest))
}

/// The score (where is it denser?) and the velocity back to the data, at three times.
pub(crate) fn score_and_velocity(file: &FilePath) -> Result<()> {
    let data = heaps()?;
    let mut figure = Figure::new("", 3, [350, 356]);
    let at = lattice(13, 2.3);
    let x = rows(&at)?;
    for name in ["score", "velocity towards the data"] {
        for t in [0.9, 0.5, 0.15] {
            let field = match name {
                "score" => data.score(&STRAIGHT, &x, t)?,
                _ => data.velocity(&STRAIGHT, &x, t)?.neg()?,
            };
            let [h, mut v] = window();
            if t > 0.8 {
                v.label = name.to_owned();
            }
            let panel = Panel::new(format!("t = {t}"), h, v).with(heat(&data, &STRAIGHT, t)?);
            let color = if name == "score" { Color::INK } else { Color::VERMILION };
            figure = figure.with(panel.with(arrows(at.clone(), &field, 0.46)?.colored(color)));
        }
    }
    figure.save(file)
}

/// What networks of the five targets would say of a state on a line, at three times.
pub(crate) fn targets(file: &FilePath) -> Result<()> {
    let data = line()?;
    let places = spread(-2.6, 2.6, 261);
    let x = Tensor::new(places.as_slice(), &Device::Cpu)?.unsqueeze(1)?;
    let mut figure = Figure::new("", 5, [216, 280]);
    let names = [
        (Target::Noise, "noise ε", 3.0),
        (Target::Data, "data", 3.0),
        (Target::Velocity, "velocity", 3.0),
        (Target::V, "v-prediction", 3.0),
        (Target::Score, "score", 6.0),
    ];
    for (target, name, reach) in names {
        let y = Scale::linear("").within(-reach, reach);
        let mut panel = Panel::new(name, Scale::linear("state x").within(-2.6, 2.6), y);
        for (t, color) in [(0.9, Color::AMBER), (0.6, Color::VERMILION), (0.3, Color::BLUE)] {
            let output = data.estimate(&STRAIGHT, &x, t)?.output(target, &STRAIGHT.at(t))?;
            let output = output.squeeze(1)?.to_vec1::<f64>()?;
            let curve = places.iter().copied().zip(output).collect();
            panel = panel.with(Layer::line(curve).colored(color).named(format!("t = {t}")));
        }
        figure = figure.with(panel);
    }
    figure.save(file)
}

/// ψ_t, the conditional fields of two data points, and the marginal field that is their mean.
pub(crate) fn conditional(file: &FilePath, numbers: &mut Numbers) -> Result<()> {
    const T: f64 = 0.6;
    let targets = [vec![-1.3, 0.9], vec![1.3, -0.6]];
    let data = GaussianMixture::isotropic(targets.to_vec(), 0.0)?;
    let at = lattice(11, 2.25);
    let x = rows(&at)?;
    let [h, v] = window();
    let mut flow = Panel::new("ψ_t: noise shrinks and moves", h.clone(), v.clone());
    let ring = spread(0.0, std::f64::consts::TAU, 90);
    for (i, t) in [1.0, 0.75, 0.5, 0.25, 0.06].into_iter().enumerate() {
        let coef = STRAIGHT.at(t);
        let circle = ring.iter().map(|angle| {
            let (sin, cos) = angle.sin_cos();
            (
                coef.alpha * targets[0][0] + coef.sigma * cos,
                coef.alpha * targets[0][1] + coef.sigma * sin,
            )
        });
        let color = Color::ramp(1.0 - i as f64 / 4.0);
        flow = flow.with(Layer::line(circle.collect()).colored(color).named(format!("t = {t}")));
    }
    let spot = |k: usize| Layer::discs(vec![(targets[k][0], targets[k][1])], 6.0);
    flow = flow.with(spot(0).colored(Color::INK).named("data point x₁"));
    let mut figure = Figure::new("", 4, [270, 276]).with(flow);
    for k in [0, 1] {
        let one = data.component(k)?;
        let field = one.velocity(&STRAIGHT, &x, T)?.neg()?;
        let title = if k == 0 { "u_t(x | first x₁)" } else { "u_t(x | second x₁)" };
        let panel = Panel::new(title, h.clone(), v.clone()).with(heat(&one, &STRAIGHT, T)?);
        let layer = arrows(at.clone(), &field, 0.5)?.colored(Color::VERMILION);
        figure = figure.with(panel.with(layer).with(spot(k).colored(Color::INK)));
    }
    let field = data.velocity(&STRAIGHT, &x, T)?.neg()?;
    let panel = Panel::new("u_t(x), their mean", h, v).with(heat(&data, &STRAIGHT, T)?);
    let layer = arrows(at, &field, 0.5)?
        .colored(Color::VERMILION)
        .named("velocity towards the data, t = 0.6");
    let panel =
        panel.with(layer).with(spot(0).colored(Color::INK)).with(spot(1).colored(Color::INK));
    figure.with(panel).save(file)?;

    // The marginal field is the mean of the conditional ones under the posterior.
    let posterior = data.posterior(&STRAIGHT, &x, T)?;
    let mut mean = x.zeros_like()?;
    for k in 0..data.components() {
        let field = data.component(k)?.velocity(&STRAIGHT, &x, T)?;
        mean = (mean + field.broadcast_mul(&posterior.narrow(1, k, 1)?)?)?;
    }
    let gap = (mean - data.velocity(&STRAIGHT, &x, T)?)?.abs()?.max_all()?;
    numbers.push("marginal velocity − mean of conditional ones, largest", gap.to_scalar::<f64>()?);
    Ok(())
}

/// Conditional paths cross, the paths of the marginal field do not.
pub(crate) fn crossing(file: &FilePath) -> Result<()> {
    const N: usize = 26;
    let data = line()?;
    let (noise, end) = (normals(3, N, 1)?, data.sample(&noise(), 100, N)?);
    let axes = || [Scale::linear("t").within(1.0, 0.0), Scale::linear("").within(-2.7, 2.7)];
    let from = noise.squeeze(1)?.to_vec1::<f64>()?;
    let to = end.squeeze(1)?.to_vec1::<f64>()?;
    let color = |x: f64| Color::ramp(0.5 + x / 4.4);
    let [h, v] = axes();
    let mut left = Panel::new("conditional: each noise to a data point of its own", h, v);
    for (a, b) in from.iter().zip(&to) {
        let line = Layer::thin_line(vec![(1.0, *a), (0.0, *b)], 1.6);
        left = left.with(line.colored(color(*a)));
    }
    let mut trails = vec![Vec::new(); N];
    let walk = grid::uniform(1.0, 0.0, 200)?;
    let mut field = |x: &Tensor, t: f64| data.velocity(&STRAIGHT, x, t);
    integrate_observed(&mut field, noise, &walk, &tableau::RK4, &mut |_, t, x| {
        let here = x.squeeze(1)?.to_vec1::<f64>()?;
        trails.iter_mut().zip(here).for_each(|(trail, x)| trail.push((t, x)));
        Ok(())
    })?;
    let [h, v] = axes();
    let mut right = Panel::new("marginal: what the trained network does", h, v);
    for (trail, a) in trails.into_iter().zip(&from) {
        right = right.with(Layer::thin_line(trail, 1.6).colored(color(*a)));
    }
    Figure::new("", 2, [520, 330]).with(left).with(right).save(file)
}
