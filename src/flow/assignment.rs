//! The exact linear assignment: which column belongs to which row so that the total cost is least.
//!
//! ```text
//! min over permutations π of Σ_i c[i, π(i)]      = max over u, v of Σ_i u_i + Σ_j v_j,  u_i + v_j ≤ c[i, j]
//! ```
//!
//! Shortest augmenting paths in f64 as by Jonker and Volgenant (1987): column reduction, augmenting
//! row reduction (an auction without ε), and a Dijkstra search for every row that is still free. A
//! row of the cost is computed when it is needed, so 10,000 × 10,000 costs take no memory. Since a
//! search starts from any prices v, earlier solutions of similar problems are a warm start that
//! changes the time and not the result.

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
    solve(n, row, None)
}

/// [`assign`] from known column duals, as of a similar problem: the same result, sooner.
///
/// # Errors
/// As [`assign`], and when there are not n finite prices.
pub fn assign_from(n: usize, row: &mut Row<'_>, prices: &[f64]) -> Result<Assignment> {
    if prices.len() != n {
        return Err(Error::shape("assignment: prices", [n], [prices.len()]));
    }
    match prices.iter().find(|price| !price.is_finite()) {
        Some(&price) => Err(Error::range("assignment: price", "a finite number", price)),
        None => solve(n, row, Some(prices)),
    }
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

fn solve(n: usize, row: &mut Row<'_>, prices: Option<&[f64]>) -> Result<Assignment> {
    let mut solver = Solver {
        n,
        row,
        costs: vec![0.0; n],
        prices: vec![f64::INFINITY; n],
        columns: vec![FREE; n],
        owners: vec![FREE; n],
    };
    let cheapest = solver.reduce_columns()?;
    match prices {
        Some(prices) => solver.prices.copy_from_slice(prices),
        None => solver.take_cheapest(&cheapest),
    }
    let mut free: Vec<usize> = (0..n).filter(|&i| solver.columns[i] == FREE).collect();
    for _ in 0..ROUNDS {
        free = solver.reduce_rows(free);
    }
    let mut search = Search::new(n);
    for i in free {
        solver.augment(i, &mut search);
    }
    Ok(solver.finish())
}

/// Rounds of augmenting row reduction; two are usual.
const ROUNDS: usize = 2;

impl Solver<'_, '_> {
    /// The prices become the least cost of each column; returns the row that has it.
    fn reduce_columns(&mut self) -> Result<Vec<usize>> {
        let mut cheapest = vec![FREE; self.n];
        for i in 0..self.n {
            (self.row)(i, &mut self.costs);
            if let Some(j) = self.costs.iter().position(|cost| !cost.is_finite()) {
                let what = format!("assignment: cost of row {i}, column {j}");
                return Err(Error::range(what, "a finite number", self.costs[j]));
            }
            let best = self.prices.iter_mut().zip(&mut cheapest);
            for ((price, by), &cost) in best.zip(&self.costs) {
                if cost < *price {
                    (*price, *by) = (cost, i);
                }
            }
        }
        Ok(cheapest)
    }

    fn take_cheapest(&mut self, cheapest: &[usize]) {
        for (j, &i) in cheapest.iter().enumerate().rev() {
            if self.columns[i] == FREE {
                self.columns[i] = j;
                self.owners[j] = i;
            }
        }
    }

    /// Each free row takes its best column and lowers the price to where its second best is as
    /// good; whoever owned the column is free in turn. Returns the rows that stay free.
    fn reduce_rows(&mut self, free: Vec<usize>) -> Vec<usize> {
        let mut left = Vec::new();
        // Tiny gains could go on for long: a bounded number of tries, the search does the rest.
        let mut tries = 4 * self.n + free.len();
        let mut waiting = free.into_iter();
        let mut next = waiting.next();
        while let Some(i) = next {
            if tries == 0 {
                left.push(i);
                next = waiting.next();
                continue;
            }
            tries -= 1;
            (self.row)(i, &mut self.costs);
            let (mut first, mut second) = ((f64::INFINITY, FREE), (f64::INFINITY, FREE));
            for (j, (cost, price)) in self.costs.iter().zip(&self.prices).enumerate() {
                let reduced = cost - price;
                if reduced < second.0 {
                    if reduced < first.0 {
                        (first, second) = ((reduced, j), first);
                    } else {
                        second = (reduced, j);
                    }
                }
            }
            let gain = second.0 - first.0;
            let mut j = first.1;
            let cheaper = self.n > 1 && gain > 0.0 && {
                let price = self.prices[j];
                self.prices[j] = price - gain;
                self.prices[j] < price
            };
            if !cheaper && self.owners[j] != FREE && second.1 != FREE && gain <= 0.0 {
                j = second.1;
            }
            let displaced = std::mem::replace(&mut self.owners[j], i);
            self.columns[i] = j;
            next = if displaced == FREE {
                waiting.next()
            } else {
                self.columns[displaced] = FREE;
                if cheaper {
                    Some(displaced)
                } else {
                    left.push(displaced);
                    waiting.next()
                }
            };
        }
        left
    }

    /// Dijkstra over reduced costs from the free row `start` to the nearest free column, then the
    /// assignments along the path are exchanged and the prices of the scanned columns raised.
    fn augment(&mut self, start: usize, search: &mut Search) {
        let Search { reach, from, left, done } = search;
        left.clear();
        left.extend(0..self.n);
        done.clear();
        reach.fill(f64::INFINITY);
        let (mut i, mut distance) = (start, 0.0);
        let sink = loop {
            (self.row)(i, &mut self.costs);
            let offset = match self.columns[i] {
                FREE => 0.0,
                j => self.costs[j] - self.prices[j] - distance,
            };
            let mut nearest = (f64::INFINITY, 0);
            for (slot, &j) in left.iter().enumerate() {
                let length = self.costs[j] - self.prices[j] - offset;
                if length < reach[j] {
                    reach[j] = length;
                    from[j] = i;
                }
                // Among equals a free column ends the search.
                let here = reach[j];
                if here < nearest.0 || (here == nearest.0 && self.owners[j] == FREE) {
                    nearest = (here, slot);
                }
            }
            distance = f64::max(distance, nearest.0);
            let j = left.swap_remove(nearest.1);
            if self.owners[j] == FREE {
                break j;
            }
            done.push(j);
            i = self.owners[j];
            reach[j] = distance;
        };
        for &j in done.iter() {
            self.prices[j] += reach[j] - distance;
        }
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

/// Buffers of one Dijkstra search.
struct Search {
    /// Shortest reduced path to each column so far, and the row before the column on it.
    reach: Vec<f64>,
    from: Vec<usize>,
    /// Columns not scanned yet, and those scanned.
    left: Vec<usize>,
    done: Vec<usize>,
}

impl Search {
    fn new(n: usize) -> Self {
        Self {
            reach: vec![0.0; n],
            from: vec![FREE; n],
            left: Vec::with_capacity(n),
            done: Vec::with_capacity(n),
        }
    }
}
