//! `pathline bench`: how fast a policy, a picture and the simulator are on this machine, and how fast they
//! could be.

mod growth;
mod limits;
mod pictures;
mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use pathline::device;
use pathline::flow::Noise;
use pathline::nn::Work;
use pathline::policy::{Observation, Policy};
use pathline_sim::pusht::PushT;
use serde::Serialize;

use super::dtype::DtypeArgs;
use super::{infer, machine, threads};
use growth::Curve;
use limits::Limits;
use stage::{Stage, Times, less, median};

/// Network evaluations a chunk in the table.
const EVALUATIONS: [usize; 5] = [1, 2, 4, 8, 10];
/// Chunks before those that are measured.
const WARM_UP: usize = 20;
/// A row ends after this time, however few chunks it has.
const ROW_TIME: Duration = Duration::from_secs(4);
/// Time given to the simulator.
const SIM_TIME: Duration = Duration::from_millis(300);

/// Measures each stage of a policy or a picture beside what this machine can do.
#[derive(clap::Args)]
#[command(
    after_help = "Euler's method, one observation at a time; other programs that run at the \
same time show in the percentiles. The machine's limits are measured first: the rate of a matrix product, and that \
of reading memory. The floor of a stage is the longer of its operations at the first and its bytes (weights, inputs \
and outputs, each once) at the second. A small network whose weights stay in the cache can be faster than its \
floor; one far slower has other work than products, or too little of it for two threads.

Examples:
  pathline bench
  pathline bench --policy runs/pusht-flow/checkpoints/last/pretrained_model --json
  pathline bench --model policies/emoji-flow          the stages of a picture
  pathline bench --policy DIR --dtype int8            weights of 8 bits
  pathline bench --growth                             robots in a batch, solver steps"
)]
pub(crate) struct BenchArgs {
    /// Policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies/pusht-flow")]
    policy: PathBuf,
    /// Measure the stages of a picture of this model instead.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["policy", "growth"])]
    model: Option<PathBuf>,
    /// Chunks measured for each row.
    #[arg(long, value_name = "N", default_value_t = 500)]
    chunks: usize,
    /// Also measure how the time of a chunk grows with robots and with solver steps.
    #[arg(long)]
    growth: bool,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    cpu: String,
    threads: usize,
    simd: String,
    limits: Limits,
    #[serde(flatten)]
    of: Measured<'a>,
    dtype: &'static str,
    stages: Vec<Stage>,
    /// Of this process, before the simulator ran.
    peak_memory_mb: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Measured<'a> {
    Model { model: &'a Path },
    Policy(PolicyReport<'a>),
}

#[derive(Serialize)]
struct PolicyReport<'a> {
    policy: &'a Path,
    /// Loading the folder, median of five after the first.
    load_ms: f64,
    /// Loading the folder for the first time, and the first chunk.
    first_action_ms: f64,
    chunk_ms: Vec<Row>,
    growth: Vec<Curve>,
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
    #[serde(skip)]
    encode_ms: f64,
    #[serde(skip)]
    work: Work,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!((1..=1_000_000).contains(&args.chunks), "--chunks: expected 1 to 1000000");
    // First of all, so that no page of the files is warm from us.
    let policy = match &args.model {
        None => Some(first(args)?),
        Some(_) => None,
    };
    let limits = Limits::measure(threads::used())?;
    let (of, stages) = match (&args.model, policy) {
        (Some(model), _) => {
            (Measured::Model { model }, pictures::stages(model, args.dtype, &limits)?)
        }
        (None, Some(policy)) => policy_report(args, policy, &limits)?,
        (None, None) => anyhow::bail!("bench: nothing to measure"),
    };
    let report = Report {
        cpu: machine::cpu(),
        threads: threads::used(),
        simd: machine::simd(),
        limits,
        of,
        dtype: args.dtype.name(),
        stages,
        peak_memory_mb: machine::peak_memory_mb(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// A policy, an observation for it, and the time to its first chunk.
struct First {
    policy: Policy,
    history: Vec<Observation>,
    first_action_ms: f64,
}

fn first(args: &BenchArgs) -> anyhow::Result<First> {
    let start = Instant::now();
    let policy = args.dtype.load(|| Policy::load(&args.policy, &device::cpu()))?;
    let history = infer::example(policy.signature(), 0);
    let solver = policy.solver(None, None)?;
    let draws = policy.draws(&Noise::new(0), &[0], 0, &solver);
    policy.infer(&[&history], draws, &solver)?;
    Ok(First { policy, history, first_action_ms: millis(start.elapsed()) })
}

fn policy_report<'a>(
    args: &'a BenchArgs,
    First { policy, history, first_action_ms }: First,
    limits: &Limits,
) -> anyhow::Result<(Measured<'a>, Vec<Stage>)> {
    let mut loads = Vec::with_capacity(5);
    for _ in 0..5 {
        let start = Instant::now();
        args.dtype.load(|| Policy::load(&args.policy, &device::cpu()))?;
        loads.push(millis(start.elapsed()));
    }
    let chunk_ms = EVALUATIONS
        .into_iter()
        .map(|nfe| latency(&policy, &history, nfe, args.chunks))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let growth = match args.growth {
        true => growth::curves(&policy, &history)?,
        false => Vec::new(),
    };
    let stages = stages(&chunk_ms, limits);
    let report = PolicyReport {
        policy: &args.policy,
        load_ms: median(&mut loads),
        first_action_ms,
        chunk_ms,
        growth,
        simulator_steps_per_s: simulator(SIM_TIME),
    };
    Ok((Measured::Policy(report), stages))
}

/// What is the same in every chunk, and what each evaluation adds.
fn stages(rows: &[Row], limits: &Limits) -> Vec<Stage> {
    let (Some(one), Some(many)) = (rows.first(), rows.last()) else { return Vec::new() };
    let more = (many.nfe - one.nfe).max(1);
    let added = less(many.work, one.work);
    let each =
        Work { operations: added.operations / more as u64, bytes: added.bytes / more as u64 };
    let encode = less(one.work, each);
    let evaluation_ms = (many.p50 - one.p50) / more as f64;
    let chunk = |row: &Row| {
        Stage::new(format!("chunk, {} evaluations", row.nfe), row.p50, row.work, limits)
    };
    let mut all = vec![
        Stage::new("encode", one.encode_ms, encode, limits),
        Stage::new("evaluation", evaluation_ms, each, limits),
    ];
    all.extend(rows.iter().map(chunk));
    all
}

fn print(report: &Report<'_>) {
    println!("machine  {}, {} threads, {}", report.cpu, report.threads, report.simd);
    let Limits { gemm_gflops: [gemm, all_gemm], read_gb_s: [read, all_read] } = report.limits;
    println!("         products {gemm:.0} GFLOP/s on one thread, {all_gemm:.0} on all");
    println!("         reading memory {read:.1} GB/s on one thread, {all_read:.1} on all");
    match &report.of {
        Measured::Model { model } => {
            println!("model    {}, {} weights\n", model.display(), report.dtype);
            Stage::print(&report.stages);
        }
        Measured::Policy(policy) => {
            println!("policy   {}, {} weights\n", policy.policy.display(), report.dtype);
            Stage::print(&report.stages);
            policy.print();
        }
    }
    if let Some(peak) = report.peak_memory_mb {
        println!("\npeak memory          {peak:>9.1} MB, 268 of them to measure the memory");
    }
}

impl PolicyReport<'_> {
    fn print(&self) {
        println!("\nevaluations     p50 ms     p90 ms     p99 ms     max ms");
        for row in &self.chunk_ms {
            println!(
                "{:>11} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
                row.nfe, row.p50, row.p90, row.p99, row.max
            );
        }
        self.growth.iter().for_each(Curve::print);
        println!();
        println!("load                 {:>9.1} ms", self.load_ms);
        println!("load + first action  {:>9.1} ms   the first time", self.first_action_ms);
        println!("simulator            {:>9.0} steps/s on one thread", self.simulator_steps_per_s);
    }
}

fn latency(
    policy: &Policy,
    history: &[Observation],
    nfe: usize,
    chunks: usize,
) -> anyhow::Result<Row> {
    let solver = policy.solver(None, Some(nfe))?;
    let noise = Noise::new(0);
    let (mut times, mut encodes) = (Times::new()?, Times::new()?);
    let mut work = Work::default();
    let begin = Instant::now();
    for draw in 0..WARM_UP + chunks {
        let x = policy.draws(&noise, &[0], draw as u64, &solver);
        let (before, start) = (Work::so_far(), Instant::now());
        let done = policy.infer(&[history], x, &solver)?;
        let time = start.elapsed();
        // A large network says what there is to say after a few chunks.
        if draw >= WARM_UP || begin.elapsed() > ROW_TIME / 4 {
            times.record(time);
            encodes.record(done.encode);
            work = before.since();
        }
        if times.count() > 0 && begin.elapsed() > ROW_TIME {
            break;
        }
    }
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|q| times.at(q));
    let encode_ms = encodes.at(0.5);
    Ok(Row { nfe, p50, p90, p99, max, chunks: times.count(), encode_ms, work })
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
