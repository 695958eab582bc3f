//! The shapes of PushT: one disc, the two rectangles of the T, four walls.
//!
//! Source: gym-pusht 0.1.8 `add_tee`, `add_circle` and `_setup` for the sizes; pymunk re-hulls the
//! vertices, which gives the order used here. Lengths are pixels.

use super::vec2::{V2, least, most, v2};

/// Radius of the agent's disc.
pub(crate) const DISC_RADIUS: f64 = 15.0;
/// Half thickness of a wall.
pub(crate) const WALL_RADIUS: f64 = 2.0;
/// Area of the T: 120·30 + 30·90.
pub(crate) const BLOCK_AREA: f64 = 6300.0;
/// Centre of gravity of the T in its own frame, whose origin is the middle of the bar's top.
pub(crate) const BLOCK_COG: V2 = v2(0.0, 45.0);

/// Shapes that move. The order is the one in which Chipmunk's hash set visits them.
pub(crate) const BAR: usize = 0;
pub(crate) const STEM: usize = 1;
pub(crate) const DISC: usize = 2;
/// Index of the first of the four walls in the common numbering of shapes.
pub(crate) const WALL0: usize = 3;

/// Corners of the bar and the stem in the T's frame, counter-clockwise for Chipmunk (y up).
pub(crate) const PARTS: [[V2; 4]; 2] = [
    [v2(-60.0, 0.0), v2(60.0, 0.0), v2(60.0, 30.0), v2(-60.0, 30.0)],
    [v2(-15.0, 30.0), v2(15.0, 30.0), v2(15.0, 120.0), v2(-15.0, 120.0)],
];

/// Outward normal of the edge that ends in corner i; the same for both rectangles.
const EDGE_NORMALS: [V2; 4] = [v2(-1.0, 0.0), v2(0.0, -1.0), v2(1.0, 0.0), v2(0.0, 1.0)];

/// Centre lines of the walls in the order in which gym-pusht adds them.
pub(crate) const WALLS: [[V2; 2]; 4] = [
    [v2(5.0, 506.0), v2(5.0, 5.0)],
    [v2(5.0, 5.0), v2(506.0, 5.0)],
    [v2(506.0, 5.0), v2(506.0, 506.0)],
    [v2(5.0, 506.0), v2(506.0, 506.0)],
];

/// Normals of the centre lines, Chipmunk's side.
pub(crate) const WALL_NORMALS: [V2; 4] =
    [v2(-1.0, 0.0), v2(0.0, -1.0), v2(1.0, 0.0), v2(0.0, -1.0)];

/// Boxes around the walls.
pub(crate) const WALL_BOXES: [Aabb; 4] = [
    Aabb { l: 3.0, b: 3.0, r: 7.0, t: 508.0 },
    Aabb { l: 3.0, b: 3.0, r: 508.0, t: 7.0 },
    Aabb { l: 504.0, b: 3.0, r: 508.0, t: 508.0 },
    Aabb { l: 3.0, b: 504.0, r: 508.0, t: 508.0 },
];

/// An axis-aligned box: left, bottom, right, top.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Aabb {
    pub(crate) l: f64,
    pub(crate) b: f64,
    pub(crate) r: f64,
    pub(crate) t: f64,
}

impl Aabb {
    pub(crate) fn around_disc(c: V2) -> Aabb {
        let h = DISC_RADIUS;
        Aabb { l: c.x - h, b: c.y - h, r: c.x + h, t: c.y + h }
    }

    pub(crate) fn meets(&self, o: &Aabb) -> bool {
        self.l <= o.r && o.l <= self.r && self.b <= o.t && o.b <= self.t
    }

    pub(crate) fn contains(&self, o: &Aabb) -> bool {
        self.l <= o.l && self.r >= o.r && self.b <= o.b && self.t >= o.t
    }

    pub(crate) fn merge(&self, o: &Aabb) -> Aabb {
        Aabb {
            l: least(self.l, o.l),
            b: least(self.b, o.b),
            r: most(self.r, o.r),
            t: most(self.t, o.t),
        }
    }

    pub(crate) fn area(&self) -> f64 {
        (self.r - self.l) * (self.t - self.b)
    }

    pub(crate) fn centre(&self) -> V2 {
        v2(self.l, self.b).lerp(v2(self.r, self.t), 0.5)
    }

    /// Manhattan distance of the doubled centres.
    pub(crate) fn proximity(&self, o: &Aabb) -> f64 {
        (self.l + self.r - o.l - o.r).abs() + (self.b + self.t - o.b - o.t).abs()
    }
}

/// One rectangle of the T in the world.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rect {
    pub(crate) corners: [V2; 4],
    pub(crate) normals: [V2; 4],
    pub(crate) aabb: Aabb,
}

impl Rect {
    /// The rectangle `part` turned by the unit complex number `rot` and moved by `origin`.
    pub(crate) fn place(part: usize, rot: V2, origin: V2) -> Rect {
        let mut corners = PARTS[part];
        let mut normals = EDGE_NORMALS;
        let mut aabb =
            Aabb { l: f64::INFINITY, b: f64::INFINITY, r: f64::NEG_INFINITY, t: f64::NEG_INFINITY };
        for c in &mut corners {
            *c = to_world(*c, rot, origin);
            aabb.l = least(aabb.l, c.x);
            aabb.r = most(aabb.r, c.x);
            aabb.b = least(aabb.b, c.y);
            aabb.t = most(aabb.t, c.y);
        }
        for n in &mut normals {
            *n = v2(rot.x * n.x - rot.y * n.y, rot.y * n.x + rot.x * n.y);
        }
        Rect { corners, normals, aabb }
    }
}

/// A point of the body frame in the world.
pub(crate) fn to_world(p: V2, rot: V2, origin: V2) -> V2 {
    v2(rot.x * p.x - rot.y * p.y + origin.x, rot.y * p.x + rot.x * p.y + origin.y)
}
