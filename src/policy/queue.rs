//! LeRobot's `select_action`: one observation in, one action out, a chunk when the queue is empty.
//!
//! The first observation of an episode fills the whole history. A chunk gives its first
//! `n_action_steps` rows from the newest observation's tick on; when they are used up the next chunk
//! is made. A policy with temporal ensembling is asked at every tick instead. Source: LeRobot
//! `policies/diffusion/modeling_diffusion.py`, `policies/utils.py::populate_queues`.

use std::collections::VecDeque;

use super::{Draws, Observation, Policy, Solver};
use crate::Result;

/// What one episode remembers.
#[derive(Clone, Debug)]
pub struct Queue {
    n_obs_steps: usize,
    n_action_steps: usize,
    action_dim: usize,
    history: Vec<Observation>,
    actions: VecDeque<Vec<f32>>,
}

impl Queue {
    /// An empty queue for `policy`.
    pub fn new(policy: &Policy) -> Self {
        let signature = policy.signature();
        Self {
            n_obs_steps: signature.n_obs_steps,
            n_action_steps: signature.n_action_steps,
            action_dim: signature.action_dim(),
            history: Vec::with_capacity(signature.n_obs_steps),
            actions: VecDeque::with_capacity(signature.n_action_steps),
        }
    }

    /// Forgets everything: a new episode.
    pub fn reset(&mut self) {
        self.history.clear();
        self.actions.clear();
    }

    /// Takes in the observation of this tick.
    pub fn observe(&mut self, observation: Observation) {
        if self.history.is_empty() {
            self.history = vec![observation; self.n_obs_steps];
            return;
        }
        self.history.rotate_left(1);
        if let Some(newest) = self.history.last_mut() {
            *newest = observation;
        }
    }

    /// The last `n_obs_steps` observations, oldest first; empty before the first.
    pub fn history(&self) -> &[Observation] {
        &self.history
    }

    /// Whether a chunk has to be made before the next action.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Takes in a chunk `[rows, action_dim]` that answers the newest observation.
    pub fn accept(&mut self, chunk: &[f32]) {
        let rows = chunk.chunks_exact(self.action_dim).take(self.n_action_steps);
        self.actions.extend(rows.map(<[f32]>::to_vec));
    }

    /// The action of this tick.
    pub fn pop(&mut self) -> Option<Vec<f32>> {
        self.actions.pop_front()
    }
}

impl Policy {
    /// LeRobot's `select_action`: the action of this tick in robot units. `draws` is called when a
    /// chunk is made.
    ///
    /// # Errors
    /// As [`Policy::infer`].
    pub fn select_action(
        &self,
        queue: &mut Queue,
        observation: Observation,
        solver: &Solver,
        draws: impl FnOnce() -> Draws,
    ) -> Result<Vec<f32>> {
        queue.observe(observation);
        if queue.is_empty() {
            let chunks = self.infer(&[queue.history()], draws(), solver)?;
            queue.accept(&chunks.actions);
        }
        Ok(queue.pop().unwrap_or_default())
    }
}
