//! The grid of ticks of a simulated robot, and how well it was kept.

use std::time::{Duration, Instant};

use pathline_sim::pusht::PushT;
use serde::{Deserialize, Serialize};

use super::stop::Stop;

/// Who sets the pace of the ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The policy: every due chunk is waited for.
    Lockstep,
    /// The wall clock, at PushT's 10 Hz.
    Realtime,
}

/// How well the ticks kept their time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cadence {
    /// The rate that was asked for; 0 in lockstep.
    pub target_hz: f64,
    /// Ticks per second that were reached.
    pub rate_hz: f64,
    /// Ticks.
    pub ticks: u64,
    /// Ticks over budget: their command left later than one period after the tick began.
    pub late: u64,
    /// Grid points that were skipped after a late tick.
    pub skipped: u64,
}

/// The grid of ticks.
pub(crate) struct Clock {
    pace: Pace,
    pub(crate) period: Duration,
    pub(crate) tick_start: Instant,
    next: Option<Instant>,
    ticks: u64,
    late: u64,
    skipped: u64,
}

impl Clock {
    pub(crate) fn new(pace: Pace) -> Self {
        let period = Duration::from_secs_f64(1.0 / PushT::CONTROL_HZ);
        let now = Instant::now();
        Self { pace, period, tick_start: now, next: None, ticks: 0, late: 0, skipped: 0 }
    }

    /// Waits for the next tick; true if the run shall stop instead.
    pub(crate) fn wait(&mut self, stop: &Stop) -> bool {
        if self.pace == Pace::Lockstep {
            self.tick_start = Instant::now();
            self.ticks += 1;
            return stop.is_set();
        }
        let now = Instant::now();
        let mut at = self.next.unwrap_or(now);
        // Grid points that passed entirely are skipped: no burst after a late tick.
        while at + self.period <= now {
            at += self.period;
            self.skipped += 1;
        }
        if stop.wait_timeout(at.saturating_duration_since(now)) {
            return true;
        }
        self.tick_start = at;
        self.next = Some(at + self.period);
        self.ticks += 1;
        false
    }

    /// The command of this tick has left.
    pub(crate) fn commanded(&mut self) {
        if self.tick_start.elapsed() > self.period {
            self.late += 1;
        }
    }

    pub(crate) fn cadence(&self, elapsed: Duration) -> Cadence {
        let target_hz = match self.pace {
            Pace::Lockstep => 0.0,
            Pace::Realtime => PushT::CONTROL_HZ,
        };
        Cadence {
            target_hz,
            rate_hz: self.ticks as f64 / elapsed.as_secs_f64().max(1e-9),
            ticks: self.ticks,
            late: self.late,
            skipped: self.skipped,
        }
    }
}
