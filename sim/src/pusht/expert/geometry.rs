//! Planar poses and the T as two rectangles, in pixels and radians.
//!
//! A pose maps body to world: w = p + R(θ)·b; poses compose as (p, θ)·(q, φ) = (p + R(θ)·q, θ + φ).
//! Source: the shapes of gym-pusht 0.1.8 (bar 120×30, stem 30×90, origin in the middle of the bar's top).

use nalgebra::Vector2;

pub(super) type V2 = Vector2<f64>;

/// Radius of the agent's disc, px.
pub(super) const AGENT_RADIUS: f64 = 15.0;
/// Side of the square arena, px.
pub(super) const ARENA: f64 = 512.0;
/// Inner edges of the walls (centre line 5 or 506, radius 2), px.
pub(super) const WALL_LO: f64 = 7.0;
pub(super) const WALL_HI: f64 = 504.0;
/// Centre of gravity in the body frame; also the mean of the keypoints.
pub(super) const COG_Y: f64 = 45.0;
/// Bar and stem as [x0, y0, x1, y1].
pub(super) const RECTS: [[f64; 4]; 2] = [[-60.0, 0.0, 60.0, 30.0], [-15.0, 30.0, 15.0, 120.0]];
/// Convex corners of the outline, enough to test walls.
pub(super) const CORNERS: [[f64; 2]; 6] =
    [[-60.0, 0.0], [60.0, 0.0], [60.0, 30.0], [15.0, 120.0], [-15.0, 120.0], [-60.0, 30.0]];

/// One straight face of the outline: end points and outward normal.
pub(super) struct Face {
    pub(super) a: [f64; 2],
    pub(super) b: [f64; 2],
    pub(super) normal: [f64; 2],
}

/// The eight faces of the T.
pub(super) const FACES: [Face; 8] = [
    Face { a: [-60.0, 0.0], b: [60.0, 0.0], normal: [0.0, -1.0] },
    Face { a: [60.0, 0.0], b: [60.0, 30.0], normal: [1.0, 0.0] },
    Face { a: [60.0, 30.0], b: [15.0, 30.0], normal: [0.0, 1.0] },
    Face { a: [15.0, 30.0], b: [15.0, 120.0], normal: [1.0, 0.0] },
    Face { a: [15.0, 120.0], b: [-15.0, 120.0], normal: [0.0, 1.0] },
    Face { a: [-15.0, 120.0], b: [-15.0, 30.0], normal: [-1.0, 0.0] },
    Face { a: [-15.0, 30.0], b: [-60.0, 30.0], normal: [0.0, 1.0] },
    Face { a: [-60.0, 30.0], b: [-60.0, 0.0], normal: [-1.0, 0.0] },
];

/// A planar pose with its cosine and sine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pose {
    pub(super) p: V2,
    pub(super) angle: f64,
    pub(super) cos: f64,
    pub(super) sin: f64,
}

impl Pose {
    pub(super) fn new(x: f64, y: f64, angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { p: V2::new(x, y), angle, cos, sin }
    }

    pub(super) fn from_array(pose: [f64; 3]) -> Self {
        Self::new(pose[0], pose[1], pose[2])
    }

    pub(super) fn rotate(&self, b: V2) -> V2 {
        V2::new(self.cos * b.x - self.sin * b.y, self.sin * b.x + self.cos * b.y)
    }

    pub(super) fn rotate_back(&self, w: V2) -> V2 {
        V2::new(self.cos * w.x + self.sin * w.y, self.cos * w.y - self.sin * w.x)
    }

    pub(super) fn to_world(self, b: V2) -> V2 {
        self.p + self.rotate(b)
    }

    pub(super) fn to_body(self, w: V2) -> V2 {
        self.rotate_back(w - self.p)
    }

    pub(super) fn compose(&self, rel: &Self) -> Self {
        Self {
            p: self.to_world(rel.p),
            angle: self.angle + rel.angle,
            cos: self.cos * rel.cos - self.sin * rel.sin,
            sin: self.sin * rel.cos + self.cos * rel.sin,
        }
    }

    /// Linear interpolation towards a nearby pose.
    pub(super) fn lerp(&self, to: &Self, t: f64) -> Self {
        let p = self.p + (to.p - self.p) * t;
        Self::new(p.x, p.y, self.angle + (to.angle - self.angle) * t)
    }
}

/// Angle wrapped to (−π, π].
pub(super) fn wrap(angle: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    let a = angle - (angle / TAU).round() * TAU;
    if a <= -PI { a + TAU } else { a }
}

/// Unit vector of `v`, or zero.
pub(super) fn unit(v: V2) -> V2 {
    let n = v.norm();
    if n > 1e-9 { v / n } else { V2::zeros() }
}

fn rect_distance(r: &[f64; 4], q: V2) -> f64 {
    let dx = (r[0] - q.x).max(q.x - r[2]).max(0.0);
    let dy = (r[1] - q.y).max(q.y - r[3]).max(0.0);
    dx.hypot(dy)
}

/// Point of a rectangle nearest to `q` (q itself inside).
pub(super) fn rect_nearest(r: &[f64; 4], q: V2) -> V2 {
    V2::new(q.x.clamp(r[0], r[2]), q.y.clamp(r[1], r[3]))
}

fn point_segment(q: V2, a: V2, b: V2) -> f64 {
    let ab = b - a;
    let t = ((q - a).dot(&ab) / ab.norm_squared().max(1e-12)).clamp(0.0, 1.0);
    (a + ab * t - q).norm()
}

/// Distance from `q` (body frame) to the T, 0 inside.
pub(super) fn distance(q: V2) -> f64 {
    rect_distance(&RECTS[0], q).min(rect_distance(&RECTS[1], q))
}

/// Way out for a disc centre in the body frame: signed distance to the outline and outward normal.
pub(super) fn exit(q: V2) -> (f64, V2) {
    let mut best = (f64::INFINITY, V2::zeros());
    for f in &FACES {
        let (a, b) = (V2::from(f.a), V2::from(f.b));
        let d = point_segment(q, a, b);
        // Ties at corners go to the face whose normal points towards q.
        let key = d - 1e-6 * (q - a).dot(&V2::from(f.normal));
        if key < best.0 {
            best = (key, V2::from(f.normal));
        }
    }
    let d = distance(q);
    if d > 0.0 {
        let near = RECTS
            .iter()
            .map(|r| rect_nearest(r, q))
            .min_by(|a, b| (q - a).norm().total_cmp(&(q - b).norm()))
            .unwrap_or(q);
        (d, unit(q - near))
    } else {
        (-best.0.max(0.0), best.1)
    }
}

fn segment_hits_rect(r: &[f64; 4], a: V2, b: V2) -> bool {
    let d = b - a;
    let (mut t0, mut t1) = (0.0f64, 1.0f64);
    for (p, q) in [(-d.x, a.x - r[0]), (d.x, r[2] - a.x), (-d.y, a.y - r[1]), (d.y, r[3] - a.y)] {
        if p.abs() < 1e-12 {
            if q < 0.0 {
                return false;
            }
        } else if p < 0.0 {
            t0 = t0.max(q / p);
        } else {
            t1 = t1.min(q / p);
        }
    }
    t0 <= t1
}

/// Distance from a segment (body frame) to the T, 0 where it crosses.
pub(super) fn segment_distance(a: V2, b: V2) -> f64 {
    let mut best = f64::INFINITY;
    for r in &RECTS {
        if segment_hits_rect(r, a, b) {
            return 0.0;
        }
        best = best.min(rect_distance(r, a)).min(rect_distance(r, b));
        for (x, y) in [(r[0], r[1]), (r[2], r[1]), (r[2], r[3]), (r[0], r[3])] {
            best = best.min(point_segment(V2::new(x, y), a, b));
        }
    }
    best
}

/// Smallest distance of the T's corners to the inner edges of the walls (negative: overlap); 30 px
/// or more may come back as 30.
pub(super) fn wall_margin(pose: &Pose) -> f64 {
    // No corner is farther than 76.5 px from the centre of gravity.
    let c = pose.to_world(V2::new(0.0, COG_Y));
    let centre = (c.x - WALL_LO).min(c.y - WALL_LO).min(WALL_HI - c.x).min(WALL_HI - c.y);
    if centre > 76.5 + 30.0 {
        return 30.0;
    }
    let mut m = f64::INFINITY;
    for c in CORNERS {
        let w = pose.to_world(V2::from(c));
        m = m.min(w.x - WALL_LO).min(w.y - WALL_LO).min(WALL_HI - w.x).min(WALL_HI - w.y);
    }
    m
}
