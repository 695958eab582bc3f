//! A golden folder of `tests/golden/lerobot`, complete in a temporary place.
//!
//! Folders with a ResNet hold `weights.json` and `literal.safetensors` for `model.safetensors`, which
//! would be 45 MB: this writes it. The formula stands in `tests/golden/lerobot/reference.py`; `check` in
//! `weights.json` is the sum of the first eight values' bits as numpy computed them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

use crate::formula;

/// Where the folder called `name` is kept.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lerobot").join(name)
}

/// The names of all folders, sorted.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(source(""))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("config.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no golden folders in {}", source("").display());
    names
}

/// A copy of the folder called `name` with its `model.safetensors`.
pub(crate) fn copy(name: &str) -> TempDir {
    let (from, dir) = (source(name), tempfile::tempdir().unwrap());
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    if from.join("weights.json").is_file() {
        write_model(dir.path());
        fs::remove_file(dir.path().join("weights.json")).unwrap();
        fs::remove_file(dir.path().join("literal.safetensors")).unwrap();
    }
    dir
}

/// Writes `model.safetensors` from the `weights.json` and `literal.safetensors` of the same folder.
fn write_model(dir: &Path) {
    let text = fs::read_to_string(dir.join("weights.json")).unwrap();
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let written: Vec<(&String, Vec<usize>, Vec<u8>)> = entries
        .iter()
        .map(|(name, entry)| {
            let shape: Vec<usize> = entry["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|size| usize::try_from(size.as_u64().unwrap()).unwrap())
                .collect();
            let number = |key: &str| entry[key].as_f64().unwrap() as f32;
            let count = shape.iter().product();
            let values = formula::values(name, count, number("offset"), number("scale"));
            let check: u64 = values.iter().take(8).map(|value| u64::from(value.to_bits())).sum();
            assert_eq!(check, entry["check"].as_u64().unwrap(), "{name}: numpy has other bits");
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let literal = fs::read(dir.join("literal.safetensors")).unwrap();
    let literal = SafeTensors::deserialize(&literal).unwrap();
    let views = written
        .iter()
        .map(|(name, shape, bytes)| {
            (name.to_string(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        })
        .chain(literal.tensors());
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}
