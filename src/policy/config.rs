//! `config.json` of a policy folder, in LeRobot's layout.
//!
//! The names are LeRobot's (`n_obs_steps`, `horizon`, `n_action_steps`, `input_features`,
//! `normalization_mapping`, `num_inference_steps`); `"type"` is `pathline_flow`. A key that this
//! version does not know is an error, since it may change the result.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use serde::{Deserialize, Serialize};

use crate::flow::Path;
use crate::nn::mlp::MlpConfig;
use crate::nn::unet1d::UNet1dConfig;
use crate::{Error, Result};

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
}

/// One input or output feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// Its shape without batch and time.
    pub shape: Vec<usize>,
}

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
}

/// The network that predicts the velocity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Network {
    /// Residual MLP over the flattened chunk.
    Mlp(MlpConfig),
    /// Diffusion Policy's conditional UNet over the time axis of the chunk.
    Unet1d(UNet1dConfig),
}

/// What is derived from the normalised observation before the network sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureEncoder {
    /// The observations as they are, oldest first.
    Flat,
    /// Adds the pose of a rigid body seen through its keypoints: see [`super::features`].
    KeypointFrame {
        /// Angle of the body at the goal, rad.
        goal_angle_rad: f64,
        /// Number of octaves of sines and cosines for each derived quantity.
        octaves: usize,
    },
}

/// The whole `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// `pathline_flow`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Number of observations that the policy sees, one a tick, ending at the newest.
    pub n_obs_steps: usize,
    /// Number of actions in a chunk; row 0 belongs to the newest observation's tick.
    pub horizon: usize,
    /// Number of actions executed before the next chunk.
    pub n_action_steps: usize,
    /// Control rate that the policy was trained at.
    pub fps: f64,
    /// Inputs by LeRobot's feature key.
    pub input_features: BTreeMap<String, Feature>,
    /// Outputs by LeRobot's feature key.
    pub output_features: BTreeMap<String, Feature>,
    /// Normalisation by feature type.
    pub normalization_mapping: BTreeMap<FeatureType, NormalizationMode>,
    /// Whether actions are learned relative to `observation.state` of the newest observation.
    pub use_relative_actions: bool,
    /// Probability path from noise to data.
    pub path: Path,
    /// Method of integration: `euler`, `midpoint`, `heun`, `rk4`, `dopri5`, `ddim` or `dpmpp_2m`.
    pub solver: String,
    /// Steps of the solver, uniform in time.
    pub num_inference_steps: usize,
    /// How observations become the network's features.
    pub feature_encoder: FeatureEncoder,
    /// The network.
    pub network: Network,
}

impl PolicyConfig {
    /// The value of `"type"`.
    pub const TYPE: &str = "pathline_flow";

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When the file is missing, has unknown keys, or values that do not fit together.
    pub fn load(path: &FilePath) -> Result<Self> {
        let text = super::folder::read_text(path, super::folder::MAX_TEXT)?;
        let kind = serde_json::from_str::<serde_json::Value>(&text)
            .map_err(|e| Error::config(path, format!("not JSON: {e}")))?;
        match kind.get("type").and_then(|kind| kind.as_str()) {
            Some(Self::TYPE) => {}
            other => {
                let message = format!(
                    "\"type\": expected \"{}\", got {}; this version runs the flow policies that \
                     `pathline train` writes",
                    Self::TYPE,
                    other.map_or_else(|| "nothing".to_owned(), |kind| format!("\"{kind}\"")),
                );
                return Err(Error::config(path, message));
            }
        }
        let config: Self =
            serde_json::from_str(&text).map_err(|e| Error::config(path, e.to_string()))?;
        config.validate().map_err(|e| Error::config(path, e.to_string()))?;
        Ok(config)
    }

    /// Checks that the values fit together.
    ///
    /// # Errors
    /// Names the first key that does not fit, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Invalid(message));
        if self.n_obs_steps == 0 || self.n_obs_steps > 64 {
            return fail(format!("n_obs_steps: expected 1 to 64, got {}", self.n_obs_steps));
        }
        if self.horizon == 0 || self.horizon > 1024 {
            return fail(format!("horizon: expected 1 to 1024, got {}", self.horizon));
        }
        if self.n_action_steps == 0 || self.n_action_steps > self.horizon {
            return fail(format!(
                "n_action_steps: expected 1 to horizon ({}), got {}",
                self.horizon, self.n_action_steps
            ));
        }
        if !(1..=MAX_STEPS).contains(&self.num_inference_steps) {
            return fail(format!(
                "num_inference_steps: expected 1 to {MAX_STEPS}, got {}",
                self.num_inference_steps
            ));
        }
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return fail(format!("fps: expected a positive rate, got {}", self.fps));
        }
        super::Solver::new(&self.solver, self.num_inference_steps)?;
        self.path.validate()?;
        if self.path.ends() != (1.0, 0.0) && self.path.ends() != (0.0, 1.0) {
            return fail(format!(
                "path: expected one whose time runs between 0 and 1, got {:?}",
                self.path
            ));
        }
        for (features, key) in [(&self.input_features, STATE), (&self.output_features, ACTION)] {
            match features.get(key).map(|feature| feature.shape.as_slice()) {
                Some([n]) if (1..=256).contains(n) => {}
                Some(shape) => {
                    return fail(format!("{key}: expected shape [1..256], got {shape:?}"));
                }
                None => return fail(format!("feature {key}: expected, but missing")),
            }
        }
        for (key, feature) in self.input_features.iter().chain(&self.output_features) {
            let kind = match key.as_str() {
                STATE => FeatureType::State,
                ENVIRONMENT_STATE => FeatureType::Env,
                ACTION => FeatureType::Action,
                _ => {
                    return fail(format!(
                        "feature {key}: expected {STATE}, {ENVIRONMENT_STATE} or {ACTION}; cameras \
                         are not supported by this type of policy"
                    ));
                }
            };
            if feature.kind != kind {
                return fail(format!("{key}: expected type {kind:?}, got {:?}", feature.kind));
            }
            if feature.shape.len() != 1 || feature.shape.iter().any(|&n| n == 0 || n > 256) {
                return fail(format!("{key}: expected shape [1..256], got {:?}", feature.shape));
            }
        }
        if self.input_features.contains_key(ACTION) || self.output_features.len() != 1 {
            return fail(format!("expected {ACTION} as the one output feature and as no input"));
        }
        if self.use_relative_actions && self.state_dim() != self.action_dim() {
            return fail(format!(
                "use_relative_actions: expected state and action of one shape, got {} and {}",
                self.state_dim(),
                self.action_dim()
            ));
        }
        if let FeatureEncoder::KeypointFrame { octaves, goal_angle_rad } = &self.feature_encoder {
            let dim = self.environment_dim();
            if dim < 4 || !dim.is_multiple_of(2) || self.state_dim() != 2 || self.n_obs_steps < 2 {
                return fail(format!(
                    "feature_encoder keypoint_frame: expected a state of 2, two or more planar \
                     keypoints and n_obs_steps of 2 or more, got {}, {dim} coordinates and {}",
                    self.state_dim(),
                    self.n_obs_steps
                ));
            }
            if *octaves > 16 || !goal_angle_rad.is_finite() {
                return fail(format!(
                    "feature_encoder: expected octaves up to 16, got {octaves}, and a finite angle"
                ));
            }
        }
        match &self.network {
            Network::Mlp(mlp) => mlp.validate(),
            Network::Unet1d(unet) => {
                unet.validate()?;
                let multiple = unet.horizon_multiple();
                if self.horizon.is_multiple_of(multiple) {
                    return Ok(());
                }
                fail(format!("horizon: expected a multiple of {multiple}, got {}", self.horizon))
            }
        }
    }

    /// Length of `observation.state`.
    pub fn state_dim(&self) -> usize {
        first(&self.input_features, STATE)
    }

    /// Length of `observation.environment_state`, 0 if the policy has none.
    pub fn environment_dim(&self) -> usize {
        first(&self.input_features, ENVIRONMENT_STATE)
    }

    /// Length of one action.
    pub fn action_dim(&self) -> usize {
        first(&self.output_features, ACTION)
    }

    /// The mode for a feature type; identity where the mapping is silent, as in LeRobot.
    pub fn mode(&self, kind: FeatureType) -> NormalizationMode {
        self.normalization_mapping.get(&kind).copied().unwrap_or(NormalizationMode::Identity)
    }
}

fn first(features: &BTreeMap<String, Feature>, key: &str) -> usize {
    features.get(key).and_then(|feature| feature.shape.first().copied()).unwrap_or(0)
}
