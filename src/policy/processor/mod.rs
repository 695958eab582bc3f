//! The processor pipelines of a LeRobot policy folder: what lies between raw units and the network.
//!
//! ```text
//! observation ─ rename ─ normalise ─► network ─► unnormalise ─ + newest state ─► actions
//! ```
//!
//! `policy_preprocessor.json` and `policy_postprocessor.json` list steps by registry name
//! ([`steps`]), the statistics are in safetensors files beside them ([`Stats`]), the formulas are in
//! [`normalize`]. What a step says is done, as in LeRobot: where its `norm_map`, `features` or `eps`
//! differ from config.json, the step wins; an observation that its `features` leave out passes
//! through. Two deviations, both errors instead of silence: LeRobot lets a feature without statistics
//! pass through, and a pipeline without a normalising step leaves everything as it is.
//!
//! Steps that Pathline cannot do are errors: float types other than f32, a second normalising step,
//! an order in which a step would see what it does not see here. `map_tensor_to_delta_action_dict`,
//! `map_delta_action_to_robot_action` and `libero_processor` belong to the robot's or simulator's side:
//! they make dictionaries of an action vector or observations of a simulator's state, and the wire
//! carries vectors and pictures. Steps for a task in words ([`Processor::language`]) are kept for the
//! policies that have one.

mod inputs;
pub mod legacy;
pub mod normalize;
mod pipeline;
mod stats;
pub mod steps;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;

use super::config::{ACTION, FeatureType, Features, NormalizationMode, STATE, Signature};
use crate::{Error, Result};
pub use inputs::{Input, Inputs};
pub use normalize::{Affine, Edge, Rule};
use pipeline::Found;
pub use stats::{FeatureStats, Statistic, Stats};
use steps::{Pipeline, Step};
pub use write::save;

/// File name of the preprocessor.
pub const PREPROCESSOR: &str = "policy_preprocessor.json";
/// File name of the postprocessor.
pub const POSTPROCESSOR: &str = "policy_postprocessor.json";
/// Longest side of a picture.
const MAX_SIDE: usize = 1 << 13;

/// Everything between raw units and the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    /// Maps of the inputs, by feature key, in the order of config.json.
    pub inputs: IndexMap<String, Affine>,
    /// Map of the action chunk: the postprocessor's, whose inverse is for training.
    pub action: Affine,
    /// Steps for the task in words, in order; empty for a policy without one.
    pub language: Vec<Step>,
    /// Which dimensions of the action are relative to the newest state; none if empty.
    relative: Vec<bool>,
    features: Features,
    rename: BTreeMap<String, String>,
    action_dim: usize,
}

impl Processor {
    /// The processor that `want` describes, over `stats`: what [`save`] writes.
    ///
    /// # Errors
    /// When statistics are missing or do not fit the features.
    pub fn new(want: &Signature, stats: &Stats) -> Result<Self> {
        let mut processor = Self::empty(want)?;
        for (key, feature) in &want.input_features {
            let rule = Rule::new(want.mode(feature.kind));
            processor.inputs.insert(key.clone(), Affine::new(key, &rule, stats, &feature.shape)?);
        }
        let rule = Rule::new(want.mode(FeatureType::Action));
        processor.action = Affine::new(ACTION, &rule, stats, &chunk_shape(want))?;
        if want.use_relative_actions {
            processor.relative = vec![true; processor.action_dim];
        }
        Ok(processor)
    }

    /// The processor of a folder whose model file brings its own statistics ([`legacy`]).
    ///
    /// # Errors
    /// As [`Processor::new`].
    pub fn legacy(want: &Signature, stats: &Stats) -> Result<Self> {
        let mut processor = Self::empty(want)?;
        let rule = |kind| Rule { edge: Edge::Add, ..Rule::new(want.mode(kind)) };
        for (key, feature) in &want.input_features {
            let map = Affine::new(key, &rule(feature.kind), stats, &feature.shape)?;
            processor.inputs.insert(key.clone(), map);
        }
        let rule = rule(FeatureType::Action);
        processor.action = Affine::new(ACTION, &rule, stats, &chunk_shape(want))?;
        Ok(processor)
    }

    /// Reads both pipelines of the policy folder `dir`: observations by the preprocessor's statistics,
    /// actions by the postprocessor's. A folder that has neither file is of LeRobot before 0.4, whose
    /// statistics are in the model file: `legacy`.
    ///
    /// # Errors
    /// One error that names the file and the step, key or statistic.
    pub fn load(dir: &Path, want: &Signature, legacy: Option<&Stats>) -> Result<Self> {
        let (pre, post) = (dir.join(PREPROCESSOR), dir.join(POSTPROCESSOR));
        if let Some(stats) = legacy.filter(|stats| !stats.is_empty())
            && !pre.exists()
            && !post.exists()
        {
            return Self::legacy(want, stats);
        }
        for path in [&pre, &post] {
            if !path.exists() {
                let message = "no such file; folders of LeRobot 0.4 and later have it, older ones \
                               keep their statistics in the model file, and this one has neither";
                return Err(Error::config(path, message));
            }
        }
        let pre = Found::collect(&Pipeline::read(&pre)?, pipeline::Side::Pre, want)?;
        let post = Found::collect(&Pipeline::read(&post)?, pipeline::Side::Post, want)?;
        let mut processor = Self::empty(want)?;
        for (key, feature) in &want.input_features {
            let map = pre.map(key, feature.kind, &feature.shape, want)?;
            processor.inputs.insert(key.clone(), map);
        }
        processor.action = post.map(ACTION, FeatureType::Action, &chunk_shape(want), want)?;
        processor.relative = pipeline::relative(&pre, &post, want)?;
        processor.rename = pre.rename;
        processor.language = pre.language;
        Ok(processor)
    }

    /// Without maps; checks what does not depend on statistics.
    fn empty(want: &Signature) -> Result<Self> {
        for (key, feature) in &want.input_features {
            let fits = match (feature.kind, feature.shape.as_slice()) {
                (FeatureType::Visual, &[channels, h, w]) => {
                    channels == 3 && (1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w)
                }
                (FeatureType::Visual, _) => false,
                (_, shape) => shape.len() == 1,
            };
            if !fits {
                return Err(Error::Invalid(format!(
                    "{key}: expected shape [D], or for a camera [3, height, width] with sides up to \
                     {MAX_SIDE}, got {:?}",
                    feature.shape
                )));
            }
        }
        Ok(Self {
            inputs: IndexMap::new(),
            action: Affine::new(ACTION, &Rule::IDENTITY, &Stats::new(), &[])?,
            language: Vec::new(),
            relative: Vec::new(),
            features: want.input_features.clone(),
            rename: BTreeMap::new(),
            action_dim: want.action_dim(),
        })
    }

    /// How the feature `key` is normalised, input or action.
    pub fn mode(&self, key: &str) -> NormalizationMode {
        match self.inputs.get(key) {
            Some(map) => map.mode(),
            None if key == ACTION => self.action.mode(),
            None => NormalizationMode::Identity,
        }
    }

    /// Whether actions are relative to the newest state, in any dimension.
    pub fn is_relative(&self) -> bool {
        self.relative.iter().any(|&relative| relative)
    }

    /// Actions `[rows, action_dim]` in raw units to normalised ones, in place.
    pub fn normalize_actions(&self, newest_state: &[f32], actions: &mut [f32]) {
        self.shift(newest_state, actions, |action, state| *action -= state);
        self.action.normalize(actions);
    }

    /// Normalised actions to raw units, in place.
    pub fn unnormalize_actions(&self, newest_state: &[f32], actions: &mut [f32]) {
        self.action.unnormalize(actions);
        self.shift(newest_state, actions, |action, state| *action += state);
    }

    fn shift(&self, state: &[f32], actions: &mut [f32], by: impl Fn(&mut f32, f32)) {
        if !self.is_relative() {
            return;
        }
        for row in actions.chunks_exact_mut(self.action_dim.max(1)) {
            for ((action, state), relative) in row.iter_mut().zip(state).zip(&self.relative) {
                if *relative {
                    by(action, *state);
                }
            }
        }
    }
}

/// Shape of a chunk whose every row may have its own statistics.
fn chunk_shape(want: &Signature) -> [usize; 2] {
    [want.horizon, want.action_dim()]
}

#[cfg(test)]
mod tests;
