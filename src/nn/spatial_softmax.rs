//! Where in the picture each channel is active: a softmax over all pixels, and its mean position.
//!
//! ```text
//! (x, y)[k] = Σ_pixels softmax(w·features + b)[k, pixel]·position[pixel]       positions from −1 to 1
//! ```
//!
//! Source: Finn et al. 2016, "Deep spatial autoencoders for visuomotor learning", in the form of
//! LeRobot's `SpatialSoftmax` (`policies/diffusion/modeling_diffusion.py`).

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::conv2d::{Conv2d, Geometry};
use super::product::product;
use super::softmax::softmax;
use crate::{Error, Result};

/// The layer.
#[derive(Clone, Debug)]
pub struct SpatialSoftmax {
    nets: Conv2d,
    /// x and y of every pixel, `[h·w, 2]`.
    positions: Tensor,
    size: [usize; 2],
}

impl SpatialSoftmax {
    /// Loads `nets.weight` `[keypoints, channels, 1, 1]`, `nets.bias` `[keypoints]` and `pos_grid`
    /// `[h·w, 2]`, which is a constant; what it should hold is [`positions`].
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        channels: usize,
        size: [usize; 2],
        keypoints: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let geometry = Geometry { stride: 1, padding: 0, dilation: 1 };
        let nets = Conv2d::load([channels, keypoints, 1], geometry, true, vb.pp("nets"))?;
        let grid = vb.get_with_hints((size[0] * size[1], 2), "pos_grid", Init::Const(0.0))?;
        Ok(Self { nets, positions: grid.detach(), size })
    }

    /// `x` `[b, channels, h, w]` to `[b, keypoints, 2]`: x, then y.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [height, width] = self.size;
        if !matches!(*x.dims(), [_, _, h, w] if h == height && w == width) {
            let expected = format!("[b, c, {height}, {width}]");
            return Err(Error::shape("spatial softmax", expected, x.dims()));
        }
        let maps = self.nets.forward(x)?;
        let (batch, keypoints, _, _) = maps.dims4()?;
        let attention = softmax(&maps.reshape((batch * keypoints, height * width))?)?;
        Ok(product(&attention, &self.positions)?.reshape((batch, keypoints, 2))?)
    }
}

/// The numbers of `pos_grid` for a feature map of `[h, w]`: x and y of each pixel, line by line, from
/// −1 to 1 as numpy's `linspace` makes them.
pub fn positions([height, width]: [usize; 2]) -> Vec<f32> {
    let along = |i: usize, n: usize| -> f32 {
        match n {
            _ if n > 1 && i == n - 1 => 1.0,
            0 | 1 => -1.0,
            _ => (i as f64 * (2.0 / (n - 1) as f64) - 1.0) as f32,
        }
    };
    (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [along(x, width), along(y, height)]))
        .collect()
}
