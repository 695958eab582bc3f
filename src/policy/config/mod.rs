//! `config.json` of a policy folder, in LeRobot's layout.
//!
//! `"type"` says which policy it is: `diffusion` and `act` as LeRobot writes them, `pathline_flow` for the
//! policies that only Pathline has. Names are LeRobot's. A key that this version does not know is an
//! error, since it may change the result; a key that cannot is read and not looked at.

pub mod act;
pub mod diffusion;
pub mod flow;
mod key;

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::{Error, Result};
pub use act::ActConfig;
pub use diffusion::DiffusionConfig;
pub use flow::{FeatureEncoder, FlowConfig, Network};

/// LeRobot's feature key of the robot state.
pub const STATE: &str = "observation.state";
/// LeRobot's feature key of the state of the environment (keypoints in PushT).
pub const ENVIRONMENT_STATE: &str = "observation.environment_state";
/// LeRobot's feature key of the action.
pub const ACTION: &str = "action";

/// Most solver steps a chunk.
pub(crate) const MAX_STEPS: usize = 1000;

/// What a feature is, as LeRobot names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FeatureType {
    /// The robot's own state.
    State,
    /// The state of the environment.
    Env,
    /// A camera.
    Visual,
    /// The command.
    Action,
    /// A reward; no policy here looks at it.
    Reward,
    /// A task in words.
    Language,
}

/// One input or output feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// Its shape without batch and time; cameras `[channels, height, width]`.
    pub shape: Vec<usize>,
}

/// Features by LeRobot's key, in the order of the file: cameras are concatenated in it.
pub type Features = IndexMap<String, Feature>;

/// How a feature is normalised (LeRobot `processor/normalize_processor.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NormalizationMode {
    /// Left as it is.
    Identity,
    /// `(x − mean)/(std + 1e-8)`.
    MeanStd,
    /// `2(x − min)/(max − min) − 1`.
    MinMax,
    /// As min/max, with the quantiles 0.01 and 0.99.
    Quantiles,
    /// As min/max, with the quantiles 0.1 and 0.9.
    Quantile10,
}

/// Normalisation by type of feature.
pub type NormalizationMapping = BTreeMap<FeatureType, NormalizationMode>;

/// The whole `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[non_exhaustive]
pub enum PolicyConfig {
    /// A policy that only Pathline has.
    #[serde(rename = "pathline_flow")]
    Flow(Box<FlowConfig>),
    /// LeRobot's DiffusionPolicy.
    #[serde(rename = "diffusion")]
    Diffusion(Box<DiffusionConfig>),
    /// LeRobot's ACT.
    #[serde(rename = "act")]
    Act(Box<ActConfig>),
}

/// What every policy has, whatever its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The value of `"type"`.
    pub kind: &'static str,
    /// Number of observations that the policy sees, one a tick, ending at the newest.
    pub n_obs_steps: usize,
    /// Rows of the chunk that the network makes.
    pub horizon: usize,
    /// The row that belongs to the newest observation's tick; rows before it are of the past.
    pub first_row: usize,
    /// Number of actions executed before the next chunk.
    pub n_action_steps: usize,
    /// Control rate that the policy was trained at, Hz. LeRobot's folders say it in
    /// `train_config.json`, where the policy was trained in an environment.
    pub fps: Option<f64>,
    /// Inputs by LeRobot's feature key.
    pub input_features: Features,
    /// Outputs by LeRobot's feature key.
    pub output_features: Features,
    /// Normalisation by feature type.
    pub normalization_mapping: NormalizationMapping,
    /// Whether actions are learned relative to the newest `observation.state`.
    pub use_relative_actions: bool,
}

impl Signature {
    /// Length of `observation.state`, 0 if the policy does not see it.
    pub fn state_dim(&self) -> usize {
        vector(&self.input_features, STATE)
    }

    /// Length of `observation.environment_state`, 0 if the policy has none.
    pub fn environment_dim(&self) -> usize {
        vector(&self.input_features, ENVIRONMENT_STATE)
    }

    /// Length of one action.
    pub fn action_dim(&self) -> usize {
        vector(&self.output_features, ACTION)
    }

    /// The cameras in the order of the configuration: key, and channels, height, width.
    pub fn cameras(&self) -> impl Iterator<Item = (&str, [usize; 3])> {
        cameras(&self.input_features)
    }

    /// Rows of a chunk from the newest observation's tick on: what a robot can execute.
    pub fn rows(&self) -> usize {
        self.horizon - self.first_row
    }

    /// The mode for a feature type; identity where the mapping is silent, as in LeRobot.
    pub fn mode(&self, kind: FeatureType) -> NormalizationMode {
        self.normalization_mapping.get(&kind).copied().unwrap_or(NormalizationMode::Identity)
    }
}

impl PolicyConfig {
    /// The values of `"type"` that this version runs.
    pub const TYPES: [&str; 3] = ["pathline_flow", "diffusion", "act"];

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When the file is missing, has unknown keys, or values that do not fit together.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::tensors::files::read_text(path, crate::tensors::files::MAX_TEXT)?;
        Self::parse(&text).map_err(|e| Error::config(path, e.to_string()))
    }

    /// Reads and checks the text of a `config.json`.
    ///
    /// # Errors
    /// As [`PolicyConfig::load`].
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type", default)]
            kind: Option<String>,
        }
        let kind = serde_json::from_str::<Kind>(text)
            .map_err(|e| Error::Invalid(format!("not JSON: {e}")))?
            .kind;
        let config: Self = match kind.as_deref() {
            Some(FlowConfig::TYPE | DiffusionConfig::TYPE | ActConfig::TYPE) => {
                serde_json::from_str(text)
                    .map_err(|e| Error::Invalid(key::named::<Self>(text, &e)))?
            }
            other => {
                return Err(Error::Invalid(format!(
                    "\"type\": expected one of {}, got {}",
                    Self::TYPES.join(", "),
                    other.map_or_else(|| "nothing".to_owned(), |kind| format!("\"{kind}\"")),
                )));
            }
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the values fit together.
    ///
    /// # Errors
    /// Names the first key that does not fit, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Flow(config) => config.validate(),
            Self::Diffusion(config) => config.validate(),
            Self::Act(config) => config.validate(),
        }
    }

    /// How noise becomes a chunk; none for a policy that needs no noise.
    ///
    /// # Errors
    /// When the schedule is impossible.
    pub fn process(&self) -> Result<Option<Process>> {
        match self {
            Self::Flow(config) => Ok(Some(config.process())),
            Self::Diffusion(config) => config.process().map(Some),
            Self::Act(_) => Ok(None),
        }
    }

    /// The method of the configuration, and its steps.
    pub fn default_solver(&self) -> (&str, usize) {
        match self {
            Self::Flow(config) => (&config.solver, config.num_inference_steps),
            Self::Diffusion(config) => config.default_solver(),
            Self::Act(_) => ("direct", 1),
        }
    }

    /// What is derived from the observations before the network sees them.
    pub fn feature_encoder(&self) -> FeatureEncoder {
        match self {
            Self::Flow(config) => config.feature_encoder.clone(),
            Self::Diffusion(_) | Self::Act(_) => FeatureEncoder::Flat,
        }
    }

    /// Most rows at the front of a chunk that training gives, clean; 0 if it gives none.
    pub fn rtc_training_max_delay(&self) -> usize {
        match self {
            Self::Flow(config) => config.rtc_training_max_delay,
            Self::Diffusion(_) | Self::Act(_) => 0,
        }
    }

    /// Whether rows of a chunk that lie outside the episode are left out of the loss.
    pub fn masks_padding(&self) -> bool {
        match self {
            Self::Flow(_) | Self::Act(_) => true,
            Self::Diffusion(config) => config.do_mask_loss_for_padding,
        }
    }

    /// The sizes of the network, for people.
    pub fn network(&self) -> serde_json::Value {
        match self {
            Self::Flow(config) => serde_json::json!(config.network),
            Self::Diffusion(config) => serde_json::json!({
                "vision_backbone": config.seen().map(|_| &config.vision_backbone),
                "cameras": config.cameras().count(),
                "seen": config.seen(),
                "unet1d": config.unet(),
            }),
            Self::Act(config) => serde_json::json!({
                "vision_backbone": config.cameras().next().map(|_| &config.vision_backbone),
                "dim_model": config.dim_model,
                "n_heads": config.n_heads,
                "n_encoder_layers": config.n_encoder_layers,
                "n_decoder_layers": config.n_decoder_layers,
            }),
        }
    }

    /// Rows of actions that LeRobot's `predict_action_chunk` returns.
    pub fn predicted_rows(&self) -> usize {
        match self {
            Self::Flow(config) => config.horizon,
            Self::Diffusion(config) => config.n_action_steps,
            Self::Act(config) => config.chunk_size,
        }
    }

    /// Decay of the weights with which all predictions of a tick are averaged, if they are.
    pub fn temporal_ensemble_coeff(&self) -> Option<f64> {
        match self {
            Self::Flow(_) | Self::Diffusion(_) => None,
            Self::Act(config) => config.temporal_ensemble_coeff,
        }
    }

    /// What every policy has.
    pub fn signature(&self) -> Signature {
        match self {
            Self::Flow(config) => config.signature(),
            Self::Diffusion(config) => config.signature(),
            Self::Act(config) => config.signature(),
        }
    }
}

/// Length of the vector `key`, 0 if there is none.
pub(crate) fn vector(features: &Features, key: &str) -> usize {
    features.get(key).and_then(|feature| feature.shape.first().copied()).unwrap_or(0)
}

/// The cameras among `features`, in their order: key, and channels, height, width.
pub(crate) fn cameras(features: &Features) -> impl Iterator<Item = (&str, [usize; 3])> {
    features.iter().filter_map(|(key, feature)| {
        let shape = <[usize; 3]>::try_from(feature.shape.as_slice()).ok()?;
        (feature.kind == FeatureType::Visual).then_some((key.as_str(), shape))
    })
}

/// Checks that a vector is one, of a size that the wire can carry.
pub(crate) fn check_vector(key: &str, feature: &Feature, kind: FeatureType) -> Result<()> {
    if feature.kind != kind {
        let message = format!("{key}: expected type {kind:?}, got {:?}", feature.kind);
        return Err(Error::Invalid(message));
    }
    match feature.shape.as_slice() {
        [n] if (1..=256).contains(n) => Ok(()),
        shape => Err(Error::Invalid(format!("{key}: expected shape [1..256], got {shape:?}"))),
    }
}

/// Checks that `action`, a vector, is the one output and no input.
pub(crate) fn check_action(inputs: &Features, outputs: &Features) -> Result<()> {
    match outputs.get(ACTION) {
        Some(feature) => check_vector(ACTION, feature, FeatureType::Action)?,
        None => {
            let message = format!("output_features: expected {ACTION}, but it is missing");
            return Err(Error::Invalid(message));
        }
    }
    if inputs.contains_key(ACTION) || outputs.len() != 1 {
        let message = format!("expected {ACTION} as the one output feature and as no input");
        return Err(Error::Invalid(message));
    }
    Ok(())
}

/// Checks a count that a configuration names.
pub(crate) fn check_count(key: &str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{key}: expected {least} to {most}, got {value}")))
}
