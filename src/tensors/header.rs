//! The header of a safetensors file, checked before anything in it is believed.
//!
//! A file is 8 bytes with the header's length n (little endian), n bytes of JSON, and the data. The
//! JSON maps names to `{"dtype", "shape", "data_offsets": [start, end]}`, counted from the first byte
//! of data, and `__metadata__` to strings (format: the README of huggingface/safetensors).
//!
//! The crate safetensors 0.8 spends 7 s and 1.3 GB on a header of 1.8 million empty tensors, and
//! takes the second of two tensors of one name. Here lengths are compared with the file first, one
//! pass over the bytes counts tensors, levels and dimensions before any JSON is parsed, names are
//! unique, and the tensors tile the data: no overlap, no hole, no byte after the last.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::scan::Scan;
use super::unique::Unique;
use crate::{Error, Result};

/// The longest header that is read, in bytes.
pub const MAX_HEADER: u64 = 16_000_000;
/// The longest header for every thousand tensors begun, in bytes.
pub const MAX_HEADER_A_THOUSAND: u64 = 1_000_000;
/// The most tensors in a file.
pub const MAX_TENSORS: usize = 65_536;
/// The longest name of a tensor, in bytes.
pub const MAX_NAME: usize = 1024;
/// The most dimensions of a tensor.
pub const MAX_DIMS: usize = 8;

/// So many bytes of the header are read and scanned at once.
const CHUNK: u64 = 1 << 18;
pub(super) const METADATA: &str = "__metadata__";

const DTYPES: [(&str, Dtype); 22] = [
    ("BOOL", Dtype::BOOL),
    ("F4", Dtype::F4),
    ("F6_E2M3", Dtype::F6_E2M3),
    ("F6_E3M2", Dtype::F6_E3M2),
    ("U8", Dtype::U8),
    ("I8", Dtype::I8),
    ("F8_E5M2", Dtype::F8_E5M2),
    ("F8_E4M3", Dtype::F8_E4M3),
    ("F8_E8M0", Dtype::F8_E8M0),
    ("F8_E4M3FNUZ", Dtype::F8_E4M3FNUZ),
    ("F8_E5M2FNUZ", Dtype::F8_E5M2FNUZ),
    ("I16", Dtype::I16),
    ("U16", Dtype::U16),
    ("F16", Dtype::F16),
    ("BF16", Dtype::BF16),
    ("I32", Dtype::I32),
    ("U32", Dtype::U32),
    ("F32", Dtype::F32),
    ("C64", Dtype::C64),
    ("F64", Dtype::F64),
    ("I64", Dtype::I64),
    ("U64", Dtype::U64),
];

/// One tensor of a file. Its shape has a product that fits, and `end − start` is its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Type of an element.
    pub dtype: Dtype,
    /// At most [`MAX_DIMS`] dimensions.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the data.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a safetensors file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors, sorted by name.
    pub entries: Vec<Entry>,
    /// The free text that writers leave: `{"format": "pt"}`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data begins in the file.
    pub data_start: u64,
}

impl Header {
    /// Reads the header of `path`, and nothing else of it.
    ///
    /// # Errors
    /// When the file is missing, is no safetensors file, or is one that breaks a limit or a rule of
    /// this module.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::open(path)?.1)
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        self.entries.get(at)
    }

    /// The open file, which stands at the first byte of its data, and its header.
    pub(crate) fn open(path: &Path) -> Result<(File, Self)> {
        // Asked before opening: a pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !kind.is_file() {
            let got = if kind.is_dir() { "a folder" } else { "neither file nor folder" };
            return Err(Error::config(path, format!("expected a safetensors file, got {got}")));
        }
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let header = Self::from_reader(&mut file, len).map_err(|problem| match problem {
            Problem::Io(e) => Error::io(path, e),
            Problem::Format(message) => {
                Error::config(path, format!("not a safetensors file that can be used: {message}"))
            }
        })?;
        Ok((file, header))
    }

    /// Reads the header from a source of `len` bytes.
    fn from_reader(source: &mut impl Read, len: u64) -> Result<Self, Problem> {
        if len < 8 {
            return fail(format!(
                "expected 8 bytes with the header's length and then the header, got {len} bytes in \
                 all"
            ));
        }
        let mut prefix = [0; 8];
        source.read_exact(&mut prefix)?;
        let size = u64::from_le_bytes(prefix);
        let rest = len - 8;
        // Only now: the length of a good header may look like them.
        let is_zip_or_pickle = matches!(prefix, [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..]);
        if is_zip_or_pickle && size > rest.min(MAX_HEADER) {
            return fail(
                "expected safetensors, got a pickle or an archive; pickles are never read because \
                 unpickling runs code: save the tensors with safetensors"
                    .to_owned(),
            );
        }
        if size > rest {
            return fail(format!(
                "header: expected {size} bytes, as the file's first 8 bytes say, got {rest}; the \
                 file is truncated or of another kind"
            ));
        }
        if size > MAX_HEADER {
            return fail(format!("header: expected at most {MAX_HEADER} bytes, got {size}"));
        }
        let mut json = Vec::with_capacity(size as usize);
        let mut scan = Scan::default();
        while (json.len() as u64) < size {
            let (from, part) = (json.len(), CHUNK.min(size - json.len() as u64));
            if source.by_ref().take(part).read_to_end(&mut json)? as u64 != part {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            scan.go_on(&json, from).map_err(Problem::Format)?;
        }
        let (entries, metadata) =
            parse(&json, scan.tensors(), rest - size).map_err(Problem::Format)?;
        Ok(Self { entries, metadata, data_start: 8 + size })
    }
}

enum Problem {
    Io(std::io::Error),
    Format(String),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn fail<T>(message: String) -> Result<T, Problem> {
    Err(Problem::Format(message))
}

type Contents = (Vec<Entry>, BTreeMap<String, String>);

fn parse(json: &[u8], tensors: usize, data_len: u64) -> Result<Contents, String> {
    let most = MAX_HEADER_A_THOUSAND * (tensors as u64).div_ceil(1000).max(1);
    if json.len() as u64 > most {
        return Err(format!(
            "header: expected at most {most} bytes for {tensors} tensors, got {}",
            json.len()
        ));
    }
    let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("header: {e}"))?;
    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, tensor) in raw.tensors {
        let what = shown(&name);
        entries.push(tensor.check(name).map_err(|e| format!("tensor {what}: {e}"))?);
    }
    check_tiles(&entries, data_len)?;
    Ok((entries, raw.metadata))
}

/// The header as it is written.
struct Raw {
    tensors: BTreeMap<String, RawEntry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;

        impl<'de> Visitor<'de> for Tensors {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let named = |e| A::Error::custom(format!("{}: {e}", shown(&name)));
                    let twice = if name == METADATA {
                        let text: Unique<String> = map.next_value().map_err(named)?;
                        metadata.replace(text.0).is_some()
                    } else {
                        let entry: RawEntry = map.next_value().map_err(named)?;
                        tensors.insert(name.clone(), entry).is_some()
                    };
                    if twice {
                        let name = shown(&name);
                        let message = format!("{name}: expected each name once, got it twice");
                        return Err(A::Error::custom(message));
                    }
                }
                Ok(Raw { tensors, metadata: metadata.unwrap_or_default() })
            }
        }

        deserializer.deserialize_map(Tensors)
    }
}

impl RawEntry {
    fn check(self, name: String) -> Result<Entry, String> {
        let Some((_, dtype)) = DTYPES.into_iter().find(|(known, _)| *known == self.dtype) else {
            let known = DTYPES.map(|(known, _)| known).join(", ");
            return Err(format!("dtype: expected one of {known}, got {}", shown(&self.dtype)));
        };
        if self.shape.len() > MAX_DIMS {
            let got = self.shape.len();
            return Err(format!("shape: expected at most {MAX_DIMS} dimensions, got {got}"));
        }
        let [start, end] = self.data_offsets;
        let Some(size) = end.checked_sub(start) else {
            return Err(format!("data_offsets: expected start ≤ end, got [{start}, {end}]"));
        };
        let Some(bits) = bits(&self.shape, dtype) else {
            return Err(format!(
                "shape: expected a number of elements that can be counted, got {:?}",
                self.shape
            ));
        };
        if !bits.is_multiple_of(8) || bits / 8 != size {
            return Err(format!(
                "data_offsets: expected {} bytes for {} {:?}, got {size}",
                bits as f64 / 8.0,
                self.dtype,
                self.shape
            ));
        }
        let shape = self.shape.into_iter().map(|dim| dim as usize).collect();
        Ok(Entry { name, dtype, shape, start, end })
    }
}

/// Size of a tensor in bits; none if some product of its dimensions does not fit, even where
/// another dimension is 0, because strides are such products.
fn bits(shape: &[u64], dtype: Dtype) -> Option<u64> {
    let mut product = 1u64;
    for &dim in shape {
        usize::try_from(dim).ok()?;
        product = product.checked_mul(dim.max(1))?;
    }
    let bits = product.checked_mul(dtype.bitsize() as u64)?;
    isize::try_from(bits).ok()?;
    Some(if shape.contains(&0) { 0 } else { bits })
}

/// In the order of their data, every tensor begins where the one before ends, and the last ends
/// with the file.
fn check_tiles(entries: &[Entry], data_len: u64) -> Result<(), String> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| (entry.start, entry.end));
    let mut expected = 0;
    for Entry { name, start, end, .. } in order {
        if *start != expected {
            let what = if *start < expected { "overlaps another" } else { "follows a hole" };
            return Err(format!(
                "tensor {}: {what}: expected its data to begin at {expected}, got {start}",
                shown(name)
            ));
        }
        expected = *end;
    }
    if expected != data_len {
        let why = if expected > data_len {
            "the file is truncated"
        } else {
            "bytes follow that belong to no tensor"
        };
        return Err(format!("expected {expected} bytes of data, got {data_len}; {why}"));
    }
    Ok(())
}

/// A name from a file as it may be printed: one line, no control characters, not too long.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 100;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
