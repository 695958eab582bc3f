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
use crate::{Error, Result, tensors as files};

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

/// A map of each element: `y = (x − center)/scale + offset` and `x = (y − offset)·scale_back + center`.
///
/// Written so that every operation rounds as LeRobot's does; one product and one sum would cancel
/// badly for a feature far from zero or of no width. Rows repeat the map.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine(Vec<Element>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Element {
    center: f32,
    scale: f32,
    scale_back: f32,
    offset: f32,
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
        let pair = |first: &str, second: &str| -> Result<Vec<(f32, f32)>> {
            let (a, b) = (get(first)?, get(second)?);
            if a.len() != b.len() {
                let expected = format!("{} values as {key}.{first}", a.len());
                let got = format!("{}", b.len());
                return Err(Error::checkpoint(format!("{key}.{second}"), expected, got));
            }
            Ok(a.iter().copied().zip(b.iter().copied()).collect())
        };
        let elements = match mode {
            NormalizationMode::Identity => {
                vec![Element { center: 0.0, scale: 1.0, scale_back: 1.0, offset: 0.0 }; len]
            }
            NormalizationMode::MeanStd => pair("mean", "std")?
                .into_iter()
                .map(|(mean, std)| Element {
                    center: mean,
                    scale: std + EPS as f32,
                    scale_back: std,
                    offset: 0.0,
                })
                .collect(),
            NormalizationMode::MinMax => pair("min", "max")?
                .into_iter()
                .map(|(min, max)| {
                    // LeRobot gives a feature of no width the width eps.
                    let width = if max == min { EPS as f32 } else { max - min };
                    let half = width / 2.0;
                    Element { center: min, scale: half, scale_back: half, offset: -1.0 }
                })
                .collect(),
        };
        Ok(Self(elements))
    }

    /// Number of elements before the map repeats.
    fn len(&self) -> usize {
        self.0.len()
    }

    /// Normalises in place; `values` is a whole number of rows.
    pub fn normalize(&self, values: &mut [f32]) {
        for (value, e) in values.iter_mut().zip(self.0.iter().cycle()) {
            *value = (*value - e.center) / e.scale + e.offset;
        }
    }

    /// Back to raw units, in place.
    pub fn unnormalize(&self, values: &mut [f32]) {
        for (value, e) in values.iter_mut().zip(self.0.iter().cycle()) {
            *value = (*value - e.offset) * e.scale_back + e.center;
        }
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
                let map = Affine::new(key, config.mode(feature.kind), stats, len)?;
                if map.len() != len {
                    let (expected, got) = (format!("{len} values"), map.len().to_string());
                    return Err(Error::checkpoint(format!("{key} statistics"), expected, got));
                }
                Ok((key.clone(), map))
            })
            .collect::<Result<_>>()?;
        let mode = config.mode(FeatureType::Action);
        let action = Affine::new(ACTION, mode, stats, config.action_dim())?;
        let dim = config.action_dim();
        if action.len() != dim && action.len() != dim * config.horizon {
            return Err(Error::checkpoint(
                "action statistics",
                format!("shape [{dim}] or [{}, {dim}]", config.horizon),
                format!("{} values", action.len()),
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
        files::save(&tensors, &dir.join(name))?;
    }
    Ok(())
}

/// Reads both pipelines of the policy folder `dir`, and the statistics: of the observations from the
/// preprocessor, of the action from the postprocessor.
///
/// # Errors
/// When a file is missing, a step is unknown, or a setting contradicts `config`.
pub fn load(dir: &Path, config: &PolicyConfig) -> Result<Processor> {
    let mut stats = read(
        &dir.join(PREPROCESSOR),
        "normalizer_processor",
        "relative_actions_processor",
        config,
    )?;
    let post = read(
        &dir.join(POSTPROCESSOR),
        "unnormalizer_processor",
        "absolute_actions_processor",
        config,
    )?;
    stats.remove(ACTION);
    stats.extend(post.into_iter().filter(|(key, _)| key == ACTION));
    Processor::new(config, &stats)
}

/// Reads one pipeline: `normalizer` is its step with the statistics, `relative` the one that moves
/// actions into or out of the frame of the newest state.
fn read(path: &Path, normalizer: &str, relative: &str, config: &PolicyConfig) -> Result<Stats> {
    const HARMLESS: [&str; 1] = ["to_batch_processor"];
    let fail = |message: String| Err(Error::config(path, message));
    let text = super::folder::read_text(path, super::folder::MAX_TEXT)?;
    let pipeline: Value =
        serde_json::from_str(&text).map_err(|e| Error::config(path, format!("not JSON: {e}")))?;
    let Some(steps) = pipeline.get("steps").and_then(Value::as_array) else {
        return fail("expected a list \"steps\", found none".into());
    };
    let (mut stats, mut is_relative) = (None, false);
    for step in steps {
        let name =
            step.get("registry_name").and_then(Value::as_str).unwrap_or("(no registry_name)");
        let options = step.get("config").cloned().unwrap_or_default();
        let set = |key: &str| options.get(key).is_some_and(|value| !is_empty(value));
        if name == normalizer {
            check_normalizer(&options, config)
                .map_err(|message| Error::config(path, format!("{name}: {message}")))?;
            let Some(file) = step.get("state_file").and_then(Value::as_str) else {
                return fail(format!("{name}: expected a state_file, found none"));
            };
            stats = Some(read_stats(path, file)?);
        } else if name == relative {
            is_relative = options.get("enabled").and_then(Value::as_bool).unwrap_or(true);
            if set("exclude_joints") {
                return fail(format!("{name}: expected no exclude_joints"));
            }
        } else if name == "rename_observations_processor" {
            if set("rename_map") {
                return fail(format!("{name}: expected an empty rename_map"));
            }
        } else if name == "device_processor" {
            if set("float_dtype") && options["float_dtype"] != "float32" {
                return fail(format!("{name}: expected no float_dtype, or float32"));
            }
        } else if !HARMLESS.contains(&name) {
            return fail(format!(
                "unknown step {name}; this version knows {normalizer}, {relative}, \
                 rename_observations_processor, device_processor and to_batch_processor here"
            ));
        }
    }
    if is_relative != config.use_relative_actions {
        return fail(format!(
            "{relative}: expected enabled = {} as config.json's use_relative_actions, got \
             {is_relative}",
            config.use_relative_actions
        ));
    }
    match stats {
        Some(stats) => Ok(stats),
        None => fail(format!("expected a {normalizer} step, found none")),
    }
}

/// LeRobot normalises by what the step says, Pathline by config.json: they must agree.
fn check_normalizer(options: &Value, config: &PolicyConfig) -> Result<(), String> {
    if let Some(map) = options.get("norm_map") {
        let expected = json!(config.normalization_mapping);
        if *map != expected {
            return Err(format!(
                "norm_map: expected config.json's normalization_mapping {expected}, got {map}"
            ));
        }
    }
    if let Some(eps) = options.get("eps")
        && eps.as_f64() != Some(EPS)
    {
        return Err(format!("eps: expected {EPS:e}, got {eps}"));
    }
    match options.get("normalize_observation_keys") {
        Some(keys) if !keys.is_null() => Err("expected no normalize_observation_keys".into()),
        _ => Ok(()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The statistics in `file`, which lies beside `pipeline`.
fn read_stats(pipeline: &Path, file: &str) -> Result<Stats> {
    if file.contains(['/', '\\', ':']) || file.contains("..") {
        let message = format!("state_file: expected a plain file name, got {file}");
        return Err(Error::config(pipeline, message));
    }
    let path = pipeline.with_file_name(file);
    let tensors: BTreeMap<_, _> = files::load(&path, &Device::Cpu)?.into_iter().collect();
    let mut stats = Stats::new();
    for (name, tensor) in tensors {
        let Some((key, stat)) = name.rsplit_once('.') else {
            let message = format!("tensor {name}: expected a name <feature>.<stat>");
            return Err(Error::config(&path, message));
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
    fn a_constant_feature_far_from_zero_stays_where_it_is() {
        let constant: FeatureStats =
            [("min", 300.0), ("max", 300.0)].map(|(k, v)| (k.to_owned(), vec![v])).into();
        let stats = Stats::from([("a".to_owned(), constant)]);
        let map = Affine::new("a", NormalizationMode::MinMax, &stats, 1).unwrap();
        let mut value = [300.0];
        map.normalize(&mut value);
        assert_eq!(value, [-1.0]);
        map.unnormalize(&mut value);
        assert_eq!(value, [300.0]);
    }

    #[test]
    fn missing_or_broken_statistics_are_named() {
        let error = |key, mode| Affine::new(key, mode, &stats(), 1).unwrap_err().to_string();
        assert!(error("b", NormalizationMode::MeanStd).contains("b.mean"));
        assert!(error("c", NormalizationMode::MinMax).contains("c.min"));
        let mut uneven = stats();
        uneven.get_mut("a").unwrap().get_mut("std").unwrap().push(1.0);
        let error = Affine::new("a", NormalizationMode::MeanStd, &uneven, 1).unwrap_err();
        assert!(error.to_string().contains("a.std"), "{error}");
    }
}
