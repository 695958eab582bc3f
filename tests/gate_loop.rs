//! Robot and policy in one thread, with nothing but messages between them: the loop of the contract,
//! with a policy that is slow, dies, and comes back.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::time::Duration;

use pathline::action::{ActionChunk, Gate, GateConfig, GateState, Limit, Reason, Source};
use pathline::wire::{
    ACTION_CHUNK, Action, ActionChunkMsg, Flags, Header, Observation, Time, offer,
};

const HORIZON: usize = 16;
const N_ACTION_STEPS: i32 = 4;
const HEARTBEAT: u64 = 8;

/// Answers when the row of now is beyond `n_action_steps`, as `pathline serve` does.
struct Policy {
    epoch: u64,
    seq: u64,
}

impl Policy {
    fn on_observation(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let obs = Observation::decode(bytes).unwrap();
        if obs.executing_chunk != 0 && obs.executing_index < N_ACTION_STEPS {
            return None;
        }
        self.seq += 1;
        let row = |i: usize| [obs.tick as f32 + i as f32, 1000.0 * self.epoch as f32];
        let msg = ActionChunkMsg {
            header: Header::default(),
            obs_stamp: obs.header.stamp,
            episode: obs.episode,
            t0: obs.header.stamp,
            prefix_len: 0,
            nfe: 2,
            infer_ms: 1.0,
            seed: 0,
            flags: Flags::default(),
            encode_ms: 0.0,
            queue_ms: 0.0,
            chunk: ActionChunk {
                session: obs.session,
                epoch: self.epoch,
                seq: self.seq,
                obs_seq: obs.seq,
                obs_tick: obs.tick,
                dt: Duration::from_millis(100),
                dim: 2,
                actions: (0..HORIZON).flat_map(row).collect(),
            },
        };
        Some(msg.encode().unwrap())
    }
}

struct Robot {
    gate: Gate,
    tick: u64,
}

impl Robot {
    fn new() -> Self {
        let config = GateConfig {
            session: 99,
            limits: vec![Limit::new(0.0, 1e4); 2],
            max_horizon: HORIZON,
            max_obs_age: 12,
            heartbeat: HEARTBEAT,
            ..GateConfig::default()
        };
        Self { gate: Gate::new(config, &[0.0, 0.0]).unwrap(), tick: 0 }
    }

    fn observe(&mut self) -> Vec<u8> {
        self.tick += 1;
        assert!(self.gate.observed(self.tick, self.tick));
        let executing = self.gate.executing(self.tick);
        let obs = Observation {
            session: 99,
            tick: self.tick,
            seq: self.tick,
            state: vec![0.0; 2],
            executing_chunk: executing.chunk_seq,
            executing_index: executing.index,
            ..Observation::default()
        };
        obs.encode().unwrap()
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        offer(&mut self.gate, ACTION_CHUNK.encoding, bytes, self.tick).is_accepted()
    }

    /// What the robot publishes about this tick, and where it came from.
    fn act(&mut self) -> (Action, Source) {
        let command = self.gate.step(self.tick);
        let executing = command.source.executing();
        let action = Action {
            stamp: Time::default(),
            tick: command.tick,
            chunk_seq: executing.chunk_seq,
            index: executing.index,
            action: command.action.to_vec(),
        };
        (Action::decode(&action.encode().unwrap()).unwrap(), command.source)
    }
}

#[test]
fn in_lockstep_every_nth_tick_starts_a_chunk_and_every_row_is_of_its_tick() {
    let (mut robot, mut policy) = (Robot::new(), Policy { epoch: 1, seq: 0 });
    for i in 0..40_u64 {
        let obs = robot.observe();
        let answer = policy.on_observation(&obs);
        assert_eq!(answer.is_some(), i % 4 == 0, "tick {i}");
        answer.iter().for_each(|bytes| assert!(robot.take(bytes)));
        let (action, _) = robot.act();
        assert_eq!((action.chunk_seq, action.index), (1 + i / 4, (i % 4) as i32));
        assert_eq!(action.action, [robot.tick as f32, 1000.0]);
    }
    assert_eq!(robot.gate.counters().total(), 10);
}

#[test]
fn a_slow_policy_skips_rows_that_were_played_and_no_other() {
    let (mut robot, mut policy) = (Robot::new(), Policy { epoch: 1, seq: 0 });
    let mut on_the_way: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut first = None;
    for i in 0..60 {
        let obs = robot.observe();
        on_the_way.extend(policy.on_observation(&obs).map(|bytes| (robot.tick + 3, bytes)));
        let now = robot.tick;
        for (_, bytes) in on_the_way.extract_if(.., |(due, _)| *due <= now) {
            robot.take(&bytes);
        }
        let (action, source) = robot.act();
        if i < 3 {
            assert_eq!((source, action.index), (Source::Hold, -1), "nothing has come yet");
            continue;
        }
        // The first chunk begins at its first row, late as it is: nothing was played meanwhile. Those that
        // come while it is played begin at the row of now.
        let chunk = *first.get_or_insert(action.chunk_seq);
        if action.chunk_seq == chunk {
            assert_eq!((action.index, action.action[0]), (i - 3, (i - 2) as f32));
        } else if action.chunk_seq >= chunk + 3 {
            assert_eq!(action.action[0], robot.tick as f32, "the value says which tick it is for");
            assert!(action.index >= 3, "rows that were played are skipped");
        }
    }
}

#[test]
fn a_dead_policy_is_a_hold_and_a_new_one_goes_on() {
    let (mut robot, mut policy) = (Robot::new(), Policy { epoch: 1, seq: 0 });
    for _ in 0..9 {
        let obs = robot.observe();
        policy.on_observation(&obs).iter().for_each(|b| assert!(robot.take(b)));
        robot.act();
    }
    // The last chunk came at tick 9. Then nothing.
    let mut ran = 0;
    loop {
        let obs = robot.observe();
        let (action, source) = robot.act();
        if source == Source::Hold {
            assert_eq!(Observation::decode(&obs).unwrap().executing_chunk, 0);
            assert_eq!((action.chunk_seq, action.index), (0, -1));
            break;
        }
        ran += 1;
    }
    assert_eq!(ran, HEARTBEAT, "the hold begins one tick after the heartbeat");
    assert_eq!(robot.gate.state(), GateState::Held);
    let held = robot.gate.setpoint().to_vec();
    for _ in 0..1000 {
        robot.observe();
        assert_eq!(robot.act().0.action, held);
    }
    let mut reborn = Policy { epoch: 2, seq: 0 };
    let obs = robot.observe();
    let fresh = reborn.on_observation(&obs).unwrap();
    assert!(robot.take(&fresh) && !robot.take(&fresh));
    assert_eq!(robot.act().0.action, [robot.tick as f32, 2000.0]);
    // What the old one had on its way is of no use any more.
    let obs = robot.observe();
    policy.seq += 5;
    let asking = Observation { executing_chunk: 0, ..Observation::decode(&obs).unwrap() };
    let late = policy.on_observation(&asking.encode().unwrap()).unwrap();
    assert!(!robot.take(&late));
}

#[test]
fn every_poisoned_value_of_the_bytes_is_refused_whole() {
    let mut policy = Policy { epoch: 1, seq: 0 };
    let good = policy.on_observation(&Robot::new().observe()).unwrap();
    let values = ActionChunkMsg::decode(&good).unwrap().chunk.actions;
    let first = good.windows(4).position(|bytes| bytes == values[0].to_le_bytes());
    // 1.0 and 1000.0, then 2.0: the values' own place.
    let row: Vec<u8> = values[..3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = good.windows(row.len()).position(|bytes| bytes == row).unwrap();
    assert!(first.is_some_and(|first| first <= at));
    let mut refused = 0;
    for value in 0..values.len() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut robot = Robot::new();
            robot.observe();
            let mut bad = good.clone();
            bad[at + 4 * value..][..4].copy_from_slice(&poison.to_le_bytes());
            assert!(!robot.take(&bad));
            let counters = robot.gate.counters();
            assert_eq!(counters.rejected(Reason::NonFinite), 1, "value {value}: {poison}");
            assert_eq!(counters.total(), 1);
            assert_eq!(robot.gate.timeline().plan(), None);
            let (action, source) = robot.act();
            assert_eq!((action.action, source), (vec![0.0, 0.0], Source::Hold));
            assert_eq!(robot.gate.state(), GateState::Idle);
            refused += 1;
        }
    }
    assert_eq!(refused, 3 * 2 * HORIZON);
    let mut robot = Robot::new();
    robot.observe();
    assert!(robot.take(&good));
}
