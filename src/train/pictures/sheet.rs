//! Pictures side by side in one file.

use std::path::Path;

use candle_core::Tensor;

use crate::image::grid::grid;
use crate::image::{pixels, png};
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
        pictures.extend(pixels::pictures(row)?);
    }
    png::write(path, &grid(&pictures, columns)?, &[])
}
