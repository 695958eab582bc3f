//! The motion of one axis: commands that keep the limits of position, velocity, acceleration and jerk.
//!
//! Everything is in robot units per command period: v' = v + a', p' = p + v'. Velocity, acceleration and
//! jerk are the first, second and third difference of the commands. An [`Axis`] is never in a state from
//! which it could not stop inside all limits: each period it takes the wish (reach the target) as far as
//! the state after it can still stop, and the first period of the stop itself if nothing of the wish is left.
//!
//! The stop is a state feedback and a closed form. With jerk J, the shortest ramp of an acceleration x to 0
//! adds `rel(x) = Σ_{i≥1} max(x − iJ, 0)` to the velocity, so `g(x) = x + rel(x)` is what is added by the
//! ramp that begins at x. Let w be the velocity after the ramp to 0 from now. For w ≥ 0 the stop takes
//! `a' = max(a − J, −A, −g⁻¹(v))`: down as fast as J allows, along −A, and up again so that the velocity
//! ends at 0 exactly; w < 0 is its mirror image. Its length is a sum of cubics ([`Brake::way`]). A larger
//! a' puts every later position of the stop further up, so a state that comes after one that can stop can
//! stop too if its place of rest is inside the limits.
//!
//! With s = |v| + a²/2J a stop ends after s/A + 3·min(A, 2√(VJ))/J + 5 periods at the latest, and without a
//! limit of acceleration after 3·(|a|/J + √(s/J)) + 5; `motion_laws.rs` watches it.
//!
//! A target that keeps the limits is followed exactly. One that does not is caught up with: the axis
//! plans to come to rest beside it, in the frame that moves as the target did last.
//!
//! The state is f64, the command its nearest f32. Rounding moves a command by half a unit in the last
//! place at most, so a k-th difference of commands exceeds its limit by at most 2^k of them. The position
//! limits are f32 and rounding is monotone: they hold exactly.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::config::Limit;
use super::flaw::Flawed;
use super::limit::slew;

/// Evaluations with which a place of rest is brought to where it should be.
const SEARCH: usize = 12;

/// One axis: its last command, and the differences that led to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Axis {
    /// Position, robot units.
    pub(super) p: f64,
    /// First difference.
    pub(super) v: f64,
    /// Second difference.
    pub(super) a: f64,
    /// The last target, while there is one.
    aim: Option<f64>,
    pub(super) flawed: Flawed<Flaw>,
}

/// The limits of the differences, and their parts in units of the jerk.
#[derive(Clone, Copy, Debug)]
struct Brake {
    v: f64,
    a: f64,
    j: f64,
    per_j: f64,
    /// A and g(A), in units of J.
    top: f64,
    top_g: f64,
}

impl Axis {
    /// At rest at `p`.
    pub(super) fn at(p: f32) -> Self {
        Self { p: f64::from(p), ..Self::default() }
    }

    /// True if the axis stands still.
    pub(super) fn rests(&self) -> bool {
        self.v == 0.0 && self.a == 0.0
    }

    /// The next command: towards `target`, or towards a stop without one.
    pub(super) fn step(&mut self, target: Option<f32>, limit: &Limit) -> f32 {
        let (lo, hi) = (f64::from(limit.lo), f64::from(limit.hi));
        let target = target.filter(|t| t.is_finite());
        if limit.acceleration.is_none() && limit.jerk.is_none() {
            return self.slew(target, limit);
        }
        let brake = Brake::new(limit);
        let target = target.map(|t| f64::from(t).max(lo).min(hi));
        let last = std::mem::replace(&mut self.aim, target);
        if let Some(q) = target {
            let (lowest, highest) = self.range(&brake);
            let drift = last.map_or(0.0, |last| (q - last).max(-brake.v).min(brake.v));
            let (dv, inside) = (q - self.p, |a| lowest <= a && a <= highest);
            let exact = dv - self.v;
            let next = drift - dv;
            let settles = next.abs() <= brake.a.min(brake.j) && (next - exact).abs() <= brake.j;
            if inside(exact) && (last == Some(self.p) || settles) {
                let most = brake.way_at_most(dv, exact);
                let far = lo <= q - most && q + most <= hi;
                let rest = || q + brake.way(dv, exact);
                if far || (lo..=hi).contains(&rest()) || self.flawed.by(Flaw::NoLookAhead) {
                    (self.p, self.v, self.a) = (q, dv, exact);
                    return q as f32;
                }
            }
            let (wish, beyond) = self.catch_up(q, drift, (lowest, highest), &brake);
            let rest = beyond.filter(|_| drift == 0.0).map(|beyond| q + beyond);
            self.take(self.guard((wish, rest), (lo, hi), &brake), (lo, hi));
        } else {
            self.take(brake.step(self.v, self.a), (lo, hi));
        }
        self.p as f32
    }

    /// Without limits of acceleration and jerk: at once, or by the velocity's limit exactly.
    fn slew(&mut self, target: Option<f32>, limit: &Limit) -> f32 {
        let now = self.p as f32;
        let to = target.map_or(now, |t| {
            if t < limit.lo {
                limit.lo
            } else if t > limit.hi {
                limit.hi
            } else {
                t
            }
        });
        let next = match limit.velocity {
            Some(velocity) if !self.flawed.by(Flaw::NoVelocity) => slew(now, to, velocity),
            _ => to,
        };
        (self.p, self.v, self.a, self.aim) = (f64::from(next), 0.0, 0.0, None);
        next
    }

    fn take(&mut self, a: f64, (lo, hi): (f64, f64)) {
        self.a = a;
        self.v += a;
        // Inside already; only the rounding of f64 is cut off here.
        self.p = if self.flawed.by(Flaw::NoLookAhead) {
            self.p + self.v
        } else {
            (self.p + self.v).max(lo).min(hi)
        };
    }

    /// The smallest and the largest next acceleration that jerk, acceleration and velocity allow.
    fn range(&self, brake: &Brake) -> (f64, f64) {
        let j = if self.flawed.by(Flaw::NoJerk) { f64::INFINITY } else { brake.j };
        let top = if self.flawed.by(Flaw::NoAcceleration) { f64::INFINITY } else { brake.a };
        let mut highest = (self.a + j).min(top);
        let mut lowest = (self.a - j).max(-top);
        if brake.too_fast(self.v, highest) && !self.flawed.by(Flaw::NoVelocity) {
            highest = brake.g_inverse(brake.v - self.v);
        }
        if brake.too_fast(-self.v, -lowest) && !self.flawed.by(Flaw::NoVelocity) {
            lowest = -brake.g_inverse(brake.v + self.v);
        }
        if self.flawed.by(Flaw::LateVelocity) {
            highest = (self.a + j).min(top).min(brake.v - self.v);
            lowest = (self.a - j).max(-top).max(-brake.v - self.v);
        }
        (lowest, highest.max(lowest))
    }

    /// The acceleration with which the axis comes to rest beside a target at `q` that drifts by `drift`
    /// a period, from the side on which it is; and how far beyond the target that is, if it was looked at.
    fn catch_up(&self, q: f64, drift: f64, range: (f64, f64), brake: &Brake) -> (f64, Option<f64>) {
        // Seen from its side: upwards to the target is positive.
        let up = if q >= self.p { 1.0 } else { -1.0 };
        let beyond = |a: f64| {
            let v = self.v + a;
            up * (self.p + v - q + brake.way(v - drift, a))
        };
        let (least, most) = if up > 0.0 { range } else { (range.1, range.0) };
        let v = self.v + most;
        if up * (self.p + v - q) + brake.way_at_most(v - drift, most) <= 0.0 {
            return (most, None);
        }
        let far = (q - self.p).abs();
        let close = brake.grain().min(far / 16.0).max(far / 4096.0);
        // On its way to rest beside the target it has only to go on.
        let guess = brake.step(self.v - drift, self.a).max(range.0).min(range.1);
        let at_guess = beyond(guess);
        if (-close..=0.0).contains(&at_guess) {
            return (guess, Some(up * at_guess));
        }
        let (end, inner) = if at_guess <= 0.0 { (most, guess) } else { (least, guess) };
        let at_end = beyond(end);
        let (a, at) = match (at_guess <= 0.0, at_end <= 0.0) {
            // As fast as it may, and still short; or as slow, and still beyond.
            (true, true) | (false, false) => (end, at_end),
            (true, false) => search(beyond, (inner, at_guess), (end, at_end), close),
            (false, true) => search(beyond, (end, at_end), (inner, at_guess), close),
        };
        (a, Some(up * at))
    }

    /// `wish`, which leads to rest at `rest` if that is known; or as much of it beyond a stop as keeps the
    /// place of rest in `[lo, hi]`.
    fn guard(&self, (wish, rest): (f64, Option<f64>), (lo, hi): (f64, f64), brake: &Brake) -> f64 {
        let (v, next) = (self.v + wish, self.p + self.v + wish);
        let most = brake.way_at_most(v, wish);
        let far = lo <= next - most && next + most <= hi;
        if far || self.flawed.by(Flaw::NoLookAhead) {
            return wish;
        }
        let at_wish = rest.unwrap_or_else(|| self.rest(wish, brake));
        if lo <= at_wish && at_wish <= hi {
            return wish;
        }
        if self.flawed.by(Flaw::LateLookAhead) && (lo..=hi).contains(&next) {
            return wish;
        }
        let stop = brake.step(self.v, self.a);
        let at_stop = self.rest(stop, brake);
        let (side, limit) = if at_wish > hi { (1.0, hi) } else { (-1.0, lo) };
        let beyond = |a: f64| side * (self.rest(a, brake) - limit);
        let ends = ((stop, side * (at_stop - limit)), (wish, side * (at_wish - limit)));
        search(beyond, ends.0, ends.1, brake.grain()).0
    }

    /// Where it comes to rest if it takes `a` and stops then.
    fn rest(&self, a: f64, brake: &Brake) -> f64 {
        let v = self.v + a;
        self.p + v + brake.way(v, a)
    }
}

/// Between `good`, where `f` is not positive, and `bad`, where it is: a place where `f` is in
/// `[-close, 0]` and its value, or the best that [`SEARCH`] evaluations found. `f` grows from `good` to `bad`.
fn search(f: impl Fn(f64) -> f64, good: (f64, f64), bad: (f64, f64), close: f64) -> (f64, f64) {
    let ((mut good, mut at_good), (mut bad, mut at_bad)) = (good, bad);
    // Weights of the two ends: the end that stays is halved, so that both move (Illinois).
    let (mut keep_good, mut keep_bad) = (1.0, 1.0);
    for _ in 0..SEARCH {
        if at_good >= -close {
            break;
        }
        // The secant through the middle of what is allowed.
        let (below, above) =
            ((-at_good - 0.5 * close) * keep_good, (at_bad + 0.5 * close) * keep_bad);
        let middle = good + (bad - good) * (below / (below + above));
        let value = f(middle);
        if value > 0.0 {
            (bad, at_bad) = (middle, value);
            (keep_good, keep_bad) = (0.5 * keep_good, 1.0);
        } else {
            (good, at_good) = (middle, value);
            (keep_good, keep_bad) = (1.0, 0.5 * keep_bad);
        }
    }
    (good, at_good)
}

impl Brake {
    fn new(limit: &Limit) -> Self {
        let or_none = |limit: Option<f32>| limit.map_or(f64::INFINITY, f64::from);
        let (v, a, j) = (or_none(limit.velocity), or_none(limit.acceleration), or_none(limit.jerk));
        let per_j = 1.0 / j;
        let top = a * per_j;
        let top_g = if top < f64::INFINITY { ramp(top) } else { f64::INFINITY };
        Self { v, a, j, per_j, top, top_g }
    }

    /// The acceleration of the stop's first period.
    fn step(&self, v: f64, a: f64) -> f64 {
        if v.abs() <= self.a.min(self.j) && (a + v).abs() <= self.j {
            return -v;
        }
        if self.j == f64::INFINITY {
            return (-v).max(-self.a).min(self.a);
        }
        if self.after_ramp(v, a) >= 0.0 {
            (a - self.j).max(-self.a).max(-self.g_inverse(v))
        } else {
            (a + self.j).min(self.a).min(self.g_inverse(-v))
        }
    }

    /// w: the velocity after the ramp of `a` to 0.
    fn after_ramp(&self, v: f64, a: f64) -> f64 {
        v + (self.g(a.abs()) - a.abs()).copysign(a)
    }

    /// What a ramp that begins with `x >= 0` adds to the velocity.
    fn g(&self, x: f64) -> f64 {
        if self.j < f64::INFINITY { ramp(x * self.per_j) * self.j } else { x }
    }

    /// True if a ramp that begins with `x` exceeds the velocity's limit from `v`.
    fn too_fast(&self, v: f64, x: f64) -> bool {
        // rel(x) ≤ x²/2J, which is cheaper.
        x > 0.0 && v + x + 0.5 * x * x * self.per_j > self.v && v + self.g(x) > self.v
    }

    /// The `x >= 0` with which a ramp begins that adds `v`; 0 for a negative `v`.
    fn g_inverse(&self, v: f64) -> f64 {
        let v = v.max(0.0);
        if self.j == f64::INFINITY || v == f64::INFINITY {
            return v;
        }
        let (k, rest) = ramp_inverse(v * self.per_j);
        (k + rest) * self.j
    }

    /// How far the stop goes from velocity `v` and acceleration `a`.
    fn way(&self, v: f64, a: f64) -> f64 {
        if self.j == f64::INFINITY {
            let n = floor(v.abs() / self.a);
            return (n * v.abs() - self.a * triangle(n)).copysign(v);
        }
        let (v, a) = (v * self.per_j, a * self.per_j);
        let k = floor(a.abs());
        let w = v + (k * a.abs() - triangle(k)).copysign(a);
        let (mut v, a, sign) = if w < 0.0 { (-v, -a, -self.j) } else { (v, a, self.j) };
        // n periods of full jerk; m of them to an acceleration of f in [0, 1), where the velocity is u.
        let m = floor(a);
        let (f, u) = (a - m, v + m * a - triangle(m));
        let most = f + (f * f - f + u).max(0.0).sqrt();
        let n = (m + floor(most.min(f + self.top))).max(0.0);
        let mut way = n * v + triangle(n) * (a - (n + 2.0) / 3.0);
        v += n * a - triangle(n);
        if v >= self.top_g {
            let n = floor((v - self.top_g) / self.top) + 1.0;
            way += n * v - self.top * triangle(n);
            v -= n * self.top;
        }
        let (k, rest) = ramp_inverse(v.max(0.0));
        way += triangle(k) * (rest + (k - 1.0) / 3.0);
        way * sign
    }

    /// What the stop's way does not exceed, for a tenth of the time.
    fn way_at_most(&self, v: f64, a: f64) -> f64 {
        // From the greatest speed s the stop takes s/A + A/J periods, and goes s/2 in each on average if it
        // reaches A, s·√(s/J) ≤ s·A/J in all if not; before it comes the ramp of a, and whole periods.
        let s = v.abs() + 0.5 * a * a * self.per_j;
        s * ((a.abs() + self.a) * self.per_j + 0.5 * s / self.a + 3.0)
    }

    /// A distance that is as good as none.
    fn grain(&self) -> f64 {
        self.j.min(self.a).min(self.v) / 64.0
    }
}

/// g in units of the jerk: x + (x − 1) + (x − 2) + … while positive.
fn ramp(x: f64) -> f64 {
    let k = floor(x);
    (k + 1.0) * (x - k) + triangle(k)
}

/// The whole and the broken part of the `x` of which [`ramp`] is `v`.
fn ramp_inverse(v: f64) -> (f64, f64) {
    let k = floor(0.5 * ((8.0 * v + 1.0).sqrt() - 1.0));
    (k, (v - triangle(k)) / (k + 1.0))
}

fn triangle(n: f64) -> f64 {
    0.5 * n * (n + 1.0)
}

/// `f64::floor` without a call.
fn floor(x: f64) -> f64 {
    // Beyond 2^52 every f64 is whole.
    if x.abs() < 4_503_599_627_370_496.0 {
        let whole = x as i64 as f64;
        if whole > x { whole - 1.0 } else { whole }
    } else {
        x
    }
}

/// What a broken twin of an axis lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break an axis"))]
pub(super) enum Flaw {
    NoVelocity,
    NoAcceleration,
    NoJerk,
    NoLookAhead,
    /// Looks only at the next velocity.
    LateVelocity,
    /// Looks only at the next position.
    LateLookAhead,
}

#[cfg(test)]
mod tests {
    use super::super::sim_net::Rng;
    use super::*;

    fn random(rng: &mut Rng) -> (Brake, f64, f64) {
        let size = |rng: &mut Rng| 10_f32.powf(rng.unit() * 4.0 - 4.0);
        let limit = Limit {
            velocity: Some(size(rng)),
            acceleration: (!rng.chance(0.2)).then(|| size(rng)),
            jerk: (!rng.chance(0.2)).then(|| size(rng)),
            ..Limit::new(0.0, 1.0)
        };
        let limit =
            Limit { jerk: limit.jerk.or(limit.acceleration.is_none().then_some(0.1)), ..limit };
        let brake = Brake::new(&limit);
        let a = f64::from(rng.unit() - 0.5) * 2.0 * brake.a.min(brake.g_inverse(brake.v));
        (brake, f64::from(rng.unit() - 0.5) * 2.0 * brake.v, a)
    }

    /// Walks the stop; its way.
    fn walk(brake: &Brake, mut v: f64, mut a: f64) -> f64 {
        let mut way = 0.0;
        while v != 0.0 || a != 0.0 {
            let next = brake.step(v, a);
            assert!(
                (next - a).abs() <= brake.j * (1.0 + 1e-9) && next.abs() <= brake.a * (1.0 + 1e-9)
            );
            a = next;
            v += a;
            way += v;
        }
        way
    }

    #[test]
    fn the_way_is_the_sum_of_its_steps() {
        let mut worst = 0.0_f64;
        for seed in 0..100_000 {
            let (brake, v, a) = random(&mut Rng(seed));
            let (way, most) = (brake.way(v, a), brake.way_at_most(v, a));
            let walked = walk(&brake, v, a);
            let off = (way - walked).abs() / (walked.abs() + brake.v);
            worst = worst.max(off);
            assert!(off < 1e-9, "{seed}: {way} {walked} {brake:?} {v} {a}");
            assert!(walked.abs() <= most || most.is_nan(), "{seed}: {walked} {most}");
        }
        println!("largest relative difference {worst:e}");
    }

    #[test]
    fn more_acceleration_rests_further_up() {
        for seed in 0..100_000 {
            let mut rng = Rng(seed);
            let (brake, v, a) = random(&mut rng);
            let more = a + f64::from(rng.unit()) * brake.j.min(brake.a);
            let rest = |a: f64| v + a + brake.way(v + a, a);
            let slack = 1e-9 * (rest(a).abs() + brake.v);
            assert!(rest(more) >= rest(a) - slack, "{seed}: {brake:?} {v} {a} {more}");
        }
    }

    #[test]
    fn the_ramp_and_its_inverse() {
        for i in 0..10_000 {
            let x = f64::from(i) * 0.013;
            let (k, rest) = ramp_inverse(ramp(x));
            assert!((k + rest - x).abs() < 1e-12 * (1.0 + x), "{x}");
        }
        for x in [-2.5, -2.0, -0.5, -0.0, 0.5, 2.0, 1e15, -1e15 + 0.5, 1e300, f64::INFINITY] {
            assert_eq!(floor(x), x.floor(), "{x}");
        }
    }
}
