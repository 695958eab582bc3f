//! Attention of all heads as one operation, where nothing learns: `softmax(scale·q·kᵀ + mask)·v`.
//!
//! Keys and values are packed as the weights of a product (`kernel/`), head by head. Then some queries at a
//! time pass over all of them, so that their scores stay in the cache: no more memory than that is taken,
//! however large the picture. Heads are read where they lie, `[b, t, heads·d]`, and nothing is turned.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result as TensorResult, Shape, Tensor};
use rayon::prelude::*;

use super::gather::numbers;
use super::kernel::{self, Matrix, Panels, Storage};
use super::rows::exponentials;
use super::simd::vectorised;

/// Scores that are held at a time by a thread: a quarter of a second-level cache.
const SCORES: usize = 1 << 15;
/// Queries at a time, at least and at most.
const QUERIES: [usize; 2] = [12, 96];
/// From so many multiplications on, the threads share the work.
const SHARED: usize = 1 << 19;

/// What is added to the scores, and the steps to the next sample, head, query and key.
pub(super) struct Mask {
    numbers: Vec<f32>,
    strides: [usize; 4],
}

impl Mask {
    /// A mask that broadcasts to `[b, heads, t, s]`.
    pub(super) fn new(mask: &Tensor, shape: [usize; 4]) -> TensorResult<Self> {
        let mask = mask.to_dtype(candle_core::DType::F32)?.contiguous()?;
        let numbers = mask.flatten_all()?.to_vec1()?;
        let wide = mask.broadcast_as(&shape[..])?;
        let strides = match *wide.stride() {
            [b, head, t, s] => [b, head, t, s],
            _ => candle_core::bail!("attention mask: expected four dimensions"),
        };
        Ok(Self { numbers, strides })
    }

    fn row(&self, sample: usize, head: usize, query: usize) -> impl Fn(usize) -> f32 {
        let [b, h, t, s] = self.strides;
        let start = sample * b + head * h + query * t;
        move |key| self.numbers[start + key * s]
    }
}

/// `q` `[b, t, heads·d]`, `k` and `v` `[b, s, heads·d]` to the shape of q.
pub(super) struct Attend {
    pub(super) heads: usize,
    pub(super) scale: f32,
    pub(super) mask: Option<Mask>,
}

struct Sizes {
    batch: usize,
    t: usize,
    s: usize,
    /// Numbers of a query, and of one head of it.
    width: usize,
    d: usize,
}

impl Attend {
    /// Keys and values of one head of one sample.
    fn packed(&self, k: &[f32], v: &[f32], sizes: &Sizes, at: usize) -> [Panels; 2] {
        let Sizes { s, width, d, .. } = *sizes;
        let start = at / self.heads * s * width + at % self.heads * d;
        let rows = width as isize;
        let keys =
            kernel::Layout { outputs: s, taps: 1, channels: d, start, strides: [rows, 0, 1] };
        let values =
            kernel::Layout { outputs: d, taps: 1, channels: s, start, strides: [1, 0, rows] };
        [Panels::pack(k, keys, Storage::F32), Panels::pack(v, values, Storage::F32)]
    }

    /// Queries `range` of one sample, all heads.
    fn queries(
        &self,
        q: &[f32],
        packed: &[[Panels; 2]],
        sizes: &Sizes,
        (sample, range): (usize, Range<usize>),
        out: &mut [f32],
    ) {
        let Sizes { t, s, width, d, .. } = *sizes;
        let count = range.len();
        let (mut scores, mut seen) = (vec![0f32; count * s], vec![0f32; count * d]);
        for head in 0..self.heads {
            let [keys, values] = &packed[sample * self.heads + head];
            let first = (sample * t + range.start) * width + head * d;
            let rows = Matrix { numbers: &q[first..], count, length: d, stride: width };
            scores.fill(0.0);
            kernel::by_rows(&rows, 0..count, keys, 0..keys.panels(), &mut scores);
            let mut inverse = Vec::with_capacity(count);
            for (query, scores) in range.clone().zip(scores.chunks_exact_mut(s)) {
                match &self.mask {
                    None => scores.iter_mut().for_each(|score| *score *= self.scale),
                    Some(mask) => {
                        let mask = mask.row(sample, head, query);
                        for (key, score) in scores.iter_mut().enumerate() {
                            *score = *score * self.scale + mask(key);
                        }
                    }
                }
                inverse.push(vectorised(
                    #[inline(always)]
                    || exponentials(scores),
                ));
            }
            seen.fill(0.0);
            let rows = Matrix { count, ..Matrix::new(&scores, s) };
            kernel::by_rows(&rows, 0..count, values, 0..values.panels(), &mut seen);
            let lines = out.chunks_exact_mut(width).zip(seen.chunks_exact(d)).zip(inverse);
            for ((out, seen), inverse) in lines {
                let out = &mut out[head * d..(head + 1) * d];
                out.iter_mut().zip(seen).for_each(|(out, seen)| *out = seen * inverse);
            }
        }
    }

    fn forward(&self, [q, k, v]: [&[f32]; 3], sizes: &Sizes) -> Vec<f32> {
        let Sizes { batch, t, s, width, .. } = *sizes;
        let mut out = vec![0f32; q.len()];
        if out.is_empty() || s == 0 {
            return out;
        }
        kernel::count(2 * batch * t * s * width, 4 * (2 * q.len() + k.len() + v.len()));
        let [least, most] = QUERIES;
        let each = (SCORES / s).clamp(least, most) / 6 * 6;
        // Blocks of queries do not cross from one sample to the next.
        let blocks = t.div_ceil(each);
        let place = |i: usize| {
            let first = i % blocks * each;
            (i / blocks, first..(first + each).min(t))
        };
        let mut parts = Vec::with_capacity(batch * blocks);
        let mut rest = &mut out[..];
        for i in 0..batch * blocks {
            let (part, after) = rest.split_at_mut(place(i).1.len() * width);
            parts.push((place(i), part));
            rest = after;
        }
        let pairs = 0..batch * self.heads;
        if batch * t * s * width < SHARED || rayon::current_num_threads() == 1 {
            let packed: Vec<_> = pairs.map(|at| self.packed(k, v, sizes, at)).collect();
            parts.into_iter().for_each(|(at, out)| self.queries(q, &packed, sizes, at, out));
        } else {
            let packed: Vec<_> =
                pairs.into_par_iter().map(|at| self.packed(k, v, sizes, at)).collect();
            parts.into_par_iter().for_each(|(at, out)| self.queries(q, &packed, sizes, at, out));
        }
        out
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (batch, t, width) = q_layout.shape().dims3()?;
        let (_, s, _) = k_layout.shape().dims3()?;
        let sizes = Sizes { batch, t, s, width, d: width / self.heads.max(1) };
        let all = [numbers(q, q_layout)?, numbers(k, k_layout)?, numbers(v, v_layout)?];
        Ok((CpuStorage::F32(self.forward(all, &sizes)), q_layout.shape().clone()))
    }
}
