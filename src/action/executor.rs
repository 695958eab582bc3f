//! When to ask for a chunk: pure, by the robot's ticks.
//!
//! A chunk is asked for
//! - when nothing is left to play;
//! - after `n_action_steps` rows: so many ticks after the observation that was last asked about, or
//! - with `chunk_size_threshold`: when the rows left are at most that share of a chunk (LeRobot's async
//!   client);
//! - at every tick for `temporal_ensemble`, and only when nothing is left for `synchronous`.
//!
//! Never while an answer is due; an answer that does not come within `patience` ticks is given up.
//! What the policy is told to expect is the largest delay of the last answers, counted in ticks from the
//! observation to the answer: in rows really consumed, not by a clock. LeRobot takes a clock's, and its
//! first chunk, slow from the warm-up, cost it 21 of 30 actions (lerobot #4223, #4454); here the warm-up
//! is not counted, and no estimate chooses what is played: see [`Timeline`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::joining::{Joining, Mode};
use super::timeline::Timeline;
use crate::Result;

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
    /// So many ticks after the last observation that was asked about.
    Every(u64),
    /// When at most so many rows are left.
    Left(usize),
    /// When nothing is left.
    Empty,
}

/// Decides when to ask. Takes no memory after it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Executor {
    rule: Rule,
    patience: u64,
    /// Observation that is being answered: sequence number and tick.
    out: Option<(u64, u64)>,
    /// Tick of the last observation that was asked about.
    asked: Option<u64>,
    delays: [u64; SAMPLES],
    samples: usize,
}

impl Executor {
    /// For a policy whose chunks have `horizon` rows, of which it wants `n_action_steps` played; a request
    /// counts as lost after `patience` ticks.
    ///
    /// # Errors
    /// As [`Joining::validate`].
    pub fn new(
        joining: Joining,
        horizon: usize,
        n_action_steps: usize,
        patience: u64,
    ) -> Result<Self> {
        joining.validate(horizon)?;
        let every = joining.n_action_steps.unwrap_or(n_action_steps).max(1);
        let rule = match (joining.mode, joining.chunk_size_threshold) {
            (Mode::Synchronous, _) => Rule::Empty,
            (Mode::TemporalEnsemble, None) => Rule::Every(1),
            (_, Some(share)) => Rule::Left((share * horizon as f64) as usize),
            (_, None) => Rule::Every(every as u64),
        };
        Ok(Self { rule, patience, out: None, asked: None, delays: [0; SAMPLES], samples: 0 })
    }

    /// Whether the observation `obs_seq` of `tick` shall ask for a chunk. One call a tick, after what has
    /// come was taken in and before the observation is sent.
    pub fn ask(&mut self, timeline: &Timeline, obs_seq: u64, tick: u64) -> Option<Ask> {
        let waiting = |(_, since): (u64, u64)| tick.saturating_sub(since) < self.patience;
        if self.out.is_some_and(waiting) {
            return None;
        }
        let left = timeline.remaining(tick);
        let due = match self.rule {
            _ if left == 0 => true,
            Rule::Empty => false,
            Rule::Left(rows) => left <= rows,
            Rule::Every(ticks) => {
                self.asked.is_none_or(|asked| tick.saturating_sub(asked) >= ticks)
            }
        };
        if !due {
            return None;
        }
        self.out = Some((obs_seq, tick));
        self.asked = Some(tick);
        Some(Ask { expected_delay: self.expected_delay() })
    }

    /// The chunk for `obs_seq` is there at `tick`, taken or not; `consumed` rows were played since its
    /// observation. A warm-up is not counted.
    pub fn answered(&mut self, obs_seq: u64, tick: u64, consumed: u64, warm_up: bool) {
        let Some((seq, since)) = self.out else { return };
        if obs_seq < seq {
            return;
        }
        self.out = None;
        if warm_up {
            return;
        }
        // A robot that held consumed fewer rows than ticks went by; a running one will consume all.
        let delay = consumed.max(tick.saturating_sub(since));
        if let Some(slot) = self.samples.checked_rem(SAMPLES).and_then(|i| self.delays.get_mut(i)) {
            *slot = delay;
        }
        self.samples = self.samples.wrapping_add(1);
    }

    /// The largest delay of the last answers, in ticks; 0 before the first.
    pub fn expected_delay(&self) -> usize {
        let most = self.delays.iter().copied().max().unwrap_or(0);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Whether an answer is due.
    pub fn is_waiting(&self) -> bool {
        self.out.is_some()
    }

    /// An episode begins: what was asked is forgotten, what was measured is not.
    pub fn reset(&mut self) {
        self.out = None;
        self.asked = None;
    }
}
