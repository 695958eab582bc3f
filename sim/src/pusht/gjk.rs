//! Closest points of a convex core and a rectangle: GJK, then EPA when they overlap.
//!
//! Both walk the boundary of the Minkowski difference (rectangle − core) towards the origin. The
//! pair of boundary points found in one substep seeds the next one, so the usual cost is a single
//! support query. Method: Gilbert, Johnson, Keerthi 1988 and van den Bergen 2001; the choices where
//! rounding matters (flip test, tie rules, seeding) are Chipmunk 7's, see NOTICE.

use super::shapes::{Aabb, Rect};
use super::vec2::{V2, limit, most};

const MAX_GJK_ROUNDS: usize = 30;
const MAX_EPA_ROUNDS: usize = 30;

/// Result: surface points of the two cores, unit axis from core to rectangle, signed distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closest {
    pub(crate) on_core: V2,
    pub(crate) on_rect: V2,
    pub(crate) axis: V2,
    pub(crate) distance: f64,
    /// Corner indices of both boundary points, one byte each; seeds the next query.
    pub(crate) seed: u32,
}

/// A corner of the Minkowski difference with the two corners that make it.
#[derive(Clone, Copy, Default)]
struct Corner {
    core: V2,
    rect: V2,
    diff: V2,
    id: u32,
}

struct Pair<'a, const N: usize> {
    core: &'a [V2; N],
    rect: &'a Rect,
}

impl<const N: usize> Pair<'_, N> {
    fn corner(&self, i: usize, j: usize) -> Corner {
        let (core, rect) = (self.core[i], self.rect.corners[j]);
        Corner { core, rect, diff: rect - core, id: ((i as u32) << 8) | j as u32 }
    }

    /// The corner of the difference that lies farthest along `dir`.
    fn support(&self, dir: V2) -> Corner {
        let back = -dir;
        // Of two equal ends the second one counts, as for Chipmunk's segments.
        let i = if N == 2 && self.core[0].dot(back) <= self.core[1].dot(back) { 1 } else { 0 };
        let mut best = f64::NEG_INFINITY;
        let mut j = 0;
        for (k, c) in self.rect.corners.iter().enumerate() {
            let d = c.dot(dir);
            if d > best {
                best = d;
                j = k;
            }
        }
        self.corner(i, j)
    }
}

/// Whether `c` lies to the left of the line from `a` to `b`.
fn left_of(a: V2, b: V2, c: V2) -> bool {
    (b.y - a.y) * (a.x + b.x - 2.0 * c.x) > (b.x - a.x) * (a.y + b.y - 2.0 * c.y)
}

/// Parameter in [−1, 1] of the point of segment `a`–`b` that is nearest to the origin.
fn nearest_t(a: V2, b: V2) -> f64 {
    let delta = b - a;
    let d2 = delta.norm_sq();
    if d2 != 0.0 { -limit(delta.dot(a + b) / d2, -1.0, 1.0) } else { 0.0 }
}

fn at_t(a: V2, b: V2, t: f64) -> V2 {
    let half = 0.5 * t;
    a * (0.5 - half) + b * (0.5 + half)
}

fn nearest_sq(a: V2, b: V2) -> f64 {
    at_t(a, b, nearest_t(a, b)).norm_sq()
}

fn finish(a: &Corner, b: &Corner) -> Closest {
    let t = nearest_t(a.diff, b.diff);
    let p = at_t(a.diff, b.diff, t);
    let on_core = at_t(a.core, b.core, t);
    let on_rect = at_t(a.rect, b.rect, t);
    let seed = ((a.id & 0xFFFF) << 16) | (b.id & 0xFFFF);
    let axis = (b.diff - a.diff).perp_neg().unit();
    let distance = axis.dot(p);
    if distance <= 0.0 || (-1.0 < t && t < 1.0) {
        Closest { on_core, on_rect, axis, distance, seed }
    } else {
        // Corner against corner: the axis joins the corners.
        let distance = p.norm();
        let axis = p * (1.0 / (distance + f64::MIN_POSITIVE));
        Closest { on_core, on_rect, axis, distance, seed }
    }
}

/// Closest points of `core` (one point or a segment, inside `core_box`) and `rect`. `seed` is the
/// result's seed of the substep before, or 0.
pub(crate) fn closest<const N: usize>(
    core: &[V2; N],
    core_box: &Aabb,
    rect: &Rect,
    seed: u32,
) -> Closest {
    let pair = Pair { core, rect };
    let (mut a, mut b) = if seed != 0 {
        let byte = |shift: u32| ((seed >> shift) & 0xFF) as usize;
        (pair.corner(byte(24), byte(16)), pair.corner(byte(8), byte(0)))
    } else {
        let axis = (core_box.centre() - rect.aabb.centre()).perp();
        (pair.support(axis), pair.support(-axis))
    };
    let origin = V2::default();
    for _ in 0..MAX_GJK_ROUNDS {
        if left_of(b.diff, a.diff, origin) {
            std::mem::swap(&mut a, &mut b);
        }
        let t = nearest_t(a.diff, b.diff);
        let dir =
            if -1.0 < t && t < 1.0 { (b.diff - a.diff).perp() } else { -at_t(a.diff, b.diff, t) };
        let p = pair.support(dir);
        if left_of(p.diff, a.diff, origin) && left_of(b.diff, p.diff, origin) {
            return expand(&pair, &[a, p, b]);
        }
        if p.diff.dot(dir) <= most(a.diff.dot(dir), b.diff.dot(dir)) {
            break;
        }
        if nearest_sq(a.diff, p.diff) < nearest_sq(p.diff, b.diff) {
            b = p;
        } else {
            a = p;
        }
    }
    finish(&a, &b)
}

/// EPA: grows a hull around the origin until the edge nearest to it is an edge of the difference.
#[cold]
fn expand<const N: usize>(pair: &Pair<'_, N>, triangle: &[Corner; 3]) -> Closest {
    let mut hull = [Corner::default(); MAX_EPA_ROUNDS + 3];
    hull[..3].copy_from_slice(triangle);
    let mut count = 3;
    for round in 1..=MAX_EPA_ROUNDS {
        let mut edge = 0;
        let mut best = f64::INFINITY;
        let mut i = count - 1;
        for j in 0..count {
            let d = nearest_sq(hull[i].diff, hull[j].diff);
            if d < best {
                best = d;
                edge = i;
            }
            i = j;
        }
        let (a, b) = (hull[edge], hull[(edge + 1) % count]);
        let p = pair.support((b.diff - a.diff).perp());
        let known = p.id == a.id || p.id == b.id;
        if known || !left_of(a.diff, b.diff, p.diff) || round == MAX_EPA_ROUNDS {
            return finish(&a, &b);
        }
        let mut grown = [Corner::default(); MAX_EPA_ROUNDS + 3];
        grown[0] = p;
        let mut kept = 1;
        for i in 0..count {
            let this = hull[(edge + 1 + i) % count];
            let next = if i + 1 < count { hull[(edge + 2 + i) % count] } else { p };
            if left_of(grown[kept - 1].diff, next.diff, this.diff) {
                grown[kept] = this;
                kept += 1;
            }
        }
        hull = grown;
        count = kept;
    }
    finish(&triangle[0], &triangle[2])
}

#[cfg(test)]
mod tests {
    use super::super::vec2::v2;
    use super::*;

    fn disc_box(c: V2) -> Aabb {
        Aabb::around_disc(c)
    }

    #[test]
    fn distance_to_an_upright_bar() {
        let rect = Rect::place(0, v2(1.0, 0.0), v2(100.0, 100.0));
        // Beside, at a corner and inside the rectangle [40, 160] × [100, 130].
        for (c, d, axis) in [
            (v2(100.0, 140.0), 10.0, v2(0.0, -1.0)),
            (v2(163.0, 134.0), 5.0, v2(-0.6, -0.8)),
            (v2(100.0, 128.0), -2.0, v2(0.0, -1.0)),
        ] {
            let hit = closest(&[c], &disc_box(c), &rect, 0);
            assert!((hit.distance - d).abs() < 1e-12, "{hit:?}");
            assert!((hit.axis - axis).norm() < 1e-12, "{hit:?}");
            let again = closest(&[c], &disc_box(c), &rect, hit.seed);
            assert!((again.distance - d).abs() < 1e-12, "{again:?}");
        }
    }
}
