//! How smoothly commands ran: steps, jumps where one chunk ends and another begins, and jerk.
//!
//! Differences are between the commands of neighbouring ticks, Euclidean over the action, in robot
//! units per tick, per tick² and per tick³. A *seam* is where a row of another chunk is played than the
//! last one that was played; its jump is the step to it from the command before. If the robot held in
//! between, that command is where it held. An ensemble has a seam at every tick.
//!
//! The mean step is over the ticks at which a row was played, so that standing still does not make the
//! yardstick of a seam shorter. The second and third differences are over all commands: starting and
//! stopping is what they measure.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use serde::{Deserialize, Serialize};

use super::gate::Source;

/// Counts commands. Takes memory at the first one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smoothness {
    /// The last three commands of this episode, the newest first, and how many there are.
    last: [Vec<f64>; 3],
    known: usize,
    /// Epoch and sequence number of the chunk that was played last in this episode.
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
        self.n = self.n.saturating_add(1);
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.n = self.n.saturating_add(other.n);
    }

    fn value(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.sum / self.n as f64 }
    }
}

/// The figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SmoothnessSummary {
    /// Mean step to a played row from the command before, robot units.
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
    /// The command of one tick `[dim]` and where it comes from. A command that is not finite counts as a
    /// tick, and no difference spans it.
    pub fn add(&mut self, action: &[f32], source: &Source) {
        let sums = &mut self.sums;
        let chunk = match source {
            Source::Chunk(played) => Some((played.epoch, played.chunk_seq)),
            Source::Hold => None,
        };
        sums.ticks = sums.ticks.saturating_add(1);
        sums.held = sums.held.saturating_add(u64::from(chunk.is_none()));
        let [first, second, third] = &mut self.last;
        if first.len() != action.len() || !action.iter().all(|x| x.is_finite()) {
            self.known = 0;
        }
        let (mut step, mut acceleration, mut jerk) = (0.0, 0.0, 0.0);
        let before = first.iter().zip(&*second).zip(&*third);
        for (x, ((first, second), third)) in action.iter().zip(before) {
            let x = f64::from(*x);
            step += (x - first).powi(2);
            acceleration += (x - 2.0 * first + second).powi(2);
            jerk += (x - 3.0 * first + 3.0 * second - third).powi(2);
        }
        let step = step.sqrt();
        if self.known >= 1 && chunk.is_some() {
            sums.steps.add(step);
            if self.chunk.is_some() && self.chunk != chunk {
                sums.seams.add(step);
                sums.largest_seam = sums.largest_seam.max(step);
            }
        }
        if self.known >= 2 {
            sums.accelerations.add(acceleration.sqrt());
        }
        if self.known >= 3 {
            sums.jerks.add(jerk.sqrt());
        }
        self.chunk = chunk.or(self.chunk);
        for row in [&mut *first, second, third] {
            row.resize(action.len(), 0.0);
        }
        self.last.rotate_right(1);
        let [newest, ..] = &mut self.last;
        newest.iter_mut().zip(action).for_each(|(to, x)| *to = f64::from(*x));
        let finite = action.iter().all(|x| x.is_finite());
        self.known = if finite { self.known.saturating_add(1).min(3) } else { 0 };
    }

    /// An episode begins: the robot stands elsewhere, so no difference spans the two.
    pub fn reset(&mut self) {
        self.known = 0;
        self.chunk = None;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        let (sums, other) = (&mut self.sums, other.sums);
        sums.ticks = sums.ticks.saturating_add(other.ticks);
        sums.held = sums.held.saturating_add(other.held);
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
            held_share: Mean { sum: sums.held as f64, n: sums.ticks }.value(),
            seams: sums.seams.n,
            ticks: sums.ticks,
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic: that is how it fails")]
mod tests {
    use super::super::timeline::Executed;
    use super::*;

    fn row(chunk_seq: u64) -> Source {
        Source::Chunk(Executed { epoch: 1, chunk_seq, ..Executed::default() })
    }

    #[test]
    fn differences_are_those_of_the_commands() {
        // x = k³: differences 1, 7, 19, 37; second 6, 12, 18; third 6, 6. Along (3, 4), of length 5.
        let mut smooth = Smoothness::default();
        for k in 0..5 {
            let x = (k * k * k) as f32;
            smooth.add(&[3.0 * x, 4.0 * x], &row(1));
        }
        let got = smooth.summary();
        assert_eq!((got.mean_step, got.accel_mean, got.jerk_mean), (80.0, 60.0, 30.0));
        assert_eq!((got.seams, got.held_share, got.ticks), (0, 0.0, 5));
    }

    #[test]
    fn a_seam_is_between_two_chunks_held_or_not() {
        let mut smooth = Smoothness::default();
        let commands = [
            (0.0, Source::Hold),
            (1.0, row(1)),
            (2.0, row(1)),
            (5.0, row(2)),
            (5.0, Source::Hold),
            (5.0, Source::Hold),
            (6.0, row(2)),
            (13.0, row(3)),
        ];
        for (x, source) in commands {
            smooth.add(&[x], &source);
        }
        let got = smooth.summary();
        assert_eq!((got.seams, got.seam_jump_mean, got.seam_jump_max), (2, 5.0, 7.0));
        assert_eq!((got.mean_step, got.held_share), (13.0 / 5.0, 3.0 / 8.0));
        let mut held = Smoothness::default();
        for (x, source) in [(1.0, row(1)), (1.0, Source::Hold), (4.0, row(2))] {
            held.add(&[x], &source);
        }
        assert_eq!(held.summary().seam_jump_max, 3.0, "from where it held");
        // The same number of another life is another chunk.
        let reborn = Source::Chunk(Executed { epoch: 2, chunk_seq: 2, ..Executed::default() });
        held.add(&[6.0], &reborn);
        assert_eq!(held.summary().seams, 2);
    }

    #[test]
    fn nothing_spans_two_episodes_and_runs_add_up() {
        let mut one = Smoothness::default();
        let mut two = [Smoothness::default(), Smoothness::default()];
        for (episode, part) in two.iter_mut().enumerate() {
            one.reset();
            for k in 0..6 {
                let x = [((episode * 100 + k * k) as f32).sin() * 50.0];
                let source = row(u64::from(k > 2) + 2 * episode as u64);
                one.add(&x, &source);
                part.add(&x, &source);
            }
        }
        let [mut sum, second] = two;
        sum.merge(&second);
        let (a, b) = (sum.summary(), one.summary());
        assert_eq!((a.ticks, a.seams, a.seam_jump_max), (12, 2, b.seam_jump_max));
        for (a, b) in [(a.mean_step, b.mean_step), (a.jerk_mean, b.jerk_mean)] {
            assert!((a - b).abs() < 1e-12 * b, "{a} {b}");
        }
        assert_eq!(Smoothness::default().summary(), SmoothnessSummary::default());
    }

    #[test]
    fn what_is_not_finite_or_of_another_robot_is_not_measured() {
        let mut smooth = Smoothness::default();
        for x in [1.0, f32::NAN, 2.0, f32::INFINITY, 3.0, 4.0] {
            smooth.add(&[x], &row(1));
        }
        smooth.add(&[9.0, 9.0], &row(1));
        let got = smooth.summary();
        assert_eq!((got.mean_step, got.accel_mean, got.ticks), (1.0, 0.0, 7));
        let text = serde_json::to_string(&got).unwrap();
        assert_eq!(serde_json::from_str::<SmoothnessSummary>(&text).unwrap(), got);
    }
}
