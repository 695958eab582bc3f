//! What the policy node says about itself: one counter for every ending of an input, latencies, state.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::latency::{Latency, LatencySummary};
use crate::Result;

/// What a policy node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Warming up; answers nothing yet.
    Loading,
    /// Waits for observations.
    Ready,
    /// Answered an observation in the last status period.
    Running,
    /// The last inference failed; it goes on.
    Degraded,
    /// Closed, or its worker died.
    Stopped,
}

/// How every input of the policy node ended, and what was made of the accepted ones.
///
/// `received` is the sum of the refusals and of `accepted`. `superseded` is the share of the
/// accepted that asked for a chunk and was overtaken by a newer observation before its turn.
/// `batches` counts the calls of the policy and `batched_max` is the largest batch: of the whole
/// node, the other numbers are one robot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation; the sum rule is above")]
pub struct NodeCounters {
    pub received: u64,
    pub wrong_schema: u64,
    pub malformed: u64,
    pub wrong_shape: u64,
    pub not_finite: u64,
    pub other_session: u64,
    pub out_of_order: u64,
    pub duplicate: u64,
    pub accepted: u64,
    pub superseded: u64,
    pub chunks: u64,
    pub failed: u64,
    pub requests_refused: u64,
    #[serde(default)]
    pub batches: u64,
    #[serde(default)]
    pub batched_max: u64,
}

/// How one input ended; exactly one of these for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    WrongSchema,
    Malformed,
    WrongShape,
    NotFinite,
    OtherSession,
    OutOfOrder,
    Duplicate,
    Accepted,
}

/// The node's report, put once a second on `policy/status` and answered to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// What it is doing.
    pub state: NodeState,
    /// Chunks per second in the last status period.
    pub rate_hz: f64,
    /// Seconds since the node started.
    pub uptime_s: f64,
    /// Time inside the policy.
    pub inference: LatencySummary,
    /// From an observation's arrival to its chunk's departure, less the inference.
    pub overhead: LatencySummary,
    /// Endings.
    pub counters: NodeCounters,
    /// The last refusal or failure, in words.
    pub last_error: Option<String>,
}

impl NodeStatus {
    /// Of a node that serves nobody.
    pub(crate) fn stopped() -> Self {
        Self {
            state: NodeState::Stopped,
            rate_hz: 0.0,
            uptime_s: 0.0,
            inference: LatencySummary::default(),
            overhead: LatencySummary::default(),
            counters: NodeCounters::default(),
            last_error: None,
        }
    }
}

/// Calls of the policy, counted for all robots together.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    batches: AtomicU64,
    largest: AtomicU64,
}

impl Calls {
    /// Counts a call with `size` requests.
    pub(crate) fn add(&self, size: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.largest.fetch_max(size as u64, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Books {
    state: NodeState,
    counters: NodeCounters,
    inference: Latency,
    overhead: Latency,
    last_error: Option<String>,
    period: (Instant, u64),
}

/// The node's books for one robot, shared by its threads.
pub(crate) struct Ledger {
    started: Instant,
    calls: Arc<Calls>,
    books: Mutex<Books>,
}

impl Ledger {
    pub(crate) fn new(calls: Arc<Calls>) -> Result<Self> {
        let started = Instant::now();
        let books = Books {
            state: NodeState::Loading,
            counters: NodeCounters::default(),
            inference: Latency::new()?,
            overhead: Latency::new()?,
            last_error: None,
            period: (started, 0),
        };
        Ok(Self { started, calls, books: Mutex::new(books) })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Books) -> T) -> T {
        f(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts one input; `why` is kept as the last error of a refused one.
    pub(crate) fn ended(&self, ending: Ending, why: impl FnOnce() -> String) {
        self.with(|books| {
            let counters = &mut books.counters;
            counters.received += 1;
            let counter = match ending {
                Ending::WrongSchema => &mut counters.wrong_schema,
                Ending::Malformed => &mut counters.malformed,
                Ending::WrongShape => &mut counters.wrong_shape,
                Ending::NotFinite => &mut counters.not_finite,
                Ending::OtherSession => &mut counters.other_session,
                Ending::OutOfOrder => &mut counters.out_of_order,
                Ending::Duplicate => &mut counters.duplicate,
                Ending::Accepted => &mut counters.accepted,
            };
            *counter += 1;
            if ending != Ending::Accepted {
                books.last_error = Some(why());
            }
        });
    }

    pub(crate) fn superseded(&self) {
        self.with(|books| books.counters.superseded += 1);
    }

    pub(crate) fn request_refused(&self, why: String) {
        self.with(|books| {
            books.counters.requests_refused += 1;
            books.last_error = Some(why);
        });
    }

    /// A chunk left `total` after its observation arrived; the policy took `inference` of that.
    pub(crate) fn answered(&self, inference: Duration, total: Duration) {
        self.with(|books| {
            books.counters.chunks += 1;
            books.inference.record(inference);
            books.overhead.record(total.saturating_sub(inference));
            books.state = NodeState::Running;
        });
    }

    pub(crate) fn failed(&self, why: String) {
        self.with(|books| {
            books.counters.failed += 1;
            books.last_error = Some(why);
            books.state = NodeState::Degraded;
        });
    }

    pub(crate) fn set_state(&self, state: NodeState) {
        self.with(|books| books.state = state);
    }

    pub(crate) fn state(&self) -> NodeState {
        self.with(|books| books.state)
    }

    /// The report; `close_period` starts a new period for the rate.
    pub(crate) fn report(&self, close_period: bool) -> NodeStatus {
        let now = Instant::now();
        self.with(|books| {
            let idle = books.counters.chunks == books.period.1;
            if close_period && idle && books.state == NodeState::Running {
                books.state = NodeState::Ready;
            }
            let status = self.describe(books, now);
            if close_period {
                books.period = (now, books.counters.chunks);
            }
            status
        })
    }

    /// One report for all robots: sums, the worst state, the last robot's last error.
    pub(crate) fn report_all<'a>(
        ledgers: impl IntoIterator<Item = &'a Self>,
    ) -> Option<NodeStatus> {
        let mut ledgers = ledgers.into_iter();
        let first = ledgers.next()?;
        let mut sum = first.with(|books| books.clone());
        let mut rate = first.report(false).rate_hz;
        for ledger in ledgers {
            rate += ledger.report(false).rate_hz;
            ledger.with(|books| sum.add(books));
        }
        Some(NodeStatus { rate_hz: rate, ..first.describe(&sum, Instant::now()) })
    }

    fn describe(&self, books: &Books, now: Instant) -> NodeStatus {
        let (since, chunks) = books.period;
        let seconds = now.duration_since(since).as_secs_f64();
        let made = books.counters.chunks.saturating_sub(chunks);
        let counters = NodeCounters {
            batches: self.calls.batches.load(Ordering::Relaxed),
            batched_max: self.calls.largest.load(Ordering::Relaxed),
            ..books.counters
        };
        NodeStatus {
            state: books.state,
            rate_hz: if seconds > 0.0 { made as f64 / seconds } else { 0.0 },
            uptime_s: now.duration_since(self.started).as_secs_f64(),
            inference: books.inference.summary(),
            overhead: books.overhead.summary(),
            counters,
            last_error: books.last_error.clone(),
        }
    }
}

impl Books {
    fn add(&mut self, other: &Self) {
        self.state = worse(self.state, other.state);
        let (a, b) = (&mut self.counters, &other.counters);
        for (sum, more) in [
            (&mut a.received, b.received),
            (&mut a.wrong_schema, b.wrong_schema),
            (&mut a.malformed, b.malformed),
            (&mut a.wrong_shape, b.wrong_shape),
            (&mut a.not_finite, b.not_finite),
            (&mut a.other_session, b.other_session),
            (&mut a.out_of_order, b.out_of_order),
            (&mut a.duplicate, b.duplicate),
            (&mut a.accepted, b.accepted),
            (&mut a.superseded, b.superseded),
            (&mut a.chunks, b.chunks),
            (&mut a.failed, b.failed),
            (&mut a.requests_refused, b.requests_refused),
        ] {
            *sum += more;
        }
        self.inference.merge(&other.inference);
        self.overhead.merge(&other.overhead);
        if other.last_error.is_some() {
            self.last_error.clone_from(&other.last_error);
        }
    }
}

/// The state that matters more of two.
fn worse(a: NodeState, b: NodeState) -> NodeState {
    let rank = |state| match state {
        NodeState::Ready => 0,
        NodeState::Running => 1,
        NodeState::Loading => 2,
        NodeState::Degraded => 3,
        NodeState::Stopped => 4,
    };
    if rank(b) > rank(a) { b } else { a }
}
