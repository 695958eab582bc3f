//! Chunks that are held back after they came, to see what a slow policy does.

use std::collections::VecDeque;
use std::time::Instant;

use super::robot::Delay;

/// Bytes that came, and when.
pub(crate) struct Incoming {
    pub(crate) encoding: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) at: Instant,
}

enum Until {
    Tick(u64),
    Time(Instant),
}

/// What is held back, in the order in which it came.
pub(crate) struct Held {
    delay: Delay,
    queue: VecDeque<(Until, Incoming)>,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn new(delay: Delay) -> Self {
        Self { delay, queue: VecDeque::new() }
    }

    /// Takes what answers the observation of `tick`.
    pub(crate) fn push(&mut self, tick: u64, incoming: Incoming) {
        let until = match self.delay {
            Delay::None => Until::Tick(0),
            Delay::Ticks(n) => Until::Tick(tick.saturating_add(n)),
            Delay::Wall(delay) => Until::Time(incoming.at + delay),
        };
        self.queue.push_back((until, incoming));
    }

    /// The next that was held long enough.
    pub(crate) fn pop(&mut self, tick: u64, now: Instant) -> Option<Incoming> {
        let due = match self.queue.front()?.0 {
            Until::Tick(at) => at <= tick,
            Until::Time(at) => at <= now,
        };
        if !due {
            return None;
        }
        self.queue.pop_front().map(|(_, incoming)| incoming)
    }

    /// When the next one is due by the clock; none if no clock decides.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        match self.queue.front() {
            Some((Until::Time(at), _)) => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn came(at: Instant) -> Incoming {
        Incoming { encoding: String::new(), bytes: Vec::new(), at }
    }

    #[test]
    fn a_chunk_is_held_for_ticks_or_for_time() {
        let now = Instant::now();
        let later = now + Duration::from_millis(30);
        let mut held = Held::new(Delay::Ticks(3));
        held.push(8, came(now));
        assert!(held.pop(10, later).is_none() && held.next_time().is_none());
        assert!(held.pop(11, now).is_some() && held.is_empty());
        let mut held = Held::new(Delay::Wall(Duration::from_millis(30)));
        held.push(8, came(now));
        assert_eq!(held.next_time(), Some(later));
        assert!(held.pop(100, now).is_none());
        assert!(held.pop(8, later).is_some());
        let mut held = Held::new(Delay::None);
        held.push(8, came(later));
        assert!(held.pop(0, now).is_some());
    }
}
