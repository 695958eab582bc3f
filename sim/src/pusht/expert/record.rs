//! Episodes of the expert as rows for a data set.

use super::super::env::PushT;
use super::planner::{Expert, ExpertConfig};

/// One control step: the observation before the action, the action, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Agent position before the action, px.
    pub agent: [f64; 2],
    /// Block keypoints before the action, px: x, y of eight points in gym-pusht's order.
    pub keypoints: [f64; 16],
    /// Agent x, y, block x, y in px and block angle in rad before the action.
    pub state: [f64; 5],
    /// Absolute target of the agent, px.
    pub action: [f64; 2],
    /// Reward after the action, 0 to 1.
    pub reward: f64,
    /// Whether the task is solved after the action.
    pub success: bool,
}

/// The expert's episode from `env`, up to success or `max_steps`.
pub fn episode(mut env: PushT, cfg: &ExpertConfig, max_steps: usize) -> Vec<Step> {
    let mut expert = Expert::new(cfg.clone());
    let mut steps = Vec::with_capacity(max_steps.min(PushT::MAX_STEPS));
    for _ in 0..max_steps {
        let (agent, keypoints, state) = (env.agent_pos(), env.keypoints(), env.state());
        let action = expert.act(&env);
        let outcome = env.step(action);
        let success = outcome.is_success;
        steps.push(Step { agent, keypoints, state, action, reward: outcome.reward, success });
        if success {
            break;
        }
    }
    steps
}

/// The expert's episode from a state that a policy has reached, whatever the agent's velocity.
///
/// The rows can be added to a data set as corrections (dataset aggregation, Ross et al. 2011).
pub fn takeover(env: PushT, cfg: &ExpertConfig, max_steps: usize) -> Vec<Step> {
    episode(env, cfg, max_steps)
}
