//! The timeline: which action belongs to which tick, and which was really played.
//!
//! A chunk that comes at tick `now` is entered at row r = the number of rows that were *played* since its
//! observation; row r belongs to `now`, row r + 1 to the tick after. While the robot runs that is
//! `now − obs_tick`: what was played meanwhile is never played again. While it held, nothing was played
//! and nothing is skipped: a first chunk that took a second to come begins at row 0. Latency is not
//! estimated anywhere. Where an older chunk has a row for the same tick, [`Join`] says what counts.
//!
//! LeRobot's queues differ in this: its `append` plays the new chunk from its first row when the old one
//! ends, however old that row is by then; here it is entered where now is. Its async client keeps, as this
//! does, no row of the old chunk beyond the new one's end.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::joining::Join;

/// What a chunk is: all but its values.
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

/// One action that is planned for a tick or was played at it; of a blend the newest chunk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The tick.
    pub tick: u64,
    /// Epoch of its chunk.
    pub epoch: u64,
    /// Sequence number of its chunk.
    pub chunk_seq: u64,
    /// The observation that its chunk answers.
    pub obs_seq: u64,
    /// The tick of that observation.
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

/// The plan by tick and a log of what was played. Takes memory when it is made, and never again.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    dim: usize,
    join: Join,
    plan: Option<Plan>,
    /// The row planned for tick t is at t modulo the length.
    slots: Box<[Option<Executed>]>,
    /// How many chunks each planned row is made of.
    counts: Box<[usize]>,
    /// Its values.
    rows: Box<[f32]>,
    /// `w_i` and their sums; empty unless chunks are ensembled.
    weights: Box<[[f32; 2]]>,
    log: Box<[Option<Executed>]>,
}

impl Timeline {
    /// A timeline for chunks of up to `max_horizon` rows of `dim` values, which remembers what was played
    /// at the last `memory` ticks at least.
    pub fn new(dim: usize, max_horizon: usize, memory: u64, join: Join) -> Self {
        let values = dim.saturating_mul(max_horizon);
        let memory = usize::try_from(memory).unwrap_or(1).max(max_horizon).saturating_add(1);
        let weights = match join {
            Join::Ensemble { coefficient } => ensemble_weights(coefficient, max_horizon),
            _ => Vec::new(),
        };
        Self {
            dim,
            join,
            plan: None,
            slots: vec![None; max_horizon].into_boxed_slice(),
            counts: vec![0; max_horizon].into_boxed_slice(),
            rows: vec![0.0; values].into_boxed_slice(),
            weights: weights.into_boxed_slice(),
            log: vec![None; memory].into_boxed_slice(),
        }
    }

    /// Takes a chunk in at tick `now`; `values` are row-major and at least `plan.horizon * dim`. The number
    /// of rows that were entered; `None`, and nothing changed, if it has more than `max_horizon` rows or
    /// none is left to play.
    pub fn load(
        &mut self,
        plan: Plan,
        now: u64,
        mut values: impl Iterator<Item = f32>,
    ) -> Option<usize> {
        let first = self.first_row(&plan, now)?;
        let end = self.end_row(&plan);
        let skipped = first.checked_mul(self.dim)?;
        if skipped > 0 {
            values.nth(skipped.saturating_sub(1));
        }
        let mut entered = 0_usize;
        let mut tick = now;
        for index in first..end {
            let Plan { epoch, chunk_seq, obs_seq, obs_tick, .. } = plan;
            let new = Executed { tick, epoch, chunk_seq, obs_seq, obs_tick, index };
            entered = entered.saturating_add(usize::from(self.enter(new, &mut values)));
            // The last ticks that there are: nothing comes after them.
            let Some(next) = tick.checked_add(1) else { break };
            tick = next;
        }
        if self.join != Join::Keep {
            let new = (plan.epoch, plan.chunk_seq);
            for slot in &mut self.slots {
                *slot = slot.filter(|planned| (planned.epoch, planned.chunk_seq) == new);
            }
        }
        self.plan = Some(plan);
        Some(entered)
    }

    /// The row at which a chunk that is there at `now` would be entered; `None` if it has too many rows or
    /// none is left.
    pub fn first_row(&self, plan: &Plan, now: u64) -> Option<usize> {
        if plan.horizon > self.slots.len() {
            return None;
        }
        let first = usize::try_from(self.played(plan.obs_tick, now)).ok()?;
        (first < self.end_row(plan)).then_some(first)
    }

    /// The row before which a chunk ends for this robot.
    fn end_row(&self, plan: &Plan) -> usize {
        match self.join {
            Join::Stop { rows } => plan.horizon.min(rows),
            _ => plan.horizon,
        }
    }

    /// Joins one row of a new chunk with what is planned for its tick; true if it counts for something.
    fn enter(&mut self, new: Executed, values: &mut impl Iterator<Item = f32>) -> bool {
        let Some(at) = slot_of(new.tick, self.slots.len()) else { return false };
        let start = at.saturating_mul(self.dim);
        let end = start.saturating_add(self.dim);
        let (Some(slot), Some(count), Some(row)) =
            (self.slots.get_mut(at), self.counts.get_mut(at), self.rows.get_mut(start..end))
        else {
            return false;
        };
        let planned = slot.is_some_and(|old| old.tick == new.tick);
        if planned && self.join == Join::Keep {
            // The values still have to be passed over.
            values.nth(self.dim.saturating_sub(1));
            return false;
        }
        let i = if planned { *count } else { 0 };
        let mix = |old: f32, new: f32| match self.join {
            Join::Blend { old: weight } if planned => weight * old + (1.0 - weight) * new,
            Join::Ensemble { .. } if planned => {
                // More chunks than rows can only come from a policy that answers one tick twice. They weigh
                // as the last of the table does: the weights of old and new still sum to 1.
                let i = i.min(self.weights.len().saturating_sub(1));
                let before = i.checked_sub(1).and_then(|i| self.weights.get(i));
                match (before, self.weights.get(i)) {
                    (Some([_, before]), Some([weight, after])) => {
                        (old * before + new * weight) / after
                    }
                    _ => new,
                }
            }
            _ => new,
        };
        for (value, new) in row.iter_mut().zip(values) {
            *value = mix(*value, new);
        }
        *slot = Some(new);
        *count = i.saturating_add(1);
        true
    }

    /// The newest chunk that was taken in.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The row planned for `tick`, and its action `[dim]`.
    pub fn due(&self, tick: u64) -> Option<(Executed, &[f32])> {
        let at = slot_of(tick, self.slots.len())?;
        let planned = self.slots.get(at).copied().flatten().filter(|p| p.tick == tick)?;
        let start = at.checked_mul(self.dim)?;
        Some((planned, self.rows.get(start..start.checked_add(self.dim)?)?))
    }

    /// Rows planned from `tick` on, without a gap.
    pub fn remaining(&self, tick: u64) -> usize {
        self.left_over(tick).count()
    }

    /// The actions planned from `tick` on, without a gap: what is still to be played if nothing comes.
    pub fn left_over(&self, tick: u64) -> impl Iterator<Item = &[f32]> {
        let ticks =
            (0..self.slots.len()).map_while(move |i| tick.checked_add(u64::try_from(i).ok()?));
        ticks.map_while(|tick| self.due(tick).map(|(_, row)| row))
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

    /// Number of ticks in `from..to` at which a row was played, as far back as the log goes.
    pub fn played(&self, from: u64, to: u64) -> u64 {
        let oldest = to.saturating_sub(u64::try_from(self.log.len()).unwrap_or(u64::MAX));
        let played = (from.max(oldest)..to).filter(|tick| self.executed(*tick).is_some());
        played.fold(0, |n, _| n.saturating_add(1))
    }

    /// What an observation taken at `tick` reports.
    pub fn executing(&self, tick: u64) -> Executing {
        self.due(tick).map_or(Executing::NOTHING, |(planned, _)| Executing {
            chunk_seq: planned.chunk_seq,
            index: i32::try_from(planned.index).unwrap_or(i32::MAX),
        })
    }

    /// Forgets all plans; the log stays.
    pub fn clear(&mut self) {
        self.plan = None;
        self.slots.fill(None);
    }

    /// Bytes of memory that this timeline took when it was made.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.rows)
            .saturating_add(size_of_val(&*self.slots))
            .saturating_add(size_of_val(&*self.counts))
            .saturating_add(size_of_val(&*self.weights))
            .saturating_add(size_of_val(&*self.log))
    }
}

/// `w_i = e^(−coefficient·i)` and `W_i = Σ_{j ≤ i} w_j` for i below `n`, rounded as LeRobot's
/// `ACTTemporalEnsembler` (torch, f32; sums in f64, each rounded).
pub fn ensemble_weights(coefficient: f64, n: usize) -> Vec<[f32; 2]> {
    let rate = (-coefficient) as f32;
    let mut sum = 0.0;
    let weights = (0..n).map(|i| {
        let weight = f64::from(rate * i as f32).exp() as f32;
        sum += f64::from(weight);
        [weight, sum as f32]
    });
    weights.collect()
}

fn slot_of(tick: u64, slots: usize) -> Option<usize> {
    usize::try_from(tick.checked_rem(u64::try_from(slots).ok()?)?).ok()
}
