//! States that a policy visits, to be labelled by the expert (DAgger: Ross, Gordon, Bagnell 2011).
//!
//! The policy drives; at a few moments of each episode the expert takes over and shows what should
//! have been done from there. An episode that the policy fails gives as many states as one that it
//! solves, drawn over its whole length, so the states where it is stuck are well covered.

use pathline_sim::pusht::PushT;

use super::eval::{EvalOptions, EvalReport, evaluate};
use crate::Result;
use crate::flow::Noise;
use crate::policy::{Policy, Solver};

/// Control steps between the states that are kept for drawing.
const STRIDE: usize = 2;

/// Runs the policy and draws `per_episode` states of every episode, without replacement.
///
/// # Errors
/// When the policy does not fit the task or fails.
pub fn visited(
    policy: &Policy,
    solver: &Solver,
    options: &EvalOptions,
    per_episode: usize,
) -> Result<(EvalReport, Vec<PushT>)> {
    let mut seen: Vec<Vec<PushT>> = vec![Vec::new(); options.episodes];
    let report = evaluate(policy, solver, options, &mut |episode, step, env| {
        if step % STRIDE == 0 {
            seen[episode].push(env.clone());
        }
    })?;
    let noise = Noise::new(options.seed);
    let mut states = Vec::with_capacity(options.episodes * per_episode);
    for (episode, envs) in seen.iter().enumerate() {
        let order = noise.permutation(u64::MAX - episode as u64, envs.len());
        states.extend(order.iter().take(per_episode).map(|&i| envs[i as usize].clone()));
    }
    Ok((report, states))
}
