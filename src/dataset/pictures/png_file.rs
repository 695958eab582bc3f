//! PNG files as bytes on white paper, whatever their colour type.
//!
//! The header's size is checked before memory is taken; text and profiles are skipped, since they can
//! be bombs of their own. The largest picture takes 134 MB for a moment.

use std::io::{BufRead, Seek};

use super::resample::Raster;

/// The most pixels of a picture: 5792².
pub(super) const MAX_PIXELS: u64 = 1 << 25;

/// Decodes a PNG to grey or RGB; transparency lies on white. The error says what was wrong.
pub(super) fn decode(source: impl BufRead + Seek) -> Result<Raster, String> {
    let wrong = |e: png::DecodingError| format!("expected a whole PNG picture: {e}");
    let mut decoder = png::Decoder::new(source);
    decoder.set_limits(png::Limits { bytes: 4 * MAX_PIXELS as usize });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(wrong)?;
    let (width, height) = (header.width, header.height);
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("expected at most {MAX_PIXELS} pixels, got {width}×{height}"));
    }
    let mut reader = decoder.read_info().map_err(wrong)?;
    let size = reader.output_buffer_size().filter(|size| *size as u64 <= 4 * MAX_PIXELS);
    let mut bytes = vec![0; size.ok_or("expected a smaller picture")?];
    // An animation's first frame may be smaller than the picture; what it leaves out is no pixel.
    let frame = reader.next_frame(&mut bytes).map_err(wrong)?;
    if (frame.width, frame.height) != (width, height) {
        return Err("expected a picture, got an animation with partial frames".to_owned());
    }
    let (width, height) = (width as usize, height as usize);
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let (channels, pixels) = match frame.color_type {
        png::ColorType::Grayscale => (1, bytes),
        png::ColorType::Rgb => (3, bytes),
        png::ColorType::GrayscaleAlpha => {
            (1, bytes.chunks_exact(2).map(|p| over_white(p[0], p[1])).collect())
        }
        png::ColorType::Rgba => {
            let rgb = |p: &[u8]| [p[0], p[1], p[2]].map(|value| over_white(value, p[3]));
            (3, bytes.chunks_exact(4).flat_map(rgb).collect())
        }
        png::ColorType::Indexed => return Err("expected colours, got a palette".to_owned()),
    };
    if pixels.len() != width * height * channels {
        return Err(format!("expected {width}×{height} pixels of {channels} bytes"));
    }
    Ok(Raster { width, height, channels, pixels })
}
