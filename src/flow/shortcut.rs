//! A few-step objective without derivatives: the network learns the average velocity over an interval.
//!
//! ```text
//! flow map          x_r = x_t + (r − t)·u(x_t, t, r)               u(x, t, t) = v(x, t)
//! consistency       (r − t)·u(x_t, t, r) = (s − t)·u(x_t, t, s) + (r − s)·u(x_s, s, r)
//! ```
//!
//! for s between t and r. The first holds in either direction of time, so no sign appears. A share
//! of the batch is regressed on the right side of the second line, computed by the network itself
//! without a gradient; the rest on the velocity of the path, at r = t. Halved dyadic intervals are
//! shortcut models (Frans et al. 2024), any s in any interval is SplitMeanFlow (Guo et al. 2025).
//! Pairs from a [`Coupling`](super::coupling::Coupling) or from reflow come in as data and noise.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::noise::Noise;
use super::objective::{cfm, column};
use super::path::Path;
use crate::{Error, Result};

/// The average velocity `u(x, t, r)` `[b, ..]` from t to r, one pair of the path's own times a row.
pub type FlowMap<'a> = dyn FnMut(&Tensor, &[f64], &[f64]) -> Result<Tensor> + 'a;

/// Where the intervals of the consistency condition lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    /// Intervals of length 1, 1/2, … 2^(1−levels) on their own grid, cut in the middle. The halves of
    /// the shortest are taken as instants, `u(x, t, t)`: one step then stands for 2^levels Euler
    /// steps along the velocity.
    Dyadic {
        /// Number of lengths.
        levels: u32,
    },
    /// Any interval, cut anywhere.
    Anywhere,
}

/// The objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shortcut {
    /// The intervals.
    pub split: Split,
    /// Share of the batch that learns consistency; the rest learns the velocity.
    pub share: f64,
}

/// What the network is asked, and what it must answer.
#[derive(Clone, Debug)]
pub struct ShortcutBatch {
    /// States, shape of the data.
    pub x_t: Tensor,
    /// Own time of each state.
    pub t: Vec<f64>,
    /// Own time at the end of each interval; equal to t for rows that learn the velocity.
    pub r: Vec<f64>,
    /// The average velocity to regress on, without a gradient.
    pub target: Tensor,
}

/// Three own times of one interval: t, s, r.
type Interval = [f64; 3];

impl Shortcut {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(Error::range("shortcut: share", "a number from 0 to 1", self.share));
        }
        match self.split {
            Split::Dyadic { levels } if !(1..=30).contains(&levels) => {
                let expected = "a whole number from 1 to 30";
                Err(Error::range("shortcut: levels", expected, f64::from(levels)))
            }
            _ => Ok(()),
        }
    }

    /// The batch for `data` and `noise` `[b, ..]` on `path`, which must end at 0 and 1 (in either
    /// direction). Times are draw number `draw` of `draws`; `map` is asked twice, for the
    /// consistency rows only, which come first.
    ///
    /// # Errors
    /// When a number is out of range, the path has other ends, the shapes differ, or `map` fails.
    pub fn batch(
        &self,
        path: &Path,
        (data, noise): (&Tensor, &Tensor),
        (draws, draw): (&Noise, u64),
        map: &mut FlowMap<'_>,
    ) -> Result<ShortcutBatch> {
        self.validate()?;
        if !matches!(path.ends(), (1.0, 0.0) | (0.0, 1.0)) {
            let ends = path.ends();
            let message =
                format!("shortcut: expected a path between the times 0 and 1, got {ends:?}");
            return Err(Error::Invalid(message));
        }
        let rows = data.dims().first().copied().unwrap_or(0);
        let own = (self.share * rows as f64).round() as usize;
        let intervals: Vec<Interval> = (0..rows)
            .map(|i| {
                let u = draws.uniforms(i as u64, draw, 3);
                let inside = if i < own { self.interval(&u) } else { [1.0 - u[0]; 3] };
                inside.map(|t| path.own_time(t))
            })
            .collect();
        let [t, r] = [0, 2].map(|k| intervals.iter().map(|i| i[k]).collect::<Vec<f64>>());
        let straight = cfm(path, data, noise, &t)?;
        let mut target = straight.velocity;
        if own > 0 {
            let learned =
                self.consistent(&straight.x_t.narrow(0, 0, own)?, &intervals[..own], map)?;
            let rest = target.narrow(0, own, rows - own)?;
            target = if own == rows { learned } else { Tensor::cat(&[learned, rest], 0)? };
        }
        Ok(ShortcutBatch { x_t: straight.x_t, t, r, target: target.detach() })
    }

    /// An interval in inside time, from noise (the larger time) to data, for three uniforms.
    fn interval(&self, u: &[f64]) -> Interval {
        match self.split {
            Split::Dyadic { levels } => {
                let level = (u[0] * f64::from(levels)).floor();
                let length = (-level).exp2();
                let steps = level.exp2();
                let r = (u[1] * steps).floor() * length;
                [r + length, r + 0.5 * length, r]
            }
            Split::Anywhere => {
                let (t, r) = (f64::max(u[0], u[1]), f64::min(u[0], u[1]));
                [t, r + (t - r) * u[2], r]
            }
        }
    }

    /// The right side of the consistency condition divided by the length of the interval.
    fn consistent(&self, x: &Tensor, at: &[Interval], map: &mut FlowMap<'_>) -> Result<Tensor> {
        let x = x.detach();
        let column = |of: &dyn Fn(&Interval) -> f64| column(at.iter().map(of).collect(), &x);
        let times = |of: &dyn Fn(&Interval) -> f64| at.iter().map(of).collect::<Vec<f64>>();
        // The finest dyadic halves are asked as instants, which the velocity rows teach.
        let shortest = match self.split {
            Split::Dyadic { levels } => (1.0 - f64::from(levels)).exp2(),
            Split::Anywhere => 0.0,
        };
        let end = |from: f64, to: f64, whole: f64| if whole.abs() <= shortest { from } else { to };
        let first = map(&x, &times(&|i| i[0]), &times(&|i| end(i[0], i[1], i[2] - i[0])))?.detach();
        let x_s = (&x + first.broadcast_mul(&column(&|i| i[1] - i[0])?)?)?;
        let second =
            map(&x_s, &times(&|i| i[1]), &times(&|i| end(i[1], i[2], i[2] - i[0])))?.detach();
        // An empty interval is an instant: either half says the same.
        let share = |i: &Interval| if i[2] == i[0] { 0.5 } else { (i[1] - i[0]) / (i[2] - i[0]) };
        let first = first.broadcast_mul(&column(&share)?)?;
        Ok((first + second.broadcast_mul(&column(&|i| 1.0 - share(i))?)?)?)
    }
}

/// Keeps the dtype of times in one place for networks that take tensors: `[b, 2]` of the inside times
/// t and t − r, for own times on `path`.
///
/// # Errors
/// When the lengths differ.
pub fn time_columns(path: &Path, t: &[f64], r: &[f64], like: &Tensor) -> Result<Tensor> {
    if t.len() != r.len() {
        return Err(Error::shape("flow map: end times", [t.len()], [r.len()]));
    }
    // `own_time` is its own inverse for paths between 0 and 1.
    let columns: Vec<f64> = t
        .iter()
        .zip(r)
        .flat_map(|(&t, &r)| {
            let (t, r) = (path.own_time(t), path.own_time(r));
            [t, t - r]
        })
        .collect();
    let columns = Tensor::from_vec(columns, (t.len(), 2), like.device())?;
    Ok(columns.to_dtype(if like.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Data of deviation c beside unit noise: the state has deviation `m(t)² = α²·c² + σ²`, and the
    /// exact flow only scales it, `x_r = x_t·m(r)/m(t)`.
    const DATA_DEVIATION: f64 = 0.6;

    fn deviation(path: &Path, t: f64) -> f64 {
        let at = path.at(t);
        (at.alpha * DATA_DEVIATION).hypot(at.sigma)
    }

    /// The exact average velocity; `bend` spoils it.
    fn exact(path: &Path, bend: f64) -> impl FnMut(&Tensor, &[f64], &[f64]) -> Result<Tensor> + '_ {
        move |x, t, r| {
            let factors: Vec<f64> = t
                .iter()
                .zip(r)
                .map(|(&t, &r)| {
                    let at = path.at(t);
                    let (m, square) = (deviation(path, t), DATA_DEVIATION * DATA_DEVIATION);
                    let instant =
                        (at.alpha * at.d_alpha * square + at.sigma * at.d_sigma) / (m * m);
                    let whole = (deviation(path, r) / m - 1.0) / (r - t);
                    let exact = if r == t { instant } else { whole };
                    exact + bend * (r - t).powi(2)
                })
                .collect();
            Ok(x.broadcast_mul(&Tensor::from_vec(factors, (t.len(), 1), &Device::Cpu)?)?)
        }
    }

    fn batch(path: &Path, split: Split, bend: f64) -> (Vec<f64>, Vec<f64>) {
        let n = 64;
        let normal = |draw| {
            let z = Noise::new(1).normal(0, draw, n).into_iter().map(f64::from).collect();
            Tensor::from_vec::<_, f64>(z, (n, 1), &Device::Cpu).unwrap()
        };
        let data = (normal(0) * DATA_DEVIATION).unwrap();
        let objective = Shortcut { split, share: 1.0 };
        let pair = (&data, &normal(1));
        let mut map = exact(path, bend);
        let batch = objective.batch(path, pair, (&Noise::new(2), 0), &mut map).unwrap();
        let own = map(&batch.x_t, &batch.t, &batch.r).unwrap();
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (flat(&batch.target), flat(&own))
    }

    const PATHS: [Path; 3] = [Path::Straight, Path::StraightReversed, Path::Cosine];

    #[test]
    fn the_exact_flow_map_is_consistent_and_a_bent_one_is_not() {
        for path in PATHS {
            let gap = |bend: f64| -> f64 {
                let (target, own) = batch(&path, Split::Anywhere, bend);
                target.iter().zip(&own).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
            };
            assert!(gap(0.0) < 1e-12, "{path:?}: {:e}", gap(0.0));
            assert!(gap(0.1) > 1e-3, "{path:?}: {:e}", gap(0.1));
        }
    }

    #[test]
    fn dyadic_intervals_are_consistent_down_to_the_finest() {
        // The halves of the finest are instants, so it is two Euler steps: wrong in the first order.
        let gap = |levels: u32| -> f64 {
            let (target, own) = batch(&Path::Straight, Split::Dyadic { levels }, 0.0);
            let gaps = target.iter().zip(&own).map(|(a, b)| (a - b).abs());
            gaps.fold(0.0, f64::max)
        };
        assert!(gap(20) < 1e-6, "{:e}", gap(20));
        assert!((gap(9) / gap(10) - 2.0).abs() < 0.2, "{:e} {:e}", gap(9), gap(10));
    }

    #[test]
    fn both_directions_of_time_ask_for_the_same_states() {
        let (forward, _) = batch(&Path::Straight, Split::Dyadic { levels: 4 }, 0.0);
        let (backward, _) = batch(&Path::StraightReversed, Split::Dyadic { levels: 4 }, 0.0);
        for (a, b) in forward.iter().zip(&backward) {
            assert!((a + b).abs() < 1e-12, "{a} {b}");
        }
    }

    #[test]
    fn intervals_lie_on_their_grid_and_inside_the_path() {
        let noise = Noise::new(3);
        for k in 0..1000 {
            let u = noise.uniforms(k, 0, 3);
            let dyadic = Shortcut { split: Split::Dyadic { levels: 3 }, share: 1.0 };
            let [t, s, r] = dyadic.interval(&u);
            assert!([1.0, 0.5, 0.25].contains(&(t - r)), "{t} {r}");
            assert_eq!(((t + r) / 2.0, (r / (t - r)).fract()), (s, 0.0));
            let [t, s, r] = Shortcut { split: Split::Anywhere, ..dyadic }.interval(&u);
            assert!(0.0 <= r && r <= s && s <= t && t <= 1.0, "{t} {s} {r}");
        }
    }

    #[test]
    fn the_share_is_consistency_and_the_rest_is_velocity_and_no_gradient_leaves_the_target() {
        let var =
            Var::from_tensor(&Tensor::ones((1, 1), DType::F64, &Device::Cpu).unwrap()).unwrap();
        let mut map = |x: &Tensor, _: &[f64], _: &[f64]| -> Result<Tensor> {
            Ok(x.broadcast_mul(var.as_tensor())?)
        };
        let x = Tensor::ones((8, 1), DType::F64, &Device::Cpu).unwrap();
        let noise = (&x * 3.0).unwrap();
        let objective = Shortcut { split: Split::Anywhere, share: 0.25 };
        let draws = (&Noise::new(0), 0);
        let batch = objective.batch(&Path::Straight, (&x, &noise), draws, &mut map).unwrap();
        let equal: Vec<bool> = batch.t.iter().zip(&batch.r).map(|(t, r)| t == r).collect();
        assert_eq!(equal, [false, false, true, true, true, true, true, true]);
        let target = batch.target.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(target[2..], [2.0; 6]);
        let grads = batch.target.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(var.as_tensor()).is_none());
    }

    #[test]
    fn a_tiny_training_learns_the_map_in_one_step() {
        // u(x, t, r) = x·p(t, t − r) with a polynomial p of four numbers, for the exact Gaussian.
        let path = Path::Straight;
        let w = Var::zeros((6, 1), DType::F64, &Device::Cpu).unwrap();
        let mut map = |x: &Tensor, t: &[f64], r: &[f64]| -> Result<Tensor> {
            let rows: Vec<f64> = t
                .iter()
                .zip(r)
                .flat_map(|(&t, &r)| {
                    let d = t - r;
                    [1.0, t, d, t * t, t * d, d * d]
                })
                .collect();
            let features = Tensor::from_vec(rows, (t.len(), 6), &Device::Cpu)?;
            Ok((x * features.matmul(w.as_tensor())?)?)
        };
        let objective = Shortcut { split: Split::Dyadic { levels: 6 }, share: 0.5 };
        let one_step = |map: &mut FlowMap<'_>| -> f64 {
            let x = Tensor::ones((1, 1), DType::F64, &Device::Cpu).unwrap();
            let u = map(&x, &[1.0], &[0.0]).unwrap();
            1.0 - u.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0]
        };
        let before = one_step(&mut map);
        let n = 256;
        for step in 0..1500u64 {
            let normal = |draw: u64| {
                let z = Noise::new(5).normal(step, draw, n).into_iter().map(f64::from).collect();
                Tensor::from_vec::<_, f64>(z, (n, 1), &Device::Cpu).unwrap()
            };
            let data = (normal(0) * DATA_DEVIATION).unwrap();
            let draws = (&Noise::new(6), step);
            let batch = objective.batch(&path, (&data, &normal(1)), draws, &mut map).unwrap();
            let error = (map(&batch.x_t, &batch.t, &batch.r).unwrap() - &batch.target).unwrap();
            let grads = error.sqr().unwrap().mean_all().unwrap().backward().unwrap();
            let rate = if step < 1000 { 0.3 } else { 0.05 };
            let step = (grads.get(w.as_tensor()).unwrap() * rate).unwrap();
            w.set(&(w.as_tensor() - step).unwrap()).unwrap();
        }
        let after = one_step(&mut map);
        println!("x_0/x_1: untrained {before}, trained {after}, exact {DATA_DEVIATION}");
        assert!((after - DATA_DEVIATION).abs() < 0.06 && before > 0.9, "{before} {after}");
    }

    #[test]
    fn bad_numbers_are_refused() {
        let x = Tensor::zeros((2, 1), DType::F64, &Device::Cpu).unwrap();
        let run = |objective: Shortcut, path: &Path| {
            let mut map = exact(path, 0.0);
            objective.batch(path, (&x, &x), (&Noise::new(0), 0), &mut map).unwrap_err()
        };
        let good = Shortcut { split: Split::Dyadic { levels: 4 }, share: 0.5 };
        let wrong = Shortcut { share: 1.5, ..good };
        assert!(matches!(run(wrong, &Path::Straight), Error::Range { .. }));
        let wrong = Shortcut { split: Split::Dyadic { levels: 0 }, ..good };
        assert!(matches!(run(wrong, &Path::Straight), Error::Range { .. }));
        assert!(matches!(run(good, &Path::Edm { sigma_max: 80.0 }), Error::Invalid(_)));
        assert!(matches!(time_columns(&Path::Straight, &[0.0], &[], &x), Err(Error::Shape { .. })));
    }
}
