//! Loops that the compiler turns into vector instructions, with those that this machine has.
//!
//! A shipped binary is built for the oldest processor of its kind. [`vectorised`] compiles a loop a
//! second time for AVX2 and takes that where the machine has it; elsewhere (NEON is always there)
//! nothing changes. No fused multiply-add is made of separate operations and the order of sums is
//! written in the loops, so that the bits are the same on both ways.

/// Runs `op` compiled for the best instructions of this machine.
#[inline(always)]
pub(super) fn vectorised<R>(op: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(op);
    }
    op()
}

/// `e^x` of a number between −87 and 88, which `x` is brought to; relative error below 1e-7.
///
/// `x = n·ln 2 + r` with |r| ≤ ln 2/2; `e^r` by its series to degree 7, `2^n` through the exponent.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Added and taken away, it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: the first has few digits, so that its product with n is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let series = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let series = 1.0 / 120.0 + r * series;
    let series = 1.0 / 24.0 + r * series;
    let series = 1.0 / 6.0 + r * series;
    let series = 0.5 + r * series;
    // Small terms first: one rounding beside 1.
    let e_r = 1.0 + (r + r * r * series);
    e_r * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `1/(1 + e^−x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_digits() {
        let worst = (-870_000..880_000)
            .map(|i| {
                let x = i as f32 / 1e4;
                let exact = f64::from(x).exp();
                (f64::from(vectorised(|| exp(x))) / exact - 1.0).abs()
            })
            .fold(0.0, f64::max);
        println!("worst relative error of exp: {worst:.1e}");
        assert!(worst < 1e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), exp(-87.0));
        assert!(exp(1000.0).is_finite());
        assert_eq!((sigmoid(0.0), sigmoid(1000.0)), (0.5, 1.0));
        assert!(sigmoid(-1000.0) < 1e-37);
    }
}
