//! Counter-based noise: every number is a function of (seed, sample, draw, index) and of nothing else.
//!
//! So the noise of sample 17 is the same alone or in a batch, on any device, thread or machine, and
//! a resumed training run draws what the uninterrupted one would have drawn. Philox under the seed
//! maps (sample, draw) to a stream's own key, and Philox under that key numbers the stream's blocks.
//! Streams of different kinds (normals, uniforms, …) under one (sample, draw) are independent.

use candle_core::Tensor;

use super::{philox, quantile};
use crate::Result;

/// Noise under one seed. Copying it is free and shares nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    key: [u32; 2],
}

/// What a stream is drawn for: part of its counter, so that no two kinds share bits.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Normal,
    Uniform,
    Below,
    Permutation,
    Time,
}

impl Noise {
    /// Noise that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { key: halves(seed) }
    }

    /// `n` standard normals of draw number `draw` for sample number `sample`.
    pub fn normal(&self, sample: u64, draw: u64, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        self.normal_into(sample, draw, &mut out);
        out
    }

    /// Fills `out` with the standard normals that [`Noise::normal`] returns; no allocation.
    pub fn normal_into(&self, sample: u64, draw: u64, out: &mut [f32]) {
        let stream = self.stream(sample, draw, Purpose::Normal);
        for (index, out) in out.chunks_mut(4).enumerate() {
            for (out, word) in out.iter_mut().zip(stream.block(index as u64)) {
                // The midpoint of the word's cell: never 0 or 1, so at most 6.34 deviations.
                let p = (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0);
                *out = quantile::normal(p) as f32;
            }
        }
    }

    /// Standard normals of the shape, dtype and device of `like` `[b, ..]`: row i is draw number
    /// `draw` of sample `first_sample + i`, so a row is the same in every batch.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn normal_like(&self, first_sample: u64, draw: u64, like: &Tensor) -> Result<Tensor> {
        let rows = like.dims().first().copied().unwrap_or(1).max(1);
        let mut out = vec![0.0; like.elem_count()];
        for (i, row) in out.chunks_mut((like.elem_count() / rows).max(1)).enumerate() {
            self.normal_into(first_sample + i as u64, draw, row);
        }
        let out = Tensor::from_vec(out, like.dims(), like.device())?;
        Ok(out.to_dtype(like.dtype())?)
    }

    /// One number from [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform(&self, sample: u64, draw: u64) -> f64 {
        self.stream(sample, draw, Purpose::Uniform).words().uniform()
    }

    /// `n` numbers from [0, 1); the first is [`Noise::uniform`].
    pub fn uniforms(&self, sample: u64, draw: u64, n: usize) -> Vec<f64> {
        let mut words = self.stream(sample, draw, Purpose::Uniform).words();
        (0..n).map(|_| words.uniform()).collect()
    }

    /// An index below `n` (0 if `n` is 0); the bias is below n/2⁶⁴.
    pub fn below(&self, sample: u64, draw: u64, n: usize) -> usize {
        self.stream(sample, draw, Purpose::Below).words().below(n as u64) as usize
    }

    /// The numbers 0 … n−1 in random order (Fisher–Yates); `n` at most 2³².
    pub fn permutation(&self, draw: u64, n: usize) -> Vec<u32> {
        let mut words = self.stream(0, draw, Purpose::Permutation).words();
        let mut order: Vec<u32> = (0..n).map(|i| i as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, words.below(i as u64 + 1) as usize);
        }
        order
    }

    /// The stream of random blocks for one sample, draw and purpose.
    pub(super) fn stream(&self, sample: u64, draw: u64, purpose: Purpose) -> Stream {
        let ([s0, s1], [d0, d1]) = (halves(sample), halves(draw));
        let [k0, k1, high0, high1] = philox::block([s0, s1, d0, d1], self.key);
        Stream { key: [k0, k1], high: [high0, high1], purpose }
    }
}

/// Random blocks under a key of their own.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    key: [u32; 2],
    high: [u32; 2],
    purpose: Purpose,
}

impl Stream {
    /// Block number `index` (below 2⁵⁶: the top byte of the second word is the purpose).
    #[inline]
    fn block(&self, index: u64) -> [u32; 4] {
        let [low, middle] = halves(index);
        let tagged = middle ^ ((self.purpose as u32) << 24);
        philox::block([low, tagged, self.high[0], self.high[1]], self.key)
    }

    /// The stream as 64-bit words, from its beginning.
    pub(super) fn words(self) -> Words {
        Words { stream: self, next: 0, spare: None }
    }
}

/// A stream read word by word.
pub(super) struct Words {
    stream: Stream,
    next: u64,
    spare: Option<u64>,
}

impl Words {
    fn word(&mut self) -> u64 {
        if let Some(word) = self.spare.take() {
            return word;
        }
        let [a, b, c, d] = self.stream.block(self.next);
        self.next += 1;
        self.spare = Some(u64::from(c) | u64::from(d) << 32);
        u64::from(a) | u64::from(b) << 32
    }

    /// A number from [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number from the open interval (0, 1).
    pub(super) fn open_uniform(&mut self) -> f64 {
        ((self.word() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// A standard normal in double precision.
    pub(super) fn normal(&mut self) -> f64 {
        quantile::normal(self.open_uniform())
    }

    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(n)) >> 64) as u64
    }
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_depends_on_its_keys_and_index_only() {
        let noise = Noise::new(7);
        let long = noise.normal(3, 5, 1000);
        for n in [0, 1, 3, 4, 5, 17, 999] {
            assert_eq!(noise.normal(3, 5, n), long[..n]);
        }
        assert_eq!(noise.uniforms(3, 5, 9)[..1], [noise.uniform(3, 5)]);
        // From eight threads, in any order: the same bits.
        let alone: Vec<_> = (0..64).map(|sample| noise.normal(sample, 0, 33)).collect();
        std::thread::scope(|scope| {
            for worker in 0..8usize {
                let alone = &alone;
                scope.spawn(move || {
                    for sample in (worker..64).step_by(8).rev() {
                        assert_eq!(noise.normal(sample as u64, 0, 33), alone[sample]);
                    }
                });
            }
        });
    }

    #[test]
    fn every_key_matters() {
        let base = Noise::new(1).normal(2, 3, 8);
        let high = 1 << 40;
        for other in [
            Noise::new(2).normal(2, 3, 8),
            Noise::new(1 + high).normal(2, 3, 8),
            Noise::new(1).normal(3, 3, 8),
            Noise::new(1).normal(2 + high, 3, 8),
            Noise::new(1).normal(2, 4, 8),
            Noise::new(1).normal(2, 3 + high, 8),
            Noise::new(1).normal(3, 2, 8),
        ] {
            assert!(base.iter().zip(&other).all(|(a, b)| a != b), "{base:?} {other:?}");
        }
        let words = |p| Noise::new(1).stream(2, 3, p).words().word();
        assert_ne!(words(Purpose::Uniform), words(Purpose::Below));
    }

    #[test]
    fn the_bits_never_change() {
        // Checkpoints, seeds in bug reports and golden files rely on these numbers. They come from
        // a second implementation: Python integers and `statistics.NormalDist().inv_cdf`.
        let noise = Noise::new(42);
        let bits: Vec<u32> = noise.normal(1, 2, 5).iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0x3e80_cfba, 0xbede_2458, 0xbf8e_c527, 0x3d5d_be7a, 0x3f2e_9183]);
        assert_eq!(noise.uniform(1, 2), 0.7530860759087855);
        assert_eq!(noise.below(1, 2, 1000), 36);
        assert_eq!(noise.permutation(2, 8), [3, 5, 6, 7, 0, 2, 4, 1]);
    }

    #[test]
    fn normals_have_the_moments_and_tails_of_normals() {
        let n = 400_000;
        let z: Vec<f64> = Noise::new(0).normal(0, 0, n).into_iter().map(f64::from).collect();
        let mean = |f: &dyn Fn(f64) -> f64| z.iter().map(|&z| f(z)).sum::<f64>() / n as f64;
        // Five standard errors each: the variances of z, z², z³, z⁴ are 1, 2, 15, 96.
        for (power, expected, variance) in
            [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
        {
            let gap = mean(&|z: f64| z.powi(power)) - expected;
            assert!(gap.abs() < 5.0 * (variance / n as f64).sqrt(), "moment {power}: {gap}");
        }
        let beyond = mean(&|z: f64| f64::from(u8::from(z.abs() > 3.0)));
        assert!((beyond - 0.0027).abs() < 5.0 * (0.0027 / n as f64).sqrt(), "{beyond}");
        // Neighbours, and neighbouring streams, are uncorrelated.
        let lag = z.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        assert!(lag.abs() < 5.0 / (n as f64).sqrt(), "{lag}");
        let next = Noise::new(0).normal(1, 0, n);
        let cross = z.iter().zip(next).map(|(a, b)| a * f64::from(b)).sum::<f64>() / n as f64;
        assert!(cross.abs() < 5.0 / (n as f64).sqrt(), "{cross}");
    }

    #[test]
    fn indices_are_uniform_and_permutations_are_permutations() {
        let noise = Noise::new(3);
        let mut counts = [0u32; 7];
        for sample in 0..70_000 {
            counts[noise.below(sample, 0, 7)] += 1;
        }
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 35.0, "chi² with 6 degrees of freedom: {chi2}");
        assert_eq!(noise.below(0, 0, 0), 0);
        assert_eq!(noise.permutation(0, 0), Vec::<u32>::new());
        let mut order = noise.permutation(9, 1000);
        assert_ne!(order, noise.permutation(10, 1000));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &x)| i as u32 == x));
        let mut seen = std::collections::BTreeMap::new();
        for draw in 0..24_000 {
            *seen.entry(noise.permutation(draw, 4)).or_insert(0u32) += 1;
        }
        let chi2: f64 = seen.values().map(|&c| (f64::from(c) - 1e3).powi(2) / 1e3).sum();
        assert!(seen.len() == 24 && chi2 < 65.0, "chi² with 23 degrees of freedom: {chi2}");
    }
}
