//! How the time grows: with evaluations, with observations in a batch (robots on one server).

use std::time::{Duration, Instant};

use pathline::flow::Noise;
use pathline::policy::{Observation, Policy};
use serde::Serialize;

use super::stage::median;

/// What is doubled, from one up.
const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Time for each point.
const TIME: Duration = Duration::from_millis(400);

/// Medians, and the slope of their logarithms.
#[derive(Serialize)]
pub(super) struct Curve {
    pub(super) of: &'static str,
    pub(super) sizes: Vec<usize>,
    pub(super) ms: Vec<f64>,
    /// `ms ∝ size^exponent` between the last two points.
    pub(super) exponent: f64,
}

pub(super) fn curves(policy: &Policy, history: &[Observation]) -> anyhow::Result<Vec<Curve>> {
    let nfe = policy.solver(None, None)?.steps;
    let by_batch = |batch: usize| point(policy, history, batch, nfe);
    let by_steps = |steps: usize| point(policy, history, 1, steps);
    Ok(vec![curve("robots in a batch", by_batch)?, curve("solver steps", by_steps)?])
}

fn curve(of: &'static str, point: impl Fn(usize) -> anyhow::Result<f64>) -> anyhow::Result<Curve> {
    let ms = SIZES.iter().map(|size| point(*size)).collect::<anyhow::Result<Vec<_>>>()?;
    let last = ms.len() - 1;
    let exponent = (ms[last] / ms[last - 1]).log2();
    Ok(Curve { of, sizes: SIZES.to_vec(), ms, exponent })
}

fn point(
    policy: &Policy,
    history: &[Observation],
    batch: usize,
    steps: usize,
) -> anyhow::Result<f64> {
    let solver = policy.solver(None, Some(steps))?;
    let samples: Vec<u64> = (0..batch as u64).collect();
    let histories = vec![history; batch];
    let noise = Noise::new(0);
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || begin.elapsed() < TIME {
        let draws = policy.draws(&noise, &samples, times.len() as u64, &solver);
        let start = Instant::now();
        policy.infer(&histories, draws, &solver)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&mut times))
}

impl Curve {
    pub(super) fn print(&self) {
        print!("\n{:<20}", self.of);
        self.sizes.iter().for_each(|size| print!("{size:>8}"));
        print!("\n{:<20}", "ms");
        self.ms.iter().for_each(|ms| print!("{ms:>8.2}"));
        println!("\n{:<20}{:>8.2}", "exponent", self.exponent);
    }
}
