//! A closed-loop expert for PushT: it plans a few pushes ahead, fits the first one to the simulator,
//! drives it to its end and plans anew.
//!
//! Planning uses a quasi-static table of pushes (`model`), approach lengths around the T (`approach`)
//! and a beam search (`search`); `realise` fits the first push with rollouts of the simulator, and
//! `drive` is the feedback law that moves the agent. All of it is a deterministic function of the
//! state, so that demonstrations can be made again from their seeds.
//! Source: own design after the measurements in the project's field notes (pusht.md, section 4).

mod approach;
mod cost;
mod drive;
mod geometry;
mod model;
mod planner;
mod realise;
mod record;
mod search;
mod starts;

pub use planner::{Expert, ExpertConfig};
pub use record::{Step, episode, takeover};
pub use starts::perturbed;
