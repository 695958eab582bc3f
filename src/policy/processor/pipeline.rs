//! What Pathline takes from a pipeline: the steps that matter, checked against the policy.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::normalize::{Affine, Edge, Rule};
use super::stats::{self, Stats};
use super::steps::{Normalizer, Pipeline, Relative, Step};
use super::{STATE, Signature};
use crate::policy::config::{FeatureType, NormalizationMode};
use crate::tensors::files;
use crate::{Error, Result};

/// Before or after the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Pre,
    Post,
}

impl Side {
    const fn normalizer(self) -> &'static str {
        match self {
            Self::Pre => "normalizer_processor",
            Self::Post => "unnormalizer_processor",
        }
    }

    const fn relative(self) -> &'static str {
        match self {
            Self::Pre => "relative_actions_processor",
            Self::Post => "absolute_actions_processor",
        }
    }
}

/// The steps of one pipeline that matter here.
pub(super) struct Found {
    path: PathBuf,
    side: Side,
    normalizer: Option<Normalizer>,
    /// Name of the state file, and what it holds.
    stats: Option<(PathBuf, Stats)>,
    relative: Option<Relative>,
    pub(super) rename: BTreeMap<String, String>,
    pub(super) language: Vec<Step>,
}

/// Whether policies of this type have a task in words.
fn has_language(kind: &str) -> bool {
    matches!(kind, "smolvla" | "pi0" | "pi05")
}

impl Found {
    /// Goes through the steps of `pipeline` in order.
    pub(super) fn collect(pipeline: &Pipeline, side: Side, want: &Signature) -> Result<Self> {
        let mut found = Self {
            path: pipeline.path.clone(),
            side,
            normalizer: None,
            stats: None,
            relative: None,
            rename: BTreeMap::new(),
            language: Vec::new(),
        };
        for (i, (name, step)) in pipeline.steps.iter().enumerate() {
            found.take(step, want).map_err(|error| match error {
                Error::Invalid(message) => {
                    Error::config(&pipeline.path, format!("steps[{i}] {name}: {message}"))
                }
                error => error,
            })?;
        }
        Ok(found)
    }

    fn take(&mut self, step: &Step, want: &Signature) -> Result<()> {
        let fail = |message: &str| Err(Error::Invalid(message.into()));
        match (step, self.side) {
            (Step::Identity | Step::ToBatch, _) => Ok(()),
            (Step::Device(device), _) => match device.float_dtype.as_deref() {
                None | Some("float32" | "float") => Ok(()),
                Some(other) => fail(&format!("float_dtype: expected null or float32, got {other}")),
            },
            (Step::Rename(rename), side) => {
                if rename.rename_map.is_empty() {
                    return Ok(());
                }
                if side == Side::Post {
                    return fail("rename_map: expected none after the network");
                }
                if self.normalizer.is_some() || self.relative.is_some() || !self.rename.is_empty() {
                    return fail("expected once, before the steps that read observations");
                }
                self.rename.clone_from(&rename.rename_map);
                Ok(())
            }
            (Step::Normalize(normalizer, file), Side::Pre)
            | (Step::Unnormalize(normalizer, file), Side::Post) => {
                if self.normalizer.is_some() {
                    return fail("expected one such step, got a second");
                }
                if !(normalizer.eps.is_finite() && normalizer.eps >= 0.0) {
                    let eps = normalizer.eps;
                    return fail(&format!("eps: expected a finite number, 0 or more, got {eps}"));
                }
                if let Some(file) = file {
                    self.stats = Some(read(&self.path, file)?);
                }
                self.normalizer = Some(normalizer.clone());
                Ok(())
            }
            (Step::Relative(relative), Side::Pre) | (Step::Absolute(relative), Side::Post) => {
                if self.relative.is_some() {
                    return fail("expected one such step, got a second");
                }
                if relative.enabled && self.normalizer.is_some() != (self.side == Side::Post) {
                    return fail(
                        "expected in raw units: before normalizer_processor, after \
                         unnormalizer_processor",
                    );
                }
                self.relative = Some(relative.clone());
                Ok(())
            }
            (Step::NewLine | Step::PrepareState(_) | Step::Tokenizer(_), Side::Pre) => {
                if !has_language(want.kind) {
                    let kind = want.kind;
                    return fail(&format!("a policy of type {kind} has no task in words"));
                }
                if matches!(step, Step::PrepareState(_)) && self.normalizer.is_none() {
                    return fail(
                        "expected after normalizer_processor: it writes the state in words",
                    );
                }
                self.language.push(step.clone());
                Ok(())
            }
            (Step::DeltaDict(_) | Step::DeltaToRobot(_), _) => fail(
                "makes a dictionary for one robot of the action vector (delta_x, delta_y, delta_z, \
                 gripper), and the wire carries the vector; do it on the robot's side and take the \
                 step out of the file",
            ),
            (Step::Libero, _) => fail(
                "turns pictures upside down and builds the state of one simulator; do it where the \
                 observation is made and take the step out of the file",
            ),
            (_, Side::Pre) => fail("expected in the postprocessor, found in the preprocessor"),
            (_, Side::Post) => fail("expected in the preprocessor, found in the postprocessor"),
        }
    }

    /// The map of one feature: the step's, whatever config.json says.
    pub(super) fn map(
        &self,
        key: &str,
        kind: FeatureType,
        shape: &[usize],
        want: &Signature,
    ) -> Result<Affine> {
        let name = self.side.normalizer();
        let fail = |message: String| Error::config(&self.path, message);
        let Some(step) = &self.normalizer else {
            return match want.mode(kind) {
                NormalizationMode::Identity => {
                    Affine::new(key, &Rule::IDENTITY, &Stats::new(), shape)
                }
                mode => Err(fail(format!(
                    "steps: expected a {name}, found none; config.json's normalization_mapping has \
                     {mode:?} for {key}"
                ))),
            };
        };
        let mode = if kind == FeatureType::Action {
            step.norm_map.get(&kind)
        } else {
            let left_out = |keys: &std::collections::BTreeSet<String>| !keys.contains(key);
            let passes = step.normalize_observation_keys.as_ref().is_some_and(left_out);
            step.features
                .get(key)
                .filter(|feature| !passes && feature.kind != FeatureType::Action)
                .and_then(|feature| step.norm_map.get(&feature.kind))
        };
        let mode = mode.copied().unwrap_or(NormalizationMode::Identity);
        let rule = Rule { mode, eps: step.eps, edge: Edge::Replace };
        match (&self.stats, mode) {
            (Some((file, stats)), _) => Affine::new(key, &rule, stats, shape)
                .map_err(|e| Error::config(file, format!("{name}: {e}"))),
            (None, NormalizationMode::Identity) => Affine::new(key, &rule, &Stats::new(), shape),
            (None, mode) => Err(fail(format!(
                "{name}: expected a state_file with the statistics of {key}, which {mode:?} needs, \
                 found none"
            ))),
        }
    }

    fn is_relative(&self) -> bool {
        self.relative.as_ref().is_some_and(|step| step.enabled)
    }
}

/// Which dimensions of the action are relative to the newest state, by both pipelines.
pub(super) fn relative(pre: &Found, post: &Found, want: &Signature) -> Result<Vec<bool>> {
    for found in [pre, post] {
        let name = found.side.relative();
        let fail = |message: String| Err(Error::config(&found.path, format!("{name}: {message}")));
        if want.use_relative_actions && !found.is_relative() {
            return fail("expected enabled, as config.json's use_relative_actions, got not".into());
        }
        let Some(step) = found.relative.as_ref().filter(|step| step.enabled) else { continue };
        let named = step.action_names.is_some() && found.side == Side::Pre;
        if !step.exclude_joints.is_empty() && !named {
            return fail(
                "exclude_joints: expected none without the action_names that they are about, in the \
                 preprocessor"
                    .into(),
            );
        }
    }
    if pre.is_relative() != post.is_relative() {
        return Err(Error::config(
            &post.path,
            format!(
                "{}: expected enabled = {} as the preprocessor's {}, got {}",
                Side::Post.relative(),
                pre.is_relative(),
                Side::Pre.relative(),
                post.is_relative()
            ),
        ));
    }
    let (dim, state_dim) = (want.action_dim(), want.state_dim());
    let Some(step) = pre.relative.as_ref().filter(|step| step.enabled) else {
        return Ok(Vec::new());
    };
    if state_dim < dim {
        let message = format!(
            "{}: expected {STATE} to be as long as the action, {dim}, got {state_dim}",
            Side::Pre.relative()
        );
        return Err(Error::config(&pre.path, message));
    }
    // As LeRobot 0.6: a name that contains an excluded word stays absolute.
    let words: Vec<String> =
        step.exclude_joints.iter().filter(|w| !w.is_empty()).map(|w| w.to_lowercase()).collect();
    let names = step.action_names.clone().unwrap_or_default();
    let excluded = |name: &String| {
        let name = name.to_lowercase();
        words.iter().any(|word| name.contains(word.as_str()))
    };
    Ok((0..dim).map(|i| !names.get(i).is_some_and(excluded)).collect())
}

/// The statistics in `file`, which lies beside `pipeline`.
fn read(pipeline: &std::path::Path, file: &str) -> Result<(PathBuf, Stats)> {
    let dir = pipeline.parent().unwrap_or(pipeline);
    let path = files::inside(dir, file)
        .map_err(|message| Error::Invalid(format!("state_file {file}: {message}")))?;
    let stats = stats::read(&path)?;
    Ok((path, stats))
}
