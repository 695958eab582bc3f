//! How smoothly commands ran: steps, jumps where one chunk ends and another begins, and jerk.
//!
//! Differences are between the commands of neighbouring ticks, Euclidean over the action, in robot
//! units per tick, per tick² and per tick³. A *seam* is a pair of neighbouring played rows of two
//! different chunks; its jump is the step between them.

use serde::{Deserialize, Serialize};

use super::MAX_DIM;
use super::gate::Source;

/// Counts commands; takes no memory after the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smoothness {
    /// The last three commands, newest first, and how many there are.
    last: [Vec<f64>; 3],
    known: usize,
    /// Epoch and sequence number of the chunk played last, unless the robot held.
    chunk: Option<(u64, u64)>,
    sums: Sums,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    ticks: u64,
    held: u64,
    steps: Mean,
    accelerations: Mean,
    jerks: Mean,
    seams: Mean,
    largest_seam: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    sum: f64,
    n: u64,
}

impl Mean {
    fn add(&mut self, x: f64) {
        self.sum += x;
        self.n += 1;
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.n += other.n;
    }

    fn value(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.sum / self.n as f64 }
    }
}

/// The figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SmoothnessSummary {
    /// Mean size of a step from one tick to the next, robot units.
    pub mean_step: f64,
    /// Mean step from the last action of one chunk to the first of the next, robot units.
    pub seam_jump_mean: f64,
    /// Largest such step.
    pub seam_jump_max: f64,
    /// Mean second difference, robot units per tick².
    pub accel_mean: f64,
    /// Mean third difference, robot units per tick³.
    pub jerk_mean: f64,
    /// Share of ticks at which no row of a chunk was played.
    pub held_share: f64,
    /// Places where one chunk follows another.
    pub seams: u64,
    /// Ticks.
    pub ticks: u64,
}

impl Smoothness {
    /// The command of one tick and where it comes from.
    pub fn add(&mut self, action: &[f32], source: &Source) {
        let action = &action[..action.len().min(MAX_DIM)];
        let [first, second, third] = &self.last;
        let norm = |difference: &dyn Fn(usize, f64) -> f64| {
            let square = |(i, x): (usize, &f32)| difference(i, f64::from(*x)).powi(2);
            action.iter().enumerate().map(square).sum::<f64>().sqrt()
        };
        let sums = &mut self.sums;
        sums.ticks += 1;
        let step = (self.known >= 1).then(|| norm(&|i, x| x - first[i]));
        if let Some(step) = step {
            sums.steps.add(step);
        }
        if self.known >= 2 {
            sums.accelerations.add(norm(&|i, x| x - 2.0 * first[i] + second[i]));
        }
        if self.known >= 3 {
            sums.jerks.add(norm(&|i, x| x - 3.0 * first[i] + 3.0 * second[i] - third[i]));
        }
        let chunk = match source {
            Source::Chunk(played) => Some((played.epoch, played.chunk_seq)),
            Source::Hold => None,
        };
        sums.held += u64::from(chunk.is_none());
        if let (Some(before), Some(now), Some(step)) = (self.chunk, chunk, step)
            && before != now
        {
            sums.seams.add(step);
            sums.largest_seam = sums.largest_seam.max(step);
        }
        self.chunk = chunk;
        self.last.rotate_right(1);
        let newest = &mut self.last[0];
        newest.clear();
        newest.extend(action.iter().map(|x| f64::from(*x)));
        self.known = (self.known + 1).min(3);
    }

    /// An episode begins: the robot stands elsewhere, so no difference spans the two.
    pub fn reset(&mut self) {
        self.known = 0;
        self.chunk = None;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        let (sums, other) = (&mut self.sums, other.sums);
        sums.ticks += other.ticks;
        sums.held += other.held;
        sums.steps.merge(other.steps);
        sums.accelerations.merge(other.accelerations);
        sums.jerks.merge(other.jerks);
        sums.seams.merge(other.seams);
        sums.largest_seam = sums.largest_seam.max(other.largest_seam);
    }

    /// The figures so far; zeros before the first command.
    pub fn summary(&self) -> SmoothnessSummary {
        let sums = &self.sums;
        SmoothnessSummary {
            mean_step: sums.steps.value(),
            seam_jump_mean: sums.seams.value(),
            seam_jump_max: sums.largest_seam,
            accel_mean: sums.accelerations.value(),
            jerk_mean: sums.jerks.value(),
            held_share: sums.held as f64 / sums.ticks.max(1) as f64,
            seams: sums.seams.n,
            ticks: sums.ticks,
        }
    }
}
