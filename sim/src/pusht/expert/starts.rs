//! Starts off the expert's own path, for recovery data.

use super::super::env::PushT;
use super::cost::GOAL;
use super::drive::action_for;
use super::geometry::{AGENT_RADIUS, FACES, Pose, V2, distance, wall_margin};
use super::planner::{Expert, ExpertConfig};
use super::realise::agent;

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing starts.
struct Draw(u64);

impl Draw {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.unit()
    }
}

/// A start for recovery data, the same for the same seed.
///
/// Two in three are near the goal: block within 60 px and 0.7 rad, agent anywhere outside the T,
/// often touching it, moving in any direction. The others are taken from the middle of an episode,
/// after a few random actions.
pub fn perturbed(seed: u64) -> PushT {
    let mut draw = Draw(seed ^ 0x7075_7368_7400);
    if draw.unit() < 2.0 / 3.0 { near_goal(&mut draw) } else { mid_task(&mut draw, seed) }
}

fn near_goal(draw: &mut Draw) -> PushT {
    let reach = draw.unit();
    let (radius, turn) = (60.0 * reach * draw.unit().sqrt(), draw.between(-0.7, 0.7) * reach);
    let at = draw.between(0.0, std::f64::consts::TAU);
    let pose = Pose::new(GOAL[0] + radius * at.cos(), GOAL[1] + radius * at.sin(), GOAL[2] + turn);
    let touches = draw.unit() < 0.4;
    let mut p = V2::new(30.0, 30.0);
    for _ in 0..64 {
        p = if touches {
            let face = &FACES[(draw.unit() * 8.0) as usize % 8];
            let (a, b) = (V2::from(face.a), V2::from(face.b));
            let gap = AGENT_RADIUS + draw.between(0.0, 4.0);
            pose.to_world(a + (b - a) * draw.unit() + V2::from(face.normal) * gap)
        } else {
            V2::new(draw.between(20.0, 492.0), draw.between(20.0, 492.0))
        };
        if distance(pose.to_body(p)) >= AGENT_RADIUS {
            break;
        }
    }
    let (speed, at) = (draw.between(0.0, 160.0), draw.between(0.0, std::f64::consts::TAU));
    PushT::at_rest([p.x, p.y, pose.p.x, pose.p.y, pose.angle])
        .with_agent_velocity([speed * at.cos(), speed * at.sin()])
}

fn mid_task(draw: &mut Draw, seed: u64) -> PushT {
    let mut env = PushT::reset(seed ^ 0x6d69_6400_0000);
    let mut expert = Expert::new(ExpertConfig::bulk());
    let ticks = draw.between(0.0, 60.0) as usize;
    for _ in 0..ticks {
        let before = env.clone();
        let action = expert.act(&env);
        if env.step(action).is_success {
            env = before;
            break;
        }
    }
    let ticks = 1 + draw.between(0.0, 5.0) as usize;
    shake(&mut env, draw, ticks);
    env
}

/// A few ticks at one random velocity; undone where the block would be driven into a wall.
fn shake(env: &mut PushT, draw: &mut Draw, ticks: usize) {
    let before = env.clone();
    let (speed, at) = (draw.between(0.0, 160.0), draw.between(0.0, std::f64::consts::TAU));
    for _ in 0..ticks {
        let (p, v) = agent(env);
        let mut action = action_for(p, v, V2::new(at.cos(), at.sin()) * speed);
        for a in &mut action {
            *a = a.clamp(10.0, 502.0);
        }
        env.step(action);
    }
    if wall_margin(&Pose::from_array(env.block_pose())) < 0.0 {
        *env = before;
    }
}
