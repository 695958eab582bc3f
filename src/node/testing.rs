//! A policy without a network, for tests and for trying the wiring of a robot.
//!
//! It drives the agent from where it is to a fixed goal in a straight line, or repeats the state
//! if it has no goal. Nothing is learned; it costs microseconds.

use super::seam::{ChunkPolicy, PolicyInfo, PolicyObs, Request};
use crate::action::Joining;
use crate::{Error, Result};

/// Moves the first `action_dim` values of the state towards a goal at constant speed.
#[derive(Debug, Clone)]
pub struct ServoPolicy {
    info: PolicyInfo,
    goal: Vec<f32>,
    /// Largest change per row, robot units.
    step: f32,
}

impl ServoPolicy {
    /// A servo for PushT's agent: 2 observations, 16 rows, 8 executed, to the middle of the table.
    pub fn pusht() -> Self {
        Self {
            info: PolicyInfo {
                name: "servo".to_owned(),
                n_obs_steps: 2,
                horizon: 16,
                n_action_steps: 8,
                action_dim: 2,
                state_dim: 2,
                environment_state_dim: 16,
                cameras: Vec::new(),
                nfe: 1,
                solver: "none".to_owned(),
                fps: 10.0,
                sha256: None,
                joining: Joining::default(),
            },
            goal: vec![256.0, 256.0],
            step: 10.0,
        }
    }

    /// The same, whose chunks are joined so. It continues no chunk, whatever this says.
    #[must_use]
    pub fn with_joining(mut self, joining: Joining) -> Self {
        self.info.joining = joining;
        self
    }
}

impl ServoPolicy {
    fn chunk(&self, window: &[PolicyObs]) -> Result<Vec<f32>> {
        let newest =
            window.last().ok_or_else(|| Error::Invalid("servo: no observation".to_owned()))?;
        if window.len() != self.info.n_obs_steps || newest.state.len() != self.goal.len() {
            return Err(Error::Invalid(format!(
                "servo: expected {} observations of {} values, got {} of {}",
                self.info.n_obs_steps,
                self.goal.len(),
                window.len(),
                newest.state.len()
            )));
        }
        let mut at = newest.state.clone();
        let mut actions = Vec::with_capacity(self.info.horizon * at.len());
        for _ in 0..self.info.horizon {
            for (value, goal) in at.iter_mut().zip(&self.goal) {
                let error = goal - *value;
                *value += if error.abs() > self.step { self.step.copysign(error) } else { error };
            }
            actions.extend_from_slice(&at);
        }
        Ok(actions)
    }
}

impl ChunkPolicy for ServoPolicy {
    fn info(&self) -> PolicyInfo {
        self.info.clone()
    }

    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>> {
        let chunks = requests
            .iter()
            .map(|request| self.chunk(&request.window))
            .collect::<Result<Vec<_>>>()?;
        let newest = requests.first().and_then(|request| request.window.last());
        if let (Some(trace), Some(newest), Some(first)) = (trace, newest, chunks.first()) {
            trace.push(newest.state.repeat(self.info.horizon));
            trace.push(first.clone());
        }
        Ok(chunks)
    }
}
