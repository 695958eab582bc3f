//! The push primitives, tabulated with a quasi-static model of the frictionless T.
//!
//! The block has no memory of velocity (damping 0) and no friction, so a push depends on the path of
//! the disc alone, and in the body frame it is the same for every pose away from the walls. A table
//! of relative poses per contact point and direction thus replaces rollouts while planning.
//! A penetration δ with normal n and arm r moves the block by λn and turns it by λ(r×n)/I with
//! λ·(1/m + (r×n)²/I) = δ (m = 1, I = 3000). Source: rigid-body impulse, Munk2D's effective mass.

use super::geometry::{
    AGENT_RADIUS, COG_Y, FACES, Pose, RECTS, V2, distance, rect_nearest, segment_distance,
};

const INERTIA: f64 = 3000.0;
/// Distance between rows of a push table, px of disc travel after the touch.
pub(super) const ROW_PX: f64 = 3.0;
const MAX_ROWS: usize = 80;
const FINE_PX: f64 = 0.5;
/// Free travel between the pre-contact pose and the touch, px.
pub(super) const STANDOFF: f64 = 10.0;

/// One push: where the disc touches, along which direction, and what the block does.
pub(super) struct Prim {
    /// Disc centre at the touch, body frame.
    pub(super) touch: V2,
    /// Disc centre before the free travel, body frame.
    pub(super) pre: V2,
    /// Unit push direction, body frame.
    pub(super) dir: V2,
    /// Pose of the block after (k + 1)·ROW_PX of travel, relative to the pose before.
    pub(super) rows: Vec<Pose>,
}

impl Prim {
    /// Relative pose after `travel` px, linear between rows.
    pub(super) fn at(&self, travel: f64) -> Pose {
        let x = (travel / ROW_PX).clamp(0.0, self.rows.len() as f64);
        let k = (x.floor() as usize).min(self.rows.len().saturating_sub(1));
        let before = if k == 0 { Pose::new(0.0, 0.0, 0.0) } else { self.rows[k - 1] };
        match self.rows.get(k) {
            Some(after) => before.lerp(after, x - k as f64),
            None => before,
        }
    }
}

/// A push at a disc centre and direction, or None where the disc cannot get there.
pub(super) fn prim(touch: V2, dir: V2) -> Option<Prim> {
    let pre = touch - dir * STANDOFF;
    if distance(pre) < AGENT_RADIUS + 2.0 || segment_distance(pre, touch) < AGENT_RADIUS - 0.05 {
        return None;
    }
    let mut rows = Vec::with_capacity(MAX_ROWS);
    let mut block = Pose::new(0.0, 0.0, 0.0);
    let per_row = (ROW_PX / FINE_PX) as usize;
    let mut still = 0;
    for k in 1..=MAX_ROWS * per_row {
        let disc = touch + dir * (k as f64 * FINE_PX);
        let moved = advance(&mut block, disc);
        still = if moved { 0 } else { still + 1 };
        if still > per_row {
            break;
        }
        if k % per_row == 0 {
            rows.push(block);
        }
    }
    if rows.len() < 2 { None } else { Some(Prim { touch, pre, dir, rows }) }
}

/// Moves the block out of the disc; false where they do not touch.
pub(super) fn advance(block: &mut Pose, disc: V2) -> bool {
    let mut moved = false;
    // Two rectangles can touch at the inner corner: a few sweeps let both constraints settle.
    for _ in 0..6 {
        let mut worst = 0.0f64;
        for r in &RECTS {
            let q = block.to_body(disc);
            let near = rect_nearest(r, q);
            let gap = (q - near).norm();
            if !(1e-9..AGENT_RADIUS).contains(&gap) {
                continue;
            }
            let pen = AGENT_RADIUS - gap;
            let n = block.rotate((q - near) / gap);
            let cog = block.to_world(V2::new(0.0, COG_Y));
            let arm = block.to_world(near) - cog;
            let turn = arm.x * n.y - arm.y * n.x;
            let lambda = pen / (1.0 + turn * turn / INERTIA);
            let cog = cog - n * lambda;
            let angle = block.angle - lambda * turn / INERTIA;
            let (sin, cos) = angle.sin_cos();
            let offset = V2::new(-sin * COG_Y, cos * COG_Y);
            *block = Pose { p: cog - offset, angle, cos, sin };
            worst = worst.max(pen);
            moved = true;
        }
        if worst < 1e-3 {
            break;
        }
    }
    moved
}

/// All primitives: contact points `spacing_px` apart on every face, each with `angles` (rad) about
/// the inward normal.
pub(super) fn primitives(spacing_px: f64, angles: &[f64]) -> Vec<Prim> {
    let mut out = Vec::new();
    for face in &FACES {
        let (a, b, n) = (V2::from(face.a), V2::from(face.b), V2::from(face.normal));
        let len = (b - a).norm();
        let count = ((len - 4.0) / spacing_px).floor().max(1.0) as usize;
        for i in 0..=count {
            let s = 2.0 + (len - 4.0) * i as f64 / count as f64;
            let touch = a + (b - a) * (s / len) + n * AGENT_RADIUS;
            // Next to the inner corner the disc would touch the other rectangle first.
            if distance(touch) < AGENT_RADIUS - 1e-6 {
                continue;
            }
            for &angle in angles {
                let inward = Pose::new(0.0, 0.0, angle).rotate(-n);
                out.extend(prim(touch, inward));
            }
        }
    }
    out
}
