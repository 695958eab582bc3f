//! Coverage: the share of the goal T that the block covers.
//!
//! coverage = area(goal ∩ block) / area(goal). Both are two rectangles that do not overlap, so the
//! area is the sum over the four pairs. In the goal's frame its rectangles are upright boxes, and
//! each of the block's is clipped by their four sides (Sutherland and Hodgman, 1974).

use super::shapes::{BLOCK_AREA, PARTS, to_world};
use super::vec2::{V2, v2};

/// Origin of the goal pose in pixels; its angle is π/4.
pub(crate) const GOAL_ORIGIN: V2 = v2(256.0, 256.0);
/// Angle of the goal pose in radians.
pub(crate) const GOAL_ANGLE: f64 = std::f64::consts::FRAC_PI_4;
const GOAL_ROT: V2 = v2(std::f64::consts::FRAC_1_SQRT_2, std::f64::consts::FRAC_1_SQRT_2);
/// A quadrilateral clipped by four sides has at most eight corners.
const MAX_CORNERS: usize = 8;

/// Coverage of the goal by a block with unit complex rotation `rot` and body origin `origin`.
pub(crate) fn coverage(rot: V2, origin: V2) -> f64 {
    // Pose of the block in the goal's frame: conj(goal) · block.
    let back = v2(GOAL_ROT.x, -GOAL_ROT.y);
    let turn = v2(back.x * rot.x - back.y * rot.y, back.x * rot.y + back.y * rot.x);
    let shift = to_world(origin - GOAL_ORIGIN, back, V2::default());
    let mut area = 0.0;
    for part in PARTS {
        let corners = part.map(|c| to_world(c, turn, shift));
        for goal in PARTS {
            area += clipped_area(&corners, goal[0], goal[2]);
        }
    }
    area / BLOCK_AREA
}

#[derive(Clone, Copy)]
struct Polygon {
    len: usize,
    corners: [V2; MAX_CORNERS],
}

/// Area of the convex polygon `corners` inside the box from `lo` to `hi`.
fn clipped_area(corners: &[V2; 4], lo: V2, hi: V2) -> f64 {
    let mut poly = Polygon { len: 4, corners: [V2::default(); MAX_CORNERS] };
    poly.corners[..4].copy_from_slice(corners);
    // Signed distance into the box, one side after the other.
    poly.keep_inside(|p| p.x - lo.x);
    poly.keep_inside(|p| hi.x - p.x);
    poly.keep_inside(|p| p.y - lo.y);
    poly.keep_inside(|p| hi.y - p.y);
    let mut twice = 0.0;
    for i in 1..poly.len.saturating_sub(1) {
        let (a, b) = (poly.corners[i] - poly.corners[0], poly.corners[i + 1] - poly.corners[0]);
        twice += a.cross(b);
    }
    0.5 * twice
}

impl Polygon {
    /// Cuts off the part where `depth` is negative.
    fn keep_inside(&mut self, depth: impl Fn(V2) -> f64) {
        let old = *self;
        let inside = old.corners.iter().take(old.len).filter(|&&p| depth(p) >= 0.0).count();
        if inside == old.len {
            return;
        }
        self.len = 0;
        if inside == 0 {
            return;
        }
        for i in 0..old.len {
            let (p, q) = (old.corners[i], old.corners[(i + 1) % old.len]);
            let (dp, dq) = (depth(p), depth(q));
            if dp >= 0.0 {
                self.push(p);
            }
            if (dp >= 0.0) != (dq >= 0.0) {
                self.push(p.lerp(q, dp / (dp - dq)));
            }
        }
    }

    fn push(&mut self, p: V2) {
        if self.len < MAX_CORNERS {
            self.corners[self.len] = p;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f64, y: f64, angle: f64) -> f64 {
        coverage(v2(angle.cos(), angle.sin()), v2(x, y))
    }

    #[test]
    fn the_goal_covers_itself_and_nothing_far_away() {
        assert!((at(256.0, 256.0, GOAL_ANGLE) - 1.0).abs() < 1e-14);
        assert_eq!(at(100.0, 450.0, 0.0), 0.0);
    }

    #[test]
    fn a_shift_along_the_stem_loses_bar_width_and_stem_end() {
        // Moved by 10 px along the stem: bar keeps 120·20, stem 30·80, and the block's bar covers
        // 30·10 of the goal's stem.
        let s = std::f64::consts::FRAC_1_SQRT_2;
        let c = at(256.0 - 10.0 * s, 256.0 + 10.0 * s, GOAL_ANGLE);
        assert!((c - (2400.0 + 2400.0 + 300.0) / 6300.0).abs() < 1e-13, "{c}");
    }
}
