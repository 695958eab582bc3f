//! `pathline record`: what one robot and its policy say, into an MCAP file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pathline::node::{Place, Recorder};
use serde_json::json;
use zenoh::Wait;

use super::bus::BusArgs;
use super::interrupt;

/// Records observations, chunks and actions into an MCAP file until Ctrl-C.
#[derive(clap::Args)]
#[command(after_help = "The file opens in Rerun, Foxglove, PlotJuggler and `ros2 bag`.

Examples:
  pathline record --out runs/today.mcap
  pathline record --out runs/today.mcap --seconds 30 -e tcp/10.0.0.5:7447")]
pub(crate) struct RecordArgs {
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Robot id, the second chunk of every key.
    #[arg(long, default_value = "pusht")]
    robot: String,
    /// Stop by itself after this long.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<()> {
    let limit = match args.seconds {
        None => None,
        Some(seconds) => Some(Duration::try_from_secs_f64(seconds).context("--seconds")?),
    };
    let stop = interrupt::stop_on_signal()?;
    let session = args.bus.to_config().open(Place::Spoke)?;
    let recorder = Recorder::start(&session, &args.robot, &args.out)?;
    if !args.json {
        println!("recording pathline/{} into {}; Ctrl-C ends it", args.robot, args.out.display());
    }
    match limit {
        Some(limit) => {
            stop.wait_timeout(limit);
        }
        None => stop.wait(),
    }
    let lost = recorder.lost();
    let messages = recorder.finish(None, &[])?;
    session.close().wait().map_err(|error| anyhow::anyhow!("closing the session: {error}"))?;
    if args.json {
        println!("{}", json!({ "out": args.out, "messages": messages, "lost": lost }));
    } else {
        println!("wrote {}: {messages} messages, {lost} lost", args.out.display());
    }
    Ok(())
}
