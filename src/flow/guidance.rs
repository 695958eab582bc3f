//! Classifier-free guidance: away from a negative condition, towards the condition.
//!
//! ```text
//! out = u + s·(c − u)        c, u: outputs under the condition and under the negative (or empty) one
//! ```
//!
//! s is diffusers' `guidance_scale`: 1 is the condition alone, 0 the negative alone. Ho and Salimans
//! write `(1 + w)·c − w·u`, which is s = w + 1. The weights sum to 1, so the same s means the same
//! for every [`Target`]; the rescale does not (it looks at the spread of what the network emits).
//!
//! *Rescale* φ: `out ← φ·out·std(c)/std(out) + (1 − φ)·out`, std over one sample. *Interval*:
//! guidance only for some noise levels; outside, the negative branch is not evaluated.
//! Sources: Ho and Salimans 2022; Lin et al. 2024, section 3.4 (rescale); Kynkäänniemi et al. 2024
//! (interval, over σ̂).

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::path::Path;
use super::target::{Estimate, Target, combine};
use crate::{Error, Result};

/// Beside a variance, so that a sample of equal numbers keeps them.
const TINY: f64 = 1e-20;

/// Where guidance acts; both ends are in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Interval {
    /// While `σ̂ = σ/α` is in the range: the same noise levels on every path.
    SigmaHat {
        /// Smallest σ̂.
        from: f64,
        /// Largest σ̂; may be infinite.
        to: f64,
    },
    /// While the path's own time is in the range, whichever way it runs.
    Time {
        /// Smallest time.
        from: f64,
        /// Largest time.
        to: f64,
    },
}

/// How two branches become one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guidance {
    /// s: 1 is the condition alone.
    pub scale: f64,
    /// φ: 0 leaves the spread as it comes, 1 makes it that of the condition's output.
    pub rescale: f64,
    /// Where guidance acts; everywhere if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1.0, rescale: 0.0, interval: None }
    }
}

/// Which branches a call of the network must evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branches {
    /// The condition only.
    Conditional,
    /// The condition and the negative one: one batch of twice the size, if the network can.
    Both,
}

/// What the network emits under its conditions, each of the shape of the state.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Under the condition.
    pub conditional: Tensor,
    /// Under the negative (or empty) condition; needed where it was asked for.
    pub negative: Option<Tensor>,
}

impl Guidance {
    /// Guidance of scale `s` everywhere, without rescale.
    pub fn new(scale: f64) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Range`] when the scale is not finite, the rescale is outside [0, 1] or the interval
    /// is reversed.
    pub fn validate(&self) -> Result<()> {
        if !self.scale.is_finite() {
            return Err(Error::range("guidance: scale", "a finite number", self.scale));
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return Err(Error::range("guidance: rescale", "0 to 1", self.rescale));
        }
        match self.interval {
            Some(Interval::SigmaHat { from, to } | Interval::Time { from, to })
                if !(from.is_finite() && from <= to) =>
            {
                let expected = format!("its end at or after its beginning {from}");
                Err(Error::range("guidance: interval", expected, to))
            }
            _ => Ok(()),
        }
    }

    /// Which branches time `t` of `path` needs: both inside the interval, unless the scale is 1.
    pub fn branches(&self, path: &Path, t: f64) -> Branches {
        let inside = match self.interval {
            None => true,
            Some(Interval::SigmaHat { from, to }) => (from..=to).contains(&path.at(t).sigma_hat()),
            Some(Interval::Time { from, to }) => (from..=to).contains(&t),
        };
        if inside && self.scale != 1.0 { Branches::Both } else { Branches::Conditional }
    }

    /// `u + s·(c − u)`, rescaled; `[b, ..]` each.
    ///
    /// # Errors
    /// [`Error::Shape`] when the branches differ in shape.
    pub fn apply(&self, conditional: &Tensor, negative: &Tensor) -> Result<Tensor> {
        if conditional.dims() != negative.dims() {
            let what = "guidance: negative branch";
            return Err(Error::shape(what, conditional.dims(), negative.dims()));
        }
        let out = combine(self.scale, conditional, 1.0 - self.scale, negative)?;
        if self.rescale == 0.0 {
            return Ok(out);
        }
        let ratio = (variance(conditional)? / variance(&out)?)?.sqrt()?;
        let factor = ratio.affine(self.rescale, 1.0 - self.rescale)?.to_dtype(out.dtype())?;
        Ok(out.broadcast_mul(&factor)?)
    }
}

/// The denoiser of a guided network that emits `target` along `path`.
///
/// The network is called once with the branches it must evaluate, so a sampler's `nfe` counts calls:
/// the number of forward passes of one sample is `nfe` plus the calls that asked for
/// [`Branches::Both`].
///
/// # Errors
/// When the guidance is not valid. The denoiser: when the network fails, a branch is missing, or
/// the shapes differ.
pub fn guided<'a>(
    path: &'a Path,
    target: Target,
    guidance: Guidance,
    mut network: impl FnMut(&Tensor, f64, Branches) -> Result<Outputs> + 'a,
) -> Result<impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a> {
    guidance.validate()?;
    Ok(move |x: &Tensor, t: f64| {
        let branches = guidance.branches(path, t);
        let Outputs { conditional, negative } = network(x, t, branches)?;
        let output = match (branches, negative) {
            (Branches::Conditional, _) => conditional,
            (Branches::Both, Some(negative)) => guidance.apply(&conditional, &negative)?,
            (Branches::Both, None) => {
                return Err(Error::Invalid(format!(
                    "guidance: expected both branches at t = {t}, got the conditional one only; \
                     return the negative branch too"
                )));
            }
        };
        Estimate::from_output(target, &path.at(t), x, &output)
    })
}

/// Variance of each sample, `[b, 1, ..]`, at least in f32.
fn variance(x: &Tensor) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
    let flat = wide.reshape((x.dim(0)?, ()))?;
    let off = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
    let mut shape = vec![1; x.rank()];
    shape[0] = x.dim(0)?;
    Ok(off.sqr()?.mean_keepdim(1)?.affine(1.0, TINY)?.reshape(shape)?)
}
