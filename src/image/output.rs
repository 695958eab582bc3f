//! Files that are replaced only by complete ones: written beside, then renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Says before the work whether [`write()`] could write `path`; leaves nothing behind.
///
/// # Errors
/// When the folder is missing or cannot be written, or `path` is there and is no file, or is read-only.
pub fn check(path: &Path) -> Result<()> {
    let target = target(path)?;
    match fs::metadata(&target) {
        Ok(there) if !there.is_file() => {
            let got = if there.is_dir() { "a folder" } else { "neither file nor folder" };
            return Err(Error::config(path, format!("expected a file to write, got {got}")));
        }
        Ok(there) if there.permissions().readonly() => {
            return Err(Error::config(
                path,
                "expected a file that may be replaced, got a read-only one",
            ));
        }
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(path, e)),
    }
    let beside = beside(&target);
    File::create(&beside)
        .and_then(|_| fs::remove_file(&beside))
        .map_err(|e| Error::config(path, format!("cannot be written: {e}")))
}

/// Replaces `path` by `bytes`, or leaves it as it was.
///
/// # Errors
/// As [`check`], and when the disk is full.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = target(path)?;
    let beside = beside(&target);
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, &target));
    written.map_err(|e| {
        // It may not be there; what counts is the first error.
        let _ = fs::remove_file(&beside);
        Error::io(path, e)
    })
}

/// The file itself where `path` is a link to one, so that the link stays.
fn target(path: &Path) -> Result<PathBuf> {
    let is_name =
        path.file_name().is_some() && !path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_name {
        return Err(Error::config(path, "expected the name of a file"));
    }
    let folder = folder(path);
    if !folder.is_dir() {
        let message = format!("expected an existing folder {}", folder.display());
        return Err(Error::config(path, message));
    }
    Ok(match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => path.canonicalize().map_err(|e| Error::io(path, e))?,
        _ => path.to_owned(),
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Hidden, and another name in every process.
fn beside(target: &Path) -> PathBuf {
    folder(target).join(OsString::from(format!(".pathline-{}.part", std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let path = dir.path().join("a.png");
        check(&path).unwrap();
        assert_eq!(names(), 0);
        write(&path, b"one").unwrap();
        check(&path).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"two".to_vec(), 1));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        check(&link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_written_is_found_before() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| {
            assert!(write(path, b"x").is_err());
            check(path).unwrap_err().to_string()
        };
        assert!(error(dir.path()).contains("a folder"));
        assert!(error(&dir.path().join("none/a.png")).contains("existing folder"));
        assert!(error(Path::new("")).contains("name of a file"));
        assert!(error(&dir.path().join("new/")).contains("name of a file"));
        assert!(error(&dir.path().join("n".repeat(300))).contains("too long"));
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        assert!(error(&file.join("a.png")).contains("existing folder"));
        let mut mode = fs::metadata(&file).unwrap().permissions();
        mode.set_readonly(true);
        fs::set_permissions(&file, mode).unwrap();
        assert!(check(&file).unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read(&file).unwrap(), b"old");
        #[cfg(target_os = "linux")]
        assert!(check(Path::new("/dev/null")).unwrap_err().to_string().contains("neither"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
