//! The last observations of one (session, episode), kept by tick; pure.
//!
//! Rules: the newest observation decides. A policy with n steps of history sees the ticks
//! k−n+1 … k. A tick that never came is filled with the observation before it, or, at the old end
//! of the window, by repeating the oldest one there is: what LeRobot's queues do at the start of an
//! episode. A new episode starts empty. Observations of another run are refused while the current
//! run is alive; a robot that restarts says so with `policy/reset`, or is adopted once the old run
//! has been silent for [`SESSION_SILENCE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::seam::PolicyObs;

/// A run that has been silent for this long may be replaced by another.
pub(crate) const SESSION_SILENCE: Duration = Duration::from_secs(1);

/// What became of an observation at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is the newest now.
    Stored,
    /// This tick is known already.
    Duplicate,
    /// Its tick or episode is older than the newest.
    OutOfOrder,
    /// It belongs to another run while the current one is alive.
    OtherSession,
}

/// The history of one (session, episode).
#[derive(Debug)]
pub(crate) struct History {
    n_obs_steps: usize,
    /// Session and episode; none before the first observation.
    owner: Option<(u64, u32)>,
    last_seen: Option<Instant>,
    /// Oldest first; at most `n_obs_steps`.
    ring: VecDeque<(u64, PolicyObs)>,
}

impl History {
    /// An empty history for a policy that sees `n_obs_steps` observations.
    pub(crate) fn new(n_obs_steps: usize) -> Self {
        Self {
            n_obs_steps,
            owner: None,
            last_seen: None,
            ring: VecDeque::with_capacity(n_obs_steps + 1),
        }
    }

    /// Forgets everything; the next observation of any session is adopted.
    pub(crate) fn reset(&mut self) {
        self.owner = None;
        self.last_seen = None;
        self.ring.clear();
    }

    /// Offers an observation that arrived at `now`.
    pub(crate) fn push(
        &mut self,
        session: u64,
        episode: u32,
        tick: u64,
        obs: PolicyObs,
        now: Instant,
    ) -> Admission {
        if let Some((current, current_episode)) = self.owner {
            if current != session {
                let silent =
                    self.last_seen.is_none_or(|seen| now.duration_since(seen) >= SESSION_SILENCE);
                if !silent {
                    return Admission::OtherSession;
                }
                self.ring.clear();
            } else if episode < current_episode {
                return Admission::OutOfOrder;
            } else if let Some((newest, _)) = self.ring.back() {
                if tick == *newest {
                    return Admission::Duplicate;
                }
                if tick < *newest {
                    return Admission::OutOfOrder;
                }
                if episode > current_episode {
                    self.ring.clear();
                }
            }
        }
        self.owner = Some((session, episode));
        self.last_seen = Some(now);
        self.ring.push_back((tick, obs));
        while self.ring.len() > self.n_obs_steps {
            self.ring.pop_front();
        }
        Admission::Stored
    }

    /// Whether `tick` of this run is the newest observation.
    pub(crate) fn is_newest(&self, session: u64, episode: u32, tick: u64) -> bool {
        self.owner == Some((session, episode))
            && self.ring.back().is_some_and(|(newest, _)| *newest == tick)
    }

    /// The `n_obs_steps` observations that end at the newest, oldest first; empty before the first.
    pub(crate) fn window(&self) -> Vec<PolicyObs> {
        let Some((newest, _)) = self.ring.back() else { return Vec::new() };
        let first = newest.saturating_sub(self.n_obs_steps as u64 - 1);
        // Observations before the window do not fill it: they may be many ticks old.
        let mut inside = self.ring.iter().filter(|(tick, _)| *tick >= first).peekable();
        let Some((_, oldest)) = inside.peek().copied() else { return Vec::new() };
        let mut held = oldest;
        let mut window = Vec::with_capacity(self.n_obs_steps);
        // At the very start k < n−1: the missing ticks before 0 repeat the oldest as well.
        let missing = self.n_obs_steps as u64 - (newest - first + 1);
        for _ in 0..missing {
            window.push(oldest.clone());
        }
        for tick in first..=*newest {
            if let Some((_, obs)) = inside.next_if(|(at, _)| *at == tick) {
                held = obs;
            }
            window.push(held.clone());
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obs(value: f32) -> PolicyObs {
        PolicyObs { state: vec![value], ..PolicyObs::default() }
    }

    fn values(history: &History) -> Vec<f32> {
        history.window().iter().map(|o| o.state[0]).collect()
    }

    #[test]
    fn the_first_observation_is_repeated() {
        let mut history = History::new(3);
        assert!(history.window().is_empty());
        let now = Instant::now();
        assert_eq!(history.push(1, 0, 0, obs(0.0), now), Admission::Stored);
        assert_eq!(values(&history), [0.0, 0.0, 0.0]);
        history.push(1, 0, 1, obs(1.0), now);
        assert_eq!(values(&history), [0.0, 0.0, 1.0]);
        history.push(1, 0, 2, obs(2.0), now);
        history.push(1, 0, 3, obs(3.0), now);
        assert_eq!(values(&history), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_gap_is_held_inside_and_padded_at_the_old_end() {
        let now = Instant::now();
        let mut history = History::new(3);
        history.push(1, 0, 10, obs(10.0), now);
        history.push(1, 0, 12, obs(12.0), now);
        assert_eq!(values(&history), [10.0, 10.0, 12.0]);
        history.push(1, 0, 20, obs(20.0), now);
        assert_eq!(values(&history), [20.0, 20.0, 20.0]);
    }

    #[test]
    fn order_session_and_episode_are_checked() {
        let now = Instant::now();
        let mut history = History::new(2);
        history.push(1, 3, 5, obs(5.0), now);
        assert_eq!(history.push(1, 3, 5, obs(0.0), now), Admission::Duplicate);
        assert_eq!(history.push(1, 3, 4, obs(0.0), now), Admission::OutOfOrder);
        assert_eq!(history.push(1, 2, 6, obs(0.0), now), Admission::OutOfOrder);
        assert_eq!(history.push(2, 3, 6, obs(0.0), now), Admission::OtherSession);
        assert_eq!(values(&history), [5.0, 5.0], "a refused observation left a trace");
        assert_eq!(history.push(1, 4, 6, obs(6.0), now), Admission::Stored);
        assert_eq!(values(&history), [6.0, 6.0], "the old episode leaked into the new one");
    }

    #[test]
    fn another_run_is_adopted_after_silence_or_reset() {
        let now = Instant::now();
        let mut history = History::new(1);
        history.push(1, 0, 5, obs(5.0), now);
        let later = now + SESSION_SILENCE;
        assert_eq!(history.push(2, 0, 0, obs(7.0), later), Admission::Stored);
        assert!(history.is_newest(2, 0, 0));
        assert_eq!(history.push(1, 0, 6, obs(8.0), later), Admission::OtherSession);
        history.reset();
        assert_eq!(history.push(1, 0, 6, obs(8.0), later), Admission::Stored);
    }
}
