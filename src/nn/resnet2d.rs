//! The residual block and the changes of size that every picture network of diffusers is made of.
//!
//! ```text
//! h = conv1(silu(norm1(x)))
//! h = norm2(h + p)  or  norm2(h)·(1 + scale) + shift      p or (scale, shift) = time_emb_proj(silu(temb))
//! y = (skip(x) + conv2(silu(h)))/output_scale_factor      skip: identity, or 1×1 where channels change
//! ```
//!
//! All run with the channels last, `[b, h, w, c]`. Names and order of operations are those of
//! diffusers `models/resnet.py`, `models/downsampling.py` and `models/upsampling.py`.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::add_channels::add_channels;
use super::conv2d::{Conv2d, Geometry};
use super::linear::Linear;
use super::norm::GroupNorm;
use super::upsample::nearest_last;
use crate::{Error, Result};

/// A 3×3 convolution that keeps the size.
pub(crate) const SAME: Geometry = Geometry { stride: 1, padding: 1, dilation: 1 };
/// A 1×1 convolution.
pub(crate) const POINT: Geometry = Geometry { stride: 1, padding: 0, dilation: 1 };

/// Size of a [`ResnetBlock2d`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResnetBlock2dConfig {
    /// Channels of the input.
    pub input: usize,
    /// Channels of the output.
    pub out: usize,
    /// Channels of the time embedding, if the block is told the time.
    pub temb: Option<usize>,
    /// Groups of both normalisations.
    pub groups: usize,
    /// Added to their variances.
    pub eps: f64,
    /// What the sum at the end is divided by.
    pub output_scale_factor: f64,
    /// Whether the time scales and shifts (`resnet_time_scale_shift = "scale_shift"`) or is added.
    pub scale_shift: bool,
}

impl ResnetBlock2dConfig {
    /// A block without time, as autoencoders have it.
    pub fn plain(input: usize, out: usize, groups: usize, eps: f64) -> Self {
        Self { input, out, temb: None, groups, eps, output_scale_factor: 1.0, scale_shift: false }
    }
}

/// The residual block.
#[derive(Clone, Debug)]
pub struct ResnetBlock2d {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    config: ResnetBlock2dConfig,
}

impl ResnetBlock2d {
    /// Loads `norm1`, `conv1`, `norm2`, `conv2`, with a time `time_emb_proj`, and `conv_shortcut`
    /// where input and output differ.
    ///
    /// # Errors
    /// When the groups do not divide the channels, a scale and shift has no time to come from, or a
    /// tensor is missing or has another shape.
    pub fn load(config: &ResnetBlock2dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let ResnetBlock2dConfig { input, out, groups, eps, .. } = *config;
        if config.scale_shift && config.temb.is_none() {
            return Err(Error::Invalid(
                "residual block: expected a time embedding with scale_shift, got none".to_owned(),
            ));
        }
        let wide = if config.scale_shift { 2 * out } else { out };
        let time = |temb| Linear::load(temb, wide, vb.pp("time_emb_proj"));
        let shortcut = || Conv2d::load([input, out, 1], POINT, true, vb.pp("conv_shortcut"));
        Ok(Self {
            norm1: GroupNorm::load(input, groups, eps, vb.pp("norm1"))?,
            conv1: Conv2d::load([input, out, 3], SAME, true, vb.pp("conv1"))?,
            time_emb_proj: config.temb.map(time).transpose()?,
            norm2: GroupNorm::load(out, groups, eps, vb.pp("norm2"))?,
            conv2: Conv2d::load([out, out, 3], SAME, true, vb.pp("conv2"))?,
            conv_shortcut: (input != out).then(shortcut).transpose()?,
            config: *config,
        })
    }

    /// `x` `[b, h, w, input]` to `[b, h, w, out]`; `temb` `[b, temb]` is what comes before its SiLU.
    ///
    /// # Errors
    /// When a shape is another, or there is a time where none is expected or none where one is.
    pub fn forward_last(&self, x: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let h = self.conv1.forward_last(&self.norm1.silu_last(x)?)?;
        let per_channel = match (&self.time_emb_proj, temb) {
            (Some(project), Some(temb)) if temb.rank() == 2 => {
                Some(project.forward(&temb.silu()?)?)
            }
            (None, None) => None,
            (_, got) => {
                let expected = match self.config.temb {
                    Some(channels) => format!("a time embedding [b, {channels}]"),
                    None => "no time embedding".to_owned(),
                };
                return Err(Error::shape("residual block", expected, got.map(Tensor::dims)));
            }
        };
        let h = match per_channel {
            None => self.norm2.silu_last(&h)?,
            Some(shift) if !self.config.scale_shift => {
                self.norm2.silu_last(&add_channels(&h, &shift)?)?
            }
            Some(both) => {
                let out = self.config.out;
                let scale = (both.narrow(1, 0, out)? + 1.0)?.unsqueeze(1)?.unsqueeze(1)?;
                let h = self.norm2.forward_last(&h)?.broadcast_mul(&scale)?;
                add_channels(&h, &both.narrow(1, out, out)?)?.silu()?
            }
        };
        let h = self.conv2.forward_last(&h)?;
        let sum = match &self.conv_shortcut {
            Some(shortcut) => (shortcut.forward_last(x)? + h)?,
            None => (x + h)?,
        };
        match self.config.output_scale_factor {
            1.0 => Ok(sum),
            factor => Ok(sum.affine(1.0 / factor, 0.0)?),
        }
    }
}

/// Half the size: a 3×3 convolution of stride 2.
#[derive(Clone, Debug)]
pub struct Downsample2d {
    conv: Conv2d,
    padding: usize,
}

impl Downsample2d {
    /// Loads `conv`. With `padding` 0, as in autoencoders, there is a line of zeros below and to the
    /// right, and none above and to the left.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(channels: usize, out: usize, padding: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let geometry = Geometry { stride: 2, padding, dilation: 1 };
        Ok(Self { conv: Conv2d::load([channels, out, 3], geometry, true, vb.pp("conv"))?, padding })
    }

    /// `x` `[b, h, w, channels]` to `[b, h', w', out]`, half as large: rounded down with padding 0, up
    /// with padding 1.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        if self.padding > 0 {
            return self.conv.forward_last(x);
        }
        x.dims4()?;
        self.conv.forward_last(&x.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?)
    }
}

/// Twice the size: every pixel four times, then a 3×3 convolution.
#[derive(Clone, Debug)]
pub struct Upsample2d {
    conv: Conv2d,
}

impl Upsample2d {
    /// Loads `conv`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(channels: usize, out: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { conv: Conv2d::load([channels, out, 3], SAME, true, vb.pp("conv"))? })
    }

    /// `x` `[b, h, w, channels]` to `[b, 2h, 2w, out]`, or to the `size` (height, width) that is asked
    /// for, as a UNet's skip connections need where a side is odd.
    ///
    /// # Errors
    /// When the shape is another, or a side of `size` is 0.
    pub fn forward_last(&self, x: &Tensor, size: Option<[usize; 2]>) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        self.conv.forward_last(&nearest_last(x, size.unwrap_or([2 * h, 2 * w]))?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::params::Params;

    fn numbers(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_size_is_halved_and_doubled_and_a_time_is_wanted_where_expected() {
        let params = Params::new(1);
        let vb = params.builder(&Device::Cpu);
        let x = numbers(&[1, 5, 6, 4]);
        let down = |padding: usize| {
            Downsample2d::load(4, 4, padding, vb.pp("down")).unwrap().forward_last(&x).unwrap()
        };
        assert_eq!(down(0).dims(), [1, 2, 3, 4]);
        assert_eq!(down(1).dims(), [1, 3, 3, 4]);
        let up = Upsample2d::load(4, 2, vb.pp("up")).unwrap();
        assert_eq!(up.forward_last(&x, None).unwrap().dims(), [1, 10, 12, 2]);
        assert_eq!(up.forward_last(&x, Some([9, 11])).unwrap().dims(), [1, 9, 11, 2]);
        let temb = numbers(&[1, 8]);
        let mut config = ResnetBlock2dConfig::plain(4, 6, 2, 1e-6);
        let block = ResnetBlock2d::load(&config, vb.pp("plain")).unwrap();
        assert_eq!(block.forward_last(&x, None).unwrap().dims(), [1, 5, 6, 6]);
        assert!(block.forward_last(&x, Some(&temb)).is_err());
        config.temb = Some(8);
        for scale_shift in [false, true] {
            config.scale_shift = scale_shift;
            let name = if scale_shift { "scale" } else { "shift" };
            let block = ResnetBlock2d::load(&config, vb.pp(name)).unwrap();
            assert_eq!(block.forward_last(&x, Some(&temb)).unwrap().dims(), [1, 5, 6, 6]);
            assert!(block.forward_last(&x, None).is_err());
        }
        assert!(ResnetBlock2d::load(&ResnetBlock2dConfig { groups: 3, ..config }, vb).is_err());
    }
}
