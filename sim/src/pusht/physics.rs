//! The PushT world: a kinematic disc, the T, four walls, advanced by `space.step(0.01)`.
//!
//! Semi-implicit Euler with impulses: positions move by the velocities of the last substep,
//! contacts are found at the new pose, the block's velocity is set to zero (damping 0 makes it
//! quasi-static), then ten rounds of the contact solver give it a new one.
//! Source: Chipmunk 7 `cpSpaceStep.c` and `cpBody.c`, as built into pymunk 6.11.1.

use super::broadphase::BroadPhase;
use super::contact::{disc_rect, wall_rect};
use super::shapes::{Aabb, BAR, BLOCK_COG, DISC, Rect, STEM, WALL_BOXES, WALL0, to_world};
use super::solver::{AT_REST, Arbiter, Motion};
use super::vec2::{V2, v2};

/// Length of a substep in seconds.
pub(crate) const DT_SECS: f64 = 0.01;
/// Chipmunk's collision slop in pixels: a float32 literal, which decides parity beyond 1e-7.
pub(crate) const COLLISION_SLOP: f64 = 0.1_f32 as f64;
const ROUNDS: usize = 10;
/// Pairs of a block part with the disc or a wall.
const PAIRS: usize = 10;

/// All state of the simulation. No heap: a clone is a copy of about 2 kB.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) agent: V2,
    pub(crate) agent_velocity: V2,
    /// Centre of gravity of the block.
    centre: V2,
    pub(crate) angle: f64,
    /// Cosine and sine of `angle`, and the position of the body's origin.
    pub(crate) rot: V2,
    pub(crate) origin: V2,
    motion: Motion,
    broad: BroadPhase,
    arbiters: [Arbiter; PAIRS],
    /// Arbiters that touched in the last substep, in the order of solving.
    active: [u8; PAIRS],
    active_len: usize,
    tick: u64,
    pub(crate) wall_touched: bool,
    pub(crate) collision_slop: f64,
}

impl World {
    /// The space after gym-pusht's `_setup`.
    pub(crate) fn new() -> Self {
        let rot = v2(1.0, 0.0);
        let (agent, origin) = (v2(256.0, 400.0), v2(256.0, 300.0));
        let boxes = [
            Rect::place(BAR, rot, origin).aabb,
            Rect::place(STEM, rot, origin).aabb,
            Aabb::around_disc(agent),
        ];
        World {
            agent,
            agent_velocity: V2::default(),
            centre: BLOCK_COG + origin,
            angle: 0.0,
            rot,
            origin,
            motion: AT_REST,
            broad: BroadPhase::new(&boxes),
            arbiters: [Arbiter::default(); PAIRS],
            active: [0; PAIRS],
            active_len: 0,
            tick: 0,
            wall_touched: false,
            collision_slop: COLLISION_SLOP,
        }
    }

    /// Moves the block's origin to `p` at the present angle.
    pub(crate) fn set_position(&mut self, p: V2) {
        self.centre = to_world(BLOCK_COG, self.rot, V2::default()) + p;
        self.place();
    }

    /// Turns the block about its centre of gravity.
    pub(crate) fn set_angle(&mut self, angle: f64) {
        self.angle = angle;
        self.place();
    }

    fn place(&mut self) {
        self.rot = v2(self.angle.cos(), self.angle.sin());
        let (r, c) = (self.rot, BLOCK_COG);
        self.origin =
            v2(self.centre.x - (c.x * r.x - c.y * r.y), self.centre.y - (c.x * r.y + c.y * r.x));
    }

    /// One substep; `agent_velocity` has been set by the caller.
    pub(crate) fn step(&mut self) {
        self.tick += 1;
        for &i in &self.active[..self.active_len] {
            self.arbiters[i as usize].settle();
        }
        self.active_len = 0;
        self.move_bodies();
        self.find_contacts();
        self.solve_contacts();
    }

    fn move_bodies(&mut self) {
        self.agent = self.agent + self.agent_velocity * DT_SECS;
        let m = &mut self.motion;
        self.centre = self.centre + (m.v + m.v_bias) * DT_SECS;
        self.angle += (m.w + m.w_bias) * DT_SECS;
        m.v_bias = V2::default();
        m.w_bias = 0.0;
        self.place();
    }

    fn find_contacts(&mut self) {
        let parts =
            [Rect::place(BAR, self.rot, self.origin), Rect::place(STEM, self.rot, self.origin)];
        let disc = Aabb::around_disc(self.agent);
        self.broad.update(BAR, &parts[BAR].aabb, self.motion.v);
        self.broad.update(STEM, &parts[STEM].aabb, self.motion.v);
        self.broad.update(DISC, &disc, self.agent_velocity);

        let (agent, centre, tick) = (self.agent, self.centre, self.tick);
        let (arbiters, active, len) = (&mut self.arbiters, &mut self.active, &mut self.active_len);
        let wall_touched = &mut self.wall_touched;
        self.broad.each_pair(|a, b, seed| {
            let (part, other) = if a == DISC { (b, a) } else { (a, b) };
            let rect = &parts[part];
            let (touches, at) = if other == DISC {
                if !rect.aabb.meets(&disc) {
                    return seed;
                }
                (disc_rect(agent, rect, seed), agent)
            } else {
                let wall = other - WALL0;
                if !rect.aabb.meets(&WALL_BOXES[wall]) {
                    return seed;
                }
                (wall_rect(wall, part, rect, seed), V2::default())
            };
            if touches.count > 0 {
                let i = part * (PAIRS / 2) + other - DISC;
                arbiters[i].refresh(&touches, at, centre, tick);
                active[*len] = i as u8;
                *len += 1;
                *wall_touched |= other != DISC;
            }
            touches.seed
        });
    }

    fn solve_contacts(&mut self) {
        for arbiter in &mut self.arbiters {
            arbiter.age(self.tick);
        }
        let active = &self.active[..self.active_len];
        // Position and velocity of the other body: the disc's slot comes first in each half.
        let other = |i: u8| {
            if (i as usize).is_multiple_of(PAIRS / 2) {
                (self.agent, self.agent_velocity)
            } else {
                (V2::default(), V2::default())
            }
        };
        for &i in active {
            let delta = self.centre - other(i).0;
            self.arbiters[i as usize].prepare(delta, self.collision_slop, DT_SECS);
        }
        let block = &mut self.motion;
        block.v = V2::default();
        block.w = 0.0;
        for &i in active {
            self.arbiters[i as usize].warm_start(block);
        }
        for _ in 0..ROUNDS {
            let mut changed = false;
            for &i in active {
                changed |= self.arbiters[i as usize].solve(block, other(i).1);
            }
            if !changed {
                break;
            }
        }
    }
}
