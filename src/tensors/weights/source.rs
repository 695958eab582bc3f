//! Which files of a folder hold the weights: one file, or an index and its shards.
//!
//! `model.safetensors.index.json` has `weight_map`, tensor name to file name (as written by
//! huggingface_hub's `save_torch_model`). Every tensor has to be where the map says and nowhere else.
//! Pickles (`.pt`, `.bin`, `.ckpt` and their like) run code when they are read, so they are not.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;

use crate::tensors::files;
use crate::tensors::header::{Entry, Header, MAX_TENSORS, shown};
use crate::tensors::unique::Unique;
use crate::{Error, Result};

/// The most bytes of an index.
const MAX_INDEX: u64 = 16_000_000;
/// The most shards of a model.
const MAX_SHARDS: usize = 1000;

/// An open file of weights, whose header is read.
pub(super) struct ModelFile {
    pub(super) path: PathBuf,
    pub(super) file: Mutex<File>,
    pub(super) data_start: u64,
    pub(super) bytes: u64,
}

/// The weights of a folder: headers only.
pub(super) struct Source {
    /// The file that errors name.
    pub(super) path: PathBuf,
    pub(super) files: Vec<ModelFile>,
    /// Number of a file and what it says of the tensor, by name.
    pub(super) tensors: BTreeMap<String, (usize, Entry)>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Source {
    /// Finds and opens the weights of the folder `dir`: `{stem}.safetensors`, or
    /// `{stem}.safetensors.index.json` and its shards.
    pub(super) fn open(dir: &Path, stem: &str) -> Result<Self> {
        let single = dir.join(format!("{stem}.safetensors"));
        let index = dir.join(format!("{stem}.safetensors.index.json"));
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        if is_there(&single) {
            let mut source = Self::empty(single.clone());
            source.add(single, |_| Ok(()))?;
            Ok(source)
        } else if is_there(&index) {
            Self::sharded(dir, &index)
        } else {
            Err(no_weights(dir, single, &index))
        }
    }

    fn empty(path: PathBuf) -> Self {
        Self { path, files: Vec::new(), tensors: BTreeMap::new(), metadata: BTreeMap::new() }
    }

    pub(super) fn sharded(dir: &Path, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: Unique<String>,
        }
        let text = files::read_text(path, MAX_INDEX)?;
        let fail = |message: String| Error::config(path, message);
        let index: Index = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        let map = index.weight_map.0;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in map.values() {
            *shards.entry(shard).or_default() += 1;
        }
        if map.len() > MAX_TENSORS || shards.len() > MAX_SHARDS {
            return Err(fail(format!(
                "weight_map: expected at most {MAX_TENSORS} tensors in {MAX_SHARDS} files, got {} in \
                 {}",
                map.len(),
                shards.len()
            )));
        }
        // All names before any file.
        let mut files = Vec::with_capacity(shards.len());
        for (shard, expected) in shards {
            if !shard.ends_with(".safetensors") {
                return Err(fail(format!(
                    "weight_map: expected names of .safetensors files, got {}",
                    shown(shard)
                )));
            }
            let file = files::inside(dir, shard)
                .map_err(|e| fail(format!("weight_map: shard {}: {e}", shown(shard))))?;
            files.push((shard, expected, file));
        }
        let list = path.file_name().unwrap_or_default().display();
        let mut source = Self::empty(path.to_owned());
        for (shard, expected, file) in files {
            let mut found = 0;
            source.add(file, |name| match map.get(name) {
                Some(place) if place == shard => {
                    found += 1;
                    Ok(())
                }
                Some(place) => Err(format!("{list} says that it is in {}", shown(place))),
                None => Err(format!("{list} does not list it")),
            })?;
            if found != expected {
                let missing = map
                    .iter()
                    .find(|(name, place)| *place == shard && !source.tensors.contains_key(*name))
                    .map_or_else(String::new, |(name, _)| shown(name));
                return Err(fail(format!(
                    "weight_map: expected {expected} tensors in {}, got {found}; {missing} is not \
                     there",
                    shown(shard)
                )));
            }
        }
        Ok(source)
    }

    /// Opens a file and takes the tensors that `check` lets in.
    fn add(
        &mut self,
        path: PathBuf,
        mut check: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<()> {
        let (file, header) = Header::open(&path)?;
        let number = self.files.len();
        for entry in header.entries {
            check(&entry.name).map_err(|message| {
                Error::config(&path, format!("tensor {}: {message}", shown(&entry.name)))
            })?;
            self.tensors.insert(entry.name.clone(), (number, entry));
        }
        self.metadata.extend(header.metadata);
        let bytes = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        let file = Mutex::new(file);
        self.files.push(ModelFile { path, file, data_start: header.data_start, bytes });
        Ok(())
    }
}

/// Says what is there instead of weights.
fn no_weights(dir: &Path, path: PathBuf, index: &Path) -> Error {
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if files::is_pickle(&entry.path()) {
            pickles.push(shown(&entry.file_name().to_string_lossy()));
        }
    }
    pickles.sort();
    let message = match pickles.first() {
        Some(pickle) => format!("no such file, but {pickle}, {}", files::PICKLE),
        None => {
            let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
            format!(
                "expected the weights, {} or {} with its shards; found neither",
                name(&path),
                name(index)
            )
        }
    };
    Error::config(path, message)
}
