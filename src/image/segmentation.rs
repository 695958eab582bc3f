//! A map of classes as a condition: one-hot, made as small as the latents, a few channels of it.
//!
//! ```text
//! map [b, H, W] ─► one-hot [b, classes, H, W] ─ ×½ bilinear, n times ─ 1×1 conv ─► [b, channels, H/2ⁿ, W/2ⁿ]
//! ```
//!
//! The result goes behind the channels of the latents (`Condition::concat`). A bilinear half is the mean of
//! two by two pixels, so n of them are the shares of the classes in a block: they are counted. Source:
//! latent-diffusion `SpatialRescaler` and its `semantic_synthesis256` (Rombach et al. 2022, section 4.3.2),
//! whose key `channel_mapper.weight` this has.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::json;
use crate::nn::conv2d::{Conv2d, Geometry};
use crate::tensors::files::{MAX_TEXT, read_text};
use crate::{Error, Result};

const CONFIG: &str = "config.json";

/// Size of a [`Rescaler`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescalerConfig {
    /// Number of classes of a map.
    pub classes: usize,
    /// How many times smaller the result's sides are; a power of 2.
    pub factor: usize,
    /// Channels of the result.
    pub channels: usize,
}

impl RescalerConfig {
    /// Reads the `config.json` of the folder `dir`.
    ///
    /// # Errors
    /// When there is no such file, or it is of no rescaler.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let config: Self = serde_json::from_str(&read_text(&path, MAX_TEXT)?)
            .map_err(|e| Error::config(&path, e.to_string()))?;
        config.validate().map_err(|e| Error::config(&path, e.to_string()))?;
        Ok(config)
    }

    /// Writes `config.json` into the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let value = serde_json::json!({
            "_class_name": "SegmentationRescaler",
            "classes": self.classes, "factor": self.factor, "channels": self.channels,
        });
        json::write(&dir.join(CONFIG), &value.as_object().cloned().unwrap_or_default())
    }

    fn validate(&self) -> Result<()> {
        let range = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            let what = format!("segmentation_rescaler: {name}");
            Err(Error::range(what, format!("1 to {most}"), value as f64))
        };
        range("classes", self.classes, 256)?;
        range("channels", self.channels, 4096)?;
        range("factor", self.factor, 256)?;
        if self.factor.is_power_of_two() {
            return Ok(());
        }
        Err(Error::range("segmentation_rescaler: factor", "a power of 2", self.factor as f64))
    }
}

/// The network: one convolution, trained together with the denoiser.
#[derive(Clone, Debug)]
pub struct Rescaler {
    config: RescalerConfig,
    mapper: Conv2d,
}

impl Rescaler {
    /// Loads `channel_mapper.weight` `[channels, classes, 1, 1]`.
    ///
    /// # Errors
    /// When a number of the configuration is wrong, or the tensor is missing or has another shape.
    #[expect(clippy::needless_pass_by_value, reason = "a builder is a cheap handle, as in nn")]
    pub fn load(config: &RescalerConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let geometry = Geometry { stride: 1, padding: 0, dilation: 1 };
        let shape = [config.classes, config.channels, 1];
        let mapper = Conv2d::load(shape, geometry, false, vb.pp("channel_mapper"))?;
        Ok(Self { config: config.clone(), mapper })
    }

    /// What it was made from.
    pub fn config(&self) -> &RescalerConfig {
        &self.config
    }

    /// Maps `[b, H, W]` u8 to `[b, channels, H/factor, W/factor]`.
    ///
    /// # Errors
    /// When a side is no multiple of the factor, or a number stands for no class.
    pub fn forward(&self, maps: &Tensor) -> Result<Tensor> {
        let shares = self.shares(maps)?.to_device(maps.device())?;
        self.mapper.forward(&shares)
    }

    /// The share of each class in each block, `[b, classes, h, w]`.
    fn shares(&self, maps: &Tensor) -> Result<Tensor> {
        let RescalerConfig { classes, factor, .. } = self.config;
        let (b, height, width) = match *maps.dims() {
            [b, h, w] if h > 0 && w > 0 && h % factor == 0 && w % factor == 0 => (b, h, w),
            _ => {
                let expected = format!("[b, H, W], sides multiples of {factor}");
                return Err(Error::shape("segmentation map", expected, maps.dims()));
            }
        };
        let host = maps.to_device(&Device::Cpu)?.to_dtype(DType::U8)?;
        let values = host.flatten_all()?.to_vec1::<u8>()?;
        if let Some(other) = values.iter().find(|class| usize::from(**class) >= classes) {
            let expected = format!("classes from 0 to {}", classes - 1);
            return Err(Error::range("segmentation map", expected, f64::from(*other)));
        }
        let (h, w) = (height / factor, width / factor);
        let one = 1.0 / (factor * factor) as f32;
        let mut shares = vec![0f32; b * classes * h * w];
        for (i, class) in values.into_iter().enumerate() {
            let (picture, y, x) = (i / (height * width), i / width % height, i % width);
            let plane = picture * classes + usize::from(class);
            shares[(plane * h + y / factor) * w + x / factor] += one;
        }
        Ok(Tensor::from_vec(shares, (b, classes, h, w), &Device::Cpu)?)
    }
}
