//! A folder that appears at once: written beside its place, moved there when it is whole.
//!
//! `out` is built as `.out.partial` in the same folder. A lock in it keeps a second writer out; what an
//! interrupted run left there is removed by the next one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const LOCK: &str = ".lock";

/// A folder under construction; dropped without [`Staging::commit`] it is removed.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    folder: PathBuf,
    lock: Option<File>,
}

impl Staging {
    /// Starts the folder; fails where `target` exists and is not empty, or is being written.
    pub(crate) fn new(target: &Path) -> Result<Self> {
        check_free(target)?;
        let name = target.file_name().ok_or_else(|| {
            Error::Invalid(format!("expected the name of a new folder, got {}", target.display()))
        })?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = parent.join(format!(".{}.partial", name.to_string_lossy()));
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let lock_path = folder.join(LOCK);
        let lock = File::create(&lock_path).map_err(|e| Error::io(&lock_path, e))?;
        lock.try_lock().map_err(|_| {
            Error::config(target, "another process writes this folder; wait for it or name another")
        })?;
        let staging = Self { target: target.to_owned(), folder, lock: Some(lock) };
        staging.remove_leftovers()?;
        Ok(staging)
    }

    fn remove_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, e))? {
            let entry = entry.map_err(|e| Error::io(&self.folder, e))?;
            let path = entry.path();
            let removed = if entry.file_name() == LOCK {
                Ok(())
            } else if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }

    /// Where the files go until [`Staging::commit`].
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the folder will be.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Moves the folder to its place.
    pub(crate) fn commit(mut self) -> Result<()> {
        let at = |e| Error::io(&self.target, e);
        check_free(&self.target)?;
        let lock_path = self.folder.join(LOCK);
        fs::remove_file(&lock_path).map_err(|e| Error::io(&lock_path, e))?;
        // An empty folder of that name may be there; not every system renames over it.
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(at)?;
        }
        fs::rename(&self.folder, &self.target).map_err(at)?;
        self.lock = None;
        if let Some(parent) = self.folder.parent() {
            // Makes the new name durable; systems that cannot sync a folder are left as they are.
            let _ = File::open(parent).and_then(|f| f.sync_all());
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn check_free(target: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(target, e)),
    };
    if entries.next().is_some() {
        return Err(Error::config(
            target,
            "expected a new or an empty folder, this one holds files; name another or remove it first",
        ));
    }
    Ok(())
}

/// Writes a whole file and waits until it is on the disk; makes its folder.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| Error::io(path, e))
}

/// Creates a file and its folder.
pub(crate) fn create(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    File::create(path).map_err(|e| Error::io(path, e))
}
