//! Distance to the goal, and the cost to go that ranks plans.
//!
//! RMS² = |Δc|² + 2(1 − cos Δθ)·ρ², where c is the mean of the eight keypoints and ρ² their mean
//! squared distance from it: the closed form of the keypoint RMS between two rigid poses.
//! J = 18 + 0.25·RMS + 18·|Δθ| + 7·ln(1 + RMS/3), in control steps. The angle term is needed since
//! the RMS is flat at 180° of error.

use super::super::coverage;
use super::super::vec2::v2;
use super::geometry::{COG_Y, Pose, V2, wrap};

/// The goal pose of the block: x, y, angle.
pub(super) const GOAL: [f64; 3] = [256.0, 256.0, std::f64::consts::FRAC_PI_4];
const KEYPOINT_RHO2: f64 = 3937.5;

/// Error of a block pose against the goal.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    centre: V2,
    cos: f64,
    sin: f64,
}

impl Goal {
    pub(super) fn new() -> Self {
        let g = Pose::from_array(GOAL);
        Self { centre: g.to_world(V2::new(0.0, COG_Y)), cos: g.cos, sin: g.sin }
    }

    /// Keypoint RMS in px.
    pub(super) fn rms(&self, pose: &Pose) -> f64 {
        let c = pose.to_world(V2::new(0.0, COG_Y)) - self.centre;
        let cos = pose.cos * self.cos + pose.sin * self.sin;
        (c.norm_squared() + 2.0 * (1.0 - cos).max(0.0) * KEYPOINT_RHO2).sqrt()
    }
}

/// The part of J that depends on the RMS, tabulated: the search evaluates it millions of times.
pub(super) struct RmsCost {
    table: Vec<f64>,
}

impl RmsCost {
    const PER_PX: f64 = 2.0;

    pub(super) fn new() -> Self {
        let cost = |rms: f64| 0.25 * rms + 7.0 * (rms / 3.0).ln_1p();
        Self { table: (0..2048).map(|i| cost(f64::from(i) / Self::PER_PX)).collect() }
    }

    fn at(&self, rms: f64) -> f64 {
        let x = rms * Self::PER_PX;
        let k = (x as usize).min(self.table.len() - 2);
        self.table[k] + (self.table[k + 1] - self.table[k]) * (x - k as f64)
    }

    /// Cost to go in control steps of a pose that is not yet solved, from its keypoint RMS (px),
    /// angle error (rad) and distance to the walls (px).
    pub(super) fn to_go(&self, rms: f64, angle: f64, wall_margin: f64) -> f64 {
        18.0 + self.at(rms) + 18.0 * angle + 0.3 * (30.0 - wall_margin).max(0.0)
    }
}

/// |Δθ| to the goal in rad.
pub(super) fn angle_error(pose: &Pose) -> f64 {
    wrap(pose.angle - GOAL[2]).abs()
}

/// Keypoint RMS in px between two poses.
pub(super) fn rms_between(a: &Pose, b: &Pose) -> f64 {
    let c = a.to_world(V2::new(0.0, COG_Y)) - b.to_world(V2::new(0.0, COG_Y));
    let cos = a.cos * b.cos + a.sin * b.sin;
    (c.norm_squared() + 2.0 * (1.0 - cos).max(0.0) * KEYPOINT_RHO2).sqrt()
}

/// Share of the goal area that a block at `pose` covers.
pub(super) fn coverage(pose: &Pose) -> f64 {
    coverage::coverage(v2(pose.cos, pose.sin), v2(pose.p.x, pose.p.y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pusht::PushT;

    #[test]
    fn the_closed_form_is_the_keypoint_rms() {
        let [x, y, angle] = PushT::GOAL_POSE;
        assert_eq!(GOAL, PushT::GOAL_POSE);
        let goal = PushT::at_rest([0.0, 0.0, x, y, angle]).keypoints();
        for pose in [[250.0, 261.0, 0.9], [120.0, 330.0, -2.5], [256.0, 256.0, 3.9]] {
            let k = PushT::at_rest([0.0, 0.0, pose[0], pose[1], pose[2]]).keypoints();
            let sum: f64 = k.iter().zip(goal).map(|(a, b)| (a - b) * (a - b)).sum();
            let rms = Goal::new().rms(&Pose::from_array(pose));
            assert!((rms - (sum / 8.0).sqrt()).abs() < 1e-9, "{pose:?}: {rms}");
        }
    }

    #[test]
    fn the_table_of_costs_follows_its_formula() {
        let table = RmsCost::new();
        for rms in [0.0, 0.3, 2.9, 17.0, 240.0, 900.0] {
            let j = 18.0 + 0.25 * rms + 18.0 * 0.1 + 7.0 * (1.0 + rms / 3.0f64).ln();
            assert!((table.to_go(rms, 0.1, 30.0) - j).abs() < 0.05, "rms {rms}");
        }
    }
}
