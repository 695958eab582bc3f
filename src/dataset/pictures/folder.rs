//! Any folder of PNG files.
//!
//! As Hugging Face's `imagefolder`: subfolders of the first level are classes, and a `metadata.jsonl`
//! in the folder gives captions, one JSON object a line with `file_name` (relative to the folder) and
//! `text`. A picture without a line there may have a text file of its own name beside it
//! (`cat.png`, `cat.txt`). Captions are all or none. Links are not followed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::captions::read_text;
use super::{Pictures, check_bytes, png_file};
use crate::{Error, Result};

const METADATA: &str = "metadata.jsonl";

/// How deep subfolders are looked into, and the most files.
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 10_000_000;

#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

/// Every picture's middle square at `size`×`size`.
pub(super) fn read(folder: &Path, size: usize, channels: usize) -> Result<Pictures> {
    let mut files = Vec::new();
    list(folder, Path::new(""), 0, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::config(folder, "expected one .png file or more, got none"));
    }
    check_bytes(files.len(), size * size * channels)?;
    let read_one = |name: &PathBuf| -> Result<Vec<u8>> {
        let path = folder.join(name);
        let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        let raster = png_file::decode(BufReader::new(file)).map_err(|e| Error::config(&path, e))?;
        Ok(raster.with_channels(channels).middle_square().resized(size).pixels)
    };
    let pixels = files.par_iter().map(read_one).collect::<Result<Vec<_>>>()?.concat();
    let captions = captions(folder, &files)?;
    let (labels, classes) = classes(&files);
    Ok(Pictures {
        size: [size; 2],
        channels,
        pixels,
        captions,
        labels,
        classes,
        ..Pictures::default()
    })
}

fn list(folder: &Path, below: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let here = folder.join(below);
    let io = |e| Error::io(&here, e);
    for entry in fs::read_dir(&here).map_err(io)? {
        let entry = entry.map_err(io)?;
        let kind = entry.file_type().map_err(io)?;
        let name = below.join(entry.file_name());
        let is_png = name.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        if kind.is_dir() && depth < MAX_DEPTH {
            list(folder, &name, depth + 1, files)?;
        } else if kind.is_file() && is_png {
            files.push(name);
        }
        if files.len() > MAX_FILES {
            let message = format!("expected at most {MAX_FILES} pictures, got more");
            return Err(Error::config(folder, message));
        }
    }
    Ok(())
}

/// A caption each, or none at all.
fn captions(folder: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut listed = metadata(&folder.join(METADATA))?;
    let mut captions = Vec::with_capacity(files.len());
    let mut missing = None;
    for name in files {
        let beside = folder.join(name).with_extension("txt");
        if let Some(text) = listed.remove(name) {
            captions.push(text);
        } else if beside.is_file() {
            captions.push(read_text(&beside)?.trim().to_owned());
        } else {
            missing = missing.or(Some(name));
        }
    }
    if let Some(name) = listed.keys().next() {
        let path = folder.join(METADATA);
        let message =
            format!("expected files of this folder, got {:?}", name.display().to_string());
        return Err(Error::config(path, message));
    }
    match missing {
        Some(name) if !captions.is_empty() => Err(Error::config(
            folder.join(name),
            format!(
                "expected a caption, as {} other pictures have one: a line in {METADATA} or a .txt \
                 file beside it",
                captions.len()
            ),
        )),
        _ => Ok(captions),
    }
}

fn metadata(path: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut listed = BTreeMap::new();
    if !path.exists() {
        return Ok(listed);
    }
    for (number, line) in read_text(path)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let at = number + 1;
        let wrong = |message: String| Error::config(path, format!("line {at}: {message}"));
        let line: Line = serde_json::from_str(line)
            .map_err(|e| wrong(format!("expected {{\"file_name\": …, \"text\": …}}: {e}")))?;
        let name = line.file_name;
        let relative = PathBuf::from(name.strip_prefix("./").unwrap_or(&name));
        if listed.insert(relative, line.text).is_some() {
            return Err(wrong(format!("expected each file once, got {name:?} twice")));
        }
    }
    Ok(listed)
}

/// The first folder of every name, if all have one.
fn classes(files: &[PathBuf]) -> (Vec<u32>, Vec<String>) {
    let first = |name: &PathBuf| -> Option<String> {
        let mut parts = name.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let Some(names) = files.iter().map(first).collect::<Option<Vec<String>>>() else {
        return (Vec::new(), Vec::new());
    };
    let mut classes = names.clone();
    classes.sort();
    classes.dedup();
    let label = |name: &String| classes.binary_search(name).unwrap_or_default() as u32;
    (names.iter().map(label).collect(), classes)
}
