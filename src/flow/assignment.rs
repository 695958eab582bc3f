//! The exact linear assignment: which column belongs to which row so that the total cost is least.
//!
//! ```text
//! min over permutations π of Σ_i c[i, π(i)]      = max over u, v of Σ_i u_i + Σ_j v_j,  u_i + v_j ≤ c[i, j]
//! ```
//!
//! Exact in f64, in three parts that share the prices v. An auction with falling ε (Bertsekas 1988)
//! brings the prices near the optimum: far clusters need large steps, neighbours small ones. The same
//! bidding with ε = 0 (augmenting row reduction of Jonker and Volgenant 1987) makes nearly all pairs;
//! shortest augmenting paths (Dijkstra over reduced costs from all free rows at once) make the rest.
//! Only the last two decide the result, so it carries a certificate and no ε: it is exact up to the
//! rounding of the largest cost.
//!
//! On 8gaussians→moons (docs/moons.md) the last two alone need 310 ms for n = 1,024 and minutes for
//! n = 10,000, with the auction 40 ms and 10 s.
//!
//! A row of the cost is computed when it is needed, so 10,000 × 10,000 costs take little memory.

use crate::{Error, Result};

/// An optimal assignment with its certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Column of row i: a permutation.
    pub columns: Vec<usize>,
    /// Sum of the assigned costs.
    pub cost: f64,
    /// Dual of row i: `rows[i] + prices[j] ≤ c[i, j]`, with equality on the assigned pairs.
    pub rows: Vec<f64>,
    /// Dual of column j.
    pub prices: Vec<f64>,
}

/// Fills a buffer of n numbers with the costs of one row.
pub type Row<'a> = dyn FnMut(usize, &mut [f64]) + 'a;

/// Assigns n rows to n columns; `row(i, out)` writes the costs of row i.
///
/// # Errors
/// When a cost is not finite.
pub fn assign(n: usize, row: &mut Row<'_>) -> Result<Assignment> {
    solve(n, row)
}

/// [`assign`] on a matrix `[rows, columns]` in row-major order.
///
/// # Errors
/// As [`assign`], and when the matrix is not square or holds another number of costs.
pub fn assign_matrix(costs: &[f64], rows: usize, columns: usize) -> Result<Assignment> {
    if rows != columns || rows.checked_mul(columns) != Some(costs.len()) {
        let got = format!("[{rows}, {columns}] with {} costs", costs.len());
        let expected = "a square matrix [n, n] of n² costs".into();
        return Err(Error::Shape { what: "assignment: costs".into(), expected, got });
    }
    assign(rows, &mut |i, out| out.copy_from_slice(&costs[i * columns..(i + 1) * columns]))
}

/// Squared Euclidean distances between two sets of points `[n, d]`, row by row.
pub struct Distances {
    dims: usize,
    rows: Vec<f64>,
    /// One coordinate after the other, so that a row is computed by whole vectors.
    columns: Vec<Vec<f64>>,
}

impl Distances {
    /// Distances from `rows` to `columns`, both `[n, dims]` in row-major order.
    ///
    /// # Errors
    /// When the lengths differ or are no multiple of `dims`.
    pub fn new(rows: &[f64], columns: &[f64], dims: usize) -> Result<Self> {
        if dims == 0 || rows.len() != columns.len() || !rows.len().is_multiple_of(dims) {
            let got = (rows.len(), columns.len(), dims);
            return Err(Error::shape("points", "two sets [n, dims] of one n", got));
        }
        let coordinate = |k: usize| columns.iter().skip(k).step_by(dims).copied().collect();
        Ok(Self { dims, rows: rows.to_vec(), columns: (0..dims).map(coordinate).collect() })
    }

    /// Number of points in each set.
    pub fn len(&self) -> usize {
        self.rows.len() / self.dims
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the distances of row point `i`.
    pub fn row(&self, i: usize, out: &mut [f64]) {
        out.fill(0.0);
        let point = &self.rows[i * self.dims..(i + 1) * self.dims];
        for (x, column) in point.iter().zip(&self.columns) {
            for (out, y) in out.iter_mut().zip(column) {
                *out += (x - y) * (x - y);
            }
        }
    }
}

/// The squared 2-Wasserstein distance between two sets of points `[n, dims]` of equal weight: the
/// mean of the squared distances under the best assignment.
///
/// # Errors
/// When the sets differ in size or a coordinate is not finite.
pub fn squared_w2(a: &[f64], b: &[f64], dims: usize) -> Result<f64> {
    let distances = Distances::new(a, b, dims)?;
    let found = assign(distances.len(), &mut |i, out| distances.row(i, out))?;
    Ok(found.cost / distances.len().max(1) as f64)
}

const FREE: usize = usize::MAX;

struct Solver<'a, 'b> {
    n: usize,
    row: &'a mut Row<'b>,
    costs: Vec<f64>,
    prices: Vec<f64>,
    /// Column of each row, and row of each column.
    columns: Vec<usize>,
    owners: Vec<usize>,
}

fn solve(n: usize, row: &mut Row<'_>) -> Result<Assignment> {
    let mut solver = Solver {
        n,
        row,
        costs: vec![0.0; n],
        prices: vec![f64::INFINITY; n],
        columns: vec![FREE; n],
        owners: vec![FREE; n],
    };
    let spread = solver.reduce_columns()?;
    let mut lists = Lists::new(n);
    for phase in 0..PHASES {
        let epsilon = spread / 32.0 / 8f64.powi(phase);
        let free = solver.clear();
        solver.bid(free, epsilon, 100 * n, &mut lists);
    }
    let mut free = solver.clear();
    for _ in 0..2 {
        free = solver.bid(free, 0.0, 4 * n, &mut lists);
    }
    let mut search = Search::new(n);
    while !free.is_empty() {
        free = solver.augment(&free, &mut search);
    }
    Ok(solver.finish())
}

/// Phases of the auction: ε falls by 8 from one to the next, in the end to 10⁻⁷ of the spread.
const PHASES: i32 = 7;

impl Solver<'_, '_> {
    /// The prices become the least cost of each column. Returns the difference of the largest and
    /// the least cost.
    fn reduce_columns(&mut self) -> Result<f64> {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for i in 0..self.n {
            (self.row)(i, &mut self.costs);
            if let Some(j) = self.costs.iter().position(|cost| !cost.is_finite()) {
                let what = format!("assignment: cost of row {i}, column {j}");
                return Err(Error::range(what, "a finite number", self.costs[j]));
            }
            for (price, &cost) in self.prices.iter_mut().zip(&self.costs) {
                *price = price.min(cost);
                (least, most) = (least.min(cost), most.max(cost));
            }
        }
        Ok(if self.n == 0 { 0.0 } else { most - least })
    }

    /// Frees all rows; the prices stay.
    fn clear(&mut self) -> Vec<usize> {
        self.columns.fill(FREE);
        self.owners.fill(FREE);
        (0..self.n).collect()
    }

    /// Each free row takes its best column and lowers the price to where its second best is as good,
    /// and by `epsilon` more; whoever owned the column is free in turn. Ends when no row is free or
    /// after so many `tries`. Returns the rows that stay free.
    fn bid(
        &mut self,
        free: Vec<usize>,
        epsilon: f64,
        mut tries: usize,
        lists: &mut Lists,
    ) -> Vec<usize> {
        let mut left = Vec::new();
        let mut waiting = free.into_iter();
        let mut next = waiting.next();
        while let Some(i) = next {
            if tries == 0 {
                left.push(i);
                next = waiting.next();
                continue;
            }
            tries -= 1;
            let (first, second) = self.best_two(i, lists);
            let gain = if second.1 == FREE { 0.0 } else { second.0 - first.0 };
            let price = self.prices[first.1];
            let lower = price - (gain + epsilon);
            // Of two equal columns the one that is free; a price that cannot fall ends the bidding.
            let tie = lower == price && self.owners[first.1] != FREE && second.1 != FREE;
            let j = if tie { second.1 } else { first.1 };
            self.prices[first.1] = lower;
            let displaced = std::mem::replace(&mut self.owners[j], i);
            self.columns[i] = j;
            next = None;
            if displaced != FREE {
                self.columns[displaced] = FREE;
                if lower < price {
                    next = Some(displaced);
                } else {
                    left.push(displaced);
                }
            }
            next = next.or_else(|| waiting.next());
        }
        left
    }

    /// The two columns of least reduced cost for row i: from its list while that is sure to hold them.
    fn best_two(&mut self, i: usize, lists: &mut Lists) -> (Best, Best) {
        let (first, second) = two_least(&lists.entries[i], &self.prices);
        if second.0 <= lists.bounds[i] {
            return (first, second);
        }
        (self.row)(i, &mut self.costs);
        lists.refill(i, &self.costs, &self.prices);
        two_least(&lists.entries[i], &self.prices)
    }

    /// One Dijkstra search over reduced costs from all `free` rows at once. It grows a forest, one
    /// tree a row, until every tree holds a free column or no column is left; then the prices of the
    /// scanned columns fall, all edges of the forest are tight, and every tree that has a free column
    /// exchanges along its path. Returns the rows that stay free.
    fn augment(&mut self, free: &[usize], search: &mut Search) -> Vec<usize> {
        let Search { reach, from, root, left, done } = search;
        left.clear();
        left.extend(0..self.n);
        done.clear();
        reach.fill(f64::INFINITY);
        for &i in free {
            (self.row)(i, &mut self.costs);
            for (j, (cost, price)) in self.costs.iter().zip(&self.prices).enumerate() {
                if cost - price < reach[j] {
                    reach[j] = cost - price;
                    from[j] = i;
                }
            }
        }
        let mut sinks = std::collections::BTreeMap::new();
        let mut nearest = closest(left, reach);
        let mut distance = f64::NEG_INFINITY;
        while !left.is_empty() {
            let j = left.swap_remove(nearest);
            distance = f64::max(distance, reach[j]);
            reach[j] = distance;
            done.push(j);
            let parent = from[j];
            root[j] = match self.columns[parent] {
                FREE => parent,
                column => root[column],
            };
            let i = self.owners[j];
            nearest = 0;
            if i == FREE {
                sinks.entry(root[j]).or_insert(j);
                if sinks.len() == free.len() {
                    break;
                }
                nearest = closest(left, reach);
                continue;
            }
            (self.row)(i, &mut self.costs);
            let offset = self.costs[j] - self.prices[j] - distance;
            let mut least = f64::INFINITY;
            for (slot, &j) in left.iter().enumerate() {
                let length = self.costs[j] - self.prices[j] - offset;
                let mut here = reach[j];
                if length < here {
                    here = length;
                    reach[j] = length;
                    from[j] = i;
                }
                if here < least {
                    least = here;
                    nearest = slot;
                }
            }
        }
        for &j in done.iter() {
            self.prices[j] += reach[j] - distance;
        }
        for (&start, &sink) in &sinks {
            let mut j = sink;
            loop {
                let i = from[j];
                self.owners[j] = i;
                let previous = std::mem::replace(&mut self.columns[i], j);
                if i == start {
                    break;
                }
                j = previous;
            }
        }
        free.iter().copied().filter(|i| !sinks.contains_key(i)).collect()
    }

    fn finish(mut self) -> Assignment {
        let mut cost = 0.0;
        let mut rows = vec![0.0; self.n];
        for (i, dual) in rows.iter_mut().enumerate() {
            (self.row)(i, &mut self.costs);
            let j = self.columns[i];
            cost += self.costs[j];
            *dual = self.costs[j] - self.prices[j];
        }
        Assignment { columns: self.columns, cost, rows, prices: self.prices }
    }
}

/// The slot of `left` whose column is reached first.
fn closest(left: &[usize], reach: &[f64]) -> usize {
    let slots = 0..left.len();
    slots.min_by(|&a, &b| reach[left[a]].total_cmp(&reach[left[b]])).unwrap_or(0)
}

/// Buffers of one Dijkstra search.
struct Search {
    /// Shortest reduced path to each column so far, and the row before the column on it.
    reach: Vec<f64>,
    from: Vec<usize>,
    /// The free row at the root of the tree that a scanned column is in.
    root: Vec<usize>,
    /// Columns not scanned yet, and those scanned.
    left: Vec<usize>,
    done: Vec<usize>,
}

impl Search {
    fn new(n: usize) -> Self {
        Self {
            reach: vec![0.0; n],
            from: vec![FREE; n],
            root: vec![FREE; n],
            left: Vec::with_capacity(n),
            done: Vec::with_capacity(n),
        }
    }
}

/// A reduced cost and its column.
type Best = (f64, usize);

/// For every row the columns that were best when it last looked at all. Prices only fall, so reduced
/// costs only rise: what was outside the list then is no better now than its bound.
struct Lists {
    size: usize,
    /// Cost and column.
    entries: Vec<Vec<(f64, u32)>>,
    bounds: Vec<f64>,
    /// How far above the least the last bound was.
    widths: Vec<f64>,
    reduced: Vec<f64>,
    scratch: Vec<f64>,
}

impl Lists {
    fn new(n: usize) -> Self {
        Self {
            size: (n / 6).clamp(16, 512).min(n),
            entries: vec![Vec::new(); n],
            bounds: vec![f64::NEG_INFINITY; n],
            widths: vec![-1.0; n],
            reduced: vec![0.0; n],
            scratch: Vec::new(),
        }
    }

    /// A new list for row i: all columns up to a bound, which is guessed from the last one, and
    /// selected when the guess gives too few or too many.
    fn refill(&mut self, i: usize, costs: &[f64], prices: &[f64]) {
        for (reduced, (cost, price)) in self.reduced.iter_mut().zip(costs.iter().zip(prices)) {
            *reduced = cost - price;
        }
        let mut lanes = [f64::INFINITY; 4];
        for four in self.reduced.chunks(4) {
            for (lane, &reduced) in lanes.iter_mut().zip(four) {
                *lane = if reduced < *lane { reduced } else { *lane };
            }
        }
        let least = lanes.into_iter().fold(f64::INFINITY, f64::min);
        let mut bound = least + self.widths[i];
        let mut count = self.reduced.iter().filter(|reduced| **reduced <= bound).count();
        if !(self.size / 2..=2 * self.size).contains(&count) || count < 2 {
            self.scratch.clone_from(&self.reduced);
            let (_, nth, _) = self.scratch.select_nth_unstable_by(self.size - 1, f64::total_cmp);
            bound = *nth;
            count = self.size;
        }
        self.widths[i] = bound - least;
        self.bounds[i] = if count >= costs.len() { f64::INFINITY } else { bound };
        let list = &mut self.entries[i];
        list.clear();
        for (j, (&reduced, &cost)) in self.reduced.iter().zip(costs).enumerate() {
            if reduced <= bound {
                list.push((cost, j as u32));
            }
        }
    }
}

fn two_least(list: &[(f64, u32)], prices: &[f64]) -> (Best, Best) {
    let (mut first, mut second) = ((f64::INFINITY, FREE), (f64::INFINITY, FREE));
    for &(cost, j) in list {
        let reduced = cost - prices[j as usize];
        if reduced < second.0 {
            if reduced < first.0 {
                (first, second) = ((reduced, j as usize), first);
            } else {
                second = (reduced, j as usize);
            }
        }
    }
    (first, second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
mod tests {
    use super::*;
    use crate::flow::Noise;

    /// Panics unless the columns are a permutation and the duals prove that it is optimal.
    fn certify(n: usize, found: &Assignment, cost: &dyn Fn(usize, usize) -> f64) {
        let mut sorted = found.columns.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..n), "no permutation: {:?}", found.columns);
        let total: f64 = found.columns.iter().enumerate().map(|(i, &j)| cost(i, j)).sum();
        // Rounding is relative to the largest cost, which the prices have to bridge.
        let largest = (0..n * n).map(|k| cost(k / n, k % n).abs()).fold(0.0, f64::max);
        let scale = 1.0 + largest;
        assert!((total - found.cost).abs() < 1e-12 * scale * n as f64);
        let mut worst = 0.0f64;
        for i in 0..n {
            for j in 0..n {
                worst = worst.min(cost(i, j) - found.rows[i] - found.prices[j]);
            }
        }
        assert!(worst >= -1e-12 * scale, "dual slack {worst:e}");
        let dual = found.rows.iter().sum::<f64>() + found.prices.iter().sum::<f64>();
        assert!((total - dual).abs() < 1e-11 * scale * n as f64, "{total} {dual}");
    }

    fn brute_force(n: usize, costs: &[f64]) -> f64 {
        fn best(i: usize, n: usize, taken: u32, costs: &[f64]) -> f64 {
            if i == n {
                return 0.0;
            }
            let open = (0..n).filter(|j| taken >> j & 1 == 0);
            open.map(|j| costs[i * n + j] + best(i + 1, n, taken | 1 << j, costs))
                .fold(f64::INFINITY, f64::min)
        }
        best(0, n, 0, costs)
    }

    #[test]
    fn small_problems_agree_with_brute_force() {
        let noise = Noise::new(3);
        for case in 0..300u64 {
            let n = 1 + (case % 7) as usize;
            let uniform = noise.uniforms(case, 0, n * n);
            // Some real, some with many ties, some far apart.
            let costs: Vec<f64> = match case % 3 {
                0 => uniform.iter().map(|u| u * 10.0 - 5.0).collect(),
                1 => uniform.iter().map(|u| (u * 3.0).floor()).collect(),
                _ => uniform.iter().map(|u| (u * 30.0).exp()).collect(),
            };
            let found = assign_matrix(&costs, n, n).unwrap();
            certify(n, &found, &|i, j| costs[i * n + j]);
            let best = brute_force(n, &costs);
            let largest = costs.iter().fold(1.0f64, |most, cost| most.max(cost.abs()));
            assert!((found.cost - best).abs() <= 1e-13 * largest, "case {case}");
        }
    }

    #[test]
    fn large_problems_carry_their_certificate() {
        let noise = Noise::new(4);
        let points = |sample: u64, n: usize, spread: f64| -> Vec<f64> {
            let z = noise.normal(sample, 1, 2 * n);
            let far = noise.uniforms(sample, 1, n);
            z.iter()
                .enumerate()
                .map(|(k, z)| f64::from(*z) + (far[k / 2] * 4.0).floor() * spread)
                .collect()
        };
        for (n, spread) in [(100, 0.0), (300, 10.0), (257, 1e4)] {
            let distances =
                Distances::new(&points(0, n, spread), &points(1, n, spread), 2).unwrap();
            let found = assign(n, &mut |i, out| distances.row(i, out)).unwrap();
            let mut table = vec![0.0; n * n];
            table.chunks_mut(n).enumerate().for_each(|(i, row)| distances.row(i, row));
            certify(n, &found, &|i, j| table[i * n + j]);
        }
        // All costs equal, whole numbers with ties, and rank one: nothing to bid for.
        for (n, kind) in [(200, 0), (200, 1), (120, 2)] {
            let u = noise.uniforms(9, kind, n * n);
            let cost = |i: usize, j: usize| match kind {
                0 => 7.0,
                1 => (u[i * n + j] * 5.0).floor(),
                _ => (i * j) as f64,
            };
            let mut fill = |i: usize, out: &mut [f64]| {
                out.iter_mut().enumerate().for_each(|(j, out)| *out = cost(i, j));
            };
            certify(n, &assign(n, &mut fill).unwrap(), &cost);
        }
    }

    #[test]
    fn a_worse_permutation_fails_the_certificate() {
        // The broken twin: two columns exchanged, duals kept.
        let costs: Vec<f64> = Noise::new(5).uniforms(0, 0, 64);
        let mut found = assign_matrix(&costs, 8, 8).unwrap();
        found.columns.swap(0, 1);
        found.cost = found.columns.iter().enumerate().map(|(i, &j)| costs[i * 8 + j]).sum();
        let broken = std::panic::catch_unwind(|| certify(8, &found, &|i, j| costs[i * 8 + j]));
        assert!(broken.is_err());
    }

    #[test]
    fn the_distance_of_a_shifted_set_is_the_shift() {
        let a: Vec<f64> = Noise::new(6).normal(0, 0, 200).into_iter().map(f64::from).collect();
        let b: Vec<f64> = a.chunks(2).rev().flat_map(|p| [p[0] + 3.0, p[1] - 4.0]).collect();
        assert!((squared_w2(&a, &b, 2).unwrap() - 25.0).abs() < 1e-12);
        assert!(squared_w2(&a, &a, 2).unwrap() < 1e-30);
        assert_eq!(squared_w2(&[], &[], 2).unwrap(), 0.0);
    }

    #[test]
    fn costs_that_are_no_costs_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = assign_matrix(&[1.0, 2.0, bad, 4.0], 2, 2).unwrap_err();
            assert!(matches!(error, Error::Range { .. }), "{error}");
            assert!(error.to_string().contains("row 1, column 0"), "{error}");
        }
        let shapes: [(usize, usize, usize); 3] =
            [(2, 3, 6), (2, 2, 3), (usize::MAX, usize::MAX, 1)];
        for (rows, columns, n) in shapes {
            let error = assign_matrix(&vec![0.0; n], rows, columns).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        assert!(matches!(squared_w2(&[0.0; 4], &[0.0; 6], 2), Err(Error::Shape { .. })));
        assert!(matches!(squared_w2(&[0.0; 4], &[0.0; 4], 0), Err(Error::Shape { .. })));
        assert!(assign(0, &mut |_, _| ()).unwrap().columns.is_empty());
    }
}
