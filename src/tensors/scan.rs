//! One pass over the JSON of a header, before it is parsed.

use super::header::{MAX_DIMS, MAX_NAME, MAX_TENSORS, METADATA};

/// Header, entry, list.
const MAX_DEPTH: usize = 3;

/// Counts the tensors in one pass over the bytes, as they come, and takes no memory for it.
///
/// What it lets through need not be JSON, but it is small: levels, names, tensors and dimensions
/// are within their limits.
#[derive(Default)]
pub(super) struct Scan {
    depth: usize,
    /// Names before a colon at the first level.
    names: usize,
    /// Whether the metadata has come, which is no tensor.
    metadata: bool,
    /// Commas of the list that the scan is in.
    commas: usize,
    /// Start of the string that the scan is in.
    string: Option<usize>,
    escaped: bool,
}

impl Scan {
    /// Tensors so far.
    pub(super) fn tensors(&self) -> usize {
        self.names.saturating_sub(usize::from(self.metadata))
    }

    /// Scans the bytes of `json` that came after the first `from`.
    pub(super) fn go_on(&mut self, json: &[u8], from: usize) -> Result<(), String> {
        for (at, &byte) in json.iter().enumerate().skip(from) {
            match self.string {
                Some(start) => self.in_string(&json[start..=at], start)?,
                None => self.outside(byte, at)?,
            }
        }
        Ok(())
    }

    /// Takes the last byte of `text`, which began at `start`.
    fn in_string(&mut self, text: &[u8], start: usize) -> Result<(), String> {
        match text.last() {
            _ if self.escaped => self.escaped = false,
            Some(b'\\') => self.escaped = true,
            Some(b'"') => {
                self.string = None;
                self.metadata |= self.depth == 1 && &text[1..text.len() - 1] == METADATA.as_bytes();
            }
            _ => {}
        }
        if self.depth == 1 && text.len() > MAX_NAME + 2 {
            return Err(format!(
                "header: expected names of at most {MAX_NAME} bytes, got a longer one at byte {start}"
            ));
        }
        Ok(())
    }

    fn outside(&mut self, byte: u8, at: usize) -> Result<(), String> {
        if at == 0 && byte != b'{' {
            return Err(format!("header: expected JSON that begins with {{, got byte {byte:#04x}"));
        }
        if at > 0 && self.depth == 0 && byte != b' ' {
            return Err(format!(
                "header: expected spaces or nothing after the JSON, got byte {byte:#04x} at {at}"
            ));
        }
        match byte {
            b'"' => self.string = Some(at),
            b'{' | b'[' => {
                self.depth += 1;
                self.commas = 0;
                if self.depth > MAX_DEPTH {
                    return Err(format!(
                        "header: expected at most {MAX_DEPTH} levels of JSON, got more at byte {at}"
                    ));
                }
            }
            b'}' | b']' => self.depth -= 1,
            b',' if self.depth == MAX_DEPTH => {
                self.commas += 1;
                if self.commas >= MAX_DIMS {
                    return Err(format!(
                        "header: expected at most {MAX_DIMS} dimensions, got more at byte {at}"
                    ));
                }
            }
            b':' if self.depth == 1 => {
                self.names += 1;
                if self.tensors() > MAX_TENSORS {
                    return Err(format!(
                        "header: expected at most {MAX_TENSORS} tensors, got more"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
