//! Shortest paths of the agent around the T: a visibility graph over the corners of the inflated T.
//!
//! Lengths are needed for every primitive of every node of the search, so the graph's part of them
//! is tabulated per set of corners outside the arena; only the agent's own edges are tested anew.
//! A segment is free if it keeps the clearance, or comes no nearer to the T than its end points.

use super::geometry::{ARENA, Pose, V2, distance, segment_distance};
use super::model::Prim;

const NODES: usize = 6;
const MASKS: usize = 1 << NODES;
/// Margin of the agent's centre to the arena's edge, px.
const EDGE: f64 = 3.0;

/// Most points of a path: start, corners, end.
pub(super) const MAX_POINTS: usize = NODES + 2;

fn corners(clear: f64) -> [V2; NODES] {
    [
        V2::new(-60.0 - clear, -clear),
        V2::new(60.0 + clear, -clear),
        V2::new(60.0 + clear, 30.0 + clear),
        V2::new(15.0 + clear, 120.0 + clear),
        V2::new(-15.0 - clear, 120.0 + clear),
        V2::new(-60.0 - clear, 30.0 + clear),
    ]
}

fn is_free(a: V2, da: f64, b: V2, db: f64, clear: f64) -> bool {
    segment_distance(a, b) >= clear.min(da).min(db) - 0.3
}

/// Whether a world point can be reached by the agent without leaving the arena.
pub(super) fn in_arena(w: V2) -> bool {
    w.x >= EDGE && w.y >= EDGE && w.x <= ARENA - EDGE && w.y <= ARENA - EDGE
}

fn mask(pose: &Pose, nodes: &[V2; NODES]) -> usize {
    let mut mask = 0;
    for (i, n) in nodes.iter().enumerate() {
        if !in_arena(pose.to_world(*n)) {
            mask |= 1 << i;
        }
    }
    mask
}

/// Tabulated lengths from every corner to every primitive's pre-contact point.
pub(super) struct Lengths {
    clear: f64,
    nodes: [V2; NODES],
    // [mask][prim][node]
    table: Vec<[f32; NODES]>,
    pre_distance: Vec<f64>,
    count: usize,
}

impl Lengths {
    pub(super) fn new(prims: &[Prim], clear: f64) -> Self {
        let nodes = corners(clear);
        let pre_distance: Vec<f64> = prims.iter().map(|p| distance(p.pre)).collect();
        let mut edges = [[f32::INFINITY; NODES]; NODES];
        for i in 0..NODES {
            for j in 0..NODES {
                if i == j {
                    edges[i][j] = 0.0;
                } else if is_free(nodes[i], clear, nodes[j], clear, clear) {
                    edges[i][j] = (nodes[i] - nodes[j]).norm() as f32;
                }
            }
        }
        let mut table = Vec::with_capacity(MASKS * prims.len());
        for mask in 0..MASKS {
            let mut d = edges;
            for k in (0..NODES).filter(|k| mask >> k & 1 == 0) {
                for i in 0..NODES {
                    for j in 0..NODES {
                        d[i][j] = d[i][j].min(d[i][k] + d[k][j]);
                    }
                }
            }
            for (prim, &dp) in prims.iter().zip(&pre_distance) {
                let mut row = [f32::INFINITY; NODES];
                for j in (0..NODES).filter(|j| mask >> j & 1 == 0) {
                    if is_free(nodes[j], clear, prim.pre, dp, clear) {
                        let last = (nodes[j] - prim.pre).norm() as f32;
                        for i in (0..NODES).filter(|i| mask >> i & 1 == 0) {
                            row[i] = row[i].min(d[i][j] + last);
                        }
                    }
                }
                table.push(row);
            }
        }
        Self { clear, nodes, table, pre_distance, count: prims.len() }
    }

    /// Path lengths in px from the agent (world) to all pre-contact points, infinite where blocked.
    pub(super) fn fill(&self, pose: &Pose, agent: V2, prims: &[Prim], out: &mut [f64]) {
        let q = pose.to_body(agent);
        let dq = distance(q);
        let mask = mask(pose, &self.nodes);
        let mut first = [f64::INFINITY; NODES];
        for (i, n) in self.nodes.iter().enumerate() {
            if mask >> i & 1 == 0 && is_free(q, dq, *n, self.clear, self.clear) {
                first[i] = (q - n).norm();
            }
        }
        let rows = &self.table[mask * self.count..(mask + 1) * self.count];
        for (i, (prim, row)) in prims.iter().zip(rows).enumerate() {
            let mut best = f64::INFINITY;
            for (a, b) in first.iter().zip(row) {
                best = best.min(a + f64::from(*b));
            }
            let direct = (q - prim.pre).norm();
            if direct < best && is_free(q, dq, prim.pre, self.pre_distance[i], self.clear) {
                best = direct;
            }
            out[i] = if in_arena(pose.to_world(prim.pre)) { best } else { f64::INFINITY };
        }
    }
}

/// A polyline in world coordinates.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) points: [V2; MAX_POINTS],
    pub(super) len: usize,
}

impl Path {
    /// The path of an agent that is there already.
    pub(super) fn none(agent: V2) -> Self {
        Self { points: [agent; MAX_POINTS], len: 1 }
    }
}

/// Shortest free path from the agent to a point given in the body frame.
pub(super) fn path(pose: &Pose, agent: V2, to: V2, clear: f64) -> Option<Path> {
    let nodes = corners(clear);
    let mask = mask(pose, &nodes);
    let mut q = [V2::zeros(); MAX_POINTS];
    q[0] = pose.to_body(agent);
    q[1..=NODES].copy_from_slice(&nodes);
    q[MAX_POINTS - 1] = to;
    let mut dist = [clear; MAX_POINTS];
    dist[0] = distance(q[0]);
    dist[MAX_POINTS - 1] = distance(to);
    // Dijkstra over eight points.
    let mut cost = [f64::INFINITY; MAX_POINTS];
    let mut from = [0usize; MAX_POINTS];
    let mut closed = [false; MAX_POINTS];
    cost[0] = 0.0;
    loop {
        let mut i = MAX_POINTS;
        for j in 0..MAX_POINTS {
            if !closed[j] && cost[j].is_finite() && (i == MAX_POINTS || cost[j] < cost[i]) {
                i = j;
            }
        }
        if i == MAX_POINTS {
            return None;
        }
        if i == MAX_POINTS - 1 {
            break;
        }
        closed[i] = true;
        for j in 1..MAX_POINTS {
            if closed[j] || (j <= NODES && mask >> (j - 1) & 1 == 1) {
                continue;
            }
            let c = cost[i] + (q[i] - q[j]).norm();
            if c < cost[j] && is_free(q[i], dist[i], q[j], dist[j], clear) {
                cost[j] = c;
                from[j] = i;
            }
        }
    }
    let mut out = Path { points: [agent; MAX_POINTS], len: 0 };
    let mut i = MAX_POINTS - 1;
    let mut back = [0usize; MAX_POINTS];
    while i != 0 {
        back[out.len] = i;
        out.len += 1;
        i = from[i];
    }
    for k in 0..out.len {
        out.points[k + 1] = pose.to_world(q[back[out.len - 1 - k]]);
    }
    out.len += 1;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::geometry::AGENT_RADIUS;
    use super::super::model::primitives;
    use super::*;

    #[test]
    fn tabulated_lengths_are_those_of_the_paths() {
        let prims = primitives(15.0, &[0.0]);
        let lengths = Lengths::new(&prims, 22.0);
        let mut out = vec![0.0; prims.len()];
        // The second pose has corners of the inflated T outside the arena.
        for pose in [Pose::new(256.0, 256.0, 1.0), Pose::new(150.0, 80.0, 0.2)] {
            for agent in [V2::new(60.0, 60.0), V2::new(430.0, 250.0), V2::new(260.0, 480.0)] {
                lengths.fill(&pose, agent, &prims, &mut out);
                for (prim, &length) in prims.iter().zip(&out) {
                    if !in_arena(pose.to_world(prim.pre)) {
                        assert!(length.is_infinite());
                        continue;
                    }
                    let Some(p) = path(&pose, agent, prim.pre, 22.0) else {
                        assert!(length.is_infinite());
                        continue;
                    };
                    let legs = p.points[..p.len].windows(2);
                    let sum: f64 = legs.clone().map(|w| (w[1] - w[0]).norm()).sum();
                    assert!((sum - length).abs() < 1e-3, "{sum} {length}");
                    for w in legs {
                        let gap = segment_distance(pose.to_body(w[0]), pose.to_body(w[1]));
                        assert!(gap > AGENT_RADIUS, "a path comes {gap} px near");
                    }
                }
            }
        }
    }
}
