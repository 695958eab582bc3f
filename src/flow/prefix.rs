//! How firmly a new action chunk is held to the one that is being executed, step by step.
//!
//! The weights are the mask of a guided [`Known`](super::Known). With `start = min(delay, end)` step i
//! has `w = clamp((start − 1 − i)/(end − start + 1) + 1, 0, 1)`, and 0 from `end` on.
//! Source: Black et al. 2025 (RTC, arXiv 2506.07339) and its code's `prefix_attention_schedule`.

use serde::{Deserialize, Serialize};

/// How the weight W of a chunk's beginning falls from step to step. The names are LeRobot's
/// `prefix_attention_schedule`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Prefix {
    /// In equal steps to 0.
    #[default]
    Linear,
    /// `w·(eʷ − 1)/(e − 1)` of the linear w.
    Exp,
    /// 1 up to the end.
    Ones,
    /// 0 after the delay.
    Zeros,
}

impl Prefix {
    /// The weights of `horizon` steps: 1 for the first `delay`, which are executed while the new
    /// chunk is computed, falling up to `end`, and 0 from there on. A delay beyond the end is the end.
    pub fn weights(self, delay: usize, end: usize, horizon: usize) -> Vec<f64> {
        let start = delay.min(end);
        let weight = |i: usize| {
            let fall = (i + 1).saturating_sub(start) as f64 / (end - start + 1) as f64;
            let linear = (1.0 - fall).clamp(0.0, 1.0);
            match self {
                _ if i >= end => 0.0,
                Self::Linear => linear,
                Self::Exp => linear * linear.exp_m1() / 1.0f64.exp_m1(),
                Self::Ones => 1.0,
                Self::Zeros => f64::from(u8::from(i < start)),
            }
        };
        (0..horizon).map(weight).collect()
    }
}
