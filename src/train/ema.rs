//! The exponential moving average of the weights, with warm-up.
//!
//! `ema ← d·ema + (1 − d)·w` after every update, where d rises to `decay` as the run goes on: an
//! average over ten thousand updates means nothing after a hundred. Update n (from 1) has
//! `s = n − 1 − update_after_step` and `d = (1 + s)/(10 + s)`, or `1 − (1 + s/inv_gamma)^(−power)`,
//! within `min_decay` and `decay`, and 0 (the weights themselves) as long as `s ≤ 0`. These are the
//! keys of diffusers' `EMAModel`. Its `update_after_step` of 0 makes the first update copy; here −1
//! is the default, so that the first update averages already.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the decay rises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaWarmup {
    /// Least decay, once averaging has begun.
    pub min_decay: f64,
    /// Updates that only copy, less one.
    pub update_after_step: i64,
    /// Turns on the power law: 1 with power 2/3 reaches 0.999 at 31,600 updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inv_gamma: Option<f64>,
    /// Exponent of the power law.
    pub power: f64,
}

impl Default for EmaWarmup {
    fn default() -> Self {
        Self { min_decay: 0.0, update_after_step: -1, inv_gamma: None, power: 2.0 / 3.0 }
    }
}

impl EmaWarmup {
    /// Whether this is the default.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The decay of update `n`, the first of which is 1.
    pub fn decay_at(&self, n: usize, decay: f64) -> f64 {
        let s = (n as i64).saturating_sub(1).saturating_sub(self.update_after_step);
        if s <= 0 {
            return 0.0;
        }
        let s = s as f64;
        let rising = match self.inv_gamma {
            Some(inv_gamma) => 1.0 - (1.0 + s / inv_gamma).powf(-self.power),
            None => (1.0 + s) / (10.0 + s),
        };
        decay.min(rising).max(self.min_decay)
    }

    /// Checks the values for a final `decay`.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self, decay: f64) -> Result<()> {
        let checks = [
            ("min_decay", self.min_decay, (0.0..=decay).contains(&self.min_decay)),
            ("update_after_step", self.update_after_step as f64, self.update_after_step >= -1),
            ("inv_gamma", self.inv_gamma.unwrap_or(1.0), self.inv_gamma.is_none_or(|g| g > 0.0)),
            ("power", self.power, self.power > 0.0 && self.power.is_finite()),
        ];
        match checks.into_iter().find(|(_, _, valid)| !valid) {
            Some((key, value, _)) => {
                Err(Error::Invalid(format!("optimizer.ema_warmup.{key}: {value} is out of range")))
            }
            None => Ok(()),
        }
    }
}

/// Moves `ema` towards `weights`: `ema ← decay·ema + (1 − decay)·w`.
pub fn average(ema: &mut [f32], weights: &[f32], decay: f32) {
    for (ema, w) in ema.iter_mut().zip(weights) {
        *ema = decay * *ema + (1.0 - decay) * w;
    }
}
