//! When to ask for a chunk: pure, by the robot's ticks.
//!
//! A chunk is asked for
//! - when nothing is left to play, in every mode; in `synchronous` only then;
//! - after `n_action_steps` rows: so many were played since the observation that was last asked about;
//! - with `chunk_size_threshold` instead: when the rows left are at most that share of a chunk (LeRobot's
//!   async client, `queue / chunk <= threshold`);
//! - at every tick for `temporal_ensemble`;
//! - for `append`, which plays a chunk to its end, so early that the answer is there by then.
//!
//! Never while an answer is due. An answer that does not come within `patience` ticks is given up: the
//! next one is asked for at once, and if the late one comes after all it is still measured.
//!
//! What the policy is told to expect is the largest delay of the last eight answers: the rows really
//! consumed from the observation to its answer. A robot that had no rows to consume in between (at start,
//! when it starved, in `synchronous`) tells nothing that way; then the ticks count. LeRobot takes a clock's
//! latency, and its first chunk, slow from the warm-up, cost it 21 of 30 actions (lerobot #4223, #4454).
//! Here a warm-up is not counted, and no estimate chooses what is played: see [`Timeline`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::flaw::Flawed;
use super::joining::{Joining, Mode};
use super::timeline::Timeline;
use crate::{Error, Result};

/// Delays that are remembered.
const SAMPLES: usize = 8;

/// A chunk is wanted for this tick's observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Rows that will probably be played before the answer is there.
    pub expected_delay: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// After so many rows since the last observation that was asked about.
    Every(u64),
    /// When at most so many rows are left.
    Left(usize),
    /// When no more is left than is played until the answer is there.
    InTime,
    /// When nothing is left.
    Empty,
    /// Always.
    Tick,
}

/// A question that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    obs_seq: u64,
    tick: u64,
    /// Rows that there were to play.
    left: usize,
}

/// Decides when to ask. Takes no memory after it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Executor {
    horizon: usize,
    rule: Rule,
    patience: u64,
    /// The request whose answer is due.
    out: Option<Request>,
    /// The last one that was given up.
    lost: Option<Request>,
    /// Tick of the observation that was last asked about, unless that was in vain.
    asked: Option<u64>,
    delays: [u64; SAMPLES],
    /// Where the next delay goes.
    next: usize,
    pub(super) flawed: Flawed<ExecutorFlaw>,
}

impl Executor {
    /// For a policy whose chunks have `horizon` rows, of which it wants `n_action_steps` played; a request
    /// counts as lost after `patience` ticks.
    ///
    /// # Errors
    /// As [`Joining::validate`], and [`Error::Range`] when a number is 0 or `n_action_steps` is more than
    /// the horizon.
    pub fn new(
        joining: Joining,
        horizon: usize,
        n_action_steps: usize,
        patience: u64,
    ) -> Result<Self> {
        joining.validate(horizon)?;
        if horizon == 0 {
            return Err(Error::range("executor: horizon", "1 row or more", 0.0));
        }
        if patience == 0 {
            return Err(Error::range("executor: patience", "1 tick or more", 0.0));
        }
        let steps = joining.n_action_steps.unwrap_or(n_action_steps);
        if !(1..=horizon).contains(&steps) {
            let expected = format!("1 to the horizon ({horizon})");
            return Err(Error::range("executor: n_action_steps", expected, steps as f64));
        }
        let rule = match (joining.mode, joining.chunk_size_threshold) {
            (Mode::Synchronous, _) => Rule::Empty,
            (Mode::TemporalEnsemble, _) => Rule::Tick,
            (_, Some(share)) => Rule::Left((share * horizon as f64) as usize),
            (Mode::Append, None) => Rule::InTime,
            (_, None) => Rule::Every(u64::try_from(steps).unwrap_or(u64::MAX)),
        };
        Ok(Self {
            horizon,
            rule,
            patience,
            out: None,
            lost: None,
            asked: None,
            delays: [0; SAMPLES],
            next: 0,
            flawed: Flawed::default(),
        })
    }

    /// Whether the observation `obs_seq` of `tick` shall ask for a chunk. One call a tick, after what has
    /// come was taken in and before the observation is sent.
    pub fn ask(&mut self, timeline: &Timeline, obs_seq: u64, tick: u64) -> Option<Ask> {
        if let Some(out) = self.out {
            let waited = tick.saturating_sub(out.tick);
            let lost = waited >= self.patience && !self.flawed.by(ExecutorFlaw::WaitsForever);
            if !lost && !self.flawed.by(ExecutorFlaw::TwoOut) {
                return None;
            }
            self.lost = Some(out);
            self.out = None;
            self.asked = None;
        }
        let left = timeline.remaining(tick);
        let due = match self.rule {
            Rule::Tick => true,
            Rule::Empty => left == 0 || self.flawed.by(ExecutorFlaw::Early),
            Rule::Left(rows) => left <= rows,
            Rule::InTime => left <= self.expected_delay(),
            Rule::Every(rows) => {
                let rows =
                    rows.saturating_add(u64::from(self.flawed.by(ExecutorFlaw::OneStepLate)));
                let rows =
                    rows.saturating_sub(u64::from(self.flawed.by(ExecutorFlaw::OneStepEarly)));
                left == 0 || self.asked.is_none_or(|asked| timeline.played(asked, tick) >= rows)
            }
        };
        if !due {
            return None;
        }
        self.out = Some(Request { obs_seq, tick, left });
        self.asked = Some(tick);
        Some(Ask { expected_delay: self.expected_delay() })
    }

    /// The chunk for `obs_seq` is there at `tick`, taken or not; `consumed` rows were played since its
    /// observation ([`Timeline::played`]). A warm-up is not counted, nor is what nobody asked for.
    pub fn answered(&mut self, obs_seq: u64, tick: u64, consumed: u64, warm_up: bool) {
        let is_asked = |request: &Request| request.obs_seq == obs_seq;
        let asked = self.out.filter(is_asked).or(self.lost.filter(is_asked));
        // What answers a later observation answers the request as well.
        if self.out.is_some_and(|out| out.obs_seq <= obs_seq) {
            self.out = None;
        }
        let Some(asked) = asked else { return };
        self.lost = self.lost.filter(|lost| lost.obs_seq > obs_seq);
        if warm_up && !self.flawed.by(ExecutorFlaw::CountsWarmUp) {
            return;
        }
        let ran = usize::try_from(consumed).is_ok_and(|consumed| consumed < asked.left);
        let ran = ran || self.flawed.by(ExecutorFlaw::RowsOnly);
        let ran = ran && !self.flawed.by(ExecutorFlaw::TicksOnly);
        let delay = if ran { consumed } else { tick.saturating_sub(asked.tick) };
        if let Some(slot) = self.delays.get_mut(self.next) {
            *slot = delay;
        }
        self.next = self.next.saturating_add(1).checked_rem(SAMPLES).unwrap_or(0);
    }

    /// The largest of the last delays, in rows, and at most a chunk; 0 before the first answer.
    pub fn expected_delay(&self) -> usize {
        let last = self.next.checked_sub(1).unwrap_or(SAMPLES.saturating_sub(1));
        let most = if self.flawed.by(ExecutorFlaw::LastOnly) {
            self.delays.get(last).copied().unwrap_or(0)
        } else {
            self.delays.iter().copied().max().unwrap_or(0)
        };
        usize::try_from(most).unwrap_or(usize::MAX).min(self.horizon)
    }

    /// Whether an answer is due, or was and is not given up yet.
    pub fn is_waiting(&self) -> bool {
        self.out.is_some()
    }

    /// An episode begins: what was asked is forgotten, what was measured is not.
    pub fn reset(&mut self) {
        if self.flawed.by(ExecutorFlaw::Forgets) {
            self.delays = [0; SAMPLES];
        }
        self.out = None;
        self.lost = None;
        self.asked = None;
    }
}

/// The rule that a broken twin of the executor breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break an executor"))]
pub(super) enum ExecutorFlaw {
    TwoOut,
    WaitsForever,
    CountsWarmUp,
    RowsOnly,
    TicksOnly,
    LastOnly,
    OneStepLate,
    OneStepEarly,
    Forgets,
    Early,
}
