//! LeRobot's DiffusionPolicy: what the cameras see and the state condition a UNet over the chunk.
//!
//! ```text
//! picture ─ resize ─ crop ─ ResNet ─ SpatialSoftmax ─ linear ─ ReLU ┐
//! observation.state ────────────────────────────────────────────────┼─ per step, then over time ─► condition
//! observation.environment_state ────────────────────────────────────┘
//! ```
//!
//! Order within a step: state, cameras as `config.json` lists them, environment state. Tensor names
//! begin with `diffusion.`. Source: Chi et al. 2023; LeRobot
//! `policies/diffusion/modeling_diffusion.py` (0.4.4).

use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;

use super::config::{DiffusionConfig, ENVIRONMENT_STATE, STATE};
use super::processor::Inputs;
use crate::nn::linear::Linear;
use crate::nn::resize::{center_crop, resize};
use crate::nn::resnet::ResNet;
use crate::nn::spatial_softmax::SpatialSoftmax;
use crate::nn::unet1d::UNet1d;
use crate::{Error, Result};

/// The network.
pub struct DiffusionNet {
    config: DiffusionConfig,
    /// Feature key, height and width of each camera.
    cameras: Vec<(String, [usize; 2])>,
    /// One, or one a camera.
    encoders: Vec<RgbEncoder>,
    unet: UNet1d,
}

impl DiffusionNet {
    /// Loads the network from a builder at the root of the checkpoint.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &DiffusionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let vb = vb.pp("diffusion");
        let encoders = match config.seen() {
            None => Vec::new(),
            Some(seen) if config.use_separate_rgb_encoder_per_camera => {
                let each = |i| RgbEncoder::load(config, seen, &vb.pp("rgb_encoder").pp(i));
                (0..config.cameras().count()).map(each).collect::<Result<_>>()?
            }
            Some(seen) => vec![RgbEncoder::load(config, seen, &vb.pp("rgb_encoder"))?],
        };
        // torch.compile wraps the module, and its name shows in the file.
        let unet = if config.compile_model { vb.pp("unet._orig_mod") } else { vb.pp("unet") };
        let cameras = config.cameras().map(|(key, [_, h, w])| (key.to_owned(), [h, w]));
        Ok(Self {
            cameras: cameras.collect(),
            encoders,
            unet: UNet1d::load(&config.unet(), unet)?,
            config: config.clone(),
        })
    }

    /// The UNet.
    pub fn unet(&self) -> &UNet1d {
        &self.unet
    }

    /// Features `[b·n_obs, 2·keypoints]` of camera number `camera` from normalised pictures
    /// `[b·n_obs, 3, h, w]`.
    ///
    /// # Errors
    /// When there is no such camera or the shape is another.
    pub fn encode(&self, camera: usize, pictures: &Tensor) -> Result<Tensor> {
        let encoder = self.encoders.get(camera).or(self.encoders.first());
        let Some(encoder) = encoder.filter(|_| camera < self.cameras.len()) else {
            let expected = format!("a camera below {}", self.cameras.len());
            return Err(Error::range("camera", expected, camera as f64));
        };
        let pictures = match self.config.resize_shape {
            Some(shape) => resize(pictures, shape)?,
            None => pictures.clone(),
        };
        let pictures = match self.config.crop() {
            Some(shape) => center_crop(&pictures, shape)?,
            None => pictures,
        };
        encoder.forward(&pictures)
    }

    /// The conditioning vectors `[b, cond_dim]` of a batch of histories.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn condition(&self, batch: &[Inputs], device: &Device) -> Result<Tensor> {
        let (b, n_obs) = (batch.len(), self.config.n_obs_steps);
        let mut parts = Vec::with_capacity(self.cameras.len() + 2);
        let vector = |key: &str| -> Result<Option<Tensor>> {
            if !self.config.input_features.contains_key(key) {
                return Ok(None);
            }
            let values = gather(batch, key)?;
            let dim = values.len() / (b * n_obs);
            Ok(Some(Tensor::from_vec(values, (b, n_obs, dim), device)?))
        };
        parts.extend(vector(STATE)?);
        for (i, (key, [h, w])) in self.cameras.iter().enumerate() {
            let pictures = Tensor::from_vec(gather(batch, key)?, (b * n_obs, 3, *h, *w), device)?;
            let features = self.encode(i, &pictures)?;
            let len = features.dim(1)?;
            parts.push(features.reshape((b, n_obs, len))?);
        }
        parts.extend(vector(ENVIRONMENT_STATE)?);
        Ok(Tensor::cat(&parts, D::Minus1)?.flatten_from(1)?)
    }

    /// What the UNet emits for `x_t` `[b, horizon, action_dim]` at network times `t`.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn predict(&self, condition: &Tensor, x_t: &Tensor, t: &[f64]) -> Result<Tensor> {
        super::net::unet_at(&self.unet, condition, x_t, t)
    }
}

/// The values of `key` of all histories, one after another.
fn gather(batch: &[Inputs], key: &str) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for inputs in batch {
        let values = inputs.get(key).ok_or_else(|| Error::Rejected {
            reason: format!("{key}: expected in the observation, got nothing"),
        })?;
        all.extend_from_slice(&values.data);
    }
    Ok(all)
}

/// LeRobot's `DiffusionRgbEncoder` after resize and crop.
struct RgbEncoder {
    backbone: ResNet,
    pool: SpatialSoftmax,
    out: Linear,
}

impl RgbEncoder {
    fn load(config: &DiffusionConfig, seen: [usize; 2], vb: &VarBuilder<'_>) -> Result<Self> {
        let backbone = config.backbone()?;
        let map = backbone.output_size(seen);
        let keypoints = config.spatial_softmax_num_keypoints;
        Ok(Self {
            pool: SpatialSoftmax::load(backbone.channels(), map, keypoints, vb.pp("pool"))?,
            backbone: ResNet::load(&backbone, vb.pp("backbone"))?,
            out: Linear::load(2 * keypoints, 2 * keypoints, vb.pp("out"))?,
        })
    }

    fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let keypoints = self.pool.forward(&self.backbone.forward(pictures)?)?;
        Ok(self.out.forward(&keypoints.flatten_from(1)?)?.relu()?)
    }
}
