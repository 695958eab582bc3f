//! `pathline eval`: success rate in the simulator, with LeRobot's keys.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::{Policy, Solver};
use pathline::train::eval::{EvalOptions, EvalReport, evaluate, seen};
use pathline_sim::pusht::PushT;
use serde::Serialize;

use super::dtype::DtypeArgs;
use super::join::{AskArgs, RtcArgs, modes};
use super::study::Study;

/// Latency is measured on up to 200 chunks, for about so long.
const LATENCY_TIME: Duration = Duration::from_secs(10);

/// Runs a policy in the simulator and reports its success rate.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pathline eval --policy policies/pusht-flow --episodes 500 --seed 100000
  pathline eval --policy policies/pusht-flow --solver euler --steps 1 --n-action-steps 2 --json
  pathline eval --policy policies/pusht-rtc --latency-ms 300 --join rtc_prefix
  pathline eval --policy policies/pusht-rtc --study runs/latency --episodes 200 --join all \\
      --latency-ms 0,50,100,200,300,500")]
pub(crate) struct EvalArgs {
    /// Policy folder, LeRobot's or Pathline's.
    #[arg(long, value_name = "DIR", default_value = "policies/pusht-flow")]
    policy: PathBuf,
    /// Environment.
    #[arg(long, default_value = "pusht", value_parser = ["pusht"])]
    env: String,
    /// Number of episodes; episode i is reset with seed + i.
    #[arg(long, default_value_t = 50)]
    episodes: usize,
    /// First reset seed.
    #[arg(long, default_value_t = 100_000)]
    seed: u64,
    /// euler, midpoint, heun, rk4, dopri5, ddim or dpmpp_2m for a flow; ddpm, ddim or dpmpp_2m for a
    /// diffusion; the policy's own if absent.
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Solver steps a chunk; the policy's own if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// Delay from an observation to the arrival of its chunk; several with --study.
    #[arg(long, value_name = "D", value_delimiter = ',', default_value = "0")]
    latency_ms: Vec<f64>,
    /// Runs every --join at every --latency-ms and writes DIR/latency.{json,md,png}.
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// How chunks are joined: synchronous, append, replace, weighted_average, latest_only, average,
    /// conservative, temporal_ensemble, overlap, rtc_identity, rtc_vjp or rtc_prefix; several, or all, with
    /// --study. The policy's own if absent.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    join: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    rtc: RtcArgs,
}

#[derive(Serialize)]
struct Output<'a> {
    aggregated: &'a EvalReport,
    latency_ms: Percentiles,
}

/// Latency of one chunk at batch 1, milliseconds.
#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        (1..=1_000_000).contains(&args.episodes),
        "--episodes: expected 1 to 1000000, got {}",
        args.episodes
    );
    for ms in &args.latency_ms {
        anyhow::ensure!(
            (0.0..=60_000.0).contains(ms),
            "--latency-ms: expected 0 to 60000, got {ms:?}"
        );
    }
    let policy = args.dtype.load(|| Policy::load(&args.policy, &device::cpu()))?;
    let solver = policy.solver(args.solver.as_deref(), args.steps)?;
    let rtc = args.rtc.over(&policy)?;
    let base = EvalOptions { rtc, ..EvalOptions::new(&policy, args.episodes, args.seed) };
    let joinings = modes(&args.join, &policy)?
        .into_iter()
        .map(|mode| args.ask.with_mode(mode, &policy))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(folder) = &args.study {
        let study = Study { policy: &policy, solver: &solver, base, name: &args.policy };
        return study.run(&joinings, &args.latency_ms, folder, args.json);
    }
    let ([joining], [latency_ms]) = (joinings.as_slice(), args.latency_ms.as_slice()) else {
        anyhow::bail!("expected one --join and one --latency-ms; --study DIR runs several");
    };
    let options = EvalOptions { joining: *joining, latency_ms: *latency_ms, ..base };
    // On a terminal only: the tick that all episodes have reached.
    let bar = ProgressBar::new(PushT::MAX_STEPS as u64);
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut show = |_episode: usize, tick: usize, _: &PushT| bar.set_position(tick as u64);
    let report = evaluate(&policy, &solver, &options, &mut show)?;
    bar.finish_and_clear();
    let latency = latency(&policy, &solver)?;
    if args.json {
        let output = Output { aggregated: &report, latency_ms: latency };
        println!("{}", serde_json::to_string(&output)?);
        return Ok(());
    }
    println!("pc_success      {:6.1} %  of {} episodes", report.pc_success, report.n_episodes);
    println!("avg_max_reward  {:6.3}", report.avg_max_reward);
    println!("avg_sum_reward  {:6.1}", report.avg_sum_reward);
    println!("avg_steps       {:6.1}    of the successful", report.avg_steps);
    println!(
        "nfe {} a chunk, {} actions executed, {} after {} ms",
        report.nfe,
        report.n_action_steps,
        report.mode.name(),
        report.latency_ms
    );
    let smooth = report.smoothness;
    println!(
        "step {:.1}  seam jump {:.1} (max {:.0})  jerk {:.1}  held {:.1} % of ticks",
        smooth.mean_step,
        smooth.seam_jump_mean,
        smooth.seam_jump_max,
        smooth.jerk_mean,
        100.0 * smooth.held_share
    );
    println!(
        "chunk latency   p50 {:.2} ms  p90 {:.2}  p99 {:.2}  max {:.2}",
        latency.p50, latency.p90, latency.p99, latency.max
    );
    println!("eval_s {:.1}  eval_ep_s {:.3}", report.eval_s, report.eval_ep_s);
    let failed: Vec<String> =
        report.per_episode.iter().filter(|e| !e.success).map(|e| e.seed.to_string()).collect();
    if !failed.is_empty() {
        println!("failed seeds: {}", failed.join(" "));
    }
    Ok(())
}

fn latency(policy: &Policy, solver: &Solver) -> anyhow::Result<Percentiles> {
    let history = vec![seen(policy, &PushT::reset(0)); policy.signature().n_obs_steps];
    let noise = policy.draws(&Noise::new(0), &[0], 0, solver);
    let mut millis = Vec::new();
    let begin = Instant::now();
    while millis.len() < 200 && (millis.len() < 5 || begin.elapsed() < LATENCY_TIME) {
        let start = Instant::now();
        policy.infer(&[&history], noise.clone(), solver)?;
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    let at = |q: f64| millis[((millis.len() - 1) as f64 * q).round() as usize];
    Ok(Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
}
