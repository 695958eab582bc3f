//! Demonstrations to minibatches.
//!
//! A sample is one frame of a demonstration: the `n_obs_steps` observations that end at it, and the
//! `horizon` actions that begin at it. Past the end of an episode the last action is repeated and
//! masked out of the loss (LeRobot's `action_is_pad`); before its start the first observation is
//! repeated.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use crate::dataset::Dataset;
use crate::flow::{Noise, Objective};
use crate::policy::config::{
    ACTION, ENVIRONMENT_STATE, FeatureEncoder, PolicyConfig, STATE, Signature,
};
use crate::policy::processor::{FeatureStats, Processor, Statistic, Stats};
use crate::policy::{feature_len, features};
use crate::{Error, Result};

/// A planar mirror symmetry of the task, used to double the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// A point on the axis, in the units of the observations.
    pub center: [f32; 2],
    /// Direction of the axis, rad.
    pub axis_angle_rad: f64,
    /// Where each keypoint of the mirrored body comes from.
    pub keypoint_permutation: Vec<usize>,
}

impl Mirror {
    fn points(&self, values: &mut [f32]) {
        let (sine, cosine) = (2.0 * self.axis_angle_rad).sin_cos();
        for point in values.chunks_exact_mut(2) {
            let x = f64::from(point[0] - self.center[0]);
            let y = f64::from(point[1] - self.center[1]);
            point[0] = self.center[0] + (cosine * x + sine * y) as f32;
            point[1] = self.center[1] + (sine * x - cosine * y) as f32;
        }
    }

    fn keypoints(&self, values: &mut [f32]) {
        self.points(values);
        let old = values.to_vec();
        for (point, &from) in values.chunks_exact_mut(2).zip(&self.keypoint_permutation) {
            point.copy_from_slice(&old[2 * from..2 * from + 2]);
        }
    }

    /// Checks that the permutation names each of `keypoints` once.
    ///
    /// # Errors
    /// When it does not.
    pub fn validate(&self, keypoints: usize) -> Result<()> {
        let mut seen = self.keypoint_permutation.clone();
        seen.sort_unstable();
        if seen != (0..keypoints).collect::<Vec<_>>() {
            return Err(Error::Invalid(format!(
                "mirror.keypoint_permutation: expected each of 0..{keypoints} once, got {:?}",
                self.keypoint_permutation
            )));
        }
        Ok(())
    }
}

/// All frames of all demonstrations, feature by feature, in raw units.
pub struct Demonstrations {
    state: Vec<f32>,
    environment: Vec<f32>,
    action: Vec<f32>,
    /// Frames of each episode.
    episodes: Vec<Range<usize>>,
    /// For each frame, its episode.
    episode_of: Vec<u32>,
}

impl Demonstrations {
    /// Takes the columns that `config` names out of `dataset`.
    ///
    /// # Errors
    /// When a feature is missing or has another length.
    pub fn new(dataset: &Dataset, config: &Signature) -> Result<Self> {
        let column = |key: &str, dim: usize| -> Result<Vec<f32>> {
            if dim == 0 {
                return Ok(Vec::new());
            }
            let column = dataset.column(key)?;
            if column.dim != dim {
                return Err(Error::Invalid(format!(
                    "dataset feature {key}: the policy expects length {dim}, the dataset has {}",
                    column.dim
                )));
            }
            Ok(column.values.clone())
        };
        let episodes: Vec<Range<usize>> = dataset.episodes.iter().map(|e| e.from..e.to).collect();
        let mut episode_of = vec![0; dataset.n_frames()];
        for (episode, range) in episodes.iter().enumerate() {
            episode_of[range.clone()].fill(episode as u32);
        }
        Ok(Self {
            state: column(STATE, config.state_dim())?,
            environment: column(ENVIRONMENT_STATE, config.environment_dim())?,
            action: column(ACTION, config.action_dim())?,
            episodes,
            episode_of,
        })
    }

    /// Number of frames, which is the number of samples.
    pub fn len(&self) -> usize {
        self.episode_of.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.episode_of.is_empty()
    }

    /// Number of episodes.
    pub fn episodes(&self) -> usize {
        self.episodes.len()
    }

    /// Statistics for the processor: `bounds` where the recipe gives them, measured otherwise;
    /// actions by row of the chunk when they are relative.
    ///
    /// # Errors
    /// When there are no frames.
    pub fn stats(&self, config: &Signature, bounds: Option<[f32; 2]>) -> Result<Stats> {
        if self.is_empty() {
            return Err(Error::Invalid("the dataset has no frames".into()));
        }
        let mut stats = Stats::new();
        for (key, values, dim) in [
            (STATE, &self.state, config.state_dim()),
            (ENVIRONMENT_STATE, &self.environment, config.environment_dim()),
        ] {
            if dim > 0 {
                let mut measured = moments(values.chunks_exact(dim), dim);
                if let Some([lo, hi]) = bounds {
                    measured.insert("min".into(), vec![lo; dim].into());
                    measured.insert("max".into(), vec![hi; dim].into());
                }
                stats.insert(key.into(), measured);
            }
        }
        let d = config.action_dim();
        let action = if config.use_relative_actions {
            let mut rows = BTreeMap::<String, Vec<f32>>::new();
            for row in 0..config.horizon {
                let relative: Vec<f32> = self
                    .episodes
                    .iter()
                    .flat_map(|range| range.start..range.end.saturating_sub(row).max(range.start))
                    .flat_map(|frame| (0..d).map(move |i| (frame, i)))
                    .map(|(frame, i)| {
                        self.action[(frame + row) * d + i] - self.state[frame * d + i]
                    })
                    .collect();
                for (name, values) in moments(relative.chunks_exact(d), d) {
                    rows.entry(name).or_default().extend(values.values());
                }
            }
            rows.into_iter()
                .map(|(name, values)| Ok((name, Statistic::rows(values, d)?)))
                .collect::<Result<_>>()?
        } else {
            moments(self.action.chunks_exact(d), d)
        };
        stats.insert(ACTION.into(), action);
        Ok(stats)
    }
}

/// Mean, std, min and max of rows of `dim` values.
fn moments<'a>(rows: impl Iterator<Item = &'a [f32]> + Clone, dim: usize) -> FeatureStats {
    let mut sum = vec![0f64; dim];
    let (mut lo, mut hi) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    let mut n = 0f64;
    for row in rows.clone() {
        n += 1.0;
        for (i, &x) in row.iter().enumerate() {
            sum[i] += f64::from(x);
            lo[i] = lo[i].min(x);
            hi[i] = hi[i].max(x);
        }
    }
    let mean: Vec<f64> = sum.iter().map(|s| s / n.max(1.0)).collect();
    let mut square = vec![0f64; dim];
    for row in rows {
        for (i, &x) in row.iter().enumerate() {
            square[i] += (f64::from(x) - mean[i]).powi(2);
        }
    }
    let std = square.iter().map(|s| (s / n.max(1.0)).sqrt() as f32).collect();
    let mean = mean.into_iter().map(|m| m as f32).collect();
    [("mean", mean), ("std", std), ("min", lo), ("max", hi)]
        .into_iter()
        .map(|(name, values)| (name.to_owned(), Statistic::from(values)))
        .collect()
}

/// One minibatch; `b` samples.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[b, features]`.
    pub features: Tensor,
    /// Normalised actions `[b, horizon, action_dim]`.
    pub actions: Tensor,
    /// Unit-normal noise of the same shape.
    pub noise: Tensor,
    /// Flow time of each sample.
    pub t: Vec<f64>,
    /// `[b, horizon, 1]`: 1 where the action is of the episode, 0 past its end.
    pub mask: Tensor,
    /// Rows at the front of each sample that are given, clean.
    pub delay: Vec<usize>,
}

/// Draws minibatches: every frame once an epoch, in an order that the seed and the epoch give.
pub struct Sampler<'a> {
    demos: &'a Demonstrations,
    config: Signature,
    encoder: FeatureEncoder,
    feature_len: usize,
    mask_padding: bool,
    max_delay: usize,
    objective: &'a Objective,
    processor: &'a Processor,
    mirror: Option<&'a Mirror>,
    noise: Noise,
    epochs: Epochs,
}

/// Draw indices of the counter-based generator; one stream for each use.
mod draw {
    pub(super) const ORDER: u64 = 1 << 40;
    pub(super) const MIRROR: u64 = 1;
    pub(super) const TIME: u64 = 2;
    pub(super) const NOISE: u64 = 3;
    pub(super) const DELAY: u64 = 4;
}

impl<'a> Sampler<'a> {
    /// A sampler over `demos`.
    pub fn new(
        demos: &'a Demonstrations,
        config: &'a PolicyConfig,
        processor: &'a Processor,
        mirror: Option<&'a Mirror>,
        objective: &'a Objective,
        seed: u64,
    ) -> Self {
        Self {
            demos,
            config: config.signature(),
            encoder: config.feature_encoder(),
            feature_len: feature_len(config),
            mask_padding: config.masks_padding(),
            max_delay: config.rtc_training_max_delay(),
            objective,
            processor,
            mirror,
            noise: Noise::new(seed),
            epochs: Epochs::new(Noise::new(seed), draw::ORDER, demos.len()),
        }
    }

    /// The minibatch of `step`, the same whenever it is asked for.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn batch(&mut self, step: usize, size: usize, device: &Device) -> Result<Batch> {
        let (h, d) = (self.config.horizon, self.config.action_dim());
        let feature_len = self.feature_len;
        let mut features = Vec::with_capacity(size * feature_len);
        let mut actions = Vec::with_capacity(size * h * d);
        let mut noise = vec![0f32; size * h * d];
        let mut mask = Vec::with_capacity(size * h);
        let mut delay = vec![0; size];
        for i in 0..size {
            let global = (step * size + i) as u64;
            let frame = self.epochs.at(global);
            let mirrored = self.noise.uniform(global, draw::MIRROR) < 0.5;
            let mirror = self.mirror.filter(|_| mirrored);
            if self.max_delay > 0 {
                let share = self.noise.uniform(global, draw::DELAY);
                delay[i] = ((share * (self.max_delay + 1) as f64) as usize).min(self.max_delay);
            }
            self.push(frame, mirror, &mut features, &mut actions, &mut mask);
            let row = &mut noise[i * h * d..(i + 1) * h * d];
            self.noise.normal_into(global, draw::NOISE, row);
        }
        let t = self.objective.times(&self.noise, (step * size) as u64, draw::TIME, size);
        Ok(Batch {
            features: Tensor::from_vec(features, (size, feature_len), device)?,
            actions: Tensor::from_vec(actions, (size, h, d), device)?,
            noise: Tensor::from_vec(noise, (size, h, d), device)?,
            mask: Tensor::from_vec(mask, (size, h, 1), device)?,
            t,
            delay,
        })
    }

    fn push(
        &self,
        frame: usize,
        mirror: Option<&Mirror>,
        features: &mut Vec<f32>,
        actions: &mut Vec<f32>,
        mask: &mut Vec<f32>,
    ) {
        let demos = self.demos;
        let range = &demos.episodes[demos.episode_of[frame] as usize];
        let (s, e, d) =
            (self.config.state_dim(), self.config.environment_dim(), self.config.action_dim());
        let n_obs = self.config.n_obs_steps;
        let mut observations = Vec::with_capacity(n_obs * (s + e));
        let mut newest = Vec::new();
        for back in (0..n_obs).rev() {
            let at = frame.saturating_sub(back).max(range.start);
            let mut state = demos.state[at * s..(at + 1) * s].to_vec();
            let mut environment = demos.environment[at * e..(at + 1) * e].to_vec();
            if let Some(mirror) = mirror {
                mirror.points(&mut state);
                mirror.keypoints(&mut environment);
            }
            newest.clone_from(&state);
            for (key, mut values) in [(STATE, state), (ENVIRONMENT_STATE, environment)] {
                if let Some(map) = self.processor.inputs.get(key) {
                    map.normalize(&mut values);
                }
                observations.extend(values);
            }
        }
        features::encode(&self.encoder, &observations, n_obs, features);

        let start = actions.len();
        for row in 0..self.config.horizon {
            // Rows before `first_row` are of the past; outside the episode its end is repeated.
            let wanted = frame + row;
            let at = wanted.saturating_sub(self.config.first_row).clamp(range.start, range.end - 1);
            actions.extend_from_slice(&demos.action[at * d..(at + 1) * d]);
            let inside = at + self.config.first_row == wanted;
            mask.push(if inside || !self.mask_padding { 1.0 } else { 0.0 });
        }
        let chunk = &mut actions[start..];
        if let Some(mirror) = mirror {
            mirror.points(chunk);
        }
        self.processor.normalize_actions(&newest, chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_twice_changes_nothing_and_the_axis_stays() {
        let mirror = Mirror {
            center: [256.0, 256.0],
            axis_angle_rad: 0.75 * std::f64::consts::PI,
            keypoint_permutation: vec![1, 0],
        };
        let points = [10.0f32, 20.0, 300.0, 40.0];
        let mut twice = points;
        mirror.keypoints(&mut twice);
        assert_ne!(twice, points);
        mirror.keypoints(&mut twice);
        for (a, b) in twice.iter().zip(points) {
            assert!((a - b).abs() < 1e-3);
        }
        let mut on_axis = [156.0f32, 356.0];
        mirror.points(&mut on_axis);
        assert!((on_axis[0] - 156.0).abs() < 1e-3 && (on_axis[1] - 356.0).abs() < 1e-3);
    }
}
