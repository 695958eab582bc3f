//! `pathline demo`: simulator and policy node in one process, two zenoh sessions on loopback.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::Context;
use pathline::dataset::pusht::FPS;
use pathline::node::{
    self, BusConfig, Event, NodeStatus, Pace, Place, PolicyNode, Recorder, RobotConfig, RunReport,
    ServeOptions, SimOptions, Stop, TraceSink, open_private_hub,
};
use serde_json::json;
use zenoh::Wait;

use super::dtype::DtypeArgs;
use super::join::{JoinArgs, RtcArgs};
use super::load::{self, Card, Wish};
use super::pictures::Pictures;
use super::{interrupt, report};

/// Episodes that the GIF shows.
const GIF_EPISODES: u32 = 3;
/// Traces that wait for the drawing; more are dropped.
const TRACES: usize = 64;

/// Runs the simulator and a policy over zenoh on loopback, and shows what came of it.
#[derive(clap::Args)]
#[command(after_help = "Writes OUT/rollout.gif, OUT/rollout.mcap and OUT/summary.json.
Exit code 1 when the success rate is below what the policy's card promises (eval.json in its
folder), less the noise of so few episodes.

Examples:
  pathline demo
  pathline demo --episodes 50 --seed 7
  pathline demo --realtime --episodes 3
  pathline demo --policy runs/train/last --out runs/mine --json")]
pub(crate) struct DemoArgs {
    /// Policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies/pusht-flow")]
    policy: PathBuf,
    /// Number of episodes; episode i is reset with seed + i.
    #[arg(long, default_value_t = 10)]
    episodes: u32,
    /// First reset seed, and seed of the noise.
    #[arg(long, default_value_t = 100_000)]
    seed: u64,
    /// 10 Hz by the wall clock instead of as fast as the policy answers.
    #[arg(long)]
    realtime: bool,
    /// euler, midpoint, heun, rk4, dopri5, ddim or dpmpp_2m; the policy's own if absent.
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Solver steps a chunk; the policy's own if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// Hold every chunk back for so long after it came: simulated time in lockstep, else wall time.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    rtc: RtcArgs,
    /// Folder for the results.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
}

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let stop = interrupt::stop_on_signal()?;
    let say = |line: String| {
        if !args.json {
            println!("{line}");
        }
    };
    say(format!(
        "pathline {} · cpu f32 ({} threads) · two zenoh sessions on 127.0.0.1",
        env!("CARGO_PKG_VERSION"),
        std::thread::available_parallelism().map_or(1, usize::from)
    ));
    let card = Card::read(&args.policy)?;
    let (report, status) = rollout(args, &stop, &say)?;
    let verdict = judge(&report, card);
    let summary = json!({
        "pathline": env!("CARGO_PKG_VERSION"),
        "policy": args.policy,
        "seed": args.seed,
        "pace": if args.realtime { "realtime" } else { "lockstep" },
        "success_required": verdict.required,
        "card_pc_success": card.map(|card| card.pc_success),
        "report": report,
        "policy_node": status,
    });
    let path = args.out.join("summary.json");
    let text = serde_json::to_string_pretty(&summary)?;
    std::fs::write(&path, text + "\n").with_context(|| path.display().to_string())?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{}", report::table(&report));
        println!("wrote {0}/rollout.gif  {0}/rollout.mcap  {0}/summary.json", args.out.display());
    }
    if report.interrupted {
        anyhow::bail!("interrupted after {} of {} episodes", report.n_episodes, args.episodes);
    }
    if let Some(failure) = verdict.failure {
        anyhow::bail!(failure);
    }
    if card.is_none() {
        tracing::warn!(
            "{}: no eval.json, so no success rate to hold the demo to",
            args.policy.display()
        );
    }
    say("next: `pathline serve` and `pathline sim pusht` in two terminals, `pathline eval`; \
         rollout.mcap opens in Rerun and Foxglove"
        .to_owned());
    Ok(())
}

/// The run itself, with everything that it opens closed again, also after an error.
fn rollout(
    args: &DemoArgs,
    stop: &Stop,
    say: &dyn Fn(String),
) -> anyhow::Result<(RunReport, NodeStatus)> {
    let policy = load::chunk_policy(&Wish {
        folder: &args.policy,
        solver: args.solver.as_deref(),
        steps: args.steps,
        fps: Some(f64::from(FPS)),
        dtype: DtypeArgs::default(),
        join: &args.join,
        rtc: &args.rtc,
    })?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let (hub, endpoint) = open_private_hub()?;
    let spoke = BusConfig::connect_to(&endpoint).open(Place::Spoke)?;
    let (sender, traces) = sync_channel(TRACES);
    let options = ServeOptions {
        seed: args.seed,
        trace: Some(TraceSink { sender, episodes: GIF_EPISODES }),
        ..ServeOptions::default()
    };
    let node = PolicyNode::start(&hub, policy, options)?;
    let info = node.info();
    say(format!(
        "policy  {}  chunk {}x{}, {} executed, {} evaluations ({})  {endpoint}",
        args.policy.display(),
        info.horizon,
        info.action_dim,
        info.n_action_steps,
        info.nfe,
        info.solver
    ));
    let pace = if args.realtime { "10 Hz" } else { "lockstep" };
    say(format!("sim     pusht  seeds {}..  {} episodes  {pace}", args.seed, args.episodes));
    let recorder = Recorder::start(&spoke, "pusht", &args.out.join("rollout.mcap"))?;
    let mut pictures = Pictures::new(&args.out.join("rollout.gif"), GIF_EPISODES, traces);
    let options = SimOptions {
        episodes: args.episodes,
        seed: args.seed,
        pace: if args.realtime { Pace::Realtime } else { Pace::Lockstep },
        latency: Duration::from_millis(args.latency_ms),
        robot: RobotConfig { joining: args.join.to_choice(), ..RobotConfig::pusht() },
        ..SimOptions::default()
    };
    let ran = node::run(&spoke, &options, stop, &mut |event| match event {
        Event::Tick(tick) => pictures.add(tick),
        Event::Episode(episode) => say(report::episode_line(episode, args.episodes)),
        Event::Connected(_) => {}
    });
    let status = node.close();
    let drawn = pictures.finish();
    let recorded = finish_recording(recorder, ran.as_ref().ok());
    for session in [spoke, hub] {
        // The results are safe already; a session that does not close in peace is only noted.
        if let Err(error) = session.close().wait() {
            tracing::warn!("closing a session: {error}");
        }
    }
    let report = ran?;
    drawn?;
    recorded?;
    Ok((report, status?))
}

fn finish_recording(recorder: Recorder, report: Option<&RunReport>) -> anyhow::Result<()> {
    let lost = recorder.lost();
    if lost > 0 {
        tracing::warn!("the recording lost {lost} messages: the disk was too slow");
    }
    let episodes = match report {
        Some(report) => {
            report.episodes.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
    };
    let summary = report.map(serde_json::to_value).transpose()?;
    recorder.finish(summary.as_ref(), &episodes)?;
    Ok(())
}

struct Verdict {
    /// Fewest successes that pass; none without a card.
    required: Option<u64>,
    failure: Option<String>,
}

fn judge(report: &RunReport, card: Option<Card>) -> Verdict {
    let Some(card) = card else { return Verdict { required: None, failure: None } };
    let required = card.fewest(report.n_episodes as u64);
    let successes = report.episodes.iter().filter(|episode| episode.success).count() as u64;
    let failure = (successes < required).then(|| {
        format!(
            "{successes} of {} episodes succeeded; the card's {:.1} % of {} lets expect at least \
             {required}. Run `pathline doctor`, or `pathline eval --episodes 100` for a sharper figure",
            report.n_episodes, card.pc_success, card.n_episodes
        )
    });
    Verdict { required: Some(required), failure }
}
