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

/// The error function `2/√π·∫₀ˣ e^(−s²) ds`, to 5e-7; a quotient of polynomials that is right up to ±4,
/// where it is 1 to the last bit but one. The coefficients are those of Eigen's `erf` for f32.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let above = 2.770_681_4e-8 + s * -2.726_142_3e-10;
    let above = -2.101_024e-6 + s * above;
    let above = -5.692_506_5e-5 + s * above;
    let above = -7.349_906_3e-4 + s * above;
    let above = -2.954_6e-3 + s * above;
    let above = -1.609_603_3e-2 + s * above;
    let below = -2.133_740_6e-4 + s * -1.456_607_2e-5;
    let below = -1.682_827e-3 + s * below;
    let below = -7.373_329_2e-3 + s * below;
    let below = -1.426_473_9e-2 + s * below;
    x * above / below
}

/// `1/(1 + e^−x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_exponential_and_the_error_function_are_right_to_the_last_digits() {
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
        let points: Vec<f32> = (-60_000..60_000).map(|i| i as f32 / 1e4).collect();
        let wide: Vec<f64> = points.iter().map(|x| f64::from(*x)).collect();
        let exact = Tensor::new(wide, &Device::Cpu).unwrap().erf().unwrap();
        let worst = points
            .iter()
            .zip(exact.to_vec1::<f64>().unwrap())
            .map(|(x, exact)| (f64::from(vectorised(|| erf(*x))) - exact).abs())
            .fold(0.0, f64::max);
        println!("worst error of erf: {worst:.1e}");
        assert!(worst < 5e-7, "{worst}");
        assert_eq!((sigmoid(0.0), sigmoid(1000.0)), (0.5, 1.0));
        assert!(sigmoid(-1000.0) < 1e-37);
    }
}
