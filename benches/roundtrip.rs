//! What the bus and the node cost: from an observation on the robot's side to its chunk there, over zenoh on
//! loopback (TCP, two sessions of one process), with a policy that takes no time. Percentiles, not means.
//!
//! Run: `cargo bench --bench roundtrip`. Not criterion's: the tail counts here, and it has no p99.9.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic, and prints its result"
)]

use std::time::{Duration, Instant};

use pathline::node::testing::ServoPolicy;
use pathline::node::{
    BusConfig, Place, PolicyNode, ServeOptions, SimOptions, Stop, open_private_hub, run,
};

/// Episodes of 300 steps with a chunk every 8.
const EPISODES: u32 = 60;

fn main() {
    let (hub, endpoint) = open_private_hub().unwrap();
    let spoke = BusConfig::connect_to(&endpoint).open(Place::Spoke).unwrap();
    let policy = Box::new(ServoPolicy::pusht());
    let _node = PolicyNode::start(&hub, policy, ServeOptions::default()).unwrap();
    let options = SimOptions { episodes: EPISODES, ..SimOptions::default() };
    let begin = Instant::now();
    let report = run(&spoke, &options, &Stop::new(), &mut |_| {}).unwrap();
    let took: Duration = begin.elapsed();
    let [all, inference] = [report.end_to_end, report.inference];
    println!("roundtrip/observation_to_chunk/pusht/loopback, {} chunks in {took:.1?}", all.count);
    println!("                 p50 ms     p90 ms     p99 ms   p99.9 ms     max ms");
    let rows = [("end to end", all), ("of it inference", inference), ("the rest", report.overhead)];
    for (name, row) in rows {
        println!(
            "{name:<16} {:>7.3} {:>10.3} {:>10.3} {:>10.3} {:>10.3}",
            row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms
        );
    }
}
