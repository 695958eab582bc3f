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
use super::objective::cfm;
use super::path::Path;
use crate::{Error, Result};

/// The average velocity `u(x, t, r)` `[b, ..]` from t to r, one pair of the path's own times a row.
pub type FlowMap<'a> = dyn FnMut(&Tensor, &[f64], &[f64]) -> Result<Tensor> + 'a;

/// Where the intervals of the consistency condition lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    /// Intervals of length 1, 1/2, … 2^(1−levels) on their own grid, cut in the middle. The halves of
    /// the shortest are taken as instants: `u(x, t, t)`.
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
            let message = format!("shortcut: expected a path between the times 0 and 1, got {ends:?}");
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
        let [t, s, r] = [0, 1, 2].map(|k| intervals.iter().map(|i| i[k]).collect::<Vec<f64>>());
        let straight = cfm(path, data, noise, &t)?;
        let mut target = straight.velocity;
        if own > 0 {
            let learned = self.consistent(&straight.x_t.narrow(0, 0, own)?, &intervals[..own], map)?;
            let rest = target.narrow(0, own, rows - own)?;
            target = if own == rows { learned } else { Tensor::cat(&[learned, rest], 0)? };
        }
        let _ = s;
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
        let column = |of: &dyn Fn(&Interval) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = at.iter().map(of).collect();
            let mut shape = vec![1; x.rank()];
            shape[0] = at.len();
            Ok(Tensor::from_vec(values, shape, x.device())?.to_dtype(x.dtype())?)
        };
        let times = |of: &dyn Fn(&Interval) -> f64| at.iter().map(of).collect::<Vec<f64>>();
        // The finest dyadic halves are asked as instants, which the velocity rows teach.
        let shortest = match self.split {
            Split::Dyadic { levels } => (1.0 - f64::from(levels)).exp2(),
            Split::Anywhere => 0.0,
        };
        let end = |from: f64, to: f64, whole: f64| if whole.abs() <= shortest { from } else { to };
        let first = map(
            &x,
            &times(&|i| i[0]),
            &times(&|i| end(i[0], i[1], i[2] - i[0])),
        )?
        .detach();
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
