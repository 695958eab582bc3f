//! PushT: push a T with a disc onto a goal pose. Physics of gym-pusht 0.1.8 without Python.
//!
//! The dynamics follow Chipmunk as pymunk 6.11.1 runs it, operation by operation, so that a policy
//! sees here what it sees there; `sim/tests/parity.rs` states how far. `sim/NOTICE` has the
//! attribution.

mod broadphase;
mod contact;
mod coverage;
mod env;
pub mod expert;
mod gjk;
mod numpy_rng;
mod physics;
pub mod render;
mod rollouts;
mod shapes;
mod solver;
mod vec2;

pub use env::{Outcome, PushT};
pub use rollouts::{Rollout, rollout, rollouts};

/// The robot file of PushT's agent: rates and limits, as TOML.
pub const ROBOT: &str = include_str!("../../robots/pusht.toml");
