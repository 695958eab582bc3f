//! A few rows times a few panels, in registers.

use pulp::Simd;

use super::panels::PANEL;

/// Adds `rows`·`panels` to `sums`: R rows of one length, P panels behind each other with that many lines
/// of V vectors. `ahead` is fetched into the cache on the way, a line of it per line of the panels.
#[inline(always)]
pub(super) fn tile<S: Simd, const R: usize, const P: usize, const V: usize>(
    simd: S,
    sums: &mut [[[S::f32s; V]; P]; R],
    rows: [&[f32]; R],
    panels: [&[f32]; P],
    ahead: &[f32],
) {
    let count = rows[0].len();
    // Loops, not `map` and `from_fn`: their closures are not compiled into a function for one machine.
    let mut lines = [rows[0]; R];
    for r in 0..R {
        lines[r] = &rows[r][..count];
    }
    let mut vectors: [&[[S::f32s; V]]; P] = [&[]; P];
    for p in 0..P {
        vectors[p] = &S::as_simd_f32s(panels[p]).0.as_chunks::<V>().0[..count];
    }
    let mut ahead = ahead.chunks_exact(PANEL);
    for i in 0..count {
        if let Some(line) = ahead.next() {
            fetch(line);
        }
        for p in 0..P {
            let weights = vectors[p][i];
            for r in 0..R {
                let x = simd.splat_f32s(lines[r][i]);
                for v in 0..V {
                    sums[r][p][v] = simd.mul_add_e_f32s(x, weights[v], sums[r][p][v]);
                }
            }
        }
    }
}

/// Asks for a line of memory that will be read soon. Without it the weights of a policy, which are read
/// once a step, arrive at half the rate of the memory.
#[inline(always)]
fn fetch(line: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    #[expect(
        unsafe_code,
        reason = "a hint: nothing is read or written, and no address can be wrong"
    )]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
