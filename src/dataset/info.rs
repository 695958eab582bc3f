//! `meta/info.json`: version, totals, rates, paths and features.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use super::{CODEBASE_VERSION, Features};
use crate::{Error, Result};

/// Path of the file inside the folder.
pub(crate) const INFO_PATH: &str = "meta/info.json";

/// The contents of `meta/info.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the layout, `v3.0`.
    pub codebase_version: String,
    /// The robot, where the writer named one.
    #[serde(default)]
    pub robot_type: Option<String>,
    /// Number of episodes.
    pub total_episodes: usize,
    /// Number of frames of all episodes.
    pub total_frames: usize,
    /// Number of different tasks.
    pub total_tasks: usize,
    /// Largest number of files in a `chunk-` folder.
    #[serde(default = "default_chunks_size")]
    pub chunks_size: usize,
    /// A data file ends before it grows beyond this, MB.
    #[serde(default = "default_data_size")]
    pub data_files_size_in_mb: u64,
    /// The same for videos, MB.
    #[serde(default = "default_video_size")]
    pub video_files_size_in_mb: u64,
    /// Frames a second.
    #[serde(serialize_with = "whole_as_integer")]
    pub fps: f64,
    /// Named ranges of episodes, such as `train` → `0:100`.
    #[serde(default)]
    pub splits: BTreeMap<String, String>,
    /// Pattern of the data files' paths.
    pub data_path: String,
    /// Pattern of the videos' paths.
    #[serde(default)]
    pub video_path: Option<String>,
    /// All features, with the columns that every data set has.
    pub features: Features,
}

fn default_chunks_size() -> usize {
    1000
}

fn default_data_size() -> u64 {
    100
}

fn default_video_size() -> u64 {
    200
}

// LeRobot's `fps` is an int; JSON from other tools may hold 10.0.
fn whole_as_integer<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

impl Info {
    /// The file of a data set without frames.
    pub(crate) fn empty(features: &Features, fps: u32, robot_type: &str) -> Self {
        Self {
            codebase_version: CODEBASE_VERSION.into(),
            robot_type: (!robot_type.is_empty()).then(|| robot_type.to_owned()),
            total_episodes: 0,
            total_frames: 0,
            total_tasks: 0,
            chunks_size: default_chunks_size(),
            data_files_size_in_mb: default_data_size(),
            video_files_size_in_mb: default_video_size(),
            fps: f64::from(fps),
            splits: BTreeMap::new(),
            data_path: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet".into(),
            video_path: None,
            features: features.with_defaults(),
        }
    }

    /// Reads the file of the data set in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(INFO_PATH);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                let what =
                    if dir.is_dir() { "this folder has no such file" } else { "no such folder" };
                Error::config(&path, format!("expected a LeRobotDataset v3.0 folder; {what}"))
            } else {
                Error::io(&path, e)
            }
        })?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| Error::config(&path, format!("expected JSON: {e}")))?;
        // The version comes first: older layouts lack keys, and "missing field" would mislead.
        let version = json.get("codebase_version").and_then(|v| v.as_str()).unwrap_or("none");
        if version != "v3" && !version.starts_with("v3.") {
            return Err(Error::config(
                &path,
                format!(
                    "expected codebase_version {CODEBASE_VERSION}, this data set is {version}; LeRobot converts \
                     v2.1 with `python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`"
                ),
            ));
        }
        let info: Self = serde_json::from_value(json)
            .map_err(|e| Error::config(&path, format!("cannot be used: {e}")))?;
        if !(info.fps.is_finite() && info.fps > 0.0) {
            return Err(Error::config(&path, format!("fps: expected > 0, got {}", info.fps)));
        }
        for (key, feature) in info.features.iter() {
            if feature.dim() == 0 || feature.shape.is_empty() {
                let shape = &feature.shape;
                return Err(Error::config(&path, format!("{key}: empty shape {shape:?}")));
            }
        }
        Ok(info)
    }

    /// Writes the file.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(INFO_PATH), self)
    }

    /// Path of a data file, relative to the folder.
    pub(crate) fn data_file(&self, chunk_index: usize, file_index: usize) -> String {
        fill(&self.data_path, &[("chunk_index", chunk_index), ("file_index", file_index)])
    }
}

/// Writes a value as JSON with LeRobot's indent of four, and waits until it is on the disk.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
    value
        .serialize(&mut serializer)
        .map_err(|e| Error::config(path, format!("cannot be written as JSON: {e}")))?;
    super::staging::write_synced(path, &bytes)
}

// Python's `{name:03d}` for the two names that LeRobot's patterns use.
fn fill(pattern: &str, values: &[(&str, usize)]) -> String {
    let mut out = pattern.to_owned();
    for (name, value) in values {
        for width in 0..10 {
            out = out.replace(&format!("{{{name}:0{width}d}}"), &format!("{value:0width$}"));
        }
        out = out.replace(&format!("{{{name}}}"), &value.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_filled_as_python_fills_them() {
        let values = [("chunk_index", 7), ("file_index", 1234)];
        let pattern = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet";
        assert_eq!(fill(pattern, &values), "data/chunk-007/file-1234.parquet");
        assert_eq!(fill("{chunk_index}/{file_index:06d}", &values), "7/001234");
    }
}
