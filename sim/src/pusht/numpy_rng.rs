//! NumPy's default random stream, as far as gym-pusht's reset uses it.
//!
//! `np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))`: SeedSequence mixes the
//! seed into a pool of four words (O'Neill's seed_seq_fe128); PCG64 is a 128-bit LCG with XSL-RR
//! output (O'Neill 2014); integers below 2³² come from 32-bit halves by Lemire's method (2019).
//! Parity with numpy 2.4.6 is tested by sim/tests/parity.rs.

const POOL: usize = 4;

fn hash_mix(value: u32, state: &mut u32, factor: u32) -> u32 {
    let v = value ^ *state;
    *state = state.wrapping_mul(factor);
    let v = v.wrapping_mul(*state);
    v ^ (v >> 16)
}

fn mix(x: u32, y: u32) -> u32 {
    let v = 0xca01_f9dd_u32.wrapping_mul(x).wrapping_sub(0x4973_f715_u32.wrapping_mul(y));
    v ^ (v >> 16)
}

/// Four 64-bit words of `SeedSequence(seed).generate_state(4, np.uint64)`.
fn seed_words(seed: u64) -> [u64; 4] {
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut state = 0x43b0_d7e5;
    let mut pool = entropy.map(|word| hash_mix(word, &mut state, 0x931e_8875));
    for src in 0..POOL {
        for dst in (0..POOL).filter(|&dst| dst != src) {
            pool[dst] = mix(pool[dst], hash_mix(pool[src], &mut state, 0x931e_8875));
        }
    }
    let mut state = 0x8b51_f9dd;
    let mut words = [0; 4];
    for (i, word) in words.iter_mut().enumerate() {
        let lo = hash_mix(pool[(2 * i) % POOL], &mut state, 0x58f3_8ded);
        let hi = hash_mix(pool[(2 * i + 1) % POOL], &mut state, 0x58f3_8ded);
        *word = u64::from(lo) | u64::from(hi) << 32;
    }
    words
}

/// `np.random.default_rng(seed)`.
pub(crate) struct NumpyRng {
    state: u128,
    increment: u128,
    /// Upper half of the last word, if only the lower one has been used.
    half: Option<u32>,
}

impl NumpyRng {
    pub(crate) fn new(seed: u64) -> Self {
        let [a, b, c, d] = seed_words(seed).map(u128::from);
        let mut rng = NumpyRng { state: 0, increment: ((c << 64 | d) << 1) | 1, half: None };
        rng.advance();
        rng.state = rng.state.wrapping_add(a << 64 | b);
        rng.advance();
        rng
    }

    fn advance(&mut self) {
        const FACTOR: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(FACTOR).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.half.take() {
            return high;
        }
        let word = self.next_u64();
        self.half = Some((word >> 32) as u32);
        word as u32
    }

    /// `Generator.integers(low, high)`: uniform in low..high. `high` must exceed `low`.
    pub(crate) fn integers(&mut self, low: u32, high: u32) -> u32 {
        let range = high - low;
        let threshold = range.wrapping_neg() % range;
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(range);
            if wide as u32 >= threshold {
                return low + (wide >> 32) as u32;
            }
        }
    }

    /// `Generator.uniform(low, high)`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0);
        low + (high - low) * unit
    }
}
