//! Where sampling begins: noise alone, a picture under noise, a picture with a hole in it.
//!
//! img2img of strength s makes the last `⌊s·n⌋` of n steps, from the picture at the noise of the first of
//! them. Inpainting in a network of the latents' channels: after each step the kept part becomes the
//! picture at that step's noise (`flow::known`), with one noise for all times. The first evaluation sees the
//! state as it is, as in diffusers: noise alone at strength 1. A network of more channels is told the mask
//! and the latents of the picture without what is drawn anew. The mask counts as 1 from 0.5 on; a latent's
//! is that of its first pixel. Source: diffusers `pipelines/stable_diffusion/pipeline_stable_diffusion_{img2img,
//! inpaint}.py`; autoencoders are asked for the mean where no noise is given, and there for a sample.

use candle_core::{DType, Tensor};

use super::pipeline::Pipeline;
use super::plan::Plan;
use super::request::Request;
use crate::flow::Known;
use crate::flow::known::{Hold, Mode};
use crate::{Error, Result};

/// The first state, and what is known of the last.
pub(super) struct Start {
    pub(super) x: Tensor,
    pub(super) known: Option<Known>,
    /// Mask and latents of the masked picture, `[b, 1 + c, h, w]`, for networks that are told them.
    pub(super) concat: Option<Tensor>,
}

/// The plan of a request that may begin in the middle.
pub(super) fn shortened(plan: Plan, request: &Request, steps: usize) -> Result<Plan> {
    if request.init_image.is_none() {
        return Ok(plan);
    }
    let strength = request.strength;
    if !(0.0..=1.0).contains(&strength) {
        return Err(Error::range("strength", "0 to 1", strength));
    }
    let made = ((steps as f64 * strength) as usize).min(steps);
    if made == 0 {
        let expected = format!("at least 1/{steps}, so that of {steps} steps one is made");
        return Err(Error::range("strength", expected, strength));
    }
    plan.without_first(steps - made)
}

/// The start of a request for pictures of `size`.
pub(super) fn start(
    pipeline: &Pipeline,
    request: &Request,
    plan: &Plan,
    noise: &Tensor,
    size: [usize; 2],
) -> Result<Start> {
    let is_told = pipeline.takes_mask();
    let (b, ..) = noise.dims4()?;
    let Some(image) = &request.init_image else {
        if request.mask.is_some() {
            let message = "mask: expected an initial picture with it (init_image), got none";
            return Err(Error::Invalid(message.into()));
        }
        return Ok(Start { x: plan.of_noise(noise)?, known: None, concat: None });
    };
    let image = checked("init_image", image, [1, 3], size)?;
    let all = |x: &Tensor| -> Result<Tensor> {
        let x = if x.dim(0)? == b { x.clone() } else { x.repeat((b, 1, 1, 1))? };
        Ok(x.contiguous()?)
    };
    let data = all(&pipeline.encode(&image, request.encoder_noise.as_ref(), b)?)?;
    let x = if request.strength < 1.0 || request.mask.is_none() {
        plan.of_data(&data, noise)?
    } else {
        plan.of_noise(noise)?
    };
    let Some(mask) = &request.mask else { return Ok(Start { x, known: None, concat: None }) };
    let mask = checked("mask", mask, [1, 1], size)?;
    // 1 where it is drawn anew.
    let mask = mask.ge(0.5)?.to_dtype(DType::F32)?;
    let factor = pipeline.factor();
    let small = first_pixels(&mask, factor)?;
    if is_told {
        let masked = image.broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
        let masked = pipeline.encode(&masked, request.encoder_noise.as_ref(), b)?;
        let concat = Tensor::cat(&[&all(&small)?, &all(&masked)?], 1)?;
        return Ok(Start { x, known: None, concat: Some(concat) });
    }
    let kept = small.affine(-1.0, 1.0)?;
    let known = Known::new(kept, data, Mode::Clamp(Hold::Along(noise.clone())))?;
    Ok(Start { x, known: Some(known), concat: None })
}

/// A picture of `[b, c]` and the size that is drawn, in f32.
fn checked(what: &str, x: &Tensor, [b, c]: [usize; 2], [h, w]: [usize; 2]) -> Result<Tensor> {
    if x.dims() != [b, c, h, w] {
        return Err(Error::shape(
            format!("{what}, of the size that is drawn"),
            [b, c, h, w],
            x.dims(),
        ));
    }
    let x = x.to_dtype(DType::F32)?;
    let sum = x.abs()?.max_all()?.to_scalar::<f32>()?;
    if sum.is_finite() {
        Ok(x)
    } else {
        Err(Error::Invalid(format!("{what}: expected finite numbers")))
    }
}

/// The first of every `factor` pixels on each side: torch's nearest neighbour.
fn first_pixels(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.reshape((b * c, h / factor, factor, w / factor, factor))?;
    let x = x.narrow(4, 0, 1)?.narrow(2, 0, 1)?;
    Ok(x.reshape((b, c, h / factor, w / factor))?.contiguous()?)
}
