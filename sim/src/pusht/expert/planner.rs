//! The expert as a controller: `act` gives the action for the present state.

use super::super::env::PushT;
use super::cost::rms_between;
use super::drive::{Drive, action_for};
use super::geometry::{AGENT_RADIUS, Pose, V2, distance, exit, wall_margin};
use super::model::from_here;
use super::realise::{Fitted, agent, block, fit, is_good};
use super::search::{Library, Problem, Search};

/// Coverage from which the environment counts the task as solved.
const SUCCESS: f64 = 0.95;
/// Deviations from the predicted state that call for a new plan, px.
const AGENT_DEVIATION: f64 = 2.0;
const BLOCK_DEVIATION: f64 = 0.5;
/// Speed at which the agent leaves the T where it overlaps it, px/s.
const ESCAPE_SPEED: f64 = 80.0;

/// Settings of the expert's planner.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertConfig {
    /// Nodes kept per level of the search.
    pub beam: usize,
    /// Pushes planned ahead.
    pub depth: usize,
    /// Plans whose first push is fitted to the simulator before the best fit is taken.
    pub max_fits: usize,
    /// Control steps after which a plan is made anew even where all goes as predicted.
    pub replan_ticks: usize,
}

impl Default for ExpertConfig {
    fn default() -> Self {
        Self { beam: 32, depth: 3, max_fits: 4, replan_ticks: 4 }
    }
}

impl ExpertConfig {
    /// Settings for making many demonstrations: a narrower beam.
    pub fn bulk() -> Self {
        Self { beam: 24, ..Self::default() }
    }
}

/// A closed-loop expert that solves PushT from any state.
pub struct Expert {
    cfg: ExpertConfig,
    search: Search,
    drive: Option<Drive>,
    predicted: Option<(V2, Pose)>,
    /// Control steps until the plan is made anew.
    ticks_left: usize,
}

impl Expert {
    /// An expert without a plan.
    pub fn new(cfg: ExpertConfig) -> Self {
        Self { cfg, search: Search::default(), drive: None, predicted: None, ticks_left: 0 }
    }

    /// Forgets the present plan, for a new episode.
    pub fn reset(&mut self) {
        self.drive = None;
        self.predicted = None;
    }

    /// The action (absolute target of the agent, px) for the present state.
    ///
    /// It plans anew every few steps, when a push is done, and when the state deviates from the
    /// prediction; a push whose rollout solves the task is driven to its end. Once the task is solved
    /// the agent is stopped.
    pub fn act(&mut self, env: &PushT) -> [f64; 2] {
        let (p, v) = agent(env);
        if env.coverage() > SUCCESS {
            self.reset();
            return action_for(p, v, V2::zeros());
        }
        let deviates = self.predicted.is_some_and(|(a, b)| {
            (a - p).norm() > AGENT_DEVIATION || rms_between(&b, &block(env)) > BLOCK_DEVIATION
        });
        let is_over = self.ticks_left == 0 || self.drive.as_ref().is_none_or(|d| d.is_done(p, v));
        if deviates || is_over {
            self.predicted = None;
            let pose = block(env);
            let q = pose.to_body(p);
            if distance(q) < AGENT_RADIUS - 1.5 {
                self.drive = None;
                let (_, normal) = exit(q);
                return action_for(p, v, pose.rotate(normal) * ESCAPE_SPEED);
            }
            let fitted = self.plan(env);
            let solves = fitted.as_ref().is_some_and(|f| f.coverage > SUCCESS);
            self.ticks_left = if solves { PushT::MAX_STEPS } else { self.cfg.replan_ticks };
            self.drive = fitted.map(|f| f.drive);
        }
        self.ticks_left = self.ticks_left.saturating_sub(1);
        let Some(drive) = &mut self.drive else {
            // No way to any contact: step back from the T.
            let pose = block(env);
            let (_, normal) = exit(pose.to_body(p));
            return action_for(p, v, pose.rotate(normal) * ESCAPE_SPEED);
        };
        let action = drive.action(p, v);
        let mut next = env.clone();
        next.step(action);
        self.predicted = Some((agent(&next).0, block(&next)));
        action
    }

    fn plan(&mut self, env: &PushT) -> Option<Fitted> {
        let lib = Library::shared();
        let settled = settled(env);
        let (p, v) = agent(env);
        let from_here = from_here(settled.to_body(p), settled.rotate_back(v));
        let plans = self.search.plan(
            lib,
            &Problem {
                block: settled,
                agent: p,
                velocity: v,
                from_here: &from_here,
                beam: self.cfg.beam,
                depth: self.cfg.depth,
            },
        );
        let mut best: Option<(f64, Fitted)> = None;
        for (push, cost) in plans.iter().take(self.cfg.max_fits) {
            let own = push.prim.checked_sub(lib.prims.len()).map(|k| &from_here[k]);
            let prim = own.unwrap_or_else(|| &lib.prims[push.prim]);
            let Some(fitted) = fit(env, &settled, prim, push) else { continue };
            if is_good(&fitted, push) {
                return Some(fitted);
            }
            let score = cost + if push.is_final { 20.0 } else { 2.0 * fitted.error };
            if best.as_ref().is_none_or(|b| score < b.0) {
                best = Some((score, fitted));
            }
        }
        best.map(|b| b.1)
    }
}

/// Pose of the block once the walls have pushed it back, with the agent held.
fn settled(env: &PushT) -> Pose {
    let pose = block(env);
    if wall_margin(&pose) > -0.2 {
        return pose;
    }
    let mut env = env.clone();
    for _ in 0..10 {
        let (p, v) = agent(&env);
        env.step(action_for(p, v, V2::zeros()));
    }
    block(&env)
}
