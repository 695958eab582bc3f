//! `pathline replay`: an MCAP file back onto the bus.

use std::path::PathBuf;

use pathline::node::{self, Place, ReplayOptions};
use zenoh::Wait;

use super::bus::BusArgs;
use super::interrupt;

/// Puts the messages of an MCAP recording onto the bus, with their timing.
#[derive(clap::Args)]
#[command(after_help = "A robot that runs refuses replayed chunks: they belong to another run.
A policy node answers replayed observations, which is the way to try a policy on a recording.

Examples:
  pathline replay runs/demo/rollout.mcap
  pathline replay runs/demo/rollout.mcap --rate 4 --topic /obs")]
pub(crate) struct ReplayArgs {
    /// The recording.
    file: PathBuf,
    /// Speed; 1 is the original timing.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Only topics that end with this; may be given more than once.
    #[arg(long, value_name = "SUFFIX")]
    topic: Vec<String>,
    /// Put under this robot's keys instead of the recorded one's.
    #[arg(long)]
    robot: Option<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let stop = interrupt::stop_on_signal()?;
    let session = args.bus.to_config().open(Place::Spoke)?;
    let options =
        ReplayOptions { rate: args.rate, topics: args.topic.clone(), robot: args.robot.clone() };
    let report = node::replay(&session, &args.file, &options, &stop);
    session.close().wait().map_err(|error| anyhow::anyhow!("closing the session: {error}"))?;
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        for (key, count) in &report.messages {
            println!("{count:>8}  {key}");
        }
        println!("{:.1} s, {} messages of other kinds left out", report.seconds, report.skipped);
    }
    if report.interrupted {
        anyhow::bail!("interrupted");
    }
    Ok(())
}
