//! The two functions that bring a number inside its limits, with what they do to NaN spelled out.
//!
//! `f32::max` and `f32::min` turn NaN into a limit, which is a real command; `f32::clamp` hands NaN
//! on. Both are wrong for a command, so nothing else in this module may limit a value.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

/// `x` brought into `[lo, hi]`; `None` if it is NaN or infinite.
pub(super) fn limit(x: f32, lo: f32, hi: f32) -> Option<f32> {
    if !x.is_finite() {
        None
    } else if x < lo {
        Some(lo)
    } else if x > hi {
        Some(hi)
    } else {
        Some(x)
    }
}

/// From `from` towards `to`, by at most `max_step`. All three are finite, `max_step` is not
/// negative, and the result lies between the two.
pub(super) fn slew(from: f32, to: f32, max_step: f32) -> f32 {
    // f64 holds the difference of two f32 of like size exactly, and never overflows here.
    let (from64, step64) = (f64::from(from), f64::from(max_step));
    let delta = f64::from(to) - from64;
    if delta.abs() <= step64 {
        return to;
    }
    let aim = (from64 + step64.copysign(delta)) as f32;
    // Rounding to f32 can land one unit beyond the step: come back by that unit.
    if (f64::from(aim) - from64).abs() <= step64 {
        aim
    } else if delta > 0.0 {
        aim.next_down()
    } else {
        aim.next_up()
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic: that is how it fails"
)]
mod tests {
    use super::*;

    fn check_limit(bits: u32) {
        let (lo, hi) = (-3.25_f32, 512.0_f32);
        let x = f32::from_bits(bits);
        match limit(x, lo, hi) {
            None => assert!(!x.is_finite(), "{bits:#x}"),
            Some(y) => {
                assert!(x.is_finite() && (lo..=hi).contains(&y), "{bits:#x}");
                assert!(y == x || y == lo && x < lo || y == hi && x > hi, "{bits:#x}");
            }
        }
    }

    #[test]
    fn limit_over_all_f32() {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let bits = (thread..=u32::MAX).step_by(threads as usize);
                scope.spawn(move || bits.for_each(check_limit));
            }
        });
    }

    #[test]
    fn slew_never_exceeds_the_step_nor_the_target() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for _ in 0..200_000 {
            let scale = 10_f32.powi((next() * 60.0) as i32 - 30);
            let (from, to) = ((next() - 0.5) * scale, (next() - 0.5) * 4.0 * scale);
            let step = next() * scale;
            let got = slew(from, to, step);
            assert!((f64::from(got) - f64::from(from)).abs() <= f64::from(step));
            assert!((from.min(to)..=from.max(to)).contains(&got), "{from} {to} {step} {got}");
            assert!((to - from).abs() > step || got == to);
        }
        assert_eq!(slew(-f32::MAX, f32::MAX, f32::MAX), 0.0);
        assert_eq!(slew(1.0, 2.0, 0.0), 1.0);
        assert_eq!(slew(16_777_216.0, 16_777_300.0, 0.5), 16_777_216.0, "less than one unit");
    }
}
