//! The timeline: which action belongs to which tick, and which was really played.
//!
//! Row i of a chunk belongs to tick `obs_tick + i`. A late chunk is entered where *now* is, its
//! earlier rows are never played. A newer chunk replaces all rows of the older one: playing what the
//! older one has left after the newer one ends would go back to an older observation.
//! Latency is not estimated anywhere.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

/// What the current plan is: a chunk without its values.
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

/// One action that was played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The tick it was played at.
    pub tick: u64,
    /// Epoch of its chunk.
    pub epoch: u64,
    /// Sequence number of its chunk.
    pub chunk_seq: u64,
    /// The observation that its chunk answers.
    pub obs_seq: u64,
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
    max_horizon: usize,
    plan: Option<Plan>,
    rows: Box<[f32]>,
    log: Box<[Option<Executed>]>,
}

impl Timeline {
    /// A timeline for chunks of up to `max_horizon` rows of `dim` values; remembers the last
    /// `max_horizon` ticks.
    pub fn new(dim: usize, max_horizon: usize) -> Self {
        let values = dim.saturating_mul(max_horizon);
        Self {
            dim,
            max_horizon,
            plan: None,
            rows: vec![0.0; values].into_boxed_slice(),
            log: vec![None; max_horizon.max(1)].into_boxed_slice(),
        }
    }

    /// Replaces the plan. `values` are row-major and at least `plan.horizon * dim`; false, and
    /// nothing changed, if the plan has no rows or more than `max_horizon`.
    pub fn load(&mut self, plan: Plan, values: impl Iterator<Item = f32>) -> bool {
        if plan.horizon == 0 || plan.horizon > self.max_horizon {
            return false;
        }
        for (slot, value) in self.rows.iter_mut().zip(values) {
            *slot = value;
        }
        self.plan = Some(plan);
        true
    }

    /// The current plan.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The row of the plan that belongs to `tick`.
    pub fn index(&self, tick: u64) -> Option<usize> {
        let plan = self.plan.as_ref()?;
        let index = usize::try_from(tick.checked_sub(plan.obs_tick)?).ok()?;
        (index < plan.horizon).then_some(index)
    }

    /// The action `[dim]` of row `index` of the plan.
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        let plan = self.plan.as_ref()?;
        if index >= plan.horizon {
            return None;
        }
        let start = index.checked_mul(self.dim)?;
        self.rows.get(start..start.checked_add(self.dim)?)
    }

    /// Notes that row `index` of the plan was played at `tick`.
    pub fn mark_executed(&mut self, tick: u64, index: usize) {
        let Some(plan) = self.plan else { return };
        let Plan { epoch, chunk_seq, obs_seq, .. } = plan;
        if let Some(slot) = slot_of(tick, self.log.len()).and_then(|i| self.log.get_mut(i)) {
            *slot = Some(Executed { tick, epoch, chunk_seq, obs_seq, index });
        }
    }

    /// What was played at `tick`; `None` if the robot held, or if that was too long ago.
    pub fn executed(&self, tick: u64) -> Option<&Executed> {
        let slot = self.log.get(slot_of(tick, self.log.len())?)?;
        slot.as_ref().filter(|executed| executed.tick == tick)
    }

    /// What an observation taken at `tick` reports.
    pub fn executing(&self, tick: u64) -> Executing {
        match (self.plan, self.index(tick)) {
            (Some(plan), Some(index)) => Executing {
                chunk_seq: plan.chunk_seq,
                index: i32::try_from(index).unwrap_or(i32::MAX),
            },
            _ => Executing::NOTHING,
        }
    }

    /// Forgets the plan; the log stays.
    pub fn clear(&mut self) {
        self.plan = None;
    }

    /// Bytes of memory that this timeline took when it was made.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.rows).saturating_add(size_of_val(&*self.log))
    }
}

fn slot_of(tick: u64, slots: usize) -> Option<usize> {
    usize::try_from(tick.checked_rem(u64::try_from(slots).ok()?)?).ok()
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
        Plan { epoch: 1, chunk_seq, obs_seq: obs_tick + 100, obs_tick, horizon }
    }

    /// Value of row i, column d of chunk c, so that a wrong row shows.
    fn values(chunk: u64, horizon: usize) -> impl Iterator<Item = f32> {
        (0..2 * horizon).map(move |i| (chunk * 1000) as f32 + i as f32)
    }

    #[test]
    fn a_row_belongs_to_its_tick_whenever_the_chunk_comes() {
        let mut line = Timeline::new(2, 8);
        assert_eq!(line.executing(10), Executing::NOTHING);
        assert!(line.load(plan(1, 10, 8), values(1, 8)));
        // The chunk took three ticks to come: row 3 is due, rows 0 to 2 are never played.
        assert_eq!(line.index(13), Some(3));
        assert_eq!(line.row(3), Some(&[1006.0, 1007.0][..]));
        assert_eq!(line.executing(13), Executing { chunk_seq: 1, index: 3 });
        assert_eq!(line.index(9), None, "before the observation");
        assert_eq!(line.index(18), None, "after the last row");
        assert_eq!(line.executing(18), Executing::NOTHING);
    }

    #[test]
    fn a_newer_chunk_leaves_nothing_of_the_older_one() {
        let mut line = Timeline::new(2, 8);
        assert!(line.load(plan(1, 10, 8), values(1, 8)));
        assert!(line.load(plan(2, 12, 3), values(2, 3)));
        for tick in 0..30 {
            let index = line.index(tick);
            assert_eq!(index, (12..15).contains(&tick).then(|| tick as usize - 12));
            if let Some(index) = index {
                assert_eq!(line.row(index).unwrap()[0], 2000.0 + 2.0 * index as f32);
            }
        }
        assert_eq!(line.row(3), None, "the older chunk's values are out of reach");
    }

    #[test]
    fn what_was_played_is_remembered_for_max_horizon_ticks() {
        let mut line = Timeline::new(2, 4);
        assert!(line.load(plan(7, 0, 4), values(7, 4)));
        line.mark_executed(0, 0);
        line.mark_executed(2, 2);
        let got = line.executed(2).copied();
        let want = Executed { tick: 2, epoch: 1, chunk_seq: 7, obs_seq: 100, index: 2 };
        assert_eq!(got, Some(want));
        assert_eq!(line.executed(1), None, "held");
        assert!(line.load(plan(8, 4, 4), values(8, 4)));
        line.mark_executed(4, 0);
        assert_eq!(line.executed(0), None, "its slot was used again");
        assert_eq!(line.executed(4).unwrap().chunk_seq, 8);
    }

    #[test]
    fn a_plan_that_does_not_fit_changes_nothing() {
        let mut line = Timeline::new(2, 4);
        assert!(line.load(plan(1, 0, 4), values(1, 4)));
        let before = line.memory_bytes();
        assert!(!line.load(plan(2, 0, 5), values(2, 5)));
        assert!(!line.load(plan(2, 0, 0), values(2, 0)));
        assert_eq!(line.plan().unwrap().chunk_seq, 1);
        assert_eq!(line.memory_bytes(), before);
        line.clear();
        assert_eq!((line.index(0), line.row(0)), (None, None));
    }

    #[test]
    fn the_largest_ticks_do_not_overflow() {
        let mut line = Timeline::new(2, 4);
        assert!(line.load(plan(1, u64::MAX - 200, 4), values(1, 4)));
        line.mark_executed(u64::MAX, 3);
        assert_eq!(line.index(u64::MAX), None);
        assert_eq!(line.executed(u64::MAX).unwrap().index, 3);
        let mut none = Timeline::new(0, 0);
        assert!(!none.load(plan(1, 0, 1), values(1, 1)));
        none.mark_executed(5, 0);
        assert_eq!(none.executed(5), None);
    }
}
