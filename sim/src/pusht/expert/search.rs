//! Beam search over sequences of pushes, with the tabulated model.
//!
//! A node is a block pose, an agent position and the control steps spent. Every node is expanded by
//! all primitives at a few stop points each: least cost, least RMS, least angle error, and at the root
//! every third row. f = steps so far + J ranks nodes; a solved pose has J = 0.

use std::sync::OnceLock;

use super::approach::{Lengths, in_arena};
use super::cost::{Goal, angle_error, coverage};
use super::drive::push_speed;
use super::geometry::{Pose, V2, wall_margin};
use super::model::{Prim, ROW_PX, STANDOFF, primitives};

/// Coverage from which a planned pose counts as solved.
pub(super) const SOLVED: f64 = 0.957;
const CRUISE_PX_PER_TICK: f64 = 16.0;
/// Control steps lost to acceleration and corners on an approach.
const APPROACH_STEPS: f64 = 3.0;
/// Control steps lost to braking at the end of a push.
const STOP_STEPS: f64 = 2.0;
const CONTACT_SPACING_PX: f64 = 6.0;
const DIRECTIONS: [f64; 3] = [0.0, -0.6, 0.6];
/// Clearance of planned approaches, px from the T to the agent's centre.
pub(super) const CLEAR: f64 = 22.0;

/// What does not depend on the state: primitives and approach lengths.
pub(super) struct Library {
    pub(super) prims: Vec<Prim>,
    lengths: Lengths,
    goal: Goal,
}

impl Library {
    /// The one library of the process, built on first use.
    pub(super) fn shared() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let prims = primitives(CONTACT_SPACING_PX, &DIRECTIONS);
            let lengths = Lengths::new(&prims, CLEAR);
            Self { prims, lengths, goal: Goal::new() }
        })
    }
}

/// The first push of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Push {
    pub(super) prim: usize,
    pub(super) travel: f64,
    /// Intended pose of the block afterwards.
    pub(super) pose: Pose,
    pub(super) is_final: bool,
}

#[derive(Clone, Copy)]
struct Node {
    pose: Pose,
    agent: V2,
    steps: f64,
    f: f64,
    solved: bool,
    push: Push,
    first: Push,
}

/// Working memory of the search.
#[derive(Clone, Default)]
pub(super) struct Search {
    lengths: Vec<f64>,
    candidates: Vec<Node>,
    beam: Vec<Node>,
    leaves: Vec<Node>,
}

impl Search {
    /// First pushes of the best plans with distinct primitives, best first, with their total cost.
    pub(super) fn plan(
        &mut self,
        lib: &Library,
        block: Pose,
        agent: V2,
        beam: usize,
        depth: usize,
    ) -> Vec<(Push, f64)> {
        self.lengths.resize(lib.prims.len(), 0.0);
        self.leaves.clear();
        let wall_limit = (wall_margin(&block) - 0.3).min(2.0);
        let none = Push { prim: 0, travel: 0.0, pose: block, is_final: false };
        let root =
            Node { pose: block, agent, steps: 0.0, f: 0.0, solved: false, push: none, first: none };
        self.beam.clear();
        self.beam.push(root);
        let mut bound = f64::INFINITY;
        for level in 0..depth {
            self.candidates.clear();
            for i in 0..self.beam.len() {
                let node = self.beam[i];
                bound = bound.min(self.expand(lib, &node, level == 0, wall_limit, bound));
            }
            self.candidates
                .sort_unstable_by(|a, b| a.f.total_cmp(&b.f).then(a.push.prim.cmp(&b.push.prim)));
            self.beam.clear();
            for c in &self.candidates {
                if c.solved || level + 1 == depth {
                    self.leaves.push(*c);
                    if self.leaves.len() > 4096 {
                        break;
                    }
                } else if self.beam.len() < beam && c.f < bound + 12.0 {
                    let same = self.beam.iter().any(|b| {
                        (b.pose.p - c.pose.p).norm_squared() < 4.0
                            && (b.pose.angle - c.pose.angle).abs() < 0.03
                            && (b.agent - c.agent).norm_squared() < 900.0
                    });
                    if !same {
                        self.beam.push(*c);
                    }
                }
            }
        }
        if self.leaves.is_empty() {
            self.leaves.extend_from_slice(&self.beam);
        }
        self.leaves.sort_by(|a, b| a.f.total_cmp(&b.f).then(a.first.prim.cmp(&b.first.prim)));
        let mut out: Vec<(Push, f64)> = Vec::with_capacity(8);
        for l in &self.leaves {
            if out.len() == 8 {
                break;
            }
            if !out.iter().any(|(p, _)| p.prim == l.first.prim) {
                out.push((l.first, l.f));
            }
        }
        out
    }

    /// Adds the node's successors to the candidates; the least cost of a solved one.
    fn expand(
        &mut self,
        lib: &Library,
        node: &Node,
        is_root: bool,
        wall_limit: f64,
        mut bound: f64,
    ) -> f64 {
        lib.lengths.fill(&node.pose, node.agent, &lib.prims, &mut self.lengths);
        for (index, prim) in lib.prims.iter().enumerate() {
            let length = self.lengths[index];
            let start = node.steps + length / CRUISE_PX_PER_TICK + APPROACH_STEPS + STOP_STEPS;
            if start >= bound {
                continue;
            }
            let steps = |travel: f64| start + 10.0 * (STANDOFF + travel) / push_speed(travel);
            let make = |pose: Pose, travel: f64, cost_to_go: f64, solved: bool| {
                let steps = steps(travel);
                let push = Push { prim: index, travel, pose, is_final: solved };
                Node {
                    pose,
                    agent: node.pose.to_world(prim.touch + prim.dir * travel),
                    steps,
                    f: steps + cost_to_go,
                    solved,
                    push,
                    first: if is_root { push } else { node.first },
                }
            };
            let (mut best_f, mut best_rms, mut best_angle): (Option<Node>, _, _) =
                (None, (f64::INFINITY, None), (f64::INFINITY, None));
            let (mut last, mut before_last) = (f64::INFINITY, f64::INFINITY);
            for (k, row) in prim.rows.iter().enumerate() {
                let travel = (k + 1) as f64 * ROW_PX;
                let pose = node.pose.compose(row);
                if wall_margin(&pose) < wall_limit
                    || !in_arena(node.pose.to_world(prim.touch + prim.dir * travel))
                {
                    break;
                }
                let rms = lib.goal.rms(&pose);
                if last < rms && last <= before_last && last < 10.0 {
                    // A minimum between rows: look closer, it may solve the task.
                    let mut fine = (f64::INFINITY, 0.0, pose);
                    for i in 0..=12 {
                        let t = (travel - 2.0 * ROW_PX + 0.5 * f64::from(i)).max(0.5);
                        let pose = node.pose.compose(&prim.at(t));
                        let r = lib.goal.rms(&pose);
                        if r < fine.0 {
                            fine = (r, t, pose);
                        }
                    }
                    if fine.0 < 4.5 && coverage(&fine.2) > SOLVED {
                        let n = make(fine.2, fine.1, 0.0, true);
                        bound = bound.min(n.f);
                        self.candidates.push(n);
                    } else {
                        let j = lib.goal.cost_to_go(&fine.2, fine.0);
                        self.candidates.push(make(fine.2, fine.1, j, false));
                    }
                }
                (before_last, last) = (last, rms);
                let n = make(pose, travel, lib.goal.cost_to_go(&pose, rms), false);
                if best_f.is_none_or(|b| n.f < b.f) {
                    best_f = Some(n);
                }
                if rms < best_rms.0 {
                    best_rms = (rms, Some(n));
                }
                let angle = angle_error(&pose);
                if angle < best_angle.0 {
                    best_angle = (angle, Some(n));
                }
                if is_root && k % 3 == 2 {
                    self.candidates.push(n);
                }
            }
            // The three often coincide.
            let kept = [best_f, best_rms.1, best_angle.1];
            for (i, n) in kept.iter().enumerate() {
                let Some(n) = n else { continue };
                let row = |n: &Node| (n.push.travel / ROW_PX) as usize;
                if !kept[..i].iter().flatten().any(|k| row(k) == row(n)) {
                    self.candidates.push(*n);
                }
            }
        }
        bound
    }
}
