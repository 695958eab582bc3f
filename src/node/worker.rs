//! The thread that owns the policy: takes one job at a time, infers, stamps the chunk, sends it.
//!
//! A chunk that is not finite is never sent: it is counted as failed, and the robot's own watchdog
//! does the rest. The noise is chosen by (seed, episode, step): the same run gives the same chunks.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::inbox::{Inbox, Job, ObsIdent};
use super::seam::{ChunkPolicy, PolicyInfo, PolicyObs, Request};
use super::status::{Ledger, NodeState};
use crate::action::ActionChunk;
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

/// See the [module](self).
pub(crate) struct Worker {
    pub(crate) policy: Box<dyn ChunkPolicy>,
    pub(crate) info: PolicyInfo,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) publish: Publish,
    pub(crate) seed: u64,
    pub(crate) trace: Option<TraceSink>,
    /// This start of the node; later starts have larger ones.
    pub(crate) epoch: u64,
    /// Sequence number of the last chunk.
    pub(crate) sequence: u64,
}

impl Worker {
    /// Runs the policy on zeros, twice, so that the first real chunk is not the slow one.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        let window = vec![self.info.blank_observation(); self.info.n_obs_steps];
        let request = Request { window, seed: self.seed, continuation: None };
        for _ in 0..2 {
            only(self.policy.infer(std::slice::from_ref(&request), None)?, &self.info)?;
        }
        Ok(())
    }

    /// Works until the inbox is closed.
    pub(crate) fn run(mut self) {
        // A panic in a policy ends the thread; whoever reads the state learns it.
        let ledger = Arc::clone(&self.ledger);
        let _on_exit = OnExit(ledger);
        while let Some(job) = self.inbox.next() {
            self.answer(job);
        }
    }

    fn answer(&mut self, job: Job) {
        let Job { ident, window, received, reply } = job;
        let started = Instant::now();
        let made = self.infer(window, &ident);
        let inference = started.elapsed();
        let sent = made.and_then(|actions| {
            let bytes = self.stamp(&ident, actions, inference)?;
            match reply {
                Some(reply) => {
                    reply(Ok(bytes));
                    Ok(())
                }
                None => (self.publish)(bytes),
            }
        });
        match sent {
            Ok(()) => self.ledger.answered(inference, received.elapsed()),
            Err(error) => {
                tracing::warn!("tick {}: {error}", ident.tick);
                self.ledger.failed(format!("tick {}: {error}", ident.tick));
            }
        }
    }

    fn infer(&mut self, window: Vec<PolicyObs>, ident: &ObsIdent) -> Result<Vec<f32>> {
        let seed = noise_seed(self.seed, ident.episode, ident.step);
        let request = Request { window, seed, continuation: None };
        let sink = self.trace.as_ref().filter(|sink| ident.episode < sink.episodes);
        let Some(sink) = sink else {
            return only(self.policy.infer(&[request], None)?, &self.info);
        };
        let mut states = Vec::with_capacity(self.info.nfe + 1);
        let actions = only(self.policy.infer(&[request], Some(&mut states))?, &self.info)?;
        let trace = ChunkTrace { obs_tick: ident.tick, episode: ident.episode, states };
        // Full or closed: nobody draws.
        let _ = sink.sender.try_send(trace);
        Ok(actions)
    }

    fn stamp(
        &mut self,
        ident: &ObsIdent,
        actions: Vec<f32>,
        inference: Duration,
    ) -> Result<Vec<u8>> {
        self.sequence += 1;
        let message = ActionChunkMsg {
            header: Header { stamp: Time::now(), frame_id: self.info.name.clone() },
            obs_stamp: ident.stamp,
            episode: ident.episode,
            t0: ident.stamp,
            prefix_len: 0,
            nfe: u16::try_from(self.info.nfe).unwrap_or(u16::MAX),
            infer_ms: (inference.as_secs_f64() * 1e3) as f32,
            seed: noise_seed(self.seed, ident.episode, ident.step),
            flags: Flags::default(),
            encode_ms: 0.0,
            queue_ms: 0.0,
            chunk: ActionChunk {
                session: ident.session,
                epoch: self.epoch,
                seq: self.sequence,
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

/// The one chunk of a batch of one, checked.
fn only(mut chunks: Vec<Vec<f32>>, info: &PolicyInfo) -> Result<Vec<f32>> {
    match (chunks.pop(), chunks.len()) {
        (Some(chunk), 0) => check_chunk(&chunk, info).map(|()| chunk),
        _ => Err(Error::Rejected { reason: "policy: expected one chunk for each request".into() }),
    }
}

struct OnExit(Arc<Ledger>);

impl Drop for OnExit {
    fn drop(&mut self) {
        self.0.set_state(NodeState::Stopped);
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
