//! Temporal ensembling of action chunks.
//!
//! The policy runs every tick, so each tick has up to `chunk_size` predictions, of weight
//! `w_i = e^(−coefficient·i)`, i = 0 the oldest. Their mean is kept online: with `W_i = Σ_{j ≤ i} w_j`,
//! `mean ← (mean·W_{i−1} + action·w_i)/W_i`. A coefficient of 0 weighs all alike, a negative one prefers
//! the newest. All in f32, operation by operation as LeRobot. Sources: Zhao et al. 2023 (ACT),
//! algorithm 2; LeRobot `policies/act/modeling_act.py`, `ACTTemporalEnsembler` (0.4.4).

use crate::action::ensemble_weights;
use crate::{Error, Result};

/// The running means of one robot's coming actions.
#[derive(Clone, Debug)]
pub struct Ensembler {
    /// `w_i` and `W_i`.
    weights: Vec<[f32; 2]>,
    /// Means of the coming ticks, row-major, the next tick first; empty before the first chunk.
    means: Vec<f32>,
    /// How many predictions each of them holds.
    counts: Vec<usize>,
}

impl Ensembler {
    /// An ensemble without predictions.
    ///
    /// # Errors
    /// When `chunk_size` is 0, or the weights of `coefficient` are not finite in f32: then the actions
    /// would not be.
    pub fn new(coefficient: f64, chunk_size: usize) -> Result<Self> {
        if chunk_size == 0 {
            return Err(Error::Invalid("chunk_size: expected 1 or more, got 0".to_owned()));
        }
        let weights = ensemble_weights(coefficient, chunk_size);
        if !weights.as_flattened().iter().all(|weight| weight.is_finite()) {
            return Err(Error::range(
                "temporal_ensemble_coeff",
                format!("a number whose weights e^(−coefficient·i), i < {chunk_size}, are finite"),
                coefficient,
            ));
        }
        Ok(Self { weights, means: Vec::new(), counts: Vec::new() })
    }

    /// Forgets all predictions: an episode begins.
    pub fn reset(&mut self) {
        self.means.clear();
        self.counts.clear();
    }

    /// Takes in the `chunk` `[chunk_size, dim]` that starts at this tick, row-major, and gives this
    /// tick's action. The next call is for the next tick.
    ///
    /// # Errors
    /// When the length is another, or `dim` is not that of the chunks before.
    pub fn update(&mut self, chunk: &[f32], dim: usize) -> Result<Vec<f32>> {
        let rows = self.weights.len();
        let kept = self.means.len();
        if dim == 0 || chunk.len() != rows * dim || (kept != 0 && kept != (rows - 1) * dim) {
            return Err(Error::shape(
                "temporal ensemble: chunk",
                [rows, if kept == 0 { dim.max(1) } else { kept / (rows - 1) }],
                format!("{} numbers in rows of {dim}", chunk.len()),
            ));
        }
        let means = self.means.chunks_exact_mut(dim).zip(chunk.chunks_exact(dim));
        for ((mean, action), count) in means.zip(&mut self.counts) {
            let [[_, before], [weight, after]] = [self.weights[*count - 1], self.weights[*count]];
            for (mean, action) in mean.iter_mut().zip(action) {
                *mean = (*mean * before + action * weight) / after;
            }
            *count += 1;
        }
        // Ticks without a prediction so far: all in the first chunk, later the last row.
        self.means.extend_from_slice(&chunk[kept..]);
        self.counts.resize(rows, 1);
        self.counts.remove(0);
        Ok(self.means.drain(..dim).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunk `tick` of a 1-D ensemble of 4 rows.
    fn chunk(tick: usize) -> Vec<f32> {
        (0..4).map(|row| ((tick * 4 + row) as f32 * 0.7).sin()).collect()
    }

    #[test]
    fn the_online_mean_is_the_weighted_mean() {
        for coefficient in [0.01, 0.0, -0.5, 3.0] {
            let mut ensembler = Ensembler::new(coefficient, 4).unwrap();
            for tick in 0..12 {
                let got = ensembler.update(&chunk(tick), 1).unwrap()[0];
                // Predictions of this tick, the oldest first.
                let (mut sum, mut weights) = (0.0, 0.0);
                for (i, from) in (tick.saturating_sub(3)..=tick).enumerate() {
                    let weight = (-coefficient * i as f64).exp();
                    sum += weight * f64::from(chunk(from)[tick - from]);
                    weights += weight;
                }
                assert!((f64::from(got) - sum / weights).abs() < 1e-6, "{coefficient}, {tick}");
            }
        }
    }

    #[test]
    fn a_reset_forgets() {
        let mut ensembler = Ensembler::new(0.01, 4).unwrap();
        let first = ensembler.update(&chunk(0), 1).unwrap();
        assert_ne!(ensembler.update(&chunk(0), 1).unwrap(), first);
        ensembler.reset();
        assert_eq!(ensembler.update(&chunk(0), 1).unwrap(), first);
        // Another action dimension is fine after a reset, and only then.
        assert!(ensembler.update(&[0.0; 8], 2).is_err());
        ensembler.reset();
        assert_eq!(ensembler.update(&[0.5; 8], 2).unwrap(), [0.5, 0.5]);
    }

    #[test]
    fn a_chunk_of_one_row_is_the_action() {
        let mut ensembler = Ensembler::new(0.3, 1).unwrap();
        for action in [[1.0, 2.0], [3.0, 4.0]] {
            assert_eq!(ensembler.update(&action, 2).unwrap(), action);
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        for (coefficient, rows) in [(f64::NAN, 4), (f64::NEG_INFINITY, 4), (-100.0, 4), (0.1, 0)] {
            assert!(Ensembler::new(coefficient, rows).is_err(), "{coefficient} {rows}");
        }
        let mut ensembler = Ensembler::new(0.1, 4).unwrap();
        for (len, dim) in [(3, 1), (0, 0), (8, 1), (4, 0), (4, 4)] {
            assert!(ensembler.update(&vec![0.0; len], dim).is_err(), "{len} {dim}");
        }
    }
}
