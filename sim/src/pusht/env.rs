//! The PushT environment: resets, control steps, observations, reward.
//!
//! One control step is ten substeps. Before each, the PD law a = 100·(target − p) − 20·v gives the
//! disc's velocity (critically damped, ω = 10/s). Reward = min(coverage/0.95, 1); success is
//! coverage > 0.95. Source: gym-pusht 0.1.8 `PushTEnv`. Lengths are pixels, angles radians.

use super::coverage::{GOAL_ANGLE, GOAL_ORIGIN, coverage};
use super::numpy_rng::NumpyRng;
use super::physics::{DT_SECS, World};
use super::shapes::{PARTS, to_world};
use super::vec2::{V2, v2};
use std::f64::consts::{PI, TAU};

const SUBSTEPS: usize = 10;
const GAIN_P: f64 = 100.0;
const GAIN_V: f64 = 20.0;
const SUCCESS_COVERAGE: f64 = 0.95;

/// What one control step returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// min(coverage / 0.95, 1).
    pub reward: f64,
    /// Share of the goal that the block covers, 0 to 1.
    pub coverage: f64,
    /// Whether the coverage exceeds 0.95; gym-pusht ends the episode then.
    pub is_success: bool,
}

/// A PushT episode: physics and task of gym-pusht 0.1.8. A clone copies about 2 kB and allocates
/// nothing, so planners roll out clones; the type is `Send`, so environments run on threads.
#[derive(Clone, Debug)]
pub struct PushT {
    world: World,
}

impl PushT {
    /// Control steps after which gym's time limit cuts an episode.
    pub const MAX_STEPS: usize = 300;
    /// Goal pose [x, y, angle] of the block's body origin.
    pub const GOAL_POSE: [f64; 3] = [GOAL_ORIGIN.x, GOAL_ORIGIN.y, GOAL_ANGLE];
    /// Control steps per second.
    pub const CONTROL_HZ: f64 = 10.0;

    /// The same start as `env.reset(seed=seed)` of gym-pusht, to the last bit.
    pub fn reset(seed: u64) -> Self {
        let mut rng = NumpyRng::new(seed);
        let mut state = [0.0; 5];
        for (value, (low, high)) in
            state.iter_mut().zip([(50, 450), (50, 450), (100, 400), (100, 400)])
        {
            *value = f64::from(rng.integers(low, high));
        }
        state[4] = rng.uniform(-PI, PI);
        Self::from_state(state)
    }

    /// As gym-pusht's `reset_to_state` with [agent x, agent y, block x, block y, block angle]:
    /// position first, then the angle about the centre of gravity, then one substep. The block's
    /// position therefore differs from the one asked for; see [`PushT::at_rest`].
    pub fn from_state(state: [f64; 5]) -> Self {
        let mut world = World::new();
        world.agent = v2(state[0], state[1]);
        world.set_position(v2(state[2], state[3]));
        world.set_angle(state[4]);
        world.step();
        PushT { world }
    }

    /// Exactly the pose `state` (order of [`PushT::state`]), all velocities zero and no substep
    /// taken: for planning.
    pub fn at_rest(state: [f64; 5]) -> Self {
        let mut world = World::new();
        world.agent = v2(state[0], state[1]);
        world.set_angle(state[4]);
        world.set_position(v2(state[2], state[3]));
        PushT { world }
    }

    /// The same world with the agent moving at `velocity` (px/s).
    #[must_use]
    pub fn with_agent_velocity(mut self, velocity: [f64; 2]) -> Self {
        self.world.agent_velocity = v2(velocity[0], velocity[1]);
        self
    }

    /// The same world with another collision slop (px; Chipmunk's is 0.1 as float32). It exists so
    /// that the parity test can show that it notices a wrong one.
    #[doc(hidden)]
    #[must_use]
    pub fn with_collision_slop(mut self, slop: f64) -> Self {
        self.world.collision_slop = slop;
        self
    }

    /// One control step (0.1 s): the agent is driven towards `action`, an absolute position in px
    /// (gym's box is 0 to 512). `action` must be finite.
    pub fn step(&mut self, action: [f64; 2]) -> Outcome {
        let target = v2(action[0], action[1]);
        for _ in 0..SUBSTEPS {
            let w = &mut self.world;
            let acceleration =
                (target - w.agent) * GAIN_P + (V2::default() - w.agent_velocity) * GAIN_V;
            w.agent_velocity = w.agent_velocity + acceleration * DT_SECS;
            w.step();
        }
        let coverage = self.coverage();
        Outcome {
            reward: (coverage / SUCCESS_COVERAGE).clamp(0.0, 1.0),
            coverage,
            is_success: coverage > SUCCESS_COVERAGE,
        }
    }

    /// [agent x, agent y, block x, block y, block angle]; the angle is in 0..2π as in gym-pusht,
    /// the block's position is its body origin (middle of the bar's top).
    pub fn state(&self) -> [f64; 5] {
        let w = &self.world;
        [w.agent.x, w.agent.y, w.origin.x, w.origin.y, w.angle.rem_euclid(TAU)]
    }

    /// The agent's position in px: LeRobot's `observation.state`.
    pub fn agent_pos(&self) -> [f64; 2] {
        [self.world.agent.x, self.world.agent.y]
    }

    /// The agent's velocity in px/s.
    pub fn agent_vel(&self) -> [f64; 2] {
        [self.world.agent_velocity.x, self.world.agent_velocity.y]
    }

    /// [x, y, angle] of the block's body origin; the angle is not wrapped.
    pub fn block_pose(&self) -> [f64; 3] {
        [self.world.origin.x, self.world.origin.y, self.world.angle]
    }

    /// The T's eight corners x0, y0, x1, y1, … in px (bar, then stem): LeRobot's
    /// `observation.environment_state`.
    pub fn keypoints(&self) -> [f64; 16] {
        let mut out = [0.0; 16];
        for (pair, corner) in out.chunks_exact_mut(2).zip(PARTS.iter().flatten()) {
            let p = to_world(*corner, self.world.rot, self.world.origin);
            pair.copy_from_slice(&[p.x, p.y]);
        }
        out
    }

    /// Share of the goal that the block covers, 0 to 1.
    pub fn coverage(&self) -> f64 {
        coverage(self.world.rot, self.world.origin)
    }

    /// Whether the block has touched a wall since the start of the episode.
    pub fn wall_touched(&self) -> bool {
        self.world.wall_touched
    }
}
