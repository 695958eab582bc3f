//! Beam search over sequences of pushes, with the tabulated model.
//!
//! A node is a block pose, an agent position and the control steps spent. Every node is expanded by
//! all primitives at a few stop points each: least cost, least RMS, least angle error, and at the root
//! every third row. f = steps so far + J ranks nodes; a solved pose has J = 0.

use std::sync::OnceLock;

use super::approach::{Lengths, in_arena};
use super::cost::{Goal, RmsCost, angle_error, coverage};
use super::geometry::{Pose, V2, wall_margin};
use super::model::{Prim, ROW_PX, primitives};

/// Coverage from which a planned pose counts as solved.
pub(super) const SOLVED: f64 = 0.957;
const CRUISE_PX_PER_TICK: f64 = 16.0;
/// Control steps lost to acceleration and corners on an approach.
const APPROACH_STEPS: f64 = 3.0;
/// Control steps lost per px/s of velocity that does not lead to the push.
const TURN_STEPS: f64 = 0.02;
/// Control steps lost to braking at the end of a push.
const STOP_STEPS: f64 = 3.0;
const PUSH_PX_PER_TICK: f64 = 9.0;
const CONTACT_SPACING_PX: f64 = 6.0;
const DIRECTIONS: [f64; 3] = [0.0, -0.6, 0.6];
/// Cost above the best leaf up to which other leaves are kept, for when the best cannot be fitted.
const LEAF_SLACK: f64 = 4.0;
/// Clearance of planned approaches, px from the T to the agent's centre.
pub(super) const CLEAR: f64 = 22.0;

/// What does not depend on the state: primitives and approach lengths.
pub(super) struct Library {
    pub(super) prims: Vec<Prim>,
    lengths: Lengths,
    goal: Goal,
    cost: RmsCost,
}

impl Library {
    /// The one library of the process, built on first use.
    pub(super) fn shared() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let prims = primitives(CONTACT_SPACING_PX, &DIRECTIONS);
            let lengths = Lengths::new(&prims, CLEAR);
            Self { prims, lengths, goal: Goal::new(), cost: RmsCost::new() }
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

/// What a search knows beside the library.
pub(super) struct Problem<'a> {
    pub(super) block: Pose,
    pub(super) agent: V2,
    pub(super) velocity: V2,
    /// Pushes from where the agent is, only for the first push.
    pub(super) from_here: &'a [Prim],
    pub(super) beam: usize,
    pub(super) depth: usize,
}

/// What bounds the successors of a node.
struct Limits {
    is_root: bool,
    is_last: bool,
    wall: f64,
    /// Cost from which a successor is of no use.
    cost: f64,
}

impl Search {
    /// First pushes of the best plans with distinct primitives, best first, with their total cost.
    ///
    /// A primitive's index counts the library first, then `from_here`.
    pub(super) fn plan(&mut self, lib: &Library, problem: &Problem<'_>) -> Vec<(Push, f64)> {
        self.lengths.resize(lib.prims.len(), 0.0);
        self.leaves.clear();
        self.beam.clear();
        let pose = problem.block;
        let none = Push { prim: 0, travel: 0.0, pose, is_final: false };
        let agent = problem.agent;
        let root = Node { pose, agent, steps: 0.0, f: 0.0, solved: false, push: none, first: none };
        self.beam.push(root);
        let wall = (wall_margin(&pose) - 0.3).min(2.0);
        let mut limits = Limits { is_root: true, is_last: false, wall, cost: f64::INFINITY };
        for level in 0..problem.depth {
            self.candidates.clear();
            limits.is_root = level == 0;
            limits.is_last = level + 1 == problem.depth;
            for i in 0..self.beam.len() {
                let node = self.beam[i];
                let velocity = if level == 0 { problem.velocity } else { V2::zeros() };
                self.expand(lib, &node, velocity, &mut limits);
                if level == 0 {
                    for (k, prim) in problem.from_here.iter().enumerate() {
                        self.stops(lib, &node, (lib.prims.len() + k, prim), 0.0, &mut limits);
                    }
                }
            }
            self.candidates
                .sort_unstable_by(|a, b| a.f.total_cmp(&b.f).then(a.push.prim.cmp(&b.push.prim)));
            self.beam.clear();
            for c in &self.candidates {
                if c.solved || level + 1 == problem.depth {
                    self.leaves.push(*c);
                    if self.leaves.len() > 4096 {
                        break;
                    }
                } else if self.beam.len() < problem.beam && c.f < limits.cost + 12.0 {
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

    /// Adds the node's successors by the library's primitives to the candidates.
    fn expand(&mut self, lib: &Library, node: &Node, velocity: V2, limits: &mut Limits) {
        lib.lengths.fill(&node.pose, node.agent, &lib.prims, &mut self.lengths);
        for (index, prim) in lib.prims.iter().enumerate() {
            // Turning a moving agent round takes time; it also keeps a plan under way in favour.
            let way = node.pose.to_world(prim.pre) - node.agent;
            let turn = velocity.norm() - velocity.dot(&way) / way.norm().max(1.0);
            let approach =
                self.lengths[index] / CRUISE_PX_PER_TICK + APPROACH_STEPS + TURN_STEPS * turn;
            self.stops(lib, node, (index, prim), approach, limits);
        }
    }

    /// Adds the useful stop points of one primitive to the candidates.
    fn stops(
        &mut self,
        lib: &Library,
        node: &Node,
        (index, prim): (usize, &Prim),
        approach: f64,
        limits: &mut Limits,
    ) {
        let start = node.steps + approach + STOP_STEPS + prim.penalty;
        if start >= limits.cost {
            return;
        }
        let is_root = limits.is_root;
        let make = |pose: Pose, travel: f64, to_go: f64, solved: bool| {
            let steps = start + (prim.free + travel) / PUSH_PX_PER_TICK;
            let push = Push { prim: index, travel, pose, is_final: solved };
            let agent = node.pose.to_world(prim.touch + prim.dir * travel);
            let first = if is_root { push } else { node.first };
            Node { pose, agent, steps, f: steps + to_go, solved, push, first }
        };
        // Row of the least f, RMS and angle error.
        let mut best = [(f64::INFINITY, 0usize); 3];
        let (mut last, mut before_last) = (f64::INFINITY, f64::INFINITY);
        for (k, row) in prim.rows.iter().enumerate() {
            let travel = (k + 1) as f64 * ROW_PX;
            if start + (prim.free + travel) / PUSH_PX_PER_TICK > limits.cost {
                break;
            }
            let pose = node.pose.compose(row);
            let margin = wall_margin(&pose);
            if margin < limits.wall || !in_arena(node.pose.to_world(prim.touch + prim.dir * travel))
            {
                break;
            }
            if travel < prim.min_travel {
                continue;
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
                    limits.cost = limits.cost.min(n.f);
                    self.candidates.push(n);
                } else {
                    let j = lib.cost.to_go(fine.0, angle_error(&fine.2), margin);
                    self.candidates.push(make(fine.2, fine.1, j, false));
                }
            }
            (before_last, last) = (last, rms);
            let angle = angle_error(&pose);
            let j = lib.cost.to_go(rms, angle, margin);
            let f = j + travel / PUSH_PX_PER_TICK;
            for (slot, value) in best.iter_mut().zip([f, rms, angle]) {
                if value < slot.0 {
                    *slot = (value, k);
                }
            }
            if is_root && k % 3 == 2 {
                self.candidates.push(make(pose, travel, j, false));
            }
        }
        // The three often coincide; a leaf needs only the first.
        for i in 0..if limits.is_last { 1 } else { 3 } {
            let (value, k) = best[i];
            if value.is_finite() && !best[..i].iter().any(|b| b.1 == k) {
                let pose = node.pose.compose(&prim.rows[k]);
                let j = lib.cost.to_go(lib.goal.rms(&pose), angle_error(&pose), wall_margin(&pose));
                let n = make(pose, (k + 1) as f64 * ROW_PX, j, false);
                if limits.is_last {
                    limits.cost = limits.cost.min(n.f + LEAF_SLACK);
                }
                self.candidates.push(n);
            }
        }
    }
}
