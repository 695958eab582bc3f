//! A few rows times a few panels, in registers.

use pulp::Simd;

/// Memory that will be read soon, to be fetched into the cache line by line.
///
/// Without it the weights of a policy, which are read once a step, arrive at half the rate of the memory.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    next: *const u8,
    lines: usize,
}

impl Ahead {
    const LINE: usize = 64;

    #[inline(always)]
    pub(super) fn of<T>(numbers: &[T]) -> Self {
        let lines = size_of_val(numbers).div_ceil(Self::LINE);
        Self { next: numbers.as_ptr().cast(), lines }
    }

    /// Takes the first `lines` away.
    #[inline(always)]
    pub(super) fn split(&mut self, lines: usize) -> Self {
        let lines = lines.min(self.lines);
        let first = Self { next: self.next, lines };
        self.next = self.next.wrapping_add(lines * Self::LINE);
        self.lines -= lines;
        first
    }

    #[inline(always)]
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    #[inline(always)]
    fn fetch(&mut self) {
        if self.lines == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        #[expect(
            unsafe_code,
            reason = "a hint: nothing is read or written, and no address can be wrong"
        )]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.next.cast());
        }
        self.next = self.next.wrapping_add(Self::LINE);
        self.lines -= 1;
    }
}

/// Adds `rows`·`panels` to `sums`: R rows of one length, P panels with that many lines of V vectors each. On
/// the way memory is fetched `ahead`.
#[inline(always)]
pub(super) fn tile<S: Simd, const R: usize, const P: usize, const V: usize>(
    simd: S,
    sums: &mut [[[S::f32s; V]; P]; R],
    rows: [&[f32]; R],
    panels: [&[f32]; P],
    ahead: &mut Ahead,
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
    for i in 0..count {
        ahead.fetch();
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
