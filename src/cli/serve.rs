//! `pathline serve`: the policy node as a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pathline::node::{Place, PolicyNode, ServeOptions};
use zenoh::Wait;

use super::bus::BusArgs;
use super::dtype::DtypeArgs;
use super::interrupt;
use super::join::{JoinArgs, RtcArgs};
use super::load::{self, Wish};

/// How often the worker is looked after.
const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// Serves a policy over zenoh: observations in, action chunks out.
#[derive(clap::Args)]
#[command(after_help = "Keys, for the robot `pusht`:
  pathline/pusht/obs             put by the robot: policy_msgs/Observation
  pathline/pusht/cmd/chunk       put by this node: policy_msgs/ActionChunk
  pathline/pusht/policy/infer    query: Observation in, ActionChunk out
  pathline/pusht/policy/{info,status,reset}   query: JSON

Examples:
  pathline serve --policy policies/pusht-flow
  pathline serve --robot left --robot right                    # two robots, one policy
  pathline serve --policy policies/pusht-flow -l tcp/127.0.0.1:7450 --steps 4
  pathline serve --policy policies/pusht-flow -e tcp/10.0.0.5:7447     # join a zenoh router")]
pub(crate) struct ServeArgs {
    /// Policy folder, LeRobot's or Pathline's; `servo` is a policy without a network, to try the wiring.
    #[arg(long, value_name = "DIR", default_value = "policies/pusht-flow")]
    policy: PathBuf,
    /// Robot id, the second chunk of every key; give it more than once to serve several robots: each
    /// keeps its own state, and requests that meet are one batch.
    #[arg(long, value_name = "ROBOT", default_values_t = ["pusht".to_owned()])]
    robot: Vec<String>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// euler, midpoint, heun, rk4, dopri5, ddim or dpmpp_2m for a flow; ddpm, ddim or dpmpp_2m for a
    /// diffusion; the policy's own if absent.
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Solver steps a chunk; the policy's own if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// Control rate of the policy, Hz; what its folder says if absent.
    #[arg(long, value_name = "HZ")]
    fps: Option<f64>,
    /// Print the last status as one JSON object at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    rtc: RtcArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let stop = interrupt::stop_on_signal()?;
    let policy = load::chunk_policy(&Wish {
        folder: &args.policy,
        solver: args.solver.as_deref(),
        steps: args.steps,
        fps: args.fps,
        dtype: args.dtype,
        join: &args.join,
        rtc: &args.rtc,
    })?;
    let bus = args.bus.to_config();
    let session = bus.open(Place::Hub)?;
    let options =
        ServeOptions { robots: args.robot.clone(), seed: args.seed, ..ServeOptions::default() };
    let node = PolicyNode::start(&session, policy, options)?;
    let info = node.info();
    if !args.json {
        let (connect, listen) = bus.endpoints(Place::Hub);
        let place = if listen.is_empty() { connect } else { listen };
        println!(
            "serving {} on {} as pathline/{}  chunk {}x{}, {} executed, {} {} evaluations, joined by {}",
            args.policy.display(),
            place.join(" "),
            args.robot.join(", pathline/"),
            info.horizon,
            info.action_dim,
            info.n_action_steps,
            info.nfe,
            info.solver,
            info.joining.mode.name()
        );
    }
    while !stop.wait_timeout(WATCH_PERIOD) {
        if !node.is_alive() {
            break;
        }
    }
    let status = node.close()?;
    session.close().wait().map_err(|error| anyhow::anyhow!("{error}")).context("closing")?;
    if args.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        let counters = status.counters;
        println!(
            "answered {} of {} observations, refused {}, failed {}; inference p50 {:.2} ms p99 {:.2} ms",
            counters.chunks,
            counters.received,
            counters.received - counters.accepted,
            counters.failed,
            status.inference.p50_ms,
            status.inference.p99_ms
        );
    }
    Ok(())
}
