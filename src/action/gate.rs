//! The gate: nothing reaches the robot but through here.
//!
//! A pure state machine without clock, socket or panic path. The whole chunk is checked when it comes,
//! each action again before it leaves. `gate_laws.rs` proves what [`Gate`] promises on random
//! schedules, and that a gate with any one of its checks removed is caught.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::chunk::ChunkView;
use super::config::{GateConfig, Limit};
use super::counters::{Counters, Reason, Verdict};
use super::limit::{limit, slew};
use super::timeline::{Executed, Executing, Plan, Timeline};
use crate::{Error, Result};

/// Where the gate stands, by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GateState {
    /// No chunk was taken yet; the start position is held.
    Idle,
    /// A chunk is played.
    Run,
    /// The chunk ended, grew too old, or no other came; the last command is held until a new one does.
    Held,
    /// A fault; the last command is held until [`Gate::unlatch`].
    Latched,
}

/// Where a command comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A row of a chunk, limited.
    Chunk(Executed),
    /// The last command, again.
    Hold,
}

impl Source {
    /// Sequence number and row, as the `Action` message has them: 0 and -1 for a hold.
    pub fn executing(&self) -> Executing {
        match self {
            Self::Chunk(executed) => Executing {
                chunk_seq: executed.chunk_seq,
                index: i32::try_from(executed.index).unwrap_or(i32::MAX),
            },
            Self::Hold => Executing::NOTHING,
        }
    }
}

/// What the robot shall do at one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Command<'a> {
    /// The tick that was asked for.
    pub tick: u64,
    /// Position `[dim]`, robot units.
    pub action: &'a [f32],
    /// Where it comes from.
    pub source: Source,
    /// State after this tick.
    pub state: GateState,
    /// True if `max_step` kept the command from reaching the row.
    pub limited: bool,
}

/// One observation of the robot's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    seq: u64,
    tick: u64,
}

/// Stands before the robot. The robot tells it what it observed and when ([`Gate::observed`]), offers
/// what came in ([`Gate::offer`]) and asks once a tick what to do ([`Gate::step`]).
///
/// What it promises, whatever comes in, in whatever order:
///
/// 1. Every command is finite, inside the position limits, and at most `max_step` from the last one.
/// 2. The row that is played is the row of this tick, and the observation that it answers is not
///    older than `max_obs_age`, by the robot's own ticks.
/// 3. The observation answered never gets older from one action to the next; no action of another
///    session, of an earlier epoch or of an earlier episode is played.
/// 4. Without a new valid chunk for `heartbeat` ticks it holds.
/// 5. It takes no memory after [`Gate::new`].
/// 6. Every input ends in exactly one counter.
///
/// Holding means: the last commanded position stays commanded. There is no acceleration limit, so a
/// hold starts at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    config: GateConfig,
    state: GateState,
    timeline: Timeline,
    /// The last command, `[dim]`.
    setpoint: Box<[f32]>,
    /// Own observations; that with sequence number s is at s modulo the length.
    seen: Vec<Option<Seen>>,
    newest: Option<Seen>,
    /// The last chunk taken: epoch, sequence number.
    last: Option<(u64, u64)>,
    /// The observation that it answers.
    last_obs_seq: Option<u64>,
    /// The tick it was taken at.
    accepted_tick: u64,
    stepped: Option<u64>,
    /// The last chunk that was not finite, and how many there were in a row.
    bad: Option<(u64, u64)>,
    bad_in_a_row: u32,
    counters: Counters,
    #[cfg(test)]
    flaw: Option<Flaw>,
}

impl Gate {
    /// A gate for a robot that stands at `position` (`[dim]`, robot units).
    ///
    /// # Errors
    /// [`Error::Invalid`] if a limit is missing, not finite or empty, if another number makes no
    /// sense, or if `position` is not finite or not inside the limits.
    pub fn new(config: GateConfig, position: &[f32]) -> Result<Self> {
        config.check()?;
        let slots = usize::try_from(config.observation_slots()).unwrap_or(1);
        let dim = config.limits.len();
        let mut gate = Self {
            state: GateState::Idle,
            timeline: Timeline::new(dim, config.max_horizon),
            setpoint: vec![0.0; dim].into_boxed_slice(),
            seen: vec![None; slots],
            newest: None,
            last: None,
            last_obs_seq: None,
            accepted_tick: 0,
            stepped: None,
            bad: None,
            bad_in_a_row: 0,
            counters: Counters::default(),
            #[cfg(test)]
            flaw: None,
            config,
        };
        gate.set_position(position)?;
        Ok(gate)
    }

    /// Starts an episode with the robot standing at `position`: the plan and all observations are
    /// forgotten, so that no chunk of the episode before is played. A latched gate stays latched.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `position` is not finite or not inside the limits; nothing changed then.
    pub fn reset(&mut self, position: &[f32]) -> Result<()> {
        self.set_position(position)?;
        if !self.broken(Flaw::EpisodeKept) {
            self.timeline.clear();
            self.seen.fill(None);
        }
        if self.state != GateState::Latched {
            self.state = GateState::Idle;
        }
        Ok(())
    }

    /// Notes an own observation. False, and nothing noted, unless its sequence number is newer and
    /// its tick not older than all before.
    pub fn observed(&mut self, obs_seq: u64, tick: u64) -> bool {
        if self.newest.is_some_and(|n| obs_seq <= n.seq || tick < n.tick) {
            return false;
        }
        let seen = Seen { seq: obs_seq, tick };
        self.newest = Some(seen);
        if self.broken(Flaw::RingGrows) {
            self.seen.push(Some(seen));
        }
        if let Some(slot) = self.slot(obs_seq).and_then(|i| self.seen.get_mut(i)) {
            *slot = Some(seen);
        }
        true
    }

    /// What an observation taken at `tick` reports about the plan.
    pub fn executing(&self, tick: u64) -> Executing {
        self.due(tick).map_or(Executing::NOTHING, |_| self.timeline.executing(tick))
    }

    /// Takes or refuses a chunk that is there at `tick`. A refused chunk changes nothing but its
    /// counter (and, if it is not finite, the count towards latching).
    pub fn offer(&mut self, chunk: &ChunkView<'_>, tick: u64) -> Verdict {
        let verdict = match self.check(chunk, tick) {
            Ok((obs_tick, clamped)) => {
                self.accept(chunk, obs_tick, tick);
                Verdict::Accepted { clamped }
            }
            Err(reason) => {
                if self.broken(Flaw::RefusalTouches) {
                    self.accepted_tick = tick;
                }
                if reason == Reason::NonFinite {
                    self.count_non_finite((chunk.epoch, chunk.seq));
                }
                Verdict::Rejected(reason)
            }
        };
        if verdict.is_accepted() || !self.broken(Flaw::Uncounted) {
            self.counters.count(verdict);
        }
        verdict
    }

    /// Counts an input that was no chunk at all, so that it never got to [`Gate::offer`].
    pub fn refuse(&mut self, reason: Reason) -> Verdict {
        let verdict = Verdict::Rejected(reason);
        self.counters.count(verdict);
        verdict
    }

    /// The command of `tick`. Ticks increase; a tick that is not newer than the last one gets the
    /// last command again.
    pub fn step(&mut self, tick: u64) -> Command<'_> {
        if self.stepped.is_some_and(|last| tick <= last) && !self.broken(Flaw::TickTwice) {
            return self.command(tick, Source::Hold, false);
        }
        self.stepped = Some(tick);
        let Some((plan, index)) = self.due(tick) else {
            if self.state == GateState::Run {
                self.state = GateState::Held;
            }
            if self.broken(Flaw::HoldMoves) {
                self.move_setpoint(0);
            }
            return self.command(tick, Source::Hold, false);
        };
        let index = if self.broken(Flaw::NextRow) { index.saturating_add(1) } else { index };
        let limited = self.move_setpoint(index);
        self.timeline.mark_executed(tick, index);
        self.state = GateState::Run;
        let Plan { epoch, chunk_seq, obs_seq, .. } = plan;
        self.command(
            tick,
            Source::Chunk(Executed { tick, epoch, chunk_seq, obs_seq, index }),
            limited,
        )
    }

    /// Stops for good, until [`Gate::unlatch`]: for an emergency stop or a fault of the robot.
    pub fn latch(&mut self) {
        self.state = GateState::Latched;
        self.timeline.clear();
    }

    /// An operator's reset. The gate holds until a new chunk comes.
    pub fn unlatch(&mut self) {
        if self.state == GateState::Latched {
            self.state = GateState::Held;
            self.bad_in_a_row = 0;
        }
    }

    /// Where the gate stands.
    pub fn state(&self) -> GateState {
        self.state
    }

    /// The last command `[dim]`, robot units.
    pub fn setpoint(&self) -> &[f32] {
        &self.setpoint
    }

    /// What became of every input so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The plan and the log of what was played.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What the gate was made from.
    pub fn config(&self) -> &GateConfig {
        &self.config
    }

    /// Bytes of memory that the gate holds; the same from start to end.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            .saturating_add(self.timeline.memory_bytes())
            .saturating_add(size_of_val(&*self.setpoint))
            .saturating_add(self.seen.capacity().saturating_mul(size_of::<Option<Seen>>()))
            .saturating_add(self.config.limits.capacity().saturating_mul(size_of::<Limit>()))
    }

    /// All checks of a chunk in their order; the observation's tick by the robot's own note, and
    /// the number of values that will be clamped.
    fn check(&self, chunk: &ChunkView<'_>, tick: u64) -> Result<(u64, u32), Reason> {
        if self.state == GateState::Latched {
            return Err(Reason::Latched);
        }
        if chunk.dim != self.config.limits.len() && !self.broken(Flaw::AnyDim) {
            return Err(Reason::WrongDim);
        }
        let fits = (1..=self.config.max_horizon).contains(&chunk.horizon)
            && chunk.horizon.checked_mul(chunk.dim) == Some(chunk.values.len());
        if !fits {
            return Err(Reason::WrongShape);
        }
        if chunk.session != self.config.session && !self.broken(Flaw::AnySession) {
            return Err(Reason::WrongSession);
        }
        let (epoch, seq) = self.last.unwrap_or((chunk.epoch, 0));
        if chunk.epoch < epoch && !self.broken(Flaw::AnyEpoch) {
            return Err(Reason::StaleEpoch);
        }
        let old = chunk.seq == 0 || (chunk.epoch == epoch && chunk.seq <= seq);
        if old && !self.broken(Flaw::AnySequence) {
            return Err(Reason::OldSequence);
        }
        let obs_tick = self.check_observation(chunk, tick)?;
        let clamped = self.check_values(chunk)?;
        Ok((obs_tick, clamped))
    }

    fn check_observation(&self, chunk: &ChunkView<'_>, tick: u64) -> Result<u64, Reason> {
        if self.newest.is_none_or(|newest| chunk.obs_seq > newest.seq) {
            return Err(Reason::FutureObservation);
        }
        let slot = self.slot(chunk.obs_seq).and_then(|i| self.seen.get(i)).copied().flatten();
        let seen = slot.filter(|s| s.seq == chunk.obs_seq).ok_or(Reason::UnknownObservation)?;
        if seen.tick != chunk.obs_tick && !self.broken(Flaw::TrustedTick) {
            return Err(Reason::WrongTick);
        }
        let obs_tick = if self.broken(Flaw::TrustedTick) { chunk.obs_tick } else { seen.tick };
        let age = tick.saturating_sub(seen.tick);
        if age > self.config.max_obs_age && !self.broken(Flaw::AnyAge) {
            return Err(Reason::StaleObservation);
        }
        let older = self.last_obs_seq.is_some_and(|last| chunk.obs_seq < last);
        if older && !self.broken(Flaw::OlderObservation) {
            return Err(Reason::OlderObservation);
        }
        if usize::try_from(age).is_ok_and(|age| age < chunk.horizon) {
            Ok(obs_tick)
        } else {
            Err(Reason::Expired)
        }
    }

    fn check_values(&self, chunk: &ChunkView<'_>) -> Result<u32, Reason> {
        let mut clamped = 0_u32;
        let mut out = false;
        for (value, l) in chunk.values.iter().zip(self.config.limits.iter().cycle()) {
            let Some(inside) = limit(value, l.lo, l.hi) else {
                if self.broken(Flaw::NotFinite) {
                    continue;
                }
                return Err(Reason::NonFinite);
            };
            let excess = (f64::from(value) - f64::from(inside)).abs();
            if excess > 0.0 {
                clamped = clamped.saturating_add(1);
            }
            let range = f64::from(l.hi) - f64::from(l.lo);
            out |= excess > range * f64::from(self.config.overshoot);
        }
        // Only after the loop: a chunk with a NaN anywhere is counted as that.
        if out { Err(Reason::OutOfLimits) } else { Ok(clamped) }
    }

    fn accept(&mut self, chunk: &ChunkView<'_>, obs_tick: u64, tick: u64) {
        let plan = Plan {
            epoch: chunk.epoch,
            chunk_seq: chunk.seq,
            obs_seq: chunk.obs_seq,
            obs_tick,
            horizon: chunk.horizon,
        };
        self.timeline.load(plan, chunk.values.iter());
        self.last = Some((chunk.epoch, chunk.seq));
        self.last_obs_seq = Some(chunk.obs_seq);
        self.accepted_tick = tick;
        self.bad_in_a_row = 0;
    }

    /// Counts chunks that are not finite; a second copy of one does not count again.
    fn count_non_finite(&mut self, id: (u64, u64)) {
        if self.bad.is_some_and(|bad| id <= bad) {
            return;
        }
        self.bad = Some(id);
        self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
        if self.config.latch_after > 0 && self.bad_in_a_row >= self.config.latch_after {
            self.latch();
        }
    }

    /// The plan and its row for `tick`, if that may be played.
    fn due(&self, tick: u64) -> Option<(Plan, usize)> {
        let plan = *self.timeline.plan()?;
        let silent = tick.saturating_sub(self.accepted_tick) > self.config.heartbeat;
        let stale = tick.saturating_sub(plan.obs_tick) > self.config.max_obs_age;
        let silent = silent && !self.broken(Flaw::NoHeartbeat);
        let stale = stale && !self.broken(Flaw::AnyAge);
        if self.state == GateState::Latched || silent || stale {
            return None;
        }
        Some((plan, self.timeline.index(tick)?))
    }

    /// Moves the setpoint to row `index`, as far as the limits allow; true if `max_step` cut it.
    fn move_setpoint(&mut self, index: usize) -> bool {
        let no_limit = self.broken(Flaw::NoLimit);
        let no_step = self.broken(Flaw::NoStep);
        let any = self.broken(Flaw::NotFinite);
        let mut limited = false;
        let row = self.timeline.row(index).unwrap_or(&[]);
        for ((now, l), value) in self.setpoint.iter_mut().zip(&self.config.limits).zip(row) {
            // The chunk was checked when it came: a value that is not finite cannot be here. If it
            // were, the position would be held.
            let target = limit(*value, l.lo, l.hi);
            let target = if no_limit { Some(*value) } else { target };
            let target = if any { target.or(Some(*value)) } else { target };
            let Some(target) = target else { continue };
            let next = match l.velocity {
                Some(max_step) if !no_step => slew(*now, target, max_step),
                _ => target,
            };
            limited |= next != target;
            *now = next;
        }
        limited
    }

    fn command(&self, tick: u64, source: Source, limited: bool) -> Command<'_> {
        Command { tick, action: &self.setpoint, source, state: self.state, limited }
    }

    fn slot(&self, obs_seq: u64) -> Option<usize> {
        usize::try_from(obs_seq.checked_rem(self.config.observation_slots())?).ok()
    }

    fn set_position(&mut self, position: &[f32]) -> Result<()> {
        let limits = &self.config.limits;
        let inside = |(x, l): (&f32, &Limit)| x.is_finite() && l.lo <= *x && *x <= l.hi;
        if position.len() != limits.len() || !position.iter().zip(limits).all(inside) {
            return Err(Error::Invalid(format!(
                "gate: expected a position of {} finite values inside the limits, got {position:?}; \
                 bring the robot inside its limits, or set them right",
                limits.len()
            )));
        }
        self.setpoint.iter_mut().zip(position).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// True if a test took this check out; constant in every other build.
    #[cfg(test)]
    fn broken(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "the test build reads it")]
    const fn broken(&self, _: Flaw) -> bool {
        false
    }

    /// True if only counters differ.
    #[cfg(test)]
    pub(super) fn same_but_counters(&self, other: &Self) -> bool {
        let other = Self { counters: self.counters, ..other.clone() };
        *self == other
    }

    /// A gate that lacks one check, for the test of the tests.
    #[cfg(test)]
    pub(super) fn with_flaw(mut self, flaw: Option<Flaw>) -> Self {
        self.flaw = flaw;
        self
    }
}

/// The check that a broken twin of the gate lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break a gate"))]
pub(super) enum Flaw {
    AnyDim,
    AnySession,
    AnyEpoch,
    AnySequence,
    TrustedTick,
    AnyAge,
    OlderObservation,
    NotFinite,
    NoLimit,
    NoStep,
    NoHeartbeat,
    NextRow,
    TickTwice,
    EpisodeKept,
    RingGrows,
    Uncounted,
    HoldMoves,
    RefusalTouches,
}
