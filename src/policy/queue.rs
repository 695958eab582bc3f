//! LeRobot's `select_action`: one observation in, one action out, a chunk when the queue is empty.
//!
//! The first observation of an episode fills the whole history. A chunk gives its first
//! `n_action_steps` rows from the newest observation's tick on; when they are used up the next chunk
//! is made. A policy with temporal ensembling is asked at every tick, and a chunk gives the mean of all
//! predictions of that tick; the mean is taken in robot units, LeRobot's before unnormalising, which is
//! the same but for rounding. Source: LeRobot `policies/diffusion/modeling_diffusion.py`,
//! `policies/act/modeling_act.py`, `policies/utils.py::populate_queues`.

use std::collections::VecDeque;

use super::ensemble::Ensembler;
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
    ensembler: Option<Ensembler>,
}

impl Queue {
    /// An empty queue for `policy`.
    ///
    /// # Errors
    /// When the coefficient of its temporal ensemble is impossible.
    pub fn new(policy: &Policy) -> Result<Self> {
        let signature = policy.signature();
        let coefficient = policy.config().temporal_ensemble_coeff();
        let ensembler = coefficient.map(|c| Ensembler::new(c, signature.rows())).transpose()?;
        Ok(Self {
            n_obs_steps: signature.n_obs_steps,
            n_action_steps: signature.n_action_steps,
            action_dim: signature.action_dim(),
            history: Vec::with_capacity(signature.n_obs_steps),
            actions: VecDeque::with_capacity(signature.n_action_steps),
            ensembler,
        })
    }

    /// Forgets everything: a new episode.
    pub fn reset(&mut self) {
        self.history.clear();
        self.actions.clear();
        if let Some(ensembler) = &mut self.ensembler {
            ensembler.reset();
        }
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
    ///
    /// # Errors
    /// When a temporal ensemble gets a chunk of another shape.
    pub fn accept(&mut self, chunk: &[f32]) -> Result<()> {
        if let Some(ensembler) = &mut self.ensembler {
            self.actions.push_back(ensembler.update(chunk, self.action_dim)?);
            return Ok(());
        }
        let rows = chunk.chunks_exact(self.action_dim).take(self.n_action_steps);
        self.actions.extend(rows.map(<[f32]>::to_vec));
        Ok(())
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
            queue.accept(&chunks.actions)?;
        }
        Ok(queue.pop().unwrap_or_default())
    }
}
