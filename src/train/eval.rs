//! Success rate in the simulator, many episodes at once.
//!
//! All episodes advance together; at every replanning tick the policy answers them in one batch.
//! The noise of a chunk is keyed by (seed, episode, replanning index), so an episode's result does
//! not depend on how many others run beside it.

use std::time::Instant;

use pathline_sim::pusht::{PushT, render};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::flow::Noise;
use crate::policy::queue::Queue;
use crate::policy::{Observation, Picture, Policy, Solver};
use crate::{Error, Result};

/// What to run.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Number of episodes; episode i is reset with `seed + i`.
    pub episodes: usize,
    /// First reset seed, and the seed of the noise.
    pub seed: u64,
    /// Actions executed of each chunk.
    pub n_action_steps: usize,
    /// Ticks from an observation to the first action that answers it; the previous chunk goes on
    /// meanwhile.
    pub latency_ticks: usize,
    /// Limit of control steps.
    pub max_steps: usize,
}

/// One episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeResult {
    /// Reset seed.
    pub seed: u64,
    /// Whether coverage exceeded the threshold.
    pub success: bool,
    /// Control steps made.
    pub steps: usize,
    /// Sum of rewards.
    pub sum_reward: f64,
    /// Largest reward.
    pub max_reward: f64,
}

/// LeRobot's aggregate (`lerobot-eval`), with the episodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Share of successful episodes, percent.
    pub pc_success: f64,
    /// Mean over episodes of the largest reward.
    pub avg_max_reward: f64,
    /// Mean over episodes of the sum of rewards.
    pub avg_sum_reward: f64,
    /// Mean steps of the successful episodes.
    pub avg_steps: f64,
    /// Wall time, seconds.
    pub eval_s: f64,
    /// Wall time an episode, seconds.
    pub eval_ep_s: f64,
    /// Number of episodes.
    pub n_episodes: usize,
    /// Network evaluations a chunk.
    pub nfe: usize,
    /// Actions executed a chunk.
    pub n_action_steps: usize,
    /// Every episode.
    pub per_episode: Vec<EpisodeResult>,
}

struct Running {
    env: PushT,
    queue: Queue,
    chunk: Vec<f32>,
    chunk_tick: usize,
    pending: Option<(usize, Vec<f32>)>,
    result: EpisodeResult,
    done: bool,
}

/// Runs the policy; `visit(episode, step, env)` sees every state before its action.
///
/// # Errors
/// When the policy does not fit the task or fails.
pub fn evaluate(
    policy: &Policy,
    solver: &Solver,
    options: &EvalOptions,
    visit: &mut dyn FnMut(usize, usize, &PushT),
) -> Result<EvalReport> {
    check_task(policy)?;
    let horizon = policy.signature().rows();
    let together = options.n_action_steps.saturating_add(options.latency_ticks);
    if options.n_action_steps == 0 || together > horizon {
        return Err(Error::Invalid(format!(
            "executed actions and latency: expected 1 to horizon = {horizon} together, got {} + {}",
            options.n_action_steps, options.latency_ticks
        )));
    }
    let averages = policy.config().temporal_ensemble_coeff().is_some();
    if averages && (options.n_action_steps != 1 || options.latency_ticks != 0) {
        return Err(Error::Invalid(format!(
            "temporal ensembling: expected 1 executed action a chunk and no latency, got {} and {}",
            options.n_action_steps, options.latency_ticks
        )));
    }
    let start = Instant::now();
    let noise = Noise::new(options.seed);
    let mut episodes: Vec<Running> = (0..options.episodes)
        .into_par_iter()
        .map(|i| begin(policy, options.seed.wrapping_add(i as u64)))
        .collect::<Result<_>>()?;
    for tick in 0..options.max_steps {
        for (i, episode) in episodes.iter_mut().enumerate().filter(|(_, e)| !e.done) {
            episode.queue.observe(seen(policy, &episode.env));
            visit(i, tick, &episode.env);
        }
        if tick % options.n_action_steps == 0 {
            replan(policy, solver, &noise, &mut episodes, tick, options)?;
        }
        episodes.par_iter_mut().filter(|episode| !episode.done).for_each(|episode| {
            act(episode, tick, options);
        });
        if episodes.iter().all(|episode| episode.done) {
            break;
        }
    }
    let per_episode: Vec<_> = episodes.into_iter().map(|episode| episode.result).collect();
    Ok(report(per_episode, solver, options, start.elapsed().as_secs_f64()))
}

/// Checks that the policy's features are PushT's keypoints.
///
/// # Errors
/// Names what was expected and what the policy has.
pub fn check_task(policy: &Policy) -> Result<()> {
    let config = policy.signature();
    let dims = [config.state_dim(), config.environment_dim(), config.action_dim()];
    let strange = config.cameras().find(|camera| *camera != CAMERA);
    if matches!(dims, [2, 0 | 16, 2]) && strange.is_none() {
        return Ok(());
    }
    let mut got: Vec<String> = Vec::new();
    for (key, feature) in config.input_features.iter().chain(&config.output_features) {
        got.push(format!("{key} {:?}", feature.shape));
    }
    Err(Error::Invalid(format!(
        "policy for PushT: expected observation.state [2] and action [2], and of \
         observation.environment_state [16] and observation.image [3, 96, 96] one or both, got {}",
        got.join(", ")
    )))
}

/// PushT's camera: LeRobot's key, and channels, height, width.
const CAMERA: (&str, [usize; 3]) = ("observation.image", [3, 96, 96]);

/// The observation of `env` with the features that `policy` looks at.
pub fn seen(policy: &Policy, env: &PushT) -> Observation {
    if policy.signature().cameras().next().is_some() {
        observation_with_picture(env)
    } else {
        observation(env)
    }
}

fn begin(policy: &Policy, seed: u64) -> Result<Running> {
    let result = EpisodeResult { seed, success: false, steps: 0, sum_reward: 0.0, max_reward: 0.0 };
    Ok(Running {
        env: PushT::reset(seed),
        queue: Queue::new(policy)?,
        chunk: Vec::new(),
        chunk_tick: 0,
        pending: None,
        result,
        done: false,
    })
}

/// The observation of `env` as the policy sees it.
pub fn observation(env: &PushT) -> Observation {
    Observation {
        state: env.agent_pos().iter().map(|&x| x as f32).collect(),
        environment_state: env.keypoints().iter().map(|&x| x as f32).collect(),
        images: Vec::new(),
    }
}

/// The same with what a camera sees, as gym-pusht's `pixels_agent_pos`.
pub fn observation_with_picture(env: &PushT) -> Observation {
    let frame = render::observation(env);
    let picture = Picture {
        name: "image".into(),
        height: frame.height as usize,
        width: frame.width as usize,
        data: frame.rgb,
    };
    Observation { images: vec![picture], ..observation(env) }
}

fn replan(
    policy: &Policy,
    solver: &Solver,
    noise: &Noise,
    episodes: &mut [Running],
    tick: usize,
    options: &EvalOptions,
) -> Result<()> {
    let active: Vec<usize> = (0..episodes.len()).filter(|&i| !episodes[i].done).collect();
    let draw = (tick / options.n_action_steps) as u64;
    let len = policy.signature().rows() * policy.signature().action_dim();
    for group in active.chunks(256) {
        let samples: Vec<u64> = group.iter().map(|&i| i as u64).collect();
        let x = policy.draws(noise, &samples, draw, solver);
        let histories: Vec<&[Observation]> =
            group.iter().map(|&i| episodes[i].queue.history()).collect();
        let chunks = policy.infer(&histories, x, solver)?;
        for (row, &i) in chunks.actions.chunks_exact(len).zip(group) {
            let mut chunk = row.to_vec();
            if policy.config().temporal_ensemble_coeff().is_some() {
                episodes[i].queue.accept(row)?;
                chunk = episodes[i].queue.pop().unwrap_or_default();
            }
            episodes[i].pending = Some((tick, chunk));
        }
    }
    Ok(())
}

fn act(episode: &mut Running, tick: usize, options: &EvalOptions) {
    if let Some((from, chunk)) =
        episode.pending.take_if(|(from, _)| tick >= *from + options.latency_ticks)
    {
        episode.chunk = chunk;
        episode.chunk_tick = from;
    }
    let row = 2 * (tick - episode.chunk_tick);
    let action = match episode.chunk.get(row..row + 2) {
        Some(action) => [f64::from(action[0]), f64::from(action[1])].map(|x| x.clamp(0.0, 512.0)),
        None => episode.env.agent_pos(), // nothing has arrived yet: hold
    };
    let outcome = episode.env.step(action);
    episode.result.steps = tick + 1;
    episode.result.sum_reward += outcome.reward;
    episode.result.max_reward = episode.result.max_reward.max(outcome.reward);
    episode.result.success = outcome.is_success;
    episode.done = outcome.is_success;
}

fn report(
    per_episode: Vec<EpisodeResult>,
    solver: &Solver,
    options: &EvalOptions,
    eval_s: f64,
) -> EvalReport {
    let n = per_episode.len().max(1) as f64;
    let solved: Vec<&EpisodeResult> = per_episode.iter().filter(|e| e.success).collect();
    let steps: usize = solved.iter().map(|e| e.steps).sum();
    EvalReport {
        pc_success: 100.0 * solved.len() as f64 / n,
        avg_max_reward: per_episode.iter().map(|e| e.max_reward).sum::<f64>() / n,
        avg_sum_reward: per_episode.iter().map(|e| e.sum_reward).sum::<f64>() / n,
        avg_steps: steps as f64 / solved.len().max(1) as f64,
        eval_s,
        eval_ep_s: eval_s / n,
        n_episodes: per_episode.len(),
        nfe: solver.evaluations(),
        n_action_steps: options.n_action_steps,
        per_episode,
    }
}
