//! What waits at the doors of all robots, as one batch for the policy.
//!
//! Everything that waits goes through the network together: the observations that were put first, one a
//! robot at most, then requests, one a robot in turn, up to [`MAX_BATCH`]. So nobody starves: every batch
//! has every robot's observation, and a robot with many requests gets no second one before each of the
//! others had a first.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::inbox::{Inbox, Job};

/// Most chunks of one batch, unless more robots than that have an observation waiting.
pub(crate) const MAX_BATCH: usize = 32;

/// Wakes the worker: counts rings, so that none is missed between two looks.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<Rung>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    times: u64,
    closed: bool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something waits.
    pub(crate) fn ring(&self) {
        self.lock().times += 1;
        self.wake.notify_all();
    }

    /// Ends [`Bell::wait`].
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Waits until it rang more than `heard` times; how often it did, or none once it is closed.
    pub(crate) fn wait(&self, heard: u64) -> Option<u64> {
        let quiet = |rung: &mut Rung| !rung.closed && rung.times == heard;
        let rung = self.wake.wait_while(self.lock(), quiet).unwrap_or_else(PoisonError::into_inner);
        (!rung.closed).then_some(rung.times)
    }
}

/// All that waits at `doors`, with the number of the door; `turn` says whose request comes first and
/// moves on.
pub(crate) fn gather(doors: &[&Inbox], turn: &mut usize) -> Vec<(usize, Job)> {
    let due = |(robot, door): (usize, &&Inbox)| door.take_due().map(|job| (robot, job));
    let mut batch: Vec<_> = doors.iter().enumerate().filter_map(due).collect();
    let mut idle = 0;
    while batch.len() < MAX_BATCH && idle < doors.len() {
        let robot = *turn % doors.len();
        *turn = robot + 1;
        match doors.get(robot).and_then(|door| door.take_request()) {
            Some(job) => {
                batch.push((robot, job));
                idle = 0;
            }
            None => idle += 1,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::node::seam::ChunkPolicy;
    use crate::node::status::{Calls, Ledger};
    use crate::node::testing::ServoPolicy;
    use crate::wire::{OBSERVATION, Observation};

    fn door() -> (Inbox, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::new(Arc::new(Calls::default())).unwrap());
        let info = ServoPolicy::pusht().info();
        (Inbox::new(info, Arc::clone(&ledger), Arc::new(Bell::default())), ledger)
    }

    fn seen(tick: u64) -> Vec<u8> {
        let observation = Observation {
            session: 1,
            tick,
            seq: tick + 1,
            state: vec![0.0; 2],
            environment_state: vec![0.0; 16],
            ..Observation::default()
        };
        observation.encode().unwrap()
    }

    fn put(door: &Inbox, tick: u64) {
        door.offer(OBSERVATION.encoding, &seen(tick), Instant::now());
    }

    fn ask(door: &Inbox, tick: u64) {
        door.request(OBSERVATION.encoding, &seen(tick), Instant::now(), Box::new(|_| {}));
    }

    fn who(batch: &[(usize, Job)]) -> Vec<(usize, u64, bool)> {
        batch.iter().map(|(robot, job)| (*robot, job.ident.tick, job.reply.is_some())).collect()
    }

    #[test]
    fn observations_come_first_and_the_newest_wins() {
        let ((a, books), (b, _)) = (door(), door());
        ask(&b, 7);
        put(&a, 1);
        put(&a, 2);
        put(&b, 9);
        let mut turn = 0;
        let batch = gather(&[&a, &b], &mut turn);
        assert_eq!(who(&batch), [(0, 2, false), (1, 9, false), (1, 7, true)]);
        assert_eq!(books.report(false).counters.superseded, 1);
        assert!(gather(&[&a, &b], &mut turn).is_empty());
    }

    #[test]
    fn a_robot_with_many_requests_starves_nobody() {
        let doors: Vec<Inbox> = (0..3).map(|_| door().0).collect();
        let all: Vec<&Inbox> = doors.iter().collect();
        let mut turn = 0;
        // Fourteen requests of each: more than a batch takes.
        for tick in 0..14 {
            doors.iter().for_each(|door| ask(door, tick));
        }
        put(&doors[2], 50);
        let batch = gather(&all, &mut turn);
        assert_eq!(batch.len(), MAX_BATCH);
        assert_eq!(who(&batch)[0], (2, 50, false));
        let of = |batch: &[(usize, Job)], robot| batch.iter().filter(|(r, _)| *r == robot).count();
        assert_eq!([0, 1, 2].map(|robot| of(&batch, robot)), [11, 10, 11]);
        let rest = gather(&all, &mut turn);
        assert_eq!([0, 1, 2].map(|robot| of(&rest, robot)), [3, 4, 4], "whose turn it was goes on");
    }

    #[test]
    fn no_ring_is_missed() {
        let bell = Bell::default();
        bell.ring();
        assert_eq!(bell.wait(0), Some(1), "a ring before the wait counts");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bell.wait(1));
            bell.ring();
            assert_eq!(waiting.join().unwrap(), Some(2));
            let waiting = scope.spawn(|| bell.wait(2));
            bell.close();
            assert_eq!(waiting.join().unwrap(), None);
        });
        assert_eq!(bell.wait(0), None, "closed for good");
    }
}
