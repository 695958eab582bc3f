//! Fits the first push of a plan to the simulator, from the true state.
//!
//! The approach is rolled out once per setting of clearance and speed and must leave the block alone;
//! from its end the reach of the push is searched in one dimension, for the intended pose or, for the
//! last push, for the coverage.

use super::super::env::PushT;
use super::approach::{Path, path};
use super::cost::{coverage, rms_between};
use super::drive::Drive;
use super::geometry::{Pose, V2};
use super::model::Prim;
use super::search::Push;

/// Clearance of the path (px from the T) and cruising speed (px/s), tried in this order.
const SETTINGS: [(f64, f64); 3] = [(22.0, 160.0), (27.0, 130.0), (19.0, 90.0)];
const MAX_TICKS: usize = 110;
/// Motion of the block allowed during the approach, px of keypoint RMS.
const DISTURBED: f64 = 0.4;

/// A push fitted to the simulator.
#[derive(Clone)]
pub(super) struct Fitted {
    pub(super) drive: Drive,
    /// Keypoint RMS between intended and reached pose, px.
    pub(super) error: f64,
    /// Coverage reached by the last push of a plan, 0 for the others.
    pub(super) coverage: f64,
}

pub(super) fn agent(env: &PushT) -> (V2, V2) {
    (V2::from(env.agent_pos()), V2::from(env.agent_vel()))
}

pub(super) fn block(env: &PushT) -> Pose {
    Pose::from_array(env.block_pose())
}

/// Runs a drive to its end.
fn run(env: &mut PushT, drive: &mut Drive) {
    for _ in 0..MAX_TICKS {
        let (p, v) = agent(env);
        if drive.is_done(p, v) {
            break;
        }
        env.step(drive.action(p, v));
    }
}

/// The best realisation of `push` from the state of `env`; `settled` is the block's pose at rest.
pub(super) fn fit(env: &PushT, settled: &Pose, prim: &Prim, push: &Push) -> Option<Fitted> {
    let mut best: Option<Fitted> = None;
    let is_here = (settled.to_world(prim.pre) - agent(env).0).norm() < 1e-6;
    for (clear, cruise) in SETTINGS {
        let (p, _) = agent(env);
        let shifts: &[f64] = if push.is_final && !is_here { &[0.0, -2.0, 2.0] } else { &[0.0] };
        for &shift in shifts {
            let side = V2::new(-prim.dir.y, prim.dir.x) * shift;
            let found = if is_here {
                Some(Path::none(p))
            } else {
                path(settled, p, prim.pre + side, clear)
            };
            let Some(path) = found else { continue };
            let dir = settled.rotate(prim.dir);
            let mut drive = Drive::new(path, dir, prim.free + push.travel, cruise);
            let Some(fitted) = fit_reach(env, settled, &mut drive, push) else { continue };
            let better = best.as_ref().is_none_or(|b| {
                if push.is_final {
                    fitted.coverage.min(0.975) > b.coverage.min(0.975)
                } else {
                    fitted.error < b.error
                }
            });
            if better {
                best = Some(fitted);
            }
        }
        if is_here || best.as_ref().is_some_and(|b| is_good(b, push)) {
            break;
        }
    }
    best
}

/// Whether a fit does what the plan wanted.
pub(super) fn is_good(fit: &Fitted, push: &Push) -> bool {
    if push.is_final { fit.coverage > 0.953 } else { fit.error < 2.0 }
}

fn fit_reach(env: &PushT, settled: &Pose, drive: &mut Drive, push: &Push) -> Option<Fitted> {
    let mut env = env.clone();
    let mut start = drive.clone();
    let mut ticks = 0;
    // The law switches to the push line while choosing an action, so look at it beforehand.
    loop {
        let (p, v) = agent(&env);
        let mut next = drive.clone();
        let action = next.action(p, v);
        if next.is_pushing() {
            break;
        }
        *drive = next;
        env.step(action);
        ticks += 1;
        if ticks > MAX_TICKS {
            return None;
        }
    }
    if rms_between(&block(&env), settled) > DISTURBED {
        return None;
    }
    let eval = |reach: f64| {
        let (mut e, mut d) = (env.clone(), drive.clone());
        d.reach = reach;
        run(&mut e, &mut d);
        let pose = block(&e);
        let error = rms_between(&pose, &push.pose);
        let coverage = if push.is_final { coverage(&pose) } else { 0.0 };
        let score = if push.is_final { 1.0 - coverage } else { error };
        (score, error, coverage)
    };
    let centre = drive.reach;
    let mut best = (centre, eval(centre));
    let mut span = 6.0;
    while span > 0.2 {
        for side in [-span, span] {
            let reach = (best.0 + side).max(2.0);
            let e = eval(reach);
            if e.0 < best.1.0 {
                best = (reach, e);
            }
        }
        span *= 0.5;
    }
    let (reach, (_, error, coverage)) = best;
    start.reach = reach;
    Some(Fitted { drive: start, error, coverage })
}
