//! A network over pictures by the name of its class, as diffusers' `config.json` tells it.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::dit::{Dit, DitConfig};
use super::unet2d::{ConditionalUNet2dConfig, PlainUNet2dConfig, UNet2d, UNet2dConfig};
use crate::{Error, Result};

/// The class names that are known.
const KNOWN: [&str; 3] = ["UNet2DConditionModel", "UNet2DModel", "DiTTransformer2DModel"];

/// A network's `config.json`, or the same in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name")]
pub enum DenoiserConfig {
    /// Stable Diffusion's UNet.
    #[serde(rename = "UNet2DConditionModel")]
    ConditionalUNet(Box<ConditionalUNet2dConfig>),
    /// DDPM's UNet.
    #[serde(rename = "UNet2DModel")]
    PlainUNet(Box<PlainUNet2dConfig>),
    /// The diffusion transformer.
    #[serde(rename = "DiTTransformer2DModel")]
    Dit(Box<DitConfig>),
}

impl DenoiserConfig {
    /// Reads a `config.json`'s text.
    ///
    /// # Errors
    /// When it is no such file; an unknown class names the known ones.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |message: String| Error::Invalid(format!("config of a network: {message}"));
        let value: serde_json::Value =
            serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
        match value.get("_class_name").and_then(serde_json::Value::as_str) {
            Some(name) if KNOWN.contains(&name) => {}
            name => {
                let got = name.unwrap_or("none");
                let known = KNOWN.join(", ");
                return Err(invalid(format!("expected _class_name one of {known}, got {got}")));
            }
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot, or a key has a value that is not supported; the message names the key.
    pub fn validate(&self) -> Result<()> {
        match self.part() {
            Part::UNet(config) => config.validate(),
            Part::Dit(config) => config.validate(),
        }
    }

    /// Channels of the input, those of `concat` included.
    pub fn in_channels(&self) -> usize {
        match self.part() {
            Part::UNet(config) => config.in_channels(),
            Part::Dit(config) => config.in_channels,
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        match self.part() {
            Part::UNet(config) => config.out_channels(),
            Part::Dit(config) => config.out_channels(),
        }
    }

    /// Channels of the tokens; nothing if the network looks at none.
    pub fn cross_attention_dim(&self) -> Option<usize> {
        match self.part() {
            Part::UNet(config) => config.cross_attention_dim(),
            Part::Dit(config) => config.cross_attention_dim,
        }
    }

    /// Number of classes that a condition may name, from 0 on; nothing if it names none. A DiT's last
    /// one is the empty class.
    pub fn num_class_embeds(&self) -> Option<usize> {
        match self.part() {
            Part::UNet(config) => config.num_class_embeds(),
            Part::Dit(config) => config.num_embeds_ada_norm.map(|count| count + 1),
        }
    }

    /// Height and width of the pictures or latents that it was made for, if known.
    pub fn sample_size(&self) -> Option<[usize; 2]> {
        match self.part() {
            Part::UNet(config) => config.sample_size(),
            Part::Dit(config) => Some([config.sample_size; 2]),
        }
    }

    /// Keys that diffusers' class does not have, see [`UNet2dConfig::unknown_keys`].
    pub fn unknown_keys(&self) -> Vec<String> {
        match self.part() {
            Part::UNet(config) => config.unknown_keys(),
            Part::Dit(config) => config.unknown_keys(),
        }
    }

    fn part(&self) -> Part<'_> {
        match self {
            Self::ConditionalUNet(config) => Part::UNet(UNet2dConfig::Conditional(config.clone())),
            Self::PlainUNet(config) => Part::UNet(UNet2dConfig::Plain(config.clone())),
            Self::Dit(config) => Part::Dit(config),
        }
    }
}

/// Which network a configuration is of.
enum Part<'a> {
    UNet(UNet2dConfig),
    Dit(&'a DitConfig),
}

/// A network over pictures.
#[derive(Clone, Debug)]
pub enum DenoiserNet {
    /// A UNet.
    UNet(Box<UNet2d>),
    /// A transformer.
    Dit(Box<Dit>),
}

impl DenoiserNet {
    /// Loads a network from a builder that stands at its root.
    ///
    /// # Errors
    /// When the configuration is impossible or not supported, or a tensor is missing or has another
    /// shape.
    pub fn load(config: &DenoiserConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(match config.part() {
            Part::UNet(config) => Self::UNet(Box::new(UNet2d::load(&config, vb)?)),
            Part::Dit(config) => Self::Dit(Box::new(Dit::load(config, vb)?)),
        })
    }

    /// The prediction `[b, out_channels, h, w]` for `x` `[b, c, h, w]` at the network times `t` `[b]`
    /// under `condition`.
    ///
    /// # Errors
    /// As [`UNet2d::forward`] and [`Dit::forward`].
    pub fn forward(&self, x: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        match self {
            Self::UNet(net) => net.forward(x, t, condition),
            Self::Dit(net) => net.forward(x, t, condition),
        }
    }

    /// What the network was built from.
    pub fn config(&self) -> DenoiserConfig {
        match self {
            Self::UNet(net) => match net.config().clone() {
                UNet2dConfig::Conditional(config) => DenoiserConfig::ConditionalUNet(config),
                UNet2dConfig::Plain(config) => DenoiserConfig::PlainUNet(config),
            },
            Self::Dit(net) => DenoiserConfig::Dit(Box::new(net.config().clone())),
        }
    }
}
