//! The expert solves PushT, is a function of the state alone, and never jumps or tunnels.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{Expert, ExpertConfig, Step, episode, perturbed, takeover};

fn demo(seed: u64) -> Vec<Step> {
    episode(PushT::reset(seed), &ExpertConfig::bulk(), PushT::MAX_STEPS)
}

/// Distance of the agent's centre to the T, px.
fn gap(state: &[f64; 5]) -> f64 {
    let (sin, cos) = state[4].sin_cos();
    let (dx, dy) = (state[0] - state[2], state[1] - state[3]);
    let (x, y) = (cos * dx + sin * dy, cos * dy - sin * dx);
    let rect = |x0: f64, y0: f64, x1: f64, y1: f64| {
        (x0 - x).max(x - x1).max(0.0).hypot((y0 - y).max(y - y1).max(0.0))
    };
    rect(-60.0, 0.0, 60.0, 30.0).min(rect(-15.0, 30.0, 15.0, 120.0))
}

#[test]
fn solves_resets_in_time() {
    for seed in 300..304 {
        let steps = demo(seed);
        assert!(steps.last().is_some_and(|s| s.success), "seed {seed}: {} steps", steps.len());
        assert!(steps.len() < 200, "seed {seed}: {} steps", steps.len());
        assert_eq!(steps.iter().filter(|s| s.success).count(), 1);
    }
}

#[test]
fn holding_still_does_not_solve() {
    // The twin that must fail: without the expert's pushes no reset solves itself.
    let mut env = PushT::reset(300);
    let at = env.agent_pos();
    assert!((0..PushT::MAX_STEPS).all(|_| !env.step(at).is_success));
}

#[test]
fn same_start_same_episode() {
    assert_eq!(demo(310), demo(310));
    // An expert that has played another episode must not carry anything over.
    let mut expert = Expert::new(ExpertConfig::bulk());
    let mut other = PushT::reset(311);
    for _ in 0..7 {
        let action = expert.act(&other);
        other.step(action);
    }
    expert.reset();
    assert_eq!(expert.act(&PushT::reset(310)), demo(310)[0].action);
}

#[test]
fn takes_over_from_perturbed_states() {
    for seed in 0..8 {
        let start = perturbed(seed);
        assert_eq!(start.state(), perturbed(seed).state());
        let steps = takeover(start, &ExpertConfig::bulk(), PushT::MAX_STEPS);
        assert!(steps.last().is_some_and(|s| s.success), "seed {seed}: {} steps", steps.len());
    }
}

#[test]
fn targets_stay_near_and_the_agent_outside_the_t() {
    for seed in 320..322 {
        for (i, s) in demo(seed).iter().enumerate() {
            assert!(s.action.iter().all(|a| (0.0..=512.0).contains(a)), "{seed} {i} {s:?}");
            let lead = (s.action[0] - s.agent[0]).hypot(s.action[1] - s.agent[1]);
            assert!(lead < 75.0, "seed {seed} step {i}: target {lead} px ahead");
            assert!(gap(&s.state) > 13.0 || i < 10, "seed {seed} step {i}: inside the T");
        }
    }
}

#[test]
fn solved_stays_quiet() {
    let [x, y, angle] = PushT::GOAL_POSE;
    let mut env = PushT::at_rest([100.0, 100.0, x, y, angle]).with_agent_velocity([60.0, 0.0]);
    let mut expert = Expert::new(ExpertConfig::bulk());
    for _ in 0..10 {
        let action = expert.act(&env);
        assert!(env.step(action).is_success);
    }
    let speed = env.agent_vel()[0].hypot(env.agent_vel()[1]);
    assert!(speed < 1.0, "still moving at {speed} px/s");
}
