//! Robot and policy in one thread, with nothing but messages between them: the loop of the contract,
//! with a policy that is slow, dies, and comes back.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::time::Duration;

use pathline::action::{ActionChunk, Gate, GateConfig, GateState, Limit, Source};
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
        let limit = Limit { lo: 0.0, hi: 1e4, max_step: None };
        let config = GateConfig {
            session: 99,
            limits: vec![limit; 2],
            max_horizon: HORIZON,
            max_obs_age: 12,
            heartbeat: HEARTBEAT,
            overshoot: 0.0,
            latch_after: 0,
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
fn a_slow_policy_skips_rows_but_never_shifts_them() {
    let (mut robot, mut policy) = (Robot::new(), Policy { epoch: 1, seq: 0 });
    let mut on_the_way: Vec<(u64, Vec<u8>)> = Vec::new();
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
        } else {
            assert_eq!(action.action[0], robot.tick as f32, "the value says which tick it is for");
            assert!(action.index >= 3, "rows that are late are skipped");
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
