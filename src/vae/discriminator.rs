//! A network that tells pictures from reconstructions, patch by patch.
//!
//! ```text
//! D: conv 4×4 /2, then `layers` times conv 4×4 /2 (the last /1), norm; leaky ReLU 0.2 behind each; conv 4×4 to 1
//! discriminator: ½·(mean relu(1 − D(x)) + mean relu(1 + D(x̂)))        generator: −mean D(x̂)
//! adaptive weight = ‖∇ nll‖/(‖∇ generator‖ + 1e-4), at most 1e4, at the decoder's last weight
//! ```
//!
//! Sources: Isola et al. 2017, appendix 6.1.2 (70×70 pixels a patch with three layers); Lim, Ye 2017
//! (hinge); Esser et al. 2021, equation 7 (adaptive weight), in the form of their
//! `NLayerDiscriminator`, whose key names are used.
//!
//! A deviation: batch normalisation takes the statistics of the batch, as it does in training there,
//! and keeps no running ones, which only an evaluation of the discriminator would need.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::config::check_sizes;
use crate::nn::conv2d::{Conv2d, Geometry};
use crate::nn::norm::GroupNorm;
use crate::{Error, Result};

/// Name of the decoder's last weight, at which the two gradients are compared.
pub const LAST_WEIGHT: &str = "decoder.conv_out.weight";
/// No layer is wider than so many times the first.
const WIDEST: usize = 8;
/// Negative numbers are multiplied by this.
const LEAK: f64 = 0.2;
const EPS: f64 = 1e-5;

/// What stands behind a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Over the batch, per channel.
    #[default]
    Batch,
    /// Over each picture, in up to 32 groups of channels.
    Group,
    /// Nothing.
    None,
}

/// Size of a [`Discriminator`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels of the pictures.
    pub channels: usize,
    /// Convolutions between the first and the last.
    pub layers: usize,
    /// Channels of the first; they double up to eight times this.
    pub ndf: usize,
    /// What stands behind the ones between.
    pub norm: Norm,
}

impl Default for DiscriminatorConfig {
    fn default() -> Self {
        Self { channels: 3, layers: 3, ndf: 64, norm: Norm::Batch }
    }
}

#[derive(Clone, Debug)]
struct Layer {
    conv: Conv2d,
    norm: Option<GroupNorm>,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Discriminator {
    /// What it was made from.
    pub config: DiscriminatorConfig,
    layers: Vec<Layer>,
    last: Conv2d,
}

impl Discriminator {
    /// Loads `main.i`, counted as in the reference: convolution, normalisation, activation. New weights
    /// are normal with standard deviation 0.02.
    ///
    /// # Errors
    /// When a size is zero, or a tensor is missing or has another shape.
    pub fn load(config: &DiscriminatorConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let DiscriminatorConfig { channels, layers: count, ndf, norm } = *config;
        for (key, size) in [("channels", channels), ("layers", count), ("ndf", ndf)] {
            check_sizes(&format!("discriminator: {key}"), &[size])?;
        }
        let width = |layer: usize| ndf * (1 << layer.min(3)).min(WIDEST);
        let vb = vb.pp("main");
        let mut layers =
            vec![Layer { conv: conv([channels, ndf], 2, true, vb.pp(0))?, norm: None }];
        let mut place = 2;
        for layer in 1..=count {
            let stride = if layer < count { 2 } else { 1 };
            let sizes = [width(layer - 1), width(layer)];
            let conv = conv(sizes, stride, norm == Norm::None, vb.pp(place))?;
            let groups = match norm {
                Norm::Batch => Some(sizes[1]),
                Norm::Group => (1..=32).rev().find(|&g| sizes[1].is_multiple_of(g)),
                Norm::None => None,
            };
            let load = |groups| {
                let vb = vb.pp(place + 1);
                // A new gain: asked for here, found there.
                vb.get_with_hints(sizes[1], "weight", Init::Randn { mean: 1.0, stdev: 0.02 })?;
                GroupNorm::load(sizes[1], groups, EPS, vb)
            };
            layers.push(Layer { conv, norm: groups.map(load).transpose()? });
            place += if norm == Norm::None { 2 } else { 3 };
        }
        let last = conv([width(count), 1], 1, true, vb.pp(place))?;
        Ok(Self { config: config.clone(), layers, last })
    }

    /// `x` `[b, channels, h, w]` to a number for each patch `[b, h', w']`, large where it looks real.
    ///
    /// # Errors
    /// When there are other channels, or the picture is smaller than 3·2^layers pixels on a side.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let DiscriminatorConfig { channels, layers, norm, .. } = self.config;
        let least = 3usize.checked_shl(layers as u32).unwrap_or(usize::MAX);
        match *x.dims() {
            [b, c, h, w] if b > 0 && c == channels && h.min(w) >= least => {}
            _ => {
                let expected = format!("[b, {channels}, h, w] of at least {least}×{least} pixels");
                return Err(Error::shape("discriminator", expected, x.dims()));
            }
        }
        let mut x = x.permute((0, 2, 3, 1))?.contiguous()?;
        for layer in &self.layers {
            x = layer.conv.forward_last(&x)?;
            if let Some(group_norm) = &layer.norm {
                x = match norm {
                    // The batch as one tall picture, a channel a group.
                    Norm::Batch => {
                        let (b, h, w, c) = x.dims4()?;
                        let tall = group_norm.forward_last(&x.reshape((1, b * h, w, c))?)?;
                        tall.reshape((b, h, w, c))?
                    }
                    _ => group_norm.forward_last(&x)?,
                };
            }
            x = (x.relu()?.affine(1.0 - LEAK, 0.0)? + x.affine(LEAK, 0.0)?)?;
        }
        Ok(self.last.forward_last(&x)?.squeeze(3)?)
    }
}

/// A 4×4 convolution with one pixel of padding.
fn conv([input, out]: [usize; 2], stride: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Conv2d> {
    let init = Init::Randn { mean: 0.0, stdev: 0.02 };
    let geometry = Geometry { stride, padding: 1, dilation: 1 };
    vb.get_with_hints((out, input, 4, 4), "weight", init)?;
    Conv2d::load([input, out, 4], geometry, bias, vb)
}

/// What the discriminator is trained to, from its numbers for pictures and for reconstructions: a
/// scalar.
///
/// # Errors
/// When a tensor operation fails.
pub fn discriminator_loss(real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    let real = real.affine(-1.0, 1.0)?.relu()?.mean_all()?;
    let fake = fake.affine(1.0, 1.0)?.relu()?.mean_all()?;
    Ok((real + fake)?.affine(0.5, 0.0)?)
}

/// What the autoencoder is trained to, from the discriminator's numbers for its reconstructions: a
/// scalar.
///
/// # Errors
/// When a tensor operation fails.
pub fn generator_loss(fake: &Tensor) -> Result<Tensor> {
    Ok(fake.mean_all()?.neg()?)
}

/// `‖nll‖/(‖generator‖ + 1e-4)`, between 0 and 1e4, of two gradients of the decoder's last weight.
///
/// # Errors
/// When a norm is not finite.
pub fn adaptive_weight(nll: &Tensor, generator: &Tensor) -> Result<f64> {
    let norm = |grad: &Tensor| -> Result<f64> {
        Ok(grad.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
    };
    let (nll, generator) = (norm(nll)?, norm(generator)?);
    let weight = nll / (generator + 1e-4);
    if !weight.is_finite() {
        return Err(Error::Invalid(format!(
            "adaptive weight: expected gradients that are finite, got norms {nll} and {generator}; \
             lower the learning rate"
        )));
    }
    Ok(weight.clamp(0.0, 1e4))
}

/// [`adaptive_weight`] from the gradients of two backward passes, at `last`, the decoder's
/// [`LAST_WEIGHT`].
///
/// # Errors
/// When one has no gradient there, or a norm is not finite.
pub fn adaptive_weight_at(last: &Tensor, nll: &GradStore, generator: &GradStore) -> Result<f64> {
    let at = |grads: &GradStore, what: &str| {
        let none =
            || format!("adaptive weight: expected a gradient of {LAST_WEIGHT}, got none of {what}");
        grads.get(last).cloned().ok_or_else(|| Error::Invalid(none()))
    };
    adaptive_weight(&at(nll, "the reconstruction")?, &at(generator, "the discriminator")?)
}

/// Two losses of a picture, weighed at the decoder's last layer, as one gradient of the picture.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The picture, with its graph.
    pub picture: Tensor,
    /// `∇ nll + factor·weight·∇ generator` by the picture.
    pub gradient: Tensor,
    /// The values of the two losses.
    pub nll: f64,
    /// Of the discriminator.
    pub generator: f64,
    /// The adaptive weight.
    pub weight: f64,
}

impl Joined {
    /// `Σ picture·gradient`: not the loss, but its gradients are those of `nll + factor·weight·generator`.
    /// One backward pass of this through decoder and encoder does for two.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn pseudo_loss(&self) -> Result<Tensor> {
        Ok((&self.picture * &self.gradient)?.sum_all()?)
    }
}

/// A loss of pictures `[b, c, h, w]`.
pub type PictureLoss<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// Weighs `nll` and `generator` adaptively without a backward pass of each through the decoder: both
/// are derived by the picture, and from there only through the `last` layer, whose weight is `weight`
/// and whose input is `hidden`.
///
/// # Errors
/// When a loss fails, or a gradient is not finite.
pub fn join(
    hidden: &Tensor,
    (last, weight): (PictureLoss<'_>, &Tensor),
    [nll, generator]: [PictureLoss<'_>; 2],
    factor: f64,
) -> Result<Joined> {
    let picture = last(hidden)?;
    let leaf = Var::from_tensor(&picture.detach())?;
    let derive = |loss: PictureLoss<'_>| -> Result<(f64, Tensor)> {
        let value = loss(leaf.as_tensor())?;
        let grad = value.backward()?.remove(leaf.as_tensor());
        let none = || Error::Invalid("adaptive weight: expected a loss of the picture".to_owned());
        let value = value.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        Ok((value, grad.ok_or_else(none)?))
    };
    let (nll, of_nll) = derive(nll)?;
    let (generator, of_generator) = derive(generator)?;
    let input = hidden.detach();
    let at_last =
        |grad: &Tensor| -> Result<GradStore> { Ok((last(&input)? * grad)?.sum_all()?.backward()?) };
    let adaptive = adaptive_weight_at(weight, &at_last(&of_nll)?, &at_last(&of_generator)?)?;
    let gradient = (of_nll + (of_generator * (factor * adaptive))?)?;
    Ok(Joined { picture, gradient, nll, generator, weight: adaptive })
}
