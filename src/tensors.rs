//! Tensors to safetensors files and back.
//!
//! Bytes are read whole and owned: no memory map, so a file that changes under a running process
//! cannot change its weights. candle's own `save` leaves files that only their owner can read.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// Writes `tensors` to `path`, sorted by name.
///
/// # Errors
/// When the file cannot be written.
pub fn save(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    std::fs::write(path, bytes).map_err(|e| Error::io(path, e))
}

/// Reads every tensor of `path`.
///
/// # Errors
/// When the file is missing or is not a safetensors file.
pub fn load(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    candle_core::safetensors::load_buffer(&bytes, device)
        .map_err(|e| Error::config(path, format!("not a safetensors file: {e}")))
}
