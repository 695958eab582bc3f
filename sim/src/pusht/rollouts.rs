//! Episodes of a closed-loop policy, spread over threads.
//!
//! The figures are LeRobot's: the episode's largest and summed reward, and success. An episode ends
//! with success or after [`PushT::MAX_STEPS`].

use super::env::PushT;
use rayon::prelude::*;
use std::ops::Range;

/// How one episode went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollout {
    /// Seed of the reset.
    pub seed: u64,
    /// Control steps taken.
    pub steps: usize,
    /// Largest reward.
    pub max_reward: f64,
    /// Sum of the rewards.
    pub sum_reward: f64,
    /// Whether the coverage exceeded 0.95.
    pub is_success: bool,
}

/// One episode from `PushT::reset(seed)`; `act` maps the environment to the next target (px).
pub fn rollout(seed: u64, mut act: impl FnMut(&PushT) -> [f64; 2]) -> Rollout {
    let mut env = PushT::reset(seed);
    let mut out = Rollout { seed, steps: 0, max_reward: 0.0, sum_reward: 0.0, is_success: false };
    while out.steps < PushT::MAX_STEPS && !out.is_success {
        let action = act(&env);
        let outcome = env.step(action);
        out.steps += 1;
        out.max_reward = out.max_reward.max(outcome.reward);
        out.sum_reward += outcome.reward;
        out.is_success = outcome.is_success;
    }
    out
}

/// One episode per seed on rayon's threads, in the order of the seeds; `policy` makes the policy
/// of one episode from its seed. The result does not depend on the number of threads.
pub fn rollouts<P>(seeds: Range<u64>, policy: impl Fn(u64) -> P + Sync) -> Vec<Rollout>
where
    P: FnMut(&PushT) -> [f64; 2],
{
    seeds.into_par_iter().map(|seed| rollout(seed, policy(seed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_do_not_change_the_result() {
        // Chases the block's centre; one counter per episode.
        let policy = |seed: u64| {
            let mut k = seed as f64;
            move |env: &PushT| {
                k += 1.0;
                let [x, y, _] = env.block_pose();
                [x + 20.0 * k.sin(), y + 20.0 * k.cos()]
            }
        };
        let together = rollouts(0..8, policy);
        let alone: Vec<_> = (0..8).map(|s| rollout(s, policy(s))).collect();
        assert_eq!(together, alone);
        assert!(together.iter().any(|r| r.max_reward > 0.0));
        assert!(together.iter().all(|r| r.is_success || r.steps == PushT::MAX_STEPS));
    }
}
