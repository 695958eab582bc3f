//! The simulator node: PushT behind the same keys, gate and timeline as a robot.
//!
//! Lockstep: as fast as the policy answers; it waits, with a deadline, only on ticks that ask for a chunk.
//! Real time: a tick every 100 ms on an absolute grid; the robot goes on with what it has while a chunk is
//! made, and only if it has nothing left it waits, for half a tick. A late tick skips to the next grid
//! point; ticks never burst.

use std::time::{Duration, Instant};

use pathline_sim::pusht::{Outcome, PushT, render};
use serde_json::json;
use zenoh::Session;

use super::bus::{JSON, Outlet};
use super::latency::LatencySummary;
use super::link::RobotLink;
use super::pace::{Clock, Pace};
use super::robot::{Commanded, Delay, RobotConfig, pusht_file};
use super::run_report::{EpisodeReport, RunReport};
use super::seam::{Picture, PolicyInfo, PolicyObs};
use super::stages::LinkLatency;
use super::stop::Stop;
use crate::action::Smoothness;
use crate::wire::{Congestion, Qos};
use crate::{Error, Result};

/// What a run of episodes is started with.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Keys, limits, task.
    pub robot: RobotConfig,
    /// Number of episodes.
    pub episodes: u32,
    /// Seed of the first reset; episode i resets with `seed + i`, as gym-pusht would.
    pub seed: u64,
    /// Steps after which an episode ends.
    pub max_steps: usize,
    /// Who sets the pace.
    pub pace: Pace,
    /// Time that every chunk is held back after it came: simulated in lockstep, else by the wall clock.
    pub latency: Duration,
    /// Longest wait for a due chunk in lockstep; then the robot holds for this tick.
    pub chunk_timeout: Duration,
    /// Longest wait for a policy at the start.
    pub policy_timeout: Duration,
    /// Time without any chunk in time after which the run fails; until then the robot holds.
    pub give_up_after: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            robot: RobotConfig::pusht(),
            episodes: 10,
            seed: 0,
            max_steps: PushT::MAX_STEPS,
            pace: Pace::Lockstep,
            latency: Duration::ZERO,
            chunk_timeout: Duration::from_secs(1),
            policy_timeout: Duration::from_secs(30),
            give_up_after: Duration::from_secs(20),
        }
    }
}

/// What an observer of the run sees after each step.
pub struct Tick<'a> {
    /// The environment after the step.
    pub env: &'a PushT,
    /// Number of the episode, from 0.
    pub episode: u32,
    /// Seed of its reset.
    pub seed: u64,
    /// Step, from 0.
    pub step: usize,
    /// What was commanded.
    pub commanded: &'a Commanded,
    /// The tick that the current chunk answers, and its rows from this tick on.
    pub plan: Option<(u64, Vec<[f64; 2]>)>,
    /// Reward, coverage, success.
    pub outcome: &'a Outcome,
    /// Whether this was the episode's last step.
    pub done: bool,
}

/// What happens during a run, for whoever prints or draws.
pub enum Event<'a> {
    /// A policy answered; the run starts.
    Connected(&'a PolicyInfo),
    /// A step was made.
    Tick(&'a Tick<'a>),
    /// An episode ended.
    Episode(&'a EpisodeReport),
}

/// Runs the episodes; `observer` is called on this thread.
///
/// # Errors
/// No policy; a policy that stops answering for `give_up_after`; a closed session. A run
/// that `stop` ends is no error: the report says `interrupted`.
pub fn run(
    session: &Session,
    options: &SimOptions,
    stop: &Stop,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<RunReport> {
    if options.episodes == 0 || options.max_steps == 0 {
        return Err(Error::Invalid(format!(
            "expected at least one episode and one step, got {} and {}",
            options.episodes, options.max_steps
        )));
    }
    let first = PushT::reset(options.seed);
    let congestion = match options.pace {
        Pace::Lockstep => Congestion::Block,
        Pace::Realtime => Congestion::Drop,
    };
    let file = match &options.robot.file {
        Some(file) => file.clone(),
        None => pusht_file()?,
    };
    if (file.control_hz - PushT::CONTROL_HZ).abs() > 1e-9 {
        return Err(Error::Invalid(format!(
            "robot {:?}: expected control_hz = {} as PushT has it, got {}",
            file.name,
            PushT::CONTROL_HZ,
            file.control_hz
        )));
    }
    let delay = match options.pace {
        _ if options.latency.is_zero() => Delay::None,
        // A chunk that comes within a tick is of use at the next one.
        Pace::Lockstep => {
            Delay::Ticks((options.latency.as_secs_f64() * PushT::CONTROL_HZ - 1e-9).ceil() as u64)
        }
        Pace::Realtime => Delay::Wall(options.latency),
    };
    let config = RobotConfig { congestion, delay, file: Some(file), ..options.robot.clone() };
    let link = RobotLink::connect(
        session,
        &config,
        &to_f32(&first.agent_pos()),
        options.policy_timeout,
        stop,
    )?;
    match link.warm_up(seen(&first, link.info())) {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the policy did not answer the warm-up in time"),
        // A policy that fails is the run's affair: the robot holds, and the run says so.
        Err(error) => tracing::warn!("the warm-up failed: {error}"),
    }
    observer(Event::Connected(link.info()));
    let state = Outlet::declare(session, &link.keys().sim_state(), JSON, Qos::SIM_STATE)?;
    let mut runner = Runner {
        link,
        state,
        options,
        stop,
        clock: Clock::new(options.pace),
        missed: 0,
        heard: Instant::now(),
        taken: 0,
        total: LinkLatency::new()?,
        smoothness: Smoothness::default(),
    };
    let started = Instant::now();
    let mut episodes = Vec::new();
    while episodes.len() < options.episodes as usize && !stop.is_set() {
        let number = episodes.len() as u32;
        if let Some(report) = runner.episode(number, observer)? {
            observer(Event::Episode(&report));
            episodes.push(report);
        }
    }
    let interrupted = episodes.len() < options.episodes as usize;
    let cadence = runner.clock.cadence(started.elapsed());
    let eval_s = started.elapsed().as_secs_f64();
    let n = episodes.len().max(1) as f64;
    let mean = |f: fn(&EpisodeReport) -> f64| episodes.iter().map(f).sum::<f64>() / n;
    Ok(RunReport {
        pc_success: 100.0 * mean(|e| f64::from(u8::from(e.success))),
        avg_max_reward: mean(|e| e.max_reward),
        avg_sum_reward: mean(|e| e.sum_reward),
        eval_s,
        eval_ep_s: eval_s / n,
        n_episodes: episodes.len(),
        inference: runner.total.inference.summary(),
        overhead: runner.total.overhead.summary(),
        end_to_end: runner.total.end_to_end.summary(),
        cadence,
        stages: runner.total.stages(),
        smoothness: runner.smoothness.summary(),
        joining: *runner.link.joining(),
        latency_ms: options.latency.as_secs_f64() * 1e3,
        chunks: runner.link.endings(),
        interrupted,
        episodes,
    })
}

/// What the robot says of `env`: keypoints always, and a picture if the policy has PushT's camera.
fn seen(env: &PushT, info: &PolicyInfo) -> PolicyObs {
    let images = if info.cameras.is_empty() {
        Vec::new()
    } else {
        let frame = render::observation(env);
        let (height, width) = (frame.height as usize, frame.width as usize);
        vec![Picture { name: "image".to_owned(), height, width, data: frame.rgb }]
    };
    PolicyObs {
        state: to_f32(&env.agent_pos()),
        environment_state: to_f32(&env.keypoints()),
        images,
    }
}

struct Runner<'a> {
    link: RobotLink,
    state: Outlet,
    options: &'a SimOptions,
    stop: &'a Stop,
    clock: Clock,
    /// Ticks in a row with nothing to play and no chunk.
    missed: u32,
    /// When the last one came.
    heard: Instant,
    /// Chunks taken until now.
    taken: u64,
    total: LinkLatency,
    smoothness: Smoothness,
}

impl Runner<'_> {
    /// One episode; none if it was interrupted.
    fn episode(
        &mut self,
        number: u32,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<EpisodeReport>> {
        let seed = self.options.seed.wrapping_add(u64::from(number));
        let mut env = PushT::reset(seed);
        self.link.start_episode(number, &to_f32(&env.agent_pos()))?;
        self.smoothness.reset();
        let mut report = EpisodeReport {
            episode: number,
            seed,
            success: false,
            steps: 0,
            max_reward: 0.0,
            sum_reward: 0.0,
            holds: 0,
            chunks: 0,
            inference: LatencySummary::default(),
            overhead: LatencySummary::default(),
        };
        while report.steps < self.options.max_steps && !report.success {
            if self.clock.wait(self.stop) {
                self.absorb_latency()?;
                return Ok(None);
            }
            let begun = Instant::now();
            let asked = self.link.observe(seen(&env, self.link.info()))?;
            self.link.observed_in(begun.elapsed());
            report.chunks += self.receive(asked)?;
            let commanded = self.link.act()?;
            self.clock.commanded();
            self.smoothness.add(&commanded.action, &commanded.source);
            report.holds += u64::from(commanded.is_hold());
            let outcome = env.step(to_f64(&commanded.action)?);
            report.sum_reward += outcome.reward;
            report.max_reward = report.max_reward.max(outcome.reward);
            report.success = outcome.is_success;
            report.steps += 1;
            self.put_state(&env, &report, &outcome, commanded.tick);
            let done = report.success || report.steps == self.options.max_steps;
            observer(Event::Tick(&Tick {
                env: &env,
                episode: number,
                seed,
                step: report.steps - 1,
                plan: self.plan_from(commanded.tick),
                commanded: &commanded,
                outcome: &outcome,
                done,
            }));
        }
        let latency = self.absorb_latency()?;
        report.inference = latency.inference.summary();
        report.overhead = latency.overhead.summary();
        Ok(Some(report))
    }

    fn absorb_latency(&mut self) -> Result<LinkLatency> {
        let latency = self.link.take_latency()?;
        self.total.merge(&latency);
        Ok(latency)
    }

    fn chunk_deadline(&self) -> Instant {
        match self.options.pace {
            Pace::Lockstep => Instant::now() + self.options.chunk_timeout,
            Pace::Realtime => self.clock.tick_start + self.clock.period / 2,
        }
    }

    /// Waits for what was asked, where this pace waits, and takes in what came: the number of chunks taken.
    ///
    /// # Errors
    /// None came for too long.
    fn receive(&mut self, asked: bool) -> Result<u64> {
        let starved = self.link.is_starved();
        let waits = asked && (starved || self.options.pace == Pace::Lockstep);
        if !waits {
            self.link.take_in();
        } else if !self.link.wait_chunk(self.chunk_deadline())
            && self.options.pace == Pace::Lockstep
        {
            // It had all the time there is: the next tick asks again.
            self.link.give_up();
        }
        let taken = self.link.gate().counters().accepted;
        let new = taken - std::mem::replace(&mut self.taken, taken);
        if new > 0 || self.link.is_held_back() || !starved {
            (self.missed, self.heard) = (0, Instant::now());
        } else {
            self.missed += 1;
            self.check_silence()?;
        }
        Ok(new)
    }

    fn check_silence(&self) -> Result<()> {
        if self.heard.elapsed() < self.options.give_up_after {
            return Ok(());
        }
        Err(Error::Bus(format!(
            "no valid chunk for {:.1} s and {} due ticks, the robot holds at {:?}; chunks that came: \
             {:?}; look at the policy's status on {}",
            self.heard.elapsed().as_secs_f64(),
            self.missed,
            self.link.gate().setpoint(),
            self.link.endings(),
            self.link.keys().status()
        )))
    }

    /// The rows of the current chunk from `tick` on.
    fn plan_from(&self, tick: u64) -> Option<(u64, Vec<[f64; 2]>)> {
        let timeline = self.link.gate().timeline();
        let plan = timeline.plan()?;
        let rows: Vec<_> = timeline.left_over(tick).filter_map(|row| to_f64(row).ok()).collect();
        (!rows.is_empty()).then_some((plan.obs_tick, rows))
    }

    fn put_state(&self, env: &PushT, report: &EpisodeReport, outcome: &Outcome, tick: u64) {
        let state = json!({
            "tick": tick,
            "episode": report.episode,
            "seed": report.seed,
            "step": report.steps,
            "state": env.state(),
            "reward": outcome.reward,
            "coverage": outcome.coverage,
            "is_success": outcome.is_success,
        });
        if let Err(error) = self.state.put(state.to_string().into_bytes()) {
            tracing::debug!("{error}");
        }
    }
}

/// The wire carries f32; gym-pusht's own policies see f32 as well.
fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

fn to_f64(action: &[f32]) -> Result<[f64; 2]> {
    match action {
        [x, y] => Ok([f64::from(*x), f64::from(*y)]),
        _ => Err(Error::Invalid(format!("PushT takes 2 values an action, got {}", action.len()))),
    }
}
