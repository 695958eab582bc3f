//! Policy node and robot over real zenoh sessions on loopback: what a good run looks like.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod common;

use std::time::Duration;

use common::{Bus, DEADLINE, observation, until};
use pathline::action::{Joining, Mode};
use pathline::node::testing::ServoPolicy;
use pathline::node::{
    BusConfig, ChunkPolicy, JoinChoice, NodeState, NodeStatus, Pace, Place, PolicyNode, Recorder,
    ReplayOptions, RobotConfig, RunReport, ServeOptions, SimOptions, Stop, replay, run,
};
use pathline::wire::{
    ACTION_CHUNK, Action, ActionChunkMsg, Asks, Attachment, OBSERVATION, Observation,
};
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::Subscriber;
use zenoh::sample::Sample;
use zenoh::{Session, Wait};

fn serve(session: &Session) -> PolicyNode {
    PolicyNode::start(session, Box::new(ServoPolicy::pusht()), ServeOptions::default()).unwrap()
}

fn simulate(session: &Session, options: &SimOptions) -> RunReport {
    run(session, options, &Stop::new(), &mut |_| {}).unwrap()
}

fn steps(max_steps: usize) -> SimOptions {
    SimOptions {
        episodes: 1,
        max_steps,
        chunk_timeout: DEADLINE,
        policy_timeout: DEADLINE,
        ..SimOptions::default()
    }
}

/// Waits until the node has received `n` observations.
fn heard(node: &PolicyNode, n: u64) {
    until("the node hears all", || (node.status().counters.received >= n).then_some(()));
}

#[test]
fn an_episode_runs_and_every_stamp_is_right() {
    let bus = Bus::open();
    let spoke = bus.spoke();
    // On the robot's session: it sees what the robot sees and sends.
    let chunks = spoke.declare_subscriber("pathline/pusht/cmd/chunk").wait().unwrap();
    let actions = spoke.declare_subscriber("pathline/pusht/cmd/action").wait().unwrap();
    let seen = spoke.declare_subscriber("pathline/pusht/obs").wait().unwrap();
    let node = serve(&bus.hub);
    let report = simulate(&spoke, &steps(40));

    let episode = &report.episodes[0];
    assert_eq!((episode.steps, episode.holds, episode.chunks), (40, 0, 5));
    assert_eq!(report.chunks.into_iter().collect::<Vec<_>>(), [("accepted".to_owned(), 5)]);
    assert_eq!((report.inference.count, report.end_to_end.count), (5, 5));
    let stages = report.stages;
    assert_eq!((stages.observe.count, stages.transfer.count, stages.queue.count), (40, 5, 5));
    let smooth = report.smoothness;
    assert_eq!((smooth.ticks, smooth.seams, smooth.held_share), (40, 4, 0.0));
    assert!(smooth.mean_step > 0.0 && smooth.seam_jump_max >= smooth.seam_jump_mean);

    let first = Observation::decode(&seen.recv().unwrap().payload().to_bytes()).unwrap();
    assert_eq!((first.tick, first.seq, first.step), (0, 1, 0));
    assert_eq!((first.executing_chunk, first.executing_index), (0, -1));
    let mut epoch = None;
    for i in 0..5_u64 {
        let sample = chunks.recv_timeout(DEADLINE).unwrap().expect("five chunks");
        assert_eq!(sample.encoding().to_string(), ACTION_CHUNK.encoding);
        let stamp = Attachment::decode(&sample.attachment().unwrap().to_bytes()).unwrap();
        assert_eq!(stamp.seq, i as i64 + 1);
        let message = ActionChunkMsg::decode(&sample.payload().to_bytes()).unwrap();
        let chunk = &message.chunk;
        assert_eq!(chunk.session, first.session, "the robot's nonce is echoed");
        // The first chunk was the warm-up's.
        assert_eq!((chunk.seq, chunk.obs_tick, chunk.obs_seq), (i + 2, 8 * i, 8 * i + 1));
        assert_eq!((chunk.horizon(), chunk.dim, chunk.dt), (16, 2, Duration::from_millis(100)));
        assert_eq!(chunk.epoch, *epoch.get_or_insert(chunk.epoch));
    }
    for tick in 0..40_u64 {
        let sample = actions.recv_timeout(DEADLINE).unwrap().expect("forty actions");
        let action = Action::decode(&sample.payload().to_bytes()).unwrap();
        assert_eq!((action.tick, action.chunk_seq), (tick, tick / 8 + 2));
        assert_eq!(action.index as u64, tick % 8, "row = tick - obs_tick");
    }
    // The last observations ask for nothing and may still be on their way.
    heard(&node, 41);
    let counters = node.close().unwrap().counters;
    assert_eq!((counters.received, counters.accepted, counters.chunks), (41, 41, 6));
}

/// What the robot put and commanded in a run with chunks 300 ms late, of a policy that joins so.
fn late_run(mode: Mode) -> (RunReport, Vec<Observation>, Vec<Action>, Vec<ActionChunkMsg>) {
    let bus = Bus::open();
    let spoke = bus.spoke();
    let key = |rest: &str| format!("pathline/pusht/{rest}");
    let actions = spoke.declare_subscriber(key("cmd/action")).wait().unwrap();
    let observations = spoke.declare_subscriber(key("obs")).wait().unwrap();
    let chunks = spoke.declare_subscriber(key("cmd/chunk")).wait().unwrap();
    let policy = ServoPolicy::pusht().with_joining(Joining { mode, ..Joining::default() });
    let _node = PolicyNode::start(&bus.hub, Box::new(policy), ServeOptions::default()).unwrap();
    let latency = Duration::from_millis(300);
    let report = simulate(&spoke, &SimOptions { latency, ..steps(40) });
    let all = |n: usize, from: &Subscriber<FifoChannelHandler<Sample>>| {
        let next = |_| from.recv_timeout(DEADLINE).unwrap().expect("all that was put");
        (0..n).map(next).map(|sample| sample.payload().to_bytes().into_owned()).collect::<Vec<_>>()
    };
    let observations = all(40, &observations);
    let actions = all(40, &actions);
    let chunks = all(5, &chunks);
    (
        report,
        observations.iter().map(|bytes| Observation::decode(bytes).unwrap()).collect(),
        actions.iter().map(|bytes| Action::decode(bytes).unwrap()).collect(),
        chunks.iter().map(|bytes| ActionChunkMsg::decode(bytes).unwrap()).collect(),
    )
}

#[test]
fn a_chunk_that_comes_late_is_entered_where_the_robot_is() {
    let (report, observations, actions, _) = late_run(Mode::Replace);
    // Nothing is there for three ticks, and nothing of the first chunk is skipped for it.
    let rows: Vec<_> = actions.iter().map(|a| (a.chunk_seq, a.index)).collect();
    assert_eq!(rows[..5], [(0, -1), (0, -1), (0, -1), (2, 0), (2, 1)]);
    // After eight rows played, at tick 11, the next one is asked for; its rows 0 to 2 are played by then.
    assert_eq!((rows[13], rows[14]), ((2, 10), (3, 3)));
    let first_rows = rows.windows(2).filter(|w| w[0].0 != w[1].0).map(|w| w[1]);
    assert_eq!(first_rows.collect::<Vec<_>>(), [(2, 0), (3, 3), (4, 3), (5, 3), (6, 3)]);
    // Asked after every eight rows and at no other tick; after the first answer the delay is known.
    for o in &observations {
        let due = [0, 11, 19, 27, 35].contains(&o.tick);
        assert_eq!(o.request, if due { Asks::Chunk } else { Asks::Nothing }, "tick {}", o.tick);
        assert_eq!(o.expected_delay, if due && o.tick > 0 { 3 } else { 0 }, "tick {}", o.tick);
        assert!(o.left_over.is_empty(), "this policy does not continue chunks");
    }
    assert_eq!((report.episodes[0].holds, report.latency_ms), (3, 300.0));
    assert!((report.smoothness.held_share - 3.0 / 40.0).abs() < 1e-12);
}

#[test]
fn a_policy_that_continues_chunks_is_told_what_is_left() {
    let (_, observations, actions, chunks) = late_run(Mode::RtcIdentity);
    let asking: Vec<_> = observations.iter().filter(|o| o.request == Asks::Chunk).collect();
    // Eight of sixteen rows were played.
    let left: Vec<_> = asking.iter().map(|o| o.left_over.len() / 2).collect();
    assert_eq!((asking[1].tick, left), (11, vec![0, 8, 8, 8, 8]));
    assert_eq!(asking[1].left_over[..2], actions[11].action, "row 0 is what this tick plays");
    assert_eq!(asking[1].left_over[4..6], actions[13].action);
    let frozen: Vec<_> = chunks.iter().map(|m| m.prefix_len).collect();
    assert_eq!(frozen, [0, 3, 3, 3, 3]);
}

#[test]
fn a_way_of_joining_that_cannot_be_is_refused_at_the_start() {
    let bus = Bus::open();
    let _node = serve(&bus.hub);
    let refused = |joining: JoinChoice| {
        let robot = RobotConfig { joining, ..RobotConfig::pusht() };
        let options = SimOptions { robot, ..steps(5) };
        run(&bus.spoke(), &options, &Stop::new(), &mut |_| {}).unwrap_err().to_string()
    };
    let error = refused(JoinChoice { mode: Some(Mode::RtcVjp), ..JoinChoice::default() });
    assert!(error.contains("serve --join rtc_vjp"), "{error}");
    let error = refused(JoinChoice { n_action_steps: Some(12), ..JoinChoice::default() });
    assert!(error.contains("12 ticks") && error.contains("heartbeat_s"), "{error}");
}

#[test]
fn real_time_keeps_its_grid() {
    let bus = Bus::open();
    let _node = serve(&bus.hub);
    let report = simulate(&bus.spoke(), &SimOptions { pace: Pace::Realtime, ..steps(10) });
    assert_eq!(report.cadence.ticks, 10);
    // Nine periods lie between ten ticks, however loaded the machine is: ticks never burst.
    assert!(report.eval_s >= 0.9, "{} s for ten ticks", report.eval_s);
}

#[test]
fn the_questions_are_answered() {
    let bus = Bus::open();
    let node = serve(&bus.hub);
    let spoke = bus.spoke();
    let ask = |key: &str, payload: Option<Vec<u8>>| {
        let mut get = spoke.get(format!("pathline/pusht/policy/{key}")).timeout(DEADLINE);
        if let Some(payload) = payload {
            get = get.payload(payload).encoding(OBSERVATION.encoding);
        }
        let reply = get.wait().unwrap().recv().expect("an answer").into_result();
        reply
            .map(|sample| sample.payload().to_bytes().into_owned())
            .map_err(|error| String::from_utf8(error.payload().to_bytes().into_owned()).unwrap())
    };
    let info: serde_json::Value = serde_json::from_slice(&ask("info", None).unwrap()).unwrap();
    assert_eq!((&info["n_action_steps"], &info["chunk_size"]), (&8.into(), &16.into()));
    assert_eq!(info["input_features"]["observation.environment_state"][0], 16);

    let request = observation(3, 5).encode().unwrap();
    let answer = |bytes: &[u8]| ActionChunkMsg::decode(bytes).unwrap().chunk;
    let once = answer(&ask("infer", Some(request.clone())).unwrap());
    assert_eq!((once.session, once.obs_tick, once.horizon()), (3, 5, 16));
    assert_eq!(once.row(0).unwrap(), [110.0, 210.0], "ten pixels towards the middle");
    let again = answer(&ask("infer", Some(request)).unwrap());
    assert_eq!((again.seq, again.actions), (once.seq + 1, once.actions), "asked twice, same chunk");

    let older = observation(3, 4).encode().unwrap();
    assert!(ask("infer", Some(older.clone())).unwrap_err().contains("older"));
    assert!(ask("infer", Some(b"nonsense".to_vec())).unwrap_err().contains("CDR"));
    assert!(ask("infer", None).unwrap_err().contains("encoding"));
    ask("reset", Some(b"{}".to_vec())).unwrap();
    assert_eq!(answer(&ask("infer", Some(older)).unwrap()).obs_tick, 4, "reset forgets");

    // A chunk is counted once it has left, which a quick question can overtake.
    let ask_status =
        || -> NodeStatus { serde_json::from_slice(&ask("status", None).unwrap()).unwrap() };
    let asked = std::time::Instant::now();
    let mut status = ask_status();
    while status.counters.chunks < 3 && asked.elapsed().as_secs() < 5 {
        status = ask_status();
    }
    assert_eq!(status.state, NodeState::Running);
    assert_eq!((status.counters.chunks, status.counters.requests_refused), (3, 3));
    assert_eq!(node.close().unwrap().state, NodeState::Stopped);
}

#[test]
fn a_busy_port_is_one_error_that_says_what_to_do() {
    let bus = Bus::open();
    let error = BusConfig::listen_on(&bus.endpoint).open(Place::Hub).unwrap_err().to_string();
    assert!(error.contains(&bus.endpoint) && error.contains("in use"), "{error}");
    assert!(error.contains("-l "), "{error}");
}

#[test]
fn nobody_there_is_one_error_that_says_what_to_do() {
    let endpoint = pathline::node::free_endpoint().unwrap();
    let bus = BusConfig::connect_to(&endpoint);
    let error =
        bus.open_within(Place::Spoke, Duration::from_millis(300), &Stop::new()).unwrap_err();
    assert!(
        error.to_string().contains(&endpoint) && error.to_string().contains("serve"),
        "{error}"
    );

    let bus = Bus::open();
    let options = SimOptions { policy_timeout: Duration::from_millis(100), ..steps(5) };
    let error = run(&bus.spoke(), &options, &Stop::new(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("no policy answers") && error.contains("pathline serve"), "{error}");
}

#[test]
fn what_was_said_is_recorded_and_can_be_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.mcap");
    let bus = Bus::open();
    let spoke = bus.spoke();
    let original = spoke.declare_subscriber("pathline/pusht/obs").wait().unwrap();
    let node = serve(&bus.hub);
    let recorder = Recorder::start(&spoke, "pusht", &path).unwrap();
    simulate(&spoke, &steps(24));
    until("24 observations, 24 actions, 3 chunks", || (recorder.written() == 51).then_some(()));
    assert_eq!(recorder.lost(), 0);
    let summary = serde_json::json!({ "pc_success": 0.0 });
    assert_eq!(recorder.finish(Some(&summary), &[]).unwrap(), 51);
    node.close().unwrap();

    let listener = bus.spoke();
    let copies = listener.declare_subscriber("pathline/copy/obs").wait().unwrap();
    let options = ReplayOptions {
        rate: 1000.0,
        topics: vec!["/obs".to_owned()],
        robot: Some("copy".to_owned()),
    };
    // The listener's declaration reaches the hub before its first answer does.
    until("the listener is known", || {
        let publisher = bus.hub.declare_publisher("pathline/copy/obs").wait().unwrap();
        publisher.matching_status().wait().unwrap().matching().then_some(())
    });
    let report = replay(&bus.hub, &path, &options, &Stop::new()).unwrap();
    assert_eq!((report.messages["pathline/copy/obs"], report.skipped), (24, 27));
    for _ in 0..24 {
        let copy = copies.recv_timeout(DEADLINE).unwrap().expect("24 copies");
        let first = original.recv_timeout(DEADLINE).unwrap().unwrap();
        assert_eq!(copy.payload().to_bytes(), first.payload().to_bytes());
        assert_eq!(copy.encoding(), first.encoding());
    }
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let runs: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(|| {
                let bus = Bus::open();
                let node = serve(&bus.hub);
                let report = simulate(&bus.spoke(), &steps(64));
                heard(&node, 65);
                (report.episodes[0].holds, node.close().unwrap().counters.received)
            })
        })
        .collect();
    for run in runs {
        assert_eq!(run.join().unwrap(), (0, 65));
    }
}

#[test]
fn an_impossible_policy_is_refused_at_the_start() {
    struct Liar;
    impl ChunkPolicy for Liar {
        fn info(&self) -> pathline::node::PolicyInfo {
            ServoPolicy::pusht().info()
        }
        fn infer(
            &mut self,
            _requests: &[pathline::node::Request],
            _trace: Option<&mut Vec<Vec<f32>>>,
        ) -> pathline::Result<Vec<Vec<f32>>> {
            Ok(vec![vec![0.0; 31]])
        }
    }
    let bus = Bus::open();
    let error = PolicyNode::start(&bus.hub, Box::new(Liar), ServeOptions::default()).err().unwrap();
    assert!(error.to_string().contains("expected 16 x 2"), "{error}");
}
