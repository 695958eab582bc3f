//! Several robots at one policy node over real zenoh: batched together, and strangers otherwise.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};

use common::{Bus, DEADLINE, observation, put, until};
use pathline::node::testing::ServoPolicy;
use pathline::node::{ChunkPolicy, NodeCounters, PolicyInfo, PolicyNode, Request, ServeOptions};
use pathline::wire::{ActionChunkMsg, Asks, OBSERVATION, Observation};
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::Subscriber;
use zenoh::sample::Sample;
use zenoh::{Session, Wait};

/// A state that this policy cannot stand.
const POISON: f32 = 13.0;

/// Says what it was asked: row i is (oldest state + i, newest state + noise). After its warm-up it tells
/// how many requests came together and waits to be released, if somebody holds it.
struct Echo {
    held: Option<(Sender<usize>, Receiver<()>)>,
    warm_ups: u32,
}

impl ChunkPolicy for Echo {
    fn info(&self) -> PolicyInfo {
        ServoPolicy::pusht().info()
    }

    fn infer(
        &mut self,
        requests: &[Request],
        _trace: Option<&mut Vec<Vec<f32>>>,
    ) -> pathline::Result<Vec<Vec<f32>>> {
        self.warm_ups += 1;
        if self.warm_ups > 2
            && let Some((entered, go)) = &self.held
        {
            entered.send(requests.len()).unwrap();
            go.recv_timeout(DEADLINE).unwrap();
        }
        if requests
            .iter()
            .any(|r| r.window.iter().any(|obs| obs.state[0].to_bits() == POISON.to_bits()))
        {
            return Err(pathline::Error::Invalid("poisoned".to_owned()));
        }
        let chunk = |r: &Request| {
            let noise = (r.seed % 1000) as f32;
            let (old, new) = (r.window[0].state[0], r.window[1].state[0]);
            (0..16).flat_map(|i| [old + i as f32, new + noise]).collect()
        };
        Ok(requests.iter().map(chunk).collect())
    }
}

/// A node for these robots whose policy runs freely.
fn free(session: &Session, robots: &[&str]) -> PolicyNode {
    start(session, robots, None)
}

fn start(
    session: &Session,
    robots: &[&str],
    held: Option<(Sender<usize>, Receiver<()>)>,
) -> PolicyNode {
    let robots = robots.iter().map(|name| (*name).to_owned()).collect();
    let options = ServeOptions { robots, ..ServeOptions::default() };
    PolicyNode::start(session, Box::new(Echo { held, warm_ups: 0 }), options).unwrap()
}

/// One robot on a session of its own.
struct Robot {
    name: &'static str,
    session: Session,
    chunks: Subscriber<FifoChannelHandler<Sample>>,
}

impl Robot {
    fn new(bus: &Bus, name: &'static str) -> Self {
        let session = bus.spoke();
        let chunks =
            session.declare_subscriber(format!("pathline/{name}/cmd/chunk")).wait().unwrap();
        Self { name, session, chunks }
    }

    fn put(&self, observation: &Observation) {
        self.put_bytes(observation.encode().unwrap());
    }

    fn put_bytes(&self, bytes: Vec<u8>) {
        put(&self.session, &format!("pathline/{}/obs", self.name), OBSERVATION.encoding, bytes);
    }

    fn reset(&self) {
        let get = self.session.get(format!("pathline/{}/policy/reset", self.name));
        get.timeout(DEADLINE).wait().unwrap().recv().expect("an answer").into_result().unwrap();
    }

    fn chunk(&self) -> ActionChunkMsg {
        let sample = self.chunks.recv_timeout(DEADLINE).unwrap().expect("a chunk");
        ActionChunkMsg::decode(&sample.payload().to_bytes()).unwrap()
    }

    fn answer(&self, observation: &Observation) -> ActionChunkMsg {
        self.put(observation);
        self.chunk()
    }
}

/// An observation of the robot whose states begin with `place`.
fn at(place: f32, session: u64, tick: u64) -> Observation {
    Observation { state: vec![place + tick as f32, 0.0], ..observation(session, tick) }
}

/// What of a chunk must not depend on who else is served.
fn essence(message: &ActionChunkMsg) -> (u64, u64, u64, u64, Vec<f32>) {
    let chunk = &message.chunk;
    (chunk.session, chunk.seq, chunk.obs_tick, message.seed, chunk.actions.clone())
}

fn counters(node: &PolicyNode, robot: &str) -> NodeCounters {
    node.status_of(robot).unwrap().counters
}

/// Those that belong to one robot.
fn own(counters: NodeCounters) -> NodeCounters {
    NodeCounters { batches: 0, batched_max: 0, ..counters }
}

/// The chunks that a robot gets for ticks 0 and 1 when it is alone.
fn alone(name: &'static str, place: f32, session: u64) -> Vec<(u64, u64, u64, u64, Vec<f32>)> {
    let bus = Bus::open();
    let _node = free(&bus.hub, &[name]);
    let robot = Robot::new(&bus, name);
    (0..2).map(|tick| essence(&robot.answer(&at(place, session, tick)))).collect()
}

#[test]
fn requests_that_meet_are_one_batch_and_each_gets_the_chunk_it_gets_alone() {
    let (entered, inside) = channel();
    let (release, go) = channel();
    let bus = Bus::open();
    let node = start(&bus.hub, &["left", "right"], Some((entered, go)));
    let (left, right) = (Robot::new(&bus, "left"), Robot::new(&bus, "right"));
    left.put(&at(100.0, 5, 0));
    assert_eq!(inside.recv_timeout(DEADLINE).unwrap(), 1, "nobody waits for company");
    // While the policy is busy, both come.
    left.put(&at(100.0, 5, 1));
    right.put(&at(300.0, 6, 0));
    until("both wait", || (node.status().counters.accepted == 3).then_some(()));
    release.send(()).unwrap();
    assert_eq!(inside.recv_timeout(DEADLINE).unwrap(), 2, "they met");
    release.send(()).unwrap();
    let mut got = vec![essence(&left.chunk()), essence(&left.chunk()), essence(&right.chunk())];
    right.put(&at(300.0, 6, 1));
    assert_eq!(inside.recv_timeout(DEADLINE).unwrap(), 1);
    release.send(()).unwrap();
    let message = right.chunk();
    assert!(message.queue_ms >= 0.0 && message.infer_ms > 0.0);
    got.push(essence(&message));

    let counters = node.close().unwrap().counters;
    assert_eq!((counters.batches, counters.batched_max, counters.chunks), (3, 2, 4));
    let expected = [alone("left", 100.0, 5), alone("right", 300.0, 6)].concat();
    assert_eq!(got, expected);
}

#[test]
fn what_happens_to_one_changes_nothing_for_the_other() {
    let bus = Bus::open();
    let node = free(&bus.hub, &["left", "right"]);
    let (left, right) = (Robot::new(&bus, "left"), Robot::new(&bus, "right"));
    for tick in 0..3 {
        left.answer(&at(100.0, 5, tick));
        right.answer(&at(300.0, 6, tick));
    }
    until("all is counted", || (counters(&node, "left").chunks == 3).then_some(()));
    let before = own(counters(&node, "left"));

    // Rubbish, an observation of another run, a reset, a restart.
    let good = at(300.0, 6, 3).encode().unwrap();
    right.put_bytes(good[..good.len() / 2].to_vec());
    right.put(&at(300.0, 7, 0));
    until("both are refused", || {
        let c = counters(&node, "right");
        ((c.malformed, c.other_session) == (1, 1)).then_some(())
    });
    right.reset();
    let restarted = right.answer(&at(300.0, 7, 0));
    assert_eq!((restarted.chunk.session, restarted.chunk.seq), (7, 4));
    assert_eq!(restarted.chunk.actions[0], 300.0, "its history began anew");

    assert_eq!(own(counters(&node, "left")), before, "counters of the other moved");
    let next = left.answer(&at(100.0, 5, 3));
    assert_eq!((next.chunk.seq, next.chunk.obs_tick), (4, 3));
    assert_eq!(next.chunk.actions[0], 102.0, "the other's history is as it was");
    let total = node.status().counters;
    assert_eq!((total.malformed, total.accepted), (1, 8), "the node's report is the sum");
    assert!(node.status_of("middle").is_none());
}

#[test]
fn one_bad_request_costs_only_itself() {
    let (entered, inside) = channel();
    let (release, go) = channel();
    let bus = Bus::open();
    let node = start(&bus.hub, &["left", "right"], Some((entered, go)));
    let (left, right) = (Robot::new(&bus, "left"), Robot::new(&bus, "right"));
    left.put(&at(100.0, 5, 0));
    inside.recv_timeout(DEADLINE).unwrap();
    left.put(&at(100.0, 5, 1));
    right.put(&at(POISON, 6, 0));
    until("both wait", || (node.status().counters.accepted == 3).then_some(()));
    for size in [2, 1, 1] {
        release.send(()).unwrap();
        assert_eq!(inside.recv_timeout(DEADLINE).unwrap(), size, "together, then each alone");
    }
    release.send(()).unwrap();
    let got = [essence(&left.chunk()), essence(&left.chunk())];
    until("the other failed", || (counters(&node, "right").failed == 1).then_some(()));
    assert_eq!((counters(&node, "left").failed, counters(&node, "right").chunks), (0, 0));
    assert_eq!(got.to_vec(), alone("left", 100.0, 5));
    assert!(node.status_of("right").unwrap().last_error.unwrap().contains("poisoned"));
}

#[test]
fn a_request_is_not_undone_by_a_later_observation_that_asks_for_nothing() {
    let (entered, inside) = channel();
    let (release, go) = channel();
    let bus = Bus::open();
    let node = start(&bus.hub, &["left", "right"], Some((entered, go)));
    let (left, right) = (Robot::new(&bus, "left"), Robot::new(&bus, "right"));
    right.put(&at(300.0, 6, 0));
    inside.recv_timeout(DEADLINE).unwrap();
    // Asked at tick 1; what is seen at ticks 2 and 3 wants no chunk. Tick 0 by the rule wants one.
    for (tick, request) in
        [(0, Asks::Nothing), (1, Asks::Chunk), (2, Asks::Nothing), (3, Asks::Nothing)]
    {
        left.put(&Observation { request, ..at(100.0, 5, tick) });
    }
    until("all are in", || (counters(&node, "left").accepted == 4).then_some(()));
    release.send(()).unwrap();
    assert_eq!(inside.recv_timeout(DEADLINE).unwrap(), 1);
    release.send(()).unwrap();
    let chunk = left.chunk().chunk;
    assert_eq!((chunk.obs_tick, chunk.actions[0]), (1, 100.0), "the window of the tick that asked");
    assert_eq!(counters(&node, "left").superseded, 0);
    assert_eq!(node.close().unwrap().counters.chunks, 2, "and no chunk for the others");
}

#[test]
fn robots_are_named_once_and_by_names_that_are_keys() {
    let bus = Bus::open();
    for (robots, says) in [(&[][..], "1 to 32 robots"), (&["a", "a"], "twice"), (&["a/b"], "a/b")] {
        let robots = robots.iter().map(|name: &&str| (*name).to_owned()).collect();
        let options = ServeOptions { robots, ..ServeOptions::default() };
        let error = PolicyNode::start(&bus.hub, Box::new(ServoPolicy::pusht()), options).err();
        let error = error.unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
