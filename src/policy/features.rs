//! Observations to network features.
//!
//! Keypoints are a redundant picture of a pose, and pushing is a matter of where the agent stands
//! *in the body's frame*, to a pixel. The encoder reads the pose from the first two keypoints, and
//! gives the network the same facts in the frames in which they are simple: the body's offset in the
//! goal's frame, goal and agent in the body's frame, the angle to the goal, what moved since the
//! previous observation; each with sines and cosines of rising frequency, since an MLP on bare
//! coordinates learns fine detail late (Tancik et al. 2020, Fourier features).
//!
//! Observations are normalised with one scale for all coordinates, and the goal is at the origin.

use super::config::FeatureEncoder;

/// Number of features that [`encode`] writes for `n_obs` observations of `state + environment`.
pub fn len(encoder: &FeatureEncoder, n_obs: usize, state: usize, environment: usize) -> usize {
    let flat = n_obs * (state + environment);
    match encoder {
        FeatureEncoder::Flat => flat,
        FeatureEncoder::KeypointFrame { octaves, .. } => {
            flat + QUANTITIES + MOTION * (n_obs - 1) + 2 * octaves * QUANTITIES
        }
    }
}

/// Offset in the goal's frame (2), goal in the body's frame (2), agent in the body's frame (2),
/// angle to the goal (1).
const QUANTITIES: usize = 7;
/// Motion of agent (2) and body (2) in the body's frame, and its turn (1), between observations.
const MOTION: usize = 5;
/// One control step moves things by a few hundredths: brought to order one.
const MOTION_GAIN: f64 = 16.0;

struct Pose {
    agent: [f64; 2],
    body: [f64; 2],
    angle: f64,
}

/// Writes the features of `observations` (normalised, oldest first, each `state ‖ environment`,
/// together `[n_obs·(state + environment)]`) to `out`, of length [`len`].
pub fn encode(encoder: &FeatureEncoder, observations: &[f32], n_obs: usize, out: &mut Vec<f32>) {
    out.extend_from_slice(observations);
    let FeatureEncoder::KeypointFrame { goal_angle_rad, octaves } = encoder else { return };
    let width = observations.len() / n_obs;
    let poses: Vec<Pose> =
        observations.chunks_exact(width).map(|row| pose(row, *goal_angle_rad)).collect();
    let Some((now, before)) = poses.split_last() else { return };

    let in_body = |v: [f64; 2]| rotate(v, -(now.angle + goal_angle_rad));
    let offset = rotate(now.body, -goal_angle_rad);
    let goal = in_body([-now.body[0], -now.body[1]]);
    let agent = in_body(minus(now.agent, now.body));
    let angle = now.angle / std::f64::consts::PI;
    let quantities = [offset[0], offset[1], goal[0], goal[1], agent[0], agent[1], angle];
    out.extend(quantities.iter().map(|&q| q as f32));
    for octave in 0..*octaves {
        let frequency = std::f64::consts::PI * f64::from(1u32 << octave);
        for q in quantities {
            let (sine, cosine) = (frequency * q).sin_cos();
            out.extend([sine as f32, cosine as f32]);
        }
    }
    for past in before {
        let agent = in_body(minus(now.agent, past.agent));
        let body = in_body(minus(now.body, past.body));
        let turn = wrap(now.angle - past.angle);
        out.extend([agent[0], agent[1], body[0], body[1], turn].map(|m| (MOTION_GAIN * m) as f32));
    }
}

/// Agent, body origin (midway between the first two keypoints) and angle relative to the goal's.
fn pose(row: &[f32], goal_angle_rad: f64) -> Pose {
    let at = |i: usize| f64::from(row.get(i).copied().unwrap_or(0.0));
    let (first, second) = ([at(2), at(3)], [at(4), at(5)]);
    let along = minus(second, first);
    Pose {
        agent: [at(0), at(1)],
        body: [(first[0] + second[0]) / 2.0, (first[1] + second[1]) / 2.0],
        angle: wrap(along[1].atan2(along[0]) - goal_angle_rad),
    }
}

fn minus(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

fn rotate(v: [f64; 2], angle: f64) -> [f64; 2] {
    let (sine, cosine) = angle.sin_cos();
    [cosine * v[0] - sine * v[1], sine * v[0] + cosine * v[1]]
}

/// To (−π, π].
fn wrap(angle: f64) -> f64 {
    let turns = (angle / std::f64::consts::TAU).round();
    angle - turns * std::f64::consts::TAU
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODER: FeatureEncoder =
        FeatureEncoder::KeypointFrame { goal_angle_rad: 0.7, octaves: 2 };

    fn row(agent: [f64; 2], body: [f64; 2], angle: f64) -> Vec<f32> {
        let half = rotate([0.1, 0.0], angle);
        [
            agent[0],
            agent[1],
            body[0] - half[0],
            body[1] - half[1],
            body[0] + half[0],
            body[1] + half[1],
        ]
        .map(|v| v as f32)
        .to_vec()
    }

    #[test]
    fn the_body_at_the_goal_has_no_offset_and_no_angle() {
        let mut out = Vec::new();
        let rows = [row([0.3, 0.0], [0.0; 2], 0.7), row([0.3, 0.0], [0.0; 2], 0.7)].concat();
        encode(&ENCODER, &rows, 2, &mut out);
        assert_eq!(out.len(), len(&ENCODER, 2, 2, 4));
        let derived = &out[12..19];
        for i in [0, 1, 2, 3, 6] {
            assert!(derived[i].abs() < 1e-6, "{derived:?}");
        }
        assert!((derived[4] - (0.3 * 0.7f64.cos()) as f32).abs() < 1e-6);
    }

    #[test]
    fn features_in_the_body_frame_turn_with_the_scene() {
        let features = |turn: f64| {
            let mut out = Vec::new();
            let spin = |v| rotate(v, turn);
            let before = row(spin([0.3, 0.1]), spin([0.2, -0.1]), 0.4 + turn);
            let now = row(spin([0.32, 0.1]), spin([0.21, -0.1]), 0.45 + turn);
            encode(&ENCODER, &[before, now].concat(), 2, &mut out);
            out
        };
        let (a, b) = (features(0.0), features(1.0));
        let same = |i: usize| (a[i] - b[i]).abs() < 1e-5;
        assert!((14..18).all(same), "goal and agent in the body's frame");
        assert!(!same(12) || !same(13), "the offset in the goal's frame is not invariant");
        assert!((a.len() - 5..a.len()).all(same), "motion in the body's frame");
    }
}
