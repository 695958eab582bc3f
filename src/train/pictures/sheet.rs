//! Pictures side by side in one file.

use std::path::Path;

use candle_core::{DType, Tensor};

use crate::image::grid::grid;
use crate::image::png::{self, Picture};
use crate::{Error, Result};

/// Writes `rows` of pictures, each `[b, c, h, w]` in −1 … 1, as the lines of one sheet.
///
/// # Errors
/// When the shapes differ or the file cannot be written.
pub(super) fn write(path: &Path, rows: &[Tensor]) -> Result<()> {
    let columns = match rows.first() {
        Some(row) => row.dim(0)?,
        None => return Err(Error::Invalid("sheet: expected pictures, got none".into())),
    };
    let mut pictures = Vec::new();
    for row in rows {
        for i in 0..row.dim(0)? {
            pictures.push(picture(&row.get(i)?)?);
        }
    }
    png::write(path, &grid(&pictures, columns)?, &[])
}

/// `x` `[c, h, w]` in −1 … 1, one channel or three, as 8 bits.
fn picture(x: &Tensor) -> Result<Picture> {
    let (c, height, width) = x.dims3()?;
    let x = x.to_dtype(DType::F32)?.permute((1, 2, 0))?.broadcast_as((height, width, c))?;
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let byte = |v: f32| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8;
    let rgb = match c {
        1 => values.into_iter().flat_map(|v| [byte(v); 3]).collect(),
        3 => values.into_iter().map(byte).collect(),
        _ => return Err(Error::shape("picture", "1 or 3 channels", [c])),
    };
    Ok(Picture { width, height, rgb })
}
