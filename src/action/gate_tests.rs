//! The gate, one behaviour a test.

use std::time::Duration;

use super::*;

fn config() -> GateConfig {
    let limit = Limit::new(0.0, 512.0);
    GateConfig {
        session: 7,
        limits: vec![limit; 2],
        max_horizon: 16,
        max_obs_age: 10,
        heartbeat: 8,
        overshoot: 0.1,
        latch_after: 3,
        ..GateConfig::default()
    }
}

/// Row i is (100 + i, 200 + i).
fn chunk(seq: u64, obs_seq: u64, obs_tick: u64) -> ActionChunk {
    ActionChunk {
        session: 7,
        epoch: 1,
        seq,
        obs_seq,
        obs_tick,
        dt: Duration::from_millis(100),
        dim: 2,
        actions: (0..16).flat_map(|i| [100.0 + i as f32, 200.0 + i as f32]).collect(),
    }
}

/// A gate that saw observation 1 at tick 5.
fn gate() -> Gate {
    let mut gate = Gate::new(config(), &[10.0, 20.0]).unwrap();
    assert!(gate.observed(1, 5));
    gate
}

fn reason(gate: &mut Gate, chunk: &ActionChunk, tick: u64) -> Reason {
    match gate.offer(&chunk.view(), tick) {
        Verdict::Rejected(reason) => reason,
        accepted => panic!("{accepted:?}"),
    }
}

#[test]
fn idle_run_held_run() {
    let mut gate = gate();
    let command = gate.step(5);
    assert_eq!((command.action, command.source), (&[10.0, 20.0][..], Source::Hold));
    assert_eq!(command.state, GateState::Idle);
    assert_eq!(gate.step(6).source, Source::Hold);
    // Two ticks of latency, in which nothing was played: no row is lost.
    assert_eq!(gate.offer(&chunk(1, 1, 5).view(), 7), Verdict::Accepted { clamped: 0 });
    assert_eq!(gate.executing(7), Executing { chunk_seq: 1, index: 0 });
    for tick in 7..=15 {
        let i = (tick - 7) as f32;
        let command = gate.step(tick);
        assert_eq!(command.action, [100.0 + i, 200.0 + i]);
        assert_eq!((command.state, command.limited), (GateState::Run, false));
    }
    // Tick 15 was the last within heartbeat (7 + 8) and age (5 + 10).
    assert_eq!(gate.executing(16), Executing::NOTHING);
    let command = gate.step(16);
    assert_eq!((command.action, command.source), (&[108.0, 208.0][..], Source::Hold));
    assert_eq!(command.state, GateState::Held);
    assert!(gate.observed(2, 17));
    assert!(gate.offer(&chunk(2, 2, 17).view(), 17).is_accepted());
    assert_eq!(gate.step(17).state, GateState::Run);
    assert_eq!(gate.counters().total(), 2);
}

#[test]
fn every_reason_is_reached() {
    let mut c = config();
    c.limits[1].jump = Some(300.0);
    let mut g = Gate::new(c, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.observed(2, 6));
    assert!(g.observed(3, 7));
    assert!(g.offer(&chunk(5, 2, 6).view(), 7).is_accepted());
    assert_eq!(g.step(7).action, [100.0, 200.0]);
    let good = chunk(6, 3, 7);
    let with = |change: fn(&mut ActionChunk)| {
        let mut c = good.clone();
        change(&mut c);
        c
    };
    let cases = [
        (with(|c| c.dim = 1), Reason::WrongDim),
        (with(|c| c.actions.truncate(31)), Reason::WrongShape),
        (with(|c| c.actions.extend([0.0; 2])), Reason::WrongShape),
        (with(|c| c.actions.clear()), Reason::WrongShape),
        (with(|c| c.session = 8), Reason::WrongSession),
        (with(|c| c.epoch = 0), Reason::StaleEpoch),
        (with(|c| c.seq = 5), Reason::OldSequence),
        (with(|c| (c.epoch, c.seq) = (2, 0)), Reason::OldSequence),
        (with(|c| c.obs_seq = 4), Reason::FutureObservation),
        (with(|c| c.obs_seq = 0), Reason::UnknownObservation),
        (with(|c| c.obs_tick = 6), Reason::WrongTick),
        (with(|c| (c.obs_seq, c.obs_tick) = (1, 5)), Reason::OlderObservation),
        (with(|c| c.actions.truncate(2)), Reason::Expired),
        (with(|c| c.actions[31] = f32::NAN), Reason::NonFinite),
        (with(|c| c.actions[0] = 600.0), Reason::OutOfLimits),
        (with(|c| c.actions[3] = 500.1), Reason::Discontinuous),
        (with(|c| (c.actions[0], c.actions[31]) = (600.0, f32::INFINITY)), Reason::NonFinite),
    ];
    for (bad, want) in &cases {
        assert_eq!(reason(&mut g, bad, 8), *want);
        assert_eq!(g.timeline().due(9).unwrap().0.chunk_seq, 5, "{want:?} left the plan alone");
    }
    assert_eq!(reason(&mut g, &good, 18), Reason::StaleObservation);
    assert!(g.refuse(Reason::Malformed) == Verdict::Rejected(Reason::Malformed));
    assert!(g.refuse(Reason::WrongSchema) == Verdict::Rejected(Reason::WrongSchema));
    assert!(g.offer(&good.view(), 8).is_accepted(), "none of them spoiled the good one");
    g.latch();
    assert_eq!(reason(&mut g, &chunk(7, 3, 7), 8), Reason::Latched);
    assert_eq!(g.counters().total(), 2 + 20 + 1);
    for r in Reason::ALL {
        assert!(g.counters().rejected(r) > 0, "{r:?} was not reached");
    }
}

#[test]
fn a_little_outside_is_clamped_and_counted() {
    let mut g = gate();
    let mut c = chunk(1, 1, 5);
    (c.actions[0], c.actions[1]) = (-51.0, 563.0);
    assert_eq!(g.offer(&c.view(), 5), Verdict::Accepted { clamped: 2 });
    assert_eq!(g.step(5).action, [0.0, 512.0]);
    (c.seq, c.actions[0]) = (2, -51.3);
    assert_eq!(reason(&mut g, &c, 5), Reason::OutOfLimits);
    let mut g = Gate::new(GateConfig { overshoot: 0.0, ..config() }, &[0.0; 2]).unwrap();
    assert!(g.observed(1, 5));
    c.actions[0] = -f32::MIN_POSITIVE;
    c.actions[1] = 512.0;
    assert_eq!(reason(&mut g, &c, 5), Reason::OutOfLimits);
}

#[test]
fn max_step_slows_the_robot_down_and_says_so() {
    let mut c = config();
    c.limits[0].velocity = Some(30.0);
    let mut g = Gate::new(c, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let steps: Vec<_> = (5..10).map(|t| (g.step(t).action[0], g.step(t).action[1])).collect();
    assert_eq!(
        steps,
        [(40.0, 200.0), (70.0, 201.0), (100.0, 202.0), (103.0, 203.0), (104.0, 204.0)]
    );
    assert!(g.observed(2, 10));
    let mut far = chunk(2, 2, 10);
    far.actions.fill(0.0);
    assert!(g.offer(&far.view(), 10).is_accepted());
    assert!(g.step(10).limited);
}

#[test]
fn a_new_life_of_the_policy_takes_over_and_the_old_one_does_not_come_back() {
    let mut g = gate();
    assert!(g.offer(&chunk(900, 1, 5).view(), 5).is_accepted());
    let mut reborn = chunk(1, 1, 5);
    reborn.epoch = 2;
    assert!(g.offer(&reborn.view(), 5).is_accepted(), "its sequence numbers start anew");
    assert_eq!(reason(&mut g, &chunk(901, 1, 5), 5), Reason::StaleEpoch);
}

#[test]
fn an_episode_forgets_the_one_before() {
    let mut g = gate();
    let late = chunk(2, 1, 5);
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    assert_eq!(g.step(5).state, GateState::Run);
    g.reset(&[300.0, 300.0]).unwrap();
    assert_eq!(reason(&mut g, &late, 6), Reason::UnknownObservation);
    let command = g.step(6);
    assert_eq!((command.action, command.state), (&[300.0, 300.0][..], GateState::Idle));
    assert!(g.reset(&[f32::NAN, 0.0]).is_err());
    assert!(g.reset(&[0.0]).is_err());
    assert_eq!(g.setpoint(), [300.0, 300.0]);
}

#[test]
fn broken_chunks_in_a_row_latch_but_copies_of_one_do_not() {
    let mut g = gate();
    let mut nan = chunk(1, 1, 5);
    nan.actions[3] = f32::NAN;
    for _ in 0..10 {
        assert_eq!(reason(&mut g, &nan, 5), Reason::NonFinite);
    }
    assert_eq!(g.state(), GateState::Idle);
    nan.seq = 2;
    assert_eq!(reason(&mut g, &nan, 5), Reason::NonFinite);
    assert!(g.offer(&chunk(3, 1, 5).view(), 5).is_accepted(), "a good one starts the count anew");
    for seq in 4..7 {
        nan.seq = seq;
        assert_eq!(reason(&mut g, &nan, 5), Reason::NonFinite);
    }
    assert_eq!((g.step(6).state, g.step(6).source), (GateState::Latched, Source::Hold));
    assert_eq!(reason(&mut g, &chunk(8, 1, 5), 6), Reason::Latched);
    g.reset(&[1.0, 1.0]).unwrap();
    assert_eq!(g.state(), GateState::Latched, "an episode does not clear a fault");
    g.unlatch();
    assert!(g.observed(2, 7));
    assert!(g.offer(&chunk(9, 2, 7).view(), 7).is_accepted());
    assert_eq!(g.step(7).state, GateState::Run);
}

#[test]
fn a_latched_gate_forgets_its_plan() {
    let mut g = gate();
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let held = g.step(5).action.to_vec();
    g.latch();
    assert_eq!(g.executing(6), Executing::NOTHING);
    let command = g.step(6);
    assert_eq!((command.action, command.state), (&held[..], GateState::Latched));
    g.unlatch();
    let command = g.step(7);
    assert_eq!((command.action, command.source), (&held[..], Source::Hold));
    assert_eq!(command.state, GateState::Held);
}

#[test]
fn the_last_tick_that_counts_still_counts() {
    // Taken at the greatest age, 10; played at that age, and no longer.
    let mut g = gate();
    assert!(g.offer(&chunk(1, 1, 5).view(), 15).is_accepted());
    assert_eq!((g.step(15).action[0], g.step(16).source), (100.0, Source::Hold));
    // Age alone, with a heartbeat that does not matter.
    let mut g = Gate::new(GateConfig { heartbeat: 100, ..config() }, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let played = (5..40).filter(|t| g.step(*t).source != Source::Hold).count();
    assert_eq!(played, 11, "ages 0 to 10");
    // The heartbeat alone.
    let mut g = Gate::new(GateConfig { max_obs_age: 100, ..config() }, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 7).is_accepted());
    let played = (7..40).filter(|t| g.step(*t).source != Source::Hold).count();
    assert_eq!(played, 9, "ticks 7 to 15");
    // The last row.
    let mut g = gate();
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    assert_eq!((g.step(5).action[0], g.step(6).action[0]), (100.0, 101.0));
    let mut short = chunk(2, 1, 5);
    short.actions.truncate(4);
    assert_eq!(reason(&mut g, &short, 7), Reason::Expired, "both its rows were played");
    short.actions.extend([102.5, 202.5]);
    assert!(g.offer(&short.view(), 7).is_accepted());
    assert_eq!((g.step(7).action[0], g.step(8).source), (102.5, Source::Hold));
    // The largest robot, and the largest times.
    let limit = Limit { lo: -1.0, hi: 1.0, velocity: Some(0.5), ..Limit::new(-1.0, 1.0) };
    let largest = GateConfig {
        limits: vec![limit; MAX_DIM],
        max_horizon: MAX_HORIZON,
        max_obs_age: 1 << 16,
        heartbeat: 1 << 16,
        ..config()
    };
    let mut g = Gate::new(largest, &[0.0; MAX_DIM]).unwrap();
    assert!(g.observed(u64::MAX, u64::MAX));
    let mut c = chunk(u64::MAX, u64::MAX, u64::MAX);
    (c.dim, c.actions) = (MAX_DIM, vec![1.0; MAX_DIM * MAX_HORIZON]);
    assert!(g.offer(&c.view(), u64::MAX).is_accepted());
    assert_eq!(g.step(u64::MAX).action, [0.5; MAX_DIM]);
    println!("the largest gate holds {} bytes", g.memory_bytes());
}

#[test]
fn two_observations_of_one_tick_are_both_known() {
    let mut g = gate();
    assert!(g.observed(2, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    assert!(g.offer(&chunk(2, 2, 5).view(), 5).is_accepted());
}

#[test]
fn ticks_that_do_not_advance_move_nothing() {
    let mut c = config();
    c.limits[0].velocity = Some(1.0);
    let mut g = Gate::new(c, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    assert_eq!(g.step(6).action, [11.0, 201.0]);
    for tick in [6, 5, 0] {
        let again = g.step(tick);
        assert_eq!((again.action, again.source), (&[11.0, 201.0][..], Source::Hold));
    }
    assert!(!g.observed(1, 7) && !g.observed(2, 4), "nor does an observation go back");
    assert_eq!(g.step(7).action, [12.0, 202.0]);
}

#[test]
fn a_robot_without_limits_does_not_start() {
    let start = |change: fn(&mut GateConfig)| {
        let mut c = config();
        change(&mut c);
        Gate::new(c, &[1.0, 1.0]).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(start(|_| ()), Ok(()));
    type Change = fn(&mut GateConfig);
    let cases: [(Change, &str); 22] = [
        (|c| c.limits.clear(), "expected limits"),
        (|c| c.limits[1].lo = f32::NAN, "dimension 1: expected finite lo < hi"),
        (|c| c.limits[1].hi = f32::INFINITY, "dimension 1: expected finite lo < hi"),
        (|c| c.limits[0].hi = 0.0, "dimension 0: expected finite lo < hi"),
        (|c| c.limits[0].velocity = Some(0.0), "velocity"),
        (|c| c.limits[0].velocity = Some(f32::NAN), "velocity"),
        (|c| c.limits[0].acceleration = Some(-1.0), "acceleration"),
        (|c| c.limits[0].jerk = Some(f32::INFINITY), "jerk"),
        (|c| c.limits[0].jump = Some(0.0), "jump"),
        (|c| c.limits[0].velocity = Some(1e-5), "the step from one f32 to the next"),
        (|c| c.commands_per_tick = 0, "one command a tick"),
        (|c| c.join = Join::Blend { old: f32::NAN }, "blend"),
        (|c| c.join = Join::Ensemble { coefficient: f64::NAN }, "ensemble"),
        (|c| c.join = Join::Ensemble { coefficient: -10.0 }, "ensemble"),
        (|c| c.join = Join::Stop { rows: 0 }, "rows"),
        (|c| c.max_horizon = 0, "rows"),
        (|c| c.max_horizon = 1025, "rows"),
        (|c| c.max_obs_age = 0, "ticks"),
        (|c| c.heartbeat = u64::MAX, "ticks"),
        (|c| c.overshoot = f32::NAN, "overshoot"),
        (|c| c.overshoot = -0.1, "overshoot"),
        (|c| c.limits[0].lo = 2.0, "inside the limits"),
    ];
    for (change, want) in cases {
        let error = start(change).expect_err(want);
        assert!(error.contains(want), "{error}");
    }
}

/// An arm: 4 commands a tick, all limits.
fn arm() -> GateConfig {
    let l = Limit {
        velocity: Some(2.0),
        acceleration: Some(0.5),
        jerk: Some(0.25),
        ..Limit::new(0.0, 512.0)
    };
    GateConfig { limits: vec![l; 2], commands_per_tick: 4, ..config() }
}

#[test]
fn a_row_is_reached_in_as_many_commands_as_a_tick_has() {
    let c = GateConfig { commands_per_tick: 4, ..config() };
    let mut g = Gate::new(c, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let mut tick =
        |tick| -> Vec<f32> { (0..4).map(|sub| g.step_at(tick, sub).action[0]).collect() };
    assert_eq!(tick(5), [32.5, 55.0, 77.5, 100.0], "from where the robot stands to row 0");
    assert_eq!(tick(6), [100.25, 100.5, 100.75, 101.0]);
    assert_eq!(g.timeline().played(5, 7), 2, "a row counts once a tick");
    assert_eq!(g.step_at(7, 3).action[0], 102.0, "the others came too late");
    assert_eq!((g.step_at(7, 2).source, g.step_at(7, 4).source), (Source::Hold, Source::Hold));
}

#[test]
fn a_hold_is_a_stop_inside_the_limits() {
    let mut g = Gate::new(arm(), &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let mut last = 10.0;
    for tick in 5..=13 {
        for sub in 0..4 {
            let command = g.step_at(tick, sub);
            assert_eq!((command.state, command.limited), (GateState::Run, true));
            last = command.action[0];
        }
    }
    // 2 a command, which takes 2/0.5 + 0.5/0.25 commands to take away.
    let mut path = vec![];
    for command in 0..12 {
        let command = g.step_at(14 + command / 4, (command % 4) as u32);
        assert_eq!(command.source, Source::Hold);
        path.push((command.action[0] - last, command.state));
        last = command.action[0];
    }
    let steps: Vec<f32> = path.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps[..7], [1.75, 1.25, 0.75, 0.25, 0.0, 0.0, 0.0]);
    let stopping = path.iter().filter(|(_, state)| *state == GateState::Stopping).count();
    assert_eq!(stopping, 5, "at rest is without velocity and without acceleration");
    assert_eq!(path[11].1, GateState::Held);
}

#[test]
fn a_latched_gate_stops_inside_the_limits_too() {
    let mut g = Gate::new(arm(), &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    for command in 0..16 {
        let _ = g.step_at(5 + command / 4, (command % 4) as u32);
    }
    g.latch();
    let mut last = g.setpoint()[0];
    let mut moved = 0.0;
    for command in 0..40 {
        let command = g.step_at(9 + command / 4, (command % 4) as u32);
        assert_eq!((command.state, command.source), (GateState::Latched, Source::Hold));
        let step = command.action[0] - last;
        assert!((0.0..=1.75).contains(&step));
        (moved, last) = (moved + step, command.action[0]);
    }
    assert!(moved > 2.0, "{moved}");
    // A fault in the midst of motion, reset at once: it is still moving.
    g.unlatch();
    assert_eq!(g.state(), GateState::Held);
}

#[test]
fn a_hold_forgets_what_was_planned() {
    // Row 3 is too old at tick 8; row 4 would be too; the next chunk goes on with row 3.
    let c = GateConfig { max_obs_age: 2, ..config() };
    let mut g = Gate::new(c, &[10.0, 20.0]).unwrap();
    assert!(g.observed(1, 5));
    assert!(g.offer(&chunk(1, 1, 5).view(), 5).is_accepted());
    let played = (5..10).filter(|t| g.step(*t).source != Source::Hold).count();
    assert_eq!((played, g.timeline().due(9).is_none()), (3, true));
    assert!(g.observed(2, 10));
    assert!(g.offer(&chunk(2, 2, 10).view(), 11).is_accepted());
    assert_eq!(g.executing(11), Executing { chunk_seq: 2, index: 0 });
}

#[test]
fn a_chunk_that_jumps_is_refused_and_one_that_goes_on_is_not() {
    let mut c = config();
    c.limits.iter_mut().for_each(|l| l.jump = Some(5.0));
    let mut g = Gate::new(c, &[98.0, 198.0]).unwrap();
    assert!(g.observed(1, 5));
    let mut far = chunk(1, 1, 5);
    far.actions[1] = 203.1;
    assert_eq!(reason(&mut g, &far, 5), Reason::Discontinuous);
    // Only the row of now counts; the limits of velocity see to the others.
    (far.actions[1], far.actions[3]) = (203.0, 400.0);
    assert!(g.offer(&far.view(), 5).is_accepted());
    assert_eq!(g.step(5).action, [100.0, 203.0]);
}

#[test]
fn every_poisoned_value_is_refused_whole() {
    let good = chunk(1, 1, 5);
    let clean = gate();
    for at in 0..good.actions.len() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut g = gate();
            let mut bad = good.clone();
            bad.actions[at] = poison;
            assert_eq!(reason(&mut g, &bad, 5), Reason::NonFinite);
            assert_eq!(g.counters().rejected(Reason::NonFinite), 1);
            assert_eq!(g.counters().total(), 1);
            assert!(g.same_but_counters(&clean, true), "value {at}: {poison} changed the gate");
            assert_eq!(g.step(5).action, [10.0, 20.0]);
            // The good one after it is taken as if nothing had been.
            let mut next = good.clone();
            next.seq = 2;
            assert!(g.offer(&next.view(), 6).is_accepted());
            assert_eq!(g.step(6).action, [100.0, 200.0]);
        }
    }
}
