//! The probability path p_t in one and two dimensions, the forward process, the schedules.

use std::path::Path as FilePath;

use candle_core::Tensor;
use pathline::Result;
use pathline::flow::schedule::{BetaSchedule, DiscreteConfig};
use pathline::flow::{Discrete, Path};
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::solver::{grid, integrate_observed, tableau};

use crate::scene::{MOON, STRAIGHT, VP, heat, line, moons, noise, normals, points, spread, window};

/// p_t(x) of data on a line, over time, with particles that the flow carries.
pub(crate) fn density(file: &FilePath) -> Result<()> {
    const REACH: f64 = 3.0;
    const COLUMNS: usize = 121;
    let data = line()?;
    let x = Tensor::new(spread(-REACH, REACH, 161), &candle_core::Device::Cpu)?.unsqueeze(1)?;
    // From noise to data, as sampling goes; VP's own velocity has no limit at its last point.
    let times = spread(1.0, 1e-3, COLUMNS);
    let mut figure = Figure::new("", 3, [360, 320]);
    let paths = [("straight", STRAIGHT), ("cosine", Path::Cosine), ("variance preserving", VP)];
    for (name, path) in paths {
        let mut values = vec![0.0; COLUMNS * 161];
        for (i, t) in times.iter().enumerate() {
            let log = data.log_density(&path, &x, *t)?.to_vec1::<f64>()?;
            let most = log.iter().fold(f64::NEG_INFINITY, |most, v| most.max(*v));
            for (j, v) in log.iter().enumerate() {
                values[j * COLUMNS + i] = 0.9 * (v - most).exp();
            }
        }
        let y = if name == "straight" { Scale::linear("x") } else { Scale::linear("") };
        let mut panel =
            Panel::new(name, Scale::linear("t").within(1.0, 0.0), y.within(-REACH, REACH))
                .with(Layer::heat([(1.0, -REACH), (0.0, REACH)], COLUMNS, values));
        let start = Tensor::new(spread(-1.8, 1.8, 13), &candle_core::Device::Cpu)?.unsqueeze(1)?;
        let mut trails = vec![Vec::new(); 13];
        let walk = grid::uniform(1.0, 1e-3, 400)?;
        let mut field = |x: &Tensor, t: f64| data.velocity(&path, x, t);
        integrate_observed(&mut field, start, &walk, &tableau::HEUN, &mut |_, t, x| {
            let here = x.squeeze(1)?.to_vec1::<f64>()?;
            trails.iter_mut().zip(here).for_each(|(trail, x)| trail.push((t, x)));
            Ok(())
        })?;
        for trail in trails {
            let thin = Layer::thin_line(trail, 1.5).colored(Color::VERMILION);
            panel = panel.with(thin.faded(0.85).named("particles that the velocity field carries"));
        }
        figure = figure.with(panel);
    }
    figure.panels.iter_mut().for_each(|panel| {
        if let Some(layer) = panel.layers.first_mut() {
            layer.name = "density at each t, scaled to its peak".to_owned();
            layer.color = Some(Color::amount(0.6));
        }
    });
    figure.save(file)
}

/// p_t of two moons at five times, and the same particles on their way.
pub(crate) fn clouds(file: &FilePath) -> Result<()> {
    let data = moons()?;
    let walk = grid::uniform(1.0, 0.0, 200)?;
    let stops = [0usize, 80, 130, 165, 200];
    let mut seen = Vec::new();
    let mut field = |x: &Tensor, t: f64| data.velocity(&STRAIGHT, x, t);
    integrate_observed(&mut field, normals(0, 250, 2)?, &walk, &tableau::HEUN, &mut |i, t, x| {
        if stops.contains(&i) {
            seen.push((t, points(x)?));
        }
        Ok(())
    })?;
    let mut figure = Figure::new("", 5, [216, 242]);
    for (t, cloud) in seen {
        let [x, y] = window();
        let panel = Panel::new(format!("t = {t:.2}"), x, y).with(heat(&data, &STRAIGHT, t)?);
        figure = figure.with(panel.with(Layer::discs(cloud, 1.6).colored(Color::VERMILION)));
    }
    figure.save(file)
}

/// The forward process on 500 points of two moons: x_t = α·data + σ·noise.
pub(crate) fn forward(file: &FilePath) -> Result<()> {
    const N: usize = 500;
    let data = moons()?.sample(&noise(), 0, N)?;
    let upper = moons()?.posterior(&STRAIGHT, &data, 0.0)?.narrow(1, 0, MOON)?.sum(1)?;
    let upper = upper.to_vec1::<f64>()?;
    let normals = normals(0, N, 2)?;
    let mut figure = Figure::new("", 5, [216, 242]);
    for (name, path) in [("straight", STRAIGHT), ("VP", VP)] {
        for t in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let coef = path.at(t);
            let state = ((&data * coef.alpha)? + (&normals * coef.sigma)?)?;
            let cloud = points(&state)?;
            let moon = |first: bool| -> Vec<(f64, f64)> {
                let mine = cloud.iter().zip(&upper).filter(|(_, u)| (**u > 0.5) == first);
                mine.map(|(p, _)| *p).collect()
            };
            let [x, y] = window();
            let title = format!("{name}, t = {t}: α {:.2}, σ {:.2}", coef.alpha, coef.sigma);
            let title = title.replace("straight, ", "").replace("VP, ", "");
            let y = if t == 0.0 { pathline::plot::Scale { label: name.into(), ..y } } else { y };
            figure = figure.with(
                Panel::new(title, x, y)
                    .with(Layer::discs(moon(true), 1.5).colored(Color::BLUE))
                    .with(Layer::discs(moon(false), 1.5).colored(Color::VERMILION)),
            );
        }
    }
    figure.save(file)
}

/// ᾱ and λ over time, and the curves in the plane of (α, σ).
pub(crate) fn schedules(file: &FilePath) -> Result<()> {
    let table = |beta_schedule| -> Result<Path> {
        let config = DiscreteConfig { beta_schedule, ..DiscreteConfig::default() };
        Ok(Path::Discrete(Discrete::new(config)?))
    };
    let paths = [
        ("straight (flow matching)", STRAIGHT),
        ("cosine", Path::Cosine),
        ("VP, continuous", VP),
        ("DDPM, linear β", table(BetaSchedule::Linear)?),
        ("DDPM, squared cosine", table(BetaSchedule::SquaredcosCapV2)?),
    ];
    let time = || Scale::linear("t, 1 is noise").within(0.0, 1.0);
    let mut signal = Panel::new("signal ᾱ = α²", time(), Scale::linear("").within(0.0, 1.02));
    let mut ratio = Panel::new("λ = ln(α/σ)", time(), Scale::linear("").within(-8.0, 8.0));
    let mut plane = Panel::new(
        "the curve in the plane",
        Scale::linear("α, weight of the data").within(0.0, 1.05),
        Scale::linear("σ, weight of the noise").within(0.0, 1.05),
    );
    for (i, (name, path)) in paths.into_iter().enumerate() {
        let coefs: Vec<_> =
            spread(0.0, 1.0, 401).iter().map(|u| (*u, path.at(path.own_time(*u)))).collect();
        // DDPM's continuous partner lies on top of it: dash the tables.
        let line = |points| if i < 3 { Layer::line(points) } else { Layer::dashes(points) };
        let color = Color::PALETTE[i];
        let layer = |points| line(points).colored(color).named(name);
        signal = signal.with(layer(coefs.iter().map(|(u, c)| (*u, c.alpha * c.alpha)).collect()));
        ratio = ratio.with(layer(coefs.iter().map(|(u, c)| (*u, c.lambda())).collect()));
        plane = plane.with(layer(coefs.iter().map(|(_, c)| (c.alpha, c.sigma)).collect()));
    }
    Figure::new("", 3, [360, 340]).with(signal).with(ratio).with(plane).save(file)
}
