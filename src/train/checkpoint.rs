//! Checkpoints that survive `kill -9` at any moment.
//!
//! LeRobot's layout: `checkpoints/<step>/{pretrained_model, training_state}` and a link `last`. A
//! checkpoint is written into a hidden folder, every file and the folder are synced, and then it is
//! renamed: either the whole checkpoint is there or none of it. What an interrupted write left
//! behind is removed at the next start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, tensors};

const PARTIAL: &str = ".partial-";
const STATE: &str = "optimizer_state.safetensors";
const STEP: &str = "training_step.json";

/// Folder of the policy inside a checkpoint.
pub const PRETRAINED_MODEL: &str = "pretrained_model";
const TRAINING_STATE: &str = "training_state";

#[derive(Serialize, Deserialize)]
struct Step {
    step: usize,
}

/// Makes ready the folder of checkpoints of the run in `output_dir`, and finds the newest, step and folder.
///
/// # Errors
/// When there is a run already and `resume` is not said, or there is none and it is.
pub fn begin(output_dir: &Path, resume: bool) -> Result<Option<(usize, PathBuf)>> {
    let root = output_dir.join("checkpoints");
    fs::create_dir_all(&root).map_err(|e| Error::io(&root, e))?;
    clean(&root)?;
    let newest = list(&root)?.pop();
    match (&newest, resume) {
        (Some((step, _)), false) => {
            let message = format!(
                "holds a run at step {step}; continue it with --resume, or name another output_dir"
            );
            Err(Error::config(output_dir, message))
        }
        (None, true) => Err(Error::config(&root, "--resume: expected a checkpoint, found none")),
        _ => Ok(newest),
    }
}

/// Writes checkpoint `step` under `root`: `write_policy` fills the policy's folder, `state` is the
/// optimiser's. Keeps the newest `keep`.
///
/// # Errors
/// When a file cannot be written; what was there before is untouched then.
pub fn save(
    root: &Path,
    step: usize,
    keep: usize,
    state: &HashMap<String, Tensor>,
    write_policy: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let partial = root.join(format!("{PARTIAL}{step:06}"));
    let done = root.join(format!("{step:06}"));
    remove(&partial)?;
    let policy = partial.join(PRETRAINED_MODEL);
    let training = partial.join(TRAINING_STATE);
    for folder in [&policy, &training] {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    write_policy(&policy)?;
    tensors::save(state, &training.join(STATE))?;
    let text = serde_json::to_string(&Step { step }).map_err(|e| Error::Invalid(e.to_string()))?;
    let path = training.join(STEP);
    fs::write(&path, text).map_err(|e| Error::io(path, e))?;
    sync_tree(&partial)?;
    remove(&done)?;
    fs::rename(&partial, &done).map_err(|e| Error::io(&done, e))?;
    sync(root)?;
    link_last(root, &format!("{step:06}"))?;
    let steps = list(root)?;
    for (_, old) in steps.iter().take(steps.len().saturating_sub(keep)) {
        // Renamed first: a checkpoint that is half removed must not look like one.
        let doomed = root.join(format!("{PARTIAL}{}", name(old)));
        fs::rename(old, &doomed).map_err(|e| Error::io(old, e))?;
        remove(&doomed)?;
    }
    Ok(done)
}

/// Removes what an interrupted [`save`] left behind, and points `last` at the newest checkpoint.
///
/// # Errors
/// When a folder cannot be read or removed.
pub fn clean(root: &Path) -> Result<()> {
    for path in entries(root)? {
        if name(&path).starts_with(PARTIAL) {
            remove(&path)?;
        }
    }
    match list(root)?.pop() {
        Some((_, newest)) => link_last(root, name(&newest)),
        None => Ok(()),
    }
}

/// All whole checkpoints, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found: Vec<(usize, PathBuf)> = entries(root)?
        .into_iter()
        .filter_map(|path| name(&path).parse().ok().map(|step| (step, path)))
        .collect();
    found.sort();
    Ok(found)
}

/// The optimiser's state of a checkpoint, and its step.
///
/// # Errors
/// When a file is missing or is not what it should be.
pub fn load_state(checkpoint: &Path) -> Result<(usize, HashMap<String, Tensor>)> {
    let folder = checkpoint.join(TRAINING_STATE);
    let path = folder.join(STEP);
    let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let step: Step =
        serde_json::from_str(&text).map_err(|e| Error::config(&path, e.to_string()))?;
    let path = folder.join(STATE);
    Ok((step.step, tensors::load(&path, &Device::Cpu)?))
}

fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    match fs::read_dir(root) {
        Ok(read) => {
            for entry in read {
                out.push(entry.map_err(|e| Error::io(root, e))?.path());
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(root, e)),
    }
    out.sort();
    Ok(out)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io(path, e))
}

fn sync_tree(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

/// Points `last` at `target`; the link is replaced in one step.
fn link_last(root: &Path, target: &str) -> Result<()> {
    #[cfg(unix)]
    {
        let (link, next) = (root.join("last"), root.join(".last-next"));
        let _ = fs::remove_file(&next);
        std::os::unix::fs::symlink(target, &next).map_err(|e| Error::io(&next, e))?;
        fs::rename(&next, &link).map_err(|e| Error::io(&link, e))?;
    }
    #[cfg(not(unix))]
    let _ = (root, target);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_litter_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let state =
            HashMap::from([("m.w".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap())]);
        for step in [10, 20, 30] {
            save(root, step, 2, &state, &mut |folder| {
                fs::write(folder.join("config.json"), "{}").map_err(|e| Error::io(folder, e))
            })
            .unwrap();
        }
        // A writer that was killed between any two steps: half a checkpoint, an old link.
        fs::create_dir(root.join(".partial-000040")).unwrap();
        link_last(root, "000020").unwrap();
        clean(root).unwrap();
        let steps: Vec<usize> = list(root).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [20, 30]);
        assert_eq!(fs::read_dir(root).unwrap().count(), 3, "two checkpoints and the link");
        let (step, tensors) = load_state(&root.join("last")).unwrap();
        assert_eq!(step, 30);
        assert_eq!(tensors["m.w"].to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_failed_save_leaves_the_old_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let none = HashMap::new();
        save(dir.path(), 1, 1, &none, &mut |_| Ok(())).unwrap();
        let failed = save(dir.path(), 2, 1, &none, &mut |_| Err(Error::Invalid("disk".into())));
        assert!(failed.is_err());
        assert_eq!(list(dir.path()).unwrap().len(), 1);
        assert_eq!(load_state(&dir.path().join("last")).unwrap().0, 1);
    }
}
