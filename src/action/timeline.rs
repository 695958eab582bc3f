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
    #[cfg(test)]
    pub(super) flaw: Option<TimelineFlaw>,
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
            #[cfg(test)]
            flaw: None,
        }
    }

    /// The row at which a chunk that comes at `now` is entered; `None` if there is none to play: it does
    /// not fit, its observation is of the future or older than `memory`, every row has passed, or the plan
    /// that [`Join::Keep`] keeps ends later.
    pub fn first_row(&self, plan: &Plan, now: u64) -> Option<usize> {
        let age = now.checked_sub(plan.obs_tick)?;
        let row = usize::try_from(self.skipped(plan.obs_tick, now)).ok()?;
        let known = age <= self.memory || self.broken(TimelineFlaw::AnyAge);
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
        if self.broken(TimelineFlaw::PastStays) && self.first < now {
            self.planned = self.planned.saturating_add(1);
            self.first = now.saturating_sub(1);
        } else {
            self.first = now;
        }
        if self.broken(TimelineFlaw::OldRowsStay) {
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
        let passed = passed.map(|n| if self.broken(TimelineFlaw::GapCounts) { n / 2 } else { n });
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
        if self.broken(TimelineFlaw::ClearKeeps) {
            return;
        }
        if self.broken(TimelineFlaw::ClearsLog) {
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
        if self.broken(TimelineFlaw::ElapsedTicks) {
            elapsed
        } else if self.broken(TimelineFlaw::FromTheTop) {
            0
        } else if self.broken(TimelineFlaw::NextRow) {
            played.saturating_add(1)
        } else {
            played
        }
    }

    /// How many rows a chunk brings that enters at row `entry`.
    fn fresh_rows(&self, plan: &Plan, entry: usize, now: u64) -> usize {
        let rows = match self.join {
            Join::Stop { rows } if !self.broken(TimelineFlaw::NoStop) => plan.horizon.min(rows),
            _ => plan.horizon,
        };
        let kept = if self.keeps() { self.remaining(now) } else { 0 };
        // There is no tick after the last one.
        let left = usize::try_from(u64::MAX.saturating_sub(now)).unwrap_or(usize::MAX);
        rows.saturating_sub(entry).min(left.saturating_add(1)).saturating_sub(kept)
    }

    /// Whether rows that are planned stay where a new chunk has one, too.
    fn keeps(&self) -> bool {
        self.join == Join::Keep && !self.broken(TimelineFlaw::KeepDrops)
    }

    /// Puts the scratch row at `tick`; `mix` with what is planned there.
    fn enter(&mut self, plan: &Plan, tick: u64, index: usize, mix: bool) {
        let swapped = self.broken(TimelineFlaw::WeightsSwapped);
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

    /// True if a test broke this rule; constant in every other build.
    #[cfg(test)]
    fn broken(&self, flaw: TimelineFlaw) -> bool {
        self.flaw == Some(flaw)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "the test build reads it")]
    const fn broken(&self, _: TimelineFlaw) -> bool {
        false
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

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic: that is how it fails"
)]
mod tests {
    use super::*;

    fn plan(chunk_seq: u64, obs_tick: u64, horizon: usize) -> Plan {
        Plan { epoch: 1, chunk_seq, obs_seq: obs_tick.wrapping_add(100), obs_tick, horizon }
    }

    /// Value of row i, column d of chunk c, so that a wrong row shows.
    fn values(chunk: u64, horizon: usize) -> impl Iterator<Item = f32> {
        (0..2 * horizon).map(move |i| (chunk * 1000) as f32 + i as f32)
    }

    /// Loads chunk `seq`, whose values are those of its number.
    fn load(
        line: &mut Timeline,
        seq: u64,
        obs_tick: u64,
        horizon: usize,
        now: u64,
    ) -> Option<usize> {
        line.load(plan(seq, obs_tick, horizon), now, values(seq, horizon))
    }

    /// Plays `ticks`; the first value of each row, `None` for a hold.
    fn play(line: &mut Timeline, ticks: std::ops::Range<u64>) -> Vec<Option<f32>> {
        ticks
            .map(|tick| {
                let (row, value) = line.due(tick).map(|(row, values)| (row, values[0]))?;
                assert_eq!(row.tick, tick);
                line.mark_executed(tick, &row);
                Some(value)
            })
            .collect()
    }

    #[test]
    fn what_was_not_played_is_not_skipped() {
        let mut line = Timeline::new(2, 8, 20, Join::Replace);
        assert_eq!(line.executing(10), Executing::NOTHING);
        // Seven ticks of waiting for the first chunk: it begins at row 0.
        assert_eq!(load(&mut line, 1, 10, 8, 17), Some(8));
        assert_eq!(line.executing(17), Executing { chunk_seq: 1, index: 0 });
        assert_eq!(play(&mut line, 15..20), [None, None, Some(1000.0), Some(1002.0), Some(1004.0)]);
        // Three ticks of playing: rows 0 to 2 are not played.
        assert_eq!(load(&mut line, 2, 17, 8, 20), Some(5));
        assert_eq!(line.executing(20), Executing { chunk_seq: 2, index: 3 });
        // It plays to its end, and the robot holds for five ticks.
        assert_eq!(play(&mut line, 20..30).iter().flatten().count(), 5);
        assert_eq!(line.played(17, 30), 8);
        // Observed at 22: three rows were played since.
        assert_eq!(load(&mut line, 3, 22, 8, 30), Some(5));
        assert_eq!(line.due(30).unwrap().0.index, 3);
    }

    #[test]
    fn a_newer_chunk_leaves_nothing_of_the_older_one() {
        let mut line = Timeline::new(2, 8, 20, Join::Replace);
        assert_eq!(load(&mut line, 1, 10, 8, 10), Some(8));
        assert_eq!(load(&mut line, 2, 10, 3, 10), Some(3));
        assert_eq!((line.remaining(10), line.remaining(12), line.remaining(13)), (3, 1, 0));
        assert_eq!(line.left_over(11).collect::<Vec<_>>(), [[2002.0, 2003.0], [2004.0, 2005.0]]);
        assert_eq!(play(&mut line, 13..30), [None; 17]);
    }

    #[test]
    fn keep_plays_the_old_chunk_to_its_end() {
        let mut line = Timeline::new(2, 8, 20, Join::Keep);
        assert_eq!(load(&mut line, 1, 0, 8, 0), Some(8));
        play(&mut line, 0..6);
        // Observed at 4, two rows skipped, two ticks more are the old chunk's.
        assert_eq!(load(&mut line, 2, 4, 8, 6), Some(4));
        assert_eq!(line.plan().unwrap().chunk_seq, 2);
        let rows = [1012.0, 1014.0, 2008.0, 2010.0, 2012.0, 2014.0];
        assert_eq!(play(&mut line, 6..13), [&rows.map(Some)[..], &[None]].concat());
        // One that ends before the one that is kept brings nothing.
        assert_eq!(load(&mut line, 3, 13, 8, 13), Some(8));
        assert_eq!(load(&mut line, 4, 13, 8, 13), None);
        assert_eq!(line.plan().unwrap().chunk_seq, 3);
    }

    #[test]
    fn stop_plays_so_many_rows_and_no_more() {
        let mut line = Timeline::new(2, 8, 20, Join::Stop { rows: 3 });
        assert_eq!(load(&mut line, 1, 0, 8, 5), Some(3));
        assert_eq!(play(&mut line, 5..9), [Some(1000.0), Some(1002.0), Some(1004.0), None]);
        assert_eq!(load(&mut line, 2, 5, 8, 9), None, "three were played since");
    }

    #[test]
    fn blends_are_those_of_the_async_client() {
        let mut line = Timeline::new(2, 8, 20, Join::Blend { old: 0.3 });
        assert_eq!(load(&mut line, 1, 0, 8, 0), Some(8));
        assert_eq!(load(&mut line, 2, 0, 4, 0), Some(4));
        let want = |i: f32| Some(0.3 * (1000.0 + 2.0 * i) + 0.7_f32 * (2000.0 + 2.0 * i));
        assert_eq!(line.remaining(0), 4, "old rows beyond the new chunk's end go");
        assert_eq!(line.due(0).unwrap().0.chunk_seq, 2);
        assert_eq!(play(&mut line, 0..3), [want(0.0), want(1.0), want(2.0)]);
    }

    #[test]
    fn what_was_played_is_remembered_for_so_many_ticks() {
        let mut line = Timeline::new(2, 4, 3, Join::Replace);
        assert_eq!(load(&mut line, 7, 0, 4, 0), Some(4));
        play(&mut line, 0..1);
        play(&mut line, 2..3);
        let want =
            Executed { tick: 2, epoch: 1, chunk_seq: 7, obs_seq: 100, obs_tick: 0, index: 2 };
        assert_eq!(line.executed(2), Some(&want));
        assert_eq!(line.executed(1), None, "held");
        assert_eq!(load(&mut line, 8, 4, 4, 4), Some(4));
        play(&mut line, 4..5);
        assert_eq!(line.executed(0), None, "its slot was used again");
        assert_eq!(line.played(0, 5), 2);
        assert_eq!(load(&mut line, 9, 1, 4, 5), None, "older than is remembered");
    }

    #[test]
    fn a_chunk_that_does_not_fit_changes_nothing() {
        let mut line = Timeline::new(2, 4, 10, Join::Replace);
        assert_eq!(load(&mut line, 1, 5, 4, 5), Some(4));
        let before = line.clone();
        assert_eq!(load(&mut line, 2, 5, 5, 5), None, "too long");
        assert_eq!(load(&mut line, 2, 5, 0, 5), None, "empty");
        assert_eq!(load(&mut line, 2, 6, 4, 5), None, "of the future");
        assert_eq!(line.load(plan(2, 5, 4), 5, values(2, 0)), None, "without values");
        assert_eq!(line.due(5), before.due(5));
        assert_eq!((line.plan(), line.memory_bytes()), (before.plan(), before.memory_bytes()));
        assert_eq!(line.load(plan(2, 5, 4), 5, values(2, 2)), Some(2), "what is there");
        assert_eq!(line.remaining(5), 2);
        line.clear();
        assert_eq!((line.due(5), line.plan()), (None, None));
    }

    #[test]
    fn the_largest_ticks_do_not_overflow() {
        for join in [Join::Replace, Join::Keep, Join::Blend { old: 0.5 }] {
            let mut line = Timeline::new(2, 4, 10, join);
            assert_eq!(load(&mut line, 1, u64::MAX - 3, 4, u64::MAX - 3), Some(4));
            assert_eq!(play(&mut line, u64::MAX - 3..u64::MAX).iter().flatten().count(), 3);
            assert!(line.due(u64::MAX).is_some());
            let entered = load(&mut line, 2, u64::MAX, 4, u64::MAX);
            assert_eq!(entered, (join != Join::Keep).then_some(1), "there is no tick after it");
            assert_eq!(line.left_over(u64::MAX).count(), 1);
        }
        let mut none = Timeline::new(0, 0, 0, Join::Ensemble { coefficient: 0.01 });
        assert_eq!(load(&mut none, 1, 0, 1, 0), None);
        none.mark_executed(5, &Executed::default());
        assert_eq!((none.played(0, 6), none.played(6, 5), none.due(5)), (1, 0, None));
        assert!(Timeline::new(1, 1, u64::MAX, Join::Keep).memory_bytes() < 1 << 25);
    }

    #[test]
    fn a_clock_that_goes_back_starts_anew() {
        for join in [Join::Replace, Join::Keep] {
            let mut line = Timeline::new(2, 4, 10, join);
            assert_eq!(load(&mut line, 1, 100, 4, 100), Some(4));
            assert_eq!(load(&mut line, 2, 3, 4, 3), Some(4));
            assert_eq!((line.due(100), line.due(3).unwrap().0.chunk_seq), (None, 2));
        }
    }
}
