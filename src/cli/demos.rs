//! `pathline demos`: demonstrations by an expert, written as a LeRobotDataset v3.0.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use pathline::dataset::pusht::{self, Plan};
use pathline::device;
use pathline::policy::Policy;
use pathline::train::dagger;
use pathline::train::eval::EvalOptions;
use pathline_sim::pusht::expert::ExpertConfig;
use serde_json::json;

/// Tasks that have an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Task {
    /// Push the T onto its goal.
    Pusht,
}

/// Make demonstrations with the built-in expert and write them as a LeRobotDataset v3.0 folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pathline demos pusht --episodes 200 --out runs/demos/expert
  pathline demos pusht --policy policies/pusht-flow --episodes 100 --out runs/demos/takeovers")]
pub(crate) struct DemosArgs {
    /// The task.
    #[arg(value_enum)]
    task: Task,
    /// Solved episodes to keep; mirror images come on top.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    episodes: usize,
    /// Seed of the first episode; the following episodes have the following seeds. The default is far from
    /// those that evaluations use.
    #[arg(long, value_name = "S", default_value_t = 1_000_000)]
    seed: u64,
    /// The folder to make; it must be new or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of the episodes, 0 to 1, that start off the expert's own path: near the goal or in the middle of
    /// the task after random actions.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = share)]
    perturbed: f64,
    /// DAgger: this policy drives --episodes episodes, and the expert takes over from states that it visits.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["perturbed", "mirror", "keep_failures"])]
    policy: Option<PathBuf>,
    /// With --policy: states drawn from each episode.
    #[arg(long, value_name = "K", default_value_t = 4)]
    takeovers: usize,
    /// With --policy: control steps that the expert shows from each state.
    #[arg(long, value_name = "N", default_value_t = 32)]
    takeover_steps: usize,
    /// Write the mirror image of every episode as well.
    #[arg(long)]
    mirror: bool,
    /// Keep the episodes that the expert did not solve, too.
    #[arg(long)]
    keep_failures: bool,
    /// Threads; all cores unless told otherwise. The files are the same for any number.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("expected a whole number from 1".into()),
    }
}

/// Makes the demonstrations and prints what was written.
pub(crate) fn run(args: &DemosArgs) -> anyhow::Result<()> {
    let Task::Pusht = args.task;
    if let Some(folder) = &args.policy {
        return dagger(args, folder);
    }
    let plan = Plan {
        episodes: args.episodes,
        seed: args.seed,
        perturbed: args.perturbed,
        mirror: args.mirror,
        keep_failures: args.keep_failures,
    };
    let threads = args.threads.unwrap_or_else(rayon::current_num_threads);
    // indicatif draws on stderr, and not at all where that is no terminal.
    let bar = ProgressBar::new(args.episodes as u64);
    bar.set_style(ProgressStyle::with_template(
        "{pos}/{len} episodes [{bar:30}] {per_sec}  eta {eta}  {msg}",
    )?);
    let start = Instant::now();
    let (summary, made) =
        pusht::demonstrate(&args.out, &plan, &ExpertConfig::bulk(), threads, |progress| {
            bar.set_position(progress.kept as u64);
            if !progress.failed.is_empty() {
                bar.set_message(format!("{} not solved", progress.failed.len()));
            }
        })
        .with_context(|| format!("no demonstrations in {}", args.out.display()))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let mean_steps = made.steps as f64 / made.kept.max(1) as f64;
    let per_hour = made.kept as f64 / seconds.max(1e-9) * 3600.0;
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "dir": summary.dir,
            "episodes": summary.episodes,
            "frames": summary.frames,
            "demonstrations": made.kept,
            "failed": made.failed.len(),
            "failed_seeds": made.failed,
            "mean_steps": mean_steps,
            "seconds": seconds,
            "demonstrations_per_hour": per_hour,
        });
        writeln!(out, "{report}")?;
    } else {
        let (episodes, frames) = (summary.episodes, summary.frames);
        let images = if args.mirror { ", half of them mirror images" } else { "" };
        writeln!(
            out,
            "wrote {}: {episodes} episodes{images}, {frames} frames",
            summary.dir.display()
        )?;
        writeln!(
            out,
            "{} demonstrations of {mean_steps:.1} steps on average, {} not solved, {per_hour:.0} an hour",
            made.kept,
            made.failed.len()
        )?;
        writeln!(out, "next: pathline inspect {}", summary.dir.display())?;
    }
    Ok(())
}

/// Lets the policy drive and the expert take over.
fn dagger(args: &DemosArgs, folder: &Path) -> anyhow::Result<()> {
    let policy = Policy::load(folder, &device::cpu())?;
    let options = EvalOptions::new(&policy, args.episodes, args.seed);
    let solver = policy.solver(None, None)?;
    let (report, states) = dagger::visited(&policy, &solver, &options, args.takeovers)?;
    let threads = args.threads.unwrap_or_else(rayon::current_num_threads);
    let bar = ProgressBar::new(states.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{pos}/{len} takeovers [{bar:30}] {per_sec}  eta {eta}",
    )?);
    let config = ExpertConfig::bulk();
    let steps = args.takeover_steps;
    let summary = pusht::takeovers(&args.out, &states, steps, &config, threads, |done| {
        bar.set_position(done as u64);
    })
    .with_context(|| format!("no demonstrations in {}", args.out.display()))?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "dir": summary.dir,
            "episodes": summary.episodes,
            "frames": summary.frames,
            "policy_pc_success": report.pc_success,
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "wrote {}: {} takeovers, {} frames; the policy solved {:.1} % of {} episodes",
            summary.dir.display(),
            summary.episodes,
            summary.frames,
            report.pc_success,
            report.n_episodes
        )?;
    }
    Ok(())
}
