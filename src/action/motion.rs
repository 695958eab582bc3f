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
    #[cfg(test)]
    pub(super) flaw: Option<Flaw>,
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
        let stop = brake.step(self.v, self.a);
        let target = target.map(|t| f64::from(t).max(lo).min(hi));
        let last = std::mem::replace(&mut self.aim, target);
        if let Some(q) = target {
            let (lowest, highest) = self.range(&brake);
            let drift = last.map_or(0.0, |last| (q - last).clamp(-brake.v, brake.v));
            let (dv, inside) = (q - self.p, |a| lowest <= a && a <= highest);
            let exact = dv - self.v;
            let next = drift - dv;
            let settles = next.abs() <= brake.a.min(brake.j) && (next - exact).abs() <= brake.j;
            if inside(exact) && (last == Some(self.p) || settles) {
                let rest = q + brake.way(dv, exact);
                if (lo <= rest && rest <= hi) || self.broken(Flaw::NoLookAhead) {
                    (self.p, self.v, self.a) = (q, dv, exact);
                    return q as f32;
                }
            }
            let wish = self.catch_up(q, drift, (lowest, highest), &brake);
            self.take(self.guard(wish, stop, (lo, hi), &brake), (lo, hi));
        } else {
            self.take(stop, (lo, hi));
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
            Some(velocity) if !self.broken(Flaw::NoVelocity) => slew(now, to, velocity),
            _ => to,
        };
        *self = Self { p: f64::from(next), v: 0.0, a: 0.0, aim: None, ..*self };
        next
    }

    fn take(&mut self, a: f64, (lo, hi): (f64, f64)) {
        self.a = a;
        self.v += a;
        // Inside already; only the rounding of f64 is cut off here.
        self.p = if self.broken(Flaw::NoLookAhead) {
            self.p + self.v
        } else {
            (self.p + self.v).max(lo).min(hi)
        };
    }

    /// The smallest and the largest next acceleration that jerk, acceleration and velocity allow.
    fn range(&self, brake: &Brake) -> (f64, f64) {
        let j = if self.broken(Flaw::NoJerk) { f64::INFINITY } else { brake.j };
        let top = if self.broken(Flaw::NoAcceleration) { f64::INFINITY } else { brake.a };
        let mut highest = (self.a + j).min(top);
        let mut lowest = (self.a - j).max(-top);
        if highest > 0.0 && self.v + brake.g(highest) > brake.v && !self.broken(Flaw::NoVelocity) {
            highest = brake.g_inverse(brake.v - self.v);
        }
        if lowest < 0.0 && self.v - brake.g(-lowest) < -brake.v && !self.broken(Flaw::NoVelocity) {
            lowest = -brake.g_inverse(brake.v + self.v);
        }
        if self.broken(Flaw::LateVelocity) {
            highest = (self.a + j).min(top).min(brake.v - self.v);
            lowest = (self.a - j).max(-top).max(-brake.v - self.v);
        }
        (lowest, highest.max(lowest))
    }

    /// The acceleration with which the axis comes to rest beside a target at `q` that drifts by `drift`
    /// a period, from the side on which it is.
    fn catch_up(&self, q: f64, drift: f64, (lowest, highest): (f64, f64), brake: &Brake) -> f64 {
        let beyond = |a: f64| {
            let v = self.v + a;
            self.p + v - q + brake.way(v - drift, a)
        };
        let at_highest = beyond(highest);
        if at_highest <= 0.0 {
            return highest;
        }
        let at_lowest = beyond(lowest);
        if at_lowest >= 0.0 {
            return lowest;
        }
        let close = brake.grain().max((q - self.p).abs() / 4096.0);
        if q >= self.p {
            search(beyond, (lowest, at_lowest), (highest, at_highest), close)
        } else {
            let short = |a: f64| -beyond(a);
            search(short, (highest, -at_highest), (lowest, -at_lowest), close)
        }
    }

    /// `wish`, or as much of it beyond `stop` as leaves the place of rest inside `[lo, hi]`.
    fn guard(&self, wish: f64, stop: f64, (lo, hi): (f64, f64), brake: &Brake) -> f64 {
        let rest = |a: f64| self.p + self.v + a + brake.way(self.v + a, a);
        let at_wish = rest(wish);
        if (lo <= at_wish && at_wish <= hi) || self.broken(Flaw::NoLookAhead) {
            return wish;
        }
        if self.broken(Flaw::LateLookAhead) && (lo..=hi).contains(&(self.p + self.v + wish)) {
            return wish;
        }
        let at_stop = rest(stop);
        if at_wish > hi {
            search(|a| rest(a) - hi, (stop, at_stop - hi), (wish, at_wish - hi), brake.grain())
        } else {
            search(|a| lo - rest(a), (stop, lo - at_stop), (wish, lo - at_wish), brake.grain())
        }
    }

    /// True if a test took this check out; constant in every other build.
    #[cfg(test)]
    fn broken(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "the test build reads it")]
    const fn broken(&self, _: Flaw) -> bool {
        false
    }
}

/// Between `good`, where `f` is not positive, and `bad`, where it is: a place where `f` is in
/// `[-close, 0]`, or the best that [`SEARCH`] evaluations found. `f` grows from `good` to `bad`.
fn search(f: impl Fn(f64) -> f64, good: (f64, f64), bad: (f64, f64), close: f64) -> f64 {
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
    good
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
            return (-v).clamp(-self.a, self.a);
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

    /// A distance that is as good as none.
    fn grain(&self) -> f64 {
        self.j.min(self.a) / 64.0
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
