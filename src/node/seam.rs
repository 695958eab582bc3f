//! What the policy node asks of a policy, and nothing more.
//!
//! What: `n_obs_steps` observations, oldest first and ending at tick k, become a chunk of
//! `horizon` actions whose row i belongs to tick k + i (row 0 answers the newest observation).
//! Observations that wait at the same time, of one robot or of several, are one batch.
//! The node knows neither tensors nor checkpoints; [`crate::node::testing`] has a policy of ten
//! lines that the tests drive through the same seam.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Continuation, Joining};
pub use crate::action::{Picture, PolicyObs};
use crate::{Error, Result};

/// Most rows in a chunk, as on the wire.
const MAX_HORIZON: usize = 1024;
/// Most values in one action or state vector, as on the wire.
const MAX_DIM: usize = 256;
/// Longest history that the node keeps.
const MAX_OBS_STEPS: usize = 64;

/// A camera that a policy looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Camera {
    /// `<cam>` of `observation.images.<cam>`.
    pub name: String,
    /// Rows of its pictures.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What a policy is, for `policy/info` and for the checks at the door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Folder name or other short name.
    pub name: String,
    /// Observations per inference.
    pub n_obs_steps: usize,
    /// Rows in a chunk.
    pub horizon: usize,
    /// Rows that are executed before the next chunk is due.
    pub n_action_steps: usize,
    /// Values in an action.
    pub action_dim: usize,
    /// Values in `observation.state`.
    pub state_dim: usize,
    /// Values in `observation.environment_state`; 0 if the policy does not use it.
    pub environment_state_dim: usize,
    /// Cameras that the policy looks at; absent in messages of older nodes.
    #[serde(default)]
    pub cameras: Vec<Camera>,
    /// Network evaluations per chunk.
    pub nfe: usize,
    /// Solver's name.
    pub solver: String,
    /// Control rate that the policy was trained for, in Hz.
    pub fps: f64,
    /// SHA-256 of the weights, in hex, where there is a file.
    pub sha256: Option<String>,
    /// How its chunks are joined, unless the robot is told otherwise; absent in messages of older
    /// nodes.
    #[serde(default)]
    pub joining: Joining,
}

impl PolicyInfo {
    /// Checks that the node can serve such a policy.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::Invalid(format!(
                    "policy {:?}: expected {name} in {low}..={high}, got {value}",
                    self.name
                )))
            }
        };
        within("n_obs_steps", self.n_obs_steps, 1, MAX_OBS_STEPS)?;
        within("horizon", self.horizon, 1, MAX_HORIZON)?;
        within("n_action_steps", self.n_action_steps, 1, self.horizon)?;
        within("action_dim", self.action_dim, 1, MAX_DIM)?;
        within("state_dim", self.state_dim, 0, MAX_DIM)?;
        within("environment_state_dim", self.environment_state_dim, 0, MAX_DIM)?;
        self.joining.validate(self.horizon)?;
        if self.fps.is_finite() && self.fps > 0.0 {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "policy {:?}: expected a positive fps, got {}",
                self.name, self.fps
            )))
        }
    }

    /// An observation of zeros in this policy's shapes, for the warm-up.
    pub fn blank_observation(&self) -> PolicyObs {
        PolicyObs {
            state: vec![0.0; self.state_dim],
            environment_state: vec![0.0; self.environment_state_dim],
            images: self
                .cameras
                .iter()
                .map(|camera| Picture {
                    name: camera.name.clone(),
                    height: camera.height,
                    width: camera.width,
                    data: vec![0; camera.height * camera.width * 3],
                })
                .collect(),
        }
    }
}

/// One chunk to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// `n_obs_steps` observations, oldest first.
    pub window: Vec<PolicyObs>,
    /// Chooses the noise.
    pub seed: u64,
    /// What the robot still has to play, if it said so; row 0 is the newest observation's.
    pub continuation: Option<Continuation>,
}

/// Where the time of an inference went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From the observations to the context: what happens before the first solver step. Zero if
    /// unknown.
    pub encode: Duration,
}

/// A policy behind the node: observations in, a chunk for each request out.
pub trait ChunkPolicy: Send {
    /// Shapes, rates and names; constant over the policy's life.
    fn info(&self) -> PolicyInfo;

    /// Computes a chunk for each request, in their order: `horizon × action_dim` values each,
    /// row-major, in robot units.
    ///
    /// The same request gets the same chunk, whoever is in the batch with it. If `trace` is given,
    /// the state after every solver step of the first request is appended to it in robot units,
    /// from noise to the action, for pictures.
    ///
    /// # Errors
    /// The network failed; the node tries each request of a batch alone, counts what fails, and
    /// goes on.
    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>>;

    /// Where the time of the last successful [`ChunkPolicy::infer`] went, as far as it is known.
    fn timings(&self) -> Timings {
        Timings::default()
    }
}
