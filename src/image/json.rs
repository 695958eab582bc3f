//! JSON objects of a diffusers folder, as Python writes them.
//!
//! Python's `json` writes infinities and NaN as bare words, which are no JSON; they are read as texts.

use std::path::Path;

use serde_json::{Map, Value};

use crate::tensors::files::{MAX_TEXT, read_text};
use crate::{Error, Result};

/// The object that the file holds.
pub(super) fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = quoted(&read_text(path, MAX_TEXT)?);
    match serde_json::from_str(&text) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(Error::config(path, "expected a JSON object")),
        Err(e) => Err(Error::config(path, e.to_string())),
    }
}

/// Writes an object, and the folder that it lies in.
pub(super) fn write(path: &Path, keys: &Map<String, Value>) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    }
    let text = serde_json::to_string_pretty(keys).map_err(|e| Error::Invalid(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| Error::io(path, e))
}

/// The text with quotes around `-Infinity`, `Infinity` and `NaN` outside of texts.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '-', 'I', 'N']) {
        out += &rest[..at];
        rest = &rest[at..];
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let length = match word {
            Some(word) => {
                out += &format!("\"{word}\"");
                rest = &rest[word.len()..];
                continue;
            }
            None if rest.starts_with('"') => literal(rest),
            None => 1,
        };
        out += &rest[..length];
        rest = &rest[length..];
    }
    out + rest
}

/// Length of the text literal that `text` starts with, quotes included.
fn literal(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !is_escaped => return at + 1,
            b'\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_python_become_texts() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity, -1], "NaN": "\"Infinity\\", "c": "I"}"#;
        let want =
            r#"{"a": "-Infinity", "b": ["NaN", "Infinity", -1], "NaN": "\"Infinity\\", "c": "I"}"#;
        assert_eq!(quoted(text), want);
        for text in ["", "\"", "{\"a\": \"\\", "-", "é\"ü\"N"] {
            assert_eq!(quoted(text), text);
        }
    }
}
