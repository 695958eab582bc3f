//! Captions beside pictures, and lists of those that are held out.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// The most bytes of a text file.
const MAX_TEXT: u64 = 256 << 20;

/// The pictures whose captions stand in the file, in ascending order.
///
/// # Errors
/// A line is no caption of these pictures.
pub(super) fn held_out(path: &Path, captions: &[String]) -> Result<Vec<usize>> {
    let text = read_text(path)?;
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, caption) in captions.iter().enumerate() {
        places.entry(caption.to_lowercase()).or_default().push(place);
    }
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let found = places.get(&line.to_lowercase()).ok_or_else(|| {
            let number = number + 1;
            Error::config(path, format!("line {number}: no picture has the caption {line:?}"))
        })?;
        out.extend_from_slice(found);
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// A text of bounded length.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::config(path, "expected a text file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::config(path, format!("expected at most {MAX_TEXT} bytes, got more")));
    }
    String::from_utf8(bytes)
        .map_err(|e| Error::config(path, format!("expected UTF-8 text: {}", e.utf8_error())))
}
