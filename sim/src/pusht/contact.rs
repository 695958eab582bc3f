//! Narrow phase: contact points of the disc or a wall with one rectangle of the T.
//!
//! Source: Chipmunk 7 `cpCollision.c` (CircleToPoly, SegmentToPoly, contact clipping). Contact
//! identities are Chipmunk's hashes, so that warm starting matches the same contacts.

use super::gjk::{Closest, closest};
use super::shapes::{Aabb, DISC_RADIUS, Rect, WALL_BOXES, WALL_NORMALS, WALL_RADIUS, WALLS};
use super::vec2::{V2, limit};

/// A contact in world coordinates: the points on both surfaces and the identity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touch {
    pub(crate) on_other: V2,
    pub(crate) on_block: V2,
    pub(crate) id: u64,
}

/// All contacts of one pair; `normal` points from the disc or wall into the block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touches {
    pub(crate) normal: V2,
    pub(crate) count: usize,
    pub(crate) points: [Touch; 2],
    pub(crate) seed: u32,
}

impl Touches {
    fn push(&mut self, on_other: V2, on_block: V2, id: u64) {
        self.points[self.count] = Touch { on_other, on_block, id };
        self.count += 1;
    }
}

/// Chipmunk's identity of an ordered pair.
const fn hash_pair(a: u64, b: u64) -> u64 {
    const FACTOR: u64 = 3_344_921_057;
    a.wrapping_mul(FACTOR) ^ b.wrapping_mul(FACTOR)
}

/// Disc at `centre` against a rectangle: at most one contact.
pub(crate) fn disc_rect(centre: V2, rect: &Rect, seed: u32) -> Touches {
    let near = closest(&[centre], &Aabb::around_disc(centre), rect, seed);
    let mut out = Touches { normal: near.axis, seed: near.seed, ..Touches::default() };
    if near.distance <= DISC_RADIUS {
        out.push(near.on_core + near.axis * DISC_RADIUS, near.on_rect, 0);
    }
    out
}

/// An edge with the identities of its ends.
struct Edge {
    a: V2,
    b: V2,
    a_id: u64,
    b_id: u64,
}

fn wall_edge(wall: usize, axis: V2) -> Edge {
    let [a, b] = WALLS[wall];
    let (a_id, b_id) = (hash_pair(wall as u64, 0), hash_pair(wall as u64, 1));
    if WALL_NORMALS[wall].dot(axis) > 0.0 {
        Edge { a, b, a_id, b_id }
    } else {
        Edge { a: b, b: a, a_id: b_id, b_id: a_id }
    }
}

/// The edge of the rectangle that faces `dir`: of the two at the farthest corner, the one whose
/// normal is closer to `dir`.
fn rect_edge(part: usize, rect: &Rect, dir: V2) -> Edge {
    // Shape numbers: walls 0–3, disc 4, bar 5, stem 6.
    let shape = 5 + part as u64;
    let mut best = f64::NEG_INFINITY;
    let mut far = 0;
    for (k, c) in rect.corners.iter().enumerate() {
        let d = c.dot(dir);
        if d > best {
            best = d;
            far = k;
        }
    }
    let (before, after) = ((far + 3) % 4, (far + 1) % 4);
    let (i, j) = if dir.dot(rect.normals[far]) > dir.dot(rect.normals[after]) {
        (before, far)
    } else {
        (far, after)
    };
    Edge {
        a: rect.corners[i],
        b: rect.corners[j],
        a_id: hash_pair(shape, i as u64),
        b_id: hash_pair(shape, j as u64),
    }
}

/// Wall against a rectangle: up to two contacts where the facing edges overlap.
pub(crate) fn wall_rect(wall: usize, part: usize, rect: &Rect, seed: u32) -> Touches {
    let near = closest(&WALLS[wall], &WALL_BOXES[wall], rect, seed);
    let mut out = Touches { normal: near.axis, seed: near.seed, ..Touches::default() };
    if near.distance - WALL_RADIUS <= 0.0 {
        clip(&wall_edge(wall, near.axis), &rect_edge(part, rect, -near.axis), &near, &mut out);
    }
    out
}

/// Projects the ends of each edge onto the other and keeps the pairs that overlap along the axis.
fn clip(wall: &Edge, block: &Edge, near: &Closest, out: &mut Touches) {
    let n = near.axis;
    let (wa, wb) = (wall.a.cross(n), wall.b.cross(n));
    let (ba, bb) = (block.a.cross(n), block.b.cross(n));
    let wall_inv = 1.0 / (wb - wa + f64::MIN_POSITIVE);
    let block_inv = 1.0 / (bb - ba + f64::MIN_POSITIVE);
    let on_wall = |t: f64| n * WALL_RADIUS + wall.a.lerp(wall.b, limit01(t));
    let on_block = |t: f64| block.a.lerp(block.b, limit01(t));
    let ends = [
        (on_wall((bb - wa) * wall_inv), on_block((wa - ba) * block_inv), wall.a_id, block.b_id),
        (on_wall((ba - wa) * wall_inv), on_block((wb - ba) * block_inv), wall.b_id, block.a_id),
    ];
    for (p, q, wall_id, block_id) in ends {
        if (q - p).dot(n) <= 0.0 {
            out.push(p, q, hash_pair(wall_id, block_id));
        }
    }
}

fn limit01(t: f64) -> f64 {
    limit(t, 0.0, 1.0)
}
