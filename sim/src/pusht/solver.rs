//! Contact solver: sequential impulses with warm start and split position correction.
//!
//! Per contact with normal n (into the block) and lever r from the block's centre of gravity:
//! 1/m_n = 1/m + (r × n)²/I; the velocity impulse j ≥ 0 removes the approaching velocity, and the
//! bias impulse j_b ≥ 0 removes penetration deeper than the slop within the rate of the bias
//! coefficient. Disc and walls have infinite mass, friction and restitution are 0, so the tangent
//! terms of the general solver vanish. Source: Chipmunk 7 `cpArbiter.c`.

use super::contact::Touches;
use super::vec2::{V2, v2};

/// Inverse moment of inertia of the T: gym-pusht adds the bar's moment (1500) twice.
const INV_MOMENT: f64 = 1.0 / 3000.0;
/// Inverse mass of the T.
const INV_MASS: f64 = 1.0;
/// 1 − (0.9f³²ᵇⁱᵗ)^(60·dt): the part of a penetration that one substep of 0.01 s removes.
const BIAS_RATE: f64 = 0.061_259_621_561_307_376;
/// Substeps that a pair's impulses outlive the contact.
const PERSISTENCE: u64 = 3;

/// The moving state of the block that the solver changes. `v` is of the centre of gravity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Motion {
    pub(crate) v: V2,
    pub(crate) w: f64,
    /// Velocities of the position correction: they move the block once and are then dropped.
    pub(crate) v_bias: V2,
    pub(crate) w_bias: f64,
}

impl Motion {
    fn push(&mut self, impulse: V2, lever: V2) {
        self.v = self.v + impulse * INV_MASS;
        self.w += INV_MOMENT * lever.cross(impulse);
    }

    fn push_bias(&mut self, impulse: V2, lever: V2) {
        self.v_bias = self.v_bias + impulse * INV_MASS;
        self.w_bias += INV_MOMENT * lever.cross(impulse);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Contact {
    id: u64,
    /// Contact point on the disc or wall relative to that body.
    r1: V2,
    /// Contact point on the block relative to its centre of gravity.
    r2: V2,
    mass: f64,
    bias: f64,
    impulse: f64,
    bias_impulse: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    /// Never touched, or forgotten.
    #[default]
    Absent,
    /// Touches for the first time since it was absent or cached: no warm start yet.
    First,
    /// Touched in the last substep.
    Normal,
    /// Separated less than `PERSISTENCE` substeps ago.
    Cached,
}

/// What two shapes remember about their contact.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arbiter {
    phase: Phase,
    touched_at: u64,
    normal: V2,
    count: usize,
    contacts: [Contact; 2],
}

impl Arbiter {
    /// Takes this substep's contacts and carries the impulses of the same contacts over. Impulses
    /// of a cached pair are carried too, although its warm start is skipped: Chipmunk's quirk.
    pub(crate) fn refresh(&mut self, t: &Touches, other: V2, block: V2, now: u64) {
        let old = self.contacts;
        let old_count = if self.phase == Phase::Absent { 0 } else { self.count };
        for (new, point) in self.contacts.iter_mut().zip(&t.points).take(t.count) {
            *new = Contact {
                id: point.id,
                r1: point.on_other - other,
                r2: point.on_block - block,
                ..Contact::default()
            };
            for c in old.iter().take(old_count).filter(|c| c.id == point.id) {
                new.impulse = c.impulse;
            }
        }
        self.count = t.count;
        self.normal = t.normal;
        self.touched_at = now;
        if self.phase != Phase::Normal {
            self.phase = Phase::First;
        }
    }

    /// At the start of a substep, for pairs that touched in the last one.
    pub(crate) fn settle(&mut self) {
        self.phase = Phase::Normal;
    }

    /// After the contacts are found: pairs without contact are cached, then forgotten.
    pub(crate) fn age(&mut self, now: u64) {
        if self.phase == Phase::Absent {
            return;
        }
        let ticks = now - self.touched_at;
        if ticks >= PERSISTENCE {
            self.phase = Phase::Absent;
        } else if ticks >= 1 {
            self.phase = Phase::Cached;
        }
    }

    /// Effective masses and target velocities of the position correction. `delta` is the vector
    /// from the other body's position to the block's centre of gravity.
    pub(crate) fn prepare(&mut self, delta: V2, slop: f64, dt: f64) {
        let n = self.normal;
        for c in &mut self.contacts[..self.count] {
            let arm = c.r2.cross(n);
            c.mass = 1.0 / (INV_MASS + INV_MOMENT * arm * arm);
            let depth = (c.r2 - c.r1 + delta).dot(n) + slop;
            c.bias = -BIAS_RATE * if 0.0 < depth { 0.0 } else { depth } / dt;
            c.bias_impulse = 0.0;
        }
    }

    /// Applies the impulses of the last substep again.
    pub(crate) fn warm_start(&self, block: &mut Motion) {
        if self.phase != Phase::First {
            for c in &self.contacts[..self.count] {
                block.push(self.normal * c.impulse, c.r2);
            }
        }
    }

    /// One Gauss–Seidel round against a body that moves with `other` and does not turn. Whether
    /// any impulse changed: once none does in a whole round, further rounds change nothing either.
    pub(crate) fn solve(&mut self, block: &mut Motion, other: V2) -> bool {
        let n = self.normal;
        let mut changed = false;
        for c in &mut self.contacts[..self.count] {
            let turn = c.r2.perp();
            let bias_speed = (block.v_bias + turn * block.w_bias).dot(n);
            let speed = (block.v + turn * block.w - other).dot(n);

            let before = c.bias_impulse;
            let sum = before + (c.bias - bias_speed) * c.mass;
            c.bias_impulse = if sum > 0.0 { sum } else { 0.0 };
            block.push_bias(n * (c.bias_impulse - before), c.r2);
            changed |= c.bias_impulse != before;

            let before = c.impulse;
            let sum = before + -speed * c.mass;
            c.impulse = if sum > 0.0 { sum } else { 0.0 };
            block.push(n * (c.impulse - before), c.r2);
            changed |= c.impulse != before;
        }
        changed
    }
}

/// The block at rest.
pub(crate) const AT_REST: Motion =
    Motion { v: v2(0.0, 0.0), w: 0.0, v_bias: v2(0.0, 0.0), w_bias: 0.0 };

#[cfg(test)]
mod tests {
    use super::*;

    /// The literals are what Chipmunk computes at run time.
    #[test]
    fn bias_rate_is_chipmunks() {
        let per_second = f64::from(1.0_f32 - 0.1_f32).powf(60.0);
        assert!((BIAS_RATE - (1.0 - per_second.powf(0.01))).abs() < 1e-16);
    }
}
