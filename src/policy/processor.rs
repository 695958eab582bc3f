//! The processor files of a LeRobot policy folder: normalisation and relative actions.
//!
//! `policy_preprocessor.json` and `policy_postprocessor.json` list steps by registry name; the
//! statistics are in a safetensors file beside them, named `<feature>.<stat>`. Formulas:
//! LeRobot `processor/normalize_processor.py` (mean/std uses `std + 1e-8` forward and `std`
//! backward; min/max maps to [−1, 1]). An action statistic may have the shape `[horizon,
//! action_dim]`: one scale for each row of the chunk, broadcast as LeRobot does. A step that this
//! version does not know is an error, since leaving it out would change the actions.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::config::{ACTION, FeatureType, NormalizationMode, PolicyConfig};
use crate::{Error, Result};

/// File name of the preprocessor.
pub const PREPROCESSOR: &str = "policy_preprocessor.json";
/// File name of the postprocessor.
pub const POSTPROCESSOR: &str = "policy_postprocessor.json";
const NORMALIZER_STATE: &str = "policy_preprocessor_step_4_normalizer_processor.safetensors";
const UNNORMALIZER_STATE: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";
const EPS: f64 = 1e-8;

/// Statistics of one feature: its name (`mean`, `std`, `min`, `max`, …) and values.
pub type FeatureStats = BTreeMap<String, Vec<f32>>;
/// Statistics by feature key.
pub type Stats = BTreeMap<String, FeatureStats>;

/// `y = gain·x + offset`, element by element, and back; the length is a multiple that rows repeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    forward: Vec<(f32, f32)>,
    backward: Vec<(f32, f32)>,
}

impl Affine {
    /// The map for `mode`, from the statistics of one feature of length `len` (the statistics may
    /// also hold `rows·len` values, one set for each row).
    ///
    /// # Errors
    /// When a statistic is missing, has another length, or is not finite.
    pub fn new(key: &str, mode: NormalizationMode, stats: &Stats, len: usize) -> Result<Self> {
        let get = |name: &str| -> Result<&[f32]> {
            let label = format!("{key}.{name}");
            let values = stats.get(key).and_then(|stats| stats.get(name)).ok_or_else(|| {
                Error::checkpoint(&label, "statistics in the normalizer's state file", "nothing")
            })?;
            if values.is_empty() || values.len() % len != 0 {
                let got = format!("{} values", values.len());
                return Err(Error::checkpoint(label, format!("a multiple of {len} values"), got));
            }
            if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::checkpoint(label, "finite values", bad.to_string()));
            }
            Ok(values)
        };
        let pairs: Vec<(f64, f64)> = match mode {
            NormalizationMode::Identity => vec![(1.0, 0.0); len],
            NormalizationMode::MeanStd => zip(get("mean")?, get("std")?),
            NormalizationMode::MinMax => zip(get("min")?, get("max")?),
        };
        let maps = |(a, b): (f64, f64)| match mode {
            NormalizationMode::Identity => ((1.0, 0.0), (1.0, 0.0)),
            NormalizationMode::MeanStd => {
                let gain = 1.0 / (b + EPS);
                ((gain, -a * gain), (b, a))
            }
            NormalizationMode::MinMax => {
                let range = if b > a { b - a } else { EPS };
                ((2.0 / range, -2.0 * a / range - 1.0), (range / 2.0, a + range / 2.0))
            }
        };
        let single = |(gain, offset): (f64, f64)| (gain as f32, offset as f32);
        let (forward, backward) =
            pairs.into_iter().map(maps).map(|(f, b)| (single(f), single(b))).unzip();
        Ok(Self { forward, backward })
    }

    /// Normalises in place; `values` is a whole number of rows.
    pub fn normalize(&self, values: &mut [f32]) {
        apply(&self.forward, values);
    }

    /// Back to raw units, in place.
    pub fn unnormalize(&self, values: &mut [f32]) {
        apply(&self.backward, values);
    }
}

fn zip(a: &[f32], b: &[f32]) -> Vec<(f64, f64)> {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b))).collect()
}

fn apply(map: &[(f32, f32)], values: &mut [f32]) {
    for (value, &(gain, offset)) in values.iter_mut().zip(map.iter().cycle()) {
        *value = gain * *value + offset;
    }
}

/// Everything between raw units and the network: one map for each feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    /// Maps of the inputs, by feature key.
    pub inputs: BTreeMap<String, Affine>,
    /// Map of the action chunk.
    pub action: Affine,
    /// Whether the newest state is subtracted from every action before normalising.
    pub relative: bool,
}

impl Processor {
    /// The processor that `config` asks for, over `stats`.
    ///
    /// # Errors
    /// When statistics are missing or do not fit the features.
    pub fn new(config: &PolicyConfig, stats: &Stats) -> Result<Self> {
        let inputs = config
            .input_features
            .iter()
            .map(|(key, feature)| {
                let len = feature.shape.iter().product();
                Ok((key.clone(), Affine::new(key, config.mode(feature.kind), stats, len)?))
            })
            .collect::<Result<_>>()?;
        let mode = config.mode(FeatureType::Action);
        let action = Affine::new(ACTION, mode, stats, config.action_dim())?;
        if action.forward.len() != config.action_dim()
            && action.forward.len() != config.action_dim() * config.horizon
        {
            return Err(Error::checkpoint(
                "action statistics",
                format!("shape [{0}] or [{1}, {0}]", config.action_dim(), config.horizon),
                format!("{} values", action.forward.len()),
            ));
        }
        Ok(Self { inputs, action, relative: config.use_relative_actions })
    }

    /// Actions `[horizon, action_dim]` in raw units to normalised ones, in place.
    pub fn normalize_actions(&self, newest_state: &[f32], actions: &mut [f32]) {
        if self.relative {
            for row in actions.chunks_exact_mut(newest_state.len()) {
                row.iter_mut().zip(newest_state).for_each(|(a, s)| *a -= s);
            }
        }
        self.action.normalize(actions);
    }

    /// Normalised actions to raw units, in place.
    pub fn unnormalize_actions(&self, newest_state: &[f32], actions: &mut [f32]) {
        self.action.unnormalize(actions);
        if self.relative {
            for row in actions.chunks_exact_mut(newest_state.len()) {
                row.iter_mut().zip(newest_state).for_each(|(a, s)| *a += s);
            }
        }
    }
}

/// Writes both pipelines and their state files into `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn save(dir: &Path, config: &PolicyConfig, stats: &Stats) -> Result<()> {
    let features: BTreeMap<_, _> =
        config.input_features.iter().chain(&config.output_features).collect();
    let normalizer = json!({
        "eps": EPS, "features": features, "norm_map": config.normalization_mapping,
    });
    let output = json!({
        "eps": EPS, "features": config.output_features, "norm_map": config.normalization_mapping,
    });
    let step =
        |name: &str, step_config: Value| json!({"registry_name": name, "config": step_config});
    let device = || step("device_processor", json!({"device": "cpu", "float_dtype": null}));
    let relative = json!({"enabled": config.use_relative_actions, "exclude_joints": []});
    let mut normalize = step("normalizer_processor", normalizer);
    normalize["state_file"] = json!(NORMALIZER_STATE);
    let mut unnormalize = step("unnormalizer_processor", output);
    unnormalize["state_file"] = json!(UNNORMALIZER_STATE);
    let pre = json!({"name": "policy_preprocessor", "steps": [
        step("rename_observations_processor", json!({"rename_map": {}})),
        step("to_batch_processor", json!({})),
        step("relative_actions_processor", relative.clone()),
        device(),
        normalize,
    ]});
    let post = json!({"name": "policy_postprocessor", "steps": [
        unnormalize, step("absolute_actions_processor", relative), device(),
    ]});
    for (name, pipeline) in [(PREPROCESSOR, pre), (POSTPROCESSOR, post)] {
        let path = dir.join(name);
        let text = format!("{pipeline:#}\n");
        std::fs::write(&path, text).map_err(|e| Error::io(path, e))?;
    }
    let mut tensors = std::collections::HashMap::new();
    for (key, feature) in stats {
        let dims = features.get(key).map_or(1, |f| f.shape.iter().product::<usize>());
        for (name, values) in feature {
            let shape: Vec<usize> = if values.len() > dims && values.len() % dims == 0 {
                vec![values.len() / dims, dims]
            } else {
                vec![values.len()]
            };
            let tensor = Tensor::from_slice(values, shape, &Device::Cpu)?;
            tensors.insert(format!("{key}.{name}"), tensor);
        }
    }
    for name in [NORMALIZER_STATE, UNNORMALIZER_STATE] {
        candle_core::safetensors::save(&tensors, dir.join(name))?;
    }
    Ok(())
}

/// Reads both pipelines of the policy folder `dir`, and the statistics.
///
/// # Errors
/// When a file is missing, a step is unknown, or a setting contradicts `config`.
pub fn load(dir: &Path, config: &PolicyConfig) -> Result<Processor> {
    let (pre, stats) = read(&dir.join(PREPROCESSOR))?;
    let (post, _) = read(&dir.join(POSTPROCESSOR))?;
    for (file, steps, wanted) in [
        (PREPROCESSOR, &pre, "relative_actions_processor"),
        (POSTPROCESSOR, &post, "absolute_actions_processor"),
    ] {
        let enabled = steps.iter().any(|(name, step)| {
            name == wanted && step.get("enabled").and_then(Value::as_bool).unwrap_or(true)
        });
        if enabled != config.use_relative_actions {
            let message = format!(
                "{wanted}: expected enabled = {} as config.json's use_relative_actions, got {enabled}",
                config.use_relative_actions
            );
            return Err(Error::config(dir.join(file), message));
        }
    }
    let Some(stats) = stats else {
        let message = "expected a normalizer_processor step with a state_file, found none";
        return Err(Error::config(dir.join(PREPROCESSOR), message));
    };
    Processor::new(config, &stats)
}

type Steps = Vec<(String, Value)>;

fn read(path: &Path) -> Result<(Steps, Option<Stats>)> {
    const KNOWN: [&str; 7] = [
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
        "unnormalizer_processor",
        "relative_actions_processor",
        "absolute_actions_processor",
    ];
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let pipeline: Value =
        serde_json::from_str(&text).map_err(|e| Error::config(path, format!("not JSON: {e}")))?;
    let steps = pipeline
        .get("steps")
        .and_then(Value::as_array)
        .ok_or_else(|| Error::config(path, "expected a list \"steps\", found none"))?;
    let mut out = Steps::new();
    let mut stats = None;
    for step in steps {
        let name =
            step.get("registry_name").and_then(Value::as_str).unwrap_or("(no registry_name)");
        if !KNOWN.contains(&name) {
            let message = format!("unknown step {name}; this version knows {}", KNOWN.join(", "));
            return Err(Error::config(path, message));
        }
        let config = step.get("config").cloned().unwrap_or_default();
        if name == "rename_observations_processor"
            && config.get("rename_map").and_then(Value::as_object).is_some_and(|m| !m.is_empty())
        {
            let message = "rename_observations_processor: expected an empty rename_map";
            return Err(Error::config(path, message));
        }
        if let Some(file) = step.get("state_file").and_then(Value::as_str) {
            let dir = path.parent().unwrap_or(Path::new("."));
            stats = Some(read_stats(dir, file)?);
        }
        out.push((name.to_owned(), config));
    }
    Ok((out, stats))
}

fn read_stats(dir: &Path, file: &str) -> Result<Stats> {
    if file.contains(['/', '\\']) || file.contains("..") {
        return Err(Error::config(
            dir,
            format!("state_file: expected a plain file name, got {file}"),
        ));
    }
    let path = dir.join(file);
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| Error::config(&path, format!("not a safetensors file: {e}")))?;
    let mut stats = Stats::new();
    let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    for (name, tensor) in tensors {
        let Some((key, stat)) = name.rsplit_once('.') else {
            return Err(Error::checkpoint(name, "<feature>.<stat>", "no dot in the name"));
        };
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        stats.entry(key.to_owned()).or_default().insert(stat.to_owned(), values);
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let entry = |pairs: &[(&str, &[f32])]| {
            pairs.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
        };
        Stats::from([
            ("a".to_owned(), entry(&[("mean", &[1.0, 2.0]), ("std", &[2.0, 4.0])])),
            ("b".to_owned(), entry(&[("min", &[0.0]), ("max", &[512.0])])),
            ("c".to_owned(), entry(&[("min", &[f32::NAN]), ("max", &[1.0])])),
        ])
    }

    #[test]
    fn forward_and_backward_are_inverse() {
        for (key, mode, len) in
            [("a", NormalizationMode::MeanStd, 2), ("b", NormalizationMode::MinMax, 1)]
        {
            let map = Affine::new(key, mode, &stats(), len).unwrap();
            let raw = [3.0f32, -7.0, 100.0, 511.0];
            let mut values = raw;
            map.normalize(&mut values);
            map.unnormalize(&mut values);
            for (got, want) in values.iter().zip(raw) {
                assert!((got - want).abs() < 1e-3, "{key}: {got} {want}");
            }
        }
        let map = Affine::new("b", NormalizationMode::MinMax, &stats(), 1).unwrap();
        let mut ends = [0.0, 256.0, 512.0];
        map.normalize(&mut ends);
        assert_eq!(ends, [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn missing_or_broken_statistics_are_named() {
        let error = |key, mode| Affine::new(key, mode, &stats(), 1).unwrap_err().to_string();
        assert!(error("b", NormalizationMode::MeanStd).contains("b.mean"));
        assert!(error("c", NormalizationMode::MinMax).contains("c.min"));
    }
}
