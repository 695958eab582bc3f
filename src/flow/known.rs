//! A part of the sample that is known: a region of a picture, the beginning of an action chunk.
//!
//! Inpainting and chunk continuation are one operation: a mask W in [0, 1], values Y, and a wrapper
//! around the denoiser. Three ways to use them:
//!
//! - *Clamp, along the path*: before each evaluation the known part of the state becomes
//!   `α·Y + σ·noise₀`, its own place on the path. Any network will do. (Lugmayr et al. 2022, RePaint,
//!   with one noise for all times and no resampling.)
//! - *Clamp, clean*: the known part of the state is Y at every time, and the network is told the time
//!   of the data for these tokens. Needs a network that was trained with times per token: LeRobot's
//!   `hard_prefix`, training-time RTC (Black et al. 2025, arXiv 2512.05964).
//! - *Guided*: the state is left alone and the estimate is pulled, softly where W is small. With
//!   `e = W·(Y − x̂)` and `g = (∂x̂/∂x)ᵀ·e` (Pokle et al. 2024; Black et al. 2025, RTC):
//!
//! ```text
//! w = min((α² + σ²)/(α·σ), β)
//! data += σ·w·g      noise −= α·w·g      so that      velocity −= (α·σ' − α'·σ)·w·g
//! ```
//!
//! It is the step from the score to the score given Y, with `Var[data | x_t] ≈ σ²/(α² + σ²)`. On
//! the straight path (noise at t = 1) w is RTC's `(t/(1 − t))·(t² + (1 − t)²)/t²` and the velocity
//! becomes `v − w·g`; on the reversed one `v + w·g`. w and the estimate do not change with the time or
//! the scale of a path, so neither does the result.

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::denoiser::Denoiser;
use super::path::{Coef, Path};
use super::target::{Estimate, combine};
use crate::{Error, Result};

/// The time of a state: one for all of it, and where they differ one for each token.
#[derive(Clone, Debug)]
pub struct Times {
    /// The path's own time of every token that `tokens` does not speak of.
    pub t: f64,
    /// Times of the tokens in f64 on the host, of a shape that broadcasts to the state (`[b, H, 1]` for chunks,
    /// `[b, 1, h, w]` for latents).
    pub tokens: Option<Tensor>,
}

/// A [`Denoiser`] whose network takes times per token.
pub type TokenDenoiser<'a> = dyn FnMut(&Tensor, &Times) -> Result<Estimate> + 'a;

/// How the known part is brought into the sample.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The state is set before each evaluation.
    Clamp(Hold),
    /// The estimate is pulled towards the values.
    Guided {
        /// What `∂x̂/∂x` is taken to be.
        derivative: Derivative,
        /// β, the largest w: 5 in the RTC paper, 10 in LeRobot.
        max_guidance_weight: f64,
    },
}

/// Where the clamped part of the state is.
#[derive(Clone, Debug)]
pub enum Hold {
    /// On its own path from this noise (the sampler's initial noise), of the shape of the state.
    Along(Tensor),
    /// At the data at every time, and the network is told so by [`Times`].
    Clean,
}

/// The derivative of the data estimate in the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Derivative {
    /// `1/(α + σ)`: 1 on a straight path, where it is LeRobot's (its network output carries no
    /// gradient); the same estimate on every other. Costs nothing.
    #[default]
    Identity,
    /// The true one, by a backward pass through the network: the paper's.
    Vjp,
}

/// A known part: mask, values, and how to use them.
#[derive(Clone, Debug)]
pub struct Known {
    mask: Tensor,
    unknown: Tensor,
    value: Tensor,
    mode: Mode,
}

impl Known {
    /// Known values under a mask from 0 (unknown) to 1 (known). Both have the rank of the state, and
    /// each axis is the state's or 1: `[b, 1, h, w]` or `[b, H, 1]` masks. All tensors have the
    /// state's dtype and device.
    ///
    /// # Errors
    /// [`Error::Range`] when the mask leaves [0, 1] or β is not above 0; [`Error::Shape`] when
    /// mask, value and noise do not fit together; [`Error::Invalid`] when a value is not finite.
    pub fn new(mask: Tensor, value: Tensor, mode: Mode) -> Result<Self> {
        beside("known: mask", value.dims(), mask.dims())?;
        let wide = on_host(&mask)?.flatten_all()?.to_vec1::<f64>()?;
        if let Some(bad) = wide.iter().find(|w| !(0.0..=1.0).contains(*w)) {
            return Err(Error::range("known: mask", "0 to 1", *bad));
        }
        let finite = |what: &str, x: &Tensor| -> Result<()> {
            let sum = on_host(x)?.sum_all()?.to_scalar::<f64>()?;
            if sum.is_finite() {
                return Ok(());
            }
            Err(Error::Invalid(format!(
                "known: expected finite numbers as {what}, got a sum of {sum}; fill the unknown \
                 part with zeros"
            )))
        };
        finite("value", &value)?;
        match &mode {
            Mode::Clamp(Hold::Along(noise)) => {
                fits("known: value", noise.dims(), value.dims())?;
                fits("known: mask", noise.dims(), mask.dims())?;
                finite("noise", noise)?;
            }
            Mode::Guided { max_guidance_weight: beta, .. }
                if !(beta.is_finite() && *beta > 0.0) =>
            {
                let expected = "a finite number above 0";
                return Err(Error::range("known: max_guidance_weight", expected, *beta));
            }
            _ => {}
        }
        let unknown = mask.affine(-1.0, 1.0)?;
        Ok(Self { mask, unknown, value, mode })
    }

    /// Whether the known part is clean at every time, so that a network must be told times per token.
    pub fn is_clean(&self) -> bool {
        matches!(self.mode, Mode::Clamp(Hold::Clean))
    }

    /// The denoiser that knows: for samplers in place of `denoiser`.
    ///
    /// # Errors
    /// When the mode is [`Hold::Clean`], which takes a [`TokenDenoiser`]. The new denoiser: when the
    /// old one fails or the shapes do not fit.
    pub fn denoiser<'a>(
        &'a self,
        path: &'a Path,
        denoiser: &'a mut Denoiser<'_>,
    ) -> Result<impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a> {
        if let Mode::Clamp(Hold::Clean) = self.mode {
            return Err(Error::Invalid(
                "known: a clean prefix needs a network with times per token; \
                 use Known::token_denoiser, or Hold::Along for other networks"
                    .into(),
            ));
        }
        Ok(move |x: &Tensor, t: f64| self.ask(path, x, t, &mut |x, times| denoiser(x, times.t)))
    }

    /// [`Known::denoiser`] of a network that takes times per token, in any mode.
    pub fn token_denoiser<'a>(
        &'a self,
        path: &'a Path,
        denoiser: &'a mut TokenDenoiser<'_>,
    ) -> impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a {
        move |x, t| self.ask(path, x, t, denoiser)
    }

    /// The state `x` at the path's own time `t` with the known part in its place. For the initial
    /// state, and for the result, which then holds the known values exactly. [`Mode::Guided`] changes
    /// nothing.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn hold(&self, path: &Path, x: &Tensor, t: f64) -> Result<Tensor> {
        self.check(x)?;
        match &self.mode {
            Mode::Guided { .. } => Ok(x.clone()),
            Mode::Clamp(Hold::Clean) => self.blend(&self.value, x),
            Mode::Clamp(Hold::Along(noise)) => {
                let Coef { alpha, sigma, .. } = path.at(t);
                let value = self.value.broadcast_as(noise.dims())?;
                self.blend(&combine(alpha, &value, sigma, noise)?, x)
            }
        }
    }

    /// What the network is told at time `t`: the data's time for tokens that are known and clean.
    /// Between, in the share of the mask.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn times(&self, path: &Path, t: f64) -> Result<Times> {
        let tokens = match self.mode {
            Mode::Clamp(Hold::Clean) => {
                let mask = on_host(&self.mask)?;
                let (known, other) = (path.ends().1, mask.affine(-t, t)?);
                Some((mask.affine(known, 0.0)? + other)?)
            }
            _ => None,
        };
        Ok(Times { t, tokens })
    }

    fn ask(
        &self,
        path: &Path,
        x: &Tensor,
        t: f64,
        denoiser: &mut TokenDenoiser<'_>,
    ) -> Result<Estimate> {
        let (coef, times) = (path.at(t), self.times(path, t)?);
        let state = self.hold(path, x, t)?;
        match &self.mode {
            Mode::Guided { derivative, max_guidance_weight } => {
                self.guide(&coef, &state, *derivative, *max_guidance_weight, &mut |x| {
                    denoiser(x, &times)
                })
            }
            Mode::Clamp(hold) => {
                let estimate = denoiser(&state, &times)?;
                let noise = match hold {
                    Hold::Along(noise) => noise.clone(),
                    Hold::Clean => self.value.affine(still(&coef), 0.0)?,
                };
                let data = self.blend(&self.value, &estimate.data)?;
                Ok(Estimate { data, noise: self.blend(&noise, &estimate.noise)? })
            }
        }
    }

    fn guide(
        &self,
        coef: &Coef,
        x: &Tensor,
        derivative: Derivative,
        max_weight: f64,
        denoiser: &mut dyn FnMut(&Tensor) -> Result<Estimate>,
    ) -> Result<Estimate> {
        let weight = guidance_weight(coef, max_weight);
        let error = |data: &Tensor| -> Result<Tensor> {
            let gap = data.neg()?.broadcast_add(&self.value)?;
            Ok(gap.broadcast_mul(&self.mask)?.detach())
        };
        let (estimate, pull) = match derivative {
            Derivative::Identity => {
                let estimate = denoiser(x)?;
                let pull = error(&estimate.data)?.affine(1.0 / (coef.alpha + coef.sigma), 0.0)?;
                (estimate, pull)
            }
            Derivative::Vjp => {
                let x = Var::from_tensor(&x.detach())?;
                let Estimate { data, noise } = denoiser(&x)?;
                let product = (&data * error(&data)?)?.sum_all()?;
                let Some(pull) = product.backward()?.remove(&x) else {
                    return Err(Error::Invalid(
                        "known: expected a network with a gradient in its input, got none; use \
                         differentiable layers, or Derivative::Identity"
                            .into(),
                    ));
                };
                (Estimate { data: data.detach(), noise: noise.detach() }, pull.detach())
            }
        };
        Ok(Estimate {
            data: combine(1.0, &estimate.data, coef.sigma * weight, &pull)?,
            noise: combine(1.0, &estimate.noise, -coef.alpha * weight, &pull)?,
        })
    }

    /// `mask·known + (1 − mask)·x`: exact where the mask is 0 or 1.
    fn blend(&self, known: &Tensor, x: &Tensor) -> Result<Tensor> {
        let known = known.broadcast_mul(&self.mask)?;
        Ok(x.broadcast_mul(&self.unknown)?.broadcast_add(&known)?)
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        fits("known: mask", x.dims(), self.mask.dims())?;
        fits("known: value", x.dims(), self.value.dims())?;
        match &self.mode {
            Mode::Clamp(Hold::Along(noise)) if noise.dims() != x.dims() => {
                Err(Error::shape("known: noise", x.dims(), noise.dims()))
            }
            _ => Ok(()),
        }
    }
}

/// In f64, which not every device has.
fn on_host(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
}

/// Each axis is the state's or 1.
fn fits(what: &str, state: &[usize], part: &[usize]) -> Result<()> {
    let axes = part.iter().zip(state).all(|(p, s)| *p == 1 || p == s);
    if axes && part.len() == state.len() {
        return Ok(());
    }
    Err(Error::shape(what, state, part))
}

/// Both can be part of one state: each axis is the same, or 1 in either.
fn beside(what: &str, other: &[usize], part: &[usize]) -> Result<()> {
    let axes = part.iter().zip(other).all(|(p, o)| *p == 1 || *o == 1 || p == o);
    if axes && part.len() == other.len() {
        return Ok(());
    }
    Err(Error::shape(what, other, part))
}

/// `n/Y` of the noise n with `Y = α·Y + σ·n`: the velocity of a token that is at its data already, 0 on
/// a straight path. At σ = 0 the limit.
fn still(coef: &Coef) -> f64 {
    let ratio = if coef.sigma == 0.0 {
        -coef.d_alpha / coef.d_sigma
    } else {
        (1.0 - coef.alpha) / coef.sigma
    };
    if ratio.is_finite() { ratio } else { 0.0 }
}

/// `w = min((α² + σ²)/(α·σ), β)`: how strongly the estimate is pulled. β at both ends of a path.
pub fn guidance_weight(coef: &Coef, max_weight: f64) -> f64 {
    let (a, s) = (coef.alpha, coef.sigma);
    ((a * a + s * s) / (a * s)).min(max_weight)
}
