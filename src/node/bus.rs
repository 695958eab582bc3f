//! Small helpers over zenoh: outlets that stamp what they put, and questions with a deadline.
//!
//! Everything periodic is `Drop`: a `Block` publisher stalls its caller for up to 5 s and then
//! closes the transport. Source: zenoh 1.10, ROS 2's rmw_zenoh for the attachment.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use zenoh::handlers::FifoChannelHandler;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::Reply;
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};

use super::clock::wall_nanos;
use crate::wire::{self, Attachment, Congestion, Qos};
use crate::{Error, Result};

/// Encoding of everything that is JSON.
pub(crate) const JSON: &str = "application/json";

/// A zenoh error as text.
pub(crate) fn bus_error(what: &str) -> impl Fn(zenoh::Error) -> Error + '_ {
    move |error| Error::Bus(format!("{what}: {error}"))
}

/// A publisher that numbers and stamps its messages with rmw_zenoh's attachment.
pub(crate) struct Outlet {
    publisher: Publisher<'static>,
    sequence: AtomicI64,
    gid: [u8; 16],
}

/// Numbers the publishers of this process, so that each has a name of its own.
static PUBLISHERS: AtomicU32 = AtomicU32::new(1);

impl Outlet {
    /// Declares the publisher with this encoding and quality of service.
    pub(crate) fn declare(session: &Session, key: &str, encoding: &str, qos: Qos) -> Result<Self> {
        let publisher = session
            .declare_publisher(key.to_owned())
            .encoding(encoding)
            .congestion_control(match qos.congestion {
                Congestion::Drop => CongestionControl::Drop,
                Congestion::Block => CongestionControl::Block,
            })
            .priority(priority(qos.priority))
            .express(qos.express)
            .wait()
            .map_err(bus_error(key))?;
        let number = PUBLISHERS.fetch_add(1, Ordering::Relaxed);
        let gid = wire::gid(session.zid().to_le_bytes(), number);
        Ok(Self { publisher, sequence: AtomicI64::new(0), gid })
    }

    /// Puts one message. The sequence counts from 1, as rmw_zenoh's does.
    pub(crate) fn put(&self, payload: Vec<u8>) -> Result<()> {
        let seq = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let attachment = Attachment { seq, source_time_ns: wall_nanos(), gid: self.gid };
        self.publisher
            .put(payload)
            .attachment(attachment.encode().to_vec())
            .wait()
            .map_err(bus_error(self.publisher.key_expr().as_str()))
    }
}

fn priority(priority: wire::Priority) -> Priority {
    match priority {
        wire::Priority::RealTime => Priority::RealTime,
        wire::Priority::InteractiveHigh => Priority::InteractiveHigh,
        wire::Priority::InteractiveLow => Priority::InteractiveLow,
        wire::Priority::DataHigh => Priority::DataHigh,
        wire::Priority::Data => Priority::Data,
        wire::Priority::DataLow => Priority::DataLow,
        wire::Priority::Background => Priority::Background,
    }
}

/// Declares a liveliness token.
pub(crate) fn declare_alive(session: &Session, key: &str) -> Result<LivelinessToken> {
    session.liveliness().declare_token(key.to_owned()).wait().map_err(bus_error(key))
}

/// Watches liveliness tokens, those that exist already included.
pub(crate) fn watch_alive(
    session: &Session,
    key: &str,
) -> Result<Subscriber<FifoChannelHandler<Sample>>> {
    session
        .liveliness()
        .declare_subscriber(key.to_owned())
        .history(true)
        .wait()
        .map_err(bus_error(key))
}

/// Waits until a token appears; false when the deadline passes first.
pub(crate) fn wait_alive(
    watch: &Subscriber<FifoChannelHandler<Sample>>,
    deadline: Instant,
) -> Result<bool> {
    loop {
        match watch.recv_deadline(deadline).map_err(bus_error("liveliness"))? {
            Some(sample) if sample.kind() == SampleKind::Put => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
}

/// Asks a queryable, with a payload and its encoding if there is one; the first reply that is not an
/// error, or none before the deadline.
///
/// # Errors
/// The only replies were errors: the text of the last one.
pub(crate) fn ask(
    session: &Session,
    key: &str,
    payload: Option<(Vec<u8>, &'static str)>,
    timeout: Duration,
) -> Result<Option<Vec<u8>>> {
    let mut get = session.get(key.to_owned()).timeout(timeout);
    if let Some((payload, encoding)) = payload {
        get = get.payload(payload).encoding(encoding);
    }
    let replies = get.wait().map_err(bus_error(key))?;
    let mut refused = None;
    while let Ok(reply) = replies.recv() {
        match into_payload(reply) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(text) => refused = Some(text),
        }
    }
    match refused {
        Some(text) => Err(Error::Bus(format!("{key}: {text}"))),
        None => Ok(None),
    }
}

fn into_payload(reply: Reply) -> std::result::Result<Vec<u8>, String> {
    match reply.into_result() {
        Ok(sample) => Ok(sample.payload().to_bytes().into_owned()),
        Err(error) => Err(String::from_utf8_lossy(&error.payload().to_bytes()).into_owned()),
    }
}

/// The attachment of a sample, if it is one of rmw_zenoh's.
pub(crate) fn attachment_of(sample: &Sample) -> Option<Attachment> {
    sample.attachment().and_then(|bytes| Attachment::decode(&bytes.to_bytes()).ok())
}
