//! Success rate in the simulator, many episodes at once, in simulated time.
//!
//! All episodes advance together. Each is a robot of its own with the gate, the timeline and the
//! executor of a real one ([`crate::action`]): it asks when the executor says so, and what it asks for
//! arrives `latency_ms` later, at the first tick that is not earlier. Those that ask at the same tick are
//! answered in one batch. The noise of a chunk is keyed by (seed, episode, number of the request), so an
//! episode's result does not depend on how many others run beside it.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use pathline_sim::pusht::{PushT, ROBOT, render};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::action::{
    ActionChunk, Continuation, Executor, Gate, Joining, Mode, RobotFile, Smoothness,
    SmoothnessSummary,
};
use crate::flow::Noise;
use crate::policy::queue::Queue;
use crate::policy::{Continuing, Observation, Picture, Policy, RtcConfig, Solver};
use crate::{Error, Result};

/// What to run.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Number of episodes; episode i is reset with `seed + i`.
    pub episodes: usize,
    /// First reset seed, and the seed of the noise.
    pub seed: u64,
    /// How chunks are joined, and when one is asked for.
    pub joining: Joining,
    /// Guidance of real-time chunking.
    pub rtc: RtcConfig,
    /// Time from an observation to the arrival of the chunk that answers it, milliseconds.
    pub latency_ms: f64,
    /// Limit of control steps.
    pub max_steps: usize,
}

impl EvalOptions {
    /// As the policy's folder says, without latency.
    pub fn new(policy: &Policy, episodes: usize, seed: u64) -> Self {
        Self {
            episodes,
            seed,
            joining: policy.joining(),
            rtc: policy.rtc_config(),
            latency_ms: 0.0,
            max_steps: PushT::MAX_STEPS,
        }
    }

    /// Ticks from an observation to the first at which its chunk is there.
    fn latency_ticks(&self) -> u64 {
        (self.latency_ms * PushT::CONTROL_HZ / 1000.0).ceil() as u64
    }
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
    /// Rows that are played before the next chunk is asked for.
    pub n_action_steps: usize,
    /// How chunks were joined.
    pub mode: Mode,
    /// Injected delay, milliseconds.
    pub latency_ms: f64,
    /// How smoothly the commands ran.
    pub smoothness: SmoothnessSummary,
    /// Every episode.
    pub per_episode: Vec<EpisodeResult>,
}

/// A chunk on its way.
struct Pending {
    arrives: u64,
    chunk: ActionChunk,
}

/// One robot.
struct Running {
    env: PushT,
    queue: Queue,
    gate: Gate,
    executor: Executor,
    pending: VecDeque<Pending>,
    /// Requests so far; the sequence number of the chunk that answers the last.
    requests: u64,
    smoothness: Smoothness,
    result: EpisodeResult,
    done: bool,
}

/// A request of one robot at this tick.
struct Job {
    episode: usize,
    continuation: Option<Continuation>,
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
    let latency = options.latency_ms;
    if !(0.0..=60_000.0).contains(&latency) {
        return Err(Error::range("latency_ms", "0 to 60000", latency));
    }
    let start = Instant::now();
    let noise = Noise::new(options.seed);
    let mut episodes: Vec<Running> = (0..options.episodes)
        .into_par_iter()
        .map(|i| begin(policy, options, options.seed.wrapping_add(i as u64)))
        .collect::<Result<_>>()?;
    for tick in 0..options.max_steps {
        let mut jobs = Vec::new();
        for (i, episode) in episodes.iter_mut().enumerate().filter(|(_, e)| !e.done) {
            visit(i, tick, &episode.env);
            let continuation = episode.observe(policy, tick as u64)?;
            jobs.extend(continuation.map(|continuation| Job { episode: i, continuation }));
        }
        answer(policy, solver, &noise, options, &mut episodes, &jobs, tick as u64)?;
        episodes
            .par_iter_mut()
            .filter(|episode| !episode.done)
            .try_for_each(|episode| episode.act(tick as u64))?;
        if episodes.iter().all(|episode| episode.done) {
            break;
        }
    }
    Ok(report(policy, solver, options, episodes, start.elapsed().as_secs_f64()))
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

/// Nonce of every simulated robot: each has a gate of its own, so one will do.
const SESSION: u64 = 1;

fn begin(policy: &Policy, options: &EvalOptions, seed: u64) -> Result<Running> {
    let signature = policy.signature();
    let (rows, n_action_steps) = (signature.rows(), signature.n_action_steps);
    let env = PushT::reset(seed);
    let robot = RobotFile::parse(ROBOT, Path::new("sim/robots/pusht.toml"))?;
    let mut config = robot.gate(SESSION, rows, options.joining.join(n_action_steps))?;
    // Nothing dies here: what is asked for comes, however late, and `append` plays a chunk to its end.
    config.max_obs_age = 2 * (rows as u64 + options.latency_ticks());
    config.heartbeat = config.max_obs_age;
    let position = env.agent_pos().map(|x| x as f32);
    let result = EpisodeResult { seed, success: false, steps: 0, sum_reward: 0.0, max_reward: 0.0 };
    Ok(Running {
        queue: Queue::new(policy)?,
        executor: Executor::new(options.joining, rows, n_action_steps, config.heartbeat)?,
        gate: Gate::new(config, &position)?,
        env,
        pending: VecDeque::new(),
        requests: 0,
        smoothness: Smoothness::default(),
        result,
        done: false,
    })
}

impl Running {
    /// Observes, takes in what has arrived, and asks: what a new chunk has to continue, if one is wanted.
    fn observe(&mut self, policy: &Policy, tick: u64) -> Result<Option<Option<Continuation>>> {
        self.queue.observe(seen(policy, &self.env));
        self.gate.observed(tick + 1, tick);
        while let Some(pending) = self.pending.pop_front_if(|p| p.arrives <= tick) {
            self.take(&pending.chunk, tick)?;
        }
        let timeline = self.gate.timeline();
        let Some(ask) = self.executor.ask(timeline, tick + 1, tick) else { return Ok(None) };
        self.requests += 1;
        let left_over: Vec<f32> = timeline.left_over(tick).flatten().copied().collect();
        let continuation = Continuation { left_over, delay: ask.expected_delay };
        Ok(Some((!continuation.left_over.is_empty()).then_some(continuation)))
    }

    /// Brings a chunk to the gate.
    fn take(&mut self, chunk: &ActionChunk, tick: u64) -> Result<()> {
        let verdict = self.gate.offer(&chunk.view(), tick);
        if !verdict.is_accepted() {
            // Late beyond its last row: nothing of it is played, and the robot asks again.
            tracing::debug!("seed {} tick {tick}: {verdict:?}", self.result.seed);
        }
        let consumed = self.gate.timeline().played(chunk.obs_tick, tick);
        self.executor.answered(chunk.obs_seq, tick, consumed, false);
        Ok(())
    }

    /// Plays this tick's action.
    fn act(&mut self, tick: u64) -> Result<()> {
        let command = self.gate.step(tick);
        self.smoothness.add(command.action, &command.source);
        let &[x, y] = command.action else {
            return Err(Error::shape("action", [2], [command.action.len()]));
        };
        let outcome = self.env.step([f64::from(x), f64::from(y)]);
        self.result.steps = tick as usize + 1;
        self.result.sum_reward += outcome.reward;
        self.result.max_reward = self.result.max_reward.max(outcome.reward);
        self.result.success = outcome.is_success;
        self.done = outcome.is_success;
        Ok(())
    }
}

/// Answers the requests of one tick, and delivers what takes no time.
fn answer(
    policy: &Policy,
    solver: &Solver,
    noise: &Noise,
    options: &EvalOptions,
    episodes: &mut [Running],
    jobs: &[Job],
    tick: u64,
) -> Result<()> {
    let signature = policy.signature();
    let (rows, dim) = (signature.rows(), signature.action_dim());
    for group in jobs.chunks(256) {
        // The draw number differs from request to request, so one call makes the noise of one.
        let draws = group.iter().map(|job| {
            let draw = episodes[job.episode].requests - 1;
            (job.episode as u64, draw)
        });
        let draws = policy.draws_of(noise, &draws.collect::<Vec<_>>(), solver);
        let histories: Vec<&[Observation]> =
            group.iter().map(|job| episodes[job.episode].queue.history()).collect();
        let chunks = match options.joining.mode.form() {
            None => policy.infer(&histories, draws, solver)?,
            Some(form) => {
                let chunks: Vec<_> = group.iter().map(|job| job.continuation.as_ref()).collect();
                let continuing = Continuing {
                    form,
                    config: &options.rtc,
                    chunks: &chunks,
                    max_delay: policy.config().rtc_training_max_delay(),
                };
                policy.infer_continued(&histories, draws, solver, continuing, None)?
            }
        };
        for (actions, job) in chunks.actions.chunks_exact(rows * dim).zip(group) {
            let episode = &mut episodes[job.episode];
            let chunk = ActionChunk {
                session: SESSION,
                epoch: 1,
                seq: episode.requests,
                obs_seq: tick + 1,
                obs_tick: tick,
                dt: std::time::Duration::from_secs_f64(1.0 / PushT::CONTROL_HZ),
                dim,
                actions: clamped(actions),
            };
            match options.latency_ticks() {
                0 => episode.take(&chunk, tick)?,
                latency => {
                    episode.pending.push_back(Pending { arrives: tick + latency, chunk });
                }
            }
        }
    }
    Ok(())
}

/// PushT's box: a target far outside counts as one on its edge, as in gym-pusht.
fn clamped(actions: &[f32]) -> Vec<f32> {
    actions.iter().map(|x| x.clamp(0.0, 512.0)).collect()
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

fn report(
    policy: &Policy,
    solver: &Solver,
    options: &EvalOptions,
    episodes: Vec<Running>,
    eval_s: f64,
) -> EvalReport {
    let mut smoothness = Smoothness::default();
    for episode in &episodes {
        smoothness.merge(&episode.smoothness);
    }
    let per_episode: Vec<_> = episodes.into_iter().map(|episode| episode.result).collect();
    let n = per_episode.len().max(1) as f64;
    let solved: Vec<&EpisodeResult> = per_episode.iter().filter(|e| e.success).collect();
    let steps: usize = solved.iter().map(|e| e.steps).sum();
    let n_action_steps = options.joining.n_action_steps;
    EvalReport {
        pc_success: 100.0 * solved.len() as f64 / n,
        avg_max_reward: per_episode.iter().map(|e| e.max_reward).sum::<f64>() / n,
        avg_sum_reward: per_episode.iter().map(|e| e.sum_reward).sum::<f64>() / n,
        avg_steps: steps as f64 / solved.len().max(1) as f64,
        eval_s,
        eval_ep_s: eval_s / n,
        n_episodes: per_episode.len(),
        nfe: solver.evaluations(),
        n_action_steps: n_action_steps.unwrap_or(policy.signature().n_action_steps),
        mode: options.joining.mode,
        latency_ms: options.latency_ms,
        smoothness: smoothness.summary(),
        per_episode,
    }
}
