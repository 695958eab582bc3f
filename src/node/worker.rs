//! The thread that owns the policy: takes what waits as one batch, infers, stamps the chunks, sends them.
//!
//! If a batch fails, each of its requests is tried alone, so that one robot's input costs no other its
//! chunk. A chunk that is not finite is never sent: it is counted as failed, and the robot's own watchdog
//! does the rest. The noise is chosen by (seed, episode, step), and batches do not change a chunk: the
//! same run gives the same chunks, whoever else is served.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::batch::{Bell, gather};
use super::inbox::{Inbox, Job, ObsIdent, Reply};
use super::seam::{ChunkPolicy, PolicyInfo, Request};
use super::status::{Calls, Ledger, NodeState};
use crate::action::{ActionChunk, Continuation};
use crate::wire::{ActionChunkMsg, Flags, Header, Time};
use crate::{Error, Result};

/// A chunk with the states that its sampler went through, for pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkTrace {
    /// The tick that the chunk answers.
    pub obs_tick: u64,
    /// Its episode.
    pub episode: u32,
    /// The state after every solver step, `[horizon * action_dim]` each, from noise to the action.
    pub states: Vec<Vec<f32>>,
}

/// Where traces go, and for which episodes.
#[derive(Debug, Clone)]
pub struct TraceSink {
    /// Traces are dropped when this is full: pictures never slow a policy down.
    pub sender: SyncSender<ChunkTrace>,
    /// Only episodes below this number are traced.
    pub episodes: u32,
}

/// Sends the bytes of one chunk.
pub(crate) type Publish = Box<dyn FnMut(Vec<u8>) -> Result<()> + Send>;

/// One robot's place at the worker: its door, its books, where its chunks go.
pub(crate) struct Seat {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) publish: Publish,
    /// Sequence number of its last chunk.
    pub(crate) sequence: u64,
}

/// See the [module](self).
pub(crate) struct Worker {
    pub(crate) policy: Box<dyn ChunkPolicy>,
    pub(crate) info: PolicyInfo,
    pub(crate) seats: Vec<Seat>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) seed: u64,
    pub(crate) trace: Option<TraceSink>,
    /// This start of the node; later starts have larger ones.
    pub(crate) epoch: u64,
}

/// What is left of a job while the policy has its request.
struct Ticket {
    seat: usize,
    ident: ObsIdent,
    received: Instant,
    reply: Option<Reply>,
    /// Rows that the new chunk has in common with what is being played.
    frozen: usize,
}

/// How long a chunk took.
#[derive(Clone, Copy)]
struct Took {
    queue: Duration,
    encode: Duration,
    inference: Duration,
}

impl Worker {
    /// Runs the policy on zeros, twice, so that the first real chunk is not the slow one.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        let window = vec![self.info.blank_observation(); self.info.n_obs_steps];
        let requests = [Request { window, seed: self.seed, continuation: None }];
        for _ in 0..2 {
            for chunk in one_each(self.policy.infer(&requests, None)?, &requests)? {
                check_chunk(&chunk, &self.info)?;
            }
        }
        Ok(())
    }

    /// Works until the bell is closed.
    pub(crate) fn run(mut self) {
        // A panic in a policy ends the thread; whoever reads the state learns it.
        let _on_exit = OnExit(self.seats.iter().map(|seat| Arc::clone(&seat.ledger)).collect());
        let (mut heard, mut turn) = (0, 0);
        while let Some(rung) = self.bell.wait(heard) {
            let doors: Vec<&Inbox> = self.seats.iter().map(|seat| &*seat.inbox).collect();
            let batch = gather(&doors, &mut turn);
            if batch.is_empty() {
                heard = rung;
            } else {
                self.answer(batch);
            }
        }
    }

    fn answer(&mut self, batch: Vec<(usize, Job)>) {
        let started = Instant::now();
        let mut requests = Vec::with_capacity(batch.len());
        let mut tickets = Vec::with_capacity(batch.len());
        for (seat, Job { ident, window, continuation, received, reply }) in batch {
            let frozen = self.frozen(continuation.as_ref());
            let seed = noise_seed(self.seed, ident.episode, ident.step);
            requests.push(Request { window, seed, continuation });
            tickets.push(Ticket { seat, ident, received, reply, frozen });
        }
        match self.infer(&requests, &tickets) {
            Err(error) if requests.len() > 1 => {
                tracing::warn!("a batch of {}: {error}; each alone", requests.len());
                for (request, ticket) in requests.into_iter().zip(tickets) {
                    let alone = [request];
                    let begun = Instant::now();
                    let made = self.infer(&alone, std::slice::from_ref(&ticket));
                    let chunk = made.map(|chunks| chunks.concat());
                    self.finish(ticket, chunk, started, begun.elapsed());
                }
            }
            Err(error) => {
                let mut error = Some(error);
                for ticket in tickets {
                    let error = error.take().unwrap_or_else(no_chunk);
                    self.finish(ticket, Err(error), started, started.elapsed());
                }
            }
            Ok(chunks) => {
                let inference = started.elapsed();
                for (ticket, chunk) in tickets.into_iter().zip(chunks) {
                    self.finish(ticket, Ok(chunk), started, inference);
                }
            }
        }
    }

    /// Rows at the front that the policy keeps as they are.
    fn frozen(&self, continuation: Option<&Continuation>) -> usize {
        let Some(continuation) = continuation else { return 0 };
        if self.info.joining.mode.form().is_none() {
            return 0;
        }
        let rows = continuation.left_over.len() / self.info.action_dim;
        continuation.delay.min(rows).min(self.info.horizon)
    }

    /// A chunk for each request, not checked yet. The first one is traced if somebody draws it.
    fn infer(&mut self, requests: &[Request], tickets: &[Ticket]) -> Result<Vec<Vec<f32>>> {
        self.calls.add(requests.len());
        let drawn = |sink: &&TraceSink| {
            tickets.first().is_some_and(|t| t.seat == 0 && t.ident.episode < sink.episodes)
        };
        let (Some(sink), Some(first)) = (self.trace.as_ref().filter(drawn), tickets.first()) else {
            return one_each(self.policy.infer(requests, None)?, requests);
        };
        let mut states = Vec::with_capacity(self.info.nfe + 1);
        let chunks = one_each(self.policy.infer(requests, Some(&mut states))?, requests)?;
        let ObsIdent { tick, episode, .. } = first.ident;
        // Full or closed: nobody draws.
        let _ = sink.sender.try_send(ChunkTrace { obs_tick: tick, episode, states });
        Ok(chunks)
    }

    /// Sends a chunk, or says why there is none.
    fn finish(
        &mut self,
        ticket: Ticket,
        made: Result<Vec<f32>>,
        started: Instant,
        inference: Duration,
    ) {
        let Ticket { seat, ident, received, reply, frozen } = ticket;
        let encode = self.policy.timings().encode.min(inference);
        let queue = started.saturating_duration_since(received);
        let took = Took { queue, encode, inference };
        let made = made.and_then(|actions| {
            check_chunk(&actions, &self.info)?;
            self.stamp(seat, &ident, actions, frozen, took)
        });
        let Some(seat) = self.seats.get_mut(seat) else { return };
        let sent = match (made, reply) {
            (Ok(bytes), None) => (seat.publish)(bytes),
            (Ok(bytes), Some(reply)) => {
                reply(Ok(bytes));
                Ok(())
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(reply)) => {
                reply(Err(error.to_string()));
                Err(error)
            }
        };
        match sent {
            Ok(()) => seat.ledger.answered(inference, received.elapsed()),
            Err(error) => {
                tracing::warn!("tick {}: {error}", ident.tick);
                seat.ledger.failed(format!("tick {}: {error}", ident.tick));
            }
        }
    }

    fn stamp(
        &mut self,
        seat: usize,
        ident: &ObsIdent,
        actions: Vec<f32>,
        frozen: usize,
        took: Took,
    ) -> Result<Vec<u8>> {
        let seat = self.seats.get_mut(seat).ok_or_else(no_chunk)?;
        seat.sequence += 1;
        let millis = |time: Duration| (time.as_secs_f64() * 1e3) as f32;
        let message = ActionChunkMsg {
            header: Header { stamp: Time::now(), frame_id: self.info.name.clone() },
            obs_stamp: ident.stamp,
            episode: ident.episode,
            t0: ident.stamp,
            prefix_len: u16::try_from(frozen).unwrap_or(u16::MAX),
            nfe: u16::try_from(self.info.nfe).unwrap_or(u16::MAX),
            infer_ms: millis(took.inference),
            seed: noise_seed(self.seed, ident.episode, ident.step),
            flags: Flags::default(),
            encode_ms: millis(took.encode),
            queue_ms: millis(took.queue),
            chunk: ActionChunk {
                session: ident.session,
                epoch: self.epoch,
                seq: seat.sequence,
                obs_seq: ident.seq,
                obs_tick: ident.tick,
                dt: Duration::from_secs_f64(1.0 / self.info.fps),
                dim: self.info.action_dim,
                actions,
            },
        };
        message.encode()
    }
}

fn no_chunk() -> Error {
    Error::Rejected { reason: "policy: expected a chunk for each request".to_owned() }
}

fn one_each(chunks: Vec<Vec<f32>>, requests: &[Request]) -> Result<Vec<Vec<f32>>> {
    if chunks.len() == requests.len() { Ok(chunks) } else { Err(no_chunk()) }
}

struct OnExit(Vec<Arc<Ledger>>);

impl Drop for OnExit {
    fn drop(&mut self) {
        self.0.iter().for_each(|ledger| ledger.set_state(NodeState::Stopped));
    }
}

fn check_chunk(actions: &[f32], info: &PolicyInfo) -> Result<()> {
    let want = info.horizon * info.action_dim;
    if actions.len() != want {
        return Err(Error::Rejected {
            reason: format!(
                "policy: expected {} x {} actions, got {} values",
                info.horizon,
                info.action_dim,
                actions.len()
            ),
        });
    }
    match actions.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::Rejected {
            reason: format!("policy: action row {} is not finite", at / info.action_dim),
        }),
        None => Ok(()),
    }
}

/// Mixes the run's seed with the place in the run (SplitMix64's finaliser, Steele et al. 2014).
fn noise_seed(seed: u64, episode: u32, step: u32) -> u64 {
    let place = (u64::from(episode) << 32) | u64::from(step);
    let mut z = seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::ServoPolicy;

    #[test]
    fn noise_differs_by_place_and_repeats() {
        let seeds: Vec<u64> =
            (0..4).flat_map(|e| (0..4).map(move |s| noise_seed(7, e, s))).collect();
        let mut unique = seeds.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), seeds.len());
        assert_eq!(noise_seed(7, 3, 3), seeds[15]);
    }

    #[test]
    fn a_chunk_is_checked_whole() {
        let info = ServoPolicy::pusht().info();
        let good = vec![0.0; info.horizon * info.action_dim];
        check_chunk(&good, &info).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = f32::NAN;
            assert!(check_chunk(&bad, &info).is_err(), "NaN at {at} passed");
        }
        assert!(check_chunk(&good[1..], &info).is_err());
    }
}
