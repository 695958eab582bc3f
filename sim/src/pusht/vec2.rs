//! Plane vectors in `f64` with a fixed order of operations.
//!
//! The parity with Chipmunk is to the last bit, so every product and sum below is written in the
//! order in which Chipmunk's `cpVect.h` evaluates it. A general linear algebra crate may reorder.

use std::ops::{Add, Mul, Neg, Sub};

/// A point or direction in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct V2 {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

pub(crate) const fn v2(x: f64, y: f64) -> V2 {
    V2 { x, y }
}

impl V2 {
    pub(crate) fn dot(self, o: V2) -> f64 {
        self.x * o.x + self.y * o.y
    }

    pub(crate) fn cross(self, o: V2) -> f64 {
        self.x * o.y - self.y * o.x
    }

    /// Turned by +90° (x towards y).
    pub(crate) fn perp(self) -> V2 {
        v2(-self.y, self.x)
    }

    /// Turned by −90°.
    pub(crate) fn perp_neg(self) -> V2 {
        v2(self.y, -self.x)
    }

    pub(crate) fn norm_sq(self) -> f64 {
        self.dot(self)
    }

    pub(crate) fn norm(self) -> f64 {
        self.norm_sq().sqrt()
    }

    /// Unit vector, or zero for zero: the smallest normal number keeps the quotient finite.
    pub(crate) fn unit(self) -> V2 {
        self * (1.0 / (self.norm() + f64::MIN_POSITIVE))
    }

    /// From `self` (t = 0) to `o` (t = 1).
    pub(crate) fn lerp(self, o: V2, t: f64) -> V2 {
        self * (1.0 - t) + o * t
    }
}

impl Add for V2 {
    type Output = V2;
    fn add(self, o: V2) -> V2 {
        v2(self.x + o.x, self.y + o.y)
    }
}

impl Sub for V2 {
    type Output = V2;
    fn sub(self, o: V2) -> V2 {
        v2(self.x - o.x, self.y - o.y)
    }
}

impl Neg for V2 {
    type Output = V2;
    fn neg(self) -> V2 {
        v2(-self.x, -self.y)
    }
}

impl Mul<f64> for V2 {
    type Output = V2;
    fn mul(self, s: f64) -> V2 {
        v2(self.x * s, self.y * s)
    }
}

/// The smaller number by one comparison (no NaN rule, unlike `f64::min`).
pub(crate) fn least(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

/// The larger number by one comparison.
pub(crate) fn most(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// `x` limited to `lo..=hi` in Chipmunk's order.
pub(crate) fn limit(x: f64, lo: f64, hi: f64) -> f64 {
    least(most(x, lo), hi)
}
