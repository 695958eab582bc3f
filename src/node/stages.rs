//! Where the time between an observation and its action goes.
//!
//! ```text
//! observe ─► transfer ─► queue ─► encode ─► integrate ─► transfer ─► the gate
//! robot      bus         policy node: waiting, network    bus
//! ```
//! The robot's clock measures the whole way, the policy node its own share on its own clock; no two clocks
//! are compared. What is left of the way is transfer. The names are those of LeRobot's cadence report.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::{Latency, LatencySummary};
use crate::Result;
use crate::wire::ActionChunkMsg;

/// What the robot measured, on its own clock.
#[derive(Debug, Clone)]
pub struct LinkLatency {
    /// Looking, and putting what was seen.
    pub observe: Latency,
    /// From the observations to the policy's context, as the chunks report it.
    pub encode: Latency,
    /// The solver, as the chunks report it.
    pub integrate: Latency,
    /// From putting an observation to having its chunk, less what the policy node reports.
    pub transfer: Latency,
    /// An observation's wait before its inference, as the chunks report it.
    pub queue: Latency,
    /// Inference as the chunks report it: encode and integrate.
    pub inference: Latency,
    /// From putting an observation to having its chunk, less the reported inference.
    pub overhead: Latency,
    /// From putting an observation to commanding the first row of its chunk.
    pub end_to_end: Latency,
}

/// Percentiles of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stages {
    /// Looking, and putting what was seen.
    pub observe: LatencySummary,
    /// From the observations to the policy's context; empty if the policy does not say.
    pub encode: LatencySummary,
    /// The solver; all of the inference if the policy does not say what encoding took.
    pub integrate: LatencySummary,
    /// On the way, both ways.
    pub transfer: LatencySummary,
    /// Waiting for the policy.
    pub queue: LatencySummary,
}

impl LinkLatency {
    /// Empty.
    ///
    /// # Errors
    /// As [`Latency::new`].
    pub fn new() -> Result<Self> {
        let empty = Latency::new()?;
        Ok(Self {
            observe: empty.clone(),
            encode: empty.clone(),
            integrate: empty.clone(),
            transfer: empty.clone(),
            queue: empty.clone(),
            inference: empty.clone(),
            overhead: empty.clone(),
            end_to_end: empty,
        })
    }

    /// Counts a chunk that came `way` after its observation was put.
    pub(crate) fn answered(&mut self, message: &ActionChunkMsg, way: Duration) {
        let millis = |ms: f32| Duration::try_from_secs_f32(ms / 1e3).unwrap_or_default();
        let inference = millis(message.infer_ms);
        let encode = millis(message.encode_ms).min(inference);
        let queue = millis(message.queue_ms);
        self.inference.record(inference);
        self.overhead.record(way.saturating_sub(inference));
        if encode > Duration::ZERO {
            self.encode.record(encode);
        }
        self.integrate.record(inference.saturating_sub(encode));
        self.queue.record(queue);
        self.transfer.record(way.saturating_sub(inference).saturating_sub(queue));
    }

    /// Adds all samples of another.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.observe, &other.observe),
            (&mut self.encode, &other.encode),
            (&mut self.integrate, &other.integrate),
            (&mut self.transfer, &other.transfer),
            (&mut self.queue, &other.queue),
            (&mut self.inference, &other.inference),
            (&mut self.overhead, &other.overhead),
            (&mut self.end_to_end, &other.end_to_end),
        ] {
            sum.merge(more);
        }
    }

    /// Percentiles of each stage.
    pub fn stages(&self) -> Stages {
        Stages {
            observe: self.observe.summary(),
            encode: self.encode.summary(),
            integrate: self.integrate.summary(),
            transfer: self.transfer.summary(),
            queue: self.queue.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ActionChunk;
    use crate::wire::{Flags, Header, Time};

    fn chunk(infer_ms: f32, encode_ms: f32, queue_ms: f32) -> ActionChunkMsg {
        ActionChunkMsg {
            header: Header::default(),
            obs_stamp: Time::default(),
            episode: 0,
            t0: Time::default(),
            prefix_len: 0,
            nfe: 1,
            infer_ms,
            seed: 0,
            flags: Flags::default(),
            encode_ms,
            queue_ms,
            chunk: ActionChunk {
                session: 1,
                epoch: 1,
                seq: 1,
                obs_seq: 1,
                obs_tick: 0,
                dt: Duration::from_millis(100),
                dim: 1,
                actions: vec![0.0],
            },
        }
    }

    #[test]
    fn the_stages_are_the_way() {
        let mut latency = LinkLatency::new().unwrap();
        latency.answered(&chunk(20.0, 5.0, 7.0), Duration::from_millis(40));
        let stages = latency.stages();
        let near = |summary: LatencySummary, ms: f64| (summary.p50_ms - ms).abs() < 0.05;
        assert!(near(stages.encode, 5.0) && near(stages.integrate, 15.0), "{stages:?}");
        assert!(near(stages.queue, 7.0) && near(stages.transfer, 13.0), "{stages:?}");
        assert_eq!(stages.observe.count, 0);
    }

    #[test]
    fn an_older_node_says_less_and_a_hostile_one_nothing() {
        let mut latency = LinkLatency::new().unwrap();
        latency.answered(&chunk(20.0, 0.0, 0.0), Duration::from_millis(40));
        latency.answered(&chunk(f32::NAN, -1.0, f32::INFINITY), Duration::from_millis(1));
        let stages = latency.stages();
        assert_eq!((stages.encode.count, stages.integrate.count), (0, 2));
        assert!((stages.integrate.max_ms - 20.0).abs() < 0.05, "{stages:?}");
    }
}
