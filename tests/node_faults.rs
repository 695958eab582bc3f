//! Bad input and dead peers over real zenoh: one counter each, and a robot that holds.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use common::{Bus, DEADLINE, observation, poison, put, put_observation, until};
use pathline::node::testing::ServoPolicy;
use pathline::node::{
    Camera, ChunkPolicy, NodeCounters, PolicyInfo, PolicyNode, PolicyObs, Request, RobotConfig,
    RobotLink, ServeOptions, SimOptions, Stop, run,
};
use pathline::wire::{ACTION_CHUNK, ActionChunkMsg, CameraImage, OBSERVATION, Observation};
use zenoh::{Session, Wait};

const OBS: &str = "pathline/pusht/obs";
const CHUNK: &str = "pathline/pusht/cmd/chunk";

/// An observation of PushT's shapes.
fn seen(state: [f32; 2], environment_state: [f32; 16]) -> PolicyObs {
    let (state, environment_state) = (state.to_vec(), environment_state.to_vec());
    PolicyObs { state, environment_state, images: Vec::new() }
}

fn serve(session: &Session) -> PolicyNode {
    PolicyNode::start(session, Box::new(ServoPolicy::pusht()), ServeOptions::default()).unwrap()
}

fn link(session: &Session) -> RobotLink {
    let config = RobotConfig::pusht();
    RobotLink::connect(session, &config, &[100.0, 200.0], DEADLINE, &Stop::new()).unwrap()
}

/// Waits until the node has received `n` inputs.
fn received(node: &PolicyNode, n: u64) -> NodeCounters {
    until("the node counts", || {
        let counters = node.status().counters;
        (counters.received >= n).then_some(counters)
    })
}

#[test]
fn a_bad_observation_raises_one_counter_and_nothing_else() {
    let bus = Bus::open();
    let node = serve(&bus.hub);
    let robot = bus.spoke();
    let chunks = robot.declare_subscriber(CHUNK).wait().unwrap();
    put_observation(&robot, &observation(9, 10));
    chunks.recv_timeout(DEADLINE).unwrap().expect("the good one is answered");
    let mut before = received(&node, 1);
    until("the answer is counted", || (node.status().counters.chunks == 1).then_some(()));
    (before.chunks, before.batches, before.batched_max) = (1, 1, 1);

    let good = observation(9, 11).encode().unwrap();
    let shape = |state: usize, environment: usize| {
        let mut bad = observation(9, 11);
        (bad.state, bad.environment_state) = (vec![1.0; state], vec![1.0; environment]);
        bad.encode().unwrap()
    };
    let own = OBSERVATION.encoding;
    let left_over = |values: usize| {
        let left_over = vec![1.0; values];
        Observation { left_over, ..observation(9, 11) }.encode().unwrap()
    };
    type Counter = fn(&mut NodeCounters) -> &mut u64;
    let cases: Vec<(&str, &str, Vec<u8>, Counter)> = vec![
        // First: a run that was silent for a second may be replaced.
        ("another run", own, observation(8, 11).encode().unwrap(), |c| &mut c.other_session),
        ("no schema", "", good.clone(), |c| &mut c.wrong_schema),
        ("a chunk's schema", ACTION_CHUNK.encoding, good.clone(), |c| &mut c.wrong_schema),
        ("truncated", own, good[..good.len() - 1].to_vec(), |c| &mut c.malformed),
        ("empty", own, Vec::new(), |c| &mut c.malformed),
        ("a state too long", own, shape(3, 16), |c| &mut c.wrong_shape),
        ("no environment", own, shape(2, 0), |c| &mut c.wrong_shape),
        ("half a row left over", own, left_over(3), |c| &mut c.wrong_shape),
        ("NaN", own, poison(good, 200.0), |c| &mut c.not_finite),
        ("out of order", own, observation(9, 9).encode().unwrap(), |c| &mut c.out_of_order),
        ("duplicate", own, observation(9, 10).encode().unwrap(), |c| &mut c.duplicate),
    ];
    for (name, encoding, bytes, counter) in cases {
        put(&robot, OBS, encoding, bytes);
        let after = received(&node, before.received + 1);
        before.received += 1;
        *counter(&mut before) += 1;
        assert_eq!(after, before, "{name}");
    }
    assert!(chunks.try_recv().unwrap().is_none(), "a bad observation was answered");
    put_observation(&robot, &observation(9, 12));
    let sample = chunks.recv_timeout(DEADLINE).unwrap().expect("the node goes on");
    let chunk = ActionChunkMsg::decode(&sample.payload().to_bytes()).unwrap().chunk;
    assert_eq!((chunk.seq, chunk.obs_tick), (2, 12));
}

#[test]
fn a_bad_chunk_raises_one_counter_and_moves_nothing() {
    let bus = Bus::open();
    let _node = serve(&bus.hub);
    let robot = bus.spoke();
    let overheard = robot.declare_subscriber(CHUNK).wait().unwrap();
    let mut link = link(&robot);
    assert!(link.observe(seen([100.0, 200.0], [50.0; 16])).unwrap(), "the first chunk is due");
    assert!(link.wait_chunk(Instant::now() + DEADLINE));
    assert_eq!(link.act().unwrap().action, [110.0, 210.0]);
    let sample = overheard.recv_timeout(DEADLINE).unwrap().unwrap();
    let good = ActionChunkMsg::decode(&sample.payload().to_bytes()).unwrap();

    let stranger = bus.spoke();
    let forged = |change: &dyn Fn(&mut ActionChunkMsg)| {
        let mut message = good.clone();
        message.chunk.seq += 1;
        // Whoever played this would be seen at once.
        message.chunk.actions.fill(400.0);
        change(&mut message);
        message.encode().unwrap()
    };
    let own = ACTION_CHUNK.encoding;
    let whole = forged(&|_| {});
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("wrong_schema", OBSERVATION.encoding, whole.clone()),
        ("malformed", own, whole[..whole.len() - 2].to_vec()),
        ("wrong_dim", own, forged(&|m| m.chunk.dim = 1)),
        ("wrong_session", own, forged(&|m| m.chunk.session ^= 1)),
        ("stale_epoch", own, forged(&|m| m.chunk.epoch -= 1)),
        ("old_sequence", own, forged(&|m| m.chunk.seq = good.chunk.seq)),
        ("future_observation", own, forged(&|m| m.chunk.obs_seq = 1000)),
        ("wrong_tick", own, forged(&|m| m.chunk.obs_tick += 1)),
        ("non_finite", own, poison(whole, 400.0)),
        ("out_of_limits", own, forged(&|m| m.chunk.actions[7] = 1e4)),
    ];
    let mut expected = BTreeMap::from([("accepted".to_owned(), 1)]);
    for (reason, encoding, bytes) in cases {
        put(&stranger, CHUNK, encoding, bytes);
        *expected.entry(reason.to_owned()).or_insert(0) += 1;
        until(reason, || {
            link.take_in();
            (link.endings().values().sum::<u64>() == expected.values().sum::<u64>()).then_some(())
        });
        assert_eq!(link.endings(), expected, "{reason}");
    }
    assert!(!link.observe(seen([110.0, 210.0], [50.0; 16])).unwrap());
    link.take_in();
    assert_eq!(link.act().unwrap().action, [120.0, 220.0], "row 1 of the good chunk");
}

#[test]
fn a_dead_policy_lets_the_robot_hold_and_a_new_one_resumes() {
    let bus = Bus::open();
    let policy = bus.spoke();
    let node = serve(&policy);
    let robot = bus.spoke();
    let mut link = link(&robot);
    link.observe(seen([100.0, 200.0], [50.0; 16])).unwrap();
    assert!(link.wait_chunk(Instant::now() + DEADLINE));
    link.act().unwrap();
    // The session goes first: nothing is undeclared in order, as when a process dies.
    policy.close().wait().unwrap();
    drop(node);

    let mut commands = Vec::new();
    for _ in 1..30 {
        link.observe(seen([110.0, 210.0], [50.0; 16])).unwrap();
        link.take_in();
        commands.push(link.act().unwrap());
    }
    let held = commands.iter().position(|c| c.is_hold()).expect("it never held");
    let heartbeat = link.gate().config().heartbeat as usize;
    assert_eq!(held, heartbeat, "rows until the heartbeat is over, then hold");
    assert!(commands[held..].iter().all(|c| c.is_hold()), "an old plan came back to life");
    let last = &commands[held - 1].action;
    assert!(commands[held..].iter().all(|c| c.action == *last), "a hold moved");

    let _node = serve(&bus.hub);
    let resumed = until("the new policy is heard", || {
        // What was asked before may be answered by the new policy too: ask about this tick.
        link.give_up();
        assert!(link.observe(seen([180.0, 270.0], [50.0; 16])).unwrap(), "a chunk is asked for");
        let fresh = link.wait_chunk(Instant::now() + Duration::from_millis(200));
        let command = link.act().unwrap();
        fresh.then_some(command)
    });
    assert_eq!(resumed.action, [190.0, 260.0]);
}

#[test]
fn a_run_without_answers_ends_with_one_error() {
    let bus = Bus::open();
    let node = PolicyNode::start(&bus.hub, Box::new(Broken), ServeOptions::default()).unwrap();
    let options = SimOptions {
        episodes: 1,
        chunk_timeout: Duration::from_millis(20),
        policy_timeout: DEADLINE,
        give_up_after: Duration::from_millis(100),
        ..SimOptions::default()
    };
    let mut holds = 0;
    let error = run(&bus.spoke(), &options, &Stop::new(), &mut |event| {
        if let pathline::node::Event::Tick(tick) = event {
            holds += u64::from(tick.commanded.is_hold());
        }
    })
    .unwrap_err()
    .to_string();
    let due = format!(" {} due ticks, the robot holds", holds + 1);
    assert!(error.contains(&due), "every tick until then was held, {holds}: {error}");
    let status = until("a failure for each", || {
        let status = node.status();
        (status.counters.failed > holds).then_some(status)
    });
    assert_eq!(status.counters.chunks, 0);
    assert!(status.last_error.unwrap().contains("broken on purpose"));
}

/// Warms up well and fails ever after.
struct Broken;

impl ChunkPolicy for Broken {
    fn info(&self) -> PolicyInfo {
        ServoPolicy::pusht().info()
    }

    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> pathline::Result<Vec<Vec<f32>>> {
        if requests[0].window.iter().all(|obs| obs.state == [0.0, 0.0]) {
            return ServoPolicy::pusht().infer(requests, trace);
        }
        Err(pathline::Error::Invalid("broken on purpose".to_owned()))
    }
}

/// Answers when it is told to.
struct Slow {
    entered: Sender<()>,
    go: Receiver<()>,
    warm_ups: u32,
}

impl ChunkPolicy for Slow {
    fn info(&self) -> PolicyInfo {
        ServoPolicy::pusht().info()
    }

    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> pathline::Result<Vec<Vec<f32>>> {
        if self.warm_ups < 2 {
            self.warm_ups += 1;
        } else {
            self.entered.send(()).unwrap();
            self.go.recv_timeout(DEADLINE).unwrap();
        }
        ServoPolicy::pusht().infer(requests, trace)
    }
}

#[test]
fn a_slow_policy_answers_the_newest_and_skips_what_was_overtaken() {
    let (entered, inside) = channel();
    let (release, go) = channel();
    let bus = Bus::open();
    let policy = Slow { entered, go, warm_ups: 0 };
    let node = PolicyNode::start(&bus.hub, Box::new(policy), ServeOptions::default()).unwrap();
    let robot = bus.spoke();
    let chunks = robot.declare_subscriber(CHUNK).wait().unwrap();
    put_observation(&robot, &observation(4, 0));
    inside.recv_timeout(DEADLINE).unwrap();
    for tick in 1..=5 {
        put_observation(&robot, &observation(4, tick));
    }
    received(&node, 6);
    for _ in 0..2 {
        release.send(()).unwrap();
    }
    let mut answered = Vec::new();
    for _ in 0..2 {
        let sample = chunks.recv_timeout(DEADLINE).unwrap().expect("two chunks");
        let message = ActionChunkMsg::decode(&sample.payload().to_bytes()).unwrap();
        answered.push(message.chunk.obs_tick);
    }
    assert_eq!(answered, [0, 5]);
    let counters = node.close().unwrap().counters;
    assert_eq!((counters.accepted, counters.superseded, counters.chunks), (6, 4, 2));
}

/// A policy with a camera.
struct Seeing;

impl ChunkPolicy for Seeing {
    fn info(&self) -> PolicyInfo {
        let camera = Camera { name: "top".to_owned(), height: 2, width: 4 };
        PolicyInfo { cameras: vec![camera], ..ServoPolicy::pusht().info() }
    }

    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> pathline::Result<Vec<Vec<f32>>> {
        // Only what the policy looks at is kept.
        let one = |obs: &PolicyObs| matches!(&obs.images[..], [top] if top.data.len() == 24);
        let window = &requests[0].window;
        assert!(window.iter().all(one), "{window:?}");
        ServoPolicy::pusht().infer(requests, trace)
    }
}

#[test]
fn a_camera_that_is_missing_or_of_another_size_is_counted_and_not_run() {
    let bus = Bus::open();
    let node = PolicyNode::start(&bus.hub, Box::new(Seeing), ServeOptions::default()).unwrap();
    let robot = bus.spoke();
    let chunks = robot.declare_subscriber(CHUNK).wait().unwrap();
    let image = |name: &str, height: u16, width: u16| CameraImage {
        name: name.to_owned(),
        encoding: "rgb8".to_owned(),
        height,
        width,
        data: vec![7; usize::from(height) * usize::from(width) * 3],
    };
    let png = CameraImage { encoding: "png".to_owned(), ..image("top", 2, 4) };
    let bad = [vec![], vec![image("side", 2, 4)], vec![image("top", 4, 2)], vec![png]];
    let count = bad.len() as u64;
    for (tick, images) in (0..).zip(bad) {
        put_observation(&robot, &Observation { images, ..observation(3, tick) });
    }
    assert_eq!(received(&node, count).wrong_shape, count);
    let images = vec![image("side", 5, 5), image("top", 2, 4)];
    put_observation(&robot, &Observation { images, ..observation(3, count) });
    chunks.recv_timeout(DEADLINE).unwrap().expect("a chunk for the good one");
    let counters = node.close().unwrap().counters;
    assert_eq!((counters.accepted, counters.wrong_shape, counters.failed), (1, count, 0));
}
