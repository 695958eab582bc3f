//! The limits of motion over random and hostile targets, and broken axes that the judge must catch.
//!
//! The judge sees the f32 commands alone. A command is half a unit in the last place away from the axis' own
//! position at most, so it allows a k-th difference 2^k of the largest such half among its k + 1 commands.

use super::config::Limit;
use super::motion::{Axis, Flaw};
use super::sim_net::Rng;

/// Runs of the ordinary test.
const RUNS: u64 = 120_000;

fn half_unit(x: f32) -> f64 {
    (f64::from(x.abs().next_up()) - f64::from(x.abs())) / 2.0
}

/// The last four commands, newest first; `None` for a command that kept the limits.
pub(super) struct MotionJudge {
    past: [f32; 4],
}

impl MotionJudge {
    pub(super) fn new(start: f32) -> Self {
        Self { past: [start; 4] }
    }

    pub(super) fn see(&mut self, command: f32, l: &Limit) -> Option<String> {
        let [a, b, c, _] = self.past;
        self.past = [command, a, b, c];
        if !(l.lo..=l.hi).contains(&command) {
            return Some(format!("{command} outside [{}, {}]", l.lo, l.hi));
        }
        let x = self.past.map(f64::from);
        let differences = [
            (l.velocity, x[0] - x[1]),
            (l.acceleration, x[0] - 2.0 * x[1] + x[2]),
            (l.jerk, x[0] - 3.0 * x[1] + 3.0 * x[2] - x[3]),
        ];
        for (k, (limit, got)) in differences.into_iter().enumerate() {
            let Some(limit) = limit else { continue };
            let half = self.past[..k + 2].iter().map(|x| half_unit(*x)).fold(0.0, f64::max);
            if got.abs() > f64::from(limit) + f64::from(2 << k) * half {
                return Some(format!(
                    "difference {} is {got}, limit {limit}, half unit {half}",
                    k + 1
                ));
            }
        }
        None
    }
}

/// 10^[from, to), or none in one of four.
fn size(rng: &mut Rng, from: f32, to: f32) -> Option<f32> {
    (!rng.chance(0.25)).then(|| 10_f32.powf(from + rng.unit() * (to - from)))
}

fn random_limit(rng: &mut Rng) -> Limit {
    let scale = 10_f32.powf(rng.unit() * 12.0 - 6.0);
    let lo = (rng.unit() * 4.0 - 3.0) * scale;
    let hi = (lo + scale * 10_f32.powf(rng.unit() * 4.0 - 3.0)).max(lo.next_up());
    let extreme = rng.chance(0.1);
    let (small, large) = if extreme { (-30.0, 30.0) } else { (-3.5, 0.5) };
    let velocity = size(rng, small, large).map(|x| x * scale);
    let (small, large) = if extreme { (-30.0, 30.0) } else { (-4.0, 0.5) };
    let acceleration = size(rng, small, large).map(|x| x * scale);
    let jerk = size(rng, small, large).map(|x| x * scale);
    Limit { lo, hi, velocity, acceleration, jerk, jump: None }
}

/// One kind of target for some while.
#[derive(Clone, Copy)]
enum Wish {
    Constant(f32),
    Anything,
    /// From one limit to the other every so many periods.
    Extremes(u64),
    Sine(f32, f32),
    Walk(f32),
    Beyond(f32),
    Stop,
}

fn random_wish(rng: &mut Rng, l: &Limit) -> Wish {
    let range = l.hi - l.lo;
    let inside = |rng: &mut Rng| (l.lo + rng.unit() * range).min(l.hi);
    match rng.below(9) {
        0 => Wish::Constant(inside(rng)),
        1 => Wish::Anything,
        2 => Wish::Extremes(1 + rng.below(4)),
        3 => Wish::Extremes(1 + rng.below(60)),
        4 => Wish::Sine(rng.unit() * 1.2 * range, 0.002 + rng.unit() * rng.unit()),
        5 => Wish::Walk(range * 0.05 * rng.unit()),
        6 => Wish::Beyond(if rng.chance(0.5) { f32::MAX } else { -f32::MAX }),
        7 => Wish::Constant(if rng.chance(0.5) { l.lo } else { l.hi }),
        _ => Wish::Stop,
    }
}

impl Wish {
    fn at(self, i: u64, now: f32, l: &Limit, rng: &mut Rng) -> Option<f32> {
        let range = l.hi - l.lo;
        match self {
            Self::Constant(x) | Self::Beyond(x) => Some(x),
            Self::Anything => Some(l.lo + (rng.unit() * 1.2 - 0.1) * range),
            Self::Extremes(n) => Some(if (i / n).is_multiple_of(2) { l.lo } else { l.hi }),
            Self::Sine(size, rate) => {
                Some(l.lo + range / 2.0 + size / 2.0 * (i as f32 * rate).sin())
            }
            Self::Walk(step) => Some(now + (rng.unit() - 0.5) * step),
            Self::Stop => None,
        }
    }
}

/// Periods from any state that keeps the limits to rest.
pub(super) fn stop_bound(axis: &Axis, l: &Limit) -> f64 {
    let none = f64::INFINITY;
    let [v, a, j] = [l.velocity, l.acceleration, l.jerk].map(|x| x.map_or(none, f64::from));
    // No larger acceleration is reached without breaking the velocity's limit after it: g(x) ≥ x²/2J.
    let top = a.min((4.0 * v * j).sqrt()).max(axis.a.abs());
    let ramp = if j < none { top / j } else { 0.0 };
    let speed = axis.v.abs() + 0.5 * axis.a.abs() * (axis.a.abs() / j);
    // Down, along A, and up; without A the ramp that takes `speed` away is √(speed/J) long on each side.
    let along = if a < none { speed / a } else { 0.0 };
    let ramp = if a < none { ramp } else { axis.a.abs() / j + (speed / j).sqrt() };
    3.0 * ramp + along + 5.0
}

/// A run; what it broke.
fn run(seed: u64, flaw: Option<Flaw>) -> Result<(), String> {
    let mut rng = Rng(seed);
    let l = random_limit(&mut rng);
    let start = match rng.below(4) {
        0 => l.lo,
        1 => l.hi,
        _ => (l.lo + rng.unit() * (l.hi - l.lo)).clamp(l.lo, l.hi),
    };
    let mut axis = Axis::at(start);
    axis.flawed = flaw.into();
    let mut judge = MotionJudge::new(start);
    let mut step = |axis: &mut Axis, target: Option<f32>| {
        let command = axis.step(target, &l);
        judge.see(command, &l).map_or(Ok(command), |what| Err(format!("{what}; {l:?}; {axis:?}")))
    };
    let mut now = start;
    for part in 0..3 + rng.below(3) {
        let wish = random_wish(&mut rng, &l);
        for i in 0..20 + rng.below(100) {
            let target = wish.at(i, now, &l, &mut rng);
            now = step(&mut axis, target).map_err(|what| format!("part {part}, {i}: {what}"))?;
        }
    }
    let bound = stop_bound(&axis, &l);
    if bound > 3000.0 {
        return Ok(());
    }
    let mut periods = 0;
    while !axis.rests() {
        step(&mut axis, None)?;
        periods += 1;
        if f64::from(periods) > bound {
            return Err(format!("no rest after {periods} periods, {bound}: {l:?} {axis:?}"));
        }
    }
    let rest = step(&mut axis, None)?;
    if step(&mut axis, None)? != rest {
        return Err("it moves after its stop".into());
    }
    Ok(())
}

#[test]
fn every_command_keeps_its_limits() {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..RUNS).step_by(threads as usize) {
                    run(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
                }
            });
        }
    });
}

#[test]
fn a_broken_axis_is_caught() {
    let flaws = [
        (Flaw::NoVelocity, "difference 1"),
        (Flaw::LateVelocity, "difference 1"),
        (Flaw::NoAcceleration, "difference 2"),
        (Flaw::NoJerk, "difference 3"),
        (Flaw::NoLookAhead, "outside"),
        (Flaw::LateLookAhead, "difference"),
    ];
    for (flaw, what) in flaws {
        let caught = (0..5000).find_map(|seed| {
            run(seed, Some(flaw)).err().filter(|error| error.contains(what)).map(|e| (seed, e))
        });
        let (seed, error) = caught.unwrap_or_else(|| panic!("{flaw:?} did not break {what}"));
        println!("{flaw:?}: seed {seed}: {error}");
    }
}

/// Periods that an axis may need for a distance, generously: the way with no more than half of each limit,
/// and the stop before it.
fn arrival_bound(axis: &Axis, l: &Limit, far: f64) -> f64 {
    let none = f64::INFINITY;
    let [v, a, j] = [l.velocity, l.acceleration, l.jerk].map(|x| x.map_or(none, f64::from));
    let each = |x: f64| if x.is_finite() { x } else { 0.0 };
    stop_bound(axis, l)
        + 2.0 * (each(far / v) + each(v.min((far * a).sqrt()) / a) + each((far / a).sqrt()))
        + 8.0 * each((far / j).cbrt())
        + each(6.0 * a.min((v * j).sqrt()).min((far * j * j).cbrt()) / j)
        + 20.0
}

#[test]
fn a_constant_target_is_reached_and_kept() {
    let (mut slowest, mut runs, mut passed) = (0.0_f64, 0, 0);
    for seed in 0..60_000 {
        let mut rng = Rng(seed ^ 0xabcd);
        let l = random_limit(&mut rng);
        let mut axis = Axis::at((l.lo + rng.unit() * (l.hi - l.lo)).clamp(l.lo, l.hi));
        let mut now = axis.p as f32;
        for _ in 0..rng.below(3) {
            let wish = random_wish(&mut rng, &l);
            for i in 0..rng.below(60) {
                now = axis.step(wish.at(i, now, &l, &mut rng), &l);
            }
        }
        let target = match rng.below(4) {
            0 => l.lo,
            1 => l.hi,
            _ => (l.lo + rng.unit() * (l.hi - l.lo)).clamp(l.lo, l.hi),
        };
        let rest = axis.p + axis.v;
        let far = (f64::from(target) - rest).abs() + axis.v.abs() * stop_bound(&axis, &l);
        let bound = arrival_bound(&axis, &l, far);
        // A slew of less than one unit in the last place stands still; `GateConfig` refuses it.
        let unit = 2.0 * half_unit(l.lo.abs().max(l.hi.abs()));
        let slews = l.acceleration.is_none() && l.jerk.is_none();
        let stuck = slews && l.velocity.is_some_and(|v| f64::from(v) < unit);
        if bound > 20_000.0 || !bound.is_finite() || stuck {
            continue;
        }
        runs += 1;
        let mut periods = 0;
        while axis.step(Some(target), &l) != target || !axis.rests() {
            periods += 1;
            if f64::from(periods) > bound {
                panic!("seed {seed}: {periods} of {bound} periods, {target}: {l:?} {axis:?}");
            }
        }
        slowest = slowest.max(f64::from(periods) / bound);
        for _ in 0..20 {
            assert_eq!(axis.step(Some(target), &l), target, "seed {seed}: it leaves its target");
        }
        passed += 1;
    }
    println!("{passed} of {runs} runs; the slowest took {slowest} of its bound");
    assert!(runs > 30_000, "{runs}");
}

#[test]
fn a_path_that_keeps_the_limits_is_followed_exactly() {
    let l = Limit {
        velocity: Some(0.02),
        acceleration: Some(4e-4),
        jerk: Some(4e-5),
        ..Limit::new(-1.0, 1.0)
    };
    let mut axis = Axis::at(0.0);
    for i in 0..2000 {
        // Eases in; then 0.6·sin(0.025·i): 0.015, 3.75e-4, 9.4e-6.
        let t = f64::from(i);
        let ease = (t / 600.0).min(1.0);
        let ease = ease * ease * ease * (10.0 - ease * (15.0 - 6.0 * ease));
        let target = (0.6 * ease * (0.025 * t).sin()) as f32;
        assert_eq!(axis.step(Some(target), &l), target, "period {i}");
    }
    // A jump is caught up with although the target goes on, and is then followed exactly again.
    let mut caught = None;
    for i in 0..400 {
        let target = -0.4 + 0.002 * i as f32;
        if axis.step(Some(target), &l) == target {
            caught = caught.or(Some(i));
        } else {
            assert_eq!(caught, None, "period {i}: lost again");
        }
    }
    println!("caught up after {caught:?} periods");
    assert!(caught.is_some_and(|i| i < 120), "{caught:?}");
}

#[test]
fn a_move_takes_hardly_longer_than_the_shortest() {
    // From rest to rest: the shortest profile ramps for √(A/J)-like whole periods; with V and A reached it is
    // d/V + V/A + A/J.
    let l = Limit {
        velocity: Some(0.015),
        acceleration: Some(2.5e-4),
        jerk: Some(1.25e-5),
        ..Limit::new(-3.0, 3.0)
    };
    let mut axis = Axis::at(-1.0);
    let mut periods = 0;
    while axis.step(Some(1.0), &l) != 1.0 || !axis.rests() {
        periods += 1;
    }
    let shortest = 2.0 / 0.015 + 0.015 / 2.5e-4 + 2.5e-4 / 1.25e-5;
    println!("{periods} periods, the shortest move takes {shortest}");
    assert!(f64::from(periods) < shortest + 4.0, "{periods} {shortest}");
}

#[test]
#[ignore = "needs 10 min of a core: every one of the 2^32 f32"]
fn the_step_over_all_f32_near_a_limit() {
    sweep(1, 1..2);
}

#[test]
fn the_step_over_a_sweep_of_all_f32() {
    sweep(509, 0..5);
}

/// Every `stride`-th f32 as a target of axes in five states: 0 on its way, 1 close to a limit, 2 at rest at one,
/// 3 with a limit of the velocity alone, 4 with none.
fn sweep(stride: usize, states: std::ops::Range<usize>) {
    let full = Limit {
        velocity: Some(8.0),
        acceleration: Some(2.0),
        jerk: Some(0.5),
        ..Limit::new(-3.25, 512.0)
    };
    let axes = [
        (full, &[256.0, 256.5, 257.0][..]),
        (full, &[500.0, 512.0, 512.0, 512.0, 512.0, 512.0, 512.0, 512.0]),
        (full, &[-3.25; 12]),
        (Limit { acceleration: None, jerk: None, ..full }, &[100.0]),
        (Limit::new(-3.25, 512.0), &[100.0]),
    ]
    .map(|(l, warm)| {
        let mut axis = Axis::at(480.0);
        let mut judge = MotionJudge::new(480.0);
        for target in warm {
            let command = axis.step(Some(*target), &l);
            assert_eq!(judge.see(command, &l), None);
        }
        (l, axis, judge.past)
    });
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
    let axes = &axes[states];
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for bits in (thread..=u32::MAX).step_by(stride * threads as usize) {
                    let target = f32::from_bits(bits);
                    for (l, axis, past) in axes {
                        let (mut moved, mut judge) = (*axis, MotionJudge { past: *past });
                        let command = moved.step(Some(target), l);
                        // Not a number is no target.
                        if !target.is_finite() {
                            assert_eq!(command, { *axis }.step(None, l), "{bits:#x}");
                        }
                        if let Some(what) = judge.see(command, l) {
                            panic!("{bits:#x} {target}: {what}");
                        }
                    }
                }
            });
        }
    });
}
