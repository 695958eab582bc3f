//! The robot's side of a policy: action chunks, the timeline that plays them by tick, and the gate.
//!
//! A *tick* is one period of the robot's own control loop, counted by the robot. An observation
//! taken at tick k is answered by a chunk whose row i is the action of tick k + i. Nothing here
//! reads a clock, opens a socket or knows a tensor: the caller says which tick it is.
//!
//! Software of this kind is not a safety function. A robot needs its own independent emergency stop.

mod chunk;
mod config;
mod counters;
mod executor;
mod flaw;
mod gate;
mod joining;
mod limit;
mod motion;
mod observation;
mod robot;
mod smoothness;
mod timeline;

#[cfg(test)]
mod executor_laws;
#[cfg(test)]
mod gate_judge;
#[cfg(test)]
mod gate_laws;
#[cfg(test)]
mod gate_tests;
#[cfg(test)]
mod motion_laws;
#[cfg(test)]
mod sim_net;
#[cfg(test)]
mod timeline_laws;
#[cfg(test)]
mod timeline_tests;

/// Most values of an action.
pub const MAX_DIM: usize = 256;
/// Most rows of a chunk.
pub const MAX_HORIZON: usize = 1024;

pub use chunk::{ActionChunk, ChunkView, Values};
pub use config::{GateConfig, Limit};
pub use counters::{Counters, Reason, Verdict};
pub use executor::{Ask, Executor};
pub use gate::{Command, Gate, GateState, Source};
pub use joining::{Continuation, Form, Join, Joining, Mode};
pub use observation::{Picture, PolicyObs};
pub use robot::{Joint, RobotFile};
pub use smoothness::{Smoothness, SmoothnessSummary};
pub use timeline::{Executed, Executing, Plan, Timeline, ensemble_weights};
