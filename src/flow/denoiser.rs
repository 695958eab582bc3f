//! A network bound to its condition: what it says of a state, as data and noise.
//!
//! Samplers ask for an [`Estimate`], so they need not know what the network was trained to predict
//! or along which path. Guidance and known regions wrap one denoiser into another.

use candle_core::Tensor;

use super::path::Path;
use super::target::{Estimate, Target};
use crate::Result;

/// `(x_t, t)` to data and noise of the shape of x_t; t is the path's own time. It may have state.
pub type Denoiser<'a> = dyn FnMut(&Tensor, f64) -> Result<Estimate> + 'a;

/// The denoiser of a network that emits `target` along `path`.
pub fn denoiser<'a>(
    path: &'a Path,
    target: Target,
    mut network: impl FnMut(&Tensor, f64) -> Result<Tensor> + 'a,
) -> impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a {
    move |x, t| Estimate::from_output(target, &path.at(t), x, &network(x, t)?)
}

/// The velocity field `dx/dt = α'·data + σ'·noise` of a denoiser, in the path's own time.
pub fn velocity<'a>(
    path: &'a Path,
    denoiser: &'a mut Denoiser<'_>,
) -> impl FnMut(&Tensor, f64) -> Result<Tensor> + 'a {
    move |x, t| denoiser(x, t)?.velocity(&path.at(t))
}

/// A denoiser for states along `onto`, from one for states along `path`.
///
/// Two paths meet where `σ/α` is the same; the states there differ by a factor, and data and noise
/// not at all. So a network trained on any path can be sampled along any other. The usual partner is
/// [`Path::Edm`], whose time is the σ of Karras et al.: diffusers' EulerDiscrete and Heun.
pub fn retimed<'a>(
    path: &'a Path,
    onto: &'a Path,
    denoiser: &'a mut Denoiser<'_>,
) -> impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a {
    move |x, t| {
        let there = onto.at(t);
        let own = path.t_of_lambda(there.lambda());
        let here = path.at(own);
        // Both have the same ratio, so scale by whichever is not near zero.
        let scale = if here.alpha > here.sigma {
            here.alpha / there.alpha
        } else {
            here.sigma / there.sigma
        };
        denoiser(&x.affine(scale, 0.0)?, own)
    }
}
