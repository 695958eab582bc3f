//! A recipe for pictures: a classifier, an autoencoder, or a denoiser of latents or pixels.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::optimizer::OptimizerConfig;
use super::super::recipe::merged;
use crate::dataset::pictures::PicturesConfig;
use crate::flow::{Objective, shortcut::Shortcut};
use crate::image::{Defaults, Precision};
use crate::nn::clip::ClipTextConfig;
use crate::nn::denoiser::DenoiserConfig;
use crate::vae::AutoencoderConfig;
use crate::vae::discriminator::DiscriminatorConfig;
use crate::vae::features::FeatureNetConfig;
use crate::{Error, Result};

/// A whole recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureRecipe {
    /// Folder of the run.
    pub output_dir: PathBuf,
    /// Where the pictures come from.
    pub data: PicturesConfig,
    /// What is done to a picture before it is shown.
    #[serde(default)]
    pub augment: Augment,
    /// What is trained.
    pub model: Model,
    /// Length and rhythm.
    pub train: Rhythm,
    /// Optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
}

/// Changes that leave a picture what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirror one in two, left and right.
    pub flip: bool,
    /// Show a square of so many pixels from anywhere in the picture; for networks of convolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<usize>,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Model {
    /// Pictures to classes: its features measure how alike two pictures look.
    Classifier {
        /// The network; its classes are those of the data.
        network: FeatureNetConfig,
    },
    /// Pictures to latents and back.
    Autoencoder(Box<AutoencoderModel>),
    /// Noise to latents, or to pixels.
    Denoiser(Box<DenoiserModel>),
}

/// An autoencoder and what it is trained for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderModel {
    /// The network, as its `config.json` will be.
    pub network: AutoencoderConfig,
    /// Weights to start from instead of random ones: a folder, or a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Which half is trained.
    #[serde(default)]
    pub trained: Half,
    /// What it is trained for.
    #[serde(default)]
    pub loss: AutoencoderLoss,
}

/// Which half of an autoencoder is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Both.
    #[default]
    Both,
    /// The decoder alone: the latents stay what they are, and so does a denoiser that was trained on them.
    Decoder,
}

/// A denoiser and what stands around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserModel {
    /// The trained autoencoder: a folder, or a run; pixels are noised without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<PathBuf>,
    /// The network, as its `config.json` will be.
    pub network: DenoiserConfig,
    /// Weights to start from instead of random ones, and the words of its tokenizer: the folder of a
    /// model with the same networks, or a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// What it is told.
    pub condition: ConditionConfig,
    /// Path, target, times and weights.
    #[serde(default)]
    pub objective: Objective,
    /// Consistency of a few large steps; the network is told the length of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_step: Option<Shortcut>,
    /// How the finished model is sampled unless the user says otherwise.
    #[serde(default)]
    pub defaults: Defaults,
    /// How the weights are written.
    #[serde(default)]
    pub precision: Precision,
}

/// What a denoiser is told about the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConditionConfig {
    /// Nothing.
    None {},
    /// The class of the picture.
    Class {
        /// Share of samples whose class is hidden, for guidance.
        dropout: f64,
    },
    /// The caption, through a text encoder that is trained together with the denoiser.
    Text {
        /// Share of samples whose caption is hidden, for guidance.
        dropout: f64,
        /// The encoder, as its `config.json` will be.
        encoder: ClipTextConfig,
        /// Tokens of the vocabulary made from the captions.
        vocab_size: usize,
    },
    /// A map of classes, reduced to the size of the latents and set beside them.
    Segmentation {
        /// Channels that the map is reduced to.
        channels: usize,
    },
}

/// Terms of an autoencoder's loss, per pixel and channel. Source: latent-diffusion
/// `modules/losses/contperceptual.py`, `vqperceptual.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderLoss {
    /// Weight of the Kullback–Leibler divergence, relative to the reconstruction summed over pixels.
    pub kl_weight: f64,
    /// Weight of the quantiser's loss.
    pub codebook_weight: f64,
    /// Weight of the squared error beside that of the absolute error, 1.
    pub squared_weight: f64,
    /// The distance in features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<Perceptual>,
    /// The critic of patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<Adversarial>,
}

impl Default for AutoencoderLoss {
    fn default() -> Self {
        Self {
            kl_weight: 1e-6,
            codebook_weight: 1.0,
            squared_weight: 0.0,
            perceptual: None,
            adversarial: None,
        }
    }
}

/// A distance in the features of a classifier that was trained here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Perceptual {
    /// Weight beside the absolute error.
    pub weight: f64,
    /// The classifier: a folder, or a run.
    pub network: PathBuf,
}

/// A critic that tells real patches from made ones, and the autoencoder's share of its work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adversarial {
    /// Factor of the adaptive weight.
    pub weight: f64,
    /// Update from which on the critic is trained and heard.
    pub start: usize,
    /// The critic.
    pub network: DiscriminatorConfig,
    /// Its optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
}

/// How long and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rhythm {
    /// Number of updates.
    pub steps: usize,
    /// Samples an update.
    pub batch_size: usize,
    /// Seed of initial weights, order, times and noise.
    pub seed: u64,
    /// Updates between log lines.
    pub log_freq: usize,
    /// Updates between checkpoints.
    pub save_freq: usize,
    /// Updates between sheets of pictures; 0 for none.
    pub sample_freq: usize,
    /// Checkpoints to keep, the newest.
    pub keep_checkpoints: usize,
    /// Captions that differ in the tone of a skin alone share one place in an epoch.
    #[serde(default)]
    pub skin_tones_share: bool,
}

impl PictureRecipe {
    /// Whether the recipe at `path` is of this kind: it has a `model`.
    ///
    /// # Errors
    /// When the file is missing or is no TOML.
    pub fn is_one(path: &Path) -> Result<bool> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|e| Error::config(path, e.to_string()))?;
        Ok(table.contains_key("model"))
    }

    /// Reads a recipe and applies `overrides` of the form `a.b=value`.
    ///
    /// # Errors
    /// When the file is missing, or a key or value is unknown or impossible.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let merged = merged(path, overrides)?;
        let recipe: Self =
            toml::from_str(&merged).map_err(|e| Error::config(path, e.to_string()))?;
        recipe.validate().map_err(|e| Error::config(path, e.to_string()))?;
        Ok(recipe)
    }

    fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        let many = 1_000_000_000;
        let ranges = [
            ("train.steps", self.train.steps, 1, many),
            ("train.batch_size", self.train.batch_size, 1, 1 << 16),
            ("train.log_freq", self.train.log_freq, 1, many),
            ("train.save_freq", self.train.save_freq, 1, many),
            ("train.keep_checkpoints", self.train.keep_checkpoints, 1, many),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                let message = format!("{key}: expected {least} to {most}, got {value}");
                return Err(Error::Invalid(message));
            }
        }
        match &self.model {
            Model::Classifier { .. } => Ok(()),
            Model::Autoencoder(model) => {
                if model.trained == Half::Decoder && model.init_from.is_none() {
                    let message = "model.trained: expected init_from, an encoder to keep, got none";
                    return Err(Error::Invalid(message.into()));
                }
                model.loss.validate()
            }
            Model::Denoiser(model) => model.validate(),
        }
    }
}

impl AutoencoderLoss {
    fn validate(&self) -> Result<()> {
        let perceptual = self.perceptual.as_ref().map_or(0.0, |p| p.weight);
        let adversarial = self.adversarial.as_ref().map_or(0.0, |a| a.weight);
        let weights = [
            ("kl_weight", self.kl_weight),
            ("codebook_weight", self.codebook_weight),
            ("squared_weight", self.squared_weight),
            ("perceptual.weight", perceptual),
            ("adversarial.weight", adversarial),
        ];
        for (key, weight) in weights {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Error::range(format!("model.loss.{key}"), "a number from 0", weight));
            }
        }
        match &self.adversarial {
            Some(adversarial) => adversarial.optimizer.validate(),
            None => Ok(()),
        }
    }
}

impl DenoiserModel {
    fn validate(&self) -> Result<()> {
        self.objective.validate()?;
        if let Some(few_step) = &self.few_step {
            few_step.validate()?;
        }
        let dropout = match &self.condition {
            ConditionConfig::Class { dropout } | ConditionConfig::Text { dropout, .. } => *dropout,
            ConditionConfig::None {} | ConditionConfig::Segmentation { .. } => 0.0,
        };
        if !(0.0..=1.0).contains(&dropout) {
            return Err(Error::range("model.condition.dropout", "0 to 1", dropout));
        }
        Ok(())
    }
}
