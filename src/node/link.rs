//! The robot's end of the bus: say what was seen, take what fits, command what belongs to now.
//!
//! ```text
//! observe ─► …/obs                                  one call a tick each:
//! …/cmd/chunk ─ queue ─► gate ─► timeline           observe → wait_chunk or take_in → act
//! act ◄─ the row of this tick, or hold ─► …/cmd/action
//! ```
//! The gate and the tick are the robot's own; the bus only carries bytes. Whatever comes in ends
//! in exactly one counter of the gate, or in `overflow` if the queue was full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::{Session, Wait};

use super::bus::{Outlet, ask, bus_error, declare_alive, wait_alive, watch_alive};
use super::clock::draw_nonce;
use super::latency::Latency;
use super::seam::{Picture, PolicyInfo, PolicyObs};
use super::stop::Stop;
use crate::action::{Gate, GateConfig, Limit, Source, Verdict};
use crate::wire::{
    self, Action, ActionChunkMsg, CameraImage, Congestion, Header, Keys, Observation, Qos, Role,
    Time,
};
use crate::{Error, Result};

/// Chunks that wait for the robot's loop; it takes them in once a tick at least.
const QUEUE: usize = 64;
/// How often the wait for a policy looks at the stop flag.
const STOP_PERIOD: Duration = Duration::from_millis(100);
/// Deadline of one question to the policy.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Chunks in a row with a value that is not finite after which the gate latches.
const LATCH_AFTER: u32 = 10;

/// What a robot is, to the gate and to the bus.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotConfig {
    /// Robot id, the second chunk of every key.
    pub robot: String,
    /// `Sim` or `Executor`.
    pub role: Role,
    /// One limit for each value of an action. Mandatory.
    pub limits: Vec<Limit>,
    /// How far outside its limits a value may lie and still be clamped, as a share of the range.
    pub overshoot: f32,
    /// Oldest observation that an action may answer, and longest silence, in ticks; but at least
    /// two more than the rows that the policy wants executed from a chunk.
    pub max_obs_age: u64,
    /// What happens to an observation when the link is full. `Drop` for a robot: nothing may stall
    /// its loop. `Block` for a simulator in lockstep: nothing may be lost, and it has time.
    pub congestion: Congestion,
    /// The task in words; may be empty.
    pub task: String,
}

impl RobotConfig {
    /// PushT's agent: targets in [0, 512] px in both axes, no limit on the step (the physics has a
    /// PD controller), a second of memory at 10 Hz.
    pub fn pusht() -> Self {
        let limit = Limit { lo: 0.0, hi: 512.0, max_step: None };
        Self {
            robot: "pusht".to_owned(),
            role: Role::Sim,
            limits: vec![limit; 2],
            overshoot: 0.1,
            max_obs_age: 10,
            congestion: Congestion::Drop,
            task: "push the T onto the goal".to_owned(),
        }
    }
}

/// A picture as the wire has it.
fn image(picture: Picture) -> Result<CameraImage> {
    let side = |n: usize| {
        u16::try_from(n)
            .map_err(|_| Error::range("picture: height or width", "at most 65535", n as f64))
    };
    Ok(CameraImage {
        name: picture.name,
        encoding: "rgb8".to_owned(),
        height: side(picture.height)?,
        width: side(picture.width)?,
        data: picture.data,
    })
}

/// What the robot measured, on its own clock.
#[derive(Debug, Clone)]
pub struct LinkLatency {
    /// Inference as the chunks report it.
    pub inference: Latency,
    /// From putting an observation to having its chunk, less the reported inference.
    pub overhead: Latency,
    /// From putting an observation to commanding the first row of its chunk.
    pub end_to_end: Latency,
}

impl LinkLatency {
    /// Empty.
    ///
    /// # Errors
    /// As [`Latency::new`].
    pub fn new() -> Result<Self> {
        let empty = Latency::new()?;
        Ok(Self { inference: empty.clone(), overhead: empty.clone(), end_to_end: empty })
    }

    /// Adds all samples of another.
    pub fn merge(&mut self, other: &Self) {
        self.inference.merge(&other.inference);
        self.overhead.merge(&other.overhead);
        self.end_to_end.merge(&other.end_to_end);
    }
}

/// What the robot did at one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Commanded {
    /// The tick.
    pub tick: u64,
    /// `[dim]`, robot units.
    pub action: Vec<f32>,
    /// Row of a chunk, or hold.
    pub source: Source,
}

impl Commanded {
    /// Whether the robot held its last command for want of a valid chunk.
    pub fn is_hold(&self) -> bool {
        matches!(self.source, Source::Hold)
    }
}

struct Incoming {
    encoding: String,
    bytes: Vec<u8>,
    at: Instant,
}

/// The robot's end of the bus: observe, take in, act.
pub struct RobotLink {
    keys: Keys,
    info: PolicyInfo,
    task: String,
    gate: Gate,
    session: u64,
    tick: u64,
    observations: u64,
    episode: u32,
    step: u32,
    observed_at: Instant,
    /// Whether a chunk for the observation of this tick was taken.
    fresh: bool,
    latency: LinkLatency,
    incoming: Receiver<Incoming>,
    overflow: Arc<AtomicU64>,
    observation: Outlet,
    action: Outlet,
    _chunks: Subscriber<()>,
    _alive: LivelinessToken,
}

impl RobotLink {
    /// Declares the robot's keys, waits for a policy, and makes the gate for it.
    ///
    /// `position` is where the robot stands, `[dim]` in robot units.
    ///
    /// # Errors
    /// No policy within `timeout`; one whose actions have another dimension; impossible limits;
    /// `stop` was set.
    pub fn connect(
        session: &Session,
        config: &RobotConfig,
        position: &[f32],
        timeout: Duration,
        stop: &Stop,
    ) -> Result<Self> {
        let keys = Keys::new(&config.robot)?;
        let (sender, incoming) = sync_channel(QUEUE);
        let overflow = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&overflow);
        let chunks = session
            .declare_subscriber(keys.chunk())
            .callback(move |sample| {
                let at = Instant::now();
                let encoding = sample.encoding().to_string();
                let bytes = sample.payload().to_bytes().into_owned();
                if let Err(TrySendError::Full(_)) =
                    sender.try_send(Incoming { encoding, bytes, at })
                {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            })
            .wait()
            .map_err(bus_error("chunks"))?;
        let encoding = wire::OBSERVATION.encoding;
        let congested = |qos: Qos| Qos { congestion: config.congestion, ..qos };
        let qos = congested(Qos::observation(0));
        let observation = Outlet::declare(session, &keys.observation(), encoding, qos)?;
        let qos = congested(Qos::ACTION);
        let action = Outlet::declare(session, &keys.action(), wire::ACTION.encoding, qos)?;
        let alive = declare_alive(session, &keys.alive(config.role, &session.zid().to_string())?)?;

        // Our subscriber is declared before the question: who answers it knows where chunks go.
        let info = find_policy(session, &keys, timeout, stop)?;
        if info.action_dim != config.limits.len() {
            return Err(Error::Invalid(format!(
                "policy {:?} answers {} values an action, the robot {:?} takes {}",
                info.name,
                info.action_dim,
                config.robot,
                config.limits.len()
            )));
        }
        let session_nonce = draw_nonce();
        let age = config.max_obs_age.max(info.n_action_steps as u64 + 2);
        let gate_config = GateConfig {
            session: session_nonce,
            limits: config.limits.clone(),
            max_horizon: info.horizon,
            max_obs_age: age,
            heartbeat: age,
            overshoot: config.overshoot,
            latch_after: LATCH_AFTER,
        };
        // A run before ours may still be the one that the policy listens to.
        ask(session, &keys.policy_reset(), Some(b"{}".to_vec()), ASK_TIMEOUT)?;
        Ok(Self {
            gate: Gate::new(gate_config, position)?,
            keys,
            info,
            task: config.task.clone(),
            session: session_nonce,
            tick: 0,
            observations: 0,
            episode: 0,
            step: 0,
            observed_at: Instant::now(),
            fresh: false,
            latency: LinkLatency::new()?,
            incoming,
            overflow,
            observation,
            action,
            _chunks: chunks,
            _alive: alive,
        })
    }

    /// Starts an episode with the robot standing at `position`; nothing older is played in it.
    ///
    /// # Errors
    /// A position that is not finite or out of limits.
    pub fn start_episode(&mut self, episode: u32, position: &[f32]) -> Result<()> {
        self.gate.reset(position)?;
        self.episode = episode;
        self.step = 0;
        Ok(())
    }

    /// Puts the observation of this tick; returns whether a chunk is due for it, by the policy's
    /// own replanning interval.
    ///
    /// # Errors
    /// A value that is not finite, or a closed session.
    pub fn observe(&mut self, seen: PolicyObs) -> Result<bool> {
        let executing = self.gate.executing(self.tick);
        self.observations += 1;
        let message = Observation {
            header: Header { stamp: Time::now(), frame_id: self.keys.robot().to_owned() },
            session: self.session,
            tick: self.tick,
            seq: self.observations,
            episode: self.episode,
            step: self.step,
            task: self.task.clone(),
            state: seen.state,
            environment_state: seen.environment_state,
            images: seen.images.into_iter().map(image).collect::<Result<_>>()?,
            executing_chunk: executing.chunk_seq,
            executing_index: executing.index,
            ..Observation::default()
        };
        let due = super::inbox::wants_chunk(&message, &self.info);
        let bytes = message.encode()?;
        self.gate.observed(self.observations, self.tick);
        self.fresh = false;
        self.observed_at = Instant::now();
        self.observation.put(bytes)?;
        Ok(due)
    }

    /// Takes in what came, without waiting.
    pub fn take_in(&mut self) {
        while let Ok(incoming) = self.incoming.try_recv() {
            self.offer(&incoming);
        }
    }

    /// Takes in what comes until a chunk for this tick's observation is taken, or `deadline`;
    /// returns whether one was.
    pub fn wait_chunk(&mut self, deadline: Instant) -> bool {
        loop {
            if self.fresh {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(incoming) => self.offer(&incoming),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Commands this tick's action, puts what was commanded, and goes on to the next tick.
    ///
    /// # Errors
    /// A closed session; the command was still chosen by the gate.
    pub fn act(&mut self) -> Result<Commanded> {
        let command = self.gate.step(self.tick);
        let source = command.source;
        let executing = source.executing();
        let message = Action {
            stamp: Time::now(),
            tick: self.tick,
            chunk_seq: executing.chunk_seq,
            index: executing.index,
            action: command.action.to_vec(),
        };
        let sent = self.action.put(message.encode()?);
        if self.fresh {
            self.latency.end_to_end.record(self.observed_at.elapsed());
        }
        let commanded = Commanded { tick: self.tick, action: message.action, source };
        self.tick += 1;
        self.step += 1;
        sent.map(|()| commanded)
    }

    fn offer(&mut self, incoming: &Incoming) {
        let verdict = wire::offer(&mut self.gate, &incoming.encoding, &incoming.bytes, self.tick);
        match verdict {
            Verdict::Accepted { .. } => {
                let answers_now =
                    self.gate.timeline().plan().is_some_and(|plan| plan.obs_tick == self.tick);
                if answers_now {
                    self.fresh = true;
                    self.measure(incoming);
                }
            }
            Verdict::Rejected(reason) => tracing::debug!("chunk refused: {}", reason.name()),
        }
    }

    fn measure(&mut self, incoming: &Incoming) {
        let Ok(message) = ActionChunkMsg::decode(&incoming.bytes) else { return };
        let inference = Duration::try_from_secs_f32(message.infer_ms / 1e3).unwrap_or_default();
        let total = incoming.at.saturating_duration_since(self.observed_at);
        self.latency.inference.record(inference);
        self.latency.overhead.record(total.saturating_sub(inference));
    }

    /// The policy that answers.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// The gate: its state, counters, plan and setpoint.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The keys of this robot.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// This run's nonce.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The tick that comes next.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Latencies since the last call.
    ///
    /// # Errors
    /// As [`Latency::new`].
    pub fn take_latency(&mut self) -> Result<LinkLatency> {
        Ok(std::mem::replace(&mut self.latency, LinkLatency::new()?))
    }

    /// Endings of all chunks that came, by name: `accepted`, every reason that occurred, `overflow`.
    pub fn endings(&self) -> BTreeMap<String, u64> {
        let counters = self.gate.counters();
        let mut endings: BTreeMap<String, u64> = counters
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        endings.insert("accepted".to_owned(), counters.accepted);
        let overflow = self.overflow.load(Ordering::Relaxed);
        if overflow > 0 {
            endings.insert("overflow".to_owned(), overflow);
        }
        endings
    }
}

/// Waits for a policy's liveliness token and asks it what it is.
fn find_policy(
    session: &Session,
    keys: &Keys,
    timeout: Duration,
    stop: &Stop,
) -> Result<PolicyInfo> {
    let watch = watch_alive(session, &keys.alive_any(Role::Policy))?;
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if stop.is_set() {
            return Err(Error::Bus("interrupted while waiting for a policy".to_owned()));
        }
        if !wait_alive(&watch, deadline.min(Instant::now() + STOP_PERIOD))? {
            continue;
        }
        // The token may have outlived its owner by a moment: no answer means wait for the next.
        if let Some(bytes) = ask(session, &keys.info(), None, ASK_TIMEOUT)? {
            let info: PolicyInfo = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Bus(format!("{}: {error}", keys.info())))?;
            info.validate()?;
            return Ok(info);
        }
    }
    Err(Error::Bus(format!(
        "no policy answers on {} after {:.1} s: start `pathline serve --policy DIR`, and check that \
         both sides use the same endpoint (-e here, -l there) and robot",
        keys.info(),
        timeout.as_secs_f64()
    )))
}
