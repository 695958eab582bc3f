//! Writing both pipelines, as LeRobot 0.4.4 writes them.
//!
//! A policy of one of LeRobot's types gets LeRobot's own steps (`policies/diffusion/
//! processor_diffusion.py`, the same in ACT); Pathline's own type also has the steps for relative
//! actions. All statistics are in both state files, as in LeRobot.

use std::path::Path;

use serde::Serialize;

use super::normalize::EPS;
use super::steps::{Device, Normalizer, Relative, Rename};
use super::{Features, Signature, Stats};
use super::{POSTPROCESSOR, PREPROCESSOR, stats};
use crate::{Error, Result};

/// A pipeline as it stands in the file.
#[derive(Serialize)]
struct File {
    name: &'static str,
    steps: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    registry_name: &'static str,
    config: Options,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_file: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Options {
    Rename(Rename),
    Device(Device),
    Normalizer(Normalizer),
    Relative(Relative),
    None {},
}

const PRE: &str = "policy_preprocessor";
const POST: &str = "policy_postprocessor";

/// Writes both pipelines and their state files into `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn save(dir: &Path, want: &Signature, stats: &Stats) -> Result<()> {
    let all: Features = want
        .input_features
        .iter()
        .chain(&want.output_features)
        .map(|(key, feature)| (key.clone(), feature.clone()))
        .collect();
    let normalizer = |features: &Features| {
        Options::Normalizer(Normalizer {
            eps: EPS,
            features: features.clone(),
            norm_map: want.normalization_mapping.clone(),
            normalize_observation_keys: None,
        })
    };
    let relative = || {
        Options::Relative(Relative { enabled: want.use_relative_actions, ..Relative::default() })
    };
    let device = || ("device_processor", Options::Device(Device::default()));
    let own = want.kind == "pathline_flow" || want.use_relative_actions;

    let mut pre = vec![
        ("rename_observations_processor", Options::Rename(Rename::default())),
        ("to_batch_processor", Options::None {}),
    ];
    if own {
        pre.push(("relative_actions_processor", relative()));
    }
    pre.extend([device(), ("normalizer_processor", normalizer(&all))]);
    let mut post = vec![("unnormalizer_processor", normalizer(&want.output_features))];
    if own {
        post.push(("absolute_actions_processor", relative()));
    }
    post.push(device());

    for (name, file, steps) in [(PRE, PREPROCESSOR, pre), (POST, POSTPROCESSOR, post)] {
        let mut entries = Vec::with_capacity(steps.len());
        for (i, (registry_name, config)) in steps.into_iter().enumerate() {
            let state_file = matches!(config, Options::Normalizer(_))
                .then(|| format!("{name}_step_{i}_{registry_name}.safetensors"));
            if let Some(state_file) = &state_file {
                stats::write(&dir.join(state_file), stats, &all)?;
            }
            entries.push(Entry { registry_name, config, state_file });
        }
        let path = dir.join(file);
        let text = serde_json::to_string_pretty(&File { name, steps: entries })
            .map_err(|e| Error::config(&path, e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}
