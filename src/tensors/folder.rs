//! Where a policy or a model lies: the folder that holds a certain file, found from what the user named.
//!
//! | the user names | taken |
//! |---|---|
//! | the folder | itself |
//! | a checkpoint | `pretrained_model` in it |
//! | a run, or its `checkpoints` | `last`, else the newest numbered checkpoint |
//! | `models--org--name` of a Hugging Face cache, or `snapshots` in it | the snapshot of `refs/main`, else the only one |
//! | `org/name`, where no such folder is | the same, in `$HF_HUB_CACHE`, `$HF_HOME/hub`, `~/.cache/huggingface/hub` |
//!
//! Nothing is downloaded. The layouts are those of LeRobot's `utils/train_utils.py` and of
//! huggingface_hub's cache.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::files::{PICKLE, SNAPSHOTS, is_pickle, is_plain};
use super::header::shown;
use crate::{Error, Result};

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What such a folder is called.
    pub name: &'static str,
    /// The file without which it is none.
    pub file: &'static str,
    /// What else is in it.
    pub with: &'static str,
}

const PRETRAINED_MODEL: &str = "pretrained_model";
const CHECKPOINTS: &str = "checkpoints";
const LAST: &str = "last";

/// The folder that `dir` stands for.
///
/// # Errors
/// When there is no such folder, or none of this kind in it; the error lists the places that were
/// looked at.
pub fn resolve(dir: &Path, kind: &Kind) -> Result<PathBuf> {
    resolve_in(dir, kind, &hub_caches(|name| std::env::var_os(name).map(PathBuf::from)))
}

/// The Hugging Face caches of this user.
fn hub_caches(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let hub = |home: PathBuf| home.join("hub");
    let mut caches: Vec<PathBuf> = [
        env("HF_HUB_CACHE"),
        env("HF_HOME").map(hub),
        env("HOME").map(|home| hub(home.join(".cache/huggingface"))),
    ]
    .into_iter()
    .flatten()
    .filter(|path| path.is_absolute())
    .collect();
    caches.dedup();
    caches
}

fn resolve_in(dir: &Path, kind: &Kind, caches: &[PathBuf]) -> Result<PathBuf> {
    if dir.is_dir() {
        let mut looked = BTreeSet::new();
        return match find(dir, kind, &mut looked)? {
            Some(folder) => Ok(folder),
            None => Err(Error::config(dir, {
                let (name, file) = (kind.name, kind.file);
                format!("expected a {name}, found no {file} in {}", list(&looked))
            })),
        };
    }
    if dir.symlink_metadata().is_ok() {
        return Err(Error::config(dir, not_a_folder(dir, kind)));
    }
    let mut looked = BTreeSet::from([dir.to_owned()]);
    if let Some(name) = hub_name(dir) {
        for cache in caches {
            let model = cache.join(&name);
            if model.is_dir()
                && let Some(folder) = find(&model, kind, &mut looked)?
            {
                return Ok(folder);
            }
            looked.insert(model);
        }
    }
    let message = format!(
        "expected a {} with {}, {}; no such folder. Looked at {}; nothing is downloaded",
        kind.name,
        kind.file,
        kind.with,
        list(&looked)
    );
    Err(Error::config(dir, message))
}

/// Looks into an existing folder; notes where.
fn find(dir: &Path, kind: &Kind, looked: &mut BTreeSet<PathBuf>) -> Result<Option<PathBuf>> {
    let mut is_it = |folder: &Path| {
        looked.insert(folder.to_owned());
        folder.join(kind.file).symlink_metadata().is_ok()
    };
    for folder in [dir.to_owned(), dir.join(PRETRAINED_MODEL)] {
        if is_it(&folder) {
            return Ok(Some(folder));
        }
    }
    for root in [dir.join(CHECKPOINTS), dir.to_owned()] {
        // `last` may point at a checkpoint that is gone.
        let numbered = numbered(&root);
        let found = std::iter::once(root.join(LAST)).chain(numbered);
        for folder in found.map(|checkpoint| checkpoint.join(PRETRAINED_MODEL)) {
            if folder.is_dir() && is_it(&folder) {
                return Ok(Some(folder));
            }
        }
    }
    let is_snapshots = dir.file_name() == Some(OsStr::new(SNAPSHOTS));
    let snapshots = if is_snapshots { dir.to_owned() } else { dir.join(SNAPSHOTS) };
    if !snapshots.is_dir() {
        return Ok(None);
    }
    let snapshot = snapshot(&snapshots)?;
    Ok([snapshot.clone(), snapshot.join(PRETRAINED_MODEL)].into_iter().find(|f| is_it(f)))
}

/// Checkpoints whose names are numbers, newest first.
fn numbered(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = entries(root)
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok().map(|step| (step, path)))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The snapshot that `refs/main` names, else the only one.
fn snapshot(snapshots: &Path) -> Result<PathBuf> {
    let main = snapshots.with_file_name("refs").join("main");
    if main.is_file() {
        let text = crate::tensors::files::read_text(&main, 1000)?;
        let name = text.trim();
        let folder = snapshots.join(name);
        if !is_plain(name) || !folder.is_dir() {
            let message = format!(
                "expected the name of a folder in {}, got {:?}",
                snapshots.display(),
                shown(name)
            );
            return Err(Error::config(main, message));
        }
        return Ok(folder);
    }
    let mut found: Vec<PathBuf> = entries(snapshots).into_iter().filter(|p| p.is_dir()).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::config(snapshots, "expected a snapshot, got an empty folder")),
        several => {
            let message = format!(
                "expected refs/main or a single snapshot, got {} snapshots without refs/main; name \
                 one of them: {}",
                several.len(),
                list(several)
            );
            Err(Error::config(snapshots, message))
        }
    }
}

/// `org/name` as huggingface_hub names its folder.
fn hub_name(dir: &Path) -> Option<String> {
    let parts: Vec<&str> = dir
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let is_name = |part: &str| {
        part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !part.contains("--")
    };
    match parts.as_slice() {
        [org, name] if is_name(org) && is_name(name) => Some(format!("models--{org}--{name}")),
        _ => None,
    }
}

/// Says what to do with something that is no folder.
fn not_a_folder(path: &Path, Kind { name: wanted, file, .. }: &Kind) -> String {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if is_pickle(path) {
        format!("expected a {wanted}, got {PICKLE}")
    } else if [".zip", ".tar", ".gz", ".tgz", ".zst", ".7z"].iter().any(|end| name.ends_with(end)) {
        format!("expected a {wanted}, got an archive; unpack it and name the folder")
    } else if let Some(parent) = parent.filter(|p| path.is_file() && p.join(file).is_file()) {
        format!("expected a {wanted}, got a file; name its folder, {}", parent.display())
    } else {
        format!(
            "expected a {wanted} with {file}, got something else: a file, or a link that leads nowhere"
        )
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Paths in one line, not too many.
fn list<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    const LISTED: usize = 8;
    let all: Vec<String> = paths.into_iter().map(|path| path.display().to_string()).collect();
    let mut text = all.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > LISTED {
        text += &format!(" and {} more", all.len() - LISTED);
    }
    text
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
