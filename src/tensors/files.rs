//! Files of a folder that others wrote: plain names, bounded texts, no pickles.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The most bytes of a JSON file of a model.
pub const MAX_TEXT: u64 = 1_000_000;

/// Folder of the snapshots in a Hugging Face cache.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// What is said of a pickle.
pub(crate) const PICKLE: &str = "a pickle, which Pathline never reads because unpickling runs code; load the model where it was \
     made and write it with save_pretrained(DIR), which makes .safetensors files";

/// Whether the name is one under which pickles go.
pub(crate) fn is_pickle(path: &Path) -> bool {
    let suffix = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["pt", "pth", "bin", "ckpt", "pkl", "pickle"].iter().any(|s| suffix.eq_ignore_ascii_case(s))
}

/// The file called `name` in `dir`, where `name` came from a file of others: a plain name, and no
/// link out of the folder unless both are of one Hugging Face cache (`snapshots/…` to `blobs/…`).
///
/// # Errors
/// Says what was expected of the name, or that there is no such file.
pub fn inside(dir: &Path, name: &str) -> Result<PathBuf, String> {
    if !is_plain(name) {
        return Err("expected a plain file name in the folder, got a path".to_owned());
    }
    let path = dir.join(name);
    let no_file = |e: std::io::Error| format!("expected a file in {}: {e}", dir.display());
    let real = path.canonicalize().map_err(no_file)?;
    let root = dir.canonicalize().map_err(no_file)?;
    let blobs = root
        .parent()
        .filter(|parent| parent.file_name() == Some(OsStr::new(SNAPSHOTS)))
        .map(|snapshots| snapshots.with_file_name("blobs"));
    if real.starts_with(&root) || blobs.is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(path);
    }
    Err(format!("expected a file in {}, got a link to {}", dir.display(), real.display()))
}

/// One component, on every system.
pub(crate) fn is_plain(name: &str) -> bool {
    let is_bad = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(is_bad)
}

/// The text of a file of at most `most` bytes.
///
/// # Errors
/// When it is missing, is no file, is longer, or is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let io = |e| Error::io(path, e);
    // Asked before opening: a pipe would wait for its writer.
    let kind = fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let got = if kind.is_dir() { "a folder" } else { "neither file nor folder" };
        return Err(Error::config(path, format!("expected a text file, got {got}")));
    }
    let too_long =
        |got: u64| Error::config(path, format!("expected at most {most} bytes, got {got}"));
    if kind.len() > most {
        return Err(too_long(kind.len()));
    }
    let mut bytes = Vec::with_capacity(kind.len() as usize);
    // It may have grown, and files of the system say 0.
    File::open(path).map_err(io)?.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(too_long(bytes.len() as u64));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::config(path, format!("expected UTF-8 text, got another byte at {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_and_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        let error = |most| read_text(&path, most).unwrap_err().to_string();
        assert!(error(9).contains("text"));
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_text(&path, 10).unwrap(), "0123456789");
        assert!(error(9).contains("at most 9 bytes, got 10"));
        fs::write(&path, b"ab\xff").unwrap();
        assert!(error(9).contains("UTF-8") && error(9).contains("at 2"));
        assert!(read_text(dir.path(), 9).unwrap_err().to_string().contains("a folder"));
    }
}
