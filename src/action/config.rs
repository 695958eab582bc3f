//! What a gate is made from, and which of it makes no sense.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::joining::Join;
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
    /// Largest first difference of commands, robot units per command period; `None` for a robot that takes any.
    pub velocity: Option<f32>,
    /// Largest second difference of commands.
    pub acceleration: Option<f32>,
    /// Largest third difference of commands.
    pub jerk: Option<f32>,
    /// Largest distance from the setpoint to the row of now at which a chunk is still taken.
    pub jump: Option<f32>,
}

impl Limit {
    /// A limit of the position alone.
    pub const fn new(lo: f32, hi: f32) -> Self {
        Self { lo, hi, velocity: None, acceleration: None, jerk: None, jump: None }
    }
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
    /// How a new chunk is joined to the one that is played.
    pub join: Join,
    /// Commands of one tick: [`Gate::step_at`](super::Gate::step_at) is called so often.
    pub commands_per_tick: u32,
}

impl Default for GateConfig {
    /// Everything but the limits, without which [`Gate::new`](super::Gate::new) is an error.
    fn default() -> Self {
        Self {
            session: 0,
            limits: Vec::new(),
            max_horizon: 16,
            max_obs_age: 20,
            heartbeat: 10,
            overshoot: 0.0,
            latch_after: 0,
            join: Join::Replace,
            commands_per_tick: 1,
        }
    }
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
            let each = [
                ("velocity", l.velocity),
                ("acceleration", l.acceleration),
                ("jerk", l.jerk),
                ("jump", l.jump),
            ];
            for (name, value) in each {
                if let Some(got) = value
                    && !(got.is_finite() && got > 0.0)
                {
                    return refuse(format!(
                        "dimension {d}: expected a finite {name} > 0 or none, got {got}"
                    ));
                }
            }
            // Without acceleration and jerk the commands themselves step by the velocity, in f32.
            let far = l.lo.abs().max(l.hi.abs());
            let unit = far.next_up() - far;
            if let (Some(got), None, None) = (l.velocity, l.acceleration, l.jerk)
                && got < unit
            {
                return refuse(format!(
                    "dimension {d}: expected a velocity of at least {unit}, the step from one f32 to the next \
                     at {far}, got {got}"
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
        if self.commands_per_tick == 0 {
            return refuse("expected at least one command a tick, got 0".into());
        }
        if self.join == (Join::Stop { rows: 0 }) {
            return refuse("expected a join that plays at least 1 of the rows of a chunk".into());
        }
        if let Join::Ensemble { coefficient } = self.join {
            let last = (-coefficient) as f32 * self.max_horizon as f32;
            if !last.exp().is_finite() {
                return refuse(format!(
                    "expected an ensemble whose weights e^(−coefficient·i) are finite, got {coefficient}"
                ));
            }
        }
        let old_share = if let Join::Blend { old } = self.join { old } else { 0.0 };
        if !(0.0..=1.0).contains(&old_share) {
            return refuse(format!("expected a blend with 0 to 1 of the old row, got {old_share}"));
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
