//! A short run of the servo policy over real sessions on loopback, for `pathline doctor`.

use std::time::Duration;

use super::config::{BusConfig, Place, open_private_hub};
use super::serve::{PolicyNode, ServeOptions};
use super::sim::{self, SimOptions};
use super::stop::Stop;
use super::testing::ServoPolicy;
use crate::{Error, Result};
use zenoh::Wait;

/// Steps of the test.
const STEPS: usize = 64;

/// Opens two sessions on loopback, drives the simulator for 64 steps with a policy that has no
/// network, and says what the way over the bus costs.
///
/// # Errors
/// No loopback port, no answer within 10 s, or chunks that were refused.
pub fn self_test() -> Result<String> {
    let (hub, endpoint) = open_private_hub()?;
    let spoke = BusConfig::connect_to(&endpoint).open(Place::Spoke)?;
    let node = PolicyNode::start(&hub, Box::new(ServoPolicy::pusht()), ServeOptions::default())?;
    let options = SimOptions {
        episodes: 1,
        max_steps: STEPS,
        policy_timeout: Duration::from_secs(10),
        ..SimOptions::default()
    };
    let ran = sim::run(&spoke, &options, &Stop::new(), &mut |_| {});
    drop(node);
    for session in [spoke, hub] {
        session.close().wait().map_err(|error| Error::Bus(format!("closing: {error}")))?;
    }
    let report = ran?;
    let held: u64 = report.episodes.iter().map(|episode| episode.holds).sum();
    if held > 0 {
        return Err(Error::Bus(format!(
            "the robot held {held} steps; chunks: {:?}",
            report.chunks
        )));
    }
    Ok(format!(
        "{endpoint}: observation to chunk p50 {:.2} ms, p99 {:.2} ms",
        report.overhead.p50_ms, report.overhead.p99_ms
    ))
}
