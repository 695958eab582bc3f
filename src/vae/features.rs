//! A small classifier whose features say how alike two pictures look.
//!
//! ```text
//! level: (conv 3×3 ─► group norm ─► SiLU) twice, its feature map; conv of stride 2 to the next
//! pooled: mean over the last feature map ─► linear ─► logits
//! ```
//!
//! It is trained here, on the pictures at hand: no VGG and no Inception, and distances in it are not
//! LPIPS and not FID, only of their form (`loss.rs`, `train::quality`).

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::config::{CONFIG, check_sizes};
use crate::nn::conv2d::Conv2d;
use crate::nn::linear::Linear;
use crate::nn::norm::GroupNorm;
use crate::nn::resnet2d::{Downsample2d, SAME};
use crate::tensors::files::{MAX_TEXT, read_text};
use crate::tensors::folder::{self, Kind};
use crate::tensors::weights::Weights;
use crate::{Error, Result};

/// Most groups of a normalisation.
const GROUPS: usize = 8;
const EPS: f64 = 1e-5;
/// What is looked for where a user names one.
const FOLDER: Kind =
    Kind { name: "folder of a feature net", file: CONFIG, with: "model.safetensors" };

/// Size of a [`FeatureNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureNetConfig {
    /// Channels of the pictures; grey ones are repeated.
    pub in_channels: usize,
    /// Channels of each level; each is half as large as the one before.
    pub channels: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
}

impl FeatureNetConfig {
    /// Reads the `config.json` of the folder `dir`.
    ///
    /// # Errors
    /// When it is missing or is no configuration of a feature net.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = read_text(&path, MAX_TEXT)?;
        let config: Self =
            serde_json::from_str(&text).map_err(|e| Error::config(&path, e.to_string()))?;
        config.check().map_err(|e| Error::config(&path, e.to_string()))?;
        Ok(config)
    }

    /// Writes `config.json` into the folder `dir`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))?;
        let path = dir.join(CONFIG);
        std::fs::write(&path, text + "\n").map_err(|e| Error::io(path, e))
    }

    fn check(&self) -> Result<()> {
        check_sizes("in_channels", &[self.in_channels])?;
        check_sizes("channels", &self.channels)?;
        check_sizes("classes", &[self.classes])
    }
}

#[derive(Clone, Debug)]
struct Level {
    convs: [(Conv2d, GroupNorm); 2],
    half: Option<Downsample2d>,
}

/// The classifier.
#[derive(Clone, Debug)]
pub struct FeatureNet {
    /// What it was made from.
    pub config: FeatureNetConfig,
    levels: Vec<Level>,
    classifier: Linear,
}

impl FeatureNet {
    /// Loads `levels.i.{conv1,norm1,conv2,norm2}`, between levels `levels.i.down.conv`, and
    /// `classifier`.
    ///
    /// # Errors
    /// When a size is zero, or a tensor is missing or has another shape.
    pub fn load(config: &FeatureNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let mut levels = Vec::new();
        let mut input = config.in_channels;
        for (i, &out) in config.channels.iter().enumerate() {
            let vb = vb.pp("levels").pp(i);
            // At least two channels a group: alone, a channel's bias before it would change nothing.
            let groups = (1..=GROUPS).rev().find(|&g| out.is_multiple_of(g) && 2 * g <= out);
            let groups = groups.unwrap_or(1);
            let pair = |from: usize, number: usize| {
                let conv = vb.pp(format!("conv{number}"));
                let norm = GroupNorm::load(out, groups, EPS, vb.pp(format!("norm{number}")))?;
                Ok::<_, Error>((Conv2d::load([from, out, 3], SAME, true, conv)?, norm))
            };
            let next = config.channels.get(i + 1);
            let half = next.map(|_| Downsample2d::load(out, out, 1, vb.pp("down")));
            levels.push(Level { convs: [pair(input, 1)?, pair(out, 2)?], half: half.transpose()? });
            input = out;
        }
        let classifier = Linear::load(input, config.classes, vb.pp("classifier"))?;
        Ok(Self { config: config.clone(), levels, classifier })
    }

    /// Reads the folder `dir`, or the newest checkpoint of the run `dir`: `config.json` and
    /// `model.safetensors`.
    ///
    /// # Errors
    /// When a file is missing, or the weights do not fit the configuration.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let dir = folder::resolve(dir, &FOLDER)?;
        let config = FeatureNetConfig::open(&dir)?;
        Weights::open(&dir)?.load(device, |vb| Self::load(&config, vb))
    }

    /// The feature maps of `x` `[b, in_channels or 1, h, w]`, one a level, channels last.
    ///
    /// # Errors
    /// When there are other channels.
    pub fn features(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let channels = self.config.in_channels;
        let x = match *x.dims() {
            [b, 1, h, w] => x.broadcast_as((b, channels, h, w))?,
            [_, c, _, _] if c == channels => x.clone(),
            _ => {
                let expected = format!("[b, {channels} or 1, h, w]");
                return Err(Error::shape("feature net", expected, x.dims()));
            }
        };
        let mut x = x.permute((0, 2, 3, 1))?.contiguous()?;
        let mut maps = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            for (conv, norm) in &level.convs {
                x = norm.silu_last(&conv.forward_last(&x)?)?;
            }
            maps.push(x.clone());
            if let Some(half) = &level.half {
                x = half.forward_last(&x)?;
            }
        }
        Ok(maps)
    }

    /// The mean of the last feature map over the picture: `[b, d]`.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn pooled(&self, x: &Tensor) -> Result<Tensor> {
        match self.features(x)?.pop() {
            Some(map) => Ok(map.flatten(1, 2)?.mean(1)?),
            None => Err(Error::Invalid("feature net: expected a level, got none".to_owned())),
        }
    }

    /// `[b, classes]`, before the softmax.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.classifier.forward(&self.pooled(x)?)?)
    }
}
