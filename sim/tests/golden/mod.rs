//! Reads the golden files that tests/golden/pusht.py writes.

use safetensors::{SafeTensors, tensor::Dtype};
use std::path::PathBuf;

/// One golden file.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    name: &'static str,
}

impl Golden {
    /// Reads tests/golden/`name`.
    pub(crate) fn open(name: &'static str) -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
        let bytes = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; run tests/golden/pusht.py", path.display()));
        Golden { bytes, name }
    }

    fn raw<const N: usize>(&self, key: &str, dtype: Dtype) -> Vec<[u8; N]> {
        let file =
            SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let tensor = file.tensor(key).unwrap_or_else(|e| panic!("{}: {key}: {e}", self.name));
        assert_eq!(tensor.dtype(), dtype, "{key}");
        tensor.data().as_chunks::<N>().0.to_vec()
    }

    /// A float64 tensor, flat.
    pub(crate) fn f64(&self, key: &str) -> Vec<f64> {
        self.raw(key, Dtype::F64).into_iter().map(f64::from_le_bytes).collect()
    }

    /// A float32 tensor, flat.
    pub(crate) fn f32(&self, key: &str) -> Vec<f32> {
        self.raw(key, Dtype::F32).into_iter().map(f32::from_le_bytes).collect()
    }

    /// An unsigned 64-bit tensor, flat.
    pub(crate) fn u64(&self, key: &str) -> Vec<u64> {
        self.raw(key, Dtype::U64).into_iter().map(u64::from_le_bytes).collect()
    }

    /// An unsigned 32-bit tensor, flat.
    pub(crate) fn u32(&self, key: &str) -> Vec<u32> {
        self.raw(key, Dtype::U32).into_iter().map(u32::from_le_bytes).collect()
    }

    /// A signed 16-bit tensor, flat.
    pub(crate) fn i16(&self, key: &str) -> Vec<i16> {
        self.raw(key, Dtype::I16).into_iter().map(i16::from_le_bytes).collect()
    }

    /// A byte tensor, flat.
    pub(crate) fn u8(&self, key: &str) -> Vec<u8> {
        self.raw(key, Dtype::U8).into_iter().map(u8::from_le_bytes).collect()
    }
}
