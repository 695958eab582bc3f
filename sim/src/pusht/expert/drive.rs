//! The law that drives the agent along one approach and push.
//!
//! Each tick wants a velocity: along the path at a cruising speed that falls before corners, then
//! along the push line until the reach is used up. The action that brings the agent's PD controller
//! to velocity v' after one tick follows from its linear map v' = A·(p − target) + B·v, so
//! target = p − (v' − B·v)/A. The law depends on the agent's position and velocity alone.

use super::approach::Path;
use super::geometry::{ARENA, V2, unit};

/// Largest change of the wanted velocity in one tick, px/s.
const MAX_DV: f64 = 110.0;
/// Deceleration planned before corners, px/s².
const BRAKE: f64 = 500.0;
/// Push speed, px/s.
const PUSH_SPEED: f64 = 90.0;

/// A and B of the PD controller (k_p = 100, k_v = 20) over ten substeps of 0.01 s.
fn tick_map() -> (f64, f64) {
    let after = |mut p: f64, mut v: f64| {
        for _ in 0..10 {
            v += (-100.0 * p - 20.0 * v) * 0.01;
            p += v * 0.01;
        }
        v
    };
    (after(1.0, 0.0), after(0.0, 1.0))
}

/// The action that takes the agent from velocity `v` at `p` to velocity `next` in one tick.
pub(super) fn action_for(p: V2, v: V2, next: V2) -> [f64; 2] {
    let (a, b) = tick_map();
    let dv = next - v;
    let n = dv.norm();
    let next = if n > MAX_DV { v + dv * (MAX_DV / n) } else { next };
    let target = p - (next - v * b) / a;
    [target.x.clamp(0.0, ARENA), target.y.clamp(0.0, ARENA)]
}

/// One approach and push in progress.
#[derive(Clone)]
pub(super) struct Drive {
    path: Path,
    leg: usize,
    dir: V2,
    /// Distance along the push line from the pre-contact point to the stop, px.
    pub(super) reach: f64,
    cruise: f64,
}

impl Drive {
    pub(super) fn new(path: Path, dir: V2, reach: f64, cruise: f64) -> Self {
        Self { path, leg: 0, dir, reach, cruise }
    }

    /// Whether the agent has left the approach and follows the push line.
    pub(super) fn is_pushing(&self) -> bool {
        self.leg + 1 >= self.path.len
    }

    /// Whether the push has come to its end.
    pub(super) fn is_done(&self, p: V2, v: V2) -> bool {
        self.is_pushing() && {
            let left = self.reach - (p - self.path.points[self.path.len - 1]).dot(&self.dir);
            left < 1.2 && v.dot(&self.dir) < 25.0
        }
    }

    /// The next action for an agent at `p` with velocity `v`.
    pub(super) fn action(&mut self, p: V2, v: V2) -> [f64; 2] {
        let next = self.wanted(p, v);
        action_for(p, v, next)
    }

    fn direction(&self, leg: usize) -> V2 {
        if leg + 1 >= self.path.len {
            self.dir
        } else {
            unit(self.path.points[leg + 1] - self.path.points[leg])
        }
    }

    fn wanted(&mut self, p: V2, v: V2) -> V2 {
        while !self.is_pushing() {
            let corner = self.path.points[self.leg + 1];
            let (e, u) = (self.direction(self.leg), self.direction(self.leg + 1));
            // Past the corner's bisector, or as good as there.
            let left = (corner - p).dot(&e);
            if left < 3.0 || (p - corner).dot(&(e + u)) > 0.0 {
                self.leg += 1;
                continue;
            }
            let cos = e.dot(&u);
            let last = self.leg + 2 == self.path.len;
            let through = if last {
                PUSH_SPEED * (0.5 * (1.0 + cos)).max(0.35)
            } else {
                self.cruise * (0.5 * (1.0 + cos)).max(0.5)
            };
            let room = (left - 4.0).max(0.0);
            let speed = self.cruise.min((through * through + 2.0 * BRAKE * room).sqrt());
            let ahead = (0.12 * speed).clamp(6.0, 20.0);
            let aim = if left > ahead {
                corner - e * (left - ahead)
            } else if last {
                corner
            } else {
                corner + u * (ahead - left)
            };
            return unit(aim - p) * speed;
        }
        let origin = self.path.points[self.path.len - 1];
        let along = (p - origin).dot(&self.dir);
        let aside = (p - origin) - self.dir * along;
        let left = self.reach - along - 0.05 * v.dot(&self.dir);
        // The speed depends on what is left alone, so that a plan made on the way goes on likewise.
        let speed = (8.0 * left).min(25.0 + 4.0 * left).clamp(-40.0, PUSH_SPEED);
        self.dir * speed - aside * 5.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pusht::PushT;

    #[test]
    fn an_action_brings_the_wanted_velocity_in_one_tick() {
        let (p, v, next) = (V2::new(60.0, 450.0), V2::new(30.0, -80.0), V2::new(90.0, -20.0));
        let mut env = PushT::at_rest([p.x, p.y, 256.0, 200.0, 0.0]).with_agent_velocity(v.into());
        env.step(action_for(p, v, next));
        assert!((V2::from(env.agent_vel()) - next).norm() < 1e-9, "{:?}", env.agent_vel());
    }
}
