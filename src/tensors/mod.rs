//! Tensors to safetensors files and back.
//!
//! Bytes are read and owned, one tensor at a time: no memory map, so a file that changes under a
//! running process cannot change its weights. Nothing is read before the whole header is checked
//! (see [`header`]). candle's own `save` leaves files that only their owner can read.

pub mod files;
pub mod folder;
pub mod header;
mod scan;
pub(crate) mod unique;
pub mod weights;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use crate::{Error, Result};
use header::{Entry, Header, shown};

/// Writes `tensors` to `path`, sorted by name.
///
/// # Errors
/// When the file cannot be written.
pub fn save(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    std::fs::write(path, bytes).map_err(|e| Error::io(path, e))
}

/// Reads every tensor of `path`, each in the type that the file has; BOOL becomes u8, U16 u32.
///
/// # Errors
/// When the file is missing, is not a safetensors file, breaks a limit of [`header`], or holds a
/// type that tensors cannot have here.
pub fn load(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let (mut file, header) = Header::open(path)?;
    let mut order: Vec<&Entry> = header.entries.iter().collect();
    for entry in &order {
        stored(entry).map_err(|message| Error::config(path, message))?;
    }
    // In the order of the data, which has no holes: every read begins where the last one ended.
    order.sort_by_key(|entry| (entry.start, entry.end));
    let mut tensors = HashMap::with_capacity(order.len());
    for entry in order {
        let mut bytes = vec![0; (entry.end - entry.start) as usize];
        file.read_exact(&mut bytes).map_err(|e| Error::io(path, e))?;
        let dtype = stored(entry).map_err(|message| Error::config(path, message))?;
        if entry.dtype == Dtype::U16 {
            bytes = bytes.as_chunks::<2>().0.iter().flat_map(|&[a, b]| [a, b, 0, 0]).collect();
        }
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &entry.shape, device)?;
        tensors.insert(entry.name.clone(), tensor);
    }
    Ok(tensors)
}

/// The type that a tensor of the file becomes.
fn stored(entry: &Entry) -> Result<DType, String> {
    Ok(match entry.dtype {
        Dtype::BOOL | Dtype::U8 => DType::U8,
        Dtype::U16 | Dtype::U32 => DType::U32,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F8_E4M3 => DType::F8E4M3,
        other => {
            return Err(format!(
                "tensor {}: expected BOOL, U8, U16, U32, I16, I32, I64, BF16, F16, F32, F64 or \
                 F8_E4M3, got {other}",
                shown(&entry.name)
            ));
        }
    })
}
