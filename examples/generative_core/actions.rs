//! The link to robot actions: chunks of the shipped PushT policy on their way from noise.

use std::path::Path as FilePath;

use candle_core::Device;
use pathline::Result;
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::policy::Policy;
use pathline::train::eval::observation;
use pathline_sim::pusht::PushT;

use crate::numbers::Numbers;
use crate::scene::{Point, noise};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/pusht-flow");
/// Chunks that are drawn.
const CHUNKS: usize = 16;

/// 16 chunks for one observation, at five times.
pub(crate) fn chunks(file: &FilePath, numbers: &mut Numbers) -> Result<()> {
    let policy = Policy::load(FilePath::new(FOLDER), &Device::Cpu)?;
    let env = PushT::at_rest([256.0, 400.0, 256.0, 250.0, 2.2]);
    let seen = observation(&env);
    let history = vec![seen; policy.signature().n_obs_steps];
    let histories = vec![history.as_slice(); CHUNKS];
    let draws: Vec<f32> =
        (0..CHUNKS as u64).flat_map(|i| noise().normal(i, 0, policy.chunk_len())).collect();
    let solver = policy.solver(Some("heun"), Some(20))?;
    let mut states: Vec<(f64, Vec<f32>)> = Vec::new();
    policy.infer_traced(&histories, draws, &solver, &mut |t, x| states.push((t, x.to_vec())))?;

    let agent = env.agent_pos();
    let corners: Vec<Point> = env.keypoints().chunks_exact(2).map(|p| (p[0], p[1])).collect();
    let mut figure = Figure::new("", 5, [216, 242]);
    for stop in [0, 8, 14, 18, 20] {
        let Some((t, state)) = states.get(stop) else { continue };
        // Rows of the board grow downwards.
        let (x, y) = (Scale::bare(90.0, 422.0), Scale::bare(450.0, 118.0));
        let mut panel = Panel::new(format!("t = {t:.1}"), x, y);
        for part in corners.chunks_exact(4) {
            let shape = Layer::shape(part.to_vec()).colored(Color::GREY.pale(0.35));
            panel = panel.with(shape.named("the T"));
        }
        for chunk in state.chunks_exact(policy.chunk_len()) {
            let path: Vec<Point> =
                chunk.chunks_exact(2).map(|a| (f64::from(a[0]), f64::from(a[1]))).collect();
            panel = panel.with(Layer::thin_line(path.clone(), 0.8).colored(Color::GREY).faded(0.6));
            for (i, point) in path.iter().enumerate() {
                let color = Color::ramp(i as f64 / (path.len() - 1) as f64);
                panel = panel.with(Layer::discs(vec![*point], 2.2).colored(color));
            }
        }
        let disc = Layer::discs(vec![(agent[0], agent[1])], 6.0).colored(Color::GREEN);
        figure = figure.with(panel.with(disc.named("the robot")));
    }
    let mut legend = |share: f64, name: &str| {
        if let Some(panel) = figure.panels.first_mut() {
            let layer = Layer::discs(vec![(-100.0, -100.0)], 3.0).colored(Color::ramp(share));
            panel.layers.push(layer.named(name));
        }
    };
    legend(0.0, "first action of a chunk");
    legend(1.0, "last action");
    figure.save(file)?;

    numbers.push("actions of a chunk", policy.signature().horizon as f64);
    for steps in [1, 2, 4, 8] {
        let draws = noise().normal(0, 0, policy.chunk_len());
        let solver = policy.solver(Some("euler"), Some(steps))?;
        let few = policy.infer(&histories[..1], draws.clone(), &solver)?;
        let best = policy.solver(Some("rk4"), Some(100))?;
        let exact = policy.infer(&histories[..1], draws, &best)?;
        let gaps = few.actions.iter().zip(&exact.actions).map(|(a, b)| f64::from((a - b).abs()));
        let largest = gaps.fold(0.0, f64::max);
        numbers.push(format!("chunk: Euler, {steps} evaluations, largest error in px"), largest);
    }
    Ok(())
}
