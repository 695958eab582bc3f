//! Numbers that follow from a name: a golden file need not hold them.
//!
//! ```text
//! h = FNV-1a-64(name)      z = splitmix64(h + (i + 1)·0x9E3779B97F4A7C15)      u = (z >> 40)/2²⁴
//! value[i] = offset + scale·(2u − 1)       in f32
//! ```
//!
//! The scripts in tests/golden have the same in Python, to the bit. Sources: Fowler, Noll, Vo; Steele,
//! Lea, Flood 2014.

#![allow(dead_code, reason = "a test need not use all of it")]

use candle_core::{Device, Tensor};

/// Element `i` of the tensor `name`.
pub(crate) fn value(name: &str, i: usize, offset: f32, scale: f32) -> f32 {
    element(fnv1a(name.as_bytes()), i, offset, scale)
}

/// The tensor `name`, row by row.
pub(crate) fn tensor(name: &str, shape: &[usize], offset: f32, scale: f32) -> Tensor {
    let values = values(name, shape.iter().product(), offset, scale);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The first `count` elements of the tensor `name`.
pub(crate) fn values(name: &str, count: usize, offset: f32, scale: f32) -> Vec<f32> {
    let hash = fnv1a(name.as_bytes());
    (0..count).map(|i| element(hash, i, offset, scale)).collect()
}

/// FNV-1a with 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h: u64, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

fn element(hash: u64, i: usize, offset: f32, scale: f32) -> f32 {
    let mut z = hash.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    let u = (z >> 40) as f32 / (1u32 << 24) as f32;
    offset + scale * (2.0 * u - 1.0)
}
