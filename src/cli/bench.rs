//! `pathline bench`: how fast a policy and the simulator are on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::{Observation, Policy};
use pathline_sim::pusht::PushT;
use serde::Serialize;

use super::{infer, machine};

/// Network evaluations a chunk in the table.
const EVALUATIONS: [usize; 5] = [1, 2, 4, 8, 10];
/// Chunks before those that are measured.
const WARM_UP: usize = 20;
/// A row ends after this time, however few chunks it has.
const ROW_TIME: Duration = Duration::from_secs(4);
/// Time given to the simulator.
const SIM_TIME: Duration = Duration::from_millis(300);

/// Measures chunk latency, start-up, memory and the simulator on this machine.
#[derive(clap::Args)]
#[command(
    after_help = "Euler's method, one observation at a time; other programs that run at the \
same time show in the percentiles.

Examples:
  pathline bench
  pathline bench --policy runs/pusht-flow/checkpoints/last/pretrained_model --json"
)]
pub(crate) struct BenchArgs {
    /// Policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies/pusht-flow")]
    policy: PathBuf,
    /// Chunks measured for each row.
    #[arg(long, value_name = "N", default_value_t = 500)]
    chunks: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    cpu: String,
    threads: usize,
    simd: String,
    policy: &'a Path,
    /// Loading the folder, median of five after the first.
    load_ms: f64,
    /// Loading the folder for the first time, and the first chunk.
    first_action_ms: f64,
    chunk_ms: Vec<Row>,
    /// Of this process, before the simulator ran.
    peak_memory_mb: Option<f64>,
    /// On one thread.
    simulator_steps_per_s: f64,
}

/// Latency of one chunk, milliseconds.
#[derive(Serialize)]
struct Row {
    nfe: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
    chunks: u64,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!((1..=1_000_000).contains(&args.chunks), "--chunks: expected 1 to 1000000");
    let start = Instant::now();
    let policy = Policy::load(&args.policy, &device::cpu())?;
    let history = infer::example(policy.signature(), 0);
    let solver = policy.solver(None, None)?;
    let draws = policy.draws(&Noise::new(0), &[0], 0, &solver);
    policy.infer(&[&history], draws, &solver)?;
    let first_action_ms = millis(start.elapsed());

    let mut loads = Vec::with_capacity(5);
    for _ in 0..5 {
        let start = Instant::now();
        Policy::load(&args.policy, &device::cpu())?;
        loads.push(millis(start.elapsed()));
    }
    loads.sort_by(f64::total_cmp);
    let chunk_ms = EVALUATIONS
        .into_iter()
        .map(|nfe| latency(&policy, &history, nfe, args.chunks))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let report = Report {
        cpu: machine::cpu(),
        threads: machine::threads(),
        simd: machine::simd(),
        policy: &args.policy,
        load_ms: loads[loads.len() / 2],
        first_action_ms,
        chunk_ms,
        peak_memory_mb: machine::peak_memory_mb(),
        simulator_steps_per_s: simulator(SIM_TIME),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report<'_>) {
    println!("machine  {}, {} threads, {}", report.cpu, report.threads, report.simd);
    println!("policy   {}\n", report.policy.display());
    println!("evaluations     p50 ms     p90 ms     p99 ms     max ms");
    for row in &report.chunk_ms {
        println!(
            "{:>11} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
            row.nfe, row.p50, row.p90, row.p99, row.max
        );
    }
    println!();
    println!("load                 {:>9.1} ms", report.load_ms);
    println!("load + first action  {:>9.1} ms   the first time", report.first_action_ms);
    if let Some(peak) = report.peak_memory_mb {
        println!("peak memory          {peak:>9.1} MB");
    }
    println!("simulator            {:>9.0} steps/s on one thread", report.simulator_steps_per_s);
}

fn latency(
    policy: &Policy,
    history: &[Observation],
    nfe: usize,
    chunks: usize,
) -> anyhow::Result<Row> {
    let solver = policy.solver(None, Some(nfe))?;
    let noise = Noise::new(0);
    let mut nanos = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)
        .context("histogram of chunk latencies")?;
    let begin = Instant::now();
    for draw in 0..WARM_UP + chunks {
        let x = policy.draws(&noise, &[0], draw as u64, &solver);
        let start = Instant::now();
        policy.infer(&[history], x, &solver)?;
        if draw >= WARM_UP {
            nanos.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        if !nanos.is_empty() && begin.elapsed() > ROW_TIME {
            break;
        }
    }
    let at = |q: f64| nanos.value_at_quantile(q) as f64 / 1e6;
    let max = nanos.max() as f64 / 1e6;
    Ok(Row { nfe, p50: at(0.5), p90: at(0.9), p99: at(0.99), max, chunks: nanos.len() })
}

/// Control steps a second on this thread, with an agent that wanders over the table.
fn simulator(time: Duration) -> f64 {
    let noise = Noise::new(0);
    let (mut steps, start) = (0u64, Instant::now());
    while start.elapsed() < time {
        let mut env = PushT::reset(steps);
        for wander in noise.uniforms(steps, 0, 2 * 50).chunks_exact(2) {
            env.step([512.0 * wander[0], 512.0 * wander[1]]);
            steps += 1;
        }
    }
    steps as f64 / start.elapsed().as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
