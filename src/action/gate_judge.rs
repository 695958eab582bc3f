//! The judge of the gate's laws: what should have been commanded, from its own notes.
//!
//! It notes every observation, every chunk that was taken and every tick at which a row was played, and plans
//! by tick from that alone: a few lines a way of joining, in f64, with no ring and no memory limit. Of the gate
//! it uses the motion of one axis, whose limits a judge of their own watches.

use std::collections::{BTreeMap, BTreeSet};

use super::limit::limit;
use super::motion::Axis;
use super::motion_laws::{MotionJudge, stop_bound};
use super::*;

/// A promise of the gate; the number is that of `field/reliability.md`'s invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// 1: finite, inside the limits of position, velocity, acceleration, jerk.
    Limits,
    /// 2: no older than the greatest age, of this episode.
    Fresh,
    /// The row of this tick, of the way of joining, and the command that it makes.
    Row,
    /// 3: observation, epoch and sequence number go forward.
    Forward,
    /// 3: of this session.
    Session,
    /// 4: a hold begins at the heartbeat,
    Heartbeat,
    /// and is a stop that ends in time.
    Hold,
    /// A hold ends with a new chunk only.
    Resume,
    /// A fault stays.
    Latch,
    /// A chunk that jumps is not taken.
    Jump,
    State,
    /// 5.
    Memory,
    /// 6.
    Counted,
    /// A refused input changes nothing.
    Unchanged,
}

pub(super) type Judged = Result<(), (Law, String)>;

pub(super) fn law(holds: bool, law: Law, say: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err((law, say())) }
}

/// What is planned for a tick: of the newest chunk its id, observation and row; the joined values.
#[derive(Clone, Debug)]
struct Planned {
    id: (u64, u64),
    obs: (u64, u64),
    index: usize,
    values: Vec<f64>,
    /// Weights so far, for the running mean.
    chunks: i32,
}

pub(super) struct Judge {
    c: GateConfig,
    /// Own observations of this episode, and the ticks at which a row was played.
    seen: BTreeMap<u64, u64>,
    played: BTreeSet<u64>,
    plan: BTreeMap<u64, Planned>,
    newest: ((u64, u64), Option<u64>),
    /// A chunk was taken since the hold began.
    fresh: bool,
    last: (u64, (u64, u64)),
    bad: (Option<(u64, u64)>, u32),
    latched: bool,
    idle: bool,
    axes: Vec<Axis>,
    motion: Vec<MotionJudge>,
    from: Vec<f32>,
    to: Vec<f32>,
    playing: Option<Executed>,
    /// The tick that was begun.
    begun: Option<u64>,
    /// Commands of this hold, and how many of them may move.
    hold: Option<(u64, f64)>,
}

impl Judge {
    pub(super) fn new(c: &GateConfig, position: &[f32]) -> Self {
        let mut judge = Self {
            c: c.clone(),
            seen: BTreeMap::new(),
            played: BTreeSet::new(),
            plan: BTreeMap::new(),
            newest: ((0, 0), None),
            fresh: false,
            last: (0, (0, 0)),
            bad: (None, 0),
            latched: false,
            idle: true,
            axes: Vec::new(),
            motion: Vec::new(),
            from: position.to_vec(),
            to: position.to_vec(),
            playing: None,
            begun: None,
            hold: None,
        };
        judge.reset(position);
        judge
    }

    pub(super) fn reset(&mut self, position: &[f32]) {
        self.seen.clear();
        self.plan.clear();
        (self.playing, self.idle) = (None, !self.latched);
        (self.hold, self.fresh) = (None, false);
        self.axes = position.iter().map(|p| Axis::at(*p)).collect();
        self.motion = position.iter().map(|p| MotionJudge::new(*p)).collect();
    }

    pub(super) fn observed(&mut self, obs_seq: u64, tick: u64) {
        self.seen.insert(obs_seq, tick);
    }

    pub(super) fn latch(&mut self) {
        self.latched = true;
        self.plan.clear();
        (self.playing, self.fresh) = (None, false);
    }

    pub(super) fn unlatch(&mut self) {
        if std::mem::take(&mut self.latched) {
            (self.idle, self.bad.1) = (false, 0);
        }
    }

    pub(super) fn offered(&mut self, chunk: &ActionChunk, verdict: Verdict, now: u64) -> Judged {
        let id = (chunk.epoch, chunk.seq);
        if verdict == Verdict::Rejected(Reason::NonFinite) && self.bad.0.is_none_or(|bad| id > bad)
        {
            self.bad = (Some(id), self.bad.1 + 1);
            if self.c.latch_after > 0 && self.bad.1 >= self.c.latch_after {
                self.latch();
            }
        }
        if !verdict.is_accepted() {
            return Ok(());
        }
        law(chunk.session == self.c.session, Law::Session, || format!("{:x}", chunk.session))?;
        law(chunk.dim == self.c.limits.len(), Law::Row, || format!("{} values", chunk.dim))?;
        law(id > self.newest.0, Law::Forward, || format!("{id:?} after {:?}", self.newest.0))?;
        law(!self.latched, Law::Latch, || format!("{id:?} was taken"))?;
        let at = self.seen.get(&chunk.obs_seq).copied();
        let fresh = at.filter(|at| now - at <= self.c.max_obs_age);
        let Some(at) = fresh else {
            return Err((Law::Fresh, format!("observation {} of {at:?} at {now}", chunk.obs_seq)));
        };
        self.newest = (id, Some(now));
        (self.fresh, self.bad.1) = (true, 0);
        // Rows played since the observation are not played again.
        let row = self.played.range(at..now).count();
        for (d, axis) in self.axes.iter().enumerate() {
            let l = &self.c.limits[d];
            let value = chunk.row(row).and_then(|row| row.get(d));
            let to = value.and_then(|v| limit(*v, l.lo, l.hi)).unwrap_or(axis.p as f32);
            let far = (f64::from(to) - f64::from(axis.p as f32)).abs();
            law(l.jump.is_none_or(|jump| far <= f64::from(jump)), Law::Jump, || format!("{far}"))?;
        }
        self.join(chunk, row, (chunk.obs_seq, at), now);
        Ok(())
    }

    /// Enters rows `row`.. of `chunk` from tick `now` on.
    fn join(&mut self, chunk: &ActionChunk, row: usize, obs: (u64, u64), now: u64) {
        let old = self.plan.split_off(&now);
        let end = if let Join::Stop { rows } = self.c.join { rows } else { usize::MAX };
        for index in row..chunk.horizon().min(end) {
            let tick = now + (index - row) as u64;
            let new = || chunk.row(index).unwrap().iter().map(|x| f64::from(*x));
            let mut planned = Planned {
                id: (chunk.epoch, chunk.seq),
                obs,
                index,
                values: new().collect(),
                chunks: 1,
            };
            if let Some(old) = old.get(&tick) {
                let share = match self.c.join {
                    Join::Replace | Join::Stop { .. } => 0.0,
                    Join::Keep => 1.0,
                    Join::Blend { old } => f64::from(old),
                    Join::Ensemble { coefficient } => {
                        // There are as many weights as a chunk can have rows; the last one stands for more.
                        let n = old.chunks.min(self.c.max_horizon as i32 - 1);
                        planned.chunks = old.chunks + 1;
                        let w = |i| f64::exp(-coefficient * f64::from(i));
                        let before: f64 = (0..n).map(w).sum();
                        before / (before + w(n))
                    }
                };
                let each = planned.values.iter_mut().zip(&old.values);
                each.for_each(|(new, old)| *new = share * old + (1.0 - share) * *new);
                if self.c.join == Join::Keep {
                    planned = old.clone();
                }
            }
            self.plan.insert(tick, planned);
        }
        if self.c.join == Join::Keep {
            old.into_iter().for_each(|(tick, planned)| _ = self.plan.insert(tick, planned));
        }
    }

    /// What comes out at `(tick, sub)`; `raw` is the gate's own row of this tick before it was limited.
    pub(super) fn command(
        &mut self,
        (tick, sub): (u64, u32),
        command: (&[f32], Source, GateState),
        raw: Option<&[f32]>,
    ) -> Judged {
        let (action, source, state) = command;
        law(action.len() == self.axes.len(), Law::Limits, || format!("{action:?}"))?;
        for ((x, l), motion) in action.iter().zip(&self.c.limits).zip(&mut self.motion) {
            let broken = motion.see(*x, l);
            law(broken.is_none(), Law::Limits, || format!("{tick}.{sub}: {broken:?} {l:?}"))?;
        }
        if self.begun != Some(tick) {
            self.begin(tick, source, raw)?;
            self.begun = Some(tick);
        }
        let source_now = self.playing.map_or(Source::Hold, Source::Chunk);
        law(source == source_now, Law::Row, || format!("{source:?}, expected {source_now:?}"))?;
        let periods = f64::from(self.c.commands_per_tick);
        let share = f64::from(sub + 1) / periods;
        let mut expected = Vec::new();
        for (d, axis) in self.axes.iter_mut().enumerate() {
            let (from, to) = (f64::from(self.from[d]), f64::from(self.to[d]));
            let target = if share < 1.0 { (from + (to - from) * share) as f32 } else { to as f32 };
            expected.push(axis.step(self.playing.map(|_| target), &self.c.limits[d]));
        }
        let broke = if self.playing.is_some() { Law::Row } else { Law::Hold };
        law(action == expected, broke, || {
            format!("{tick}.{sub}: {action:?}, expected {expected:?} {source:?}")
        })?;
        let rests = self.axes.iter().all(Axis::rests);
        if let Some((commands, bound)) = &mut self.hold {
            *commands += 1;
            let late = !rests && *commands as f64 > *bound;
            law(!late, Law::Hold, || format!("{tick}.{sub}: no rest after {commands} of {bound}"))?;
        }
        let state_now = match self.playing {
            _ if self.latched => GateState::Latched,
            Some(_) => GateState::Run,
            None if self.idle => GateState::Idle,
            None if rests => GateState::Held,
            None => GateState::Stopping,
        };
        law(state == state_now, Law::State, || format!("{state:?}, expected {state_now:?}"))
    }

    /// The row of `tick`, or the begin or the going on of a hold.
    fn begin(&mut self, tick: u64, source: Source, raw: Option<&[f32]>) -> Judged {
        let was_playing = self.playing.is_some();
        let now: Vec<f32> = self.axes.iter().map(|axis| axis.p as f32).collect();
        self.from = if was_playing { self.to.clone() } else { now };
        if let Source::Chunk(x) = source {
            self.judge_row(tick, &x)?;
        }
        let silent = self.newest.1.is_none_or(|at| tick - at > self.c.heartbeat);
        let planned = self
            .plan
            .get(&tick)
            .filter(|p| !silent && !self.latched && tick - p.obs.1 <= self.c.max_obs_age);
        self.playing = planned.map(|p| Executed {
            tick,
            epoch: p.id.0,
            chunk_seq: p.id.1,
            obs_seq: p.obs.0,
            obs_tick: p.obs.1,
            index: p.index,
        });
        let Some(planned) = planned else {
            if self.hold.is_none() {
                self.fresh = false;
                let each = self.axes.iter().zip(&self.c.limits);
                self.hold =
                    Some((0, each.map(|(axis, l)| stop_bound(axis, l)).fold(0.0, f64::max)));
            }
            // A hold forgets what was planned.
            self.plan.clear();
            return Ok(());
        };
        self.hold = None;
        self.idle = false;
        self.played.insert(tick);
        self.last = (planned.obs.0, planned.id);
        // The gate's own f32, if it is what the notes say: so the command can be compared bit by bit.
        let raw = raw.unwrap_or(&[]);
        let near = |(got, want): (&f32, &f64)| {
            let joins = matches!(self.c.join, Join::Blend { .. } | Join::Ensemble { .. });
            let allowed = if joins { 2e-6 * (want.abs() + 1000.0) } else { 0.0 };
            (f64::from(*got) - want).abs() <= allowed
        };
        let same = raw.len() == planned.values.len() && raw.iter().zip(&planned.values).all(near);
        law(same, Law::Row, || format!("tick {tick}: {raw:?}, expected {planned:?}"))?;
        let each = raw.iter().zip(&self.c.limits);
        self.to = each.map(|(x, l)| limit(*x, l.lo, l.hi).unwrap()).collect();
        Ok(())
    }

    /// What holds for a row that is played, whatever the plan.
    fn judge_row(&self, tick: u64, x: &Executed) -> Judged {
        let age = self.seen.get(&x.obs_seq).and_then(|at| tick.checked_sub(*at));
        law(age.is_some_and(|a| a <= self.c.max_obs_age), Law::Fresh, || {
            format!("{x:?}: {age:?}")
        })?;
        let id = (x.epoch, x.chunk_seq);
        let (last_obs, last_id) = self.last;
        law(x.obs_seq >= last_obs && id >= last_id, Law::Forward, || {
            format!("{x:?} after {last_obs} of {last_id:?}")
        })?;
        law(!self.latched, Law::Latch, || format!("{x:?} is played"))?;
        let silent = self.newest.1.map(|at| tick - at);
        law(silent.is_some_and(|s| s <= self.c.heartbeat), Law::Heartbeat, || {
            format!("{x:?}: {silent:?} ticks after the last new chunk")
        })?;
        law(self.fresh, Law::Resume, || format!("{x:?} although no chunk came since the hold"))
    }
}
