//! Wrappers around a denoiser: guidance, and a part that is known.

use std::f64::consts::PI;
use std::path::Path as FilePath;

use candle_core::{Device, Tensor};
use pathline::Result;
use pathline::flow::guidance::{Branches, Guidance, Outputs, guided};
use pathline::flow::known::{Derivative, Hold, Known, Mode};
use pathline::flow::{Denoiser, GaussianMixture, Target};
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::solver::{Noising, Sampler, Solution, grid};

use crate::numbers::Numbers;
use crate::scene::{STRAIGHT, WINDOW, heat, moons, noise, normals, points, window};

const STEPS: usize = 128;

/// Samples of any denoiser on the straight path: of the ODE for η = 0, of the SDE for η = 1.
fn sample(net: &mut Denoiser<'_>, start: Tensor, eta: f64) -> Result<Tensor> {
    let times = grid::uniform(1.0, 0.0, STEPS)?;
    let sampler = Sampler::Transfer { noising: Noising::Eta(eta) };
    let mut draw = |step: usize, x: &Tensor| noise().normal_like(0, step as u64 + 100, x);
    let run = sampler.run(net, &STRAIGHT, start, &times, &mut draw, &mut |_, _, _| Ok(()));
    run.map(|Solution { x, .. }| x)
}

/// One class of three, with growing guidance.
pub(crate) fn guidance(file: &FilePath, numbers: &mut Numbers) -> Result<()> {
    let means = vec![vec![0.0, 0.3], vec![0.9, -1.2], vec![-0.9, -1.2]];
    let all = GaussianMixture::isotropic(means, 0.5)?;
    let class = all.component(0)?;
    let mut figure = Figure::new("", 4, [270, 276]);
    for scale in [0.0, 1.0, 2.0, 5.0] {
        let network = |x: &Tensor, t: f64, branches: Branches| -> Result<Outputs> {
            let conditional = class.velocity(&STRAIGHT, x, t)?;
            let negative = match branches {
                Branches::Conditional => None,
                Branches::Both => Some(all.velocity(&STRAIGHT, x, t)?),
            };
            Ok(Outputs { conditional, negative })
        };
        let mut net = guided(&STRAIGHT, Target::Velocity, Guidance::new(scale), network)?;
        let cloud = points(&sample(&mut net, normals(11, 500, 2)?, 0.0)?)?;
        let n = cloud.len() as f64;
        let mean = cloud.iter().map(|p| p.1).sum::<f64>() / n;
        let variance = cloud.iter().map(|p| (p.1 - mean).powi(2)).sum::<f64>() / n;
        numbers.push(format!("guidance {scale}: mean of y"), mean);
        numbers.push(format!("guidance {scale}: deviation of y"), variance.sqrt());
        let [x, y] = window();
        let title = match scale {
            0.0 => "s = 0: no class".to_owned(),
            1.0 => "s = 1: the class".to_owned(),
            _ => format!("s = {scale}"),
        };
        let back = heat(&all, &STRAIGHT, 0.0)?;
        let discs = Layer::discs(cloud, 1.8).colored(Color::VERMILION);
        figure = figure.with(Panel::new(title, x, y).with(back).with(discs));
    }
    figure.save(file)
}

/// Steps of a chunk, and how many of them are known.
const CHUNK: usize = 16;
const PREFIX: usize = 5;

/// Ways around an obstacle: over or under it, wide or narrow.
fn ways() -> Result<GaussianMixture> {
    let way = |side: f64, width: f64| -> Vec<f64> {
        (0..CHUNK).map(|i| side * width * (PI * i as f64 / (CHUNK - 1) as f64).sin()).collect()
    };
    let widths = [0.7, 0.85, 1.0, 1.15, 1.3];
    let both = widths.iter().flat_map(|w| [way(1.0, *w), way(-1.0, *w)]);
    GaussianMixture::isotropic(both.collect(), 0.04)
}

/// Inpainting in the plane, and the continuation of a chunk: one wrapper.
pub(crate) fn known(file: &FilePath, numbers: &mut Numbers) -> Result<()> {
    let device = &Device::Cpu;
    let mut figure = Figure::new("", 3, [350, 300]);

    // The height of a point is known, its place along the line is not.
    const HEIGHT: f64 = 0.55;
    let data = moons()?;
    let start = normals(12, 120, 2)?;
    let mask = Tensor::new(&[[0.0f64, 1.0]], device)?;
    let value = Tensor::new(&[[0.0f64, HEIGHT]], device)?;
    let pull = || Mode::Guided { derivative: Derivative::Vjp, max_guidance_weight: 5.0 };
    let runs = [
        ("height: clamped, SDE", 1.0, Mode::Clamp(Hold::Along(start.clone()))),
        ("height: guided, ODE", 0.0, pull()),
    ];
    for (name, eta, mode) in runs {
        let part = Known::new(mask.clone(), value.clone(), mode)?;
        let mut inner = data.denoiser(&STRAIGHT);
        let net = &mut part.denoiser(&STRAIGHT, &mut inner)?;
        let cloud = points(&part.hold(&STRAIGHT, &sample(net, start.clone(), eta)?, 0.0)?)?;
        let [h, v] = window();
        let line = Layer::dashes(vec![(-WINDOW, HEIGHT), (WINDOW, HEIGHT)]).colored(Color::INK);
        let discs = Layer::discs(cloud, 3.0).colored(Color::VERMILION).faded(0.7);
        let panel = Panel::new(name, h, v).with(heat(&data, &STRAIGHT, 0.0)?);
        figure = figure.with(panel.with(line).with(discs));
    }

    let data = ways()?;
    let prefix: Vec<f64> = (0..CHUNK)
        .map(|i| if i < PREFIX { (PI * i as f64 / (CHUNK - 1) as f64).sin() } else { 0.0 })
        .collect();
    let weight: Vec<f64> = (0..CHUNK).map(|i| f64::from(u8::from(i < PREFIX))).collect();
    let start = normals(13, 24, CHUNK)?;
    let known = |mode: Mode| -> Result<Known> {
        let mask = Tensor::new(weight.as_slice(), device)?.unsqueeze(0)?;
        Known::new(mask, Tensor::new(prefix.as_slice(), device)?.unsqueeze(0)?, mode)
    };
    let runs = [
        ("chunk: nothing is known", 0.0, None),
        ("chunk: clamped, ODE", 0.0, Some(known(Mode::Clamp(Hold::Along(start.clone())))?)),
        ("chunk: clamped, SDE", 1.0, Some(known(Mode::Clamp(Hold::Along(start.clone())))?)),
        ("chunk: guided, ODE", 0.0, Some(known(pull())?)),
    ];
    for (name, eta, part) in runs {
        let mut inner = data.denoiser(&STRAIGHT);
        let x = match &part {
            None => sample(&mut inner, start.clone(), eta)?,
            Some(part) => sample(&mut part.denoiser(&STRAIGHT, &mut inner)?, start.clone(), eta)?,
        };
        let chunks = x.to_vec2::<f64>()?;
        let over = chunks.iter().filter(|chunk| chunk[CHUNK / 2] > 0.0).count();
        numbers.push(format!("{name}: share that passes above"), over as f64 / 24.0);
        let gap = |chunk: &Vec<f64>| -> f64 {
            chunk.iter().zip(&prefix).take(PREFIX).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        let mean = chunks.iter().map(gap).sum::<f64>() / chunks.len() as f64;
        numbers.push(format!("{name}: mean largest error of the prefix"), mean);
        let (x, y) = (Scale::bare(-0.5, 15.5), Scale::bare(-1.6, 1.6));
        let obstacle = Layer::shape(vec![(6.0, -0.3), (9.0, -0.3), (9.0, 0.3), (6.0, 0.3)]);
        let mut panel =
            Panel::new(name, x, y).with(obstacle.colored(Color::GREY.pale(0.4)).named("obstacle"));
        for chunk in chunks {
            let way = chunk.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
            let line = Layer::thin_line(way, 1.4).colored(Color::VERMILION).faded(0.75);
            panel = panel.with(line.named("samples"));
        }
        if part.is_some() {
            let seen = prefix.iter().take(PREFIX).enumerate().map(|(i, y)| (i as f64, *y));
            let discs = Layer::discs(seen.collect(), 4.0).colored(Color::INK);
            panel = panel.with(discs.named("known: actions already sent"));
        }
        figure = figure.with(panel);
    }
    figure.save(file)
}
