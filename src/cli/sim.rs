//! `pathline sim`: the simulator as a robot on the bus.

use std::path::PathBuf;
use std::time::Duration;

use pathline::action::RobotFile;
use pathline::node::{self, Event, Pace, Place, RobotConfig, SimOptions};
use zenoh::Wait;

use super::bus::BusArgs;
use super::join::JoinArgs;
use super::{interrupt, report};

/// Runs a simulated robot that a policy node drives over zenoh.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pathline sim pusht                               # beside `pathline serve --policy DIR`
  pathline sim pusht --episodes 100 --seed 100000 --json
  pathline sim pusht --latency-ms 300 --join average   # what a slow policy does, and what helps
  pathline sim pusht --realtime -e tcp/10.0.0.5:7447")]
pub(crate) struct SimArgs {
    /// Which simulator.
    #[arg(value_parser = ["pusht"])]
    env: String,
    /// Number of episodes; episode i is reset with seed + i, as gym-pusht would.
    #[arg(long, default_value_t = 10)]
    episodes: u32,
    /// First reset seed.
    #[arg(long, default_value_t = 100_000)]
    seed: u64,
    /// Steps after which an episode ends.
    #[arg(long, default_value_t = 300)]
    max_steps: usize,
    /// 10 Hz by the wall clock instead of as fast as the policy answers.
    #[arg(long)]
    realtime: bool,
    /// Hold every chunk back for so long after it came: simulated time in lockstep, else wall time.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Robot file: rates, deadlines, limits; the built-in one of PushT if absent.
    #[arg(long, value_name = "FILE")]
    robot_file: Option<PathBuf>,
    /// Longest wait for a chunk in lockstep.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    chunk_timeout_ms: u64,
    /// Longest wait for a policy at the start.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait_policy_s: u64,
    /// Robot id, the second chunk of every key.
    #[arg(long, default_value = "pusht")]
    robot: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) fn run(args: &SimArgs) -> anyhow::Result<()> {
    let stop = interrupt::stop_on_signal()?;
    let robot = RobotConfig {
        robot: args.robot.clone(),
        file: args.robot_file.as_deref().map(RobotFile::load).transpose()?,
        joining: args.join.to_choice(),
        ..RobotConfig::pusht()
    };
    let options = SimOptions {
        robot,
        latency: Duration::from_millis(args.latency_ms),
        episodes: args.episodes,
        seed: args.seed,
        max_steps: args.max_steps,
        pace: if args.realtime { Pace::Realtime } else { Pace::Lockstep },
        chunk_timeout: Duration::from_millis(args.chunk_timeout_ms),
        policy_timeout: Duration::from_secs(args.wait_policy_s),
        ..SimOptions::default()
    };
    let session = args.bus.to_config().open_within(Place::Spoke, options.policy_timeout, &stop)?;
    let report = node::run(&session, &options, &stop, &mut |event| match event {
        Event::Connected(info) if !args.json => println!(
            "sim {} as pathline/{}  policy {}  chunk {}x{}, {} executed",
            args.env, args.robot, info.name, info.horizon, info.action_dim, info.n_action_steps
        ),
        Event::Episode(episode) if !args.json => {
            println!("{}", report::episode_line(episode, args.episodes));
        }
        _ => {}
    });
    // Close before reporting an error too: the policy learns at once that the robot is gone.
    session.close().wait().map_err(|error| anyhow::anyhow!("closing the session: {error}"))?;
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report::table(&report));
    }
    if report.interrupted {
        anyhow::bail!("interrupted after {} of {} episodes", report.n_episodes, args.episodes);
    }
    Ok(())
}
