//! The checks of a chunk when it comes, in their order; [`Reason`] lists them.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::super::chunk::ChunkView;
use super::super::counters::Reason;
use super::super::limit::limit;
use super::super::timeline::Plan;
use super::{Flaw, Gate, GateState};

impl Gate {
    /// All checks of a chunk in their order, and the chunk into the timeline; the number of values that
    /// were clamped.
    pub(super) fn take(&mut self, chunk: &ChunkView<'_>, tick: u64) -> Result<u32, Reason> {
        if self.state == GateState::Latched && !self.flawed.by(Flaw::TakesLatched) {
            return Err(Reason::Latched);
        }
        if chunk.dim != self.config.limits.len() && !self.flawed.by(Flaw::AnyDim) {
            return Err(Reason::WrongDim);
        }
        let fits = (1..=self.config.max_horizon).contains(&chunk.horizon)
            && chunk.horizon.checked_mul(chunk.dim) == Some(chunk.values.len());
        if !fits {
            return Err(Reason::WrongShape);
        }
        if chunk.session != self.config.session && !self.flawed.by(Flaw::AnySession) {
            return Err(Reason::WrongSession);
        }
        let (epoch, seq) = self.last.unwrap_or((chunk.epoch, 0));
        if chunk.epoch < epoch && !self.flawed.by(Flaw::AnyEpoch) {
            return Err(Reason::StaleEpoch);
        }
        let old = chunk.seq == 0 || (chunk.epoch == epoch && chunk.seq <= seq);
        if old && !self.flawed.by(Flaw::AnySequence) {
            return Err(Reason::OldSequence);
        }
        let (obs_tick, row) = self.check_observation(chunk, tick)?;
        let clamped = self.check_values(chunk)?;
        self.check_jump(chunk, row)?;
        let plan = Plan {
            epoch: chunk.epoch,
            chunk_seq: chunk.seq,
            obs_seq: chunk.obs_seq,
            obs_tick,
            horizon: chunk.horizon,
        };
        // The values go in as they are; each is limited again before it leaves.
        self.timeline.load(plan, tick, chunk.values.iter()).ok_or(Reason::Expired)?;
        self.last = Some((chunk.epoch, chunk.seq));
        self.last_obs_seq = Some(chunk.obs_seq);
        self.accepted_tick = tick;
        self.bad_in_a_row = 0;
        Ok(clamped)
    }

    /// The observation's tick by the robot's own note, and the chunk's row of now.
    fn check_observation(&self, chunk: &ChunkView<'_>, tick: u64) -> Result<(u64, usize), Reason> {
        if self.newest.is_none_or(|newest| chunk.obs_seq > newest.seq) {
            return Err(Reason::FutureObservation);
        }
        let slot = self.slot(chunk.obs_seq).and_then(|i| self.seen.get(i)).copied().flatten();
        let seen = slot.filter(|s| s.seq == chunk.obs_seq).ok_or(Reason::UnknownObservation)?;
        if seen.tick != chunk.obs_tick && !self.flawed.by(Flaw::TrustedTick) {
            return Err(Reason::WrongTick);
        }
        let obs_tick = if self.flawed.by(Flaw::TrustedTick) { chunk.obs_tick } else { seen.tick };
        let age = tick.saturating_sub(seen.tick);
        if age > self.config.max_obs_age && !self.flawed.by(Flaw::AnyAge) {
            return Err(Reason::StaleObservation);
        }
        let older = self.last_obs_seq.is_some_and(|last| chunk.obs_seq < last);
        if older && !self.flawed.by(Flaw::OlderObservation) {
            return Err(Reason::OlderObservation);
        }
        let row = usize::try_from(self.timeline.played(obs_tick, tick));
        row.ok()
            .filter(|row| *row < chunk.horizon)
            .map(|row| (obs_tick, row))
            .ok_or(Reason::Expired)
    }

    fn check_values(&self, chunk: &ChunkView<'_>) -> Result<u32, Reason> {
        let mut clamped = 0_u32;
        let mut out = false;
        for (value, l) in chunk.values.iter().zip(self.config.limits.iter().cycle()) {
            let Some(inside) = limit(value, l.lo, l.hi) else {
                if self.flawed.by(Flaw::NotFinite) {
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

    /// Refuses a chunk whose row of now is too far from where the robot is.
    fn check_jump(&self, chunk: &ChunkView<'_>, row: usize) -> Result<(), Reason> {
        let values = chunk.values.iter().skip(row.saturating_mul(chunk.dim));
        let far = values.zip(&*self.setpoint).zip(&self.config.limits).any(|((value, now), l)| {
            let to = limit(value, l.lo, l.hi).unwrap_or(*now);
            let way = (f64::from(to) - f64::from(*now)).abs();
            l.jump.is_some_and(|jump| way > f64::from(jump))
        });
        if far && !self.flawed.by(Flaw::AnyJump) { Err(Reason::Discontinuous) } else { Ok(()) }
    }

    /// Counts chunks that are not finite; a second copy of one does not count again.
    pub(super) fn count_non_finite(&mut self, id: (u64, u64)) {
        if self.bad.is_some_and(|bad| id <= bad) {
            return;
        }
        self.bad = Some(id);
        self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
        if self.config.latch_after > 0 && self.bad_in_a_row >= self.config.latch_after {
            self.latch();
        }
    }
}
