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

mod checks;

use super::chunk::ChunkView;
use super::config::{GateConfig, Limit};
use super::counters::{Counters, Reason, Verdict};
use super::flaw::Flawed;
#[cfg(test)]
use super::joining::Join;
use super::limit::limit;
use super::motion::Axis;
use super::timeline::{Executed, Executing, Timeline};
use crate::{Error, Result};

/// Where the gate stands, by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GateState {
    /// No chunk was taken yet; the start position is held.
    Idle,
    /// A chunk is played.
    Run,
    /// The chunk ended, grew too old, or no other came; the robot slows down inside its limits. What is
    /// left of the chunk is forgotten: only a new one goes on.
    Stopping,
    /// As [`GateState::Stopping`], and it stands still.
    Held,
    /// A fault; the robot slows down inside its limits and stands until [`Gate::unlatch`].
    Latched,
}

/// Where a command comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A row of a chunk, limited.
    Chunk(Executed),
    /// A stop inside the limits, or the last command again.
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

/// What the robot shall do in one command period.
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
    /// True if a limit kept the command from reaching its target.
    pub limited: bool,
}

/// One observation of the robot's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    seq: u64,
    tick: u64,
}

/// Stands before the robot. The robot tells it what it observed and when ([`Gate::observed`]), offers
/// what came in ([`Gate::offer`]) and asks once a command what to do ([`Gate::step_at`]).
///
/// What it promises, whatever comes in, in whatever order:
///
/// 1. Every command is finite and inside the limits of position, velocity, acceleration and jerk, also while
///    the robot stops ([`Limit`]).
/// 2. The row that is played is the row of this tick, and the observation that it answers is not
///    older than `max_obs_age`, by the robot's own ticks. Of a blended row that is the newest observation in it.
/// 3. The observation answered never gets older from one action to the next; no action of another
///    session, of an earlier epoch or of an earlier episode is played.
/// 4. Without a new valid chunk for `heartbeat` ticks it stops, and stands as soon as the limits allow.
/// 5. It takes no memory after [`Gate::new`].
/// 6. Every input ends in exactly one counter.
///
/// A chunk enters at the row that comes after those that were played since its observation: a tick at
/// which the robot stood does not use up a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    config: GateConfig,
    state: GateState,
    timeline: Timeline,
    /// The last command, `[dim]`.
    setpoint: Box<[f32]>,
    /// What moves it.
    axes: Box<[Axis]>,
    /// Where this tick's row begins and ends, `[dim]`; inside the position limits.
    from: Box<[f32]>,
    to: Box<[f32]>,
    /// The row of the last tick that was stepped, if it is played.
    playing: Option<Executed>,
    /// Own observations; that with sequence number s is at s modulo the length.
    seen: Vec<Option<Seen>>,
    newest: Option<Seen>,
    /// The last chunk taken: epoch, sequence number.
    last: Option<(u64, u64)>,
    /// The observation that it answers.
    last_obs_seq: Option<u64>,
    /// The tick it was taken at.
    accepted_tick: u64,
    /// The last command's tick and place in it.
    stepped: Option<(u64, u32)>,
    /// The last chunk that was not finite, and how many there were in a row.
    bad: Option<(u64, u64)>,
    bad_in_a_row: u32,
    counters: Counters,
    flawed: Flawed<Flaw>,
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
            timeline: Timeline::new(
                dim,
                config.max_horizon,
                config.observation_slots(),
                config.join,
            ),
            setpoint: vec![0.0; dim].into_boxed_slice(),
            axes: vec![Axis::default(); dim].into_boxed_slice(),
            from: vec![0.0; dim].into_boxed_slice(),
            to: vec![0.0; dim].into_boxed_slice(),
            playing: None,
            seen: vec![None; slots],
            newest: None,
            last: None,
            last_obs_seq: None,
            accepted_tick: 0,
            stepped: None,
            bad: None,
            bad_in_a_row: 0,
            counters: Counters::default(),
            flawed: Flawed::default(),
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
        if !self.flawed.by(Flaw::EpisodeKept) {
            self.forget();
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
        if self.flawed.by(Flaw::RingGrows) {
            self.seen.push(Some(seen));
        }
        if let Some(slot) = self.slot(obs_seq).and_then(|i| self.seen.get_mut(i)) {
            *slot = Some(seen);
        }
        true
    }

    /// What an observation taken at `tick` reports about the plan.
    pub fn executing(&self, tick: u64) -> Executing {
        self.due(tick).map_or(Executing::NOTHING, |row| Source::Chunk(row).executing())
    }

    /// Takes or refuses a chunk that is there at `tick`. A refused chunk changes nothing but its
    /// counter (and, if it is not finite, the count towards latching).
    pub fn offer(&mut self, chunk: &ChunkView<'_>, tick: u64) -> Verdict {
        let verdict = match self.take(chunk, tick) {
            Ok(clamped) => Verdict::Accepted { clamped },
            Err(reason) => {
                if self.flawed.by(Flaw::RefusalTouches) {
                    self.accepted_tick = tick;
                }
                if reason == Reason::NonFinite {
                    self.count_non_finite((chunk.epoch, chunk.seq));
                }
                Verdict::Rejected(reason)
            }
        };
        if verdict.is_accepted() || !self.flawed.by(Flaw::Uncounted) {
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

    /// The command of `tick`, for a robot that gets one a tick.
    pub fn step(&mut self, tick: u64) -> Command<'_> {
        self.step_at(tick, 0)
    }

    /// Command `sub` of the `commands_per_tick` of `tick`: that share of the way from the row before to the
    /// row of `tick`, as far as the limits allow. Every call is one command period. Ticks, and `sub` within
    /// one, increase; a call that does not gets the last command again.
    pub fn step_at(&mut self, tick: u64, sub: u32) -> Command<'_> {
        let periods = self.config.commands_per_tick;
        let again = sub >= periods || self.stepped.is_some_and(|last| (tick, sub) <= last);
        if again && !self.flawed.by(Flaw::TickTwice) {
            return self.command(tick, Source::Hold, false);
        }
        if self.stepped.is_none_or(|(last, _)| tick != last) {
            self.begin(tick);
        }
        self.stepped = Some((tick, sub));
        let share = f64::from(sub.saturating_add(1)) / f64::from(periods);
        let share = if self.flawed.by(Flaw::NoInterpolation) { 1.0 } else { share };
        let (limited, rests) = self.move_axes(share);
        let (source, state) = match self.playing {
            Some(row) => (Source::Chunk(row), GateState::Run),
            None if self.state == GateState::Idle => (Source::Hold, GateState::Idle),
            None if rests => (Source::Hold, GateState::Held),
            None => (Source::Hold, GateState::Stopping),
        };
        self.state = self.state_or_latched(state);
        self.command(tick, source, limited)
    }

    /// Stops for good, until [`Gate::unlatch`]: for an emergency stop or a fault of the robot.
    pub fn latch(&mut self) {
        self.state = GateState::Latched;
        self.forget();
    }

    /// An operator's reset. The gate holds until a new chunk comes.
    pub fn unlatch(&mut self) {
        if self.state == GateState::Latched {
            let rests = self.axes.iter().all(Axis::rests);
            self.state = if rests { GateState::Held } else { GateState::Stopping };
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
            .saturating_add(size_of_val(&*self.setpoint).saturating_mul(3))
            .saturating_add(size_of_val(&*self.axes))
            .saturating_add(self.seen.capacity().saturating_mul(size_of::<Option<Seen>>()))
            .saturating_add(self.config.limits.capacity().saturating_mul(size_of::<Limit>()))
    }

    /// The row for `tick`, if it may be played.
    fn due(&self, tick: u64) -> Option<Executed> {
        let (row, _) = self.timeline.due(self.planned(tick))?;
        let silent = tick.saturating_sub(self.accepted_tick) > self.config.heartbeat;
        let stale = tick.saturating_sub(row.obs_tick) > self.config.max_obs_age;
        let silent = silent && !self.flawed.by(Flaw::NoHeartbeat);
        let stale = stale && !self.flawed.by(Flaw::AnyAge);
        if self.state == GateState::Latched || silent || stale {
            return None;
        }
        Some(Executed { tick, ..row })
    }

    /// `tick`; a broken twin is one ahead.
    fn planned(&self, tick: u64) -> u64 {
        tick.saturating_add(u64::from(self.flawed.by(Flaw::NextRow)))
    }

    /// The first command of a tick: finds its row. Without one the plan is forgotten, so that only a new
    /// chunk ends the hold.
    fn begin(&mut self, tick: u64) {
        // Exactly where the last row ended, which may be further than the limits let the robot come.
        let last = if self.playing.is_some() { &self.to } else { &self.setpoint };
        self.from.copy_from_slice(last);
        self.playing = self.due(tick);
        let Some(row) = self.playing else {
            if self.flawed.by(Flaw::HoldCounts)
                && let Some((row, _)) = self.timeline.due(tick)
            {
                self.timeline.mark_executed(tick, &row);
            }
            if !self.flawed.by(Flaw::PlanKept) {
                self.timeline.clear();
            }
            return;
        };
        let (no_limit, any) = (self.flawed.by(Flaw::NoLimit), self.flawed.by(Flaw::NotFinite));
        let values = self.timeline.due(self.planned(tick)).map_or(&[][..], |(_, values)| values);
        for (((to, value), l), from) in
            self.to.iter_mut().zip(values).zip(&self.config.limits).zip(&*self.from)
        {
            // The chunk was checked when it came: a value that is not finite cannot be here. If it
            // were, the position would be held.
            let stay = if any { *value } else { *from };
            *to = if no_limit { *value } else { limit(*value, l.lo, l.hi).unwrap_or(stay) };
        }
        self.timeline.mark_executed(tick, &row);
    }

    fn forget(&mut self) {
        self.playing = None;
        self.timeline.clear();
    }

    /// One command period of every axis, towards `share` of the row or towards a stop; whether a limit
    /// cut it, and whether all stand.
    fn move_axes(&mut self, share: f64) -> (bool, bool) {
        let (mut limited, mut rests) = (false, true);
        let plays = self.playing.is_some() || self.flawed.by(Flaw::HoldMoves);
        let (no_limit, any) = (self.flawed.by(Flaw::NoLimit), self.flawed.by(Flaw::NotFinite));
        let at_once = self.playing.is_none() && self.flawed.by(Flaw::HoldAtOnce);
        let targets = self.from.iter().zip(&*self.to);
        let each =
            self.setpoint.iter_mut().zip(&mut *self.axes).zip(&self.config.limits).zip(targets);
        for (((now, axis), l), (from, to)) in each {
            let target = plays.then(|| {
                let (from, to) = (f64::from(*from), f64::from(*to));
                if share < 1.0 { (from + (to - from) * share) as f32 } else { to as f32 }
            });
            if at_once {
                *axis = Axis::at(*now);
            }
            let raw = target.filter(|target| no_limit || any && !target.is_finite());
            *now = raw.unwrap_or_else(|| axis.step(target, l));
            limited |= target.is_some_and(|target| target != *now);
            rests &= axis.rests();
        }
        (limited, rests)
    }

    /// A latched gate stays so, whatever it does.
    fn state_or_latched(&self, state: GateState) -> GateState {
        if self.state == GateState::Latched && !self.flawed.by(Flaw::Unlatches) {
            GateState::Latched
        } else {
            state
        }
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
        for ((now, axis), from) in self.setpoint.iter_mut().zip(&mut *self.axes).zip(position) {
            (*now, *axis) = (*from, Axis::at(*from));
        }
        Ok(())
    }

    /// True if only counters differ, and of a gate that was `faulty` fed what that leads to.
    #[cfg(test)]
    pub(super) fn same_but_counters(&self, before: &Self, faulty: bool) -> bool {
        let mut want = Self { counters: self.counters, ..before.clone() };
        if faulty {
            (want.bad, want.bad_in_a_row) = (self.bad, self.bad_in_a_row);
            if self.state == GateState::Latched {
                want.latch();
            }
        }
        *self == want
    }

    /// A gate that lacks one check, for the test of the tests.
    #[cfg(test)]
    pub(super) fn with_flaw(mut self, flaw: Option<Flaw>) -> Self {
        if flaw == Some(Flaw::JoinsOtherwise) {
            let (dim, c) = (self.config.limits.len(), &self.config);
            let join = if c.join == Join::Replace { Join::Keep } else { Join::Replace };
            self.timeline = Timeline::new(dim, c.max_horizon, c.observation_slots(), join);
        }
        self.flawed = flaw.into();
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
    AnyJump,
    NoLimit,
    NoHeartbeat,
    NextRow,
    NoInterpolation,
    TickTwice,
    EpisodeKept,
    /// Rows that a hold lets pass are skipped as if they were played.
    HoldCounts,
    /// A hold ends without a new chunk.
    PlanKept,
    HoldMoves,
    HoldAtOnce,
    RingGrows,
    Uncounted,
    RefusalTouches,
    JoinsOtherwise,
    /// A fault that heals by itself.
    Unlatches,
    TakesLatched,
}
