//! Broad phase: which pairs of shapes are tested in a substep, and in which order.
//!
//! Ten Gauss–Seidel rounds do not converge when the block is squeezed between the disc and a wall,
//! so the order of the pairs is part of the dynamics. Chipmunk takes it from a tree of fattened
//! boxes: a moving shape is re-inserted only when its box leaves the fattened one, and pairs found
//! then are kept in lists until the next re-insertion. This is that tree for exactly three moving
//! shapes (bar, stem, disc) and four walls, in fixed arrays. Source: Chipmunk 7 `cpBBTree.c`.

use super::shapes::{Aabb, BAR, DISC, STEM, WALL_BOXES, WALL0};
use super::vec2::{V2, least, most};

const LEAVES: usize = 3;
const NONE: u8 = u8::MAX;
/// Factor of the fattening: a float32 literal in Chipmunk.
const FAT: f64 = 0.1_f32 as f64;
/// The walls in the order in which the tree of static shapes returns them.
const WALL_ORDER: [usize; 4] = [3, 2, 1, 0];

#[derive(Clone, Copy, Debug)]
struct Node {
    aabb: Aabb,
    parent: u8,
    /// Children of an inner node; unused in leaves.
    a: u8,
    b: u8,
}

/// Pairs that are tested when this leaf's turn comes, newest first: (other shape, GJK seed).
#[derive(Clone, Copy, Debug)]
struct Pairs {
    len: usize,
    items: [(usize, u32); 6],
}

impl Pairs {
    fn push_front(&mut self, other: usize) {
        self.items.copy_within(0..self.len, 1);
        self.items[0] = (other, 0);
        self.len += 1;
    }

    fn remove(&mut self, other: usize) {
        if let Some(i) = self.items[..self.len].iter().position(|p| p.0 == other) {
            self.items.copy_within(i + 1..self.len, i);
            self.len -= 1;
        }
    }
}

/// The tree: nodes 0–2 are the leaves bar, stem and disc, 3–4 the inner nodes.
#[derive(Clone, Debug)]
pub(crate) struct BroadPhase {
    nodes: [Node; 5],
    root: u8,
    /// Inner node that is free while a leaf is out of the tree.
    free: [u8; 2],
    free_len: usize,
    /// Time stamp of each leaf's last insertion.
    inserted: [u64; LEAVES],
    now: u64,
    pairs: [Pairs; LEAVES],
}

impl BroadPhase {
    /// The tree after gym-pusht's `_setup`: four walls, then disc, bar and stem at rest.
    pub(crate) fn new(boxes: &[Aabb; LEAVES]) -> Self {
        let node = Node { aabb: Aabb::default(), parent: NONE, a: NONE, b: NONE };
        let mut tree = BroadPhase {
            nodes: [node; 5],
            root: NONE,
            free: [4, 3],
            free_len: 2,
            inserted: [0; LEAVES],
            // One tick for each wall inserted before.
            now: 4,
            pairs: [Pairs { len: 0, items: [(0, 0); 6] }; LEAVES],
        };
        for leaf in [DISC, BAR, STEM] {
            tree.nodes[leaf].aabb = fattened(&boxes[leaf], V2::default());
            tree.insert(leaf);
            tree.inserted[leaf] = tree.now;
            tree.visit_leaf(leaf, &mut |_, _, seed| seed);
            tree.now += 1;
        }
        tree
    }

    /// Re-inserts `leaf` if `aabb` has left its fattened box; `velocity` stretches the new one.
    pub(crate) fn update(&mut self, leaf: usize, aabb: &Aabb, velocity: V2) {
        if self.nodes[leaf].aabb.contains(aabb) {
            return;
        }
        self.remove(leaf);
        self.nodes[leaf].aabb = fattened(aabb, velocity);
        self.insert(leaf);
        self.pairs[leaf].len = 0;
        for other in 0..LEAVES {
            self.pairs[other].remove(leaf);
        }
        self.inserted[leaf] = self.now;
    }

    /// Calls `test(moving shape, other shape, seed)` for each candidate pair in Chipmunk's order
    /// and keeps the seed that it returns.
    pub(crate) fn each_pair(&mut self, mut test: impl FnMut(usize, usize, u32) -> u32) {
        let (order, len) = self.leaves_in_order();
        for leaf in order.into_iter().take(len) {
            self.visit_leaf(leaf, &mut test);
        }
        self.now += 1;
    }

    /// Leaves under the root, first children first.
    fn leaves_in_order(&self) -> ([usize; LEAVES], usize) {
        let (mut order, mut len) = ([0; LEAVES], 0);
        let (mut stack, mut depth) = ([self.root; 4], 1);
        while depth > 0 {
            depth -= 1;
            let n = stack[depth] as usize;
            if n < LEAVES {
                order[len] = n;
                len += 1;
            } else {
                stack[depth] = self.nodes[n].b;
                stack[depth + 1] = self.nodes[n].a;
                depth += 2;
            }
        }
        (order, len)
    }

    fn visit_leaf(&mut self, leaf: usize, test: &mut impl FnMut(usize, usize, u32) -> u32) {
        if self.inserted[leaf] != self.now {
            for i in 0..self.pairs[leaf].len {
                let (other, seed) = self.pairs[leaf].items[i];
                self.pairs[leaf].items[i].1 = test(leaf, other, seed);
            }
            return;
        }
        // Newly placed. Disc and walls are both of infinite mass: nothing to test.
        if leaf != DISC {
            for wall in WALL_ORDER {
                if self.nodes[leaf].aabb.meets(&WALL_BOXES[wall]) {
                    self.pairs[leaf].push_front(WALL0 + wall);
                    test(leaf, WALL0 + wall, 0);
                }
            }
        }
        let mut n = leaf as u8;
        loop {
            let parent = self.nodes[n as usize].parent;
            if parent == NONE {
                return;
            }
            let Node { a, b, .. } = self.nodes[parent as usize];
            if n == a {
                self.visit_subtree(b, leaf, true, test);
            } else {
                self.visit_subtree(a, leaf, false, test);
            }
            n = parent;
        }
    }

    fn visit_subtree(
        &mut self,
        n: u8,
        leaf: usize,
        leaf_is_left: bool,
        test: &mut impl FnMut(usize, usize, u32) -> u32,
    ) {
        let node = self.nodes[n as usize];
        if !self.nodes[leaf].aabb.meets(&node.aabb) {
            return;
        }
        let other = n as usize;
        if other >= LEAVES {
            self.visit_subtree(node.a, leaf, leaf_is_left, test);
            self.visit_subtree(node.b, leaf, leaf_is_left, test);
        } else if other != DISC && leaf != DISC {
            // Bar and stem are one body.
        } else if leaf_is_left {
            // Tested when the turn of `other` comes.
            self.pairs[other].push_front(leaf);
        } else {
            if self.inserted[other] < self.inserted[leaf] {
                self.pairs[leaf].push_front(other);
            }
            test(leaf, other, 0);
        }
    }

    fn remove(&mut self, leaf: usize) {
        let parent = self.nodes[leaf].parent;
        let Node { a, b, parent: grand, .. } = self.nodes[parent as usize];
        let sibling = if a as usize == leaf { b } else { a };
        self.nodes[sibling as usize].parent = grand;
        if grand == NONE {
            self.root = sibling;
        } else {
            let g = &mut self.nodes[grand as usize];
            if g.a == parent {
                g.a = sibling;
            } else {
                g.b = sibling;
            }
            let mut n = grand;
            while n != NONE {
                let Node { a, b, parent, .. } = self.nodes[n as usize];
                self.nodes[n as usize].aabb =
                    self.nodes[a as usize].aabb.merge(&self.nodes[b as usize].aabb);
                n = parent;
            }
        }
        self.free[self.free_len] = parent;
        self.free_len += 1;
    }

    /// Descends to the leaf whose box grows least and pairs up with it.
    fn insert(&mut self, leaf: usize) {
        let aabb = self.nodes[leaf].aabb;
        if self.root == NONE {
            self.root = leaf as u8;
            return;
        }
        let mut n = self.root;
        while n as usize >= LEAVES {
            let Node { a, b, .. } = self.nodes[n as usize];
            let (box_a, box_b) = (self.nodes[a as usize].aabb, self.nodes[b as usize].aabb);
            let mut cost_a = box_b.area() + box_a.merge(&aabb).area();
            let mut cost_b = box_a.area() + box_b.merge(&aabb).area();
            if cost_a == cost_b {
                cost_a = box_a.proximity(&aabb);
                cost_b = box_b.proximity(&aabb);
            }
            self.nodes[n as usize].aabb = self.nodes[n as usize].aabb.merge(&aabb);
            n = if cost_b < cost_a { b } else { a };
        }
        self.free_len -= 1;
        let inner = self.free[self.free_len];
        let parent = self.nodes[n as usize].parent;
        self.nodes[inner as usize] =
            Node { aabb: aabb.merge(&self.nodes[n as usize].aabb), parent, a: leaf as u8, b: n };
        self.nodes[leaf].parent = inner;
        self.nodes[n as usize].parent = inner;
        if parent == NONE {
            self.root = inner;
        } else {
            let p = &mut self.nodes[parent as usize];
            if p.a == n {
                p.a = inner;
            } else {
                p.b = inner;
            }
        }
    }
}

/// The box grown by a tenth of its size, or along the velocity by 0.1 s of travel if that is more.
fn fattened(aabb: &Aabb, velocity: V2) -> Aabb {
    let (x, y) = ((aabb.r - aabb.l) * FAT, (aabb.t - aabb.b) * FAT);
    let ahead = velocity * FAT;
    Aabb {
        l: aabb.l + least(-x, ahead.x),
        b: aabb.b + least(-y, ahead.y),
        r: aabb.r + most(x, ahead.x),
        t: aabb.t + most(y, ahead.y),
    }
}
