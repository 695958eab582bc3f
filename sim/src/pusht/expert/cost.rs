//! Distance to the goal, and the cost to go that ranks plans.
//!
//! RMS² = |Δc|² + 2(1 − cos Δθ)·ρ², where c is the mean of the eight keypoints and ρ² their mean
//! squared distance from it: the closed form of the keypoint RMS between two rigid poses.
//! J = 18 + 0.25·RMS + 18·|Δθ| + 7·ln(1 + RMS/3), in control steps. The angle term is needed since
//! the RMS is flat at 180° of error.

use super::super::coverage;
use super::super::vec2::v2;
use super::geometry::{COG_Y, Pose, V2, wall_margin, wrap};

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

    /// Cost to go in control steps of a pose that is not yet solved.
    pub(super) fn cost_to_go(&self, pose: &Pose, rms: f64) -> f64 {
        18.0 + 0.25 * rms + 18.0 * angle_error(pose) + 7.0 * (rms / 3.0).ln_1p() + walls(pose)
    }
}

/// |Δθ| to the goal in rad.
pub(super) fn angle_error(pose: &Pose) -> f64 {
    wrap(pose.angle - GOAL[2]).abs()
}

fn walls(pose: &Pose) -> f64 {
    0.3 * (30.0 - wall_margin(pose)).max(0.0)
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
