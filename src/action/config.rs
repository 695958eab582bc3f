//! What a gate is made from, and which of it makes no sense.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::{MAX_DIM, MAX_HORIZON};
use crate::{Error, Result};

/// Largest `max_obs_age` and `heartbeat`, in ticks; the ring of observations has this many slots
/// at most.
const MAX_AGE: u64 = 1 << 16;

/// What one value of a command may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Smallest position, robot units.
    pub lo: f32,
    /// Largest position, robot units.
    pub hi: f32,
    /// Largest change from one tick to the next, robot units; `None` for a robot that takes any.
    pub max_step: Option<f32>,
}

/// What a [`Gate`](super::Gate) is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct GateConfig {
    /// The run nonce that the robot drew at start; only chunks that echo it are taken.
    pub session: u64,
    /// One limit a dimension, in the order of the action. Mandatory.
    pub limits: Vec<Limit>,
    /// Most rows of a chunk.
    pub max_horizon: usize,
    /// Oldest observation that an action may answer, in ticks.
    pub max_obs_age: u64,
    /// Ticks without a valid chunk after which the robot holds.
    pub heartbeat: u64,
    /// How far outside its limits a value may lie and still be clamped, as a share of the range
    /// `hi - lo`. A chunk with a value further out is dropped whole. 0 clamps nothing.
    pub overshoot: f32,
    /// Chunks with a value that is not finite, one after the other, after which the gate latches;
    /// 0 never latches.
    pub latch_after: u32,
}

impl GateConfig {
    /// [`Error::Invalid`] with the first number that makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Invalid(format!("gate: {message}")));
        if self.limits.is_empty() {
            return refuse("expected limits for every dimension of the action, got none".into());
        }
        for (d, l) in self.limits.iter().enumerate() {
            if !(l.lo.is_finite() && l.hi.is_finite() && l.lo < l.hi) {
                let (lo, hi) = (l.lo, l.hi);
                return refuse(format!("dimension {d}: expected finite lo < hi, got [{lo}, {hi}]"));
            }
            if l.max_step.is_some_and(|s| !s.is_finite() || s <= 0.0) {
                let got = l.max_step;
                return refuse(format!(
                    "dimension {d}: expected a finite max_step > 0, got {got:?}"
                ));
            }
        }
        let (dim, horizon) = (self.limits.len(), self.max_horizon);
        if dim > MAX_DIM || !(1..=MAX_HORIZON).contains(&horizon) {
            return refuse(format!(
                "expected at most {MAX_DIM} dimensions and 1 to {MAX_HORIZON} rows, got {dim} and {horizon}"
            ));
        }
        let (age, heartbeat) = (self.max_obs_age, self.heartbeat);
        if !(1..=MAX_AGE).contains(&age) || !(1..=MAX_AGE).contains(&heartbeat) {
            return refuse(format!(
                "expected max_obs_age and heartbeat of 1 to {MAX_AGE} ticks, got {age} and {heartbeat}"
            ));
        }
        if !self.overshoot.is_finite() || self.overshoot < 0.0 {
            let got = self.overshoot;
            return refuse(format!("expected a finite overshoot >= 0, got {got}"));
        }
        Ok(())
    }

    /// Slots that the ring of own observations needs.
    pub(super) fn observation_slots(&self) -> u64 {
        self.max_obs_age.saturating_add(1)
    }
}
