//! The robot's end of the bus: say what was seen, take what fits, command what belongs to now.
//!
//! ```text
//! observe ─ executor: ask? ─► …/obs                 one call a tick each:
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

use super::bus::{JSON, Outlet, ask, bus_error, declare_alive};
use super::choice::ticks_between;
use super::clock::draw_nonce;
use super::find::{ASK_TIMEOUT, find_policy};
use super::held::{Held, Incoming};
use super::robot::{Commanded, RobotConfig, pusht_file};
use super::seam::{Picture, PolicyInfo, PolicyObs};
use super::stages::LinkLatency;
use super::stop::Stop;
use crate::action::{Executing, Executor, Gate, Joining, Reason, Source, Verdict};
use crate::wire::{
    self, Action, ActionChunkMsg, Asks, CameraImage, Header, Keys, Observation, Qos, Time,
};
use crate::{Error, Result};

/// Chunks that wait for the robot's loop; it takes them in once a tick at least.
const QUEUE: usize = 64;
/// Longest wait for the chunk of the warm-up.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The observation that a chunk was asked for last.
struct Asked {
    obs_seq: u64,
    put_at: Instant,
    /// Its chunk came; it may still be held back.
    came: bool,
    /// Its first row was commanded.
    commanded: bool,
}

/// The robot's end of the bus: observe, take in, act.
pub struct RobotLink {
    session: Session,
    keys: Keys,
    info: PolicyInfo,
    task: String,
    joining: Joining,
    executor: Executor,
    gate: Gate,
    nonce: u64,
    tick: u64,
    observations: u64,
    episode: u32,
    step: u32,
    asked: Option<Asked>,
    held: Held,
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
    /// No policy within `timeout`; one whose actions have another dimension, whose chunks cannot be
    /// joined as was chosen, or come too seldom for the robot's heartbeat; impossible limits; `stop`
    /// was set.
    pub fn connect(
        session: &Session,
        config: &RobotConfig,
        position: &[f32],
        timeout: Duration,
        stop: &Stop,
    ) -> Result<Self> {
        let keys = Keys::new(&config.robot)?;
        let file = match &config.file {
            Some(file) => file.clone(),
            None => pusht_file()?,
        };
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
        if info.action_dim != file.joints.len() {
            return Err(Error::Invalid(format!(
                "policy {:?} answers {} values an action, the robot {:?} takes {}",
                info.name,
                info.action_dim,
                file.name,
                file.joints.len()
            )));
        }
        let joining = config.joining.apply(info.joining, info.horizon)?;
        let nonce = draw_nonce();
        let gate = file.gate(nonce, info.horizon, joining.join(info.n_action_steps))?;
        let between = ticks_between(&joining, info.horizon, info.n_action_steps);
        if between > gate.heartbeat.min(gate.max_obs_age) {
            return Err(Error::Invalid(format!(
                "a chunk every {between} ticks, as joining {:?} with {} rows executed of {} asks for it, and \
                 the robot {:?} holds after {} ticks without one: lower n_action_steps \
                 (--n-action-steps), or raise heartbeat_s and max_obs_age_s in its robot file",
                joining.mode.name(),
                joining.n_action_steps.unwrap_or(info.n_action_steps),
                info.horizon,
                file.name,
                gate.heartbeat.min(gate.max_obs_age)
            )));
        }
        // One request that is lost shall not make the robot hold.
        let patience = gate.heartbeat.div_ceil(2);
        let executor = Executor::new(joining, info.horizon, info.n_action_steps, patience)?;
        let link = Self {
            session: session.clone(),
            gate: Gate::new(gate, position)?,
            keys,
            info,
            task: config.task.clone(),
            joining,
            executor,
            nonce,
            tick: 0,
            observations: 0,
            episode: 0,
            step: 0,
            asked: None,
            held: Held::new(config.delay),
            latency: LinkLatency::new()?,
            incoming,
            overflow,
            observation,
            action,
            _chunks: chunks,
            _alive: alive,
        };
        // A run before ours may still be the one that the policy listens to.
        link.reset_policy()?;
        Ok(link)
    }

    fn reset_policy(&self) -> Result<()> {
        let payload = Some((b"{}".to_vec(), JSON));
        ask(&self.session, &self.keys.policy_reset(), payload, ASK_TIMEOUT).map(|_| ())
    }

    /// Asks for one chunk that nobody plays or counts, so that the first one that is played is not the
    /// slow one. True if it came.
    ///
    /// # Errors
    /// A value that is not finite, a picture too large, a closed session, or a refusal in the policy's words.
    pub fn warm_up(&self, seen: PolicyObs) -> Result<bool> {
        let message = self.message(seen)?;
        let payload = Some((message.encode()?, wire::OBSERVATION.encoding));
        let answer = ask(&self.session, &self.keys.infer(), payload, WARM_UP_TIMEOUT);
        // The policy has this tick in its history now, where the run shall begin.
        self.reset_policy()?;
        answer.map(|answer| answer.is_some())
    }

    /// Starts an episode with the robot standing at `position`; nothing older is played in it.
    ///
    /// # Errors
    /// A position that is not finite or out of limits.
    pub fn start_episode(&mut self, episode: u32, position: &[f32]) -> Result<()> {
        self.gate.reset(position)?;
        self.executor.reset();
        self.asked = None;
        self.held.clear();
        self.episode = episode;
        self.step = 0;
        Ok(())
    }

    /// Takes in what came, and puts the observation of this tick; returns whether it asks for a chunk.
    ///
    /// # Errors
    /// A value that is not finite, a picture too large, or a closed session.
    pub fn observe(&mut self, seen: PolicyObs) -> Result<bool> {
        self.take_in();
        let mut message = self.message(seen)?;
        let obs_seq = message.seq;
        let timeline = self.gate.timeline();
        let ask = self.executor.ask(timeline, obs_seq, self.tick);
        message.request = Asks::Nothing;
        if let Some(ask) = ask {
            message.request = Asks::Chunk;
            message.expected_delay = u16::try_from(ask.expected_delay).unwrap_or(u16::MAX);
            // Only a policy that continues chunks has a use for it.
            if self.joining.mode.form().is_some() {
                message.left_over = timeline.left_over(self.tick).flatten().copied().collect();
            }
        }
        let bytes = message.encode()?;
        self.observations = obs_seq;
        self.gate.observed(obs_seq, self.tick);
        if ask.is_some() {
            let put_at = Instant::now();
            self.asked = Some(Asked { obs_seq, put_at, came: false, commanded: false });
        }
        self.observation.put(bytes)?;
        Ok(ask.is_some())
    }

    /// The next observation, but for what it asks.
    fn message(&self, seen: PolicyObs) -> Result<Observation> {
        let executing = self.gate.executing(self.tick);
        Ok(Observation {
            header: Header { stamp: Time::now(), frame_id: self.keys.robot().to_owned() },
            session: self.nonce,
            tick: self.tick,
            seq: self.observations + 1,
            episode: self.episode,
            step: self.step,
            task: self.task.clone(),
            state: seen.state,
            environment_state: seen.environment_state,
            images: seen.images.into_iter().map(image).collect::<Result<_>>()?,
            executing_chunk: executing.chunk_seq,
            executing_index: executing.index,
            request: Asks::Chunk,
            ..Observation::default()
        })
    }

    /// Takes in what came, without waiting.
    pub fn take_in(&mut self) {
        while let Ok(incoming) = self.incoming.try_recv() {
            self.receive(incoming);
        }
        self.release();
    }

    /// Takes in what comes until the chunk that was asked for is there, or `deadline`; returns whether it
    /// came. With a delay in ticks it is held back all the same.
    pub fn wait_chunk(&mut self, deadline: Instant) -> bool {
        loop {
            self.release();
            let came = self.asked.as_ref().is_none_or(|asked| asked.came);
            if came && self.held.next_time().is_none() {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            let until = self.held.next_time().map_or(deadline, |at| deadline.min(at));
            match self.incoming.recv_timeout(until.saturating_duration_since(now)) {
                Ok(incoming) => self.receive(incoming),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Gives up the chunk that was asked for, so that the next tick asks again.
    pub fn give_up(&mut self) {
        self.executor.reset();
    }

    /// Commands this tick's action, puts what was commanded, and goes on to the next tick.
    ///
    /// # Errors
    /// A closed session; the command was still chosen by the gate.
    pub fn act(&mut self) -> Result<Commanded> {
        self.act_with(&mut |_, _| {})
    }

    /// As [`RobotLink::act`] for a robot with several commands a tick: `command` gets the number and the
    /// action of each, in time or not is its own affair. The last one is what is put.
    ///
    /// # Errors
    /// As [`RobotLink::act`].
    pub fn act_with(&mut self, command: &mut dyn FnMut(u32, &[f32])) -> Result<Commanded> {
        let last = self.gate.config().commands_per_tick.saturating_sub(1);
        for sub in 0..last {
            command(sub, self.gate.step_at(self.tick, sub).action);
        }
        let commanded = self.gate.step_at(self.tick, last);
        command(last, commanded.action);
        let source = commanded.source;
        let executing = source.executing();
        let message = Action {
            stamp: Time::now(),
            tick: self.tick,
            chunk_seq: executing.chunk_seq,
            index: executing.index,
            action: commanded.action.to_vec(),
        };
        let sent = self.action.put(message.encode()?);
        if let (Some(asked), Source::Chunk(row)) = (&mut self.asked, source)
            && row.obs_seq == asked.obs_seq
            && !asked.commanded
        {
            asked.commanded = true;
            self.latency.end_to_end.record(asked.put_at.elapsed());
        }
        let commanded = Commanded { tick: self.tick, action: message.action, source };
        self.tick += 1;
        self.step += 1;
        sent.map(|()| commanded)
    }

    /// Measures a chunk that came, and offers it when it was held back long enough.
    fn receive(&mut self, incoming: Incoming) {
        let tick = self.measure(&incoming);
        // What is no answer to us cannot be dated; the gate refuses it whenever it comes.
        self.held.push(tick.unwrap_or(self.tick), incoming);
        self.release();
    }

    /// Offers what was held back long enough, in the order in which it came.
    fn release(&mut self) {
        while let Some(incoming) = self.held.pop(self.tick, Instant::now()) {
            self.offer(&incoming);
        }
    }

    fn offer(&mut self, incoming: &Incoming) {
        let verdict = wire::offer(&mut self.gate, &incoming.encoding, &incoming.bytes, self.tick);
        let answered = match verdict {
            Verdict::Accepted { .. } => {
                self.gate.timeline().plan().map(|p| (p.obs_seq, p.obs_tick))
            }
            Verdict::Rejected(reason) => {
                tracing::debug!("chunk refused: {}", reason.name());
                // An answer that is of no use is an answer: a request need not wait to be lost.
                let answer = ActionChunkMsg::decode(&incoming.bytes).ok();
                answer.filter(|m| m.chunk.session == self.nonce).and_then(|m| {
                    let late = [Reason::Expired, Reason::StaleObservation, Reason::Discontinuous];
                    late.contains(&reason).then_some((m.chunk.obs_seq, m.chunk.obs_tick))
                })
            }
        };
        if let Some((obs_seq, obs_tick)) = answered {
            let consumed = self.gate.timeline().played(obs_tick, self.tick);
            self.executor.answered(obs_seq, self.tick, consumed, false);
        }
    }

    /// Notes whether this is what was asked for, and its latencies; the tick that it answers, if it is
    /// this robot's.
    fn measure(&mut self, incoming: &Incoming) -> Option<u64> {
        let message = ActionChunkMsg::decode(&incoming.bytes).ok()?;
        let chunk = &message.chunk;
        if chunk.session != self.nonce {
            return None;
        }
        if let Some(asked) = &mut self.asked
            && asked.obs_seq == chunk.obs_seq
            && !asked.came
        {
            asked.came = true;
            let way = incoming.at.saturating_duration_since(asked.put_at);
            self.latency.answered(&message, way);
        }
        Some(chunk.obs_tick)
    }

    /// Notes how long looking and putting took.
    pub fn observed_in(&mut self, time: Duration) {
        self.latency.observe.record(time);
    }

    /// Whether nothing is left to play: the robot holds this tick unless a chunk comes.
    pub fn is_starved(&self) -> bool {
        self.gate.executing(self.tick) == Executing::NOTHING
    }

    /// Whether a chunk is held back.
    pub fn is_held_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// The policy that answered at the start.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// How chunks are joined.
    pub fn joining(&self) -> &Joining {
        &self.joining
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
        self.nonce
    }

    /// The tick that comes next.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Latencies since the last call.
    ///
    /// # Errors
    /// As [`Latency::new`](super::Latency::new).
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
