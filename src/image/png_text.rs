//! The texts in a PNG file, read without its pixels.
//!
//! Chunks tEXt (Latin-1, or UTF-8 where the bytes are that: some tools write it), zTXt and iTXt of
//! the PNG specification, third edition, section 11.3.3, with checksums and bounds.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::Crc;
use flate2::read::ZlibDecoder;

use crate::{Error, Result};

/// What every PNG file begins with.
pub(crate) const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// The most bytes of one text, before and after unpacking.
pub const MAX_TEXT: u64 = 1 << 20;
/// The most bytes of all texts together.
pub const MAX_TEXTS: u64 = 1 << 22;
/// The most texts.
pub const MAX_COUNT: usize = 256;

/// A text and its keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// `parameters`, `Software`, ….
    pub keyword: String,
    /// As many lines as it likes.
    pub text: String,
}

impl Text {
    /// A text under a keyword of 1 to 79 Latin-1 letters.
    pub fn new(keyword: impl Into<String>, text: impl Into<String>) -> Self {
        Self { keyword: keyword.into(), text: text.into() }
    }
}

/// All texts of a PNG file, in its order.
///
/// # Errors
/// When the file is missing, is no PNG, ends too early, or a text is damaged or too long.
pub fn texts(path: &Path) -> Result<Vec<Text>> {
    let (mut file, bytes) = open(path)?;
    let io = |e| Error::io(path, e);
    let refuse = |message: String| Error::config(path, message);
    file.seek_relative(SIGNATURE.len() as i64).map_err(io)?;
    let mut at = SIGNATURE.len() as u64;
    let (mut found, mut total) = (Vec::new(), 0);
    loop {
        let truncated = || refuse("damaged PNG: it ends too early".into());
        let mut head = [0; 8];
        file.read_exact(&mut head).map_err(|_| truncated())?;
        let [a, b, c, d, kind @ ..] = head;
        let len = u64::from(u32::from_be_bytes([a, b, c, d]));
        at += 12 + len;
        if at > bytes {
            return Err(truncated());
        }
        if &kind == b"IEND" {
            return Ok(found);
        }
        if !matches!(&kind, b"tEXt" | b"zTXt" | b"iTXt") {
            file.seek_relative(len as i64 + 4).map_err(io)?;
            continue;
        }
        let name = String::from_utf8_lossy(&kind).into_owned();
        if len > MAX_TEXT {
            return Err(refuse(format!("{name}: expected at most {MAX_TEXT} bytes, got {len}")));
        }
        if found.len() == MAX_COUNT {
            return Err(refuse(format!("expected at most {MAX_COUNT} texts, got more")));
        }
        let mut data = vec![0; len as usize];
        file.read_exact(&mut data).map_err(io)?;
        let mut sum = [0; 4];
        file.read_exact(&mut sum).map_err(io)?;
        let mut crc = Crc::new();
        crc.update(&kind);
        crc.update(&data);
        if crc.sum() != u32::from_be_bytes(sum) {
            return Err(refuse(format!("damaged PNG: {name} has another checksum than its bytes")));
        }
        let text = parse(kind, &data).map_err(|e| refuse(format!("damaged PNG: {name}: {e}")))?;
        total += text.text.len() as u64;
        if total > MAX_TEXTS {
            return Err(refuse(format!("expected at most {MAX_TEXTS} bytes of texts, got more")));
        }
        found.push(text);
    }
}

/// The file at its beginning, which was found to be a PNG's, and its length.
pub(crate) fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let io = |e| Error::io(path, e);
    // Asked before opening: a pipe would wait for its writer.
    let kind = fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let got = if kind.is_dir() { "a folder" } else { "neither file nor folder" };
        return Err(Error::config(path, format!("expected a PNG file, got {got}")));
    }
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut start = Vec::new();
    file.by_ref().take(SIGNATURE.len() as u64).read_to_end(&mut start).map_err(io)?;
    if start != SIGNATURE {
        let got = match start.as_slice() {
            [] => "an empty file",
            [0xff, 0xd8, 0xff, ..] => "a JPEG file; convert it to PNG",
            [b'G', b'I', b'F', b'8', ..] => "a GIF file; convert it to PNG",
            [b'R', b'I', b'F', b'F', ..] => "a WebP file; convert it to PNG",
            _ => "something else",
        };
        return Err(Error::config(path, format!("expected a PNG file, got {got}")));
    }
    file.seek_relative(-(SIGNATURE.len() as i64)).map_err(io)?;
    Ok((file, kind.len()))
}

fn parse(kind: [u8; 4], data: &[u8]) -> Result<Text, String> {
    let (keyword, rest) = cut(data)?;
    if !(1..80).contains(&keyword.len()) {
        return Err(format!("expected a keyword of 1 to 79 bytes, got {}", keyword.len()));
    }
    let keyword = latin1(keyword);
    let text = match &kind {
        b"tEXt" => plain(rest),
        b"zTXt" => match rest {
            [0, packed @ ..] => plain(&unpack(packed)?),
            _ => return Err("expected packing method 0".into()),
        },
        _ => {
            let [is_packed @ (0 | 1), method, rest @ ..] = rest else {
                return Err("expected whether it is packed".into());
            };
            let (_language, rest) = cut(rest)?;
            let (_translated, rest) = cut(rest)?;
            let bytes = match (is_packed, method) {
                (0, _) => rest.to_vec(),
                (_, 0) => unpack(rest)?,
                _ => return Err("expected packing method 0".into()),
            };
            String::from_utf8(bytes).map_err(|_| "expected UTF-8".to_owned())?
        }
    };
    Ok(Text { keyword, text })
}

/// What lies before and behind the next NUL.
fn cut(data: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let at = data.iter().position(|byte| *byte == 0).ok_or("expected a NUL behind the keyword")?;
    Ok((&data[..at], &data[at + 1..]))
}

fn plain(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| latin1(bytes), str::to_owned)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut unpacked = ZlibDecoder::new(packed).take(MAX_TEXT + 1);
    unpacked.read_to_end(&mut bytes).map_err(|e| format!("cannot be unpacked: {e}"))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(format!("expected at most {MAX_TEXT} bytes, got more"));
    }
    Ok(bytes)
}
