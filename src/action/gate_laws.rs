//! The gate's promises on random schedules, and broken twins that each of them must catch.
//!
//! A schedule is one robot, one policy that dies, comes back and answers late, a network that loses,
//! doubles and reorders, and strangers. The judge looks at what the gate commands and knows nothing of
//! how it decides: it keeps its own note of observations and of every chunk the policy made.
//! `PATHLINE_SCHEDULES` sets their number.

use std::collections::BTreeMap;
use std::time::Duration;

use super::gate::Flaw;
use super::limit::{limit, slew};
use super::sim_net::{Rng, SimNet, Weather};
use super::*;

const TICKS: u64 = 60;
const SESSION: u64 = 0xfeed;

/// A promise of the gate, by its number in `gate.rs`; `Row` is part of 2: the row that belongs to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Law {
    Limits,
    Fresh,
    Row,
    Forward,
    Heartbeat,
    Memory,
    Counted,
    Unchanged,
    Hold,
}

type Judged = Result<(), (Law, String)>;

fn law(holds: bool, law: Law, say: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err((law, say())) }
}

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
    let limits = (0..dim)
        .map(|_| {
            let lo = rng.unit() * 200.0 - 100.0;
            let hi = lo + 0.5 + rng.unit() * 500.0;
            let max_step = rng.chance(0.5).then(|| 0.01 + rng.unit() * (hi - lo) * 0.3);
            Limit { velocity: max_step, ..Limit::new(lo, hi) }
        })
        .collect();
    GateConfig {
        session: SESSION,
        limits,
        max_horizon: 1 + rng.below(16) as usize,
        max_obs_age: 1 + rng.below(12),
        heartbeat: 1 + rng.below(12),
        overshoot: if rng.chance(0.5) { 0.0 } else { 0.1 },
        latch_after: if rng.chance(0.2) { 2 } else { 0 },
        ..GateConfig::default()
    }
}

fn inside(rng: &mut Rng, limits: &[Limit]) -> Vec<f32> {
    limits.iter().map(|l| l.lo + rng.unit() * 0.99 * (l.hi - l.lo)).collect()
}

/// The policy's side: epoch, sequence number, and everything it ever made.
struct Policy {
    epoch: u64,
    seq: u64,
    dead_until: u64,
    made: BTreeMap<(u64, u64), ActionChunk>,
}

impl Policy {
    fn answer(
        &mut self,
        obs_seq: u64,
        obs_tick: u64,
        c: &GateConfig,
        rng: &mut Rng,
    ) -> ActionChunk {
        self.seq += 1;
        let horizon = 1 + rng.below(c.max_horizon as u64) as usize;
        let actions = (0..horizon)
            .flat_map(|_| &c.limits)
            .map(|l| {
                let range = l.hi - l.lo;
                let over = c.overshoot * 0.99 * range;
                l.lo - over + rng.unit() * 0.999 * (range + 2.0 * over)
            })
            .collect();
        let chunk = ActionChunk {
            session: SESSION,
            epoch: self.epoch,
            seq: self.seq,
            obs_seq,
            obs_tick,
            dt: Duration::from_millis(20),
            dim: c.limits.len(),
            actions,
        };
        self.made.insert((self.epoch, self.seq), chunk.clone());
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

/// One schedule. The judge's own notes are the local variables.
fn run(seed: u64, weather: Option<Weather>, flaw: Option<Flaw>) -> Result<Tally, (Law, String)> {
    let mut rng = Rng(seed);
    let calm = weather.is_some();
    let weather = weather.unwrap_or_else(|| Weather::random(&mut rng));
    let mut c = config(&mut rng);
    if calm {
        c.max_obs_age = 12;
    }
    let mut position = inside(&mut rng, &c.limits);
    let mut gate = Gate::new(c.clone(), &position).unwrap().with_flaw(flaw);
    let memory = gate.memory_bytes();
    let mut policy = Policy { epoch: 10, seq: 0, dead_until: 0, made: BTreeMap::new() };
    let (mut up, mut down) = (SimNet::new(weather), SimNet::new(weather));
    let (mut inputs, mut tally) = (0, Tally::default());
    // Own observations of this episode; last chunk that was new, and when; last command.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut newest_id, mut newest_at) = ((0, 0), None);
    let (mut last_obs, mut last_id) = (0, (0, 0));
    let mut obs_seq = 0;
    let mut tick = 0;
    while tick < TICKS {
        let skipped = if !calm && rng.chance(0.05) { rng.below(3) } else { 0 };
        tick += 1 + skipped;
        if !calm && rng.chance(0.02) {
            position = inside(&mut rng, &c.limits);
            gate.reset(&position).unwrap();
            seen.clear();
        }
        if !calm && rng.chance(0.02) {
            gate.unlatch();
        }
        // The robot observes; the policy answers what reaches it.
        obs_seq += 1;
        assert!(gate.observed(obs_seq, tick));
        assert!(!gate.observed(obs_seq, tick), "an observation is noted once");
        seen.insert(obs_seq, tick);
        up.send(tick, &(obs_seq, tick), &mut rng);
        if !calm && rng.chance(0.03) {
            policy.dead_until = tick + rng.below(20);
            if rng.chance(0.5) {
                (policy.epoch, policy.seq) = (policy.epoch + 1 + rng.below(3), 0);
            }
        }
        for (seq, at) in up.arrived(tick, &mut rng) {
            if tick < policy.dead_until {
                continue;
            }
            let chunk = policy.answer(seq, at, &c, &mut rng);
            down.send(tick, &chunk, &mut rng);
            if !calm && rng.chance(0.3) {
                down.send(tick, &spoil(&chunk, &c, &mut rng), &mut rng);
            }
        }
        if !calm && rng.chance(0.1) && !policy.made.is_empty() {
            // Somebody plays back what was sent long ago.
            let n = rng.below(policy.made.len() as u64) as usize;
            let old = policy.made.values().nth(n).unwrap().clone();
            down.send(tick, &old, &mut rng);
        }
        for chunk in down.arrived(tick, &mut rng) {
            let before = gate.clone();
            let verdict = gate.offer(&chunk.view(), tick);
            inputs += 1;
            if verdict.is_accepted() {
                tally.accepted += 1;
                let id = (chunk.epoch, chunk.seq);
                if id > newest_id {
                    (newest_id, newest_at) = (id, Some(tick));
                }
            } else {
                tally.rejected += 1;
                let same = gate.same_but_counters(&before)
                    || verdict == Verdict::Rejected(Reason::NonFinite);
                law(same, Law::Unchanged, || format!("tick {tick}: {verdict:?} changed the gate"))?;
            }
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
        let (action, source) = {
            let command = gate.step(tick);
            (command.action.to_vec(), command.source)
        };
        law(source.executing() == promised, Law::Row, || format!("{source:?}, said {promised:?}"))?;
        if rng.chance(0.1) {
            let again = gate.step(tick);
            let same = again.action == action.as_slice() && again.source == Source::Hold;
            law(same, Law::Limits, || format!("tick {tick} moved the robot twice"))?;
        }
        judge_limits(&c, &position, &action, tick)?;
        if let Source::Chunk(x) = source {
            tally.played += 1;
            let id = (x.epoch, x.chunk_seq);
            let at = seen.get(&x.obs_seq).copied();
            let age = at.and_then(|at| tick.checked_sub(at));
            law(age.is_some_and(|a| a <= c.max_obs_age), Law::Fresh, || format!("{x:?}: {age:?}"))?;
            law(age == Some(x.index as u64), Law::Row, || format!("{x:?} at age {age:?}"))?;
            law(x.obs_seq >= last_obs && id >= last_id, Law::Forward, || {
                format!("{x:?} after {last_obs} of {last_id:?}")
            })?;
            (last_obs, last_id) = (x.obs_seq, id);
            let silent = newest_at.map(|at| tick - at);
            law(silent.is_some_and(|s| s <= c.heartbeat), Law::Heartbeat, || {
                format!("{x:?}: {silent:?} ticks after the last new chunk")
            })?;
            let want = policy.made.get(&id).and_then(|chunk| chunk.row(x.index)).map(|row| {
                let each = row.iter().zip(&c.limits).zip(&position);
                each.map(|((v, l), from)| {
                    let to = limit(*v, l.lo, l.hi).unwrap();
                    l.velocity.map_or(to, |step| slew(*from, to, step))
                })
                .collect::<Vec<_>>()
            });
            law(want.as_ref() == Some(&action), Law::Row, || {
                format!("{x:?}: {action:?}, the policy said {want:?}")
            })?;
            law(gate.timeline().executed(tick) == Some(&x), Law::Row, || {
                format!("{x:?} not noted")
            })?;
        } else {
            tally.held += 1;
            law(action == position, Law::Hold, || format!("tick {tick}: a hold moved the robot"))?;
        }
        for value in &action {
            tally.digest = Rng(tally.digest ^ u64::from(value.to_bits())).next();
        }
        position = action;
    }
    Ok(tally)
}

fn judge_limits(c: &GateConfig, from: &[f32], to: &[f32], tick: u64) -> Judged {
    law(to.len() == c.limits.len(), Law::Limits, || format!("{to:?}"))?;
    for ((x, l), was) in to.iter().zip(&c.limits).zip(from) {
        let ok = x.is_finite() && l.lo <= *x && *x <= l.hi;
        law(ok, Law::Limits, || format!("tick {tick}: {x} outside {l:?}"))?;
        let step = (f64::from(*x) - f64::from(*was)).abs();
        let ok = l.velocity.is_none_or(|max| step <= f64::from(max));
        law(ok, Law::Limits, || format!("tick {tick}: step {step}, {l:?}"))?;
    }
    Ok(())
}

fn schedules() -> u64 {
    std::env::var("PATHLINE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

#[test]
fn promises_hold_on_random_schedules() {
    let mut sum = Tally::default();
    for seed in 0..schedules() {
        let tally = run(seed, None, None).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        sum.played += tally.played;
        sum.held += tally.held;
        sum.accepted += tally.accepted;
        sum.rejected += tally.rejected;
    }
    println!("{} schedules: {sum:?}", schedules());
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
        (Flaw::AnySession, Law::Row),
        (Flaw::AnyEpoch, Law::Forward),
        (Flaw::AnySequence, Law::Heartbeat),
        (Flaw::AnySequence, Law::Forward),
        (Flaw::TrustedTick, Law::Row),
        (Flaw::AnyAge, Law::Fresh),
        (Flaw::OlderObservation, Law::Forward),
        (Flaw::NotFinite, Law::Limits),
        (Flaw::NoLimit, Law::Limits),
        (Flaw::NoStep, Law::Limits),
        (Flaw::NoHeartbeat, Law::Heartbeat),
        (Flaw::NextRow, Law::Row),
        (Flaw::TickTwice, Law::Limits),
        (Flaw::EpisodeKept, Law::Fresh),
        (Flaw::RingGrows, Law::Memory),
        (Flaw::Uncounted, Law::Counted),
        (Flaw::HoldMoves, Law::Hold),
        (Flaw::RefusalTouches, Law::Unchanged),
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
