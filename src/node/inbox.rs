//! One robot's door to the policy node: bytes in, at most one observation waiting for the worker.
//!
//! Latest wins: an observation that is due a chunk takes the one waiting place, whoever was there
//! is counted as superseded. Every observation enters the history, due or not; what a chunk is made
//! from is taken when it is asked for, so that later observations that ask for nothing do not undo
//! it. The callback only decodes within bounds, checks and stores; inference is the worker's. Every
//! input ends in exactly one counter of [`NodeCounters`](super::status::NodeCounters).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::batch::Bell;
use super::history::{Admission, History};
use super::seam::{Picture, PolicyInfo, PolicyObs};
use super::status::{Ending, Ledger};
use crate::Error;
use crate::action::Continuation;
use crate::wire::{self, Asks, CameraImage, Observation, Time};

/// Most requests of `policy/infer` that wait; the next one is told that the node is busy.
const MAX_WAITING_REQUESTS: usize = 16;

/// Which observation a chunk answers: what the chunk echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObsIdent {
    pub(crate) session: u64,
    pub(crate) tick: u64,
    pub(crate) seq: u64,
    pub(crate) episode: u32,
    pub(crate) step: u32,
    pub(crate) stamp: Time,
}

/// Answers one request: chunk bytes, or words for a refusal.
pub(crate) type Reply = Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>;

/// One inference to do.
pub(crate) struct Job {
    pub(crate) ident: ObsIdent,
    /// `n_obs_steps` observations, oldest first.
    pub(crate) window: Vec<PolicyObs>,
    /// What the robot still has to play, if it said so.
    pub(crate) continuation: Option<Continuation>,
    /// When the observation arrived.
    pub(crate) received: Instant,
    /// Present for a request; absent for an observation that was put.
    pub(crate) reply: Option<Reply>,
}

struct State {
    history: History,
    /// The newest observation that is due a chunk.
    due: Option<Job>,
    requests: VecDeque<Job>,
    closed: bool,
}

/// See the [module](self).
pub(crate) struct Inbox {
    info: PolicyInfo,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// A door to `info`'s policy; `bell` rings when something waits.
    pub(crate) fn new(info: PolicyInfo, ledger: Arc<Ledger>, bell: Arc<Bell>) -> Self {
        let history = History::new(info.n_obs_steps);
        let state = State { history, due: None, requests: VecDeque::new(), closed: false };
        Self { info, ledger, state: Mutex::new(state), bell }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one put observation that arrived at `now`.
    pub(crate) fn offer(&self, encoding: &str, bytes: &[u8], now: Instant) {
        let observation = match self.admit(encoding, bytes) {
            Ok(observation) => observation,
            Err((ending, why)) => return self.ledger.ended(ending, || why),
        };
        let due = wants_chunk(&observation, &self.info);
        let (ident, continuation, obs) = split(observation);
        let mut state = self.lock();
        let admission = state.history.push(ident.session, ident.episode, ident.tick, obs, now);
        let (ending, why) = ending_of(admission);
        self.ledger.ended(ending, || why.to_owned());
        if admission != Admission::Stored {
            return;
        }
        let run = |i: &ObsIdent| (i.session, i.episode);
        if due {
            let window = state.history.window();
            let job = Job { ident, window, continuation, received: now, reply: None };
            if state.due.replace(job).is_some() {
                self.ledger.superseded();
            }
            drop(state);
            self.bell.ring();
        } else if state.due.as_ref().is_some_and(|waiting| run(&waiting.ident) != run(&ident)) {
            // Nobody plays a chunk of an episode that is over.
            state.due = None;
            self.ledger.superseded();
        }
    }

    /// Takes in one request. A request may repeat the newest observation: it is answered again.
    pub(crate) fn request(&self, encoding: &str, bytes: &[u8], now: Instant, reply: Reply) {
        let refuse = |why: String, reply: Reply| {
            self.ledger.request_refused(why.clone());
            reply(Err(why));
        };
        let observation = match self.admit(encoding, bytes) {
            Ok(observation) => observation,
            Err((ending, why)) => {
                self.ledger.ended(ending, || why.clone());
                return refuse(why, reply);
            }
        };
        let (ident, continuation, obs) = split(observation);
        let mut state = self.lock();
        let repeated = state.history.is_newest(ident.session, ident.episode, ident.tick);
        let admission = if repeated {
            Admission::Stored
        } else {
            state.history.push(ident.session, ident.episode, ident.tick, obs, now)
        };
        let (ending, why) = ending_of(admission);
        self.ledger.ended(ending, || why.to_owned());
        if admission != Admission::Stored {
            drop(state);
            return refuse(why.to_owned(), reply);
        }
        if state.closed || state.requests.len() >= MAX_WAITING_REQUESTS {
            drop(state);
            return refuse("the policy node is busy or closing: ask again".to_owned(), reply);
        }
        let window = state.history.window();
        let reply = Some(reply);
        state.requests.push_back(Job { ident, window, continuation, received: now, reply });
        drop(state);
        self.bell.ring();
    }

    /// Forgets the history; the next observation of any run is adopted.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.history.reset();
        state.due = None;
    }

    /// The observation that waits for a chunk.
    pub(crate) fn take_due(&self) -> Option<Job> {
        self.lock().due.take()
    }

    /// The oldest request that waits.
    pub(crate) fn take_request(&self) -> Option<Job> {
        self.lock().requests.pop_front()
    }

    /// Refuses the requests that still wait, and all that come later.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.requests)
        };
        for job in waiting {
            if let Some(reply) = job.reply {
                reply(Err("the policy node is closing".to_owned()));
            }
        }
    }

    /// The checks that need no history: schema, bytes, finiteness, shapes.
    fn admit(&self, encoding: &str, bytes: &[u8]) -> Result<Observation, (Ending, String)> {
        if encoding != wire::OBSERVATION.encoding {
            let want = wire::OBSERVATION.encoding;
            let why = format!("observation: expected encoding {want:?}, got {encoding:?}");
            return Err((Ending::WrongSchema, why));
        }
        let mut observation = Observation::decode(bytes).map_err(|error| {
            let ending = match error {
                Error::Rejected { .. } => Ending::NotFinite,
                _ => Ending::Malformed,
            };
            (ending, format!("observation: {error}"))
        })?;
        for (name, values, dim) in [
            ("state", &observation.state, self.info.state_dim),
            ("environment_state", &observation.environment_state, self.info.environment_state_dim),
        ] {
            // A robot may send an environment state that this policy does not use.
            if dim != 0 && values.len() != dim {
                let why = format!(
                    "observation.{name}: expected {dim} values, got {}; see policy/info",
                    values.len()
                );
                return Err((Ending::WrongShape, why));
            }
        }
        for camera in &self.info.cameras {
            let Some(image) = observation.images.iter().find(|i| i.name == camera.name) else {
                let sent: Vec<_> = observation.images.iter().map(|i| i.name.as_str()).collect();
                let why = format!(
                    "observation.images: expected a camera {:?}, got {sent:?}; see policy/info",
                    camera.name
                );
                return Err((Ending::WrongShape, why));
            };
            let size = (usize::from(image.height), usize::from(image.width));
            if size != (camera.height, camera.width) || image.encoding != "rgb8" {
                let why = format!(
                    "observation.images.{}: expected rgb8 of {} x {}, got {} of {} x {}",
                    camera.name, camera.height, camera.width, image.encoding, size.0, size.1
                );
                return Err((Ending::WrongShape, why));
            }
        }
        if !observation.left_over.len().is_multiple_of(self.info.action_dim) {
            let why = format!(
                "observation.left_over: expected rows of {} values, got {} values; see policy/info",
                self.info.action_dim,
                observation.left_over.len()
            );
            return Err((Ending::WrongShape, why));
        }
        // A chunk cannot continue what lies beyond its own end.
        observation.left_over.truncate(self.info.horizon * self.info.action_dim);
        // What the policy does not look at is not kept.
        let looks_at = |i: &CameraImage| self.info.cameras.iter().any(|c| c.name == i.name);
        observation.images.retain(looks_at);
        Ok(observation)
    }
}

/// Whether a chunk is due: as the robot says, or else by the policy's own replanning interval, when
/// the robot plays none or has played `n_action_steps` rows of it.
pub(crate) fn wants_chunk(observation: &Observation, info: &PolicyInfo) -> bool {
    match observation.request {
        Asks::Chunk => true,
        Asks::Nothing => false,
        Asks::ByRule => {
            observation.executing_chunk == 0
                || usize::try_from(observation.executing_index)
                    .map_or(true, |index| index >= info.n_action_steps)
        }
    }
}

fn split(observation: Observation) -> (ObsIdent, Option<Continuation>, PolicyObs) {
    let ident = ObsIdent {
        session: observation.session,
        tick: observation.tick,
        seq: observation.seq,
        episode: observation.episode,
        step: observation.step,
        stamp: observation.header.stamp,
    };
    let obs = PolicyObs {
        state: observation.state,
        environment_state: observation.environment_state,
        images: observation.images.into_iter().map(picture).collect(),
    };
    let continuation = (!observation.left_over.is_empty()).then_some(Continuation {
        left_over: observation.left_over,
        delay: observation.expected_delay.into(),
    });
    (ident, continuation, obs)
}

fn picture(image: CameraImage) -> Picture {
    Picture {
        name: image.name,
        height: image.height.into(),
        width: image.width.into(),
        data: image.data,
    }
}

fn ending_of(admission: Admission) -> (Ending, &'static str) {
    match admission {
        Admission::Stored => (Ending::Accepted, ""),
        Admission::Duplicate => (Ending::Duplicate, "observation: this tick is known already"),
        Admission::OutOfOrder => {
            (Ending::OutOfOrder, "observation: its tick or episode is older than the newest")
        }
        Admission::OtherSession => (
            Ending::OtherSession,
            "observation of another run while the current one is alive: ask policy/reset first",
        ),
    }
}
