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
    /// (gym's box is 0 to 512, which is not enforced, as there). A non-finite action leaves the
    /// agent without a finite position; check actions before.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::FRAC_PI_4;

    /// Planners clone in the inner loop and evaluation spreads episodes over threads.
    #[test]
    fn an_environment_is_small_and_moves_between_threads() {
        fn sendable<T: Send + Sync + 'static>() -> usize {
            size_of::<T>()
        }
        assert!(sendable::<PushT>() < 3000, "{}", sendable::<PushT>());
    }

    #[test]
    fn at_rest_is_the_pose_itself_and_from_state_turns_about_the_centre() {
        let asked = [100.0, 110.0, 300.0, 200.0, 2.0];
        let (rest, gym) = (PushT::at_rest(asked).state(), PushT::from_state(asked).state());
        for (a, b) in rest.iter().zip(asked) {
            assert!((a - b).abs() < 1e-12);
        }
        // Position first: the centre of gravity, 45 px along the stem, stays where angle 0 put it.
        let (x, y) = (300.0 + 45.0 * asked[4].sin(), 245.0 - 45.0 * asked[4].cos());
        assert!((gym[2] - x).abs() < 1e-12 && (gym[3] - y).abs() < 1e-12);
    }

    #[test]
    fn a_clone_replays_the_same_future() {
        let mut env = PushT::at_rest([330.0, 256.0, 256.0, 256.0, 0.3]);
        env.step([280.0, 256.0]);
        let mut twin = env.clone();
        for k in 0..40 {
            let target = [280.0 - 3.0 * f64::from(k), 256.0];
            assert_eq!(env.step(target), twin.step(target));
        }
        assert_eq!(env.state(), twin.state());
        assert!(env.block_pose()[0] < 250.0);
    }

    #[test]
    fn wild_actions_do_not_panic() {
        for target in [[f64::NAN, 0.0], [f64::INFINITY, 1.0], [1e308, -1e308], [1e12, 1e12]] {
            let mut env = PushT::reset(3);
            for _ in 0..5 {
                let outcome = env.step(target);
                assert!((0.0..=1.0 + 1e-12).contains(&outcome.coverage), "{target:?}");
            }
        }
    }

    /// Reflection about the axis of the goal T maps an episode onto another one. The axis runs
    /// through the goal's origin at π/4 + π/2.
    #[test]
    fn the_mirror_image_of_an_episode_is_an_episode() {
        let mirror = |[x, y]: [f64; 2]| [512.0 - y, 512.0 - x];
        let start = [340.0, 300.0, 250.0, 240.0, 0.5];
        let [[ax, ay], [bx, by]] = [mirror([start[0], start[1]]), mirror([start[2], start[3]])];
        let mut a = PushT::at_rest(start);
        let mut b = PushT::at_rest([ax, ay, bx, by, 2.0 * FRAC_PI_4 - start[4]]);
        for k in 0..30 {
            let target = [340.0 - 4.0 * f64::from(k), 300.0 - f64::from(k)];
            let (x, y) = (a.step(target), b.step(mirror(target)));
            assert!((x.coverage - y.coverage).abs() < 1e-9, "step {k}");
        }
        let (pa, pb) = (a.block_pose(), b.block_pose());
        let [mx, my] = mirror([pa[0], pa[1]]);
        assert!((mx - pb[0]).abs() < 1e-9 && (my - pb[1]).abs() < 1e-9, "{pa:?} {pb:?}");
        assert!((pa[2] + pb[2] - 2.0 * FRAC_PI_4).abs() < 1e-9);
        assert!((pa[2] - start[4]).abs() > 0.1 && !a.wall_touched());
    }
}
