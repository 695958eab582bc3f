//! The loops around the tiles, and who does what.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::meter::count;
use super::panels::{PANEL, Panels};
use super::rows::Rows;
use super::tile::{Ahead, tile};

/// Rows of a tile.
const TILE: usize = 6;
/// Rows that pass over one panel before the next: a block of them stays in the second-level cache.
const ROWS: usize = 96;
/// From so many multiplications on, the threads share the work.
const SHARED: usize = 1 << 19;
/// From so many rows on, they share the rows, else the outputs.
const MANY: usize = 48;

/// What a product is added to.
#[derive(Clone, Copy, Default)]
pub(in crate::nn) struct Target<'a> {
    /// One number per output.
    pub(in crate::nn) bias: Option<&'a [f32]>,
    /// One number per row and output.
    pub(in crate::nn) sum: Option<&'a [f32]>,
}

impl Target<'_> {
    /// Writes rows `rows`, outputs `outputs` of `n`, to `out`, which is zeros.
    fn begin(&self, out: &mut [f32], rows: Range<usize>, outputs: Range<usize>, n: usize) {
        if self.bias.is_none() && self.sum.is_none() {
            return;
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(outputs.len())) {
            if let Some(bias) = self.bias {
                out.copy_from_slice(&bias[outputs.clone()]);
            }
            if let Some(sum) = self.sum {
                let sum = &sum[row * n..][outputs.clone()];
                out.iter_mut().zip(sum).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

/// `rows` `[m, k]` times the weight, `[m, n]`, added to `target`.
pub(in crate::nn) fn multiply<A: Rows>(rows: &A, panels: &Panels, target: Target<'_>) -> Vec<f32> {
    let (m, n) = (rows.count(), panels.outputs());
    let threads = rayon::current_num_threads();
    if m == 0 || n == 0 {
        return Vec::new();
    }
    count(m * n * panels.inputs(), panels.bytes() + 4 * (rows.numbers() + m * n));
    let part = |out: &mut [f32], range: Range<usize>, which: Range<usize>| {
        let outputs = which.start * PANEL..(which.end * PANEL).min(n);
        target.begin(out, range.clone(), outputs, n);
        by_rows(rows, range, panels, which, out);
    };
    if threads == 1 || m * n * panels.inputs() < SHARED {
        let mut out = vec![0f32; m * n];
        part(&mut out, 0..m, 0..panels.panels());
        return out;
    }
    if m >= MANY {
        let each = (m.div_ceil(2 * threads).div_ceil(TILE) * TILE).min(ROWS);
        let mut out = vec![0f32; m * n];
        out.par_chunks_mut(each * n).enumerate().for_each(|(i, out)| {
            part(out, i * each..((i + 1) * each).min(m), 0..panels.panels());
        });
        return out;
    }
    // Each share of the outputs lies by itself at first.
    let each = panels.panels().div_ceil(threads);
    let starts: Vec<usize> = (0..panels.panels()).step_by(each).collect();
    let share = |start: usize| {
        let which = start..(start + each).min(panels.panels());
        let width = (which.end * PANEL).min(n) - start * PANEL;
        let mut share = vec![0f32; m * width];
        part(&mut share, 0..m, which);
        (width, share)
    };
    let shares: Vec<(usize, Vec<f32>)> = starts.into_par_iter().map(share).collect();
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for (width, share) in &shares {
            out.extend_from_slice(&share[row * width..][..*width]);
        }
    }
    out
}

/// Adds the product of some rows with some panels to `out` `[rows, outputs of the panels]`, on this thread.
pub(in crate::nn) fn by_rows<A: Rows>(
    rows: &A,
    range: Range<usize>,
    panels: &Panels,
    which: Range<usize>,
    out: &mut [f32],
) {
    Arch::new().dispatch(Work { rows, range, panels, which, out });
}

struct Work<'a, A> {
    rows: &'a A,
    range: Range<usize>,
    panels: &'a Panels,
    which: Range<usize>,
    out: &'a mut [f32],
}

impl<A: Rows> WithSimd for Work<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match PANEL / S::F32_LANES {
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, PANEL>(simd),
        }
    }
}

impl<A: Rows> Work<'_, A> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Work { rows, range, panels, which, out } = self;
        let width = (which.end * PANEL).min(panels.outputs()) - which.start * PANEL;
        let mut buffer = Vec::new();
        for (begin, out) in range.clone().step_by(ROWS).zip(out.chunks_mut(ROWS * width)) {
            let count = ROWS.min(range.end - begin);
            let places: Vec<A::Place> = (begin..begin + count).map(|row| rows.place(row)).collect();
            for k in panels.blocks() {
                // One row alone waits for its sums: several panels at a time keep the machine busy.
                let together = match count {
                    1 => 4,
                    2..4 => 2,
                    _ => 1,
                };
                let mut panel = which.start;
                while panel < which.end {
                    let here = if panel + together <= which.end { together } else { 1 };
                    let (part, mut next) = panels.part(&k, panel..panel + here, &mut buffer);
                    let first = (panel - which.start) * PANEL;
                    let target = Columns { first, count: (width - first).min(here * PANEL), width };
                    let share = next.lines().div_ceil(count.div_ceil(TILE));
                    for (places, out) in places.chunks(TILE).zip(out.chunks_mut(TILE * width)) {
                        let tile = Tile {
                            rows,
                            panels,
                            panel,
                            k: k.clone(),
                            part,
                            target,
                            ahead: next.split(share),
                        };
                        match (places.len(), here) {
                            (1, 4) => tile.add::<S, 1, 4, V>(simd, places, out),
                            (1, 2) => tile.add::<S, 1, 2, V>(simd, places, out),
                            (2, 2) => tile.add::<S, 2, 2, V>(simd, places, out),
                            (3, 2) => tile.add::<S, 3, 2, V>(simd, places, out),
                            (1, _) => tile.add::<S, 1, 1, V>(simd, places, out),
                            (2, _) => tile.add::<S, 2, 1, V>(simd, places, out),
                            (3, _) => tile.add::<S, 3, 1, V>(simd, places, out),
                            (4, _) => tile.add::<S, 4, 1, V>(simd, places, out),
                            (5, _) => tile.add::<S, 5, 1, V>(simd, places, out),
                            _ => tile.add::<S, TILE, 1, V>(simd, places, out),
                        }
                    }
                    panel += here;
                }
            }
        }
    }
}

/// Where the outputs of some panels lie in a row of the result.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    count: usize,
    /// Of the row.
    width: usize,
}

/// One block of k for some rows.
struct Tile<'a, A> {
    rows: &'a A,
    panels: &'a Panels,
    /// The first of those in `part`.
    panel: usize,
    k: Range<usize>,
    part: &'a [f32],
    target: Columns,
    ahead: Ahead,
}

impl<A: Rows> Tile<'_, A> {
    #[expect(
        clippy::needless_range_loop,
        reason = "loops over the constants of a tile, which are unrolled"
    )]
    #[inline(always)]
    fn add<S: Simd, const R: usize, const P: usize, const V: usize>(
        self,
        simd: S,
        places: &[A::Place],
        out: &mut [f32],
    ) {
        let Self { rows, panels: weight, panel, k, part, target, mut ahead } = self;
        let channels = weight.channels();
        let mut sums = [[[simd.splat_f32s(0.0); V]; P]; R];
        let length = k.len() * PANEL;
        let mut start = k.start;
        while start < k.end {
            let (tap, channel) = (start / channels, start % channels);
            let count = (channels - channel).min(k.end - start);
            let mut lines: [&[f32]; R] = [&[]; R];
            for r in 0..R {
                lines[r] = &rows.part(places[r], tap)[channel..channel + count];
            }
            let from = (start - k.start) * PANEL;
            let mut panels: [&[f32]; P] = [&[]; P];
            for p in 0..P {
                panels[p] = &part[p * length + from..][..count * PANEL];
            }
            tile::<S, R, P, V>(simd, &mut sums, lines, panels, &mut ahead);
            start += count;
        }
        for p in 0..P {
            if let Some(scales) = weight.scales(panel + p) {
                let (scales, _) = S::as_simd_f32s(scales);
                for r in 0..R {
                    for v in 0..V {
                        sums[r][p][v] = simd.mul_f32s(sums[r][p][v], scales[v]);
                    }
                }
            }
        }
        for (row, sums) in out.chunks_mut(target.width).zip(sums) {
            let row = &mut row[target.first..][..target.count];
            for (out, sums) in row.chunks_mut(PANEL).zip(sums) {
                if out.len() == PANEL {
                    let (out, _) = S::as_mut_simd_f32s(out);
                    for v in 0..V {
                        out[v] = simd.add_f32s(out[v], sums[v]);
                    }
                } else {
                    let mut line = [0f32; PANEL];
                    let (vectors, _) = S::as_mut_simd_f32s(&mut line);
                    vectors.copy_from_slice(&sums);
                    out.iter_mut().zip(line).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::{Layout, Storage};
    use super::super::rows::{Matrix, Window, Windows};
    use super::*;
    use crate::flow::Noise;

    fn normal(sample: u64, count: usize) -> Vec<f32> {
        Noise::new(3).normal(sample, 0, count)
    }

    /// Σ over k in f64, and the sum of the magnitudes, in which the error is counted.
    fn exact(x: impl Fn(usize) -> f32, w: impl Fn(usize) -> f32, k: usize) -> (f64, f64) {
        (0..k).fold((0.0, 0.0), |(sum, size), i| {
            let product = f64::from(x(i)) * f64::from(w(i));
            (sum + product, size + product.abs())
        })
    }

    #[test]
    fn a_product_is_the_sum_of_products_whatever_its_size() {
        for m in [1, 2, 3, 5, 6, 7, 13, 47, 48, 100, 200] {
            for (k, n) in [(1, 1), (5, 16), (128, 17), (129, 40), (300, 3), (1000, 130)] {
                let (x, w, bias) = (normal(0, m * k), normal(1, n * k), normal(2, n));
                let sum = normal(3, m * n);
                let panels = Panels::pack(&w, Layout::matrix(n, k), Storage::F32);
                let target = Target { bias: Some(&bias), sum: Some(&sum) };
                let y = multiply(&Matrix::new(&x, k), &panels, target);
                assert_eq!(y.len(), m * n);
                for (at, y) in y.iter().enumerate() {
                    let (row, output) = (at / n, at % n);
                    let (dot, size) = exact(|i| x[row * k + i], |i| w[output * k + i], k);
                    let want = dot + f64::from(bias[output]) + f64::from(sum[at]);
                    assert!((f64::from(*y) - want).abs() < 1e-6 * (size + 4.0), "{m} {k} {n}");
                }
                assert_eq!(panels.unpacked(), w, "{k} {n}");
            }
        }
    }

    /// Each row alone, in pairs, threes and so on has the bits that it has among all.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let (m, k, n) = (100, 333, 75);
        let (x, w) = (normal(0, m * k), normal(1, n * k));
        for storage in [Storage::F32, Storage::Bf16, Storage::Int8] {
            let panels = Panels::pack(&w, Layout::matrix(n, k), storage);
            let all = multiply(&Matrix::new(&x, k), &panels, Target::default());
            for count in 1..=9 {
                for (i, rows) in x.chunks(count * k).enumerate() {
                    let some = multiply(&Matrix::new(rows, k), &panels, Target::default());
                    assert_eq!(some, all[i * count * n..][..some.len()], "{storage:?} {count}");
                }
            }
        }
    }

    #[test]
    fn windows_are_the_convolution() {
        for (size, kernel, stride, padding, dilation) in [
            ([2, 7, 5, 3], [3, 3], [1, 1], [1, 1], 1),
            ([1, 6, 6, 40], [3, 3], [2, 2], [1, 1], 1),
            ([1, 9, 8, 130], [3, 2], [1, 2], [2, 0], 2),
            ([3, 1, 16, 20], [1, 5], [1, 1], [0, 2], 1),
        ] {
            let [b, h, w, c] = size;
            let taps = kernel[0] * kernel[1];
            let n = 18;
            let side = |length: usize, axis: usize| {
                (length + 2 * padding[axis] - dilation * (kernel[axis] - 1) - 1) / stride[axis] + 1
            };
            let output = [side(h, 0), side(w, 1)];
            let window = Window { kernel, stride, padding, dilation, output };
            let (x, weight) = (normal(0, b * h * w * c), normal(1, n * c * taps));
            let panels = Panels::pack(&weight, Layout::convolution(n, c, taps), Storage::F32);
            let y = multiply(&Windows::new(&x, size, window), &panels, Target::default());
            assert_eq!(y.len(), b * output[0] * output[1] * n);
            for (at, y) in y.iter().enumerate() {
                let (row, o) = (at / n, at % n);
                let (picture, pixel) =
                    (row / (output[0] * output[1]), row % (output[0] * output[1]));
                let seen = |i: usize| {
                    let (channel, tap) = (i / taps, i % taps);
                    let line = pixel / output[1] * stride[0] + tap / kernel[1] * dilation;
                    let column = pixel % output[1] * stride[1] + tap % kernel[1] * dilation;
                    let inside = (padding[0]..padding[0] + h).contains(&line)
                        && (padding[1]..padding[1] + w).contains(&column);
                    if !inside {
                        return 0.0;
                    }
                    let (line, column) = (line - padding[0], column - padding[1]);
                    x[((picture * h + line) * w + column) * c + channel]
                };
                let (want, sum) = exact(seen, |i| weight[o * c * taps + i], c * taps);
                assert!((f64::from(*y) - want).abs() < 1e-6 * (sum + 1.0), "{size:?} {kernel:?}");
            }
        }
    }

    /// bf16 keeps 8 bits, int8 a 254th of the span of an output; neither is exact, which is the broken twin.
    #[test]
    fn a_narrow_weight_is_off_by_its_rounding() {
        let (k, n) = (300, 40);
        let w = normal(1, n * k);
        for (storage, bytes) in [(Storage::Bf16, 2), (Storage::Int8, 1)] {
            let panels = Panels::pack(&w, Layout::matrix(n, k), storage);
            assert!(panels.bytes() < (bytes + 1) * 48 * k);
            let back = panels.unpacked();
            assert_ne!(back, w);
            for (back, w) in back.chunks(k).zip(w.chunks(k)) {
                let max = w.iter().fold(0f32, |max, w| max.max(w.abs()));
                for (back, w) in back.iter().zip(w) {
                    let room = if storage == Storage::Bf16 { w.abs() / 256.0 } else { max / 253.0 };
                    assert!((back - w).abs() <= room, "{back} {w}");
                }
            }
        }
    }
}
