//! Bytes of a tensor to f32, and whether every value is finite.

use safetensors::Dtype;

/// The types that become f32.
pub(super) const NUMBERS: &str = "F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16 or U8";

/// Bytes of an element of a type that becomes f32.
pub(super) fn width(dtype: Dtype) -> Option<usize> {
    Some(match dtype {
        Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
        Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
        Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => 2,
        Dtype::I8 | Dtype::U8 => 1,
        _ => return None,
    })
}

/// Appends the elements in `bytes` to `out`; a type that [`width`] does not know adds nothing.
pub(super) fn append(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    /// Whole elements of `N` bytes.
    fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, convert: impl Fn([u8; N]) -> f32) {
        out.extend(bytes.as_chunks::<N>().0.iter().map(|&element| convert(element)));
    }
    match dtype {
        Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        Dtype::U64 => each(bytes, out, |b| u64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        Dtype::U32 => each(bytes, out, |b| u32::from_le_bytes(b) as f32),
        Dtype::F16 => each(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        Dtype::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::U16 => each(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::U8 => each(bytes, out, |[b]| f32::from(b)),
        _ => {}
    }
}

/// IEEE 754 binary16: sign, 5 bits of exponent with bias 15, 10 bits of fraction.
fn f16_to_f32(half: u16) -> f32 {
    let half = u32::from(half);
    let (sign, exponent, fraction) = ((half & 0x8000) << 16, (half >> 10) & 0x1f, half & 0x3ff);
    match exponent {
        // fraction · 2^−24, exact.
        0 => f32::from_bits(sign | (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        // Bias 127 instead of 15.
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// Place and value of the first element that is NaN or infinite.
pub(super) fn not_finite(values: &[f32]) -> Option<(usize, f32)> {
    const EXPONENT: u32 = 0x7f80_0000;
    // One pass without a branch; the second looks for the place.
    let found = values.iter().fold(false, |any, v| any | (v.to_bits() & EXPONENT == EXPONENT));
    if !found {
        return None;
    }
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn ours(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        append(dtype, bytes, &mut out);
        out
    }

    /// All 65,536 halves of both kinds, against candle's (the crate half).
    #[test]
    fn halves_are_what_candle_makes_of_them() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, candle) in [(Dtype::F16, DType::F16), (Dtype::BF16, DType::BF16)] {
            let theirs = Tensor::from_raw_buffer(&bytes, candle, &[65_536], &Device::Cpu).unwrap();
            let theirs: Vec<f32> = theirs.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
            let got = ours(dtype, &bytes);
            assert_eq!(got.len(), theirs.len());
            for (got, want) in got.iter().zip(theirs) {
                assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()));
            }
        }
    }

    #[test]
    fn every_type_of_the_list_becomes_f32() {
        assert_eq!(ours(Dtype::F64, &(-1.5f64).to_le_bytes()), [-1.5]);
        assert_eq!(ours(Dtype::I64, &(-7i64).to_le_bytes()), [-7.0]);
        assert_eq!(ours(Dtype::U64, &u64::MAX.to_le_bytes()), [18_446_744_073_709_551_616.0]);
        assert_eq!(ours(Dtype::I32, &(-3i32).to_le_bytes()), [-3.0]);
        assert_eq!(ours(Dtype::U32, &[1, 0, 0, 0, 2, 0, 0, 0]), [1.0, 2.0]);
        assert_eq!(ours(Dtype::I16, &(-3i16).to_le_bytes()), [-3.0]);
        assert_eq!(ours(Dtype::U16, &[0, 1]), [256.0]);
        assert_eq!(ours(Dtype::I8, &[0xff]), [-1.0]);
        assert_eq!(ours(Dtype::U8, &[0xff]), [255.0]);
        assert!(ours(Dtype::C64, &[0; 8]).is_empty() && width(Dtype::C64).is_none());
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        assert_eq!(not_finite(&[0.0, f32::MAX, f32::MIN_POSITIVE, -0.0]), None);
        assert_eq!(not_finite(&[1.0, f32::NEG_INFINITY, f32::NAN]), Some((1, f32::NEG_INFINITY)));
        let (at, value) = not_finite(&[1.0, 2.0, f32::NAN]).unwrap();
        assert!(at == 2 && value.is_nan());
    }
}
