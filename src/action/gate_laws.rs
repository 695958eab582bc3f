//! The gate's promises on random schedules, and broken twins that each of them must catch.
//!
//! A schedule is one robot that may start anew, one policy that dies, comes back and answers late, a network
//! that loses, doubles, reorders and is cut, and strangers. The judge (`gate_judge.rs`) looks at what the gate
//! commands and knows nothing of how it decides. `PATHLINE_SCHEDULES` sets their number.

use std::time::Duration;

use super::gate::Flaw;
use super::gate_judge::{Judge, Law, law};
use super::sim_net::{Rng, SimNet, Weather};
use super::*;

const TICKS: u64 = 100;
const SESSION: u64 = 0xfeed;

#[derive(Default, Debug, PartialEq, Eq, Clone, Copy)]
struct Tally {
    played: u64,
    held: u64,
    accepted: u64,
    rejected: u64,
    /// Digest of all commands.
    digest: u64,
}

fn config(rng: &mut Rng) -> GateConfig {
    let dim = 1 + rng.below(3);
    let moves = rng.chance(0.6);
    let limits = (0..dim)
        .map(|_| {
            let lo = rng.unit() * 200.0 - 100.0;
            let hi = lo + 0.5 + rng.unit() * 500.0;
            let range = hi - lo;
            let mut one_of = |p: f32, share: f32| {
                let some = rng.chance(p).then(|| (0.002 + rng.unit()) * range * share);
                some.filter(|_| moves || share == 0.3)
            };
            Limit {
                lo,
                hi,
                velocity: one_of(0.6, 0.3),
                acceleration: one_of(0.6, 0.1),
                jerk: one_of(0.5, 0.05),
                jump: one_of(0.3, 0.3),
            }
        })
        .collect();
    let max_horizon = 1 + rng.below(16) as usize;
    let join = match rng.below(7) {
        0 | 1 => Join::Replace,
        2 | 3 => Join::Keep,
        4 => Join::Blend { old: [0.3, 0.5, 0.7][rng.below(3) as usize] },
        5 => Join::Ensemble { coefficient: [0.01, 0.5, -0.1][rng.below(3) as usize] },
        _ => Join::Stop { rows: 1 + rng.below(max_horizon as u64) as usize },
    };
    GateConfig {
        session: SESSION,
        limits,
        max_horizon,
        max_obs_age: 1 + rng.below(20),
        heartbeat: 1 + rng.below(20),
        overshoot: if rng.chance(0.5) { 0.0 } else { 0.1 },
        latch_after: if rng.chance(0.2) { 2 } else { 0 },
        join,
        commands_per_tick: 1 + rng.below(4) as u32,
    }
}

fn inside(rng: &mut Rng, limits: &[Limit]) -> Vec<f32> {
    limits.iter().map(|l| l.lo + rng.unit() * 0.99 * (l.hi - l.lo)).collect()
}

/// An observation on its way: session, sequence number, tick, and where the robot is.
type Seen = (u64, u64, u64, Vec<f32>);

/// The policy's side: epoch, sequence number, and everything it ever made.
struct Policy {
    epoch: u64,
    seq: u64,
    dead_until: u64,
    made: Vec<ActionChunk>,
}

impl Policy {
    fn answer(&mut self, seen: &Seen, c: &GateConfig, rng: &mut Rng) -> ActionChunk {
        self.seq += 1;
        let (session, obs_seq, obs_tick, position) = seen;
        let horizon = 1 + rng.below(c.max_horizon as u64) as usize;
        // Rows that go on from where the robot was, or anything.
        let pace = [0.02, 0.2, 2.0][rng.below(3) as usize];
        let mut row = position.clone();
        let mut actions = Vec::with_capacity(horizon * c.limits.len());
        for _ in 0..horizon {
            for (x, l) in row.iter_mut().zip(&c.limits) {
                let range = l.hi - l.lo;
                let over = c.overshoot * 0.99 * range;
                *x = (*x + (rng.unit() - 0.5) * pace * range).clamp(l.lo - over, l.hi + over);
            }
            actions.extend_from_slice(&row);
        }
        let chunk = ActionChunk {
            session: *session,
            epoch: self.epoch,
            seq: self.seq,
            obs_seq: *obs_seq,
            obs_tick: *obs_tick,
            dt: Duration::from_millis(20),
            dim: c.limits.len(),
            actions,
        };
        self.made.push(chunk.clone());
        chunk
    }
}

/// Something that must never be played, made from a good chunk.
fn spoil(chunk: &ActionChunk, c: &GateConfig, rng: &mut Rng) -> ActionChunk {
    let mut bad = chunk.clone();
    bad.seq += rng.below(3);
    let at = rng.below(bad.actions.len() as u64) as usize;
    match rng.below(8) {
        0 => bad.session = rng.next(),
        1 => bad.actions[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3) as usize],
        2 => bad.actions[at] = [1e38, -1e38, 1e4, -1e4][rng.below(4) as usize],
        3 => {
            bad.dim += 1;
            bad.actions = vec![c.limits[0].lo; bad.dim * (1 + rng.below(2) as usize)];
        }
        // With one value a row, one value more is a row more, and no fault.
        4 if bad.dim > 1 => bad.actions.push(0.0),
        5 => {
            let extra = vec![c.limits[0].lo; bad.dim * (c.max_horizon + 1)];
            bad.actions.extend(extra);
        }
        6 => bad.obs_tick = bad.obs_tick.wrapping_add(1 + rng.below(3)),
        _ => bad.obs_seq += 1000,
    }
    bad
}

/// One schedule. `flaw` breaks the gate.
fn run(seed: u64, weather: Option<Weather>, flaw: Option<Flaw>) -> Result<Tally, (Law, String)> {
    let mut rng = Rng(seed);
    let calm = weather.is_some();
    let weather = weather.unwrap_or_else(|| Weather::random(&mut rng));
    let mut c = config(&mut rng);
    if calm {
        (c.max_obs_age, c.join) = (20, Join::Replace);
        c.limits.iter_mut().for_each(|l| l.jump = None);
    }
    let position = inside(&mut rng, &c.limits);
    let mut gate = Gate::new(c.clone(), &position).unwrap().with_flaw(flaw);
    let mut judge = Judge::new(&c, &position);
    let memory = gate.memory_bytes();
    let mut policy = Policy { epoch: 10, seq: 0, dead_until: 0, made: Vec::new() };
    let (mut up, mut down) = (SimNet::new(weather), SimNet::new(weather));
    let (mut inputs, mut tally) = (0, Tally::default());
    let (mut obs_seq, mut tick) = (0, 0);
    for time in 1..=TICKS {
        let skipped = if !calm && rng.chance(0.05) { rng.below(3) } else { 0 };
        tick += 1 + skipped;
        if !calm && rng.chance(0.01) {
            // The robot starts anew: another session, and all its numbers begin again.
            c.session += 1;
            (inputs, obs_seq, tick) = (0, 0, 1 + rng.below(3));
            let position = inside(&mut rng, &c.limits);
            gate = Gate::new(c.clone(), &position).unwrap().with_flaw(flaw);
            judge = Judge::new(&c, &position);
        }
        if !calm && rng.chance(0.02) {
            let position = inside(&mut rng, &c.limits);
            gate.reset(&position).unwrap();
            judge.reset(&position);
        }
        if !calm && rng.chance(0.005) {
            gate.latch();
            judge.latch();
        }
        if !calm && rng.chance(0.03) {
            gate.unlatch();
            judge.unlatch();
        }
        if !calm && rng.chance(0.02) {
            let (until, kept) = (time + rng.below(20), rng.chance(0.5));
            up.cut(until, kept);
            down.cut(until, kept);
        }
        // The robot observes; the policy answers what reaches it.
        obs_seq += 1;
        assert!(gate.observed(obs_seq, tick));
        assert!(!gate.observed(obs_seq, tick), "an observation is noted once");
        judge.observed(obs_seq, tick);
        up.send(time, &(c.session, obs_seq, tick, gate.setpoint().to_vec()), &mut rng);
        if !calm && rng.chance(0.03) {
            policy.dead_until = time + rng.below(20);
            if rng.chance(0.5) {
                (policy.epoch, policy.seq) = (policy.epoch + 1 + rng.below(3), 0);
            }
        }
        for seen in up.arrived(time, &mut rng) {
            if time < policy.dead_until {
                continue;
            }
            let chunk = policy.answer(&seen, &c, &mut rng);
            down.send(time, &chunk, &mut rng);
            if !calm && rng.chance(0.3) {
                down.send(time, &spoil(&chunk, &c, &mut rng), &mut rng);
            }
        }
        if !calm && rng.chance(0.1) && !policy.made.is_empty() {
            // Somebody plays back what was sent long ago.
            let n = rng.below(policy.made.len() as u64) as usize;
            down.send(time, &policy.made[n], &mut rng);
        }
        for chunk in down.arrived(time, &mut rng) {
            let before = gate.clone();
            let verdict = gate.offer(&chunk.view(), tick);
            inputs += 1;
            if verdict.is_accepted() {
                tally.accepted += 1;
            } else {
                tally.rejected += 1;
                let faulty = verdict == Verdict::Rejected(Reason::NonFinite);
                let same = gate.same_but_counters(&before, faulty);
                law(same, Law::Unchanged, || format!("tick {tick}: {verdict:?} changed the gate"))?;
            }
            judge.offered(&chunk, verdict, tick)?;
        }
        if rng.chance(0.05) {
            let _ = gate.refuse(Reason::Malformed);
            (inputs, tally.rejected) = (inputs + 1, tally.rejected + 1);
        }
        let total = gate.counters().total();
        law(total == inputs, Law::Counted, || format!("{total} counted of {inputs} inputs"))?;
        let size = gate.memory_bytes();
        law(size == memory, Law::Memory, || format!("{size} bytes, {memory} at start"))?;

        // What an observation would say must be what is played.
        let promised = gate.executing(tick);
        let raw = gate.timeline().due(tick).map(|(_, values)| values.to_vec());
        let commands = if rng.chance(0.05) { 1 + rng.below(4) as u32 } else { 4 };
        for sub in 0..c.commands_per_tick.min(commands) {
            let (action, source, state) = {
                let command = gate.step_at(tick, sub);
                (command.action.to_vec(), command.source, command.state)
            };
            if rng.chance(0.05) {
                let again = gate.step_at(tick, sub);
                let same = again.action == action.as_slice() && again.source == Source::Hold;
                law(same, Law::Limits, || format!("{tick}.{sub} moved the robot twice"))?;
            }
            judge.command((tick, sub), (&action, source, state), raw.as_deref())?;
            if sub == 0 {
                law(source.executing() == promised, Law::Row, || {
                    format!("{source:?}, said {promised:?}")
                })?;
                *(if source == Source::Hold { &mut tally.held } else { &mut tally.played }) += 1;
                let noted = gate.timeline().executed(tick);
                let same = noted.copied().map_or(Source::Hold, Source::Chunk) == source;
                law(same, Law::Row, || format!("{source:?}, noted {noted:?}"))?;
            }
            for value in &action {
                tally.digest = Rng(tally.digest ^ u64::from(value.to_bits())).next();
            }
        }
    }
    Ok(tally)
}

/// A number from the environment: how many schedules, and which is the first.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn promises_hold_on_random_schedules() {
    let mut sum = Tally::default();
    let schedules = number("PATHLINE_SCHEDULES", 100_000);
    let first = number("PATHLINE_FIRST_SCHEDULE", 0);
    for seed in first..first + schedules {
        let tally = run(seed, None, None).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        sum.played += tally.played;
        sum.held += tally.held;
        sum.accepted += tally.accepted;
        sum.rejected += tally.rejected;
    }
    println!("{schedules} schedules from {first} on: {sum:?}");
    // The schedules are neither all quiet nor all lost.
    assert!(sum.played * 10 > sum.held && sum.held * 10 > sum.played);
    assert!(sum.accepted * 20 > sum.rejected && sum.rejected * 20 > sum.accepted);
}

#[test]
fn nothing_is_held_back_on_a_clear_network() {
    for seed in 0..1000 {
        let tally = run(seed, Some(Weather::CLEAR), None).unwrap();
        assert_eq!((tally.played, tally.held), (TICKS, 0), "seed {seed}");
    }
}

#[test]
fn the_same_inputs_give_the_same_commands() {
    let runs = |from: u64| -> Vec<_> {
        (from..from + 500).map(|seed| run(seed, None, None).unwrap().digest).collect()
    };
    assert_eq!(runs(0), runs(0));
    assert_ne!(runs(0), runs(1), "the digest sees the commands");
}

#[test]
fn every_broken_twin_is_caught() {
    let twins = [
        (Flaw::AnyDim, Law::Row),
        (Flaw::AnySession, Law::Session),
        (Flaw::AnyEpoch, Law::Forward),
        (Flaw::AnySequence, Law::Forward),
        (Flaw::TrustedTick, Law::Row),
        (Flaw::AnyAge, Law::Fresh),
        (Flaw::OlderObservation, Law::Forward),
        (Flaw::NotFinite, Law::Limits),
        (Flaw::AnyJump, Law::Jump),
        (Flaw::NoLimit, Law::Limits),
        (Flaw::NoHeartbeat, Law::Heartbeat),
        (Flaw::NextRow, Law::Row),
        (Flaw::NoInterpolation, Law::Row),
        (Flaw::TickTwice, Law::Limits),
        (Flaw::EpisodeKept, Law::Fresh),
        (Flaw::HoldCounts, Law::Row),
        (Flaw::PlanKept, Law::Resume),
        (Flaw::HoldMoves, Law::Hold),
        (Flaw::HoldAtOnce, Law::Limits),
        (Flaw::RingGrows, Law::Memory),
        (Flaw::Uncounted, Law::Counted),
        (Flaw::RefusalTouches, Law::Unchanged),
        (Flaw::JoinsOtherwise, Law::Row),
        (Flaw::Unlatches, Law::State),
        (Flaw::TakesLatched, Law::Latch),
    ];
    for (flaw, law) in twins {
        let caught = (0..20_000).find_map(|seed| match run(seed, None, Some(flaw)) {
            Err((broke, what)) if broke == law => Some((seed, what)),
            _ => None,
        });
        let (seed, what) = caught.unwrap_or_else(|| panic!("{flaw:?} did not break {law:?}"));
        println!("{flaw:?}: schedule {seed}: {law:?}: {what}");
    }
}
