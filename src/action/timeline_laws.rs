//! The timeline's promises on random schedules, and broken twins that each of them must catch.
//!
//! A schedule is one robot that runs, holds, skips ticks and forgets, and chunks of random length that come
//! late, twice, out of order or not at all (putting them in order is the gate's work). The judge keeps every
//! row that was ever planned, without a ring, and what was played, and works out from that what each tick
//! must get. `PATHLINE_SCHEDULES` sets the number of schedules.

use std::collections::BTreeMap;

use super::sim_net::Rng;
use super::timeline::TimelineFlaw;
use super::*;

const TICKS: u64 = 60;

/// A promise of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Law {
    /// A row's index is the rows played since its observation.
    Index,
    /// Of one chunk, a later tick gets a later row.
    Forward,
    /// Nothing is planned for a tick that has passed.
    Past,
    /// `Keep` changes no row that was planned.
    Keep,
    /// Any other join leaves nothing of the old chunk but what is mixed into a row of the new one.
    Replace,
    /// Values are those of the plain reference, bit by bit.
    Values,
    /// `Stop` plays no row beyond its number.
    Stop,
    /// What is left over is what is played if nothing comes.
    LeftOver,
    /// A chunk is refused when it should be, and then changes nothing.
    Refused,
    /// What was played is remembered.
    Log,
    /// `clear` leaves nothing to play.
    Clear,
}

type Judged<T = ()> = Result<T, (Law, String)>;

fn law(holds: bool, law: Law, say: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err((law, say())) }
}

/// A planned row as the judge knows it: every chunk's row for the tick, the oldest first.
#[derive(Clone, Debug)]
struct Planned {
    row: Executed,
    rows: Vec<Vec<f32>>,
    /// Tick of entry of the newest chunk.
    entered: u64,
}

/// The judge's own timeline.
struct Judge {
    join: Join,
    max_horizon: usize,
    memory: u64,
    planned: BTreeMap<u64, Planned>,
    played: BTreeMap<u64, Executed>,
}

impl Judge {
    fn played(&self, from: u64, to: u64) -> usize {
        if from < to { self.played.range(from..to).count() } else { 0 }
    }

    /// Rows that must be entered.
    fn load(&mut self, plan: &Plan, now: u64, values: &[f32], dim: usize) -> Option<usize> {
        let age = now.checked_sub(plan.obs_tick)?;
        let entry = self.played(plan.obs_tick, now);
        let end = match self.join {
            Join::Stop { rows } => rows.min(plan.horizon),
            _ => plan.horizon,
        };
        if age > self.memory || plan.horizon > self.max_horizon || entry >= end {
            return None;
        }
        let old = self.planned.split_off(&now);
        let mut next = BTreeMap::new();
        let mut entered = 0;
        for (index, values) in values.chunks(dim).enumerate().take(end).skip(entry) {
            let Some(tick) = now.checked_add((index - entry) as u64) else { break };
            let Plan { epoch, chunk_seq, obs_seq, obs_tick, .. } = *plan;
            let row = Executed { tick, epoch, chunk_seq, obs_seq, obs_tick, index };
            let new = Planned { row, rows: vec![values.to_vec()], entered: now };
            let planned = match (old.get(&tick), self.join) {
                (Some(old), Join::Keep) => old.clone(),
                (Some(old), Join::Blend { .. } | Join::Ensemble { .. }) => {
                    Planned { rows: [old.rows.clone(), new.rows].concat(), ..new }
                }
                _ => new,
            };
            entered += usize::from(self.join != Join::Keep || !old.contains_key(&tick));
            next.insert(tick, planned);
        }
        if self.join == Join::Keep {
            next.extend(old.clone());
        }
        if entered == 0 {
            self.planned = old;
            return None;
        }
        self.planned = next;
        Some(entered)
    }

    /// What a tick's values must be, by the formulas.
    fn values(&self, planned: &Planned) -> Vec<f32> {
        let mut mean = planned.rows[0].clone();
        for (i, row) in planned.rows.iter().enumerate().skip(1) {
            for (mean, a) in mean.iter_mut().zip(row) {
                *mean = match self.join {
                    Join::Blend { old } => old * *mean + (1.0 - old) * a,
                    Join::Ensemble { coefficient } => {
                        let weight =
                            |i: usize| f64::from((-coefficient) as f32 * i as f32).exp() as f32;
                        let sum =
                            |n: usize| (0..n).map(|i| f64::from(weight(i))).sum::<f64>() as f32;
                        let i = i.min(self.max_horizon - 1);
                        if i == 0 { *a } else { (*mean * sum(i) + a * weight(i)) / sum(i + 1) }
                    }
                    _ => panic!("{:?} mixes nothing", self.join),
                };
            }
        }
        mean
    }
}

#[derive(Default, Debug, Clone, Copy)]
struct Tally {
    played: u64,
    idle: u64,
    taken: u64,
    refused: u64,
    mixed: u64,
    /// Largest distance of an online ensemble to the weighted mean in f64.
    error: f64,
}

fn random_join(rng: &mut Rng, max_horizon: usize) -> Join {
    match rng.below(6) {
        0 => Join::Stop { rows: 1 + rng.below(max_horizon as u64) as usize },
        1 => Join::Keep,
        2 => Join::Replace,
        3 => Join::Blend { old: [0.3, 0.5, 0.7, 0.0, 1.0][rng.below(5) as usize] },
        _ => Join::Ensemble { coefficient: [0.01, 0.0, -0.5, 0.3][rng.below(4) as usize] },
    }
}

/// The whole of what a timeline plans around `now`.
fn planned(line: &Timeline, now: u64) -> Vec<(Executed, Vec<f32>)> {
    let around = now.saturating_sub(40)..=now.saturating_add(40);
    around.filter_map(|t| line.due(t)).map(|(row, values)| (row, values.to_vec())).collect()
}

fn run(seed: u64, flaw: Option<TimelineFlaw>) -> Judged<Tally> {
    let mut rng = Rng(seed);
    let dim = 1 + rng.below(3) as usize;
    let max_horizon = 1 + rng.below(16) as usize;
    let memory = 1 + rng.below(24);
    let join = random_join(&mut rng, max_horizon);
    let mut line = Timeline::new(dim, max_horizon, memory, join);
    line.flawed = flaw.into();
    let mut judge =
        Judge { join, max_horizon, memory, planned: BTreeMap::new(), played: BTreeMap::new() };
    // Chunks on their way: tick of arrival, plan, values.
    let mut coming: Vec<(u64, Plan, Vec<f32>)> = Vec::new();
    let (rate, slowest, holds) =
        (rng.unit(), rng.below(12), [0.0, 0.05, 0.4][rng.below(3) as usize]);
    // The last schedules end with the last tick that there is.
    let mut tick = [0, 1000, u64::MAX - TICKS][rng.below(3) as usize];
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    let mut tally = Tally::default();
    for chunk_seq in 1..=TICKS {
        if rng.chance(rate) {
            let horizon = match rng.below(20) {
                0 => rng.below(max_horizon as u64 + 2) as usize,
                1..=5 => 1 + rng.below(max_horizon as u64) as usize,
                _ => max_horizon,
            };
            let ahead = if rng.chance(0.03) { 1 + rng.below(3) } else { 0 };
            let obs_tick = tick.saturating_add(ahead);
            let plan = Plan { epoch: 1, chunk_seq, obs_seq: chunk_seq, obs_tick, horizon };
            let values: Vec<f32> = (0..horizon * dim).map(|_| rng.unit() * 200.0 - 100.0).collect();
            let stall = if rng.chance(0.05) { rng.below(40) } else { 0 };
            let delay = rng.below(slowest + 1) + stall;
            coming.push((tick.saturating_add(delay), plan, values));
        }
        let (here, later) = coming.into_iter().partition(|(at, ..)| *at <= tick);
        coming = later;
        for (_, plan, values) in here {
            offer(&mut line, &mut judge, &plan, tick, &values, dim, &mut tally)?;
            if rng.chance(0.05) {
                offer(&mut line, &mut judge, &plan, tick, &values, dim, &mut tally)?;
            }
        }
        if rng.chance(0.02) {
            line.clear();
            judge.planned.clear();
            let left = planned(&line, tick).len();
            law(left == 0, Law::Clear, || format!("{left} rows after clear"))?;
        }
        judge_plan(&line, &judge, tick)?;
        judge_log(&line, &judge, tick)?;
        play(&mut line, &mut judge, tick, rng.chance(holds), &mut last, &mut tally)?;
        let step = if rng.chance(0.03) { 1 + rng.below(4) } else { 1 };
        let Some(next) = tick.checked_add(step) else { break };
        tick = next;
    }
    Ok(tally)
}

fn offer(
    line: &mut Timeline,
    judge: &mut Judge,
    plan: &Plan,
    now: u64,
    values: &[f32],
    dim: usize,
    tally: &mut Tally,
) -> Judged {
    let before = planned(line, now);
    let promised = line.first_row(plan, now);
    let got = line.load(*plan, now, values.iter().copied());
    let want = judge.load(plan, now, values, dim);
    law(promised.is_some() == got.is_some(), Law::Refused, || format!("{promised:?} {got:?}"))?;
    if let Some(first) = promised {
        let entry = judge.played(plan.obs_tick, now);
        law(first == entry, Law::Index, || format!("{plan:?} at {now} entered at row {first}"))?;
    }
    let after = planned(line, now);
    if got.is_none() {
        tally.refused += 1;
        law(after == before, Law::Refused, || format!("refusing {plan:?} changed the plan"))?;
    } else {
        tally.taken += 1;
        let past = after.iter().find(|(row, _)| row.tick < now);
        law(past.is_none(), Law::Past, || format!("at {now} {past:?} is planned"))?;
        if let Join::Stop { rows } = judge.join {
            let over = after.iter().find(|(row, _)| row.index >= rows);
            law(over.is_none(), Law::Stop, || format!("{over:?} of {rows}"))?;
        }
        if judge.join == Join::Keep {
            let kept = before.iter().filter(|(row, _)| row.tick >= now);
            let lost = kept.into_iter().find(|old| !after.contains(old));
            law(lost.is_none(), Law::Keep, || format!("{lost:?} was planned"))?;
        } else {
            let stays = after.iter().find(|(row, _)| row.chunk_seq != plan.chunk_seq);
            law(stays.is_none(), Law::Replace, || format!("{stays:?} outlived {plan:?}"))?;
        }
    }
    law(got == want, Law::Refused, || format!("{plan:?} at {now}: {got:?} entered, {want:?}"))
}

/// Every tick's plan against the judge's, and what is left over against both.
fn judge_plan(line: &Timeline, judge: &Judge, now: u64) -> Judged {
    let mut gap = false;
    let mut left = Vec::new();
    for tick in now..=now.saturating_add(40) {
        let due = line.due(tick);
        let want = judge.planned.get(&tick);
        let rows = (due.map(|(row, _)| row), want.map(|p| p.row));
        law(rows.0 == rows.1, Law::Index, || format!("at {now}: due {:?}, {:?}", rows.0, rows.1))?;
        if let (Some((_, got)), Some(want)) = (due, want) {
            let want = judge.values(want);
            law(got == want, Law::Values, || format!("tick {tick}: {got:?}, {want:?}"))?;
        }
        gap |= due.is_none();
        if let (false, Some((_, values))) = (gap, due) {
            left.push(values);
        }
    }
    let got: Vec<_> = line.left_over(now).collect();
    law(got == left, Law::LeftOver, || format!("at {now}: {got:?}, due are {left:?}"))?;
    let remaining = line.remaining(now);
    law(remaining == left.len(), Law::LeftOver, || format!("{remaining} of {}", left.len()))
}

fn judge_log(line: &Timeline, judge: &Judge, now: u64) -> Judged {
    let from = now.saturating_sub(judge.memory);
    for tick in from..now {
        let (got, want) = (line.executed(tick), judge.played.get(&tick));
        law(got == want, Law::Log, || format!("tick {tick}: {got:?}, played was {want:?}"))?;
        let (got, want) = (line.played(tick, now), judge.played(tick, now) as u64);
        law(got == want, Law::Log, || format!("{tick} to {now}: {got} played, {want} were"))?;
    }
    Ok(())
}

fn play(
    line: &mut Timeline,
    judge: &mut Judge,
    tick: u64,
    holds: bool,
    last: &mut BTreeMap<u64, usize>,
    tally: &mut Tally,
) -> Judged {
    let Some((row, values)) = line.due(tick).map(|(row, values)| (row, values.to_vec())) else {
        tally.idle += 1;
        return Ok(());
    };
    if holds {
        return Ok(());
    }
    let before = last.insert(row.chunk_seq, row.index);
    law(before.is_none_or(|before| before < row.index), Law::Forward, || {
        format!("{row:?} after row {before:?}")
    })?;
    let want = judge.planned.get(&tick);
    if let Some(want) = want {
        // Without a hold since the chunk came, the index is the rows played since the observation.
        let entered = want.entered;
        let since = judge.played(row.obs_tick, tick);
        let ran = judge.played(entered, tick) as u64 == tick - entered;
        law(!ran || row.index == since, Law::Index, || format!("{row:?}, {since} played"))?;
        if let (Join::Ensemble { coefficient }, true) = (judge.join, want.rows.len() > 1) {
            tally.mixed += 1;
            if want.rows.len() <= judge.max_horizon {
                let weight = |i: usize| (-coefficient * i as f64).exp();
                let sum: f64 = (0..want.rows.len()).map(weight).sum();
                for (d, got) in values.iter().enumerate() {
                    let terms = want.rows.iter().enumerate();
                    let mean: f64 =
                        terms.map(|(i, r)| weight(i) * f64::from(r[d])).sum::<f64>() / sum;
                    tally.error = tally.error.max((f64::from(*got) - mean).abs());
                }
            }
        }
    }
    tally.played += 1;
    line.mark_executed(tick, &row);
    judge.played.insert(tick, row);
    Ok(())
}

fn schedules() -> u64 {
    std::env::var("PATHLINE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

#[test]
fn promises_hold_on_random_schedules() {
    let mut sum = Tally::default();
    for seed in 0..schedules() {
        let tally = run(seed, None).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        sum.played += tally.played;
        sum.idle += tally.idle;
        sum.taken += tally.taken;
        sum.refused += tally.refused;
        sum.mixed += tally.mixed;
        sum.error = sum.error.max(tally.error);
    }
    println!("{} schedules: {sum:?}", schedules());
    // The schedules are neither all quiet nor all lost.
    assert!(sum.played * 10 > sum.idle && sum.idle * 10 > sum.played, "{sum:?}");
    assert!(sum.taken * 10 > sum.refused && sum.refused * 20 > sum.taken, "{sum:?}");
    // Values up to 100 in f32; the sum of up to 16 roundings.
    assert!(sum.mixed > sum.played / 50 && sum.error < 1e-4, "{sum:?}");
}

#[test]
fn every_broken_twin_is_caught() {
    let twins = [
        (TimelineFlaw::ElapsedTicks, Law::Index),
        (TimelineFlaw::FromTheTop, Law::Index),
        (TimelineFlaw::NextRow, Law::Index),
        (TimelineFlaw::OldRowsStay, Law::Replace),
        (TimelineFlaw::KeepDrops, Law::Keep),
        (TimelineFlaw::WeightsSwapped, Law::Values),
        (TimelineFlaw::NoStop, Law::Stop),
        (TimelineFlaw::AnyAge, Law::Refused),
        (TimelineFlaw::ClearKeeps, Law::Clear),
        (TimelineFlaw::ClearsLog, Law::Log),
        (TimelineFlaw::GapCounts, Law::LeftOver),
        (TimelineFlaw::PastStays, Law::Past),
    ];
    for (flaw, law) in twins {
        let caught = (0..5000).find_map(|seed| match run(seed, Some(flaw)) {
            Err((broke, what)) if broke == law => Some((seed, what)),
            _ => None,
        });
        let (seed, what) = caught.unwrap_or_else(|| panic!("{flaw:?} did not break {law:?}"));
        println!("{flaw:?}: schedule {seed}: {law:?}: {what}");
    }
}
