//! Learning-rate schedules as data.
//!
//! Each is a share of the peak rate at update `step` of `total`, with `w` steps of warm-up. The
//! names are diffusers' and transformers', and so are the values (`optimization.py` of both): their
//! linear warm-up is `step/w`, whose first update does nothing. [`LrSchedule::WarmupCosine`] is
//! Pathline's own and the default: its warm-up is `(step + 1)/w`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The shape of the learning rate over a run.
// Braces where a variant has no field: serde lets unknown keys pass beside a unit variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LrSchedule {
    /// Warm-up, then half a cosine from the peak down to `final_lr_ratio` of it.
    WarmupCosine {},
    /// The peak, without warm-up.
    Constant {},
    /// Warm-up, then the peak.
    ConstantWithWarmup {},
    /// Warm-up, then a straight line to zero.
    Linear {},
    /// Warm-up, then `num_cycles` of a cosine: 0.5 goes down to zero once.
    Cosine {
        /// Whole waves.
        #[serde(default = "half")]
        num_cycles: f64,
    },
    /// Warm-up, then `1/√((step + timescale − w)/timescale)`.
    InverseSqrt {
        /// How slowly it falls; the warm-up if absent, 10000 without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timescale: Option<f64>,
    },
}

fn half() -> f64 {
    0.5
}

impl Default for LrSchedule {
    fn default() -> Self {
        Self::WarmupCosine {}
    }
}

impl LrSchedule {
    /// Whether this is the default.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The rate at `step` of `total` for a `peak` rate and `warmup` steps of warm-up. `final_ratio`
    /// is where the default ends, as a share of the peak.
    pub fn lr_at(&self, peak: f64, [step, total, warmup]: [usize; 3], final_ratio: f64) -> f64 {
        let warming = step < warmup;
        let past = step.saturating_sub(warmup) as f64;
        let span = total.saturating_sub(warmup).max(1) as f64;
        let cosine = |half_waves: f64| 0.5 * (1.0 + (std::f64::consts::PI * half_waves).cos());
        peak * match *self {
            Self::Constant {} => 1.0,
            // In this order of operations: runs of old recipes stay the same to the bit.
            Self::WarmupCosine {} if warming => return peak * (step + 1) as f64 / warmup as f64,
            Self::WarmupCosine {} => {
                final_ratio + (1.0 - final_ratio) * cosine((past / span).min(1.0))
            }
            _ if warming => step as f64 / warmup as f64,
            Self::ConstantWithWarmup {} => 1.0,
            Self::Linear {} => ((total as f64 - step as f64) / span).max(0.0),
            Self::Cosine { num_cycles } => cosine(2.0 * num_cycles * (past / span)),
            Self::InverseSqrt { timescale } => {
                let default = if warmup > 0 { warmup as f64 } else { 1e4 };
                let timescale = timescale.unwrap_or(default);
                (timescale / (past + timescale)).sqrt()
            }
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<()> {
        let (key, value) = match *self {
            Self::Cosine { num_cycles } => ("num_cycles", num_cycles),
            Self::InverseSqrt { timescale: Some(timescale) } => ("timescale", timescale),
            _ => return Ok(()),
        };
        if value > 0.0 && value.is_finite() {
            return Ok(());
        }
        Err(Error::range(format!("optimizer.lr_scheduler.{key}"), "a positive number", value))
    }
}
