//! The timeline: which action belongs to which tick, and which was really played.
//!
//! A row of a chunk answers its observation's tick plus its index, **in ticks at which something was
//! played**. A chunk that comes at tick `now` is entered at row `r = played(obs_tick, now)`: row r belongs
//! to `now`, row r + 1 to the tick after. While the robot runs, r is `now − obs_tick`; while it held nothing
//! was played and nothing is skipped, however long the answer took. No latency is estimated here.
//!
//! Planned rows lie in a ring of slots by tick, from `first` on without a gap. A newer chunk meets them by
//! [`Join`], for the ticks from `now` on:
//!
//! | join | where both have a row | old rows beyond the new chunk's end |
//! |---|---|---|
//! | `Stop`, `Replace` | the new one | dropped |
//! | `Keep` | the old one | kept |
//! | `Blend` | `old·row + (1 − old)·new row` | dropped |
//! | `Ensemble` | `mean ← (mean·W_{i−1} + row·w_i)/W_i`, i the predictions so far, f32 | dropped |
//!
//! What LeRobot 0.4.4 does otherwise, and why this does not:
//! - `ActionQueue.merge` without RTC appends a chunk from its row 0, which answers an observation as old as
//!   the queue was long. `Keep` enters the new chunk where now is, and plays what it has for the ticks
//!   after the old one's end.
//! - `ActionQueue.merge` with RTC skips `ceil(latency·fps)` rows, a measured time (lerobot #4223: 21 of 30
//!   rows lost to a warm-up). Here the rows played are counted.
//! - `RobotClient` numbers an observation by the last action *performed*, so that row 0 of its answer is
//!   always skipped. Here row 0 belongs to the tick of the observation, whose action is not chosen yet.
//! - `_aggregate_action_queues` builds the new queue from the incoming rows alone: old rows beyond its end
//!   go, here too. `ACTTemporalEnsembler` never meets them: each of its chunks ends a row after the last.
//! - `ACTTemporalEnsembler` takes a chunk every tick. Here chunks may be late or rare: i counts the
//!   predictions that a tick really has. Past the end of the table the last weights stay.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::flaw::Flawed;
use super::joining::Join;

/// Most ticks that a timeline remembers.
const MAX_MEMORY: u64 = 1 << 17;

/// What a chunk is, without its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The publisher's epoch.
    pub epoch: u64,
    /// The chunk's sequence number, from 1.
    pub chunk_seq: u64,
    /// The observation that it answers.
    pub obs_seq: u64,
    /// The robot's tick of that observation.
    pub obs_tick: u64,
    /// Number of rows.
    pub horizon: usize,
}

/// One action, planned or played. Of a mixed one: what the newest chunk in it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// The tick that it belongs to.
    pub tick: u64,
    /// Epoch of its chunk.
    pub epoch: u64,
    /// Sequence number of its chunk.
    pub chunk_seq: u64,
    /// The observation that its chunk answers.
    pub obs_seq: u64,
    /// The robot's tick of that observation.
    pub obs_tick: u64,
    /// Row of that chunk.
    pub index: usize,
}

/// What an observation says about the plan: the row that belongs to the observation's own tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executing {
    /// Sequence number of the chunk; 0 if there is none for this tick.
    pub chunk_seq: u64,
    /// Row of that chunk; -1 if there is none for this tick.
    pub index: i32,
}

impl Executing {
    /// No plan: the robot holds.
    pub const NOTHING: Self = Self { chunk_seq: 0, index: -1 };
}

/// The weights of a temporal ensemble of `n` predictions: `w_i = e^(−coefficient·i)` and
/// `W_i = Σ_{j ≤ i} w_j`, in f32 as torch has them.
pub fn ensemble_weights(coefficient: f64, n: usize) -> Vec<[f32; 2]> {
    let rate = (-coefficient) as f32;
    let mut sum = 0.0;
    (0..n)
        .map(|i| {
            let weight = f64::from(rate * i as f32).exp() as f32;
            // torch adds up in f64 and rounds each sum.
            sum += f64::from(weight);
            [weight, sum as f32]
        })
        .collect()
}

/// A planned row without its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    row: Executed,
    /// Predictions in it.
    count: usize,
}

/// The planned rows by tick and a log of what was played. Takes memory when it is made, and never again.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    dim: usize,
    max_horizon: usize,
    memory: u64,
    join: Join,
    plan: Option<Plan>,
    /// The planned rows: `planned` ticks from `first` on.
    first: u64,
    planned: usize,
    /// Tick t is at t modulo the length, a power of two; so in `values`, in rows of `dim`, and in `log`.
    slots: Box<[Slot]>,
    values: Box<[f32]>,
    log: Box<[Option<Executed>]>,
    /// The row that is being entered.
    scratch: Box<[f32]>,
    weights: Box<[[f32; 2]]>,
    pub(super) flawed: Flawed<TimelineFlaw>,
}

impl Timeline {
    /// A timeline for chunks of up to `max_horizon` rows of `dim` values. It remembers what was played in
    /// the last `memory` ticks (at most 2^17), and takes no chunk whose observation is older.
    pub fn new(dim: usize, max_horizon: usize, memory: u64, join: Join) -> Self {
        let memory = memory.min(MAX_MEMORY);
        let ring = |n: usize| n.max(1).checked_next_power_of_two().unwrap_or(1);
        let slots = ring(max_horizon);
        let log = ring(usize::try_from(memory).unwrap_or(0).saturating_add(1));
        let weights = match join {
            Join::Ensemble { coefficient } => ensemble_weights(coefficient, max_horizon),
            _ => Vec::new(),
        };
        Self {
            dim,
            max_horizon,
            memory,
            join,
            plan: None,
            first: 0,
            planned: 0,
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            values: vec![0.0; slots.saturating_mul(dim)].into_boxed_slice(),
            log: vec![None; log].into_boxed_slice(),
            scratch: vec![0.0; dim].into_boxed_slice(),
            weights: weights.into_boxed_slice(),
            flawed: Flawed::default(),
        }
    }

    /// The row at which a chunk that comes at `now` is entered; `None` if there is none to play: it does
    /// not fit, its observation is of the future or older than `memory`, every row has passed, or the plan
    /// that [`Join::Keep`] keeps ends later.
    pub fn first_row(&self, plan: &Plan, now: u64) -> Option<usize> {
        let age = now.checked_sub(plan.obs_tick)?;
        let row = usize::try_from(self.skipped(plan.obs_tick, now)).ok()?;
        let known = age <= self.memory || self.flawed.by(TimelineFlaw::AnyAge);
        let fits = plan.horizon <= self.max_horizon && known;
        (fits && self.fresh_rows(plan, row, now) > 0).then_some(row)
    }

    /// Enters a chunk that is there at `now`; the number of rows that were entered. `None`, and nothing
    /// changed, if [`Timeline::first_row`] is. `values` are row-major, `plan.horizon * dim`; what they do not
    /// hold to the end of a row is not entered. Ticks do not go back: before `first` all is forgotten.
    pub fn load(
        &mut self,
        plan: Plan,
        now: u64,
        values: impl Iterator<Item = f32>,
    ) -> Option<usize> {
        let entry = self.first_row(&plan, now)?;
        let fresh = self.fresh_rows(&plan, entry, now);
        let kept = if self.keeps() { self.remaining(now) } else { 0 };
        let start = entry.checked_add(kept)?;
        let mut values = values.skip(start.checked_mul(self.dim)?);
        if !fill(&mut self.scratch, &mut values) {
            return None;
        }
        // Only from here on something changes.
        let mixed = match self.join {
            Join::Blend { .. } | Join::Ensemble { .. } => self.remaining(now),
            _ => 0,
        };
        let mut entered = 0_usize;
        while entered < fresh {
            if entered > 0 && !fill(&mut self.scratch, &mut values) {
                break;
            }
            let offset = kept.saturating_add(entered);
            let Some(tick) = ticks(offset).and_then(|t| now.checked_add(t)) else { break };
            let index = start.saturating_add(entered);
            self.enter(&plan, tick, index, entered < mixed);
            entered = entered.saturating_add(1);
        }
        let beyond = self.remaining(now).saturating_sub(entered);
        self.planned = kept.saturating_add(entered);
        if self.flawed.by(TimelineFlaw::PastStays) && self.first < now {
            self.planned = self.planned.saturating_add(1);
            self.first = now.saturating_sub(1);
        } else {
            self.first = now;
        }
        if self.flawed.by(TimelineFlaw::OldRowsStay) {
            self.planned = self.planned.saturating_add(beyond);
        }
        self.plan = Some(plan);
        Some(entered)
    }

    /// The newest chunk taken.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The row that is planned for `tick`, and its values `[dim]`.
    pub fn due(&self, tick: u64) -> Option<(Executed, &[f32])> {
        if self.remaining(tick) == 0 {
            return None;
        }
        let at = slot_of(tick, self.slots.len())?;
        let start = at.checked_mul(self.dim)?;
        let values = self.values.get(start..start.checked_add(self.dim)?)?;
        Some((self.slots.get(at)?.row, values))
    }

    /// How many rows are planned from `tick` on, without a gap.
    pub fn remaining(&self, tick: u64) -> usize {
        let passed = tick.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        let passed =
            passed.map(|n| if self.flawed.by(TimelineFlaw::GapCounts) { n / 2 } else { n });
        passed.map_or(0, |n| self.planned.saturating_sub(n))
    }

    /// What is planned from `tick` on: values `[dim]` a row.
    pub fn left_over(&self, tick: u64) -> impl Iterator<Item = &[f32]> {
        (0..self.remaining(tick))
            .filter_map(move |i| self.due(tick.checked_add(ticks(i)?)?))
            .map(|(_, values)| values)
    }

    /// Notes that `row` was played at `tick`.
    pub fn mark_executed(&mut self, tick: u64, row: &Executed) {
        if let Some(slot) = slot_of(tick, self.log.len()).and_then(|i| self.log.get_mut(i)) {
            *slot = Some(Executed { tick, ..*row });
        }
    }

    /// What was played at `tick`; `None` if the robot held, or if that was too long ago.
    pub fn executed(&self, tick: u64) -> Option<&Executed> {
        let slot = self.log.get(slot_of(tick, self.log.len())?)?;
        slot.as_ref().filter(|executed| executed.tick == tick)
    }

    /// At how many ticks of `from..to` a row was played, as far back as is remembered.
    pub fn played(&self, from: u64, to: u64) -> u64 {
        let reach = u64::try_from(self.log.len()).unwrap_or(u64::MAX);
        (from.max(to.saturating_sub(reach))..to)
            .fold(0, |n, tick| n.saturating_add(u64::from(self.executed(tick).is_some())))
    }

    /// What an observation taken at `tick` reports.
    pub fn executing(&self, tick: u64) -> Executing {
        self.due(tick).map_or(Executing::NOTHING, |(row, _)| Executing {
            chunk_seq: row.chunk_seq,
            index: i32::try_from(row.index).unwrap_or(i32::MAX),
        })
    }

    /// Forgets what is planned; the log stays.
    pub fn clear(&mut self) {
        self.plan = None;
        if self.flawed.by(TimelineFlaw::ClearKeeps) {
            return;
        }
        if self.flawed.by(TimelineFlaw::ClearsLog) {
            self.log.fill(None);
        }
        self.planned = 0;
    }

    /// Bytes of memory that this timeline took when it was made.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots)
            .saturating_add(size_of_val(&*self.values))
            .saturating_add(size_of_val(&*self.log))
            .saturating_add(size_of_val(&*self.scratch))
            .saturating_add(size_of_val(&*self.weights))
    }

    /// Rows of a chunk that are not played any more at `now`.
    fn skipped(&self, obs_tick: u64, now: u64) -> u64 {
        let played = self.played(obs_tick, now);
        let elapsed = now.saturating_sub(obs_tick);
        if self.flawed.by(TimelineFlaw::ElapsedTicks) {
            elapsed
        } else if self.flawed.by(TimelineFlaw::FromTheTop) {
            0
        } else if self.flawed.by(TimelineFlaw::NextRow) {
            played.saturating_add(1)
        } else {
            played
        }
    }

    /// How many rows a chunk brings that enters at row `entry`.
    fn fresh_rows(&self, plan: &Plan, entry: usize, now: u64) -> usize {
        let rows = match self.join {
            Join::Stop { rows } if !self.flawed.by(TimelineFlaw::NoStop) => plan.horizon.min(rows),
            _ => plan.horizon,
        };
        let kept = if self.keeps() { self.remaining(now) } else { 0 };
        // There is no tick after the last one.
        let left = usize::try_from(u64::MAX.saturating_sub(now)).unwrap_or(usize::MAX);
        rows.saturating_sub(entry).min(left.saturating_add(1)).saturating_sub(kept)
    }

    /// Whether rows that are planned stay where a new chunk has one, too.
    fn keeps(&self) -> bool {
        self.join == Join::Keep && !self.flawed.by(TimelineFlaw::KeepDrops)
    }

    /// Puts the scratch row at `tick`; `mix` with what is planned there.
    fn enter(&mut self, plan: &Plan, tick: u64, index: usize, mix: bool) {
        let swapped = self.flawed.by(TimelineFlaw::WeightsSwapped);
        let Some(at) = slot_of(tick, self.slots.len()) else { return };
        let Some(slot) = self.slots.get_mut(at) else { return };
        let Some(start) = at.checked_mul(self.dim) else { return };
        let values = self.values.iter_mut().skip(start).zip(&self.scratch);
        let Plan { epoch, chunk_seq, obs_seq, obs_tick, .. } = *plan;
        slot.row = Executed { tick, epoch, chunk_seq, obs_seq, obs_tick, index };
        if !mix {
            slot.count = 1;
            values.for_each(|(to, new)| *to = *new);
            return;
        }
        // Predictions so far; the table ends where they would be more than it has weights for.
        let i = slot.count.min(self.weights.len().saturating_sub(1));
        slot.count = slot.count.saturating_add(1);
        match self.join {
            Join::Blend { old } => {
                let old = if swapped { 1.0 - old } else { old };
                values.for_each(|(to, new)| *to = old * *to + (1.0 - old) * *new);
            }
            Join::Ensemble { .. } => {
                let before = i.checked_sub(1).and_then(|i| self.weights.get(i));
                let (Some([_, before]), Some([weight, after])) = (before, self.weights.get(i))
                else {
                    // A table of one row: a tick has one prediction.
                    return values.for_each(|(to, new)| *to = *new);
                };
                let (of_mean, of_new) = if swapped { (weight, before) } else { (before, weight) };
                values.for_each(|(to, new)| *to = (*to * of_mean + *new * of_new) / after);
            }
            _ => values.for_each(|(to, new)| *to = *new),
        }
    }
}

/// The rule that a broken twin of the timeline breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break a timeline"))]
pub(super) enum TimelineFlaw {
    ElapsedTicks,
    FromTheTop,
    NextRow,
    OldRowsStay,
    KeepDrops,
    WeightsSwapped,
    NoStop,
    AnyAge,
    ClearKeeps,
    ClearsLog,
    GapCounts,
    PastStays,
}

/// Fills `row`; false if the values end before.
fn fill(row: &mut [f32], values: &mut impl Iterator<Item = f32>) -> bool {
    row.iter_mut().all(|to| values.next().map(|value| *to = value).is_some())
}

fn ticks(rows: usize) -> Option<u64> {
    u64::try_from(rows).ok()
}

/// Where `tick` is in a ring of `slots`, a power of two.
fn slot_of(tick: u64, slots: usize) -> Option<usize> {
    usize::try_from(tick & u64::try_from(slots.checked_sub(1)?).ok()?).ok()
}
