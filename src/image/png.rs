//! PNG files in and out, with bounds.
//!
//! Reading takes every kind of PNG and gives 8-bit RGB: 16 bits are rounded, palettes and grey are
//! spread, transparent pixels lie on white. Numbers are taken as sRGB, profiles are not applied, and of
//! an animation the still picture is read. A file is not believed: its size is held against a bound
//! and against what its bytes can hold (zlib packs at most 1032 to 1) before memory is taken.
//!
//! Writing replaces a file only by a complete one ([`super::output`]); texts go with it as tEXt where
//! they are Latin-1, else as iTXt, which is what other tools do. The texts are read by
//! [`super::png_text`].

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::output;
use super::png_text::{self, Text};
use crate::{Error, Result};

/// The most pixels of a picture that a user gives: 8K, or 100 MB in memory.
pub const MAX_PIXELS: u64 = 1 << 25;
/// The most bytes that deflate makes of one.
const MAX_RATIO: u64 = 1032;
/// What the decoder may take for the small chunks; the rows of a picture come on top.
const CHUNK_BYTES: usize = 1 << 20;

/// Pixels in 8-bit RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height·width·3` bytes.
    pub rgb: Vec<u8>,
}

/// A number a pixel, as palettes and grey PNGs hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height·width` numbers.
    pub values: Vec<u8>,
}

/// Reads a picture of at most `max_pixels` pixels.
///
/// # Errors
/// When the file is missing, is no PNG, is damaged, or claims to be larger.
pub fn read(path: &Path, max_pixels: u64) -> Result<Picture> {
    let mut reader = open(path, max_pixels, Transformations::EXPAND)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let (color, depth) = reader.output_color_type();
    let mut rgb = reserved(path, width * height * 3)?;
    rows(path, &mut reader, |row| push_rgb(&mut rgb, row, color, depth))?;
    Ok(Picture { width, height, rgb })
}

/// Reads a map of numbers from a palette or grey PNG of at most `max_pixels` pixels: the palette's
/// indices, or the grey levels as the file stores them (0 to 15 where it has 4 bits).
///
/// # Errors
/// As [`read`], and when the picture has colours or transparency, or a number beyond 255.
pub fn read_numbers(path: &Path, max_pixels: u64) -> Result<Numbers> {
    let mut reader = open(path, max_pixels, Transformations::IDENTITY)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let (color, depth) = reader.output_color_type();
    if !matches!(color, ColorType::Indexed | ColorType::Grayscale) {
        let message = format!("expected numbers, a palette or grey PNG, got {color:?}");
        return Err(Error::config(path, message));
    }
    let (mut values, mut beyond) = (reserved(path, width * height)?, None);
    rows(path, &mut reader, |row| match depth {
        BitDepth::Eight => values.extend_from_slice(row),
        BitDepth::Sixteen => {
            for &two in row.as_chunks().0 {
                let value = u16::from_be_bytes(two);
                values.push(value.try_into().unwrap_or_else(|_| *beyond.insert(value) as u8));
            }
        }
        packed => {
            let bits = packed as usize;
            let value =
                |i: usize| (row[i * bits / 8] >> (8 - bits - i * bits % 8)) & ((1 << bits) - 1);
            values.extend((0..width).map(value));
        }
    })?;
    match beyond {
        Some(value) => Err(Error::config(path, format!("expected numbers 0 to 255, got {value}"))),
        None => Ok(Numbers { width, height, values }),
    }
}

/// Replaces `path` by a picture with texts.
///
/// # Errors
/// As [`output::write()`], and when the picture is empty or has another number of bytes than pixels.
pub fn write(path: &Path, picture: &Picture, texts: &[Text]) -> Result<()> {
    output::write(path, &encode(picture, texts)?)
}

/// The bytes of a PNG file. The same picture and texts give the same bytes.
///
/// # Errors
/// When the picture is empty or has another number of bytes than pixels, or a keyword is not one.
pub fn encode(picture: &Picture, texts: &[Text]) -> Result<Vec<u8>> {
    let Picture { width, height, rgb } = picture;
    let invalid = |e: png::EncodingError| Error::Invalid(format!("PNG: {e}"));
    if rgb.is_empty() || rgb.len() != width * height * 3 {
        return Err(Error::shape("PNG", [*height, *width, 3], [rgb.len()]));
    }
    let mut bytes = Vec::new();
    let sides = [*width, *height].map(u32::try_from);
    let [Ok(width), Ok(height)] = sides else {
        return Err(Error::shape("PNG", "sides below 2^32", [*height, *width, 3]));
    };
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for Text { keyword, text } in texts {
        // NUL would end the text.
        let (keyword, text) = (keyword.clone(), text.replace('\0', " "));
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword, text).map_err(invalid)?;
        } else {
            encoder.add_itxt_chunk(keyword, text).map_err(invalid)?;
        }
    }
    let mut writer = encoder.write_header().map_err(invalid)?;
    writer.write_image_data(rgb).and_then(|()| writer.finish()).map_err(invalid)?;
    Ok(bytes)
}

type Reader = png::Reader<BufReader<File>>;

/// Reads up to the pixels, and refuses what would not fit.
fn open(path: &Path, max_pixels: u64, transform: Transformations) -> Result<Reader> {
    let (mut file, bytes) = png_text::open(path)?;
    let mut header = [0; 33];
    let refuse = |message: String| Error::config(path, message);
    // Looked at before the decoder makes a row of it.
    let is_whole = file.read_exact(&mut header).is_ok();
    if !is_whole || &header[8..16] != b"\0\0\0\x0dIHDR" {
        return Err(refuse("damaged PNG: it has no header".into()));
    }
    let [width, height] = [16, 20].map(|at| {
        u64::from(header[at..at + 4].iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)))
    });
    let pixels = width * height;
    if pixels > max_pixels {
        return Err(refuse(format!(
            "expected a picture of at most {max_pixels} pixels, got {width}×{height}"
        )));
    }
    let channels = match header[25] {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let raw = pixels.saturating_mul(channels * u64::from(header[24])) / 8;
    if raw / MAX_RATIO > bytes {
        return Err(refuse(format!("{width}×{height} pixels cannot be in {bytes} bytes")));
    }
    file.rewind().map_err(|e| Error::io(path, e))?;
    let row = (width * 8) as usize;
    let limits = png::Limits { bytes: CHUNK_BYTES + 4 * row };
    let mut decoder = png::Decoder::new_with_limits(file, limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(transform);
    decoder.read_info().map_err(|e| damaged(path, &e))
}

/// Room for what is believable by now; a vector that grows would hold it three times.
fn reserved(path: &Path, bytes: usize) -> Result<Vec<u8>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(bytes) {
        Ok(()) => Ok(room),
        Err(_) => Err(Error::config(path, format!("expected {bytes} bytes of memory, got less"))),
    }
}

/// Hands over every row, whole.
fn rows(path: &Path, reader: &mut Reader, mut take: impl FnMut(&[u8])) -> Result<()> {
    let damaged = |e| damaged(path, &e);
    if reader.info().interlaced {
        // Seven pictures in one: it must be there before its first row is.
        let bytes = reader.output_buffer_size().unwrap_or(usize::MAX);
        let mut frame = reserved(path, bytes)?;
        frame.resize(bytes, 0);
        let info = reader.next_frame(&mut frame).map_err(damaged)?;
        frame.chunks_exact(info.line_size).for_each(take);
    } else {
        while let Some(row) = reader.next_row().map_err(damaged)? {
            take(row.data());
        }
    }
    Ok(())
}

fn damaged(path: &Path, e: &DecodingError) -> Error {
    let cut =
        matches!(e, DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
    let what = if cut { "it ends too early".to_owned() } else { e.to_string() };
    Error::config(path, format!("damaged PNG: {what}"))
}

/// Appends a row, expanded by the decoder to grey or RGB with or without alpha.
fn push_rgb(rgb: &mut Vec<u8>, row: &[u8], color: ColorType, depth: BitDepth) {
    let samples = color.samples();
    let (grey, alpha) = (samples < 3, samples.is_multiple_of(2));
    let mut push = |pixel: &[u64], max: u64| {
        for channel in 0..3 {
            let value = pixel[if grey { 0 } else { channel }];
            let over = if alpha { pixel[samples - 1] } else { max };
            // Over white, then to 8 bits, each rounded once.
            let seen = value * over + max * (max - over);
            rgb.push(((seen * 255 + max * max / 2) / (max * max)) as u8);
        }
    };
    let mut pixel = [0; 4];
    if depth == BitDepth::Sixteen {
        for bytes in row.chunks_exact(2 * samples) {
            for (to, &two) in pixel.iter_mut().zip(bytes.as_chunks().0) {
                *to = u64::from(u16::from_be_bytes(two));
            }
            push(&pixel[..samples], 65535);
        }
    } else {
        for bytes in row.chunks_exact(samples) {
            pixel.iter_mut().zip(bytes).for_each(|(to, byte)| *to = u64::from(*byte));
            push(&pixel[..samples], 255);
        }
    }
}

#[cfg(test)]
#[path = "png_tests.rs"]
mod tests;
