//! The zenoh side: policy node, robot link, simulator node, recorder. The only module that knows zenoh.
//!
//! ```text
//! sim (or your robot) ─ link: gate, timeline ──► …/obs ──► serve: inbox ─ worker ─ policy
//!        ▲                                                              │
//!        └────────────────────── …/cmd/chunk ◄──────────────────────────┘
//! recorder: the same bytes into an MCAP file
//! ```
//! Blocking calls only; zenoh owns its runtime. Everything periodic is dropped rather than waited
//! for, and what decides about the robot is its own tick and [`Gate`](crate::action::Gate).

mod batch;
mod bus;
mod choice;
mod clock;
mod config;
mod find;
mod held;
mod history;
mod inbox;
mod latency;
mod link;
mod pace;
mod recorder;
mod robot;
mod run_report;
mod seam;
mod self_test;
mod serve;
mod sim;
mod stages;
mod status;
mod stop;
pub mod testing;
mod worker;

pub use choice::JoinChoice;
pub use config::{BusConfig, DEFAULT_ENDPOINT, Place, free_endpoint, open_private_hub};
pub use latency::{Latency, LatencySummary};
pub use link::RobotLink;
pub use pace::{Cadence, Pace};
pub use recorder::{Recorder, ReplayOptions, ReplayReport, replay};
pub use robot::{Commanded, Delay, RobotConfig};
pub use run_report::{EpisodeReport, RunReport};
pub use seam::{Camera, ChunkPolicy, Picture, PolicyInfo, PolicyObs, Request, Timings};
pub use self_test::self_test;
pub use serve::{PolicyNode, ServeOptions};
pub use sim::{Event, SimOptions, Tick, run};
pub use stages::{LinkLatency, Stages};
pub use status::{NodeCounters, NodeState, NodeStatus};
pub use stop::Stop;
pub use worker::{ChunkTrace, TraceSink};
