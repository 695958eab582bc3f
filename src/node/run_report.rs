//! A run of episodes in figures: what `summary.json` has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::latency::LatencySummary;
use super::pace::Cadence;
use super::stages::Stages;
use crate::action::{Joining, SmoothnessSummary};

/// One episode in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeReport {
    /// Its number in the run, from 0.
    pub episode: u32,
    /// Seed of its reset.
    pub seed: u64,
    /// Coverage passed 0.95.
    pub success: bool,
    /// Steps taken.
    pub steps: usize,
    /// Largest reward.
    pub max_reward: f64,
    /// Sum of rewards.
    pub sum_reward: f64,
    /// Steps at which the robot held for want of a valid chunk.
    pub holds: u64,
    /// Chunks that were taken.
    pub chunks: u64,
    /// Inference as the chunks report it.
    pub inference: LatencySummary,
    /// Observation to chunk, less the inference.
    pub overhead: LatencySummary,
}

/// A run in figures; LeRobot's names where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Share of successful episodes, in percent.
    pub pc_success: f64,
    /// Mean over episodes of the largest reward.
    pub avg_max_reward: f64,
    /// Mean over episodes of the sum of rewards.
    pub avg_sum_reward: f64,
    /// Wall time of the episodes, in seconds.
    pub eval_s: f64,
    /// Wall time per episode.
    pub eval_ep_s: f64,
    /// Finished episodes.
    pub n_episodes: usize,
    /// Each of them.
    pub episodes: Vec<EpisodeReport>,
    /// Inference as the chunks report it.
    pub inference: LatencySummary,
    /// Observation to chunk, less the inference.
    pub overhead: LatencySummary,
    /// Observation to command.
    pub end_to_end: LatencySummary,
    /// Ticks.
    pub cadence: Cadence,
    /// Where the time went.
    #[serde(default)]
    pub stages: Stages,
    /// How smoothly the commands ran; differences within an episode only.
    #[serde(default)]
    pub smoothness: SmoothnessSummary,
    /// How chunks were joined.
    #[serde(default)]
    pub joining: Joining,
    /// Delay of chunks that was added, in milliseconds.
    #[serde(default)]
    pub latency_ms: f64,
    /// How every chunk that came ended.
    pub chunks: BTreeMap<String, u64>,
    /// Ended by the stop flag before all episodes were done.
    pub interrupted: bool,
}
