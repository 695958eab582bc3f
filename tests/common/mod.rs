//! A private bus on loopback for one test: a hub, spokes, and waits with a deadline.
#![allow(dead_code, reason = "every test binary uses another part")]

use std::time::{Duration, Instant};

use pathline::node::{BusConfig, Place, Stop, open_private_hub};
use pathline::wire::{Attachment, OBSERVATION, Observation};
use zenoh::qos::CongestionControl;
use zenoh::{Session, Wait};

/// Longest wait for anything; a test that needs it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A router on a free loopback port.
pub(crate) struct Bus {
    pub(crate) hub: Session,
    pub(crate) endpoint: String,
}

impl Bus {
    pub(crate) fn open() -> Self {
        let (hub, endpoint) = open_private_hub().unwrap();
        Self { hub, endpoint }
    }

    pub(crate) fn spoke(&self) -> Session {
        BusConfig::connect_to(&self.endpoint).open(Place::Spoke).unwrap()
    }
}

/// Waits until `done` answers, at most [`DEADLINE`]; panics with `what` otherwise.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let (deadline, pause) = (Instant::now() + DEADLINE, Stop::new());
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        pause.wait_timeout(Duration::from_millis(2));
    }
}

/// An observation of PushT's shapes, due a chunk.
pub(crate) fn observation(session: u64, tick: u64) -> Observation {
    Observation {
        session,
        tick,
        seq: tick + 1,
        step: tick as u32,
        state: vec![100.0, 200.0],
        environment_state: vec![50.0; 16],
        ..Observation::default()
    }
}

/// Puts an observation as a robot would.
pub(crate) fn put(session: &Session, key: &str, encoding: &str, bytes: Vec<u8>) {
    let attachment = Attachment { seq: 1, source_time_ns: 0, gid: [7; 16] };
    session
        .put(key, bytes)
        .encoding(encoding)
        .attachment(attachment.encode().to_vec())
        .express(true)
        // A robot drops; a test that counts what it put does not, however busy the machine is.
        .congestion_control(CongestionControl::Block)
        .wait()
        .unwrap();
}

/// Puts a good observation.
pub(crate) fn put_observation(session: &Session, observation: &Observation) {
    let bytes = observation.encode().unwrap();
    put(session, "pathline/pusht/obs", OBSERVATION.encoding, bytes);
}

/// The bytes with the first f32 `from` replaced by NaN: what no encoder of ours would send.
pub(crate) fn poison(mut bytes: Vec<u8>, from: f32) -> Vec<u8> {
    let want = from.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == want).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes
}
