//! The policy node: observations in, action chunks out.
//!
//! ```text
//! …/obs ─ callback: decode, check, store ─► inbox (history + one waiting place)
//!                                             │
//!                                          worker ─ policy.infer ─► …/cmd/chunk
//! …/policy/infer ─ request ─────────────────► │ ─► reply
//! …/policy/{info,reset,status} are answered at once; status is also put once a second
//! ```
//! The node is present (its liveliness token exists) from the moment it can answer: after the
//! warm-up, and after everything else is declared.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::query::{Query, Queryable};
use zenoh::{Session, Wait};

use super::bus::{JSON, Outlet, bus_error, declare_alive};
use super::clock::wall_nanos;
use super::inbox::Inbox;
use super::seam::{ChunkPolicy, PolicyInfo};
use super::status::{Ledger, NodeState, NodeStatus};
use super::stop::Stop;
use super::worker::{TraceSink, Worker};
use crate::wire::{self, Keys, Qos, Role};
use crate::{Error, Result};

/// How often the status is put.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// What a policy node is started with.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Robot id, the second chunk of every key.
    pub robot: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Where the sampler's intermediate states go, if somebody draws them.
    pub trace: Option<TraceSink>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { robot: "pusht".to_owned(), seed: 0, trace: None }
    }
}

/// A running policy node. Dropping it closes it too; [`PolicyNode::close`] also reports.
pub struct PolicyNode {
    info: PolicyInfo,
    inbox: Arc<Inbox>,
    ledger: Arc<Ledger>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
    declared: Option<Declared>,
}

/// What lives as long as the node; in the order of undeclaring.
struct Declared {
    alive: LivelinessToken,
    observations: Subscriber<()>,
    queryables: Vec<Queryable<()>>,
}

impl PolicyNode {
    /// Warms the policy up, declares everything and starts to answer.
    ///
    /// # Errors
    /// A policy whose info or warm-up chunk makes no sense, a robot id that is no key, a session
    /// that is closed.
    pub fn start(
        session: &Session,
        policy: Box<dyn ChunkPolicy>,
        options: ServeOptions,
    ) -> Result<Self> {
        let info = policy.info();
        info.validate()?;
        let keys = Keys::new(&options.robot)?;
        let ledger = Arc::new(Ledger::new()?);
        let inbox = Arc::new(Inbox::new(info.clone(), Arc::clone(&ledger)));
        let chunks =
            Outlet::declare(session, &keys.chunk(), wire::ACTION_CHUNK.encoding, Qos::CHUNK)?;
        let mut worker = Worker {
            policy,
            info: info.clone(),
            inbox: Arc::clone(&inbox),
            ledger: Arc::clone(&ledger),
            publish: Box::new(move |bytes| chunks.put(bytes)),
            seed: options.seed,
            trace: options.trace,
            epoch: wall_nanos().unsigned_abs(),
            sequence: 0,
        };
        worker.warm_up()?;
        ledger.set_state(NodeState::Ready);

        let observations = {
            let inbox = Arc::clone(&inbox);
            session
                .declare_subscriber(keys.observation())
                .callback(move |sample| {
                    let now = Instant::now();
                    let encoding = sample.encoding().to_string();
                    inbox.offer(&encoding, &sample.payload().to_bytes(), now);
                })
                .wait()
                .map_err(bus_error("observations"))?
        };
        let queryables = declare_queryables(session, &keys, &info, &inbox, &ledger)?;
        let status = Outlet::declare(session, &keys.status(), JSON, Qos::STATUS)?;
        let alive = declare_alive(session, &keys.alive(Role::Policy, &session.zid().to_string())?)?;

        let stop = Stop::new();
        let mut node = Self {
            info,
            inbox,
            ledger,
            stop: stop.clone(),
            threads: Vec::new(),
            declared: Some(Declared { alive, observations, queryables }),
        };
        node.threads.push(spawn("policy", move || worker.run())?);
        let ledger = Arc::clone(&node.ledger);
        node.threads.push(spawn("status", move || {
            while !stop.wait_timeout(STATUS_PERIOD) {
                put_status(&status, &ledger.report(true));
            }
            put_status(&status, &ledger.report(true));
        })?);
        Ok(node)
    }

    /// What is served.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// The report of now.
    pub fn status(&self) -> NodeStatus {
        self.ledger.report(false)
    }

    /// Whether the worker lives; false after a panic in the policy.
    pub fn is_alive(&self) -> bool {
        self.ledger.state() != NodeState::Stopped
    }

    /// Stops answering, undeclares everything, waits for the threads; the last report.
    ///
    /// # Errors
    /// The policy's thread died.
    pub fn close(mut self) -> Result<NodeStatus> {
        self.shut()?;
        Ok(self.status())
    }

    fn shut(&mut self) -> Result<()> {
        if let Some(declared) = self.declared.take() {
            let Declared { alive, observations, queryables } = declared;
            // The session may be closed already: then there is nothing left to undeclare.
            let _ = alive.undeclare().wait();
            let _ = observations.undeclare().wait();
            for queryable in queryables {
                let _ = queryable.undeclare().wait();
            }
        }
        self.inbox.close();
        self.stop.set();
        let mut dead = false;
        for thread in self.threads.drain(..) {
            dead |= thread.join().is_err();
        }
        self.ledger.set_state(NodeState::Stopped);
        if dead {
            Err(Error::Invalid("a thread of the policy node panicked".to_owned()))
        } else {
            Ok(())
        }
    }
}

impl Drop for PolicyNode {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::error!("{error}");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| Error::io(name, e))
}

fn put_status(outlet: &Outlet, status: &NodeStatus) {
    // Status is best effort: a closed session ends it, nothing else depends on it.
    let Ok(bytes) = serde_json::to_vec(status) else { return };
    if let Err(error) = outlet.put(bytes) {
        tracing::debug!("status: {error}");
    }
}

fn declare_queryables(
    session: &Session,
    keys: &Keys,
    info: &PolicyInfo,
    inbox: &Arc<Inbox>,
    ledger: &Arc<Ledger>,
) -> Result<Vec<Queryable<()>>> {
    let declare = |key: String, answer: Box<dyn Fn(Query) + Send + Sync>| {
        session.declare_queryable(key.clone()).callback(answer).wait().map_err(bus_error(&key))
    };
    let about = info_json(info);
    let (resetting, reporting, answering) =
        (Arc::clone(inbox), Arc::clone(ledger), Arc::clone(inbox));
    Ok(vec![
        declare(keys.info(), Box::new(move |query| reply_json(&query, &about)))?,
        declare(
            keys.policy_reset(),
            Box::new(move |query| {
                resetting.reset();
                reply_json(&query, &json!({ "ok": true }));
            }),
        )?,
        declare(
            keys.status(),
            Box::new(move |query| match serde_json::to_value(reporting.report(false)) {
                Ok(status) => reply_json(&query, &status),
                Err(error) => reply_error(&query, &error.to_string()),
            }),
        )?,
        declare(keys.infer(), Box::new(move |query| queue_request(&answering, query)))?,
    ])
}

/// `policy/info`: the policy's own fields, and its features in LeRobot's words.
fn info_json(info: &PolicyInfo) -> serde_json::Value {
    let mut about = json!(info);
    let mut inputs = serde_json::Map::new();
    inputs.insert("observation.state".to_owned(), json!([info.state_dim]));
    if info.environment_state_dim > 0 {
        let shape = json!([info.environment_state_dim]);
        inputs.insert("observation.environment_state".to_owned(), shape);
    }
    if let Some(fields) = about.as_object_mut() {
        fields.insert("chunk_size".to_owned(), json!(info.horizon));
        fields.insert("input_features".to_owned(), inputs.into());
        fields.insert("output_features".to_owned(), json!({ "action": [info.action_dim] }));
        fields.insert("pathline".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    }
    about
}

fn queue_request(inbox: &Inbox, query: Query) {
    let now = Instant::now();
    let encoding = query.encoding().map(ToString::to_string).unwrap_or_default();
    let bytes = query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default();
    let reply = move |answer: std::result::Result<Vec<u8>, String>| match answer {
        Ok(bytes) => {
            let sent = query
                .reply(query.key_expr().clone(), bytes)
                .encoding(wire::ACTION_CHUNK.encoding)
                .express(true)
                .wait();
            if let Err(error) = sent {
                tracing::debug!("policy/infer: {error}");
            }
        }
        Err(why) => reply_error(&query, &why),
    };
    inbox.request(&encoding, &bytes, now, Box::new(reply));
}

fn reply_json(query: &Query, value: &serde_json::Value) {
    let sent = query.reply(query.key_expr().clone(), value.to_string()).encoding(JSON).wait();
    if let Err(error) = sent {
        tracing::debug!("{}: {error}", query.key_expr());
    }
}

fn reply_error(query: &Query, why: &str) {
    let sent = query.reply_err(why.as_bytes().to_vec()).wait();
    if let Err(error) = sent {
        tracing::debug!("{}: {error}", query.key_expr());
    }
}
