//! Configurations of the autoencoders: diffusers' `config.json`, and the same table in a recipe.
//!
//! The class name says which kind it is. Keys and defaults are those of diffusers 0.42.1; unknown keys
//! are ignored, as there, and a value that would change the result and is not supported is an error.

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kl::AutoencoderKlConfig;
use super::tiny::AutoencoderTinyConfig;
use super::vq::VqModelConfig;
use crate::tensors::files::{MAX_TEXT, read_text};
use crate::{Error, Result};

/// File of the configuration.
pub(super) const CONFIG: &str = "config.json";
/// The version of diffusers whose keys are written.
const DIFFUSERS_VERSION: &str = "0.42.1";
/// No size of a network is larger.
pub(super) const MAX_SIZE: usize = 1 << 16;

/// A level of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    DownEncoderBlock2D,
    /// Residual blocks, each with an attention over all pixels behind it.
    AttnDownEncoderBlock2D,
}

/// A level of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    UpDecoderBlock2D,
    /// Residual blocks, each with an attention over all pixels behind it.
    AttnUpDecoderBlock2D,
}

/// Pixels on a side, or on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Side {
    /// Of a square.
    Both(usize),
    /// Height and width.
    Each([usize; 2]),
}

impl Side {
    /// The first of them, as diffusers takes it for the size of a tile.
    pub(super) fn first(self) -> usize {
        match self {
            Self::Both(side) | Self::Each([side, _]) => side,
        }
    }
}

/// The configuration of an autoencoder: `_class_name` in `config.json`, or in the table of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name")]
pub enum AutoencoderConfig {
    /// A Gaussian posterior.
    #[serde(rename = "AutoencoderKL")]
    Kl(AutoencoderKlConfig),
    /// A codebook.
    #[serde(rename = "VQModel")]
    Vq(VqModelConfig),
    /// Small and without a posterior.
    #[serde(rename = "AutoencoderTiny")]
    Tiny(AutoencoderTinyConfig),
}

impl AutoencoderConfig {
    /// Reads the `config.json` of the folder `dir`.
    ///
    /// # Errors
    /// When there is no such file, it is no configuration of an autoencoder, or it asks for what is
    /// not supported.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        Self::parse(&read_text(&path, MAX_TEXT)?).map_err(|message| Error::config(&path, message))
    }

    /// Reads the text of a `config.json`, and checks it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Class {
            #[serde(rename = "_class_name")]
            name: Option<String>,
        }
        let class: Class = serde_json::from_str(text).map_err(|e| e.to_string())?;
        // Each class by itself: the error then says line and column.
        let config = match class.name.as_deref() {
            Some("AutoencoderKL") => serde_json::from_str(text).map(Self::Kl),
            Some("VQModel") => serde_json::from_str(text).map(Self::Vq),
            Some("AutoencoderTiny") => serde_json::from_str(text).map(Self::Tiny),
            got => {
                return Err(format!(
                    "_class_name: expected an autoencoder: AutoencoderKL, VQModel or \
                     AutoencoderTiny, got {}",
                    got.map_or("none".to_owned(), |name| format!("{name:?}"))
                ));
            }
        };
        let config = config.map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    /// Writes `config.json` into the folder `dir`, as diffusers does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let of_text = |e: serde_json::Error| Error::Invalid(e.to_string());
        let mut value = serde_json::to_value(self).map_err(of_text)?;
        value["_diffusers_version"] = Value::from(DIFFUSERS_VERSION);
        let text = serde_json::to_string_pretty(&value).map_err(of_text)? + "\n";
        let path = dir.join(CONFIG);
        std::fs::write(&path, text).map_err(|e| Error::io(path, e))
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// Names the key, what it may be, and what it is.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Kl(config) => config.check(),
            Self::Vq(config) => config.check(),
            Self::Tiny(config) => config.check(),
        }
    }
}

/// What encoder and decoder are made from.
#[derive(Clone, Copy)]
pub(super) struct CoderConfig<'a> {
    /// Channels of the pictures, encoded and decoded.
    pub(super) pictures: [usize; 2],
    pub(super) down: &'a [DownBlock],
    pub(super) up: &'a [UpBlock],
    pub(super) channels: &'a [usize],
    pub(super) layers: usize,
    pub(super) groups: usize,
    pub(super) latent: usize,
    pub(super) mid_attention: bool,
}

impl CoderConfig<'_> {
    /// How many times smaller a side of the latents is.
    pub(super) fn downsampling(&self) -> usize {
        1 << self.channels.len().saturating_sub(1)
    }

    /// Numbers in the largest activation of an encoder for so many pixels.
    pub(super) fn widest_encoder(&self, pixels: usize) -> usize {
        pixels.saturating_mul(self.shallowest())
    }

    /// Numbers in the largest activation of a decoder: behind its last change of size it still has
    /// the channels of the level below.
    pub(super) fn widest_decoder(&self, pixels: usize) -> usize {
        let below = self.channels.get(1).copied().unwrap_or_default();
        pixels.saturating_mul(self.shallowest().max(below))
    }

    pub(super) fn shallowest(&self) -> usize {
        self.channels.first().copied().unwrap_or_default()
    }

    pub(super) fn deepest(&self) -> usize {
        self.channels.last().copied().unwrap_or_default()
    }

    pub(super) fn check(&self) -> Result<()> {
        check_sizes("block_out_channels", self.channels)?;
        check_sizes("in_channels", &self.pictures[..1])?;
        check_sizes("out_channels", &self.pictures[1..])?;
        check_sizes("latent_channels", &[self.latent])?;
        check_sizes("layers_per_block", &[self.layers])?;
        check_sizes("norm_num_groups", &[self.groups])?;
        let levels = self.channels.len();
        for (key, count) in
            [("down_block_types", self.down.len()), ("up_block_types", self.up.len())]
        {
            if count != levels || levels > 16 {
                let expected = format!("up to 16 levels, as many as block_out_channels ({levels})");
                return Err(wrong(key, &expected, count));
            }
        }
        match self.channels.iter().find(|c| !c.is_multiple_of(self.groups)) {
            Some(c) => {
                let expected = format!("multiples of norm_num_groups ({})", self.groups);
                Err(wrong("block_out_channels", &expected, c))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn check_sizes(key: &str, sizes: &[usize]) -> Result<()> {
    if sizes.is_empty() {
        return Err(wrong(key, "at least one", "none"));
    }
    match sizes.iter().find(|&&size| size == 0 || size > MAX_SIZE) {
        Some(size) => Err(wrong(key, &format!("from 1 to {MAX_SIZE}"), size)),
        None => Ok(()),
    }
}

pub(super) fn check_act(got: &str, known: &[&str]) -> Result<()> {
    match known.contains(&got) {
        true => Ok(()),
        false => Err(wrong("act_fn", &format!("one of {} here", known.join(", ")), got)),
    }
}

pub(super) fn check_scale(factor: f64, shift: f64) -> Result<()> {
    if !factor.is_finite() || factor == 0.0 {
        return Err(wrong("scaling_factor", "a finite number other than 0", factor));
    }
    match shift.is_finite() {
        true => Ok(()),
        false => Err(wrong("shift_factor", "a finite number", shift)),
    }
}

/// Height and width of `x` `[b, channels, h, w]` with at least `least` pixels on a side.
pub(super) fn check_picture(
    what: &str,
    x: &Tensor,
    channels: usize,
    least: usize,
) -> Result<[usize; 2]> {
    match *x.dims() {
        [b, c, h, w] if b > 0 && c == channels && h >= least && w >= least => Ok([h, w]),
        _ => {
            let expected = format!("[b, {channels}, h, w] with at least {least}×{least} pixels");
            Err(Error::shape(what, expected, x.dims()))
        }
    }
}

pub(super) fn wrong(key: &str, expected: &str, got: impl std::fmt::Debug) -> Error {
    Error::Invalid(format!("{key}: expected {expected}, got {got:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, says: &str) {
        let error = AutoencoderConfig::parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_name() {
        for (keys, says) in [
            (r#""act_fn": "relu""#, "act_fn: expected one of silu, swish"),
            (r#""latents_mean": [0.1]"#, "latents_mean: expected null"),
            (r#""block_out_channels": [64, 64]"#, "down_block_types: expected up to 16 levels"),
            (r#""block_out_channels": []"#, "block_out_channels: expected at least one"),
            (r#""block_out_channels": [48]"#, "multiples of norm_num_groups (32), got 48"),
            (r#""block_out_channels": [18446744073709551615]"#, "from 1 to 65536"),
            (r#""layers_per_block": 0"#, "layers_per_block: expected from 1"),
            (r#""norm_num_groups": 0"#, "norm_num_groups: expected from 1"),
            (r#""latent_channels": -4"#, "line 1 column"),
            (r#""scaling_factor": 0.0"#, "scaling_factor: expected a finite number other than 0"),
            (r#""down_block_types": ["DownBlock2D"]"#, "unknown variant `DownBlock2D`"),
        ] {
            refused(&format!(r#"{{"_class_name": "AutoencoderKL", {keys}}}"#), says);
        }
        for (keys, says) in [
            (r#""norm_type": "spatial""#, "norm_type: expected \"group\""),
            (r#""num_vq_embeddings": 0"#, "num_vq_embeddings: expected from 1"),
            (r#""vq_embed_dim": 0"#, "vq_embed_dim: expected from 1"),
        ] {
            refused(&format!(r#"{{"_class_name": "VQModel", {keys}}}"#), says);
        }
        for (keys, says) in [
            (r#""upsample_fn": "bilinear""#, "upsample_fn: expected \"nearest\""),
            (r#""decoder_block_out_channels": [8, 8, 8, 4]"#, "levels that are alike"),
            (r#""num_encoder_blocks": [1]"#, "as many of num_encoder_blocks ([1])"),
            (r#""num_encoder_blocks": [1, 1, 1, 99999999]"#, "at most 65536 blocks"),
            (r#""act_fn": "elu""#, "relu, silu, swish, gelu, mish here, got \"elu\""),
        ] {
            refused(&format!(r#"{{"_class_name": "AutoencoderTiny", {keys}}}"#), says);
        }
        refused(r#"{"_class_name": "UNet2DModel"}"#, "VQModel or AutoencoderTiny, got \"UNet2DM");
        refused("{}", "got none");
        refused("[1]", "invalid type");
    }

    #[test]
    fn missing_keys_are_the_classes_and_unknown_ones_are_ignored() {
        let text = r#"{"_class_name": "VQModel", "_diffusers_version": "0.1", "made_up": [1]}"#;
        let config = AutoencoderConfig::parse(text).unwrap();
        assert_eq!(config, AutoencoderConfig::Vq(VqModelConfig::default()));
        let text = r#"{"_class_name": "AutoencoderKL", "sample_size": [24, 32]}"#;
        let AutoencoderConfig::Kl(config) = AutoencoderConfig::parse(text).unwrap() else {
            panic!()
        };
        assert_eq!(config.sample_size, Side::Each([24, 32]));
        // A table of a recipe holds the same thing.
        let text = "_class_name = \"AutoencoderKL\"\nlatent_channels = 8\nsample_size = 64\n\
                    block_out_channels = [32, 64]\n\
                    down_block_types = [\"DownEncoderBlock2D\", \"AttnDownEncoderBlock2D\"]\n\
                    up_block_types = [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]\n";
        let config: AutoencoderConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        let again: AutoencoderConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        let AutoencoderConfig::Kl(config) = config else { panic!() };
        assert_eq!((config.latent_channels, config.sample_size.first()), (8, 64));
    }
}
