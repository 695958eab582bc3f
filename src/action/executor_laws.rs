//! When chunks are asked for, in simulated time, and broken twins that each promise must catch.
//!
//! A schedule is one robot and one policy that answers after a fixed or heavy-tailed delay, stalls once in a
//! hundred, loses answers, and takes twenty times as long for its first one. The judge counts ticks and
//! knows what was asked, answered and played. `PATHLINE_SCHEDULES` sets the number of schedules.

use super::executor::ExecutorFlaw;
use super::sim_net::Rng;
use super::timeline::TimelineFlaw;
use super::*;

const TICKS: u64 = 300;

/// A promise of the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Law {
    /// Never two requests out.
    OneOut,
    /// What is not answered in time is asked again, at once.
    Retry,
    /// The expected delay is the largest of the last eight, the warm-up not counted.
    Delay,
    /// The first chunk begins at row 0, whatever it took.
    Start,
    /// Never without a row, if a chunk is long enough.
    Starve,
    /// `synchronous` asks only when nothing is left.
    Empty,
    /// A chunk at most every `n_action_steps` rows.
    Rate,
    /// An episode forgets what was asked, not what was measured.
    Episode,
}

type Judged<T = ()> = Result<T, (Law, String)>;

fn law(holds: bool, law: Law, say: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err((law, say())) }
}

/// How long the policy takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Server {
    kind: Kind,
    delay: u64,
    loss: f32,
    warms_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    HeavyTail,
    Stalls,
}

impl Server {
    fn random(rng: &mut Rng) -> Self {
        Self {
            kind: [Kind::Fixed, Kind::HeavyTail, Kind::Stalls][rng.below(3) as usize],
            delay: rng.below(7),
            loss: [0.0, 0.0, 0.1, 0.5][rng.below(4) as usize],
            warms_up: rng.chance(0.5),
        }
    }

    /// Ticks to the answer of request `n`.
    fn answer(&self, n: u64, rng: &mut Rng) -> u64 {
        let d = self.delay;
        if n == 0 && self.warms_up {
            return 20 * d.max(1);
        }
        match self.kind {
            Kind::Fixed => d,
            // Pareto of shape 1.5: a mean, and no variance.
            Kind::HeavyTail => {
                ((d as f64 + 1.0) / f64::from(1.0 - rng.unit()).powf(1.0 / 1.5)).min(200.0) as u64
            }
            Kind::Stalls if rng.chance(0.01) => d + 40,
            Kind::Stalls => d,
        }
    }
}

fn random_joining(rng: &mut Rng, horizon: usize) -> Joining {
    let share = [0.0, 0.25, 0.5, 0.7, 1.0][rng.below(5) as usize];
    Joining {
        mode: Mode::ALL[rng.below(12) as usize],
        n_action_steps: rng.chance(0.7).then(|| 1 + rng.below(horizon as u64) as usize),
        chunk_size_threshold: rng.chance(0.3).then_some(share),
        ..Joining::default()
    }
}

#[derive(Default, Debug, Clone, Copy)]
struct Tally {
    asked: u64,
    answered: u64,
    given_up: u64,
    played: u64,
    idle: u64,
    never_starved: u64,
}

#[derive(Default)]
struct Notes {
    /// Requests by observation, of which the last may be out: tick.
    asked: Vec<(u64, u64)>,
    out: bool,
    /// True delays of the answers that count, and whether a request was ever given up.
    delays: Vec<u64>,
    given_up: bool,
    last_taken: u64,
    answered: bool,
}

fn run(seed: u64, flaw: Option<ExecutorFlaw>, line_flaw: Option<TimelineFlaw>) -> Judged<Tally> {
    let mut rng = Rng(seed);
    let horizon = 1 + rng.below(24) as usize;
    let joining = random_joining(&mut rng, horizon);
    let n_action_steps = 1 + rng.below(horizon as u64) as usize;
    let server = Server::random(&mut rng);
    let patience = if rng.chance(0.5) { 200 } else { 1 + rng.below(40) };
    let steps = joining.n_action_steps.unwrap_or(n_action_steps);
    let mut line = Timeline::new(1, horizon, 400, joining.join(n_action_steps));
    let mut executor = Executor::new(joining, horizon, n_action_steps, patience).unwrap();
    (executor.flawed, line.flawed) = (flaw.into(), line_flaw.into());
    let mut coming: Vec<(u64, Plan, bool)> = Vec::new();
    let (mut notes, mut tally) = (Notes::default(), Tally::default());
    let mut starved = 0;
    let end = rng.below(2) * (TICKS / 2);
    for tick in 0..TICKS {
        // Sometimes an episode ends half way.
        if tick == end && tick > 0 {
            let before = executor.expected_delay();
            executor.reset();
            line.clear();
            coming.clear();
            notes.asked.clear();
            notes.out = false;
            let after = executor.expected_delay();
            law(after == before, Law::Episode, || format!("{before} before, {after} after"))?;
        }
        let (here, later): (Vec<_>, _) = coming.into_iter().partition(|(at, ..)| *at <= tick);
        coming = later;
        for (_, plan, warm_up) in here {
            let consumed = line.played(plan.obs_tick, tick);
            if plan.obs_seq > notes.last_taken {
                let first = line.load(plan, tick, std::iter::repeat_n(0.0, horizon));
                if let (true, Some((row, _))) = (tally.played == 0, line.due(tick)) {
                    law(row.index == 0, Law::Start, || format!("{row:?} is the first"))?;
                }
                if first.is_some() {
                    (notes.last_taken, notes.answered) = (plan.obs_seq, true);
                }
            }
            executor.answered(plan.obs_seq, tick, consumed, warm_up);
            tally.answered += 1;
            if !warm_up {
                notes.delays.push(tick - plan.obs_tick);
            }
            if notes.asked.last().is_some_and(|(seq, _)| *seq == plan.obs_seq) {
                notes.out = false;
            }
        }
        let obs_seq = tick + 1;
        let left = line.remaining(tick);
        let waited = notes.asked.last().map(|(_, at)| tick - at).filter(|_| notes.out);
        let ask = executor.ask(&line, obs_seq, tick);
        if let Some(ask) = ask {
            judge_ask(&joining, steps, patience, left, waited, &line, &notes, tick)?;
            judge_delay(ask, horizon, &notes, tick)?;
            notes.given_up |= waited.is_some();
            tally.given_up += u64::from(waited.is_some());
            if !rng.chance(server.loss) {
                let delay = server.answer(tally.asked, &mut rng);
                let plan = Plan { epoch: 1, chunk_seq: obs_seq, obs_seq, obs_tick: tick, horizon };
                coming.push((tick + delay.max(1), plan, tally.asked == 0 && server.warms_up));
            }
            notes.asked.push((obs_seq, tick));
            (notes.out, tally.asked) = (true, tally.asked + 1);
        } else {
            let late = waited.filter(|waited| *waited >= patience);
            // Where it is the rows left that count, one that was given up may have come after all.
            let wants = match (joining.mode, joining.chunk_size_threshold) {
                (Mode::Synchronous, _) => left == 0,
                (Mode::Append, None) => left <= executor.expected_delay(),
                (Mode::TemporalEnsemble, _) | (_, None) => true,
                (_, Some(share)) => left as f64 <= share * horizon as f64,
            };
            law(late.is_none() || !wants, Law::Retry, || {
                format!("{late:?} ticks without an answer")
            })?;
            notes.given_up |= late.is_some();
            notes.out &= late.is_none();
            let stuck = !notes.out && left == 0;
            law(!stuck, Law::Retry, || format!("tick {tick}: nothing left and nothing asked"))?;
        }
        match line.due(tick).map(|(row, _)| row) {
            Some(row) => {
                tally.played += 1;
                line.mark_executed(tick, &row);
            }
            None => {
                tally.idle += 1;
                starved += u64::from(notes.answered && !(tick == end || notes.asked.len() < 2));
            }
        }
    }
    if enough(&joining, &server, horizon, steps, patience) && end == 0 {
        tally.never_starved = 1;
        law(starved == 0, Law::Starve, || {
            format!("{starved} ticks without a row: {horizon} rows, {steps} steps, {server:?}")
        })?;
    }
    Ok(tally)
}

/// Whether a chunk is long enough that the next one always comes in time: horizon ≥ s + d, where s is at
/// least d, since the next one is not asked for before the last one came.
fn enough(j: &Joining, server: &Server, horizon: usize, steps: usize, patience: u64) -> bool {
    let d = server.delay.max(1) as usize;
    let calm = server.kind == Kind::Fixed && server.loss == 0.0 && patience > 20 * d as u64;
    let fits = match (j.mode, j.chunk_size_threshold) {
        (Mode::Synchronous, _) => false,
        (Mode::TemporalEnsemble, _) => horizon >= 2 * d,
        // The first delay has to be known before it counts.
        (Mode::Append, None) => horizon >= 2 * d && !server.warms_up,
        (_, Some(share)) => (share * horizon as f64) as usize >= d && horizon >= 2 * d,
        (_, None) => horizon >= steps.max(d) + d,
    };
    calm && fits
}

#[allow(clippy::too_many_arguments, reason = "a judge sees everything")]
fn judge_ask(
    joining: &Joining,
    steps: usize,
    patience: u64,
    left: usize,
    waited: Option<u64>,
    line: &Timeline,
    notes: &Notes,
    tick: u64,
) -> Judged {
    law(waited.is_none_or(|waited| waited >= patience), Law::OneOut, || {
        format!("tick {tick}: asked again after {waited:?} of {patience} ticks")
    })?;
    let empty = joining.mode != Mode::Synchronous || left == 0;
    law(empty, Law::Empty, || format!("tick {tick}: {left} rows left"))?;
    let by_rows = joining.chunk_size_threshold.is_none()
        && !matches!(joining.mode, Mode::TemporalEnsemble | Mode::Append);
    if joining.mode == Mode::Append && joining.chunk_size_threshold.is_none() {
        let most = notes.delays.iter().rev().take(8).max().map_or(0, |d| *d as usize);
        law(left <= most || notes.given_up, Law::Rate, || format!("{left} rows left, {most}"))?;
    }
    if let (true, true, None, Some((_, last))) = (by_rows, left > 0, waited, notes.asked.last()) {
        let rows = line.played(*last, tick);
        law(rows >= steps as u64, Law::Rate, || format!("{rows} of {steps} rows"))?;
    }
    let share = joining.chunk_size_threshold.filter(|_| joining.mode != Mode::TemporalEnsemble);
    if let (Some(share), None) = (share, waited) {
        let most = share * line.plan().map_or(0, |plan| plan.horizon) as f64;
        law(left as f64 <= most, Law::Rate, || format!("{left} rows left, at most {most}"))?;
    }
    Ok(())
}

fn judge_delay(ask: Ask, horizon: usize, notes: &Notes, tick: u64) -> Judged {
    let got = ask.expected_delay;
    law(got <= horizon, Law::Delay, || format!("{got} of {horizon} rows"))?;
    if notes.given_up {
        return Ok(());
    }
    let want = notes.delays.iter().rev().take(8).max().map_or(0, |d| (*d as usize).min(horizon));
    law(got == want, Law::Delay, || format!("tick {tick}: {got} expected, {want} is the truth"))
}

fn schedules() -> u64 {
    std::env::var("PATHLINE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

#[test]
fn promises_hold_on_random_schedules() {
    let mut sum = Tally::default();
    for seed in 0..schedules() {
        let tally = run(seed, None, None).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        sum.asked += tally.asked;
        sum.answered += tally.answered;
        sum.given_up += tally.given_up;
        sum.played += tally.played;
        sum.idle += tally.idle;
        sum.never_starved += tally.never_starved;
    }
    println!("{} schedules: {sum:?}", schedules());
    assert!(sum.played * 10 > sum.idle && sum.idle * 10 > sum.played, "{sum:?}");
    assert!(sum.given_up * 20 > sum.asked && sum.answered * 3 > sum.asked, "{sum:?}");
    assert!(sum.never_starved * 50 > schedules(), "{sum:?}");
}

#[test]
fn every_broken_twin_is_caught() {
    let twins = [
        (Some(ExecutorFlaw::TwoOut), None, Law::OneOut),
        (Some(ExecutorFlaw::WaitsForever), None, Law::Retry),
        (Some(ExecutorFlaw::CountsWarmUp), None, Law::Delay),
        (Some(ExecutorFlaw::RowsOnly), None, Law::Delay),
        (Some(ExecutorFlaw::LastOnly), None, Law::Delay),
        (Some(ExecutorFlaw::Early), None, Law::Empty),
        (Some(ExecutorFlaw::OneStepLate), None, Law::Starve),
        (Some(ExecutorFlaw::OneStepEarly), None, Law::Rate),
        (Some(ExecutorFlaw::Forgets), None, Law::Episode),
        (None, Some(TimelineFlaw::ElapsedTicks), Law::Start),
    ];
    for (flaw, line_flaw, law) in twins {
        let caught = (0..5000).find_map(|seed| match run(seed, flaw, line_flaw) {
            Err((broke, what)) if broke == law => Some((seed, what)),
            _ => None,
        });
        let (seed, what) =
            caught.unwrap_or_else(|| panic!("{flaw:?} {line_flaw:?} did not break {law:?}"));
        println!("{flaw:?} {line_flaw:?}: schedule {seed}: {law:?}: {what}");
    }
}

#[test]
fn a_robot_that_misses_ticks_counts_rows() {
    let expected = |flaw: Option<ExecutorFlaw>| {
        let mut line = Timeline::new(1, 16, 100, Join::Replace);
        let mut executor = Executor::new(Joining::default(), 16, 8, 50).unwrap();
        executor.flawed = flaw.into();
        let plan = Plan { epoch: 1, chunk_seq: 1, obs_seq: 1, obs_tick: 0, horizon: 16 };
        assert_eq!(executor.ask(&line, 1, 0), Some(Ask { expected_delay: 0 }));
        line.load(plan, 0, std::iter::repeat_n(0.0, 16)).unwrap();
        executor.answered(1, 0, 0, false);
        // One tick in two is missed.
        for tick in (0..16).step_by(2) {
            let row = line.due(tick).unwrap().0;
            line.mark_executed(tick, &row);
        }
        // Nothing is left at 16: eight rows were consumed of what there was.
        assert!(executor.ask(&line, 9, 16).is_some());
        let plan = Plan { chunk_seq: 2, obs_seq: 9, obs_tick: 16, ..plan };
        line.load(plan, 16, std::iter::repeat_n(0.0, 16)).unwrap();
        executor.answered(9, 16, 0, false);
        for tick in 16..24 {
            let row = line.due(tick).unwrap().0;
            line.mark_executed(tick, &row);
        }
        assert!(executor.ask(&line, 17, 24).is_some(), "after eight rows");
        for tick in [24, 27, 29] {
            let row = line.due(tick).unwrap().0;
            line.mark_executed(tick, &row);
        }
        executor.answered(17, 30, line.played(24, 30), false);
        executor.expected_delay()
    };
    assert_eq!(expected(None), 3);
    assert_eq!(expected(Some(ExecutorFlaw::TicksOnly)), 6, "a broken twin");
}

#[test]
fn a_late_answer_is_measured_and_a_stranger_is_not() {
    let line = Timeline::new(1, 16, 100, Join::Replace);
    let mut executor = Executor::new(Joining::default(), 16, 8, 5).unwrap();
    assert!(executor.ask(&line, 1, 0).is_some());
    assert!((1..5).all(|tick| executor.ask(&line, 1 + tick, tick).is_none()));
    assert!(executor.ask(&line, 6, 5).is_some(), "given up");
    executor.answered(3, 6, 0, false);
    assert!(executor.is_waiting() && executor.expected_delay() == 0, "nobody asked for it");
    executor.answered(1, 7, 0, false);
    assert_eq!((executor.is_waiting(), executor.expected_delay()), (true, 7));
    executor.answered(1, 9, 0, false);
    assert_eq!(executor.expected_delay(), 7, "a second copy of it");
    executor.answered(6, 8, 0, false);
    assert!(!executor.is_waiting());
    executor.reset();
    executor.answered(6, 30, 0, false);
    assert_eq!(executor.expected_delay(), 7, "of the episode before");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let start = |joining, horizon, steps, patience| {
        Executor::new(joining, horizon, steps, patience).map(|_| ()).map_err(|e| e.to_string())
    };
    let joining = Joining::default();
    assert_eq!(start(joining, 16, 8, 5), Ok(()));
    let more = Joining { n_action_steps: Some(17), ..joining };
    assert!(start(more, 16, 8, 5).unwrap_err().contains("n_action_steps"));
    assert!(start(joining, 16, 17, 5).unwrap_err().contains("n_action_steps"));
    assert!(start(joining, 16, 0, 5).unwrap_err().contains("n_action_steps"));
    assert!(start(joining, 0, 1, 5).unwrap_err().contains("horizon"));
    assert!(start(joining, 16, 8, 0).unwrap_err().contains("patience"));
}
