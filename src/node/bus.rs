//! Small helpers over zenoh: outlets that stamp what they put, and questions with a deadline.
//!
//! Everything periodic is `Drop`: a `Block` publisher stalls its caller for up to 5 s and then
//! closes the transport. Source: zenoh 1.10, ROS 2's rmw_zenoh for the attachment.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use zenoh::handlers::FifoChannelHandler;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::Reply;
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};

use super::clock::wall_nanos;
use crate::wire::attachment::Attachment;
use crate::{Error, Result};

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

impl Outlet {
    /// Declares the publisher: `Drop`, express, with this priority and encoding.
    pub(crate) fn declare(
        session: &Session,
        key: &str,
        encoding: &str,
        priority: Priority,
    ) -> Result<Self> {
        let publisher = session
            .declare_publisher(key.to_owned())
            .encoding(encoding)
            .congestion_control(CongestionControl::Drop)
            .priority(priority)
            .express(true)
            .wait()
            .map_err(bus_error(key))?;
        Ok(Self { publisher, sequence: AtomicI64::new(0), gid: gid(session, key) })
    }

    /// Puts one message. The sequence counts from 1, as rmw_zenoh's does.
    pub(crate) fn put(&self, payload: Vec<u8>) -> Result<()> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let attachment =
            Attachment { sequence, source_timestamp_nanos: wall_nanos(), gid: self.gid };
        self.publisher
            .put(payload)
            .attachment(attachment.encode().to_vec())
            .wait()
            .map_err(bus_error(self.publisher.key_expr().as_str()))
    }
}

/// A 16-byte name of one publisher: the session's id mixed with the key (FNV-1a, two lanes).
fn gid(session: &Session, key: &str) -> [u8; 16] {
    let mut gid = [0u8; 16];
    let zid = session.zid().to_string();
    for (half, offset) in [0xcbf2_9ce4_8422_2325_u64, 0x8422_2325_cbf2_9ce4].iter().enumerate() {
        let hash = zid.bytes().chain(key.bytes()).fold(*offset, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        gid[half * 8..half * 8 + 8].copy_from_slice(&hash.to_le_bytes());
    }
    gid
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

/// Asks a queryable; the first reply that is not an error, or none before the deadline.
///
/// # Errors
/// The only replies were errors: the text of the last one.
pub(crate) fn ask(
    session: &Session,
    key: &str,
    payload: Option<Vec<u8>>,
    timeout: Duration,
) -> Result<Option<Vec<u8>>> {
    let mut get = session.get(key.to_owned()).timeout(timeout);
    if let Some(payload) = payload {
        get = get.payload(payload);
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
