//! `config.json` of the policies that only Pathline has: `"type": "pathline_flow"`.
//!
//! The names are LeRobot's where LeRobot has the thing. The path and what the network predicts are
//! values: the same network is a flow (straight path, velocity) or a diffusion (a table of betas,
//! epsilon).

use serde::{Deserialize, Serialize};

use super::{
    ENVIRONMENT_STATE, FeatureType, Features, MAX_STEPS, NormalizationMapping, STATE, Signature,
    check_action, check_count, check_vector, vector,
};
use crate::action::{Form, Joining};
use crate::flow::clip::Limit;
use crate::flow::{Path, Target};
use crate::nn::mlp::MlpConfig;
use crate::nn::unet1d::UNet1dConfig;
use crate::policy::process::Process;
use crate::policy::rtc::RtcConfig;
use crate::{Error, Result};

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
    /// Adds the pose of a rigid body seen through its keypoints: see [`crate::policy::features`].
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
pub struct FlowConfig {
    /// Number of observations that the policy sees, one a tick, ending at the newest.
    pub n_obs_steps: usize,
    /// Number of actions in a chunk; row 0 belongs to the newest observation's tick.
    pub horizon: usize,
    /// Number of actions executed before the next chunk.
    pub n_action_steps: usize,
    /// Control rate that the policy was trained at, Hz.
    pub fps: f64,
    /// Inputs by LeRobot's feature key.
    pub input_features: Features,
    /// Outputs by LeRobot's feature key.
    pub output_features: Features,
    /// Normalisation by feature type.
    pub normalization_mapping: NormalizationMapping,
    /// Whether actions are learned relative to `observation.state` of the newest observation.
    pub use_relative_actions: bool,
    /// Probability path from noise to data.
    pub path: Path,
    /// What the network predicts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prediction_type: Target,
    /// Largest size of a normalised action that a diffusion sampler believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_sample_range: Option<f64>,
    /// Method of integration: `euler`, `midpoint`, `heun`, `rk4`, `dopri5`, `ddim` or `dpmpp_2m`; on a
    /// table `ddpm`, `ddim` or `dpmpp_2m`.
    pub solver: String,
    /// Steps of the solver, uniform in time.
    pub num_inference_steps: usize,
    /// How observations become the network's features.
    pub feature_encoder: FeatureEncoder,
    /// The network.
    pub network: Network,
    /// Training-time real-time chunking: in training the first 0 to so many rows of a chunk are given,
    /// clean, and the rest is learned; a delay of so many ticks can be continued. 0: not trained so.
    /// LeRobot's name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rtc_training_max_delay: usize,
    /// How its chunks are joined unless the user says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<Joining>,
    /// Guidance of real-time chunking; LeRobot's name and keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc_config: Option<RtcConfig>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl FlowConfig {
    /// The value of `"type"`.
    pub const TYPE: &str = "pathline_flow";

    /// Checks that the values fit together.
    ///
    /// # Errors
    /// Names the first key that does not fit, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Invalid(message));
        check_count("n_obs_steps", self.n_obs_steps, 1, 64)?;
        check_count("horizon", self.horizon, 1, 1024)?;
        if !(1..=self.horizon).contains(&self.n_action_steps) {
            return fail(format!(
                "n_action_steps: expected 1 to horizon ({}), got {}",
                self.horizon, self.n_action_steps
            ));
        }
        check_count("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)?;
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return fail(format!("fps: expected a positive rate, got {}", self.fps));
        }
        self.process().solver(&self.solver, self.num_inference_steps)?;
        let ends = self.path.ends();
        let table = matches!(self.path, Path::Discrete(_));
        if !table && ends != (1.0, 0.0) && ends != (0.0, 1.0) {
            return fail(format!(
                "path: expected one whose time runs between 0 and 1, or a table, got {:?}",
                self.path
            ));
        }
        check_action(&self.input_features, &self.output_features)?;
        if !self.input_features.contains_key(STATE) {
            return fail(format!("feature {STATE}: expected, but missing"));
        }
        for (key, feature) in &self.input_features {
            let kind = match key.as_str() {
                STATE => FeatureType::State,
                ENVIRONMENT_STATE => FeatureType::Env,
                _ => {
                    return fail(format!(
                        "feature {key}: expected {STATE} or {ENVIRONMENT_STATE}; cameras are not \
                         supported by this type of policy"
                    ));
                }
            };
            check_vector(key, feature, kind)?;
        }
        let [state, environment, action] = self.dims();
        if self.use_relative_actions && state != action {
            return fail(format!(
                "use_relative_actions: expected state and action of one shape, got {state} and \
                 {action}"
            ));
        }
        if let FeatureEncoder::KeypointFrame { octaves, goal_angle_rad } = &self.feature_encoder {
            let planar = environment >= 4 && environment.is_multiple_of(2);
            if !planar || state != 2 || self.n_obs_steps < 2 {
                return fail(format!(
                    "feature_encoder keypoint_frame: expected a state of 2, two or more planar \
                     keypoints and n_obs_steps of 2 or more, got {state}, {environment} coordinates \
                     and {}",
                    self.n_obs_steps
                ));
            }
            if *octaves > 16 || !goal_angle_rad.is_finite() {
                return fail(format!(
                    "feature_encoder: expected octaves up to 16, got {octaves}, and a finite angle"
                ));
            }
        }
        self.check_joining()?;
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

    fn check_joining(&self) -> Result<()> {
        let rows = match &self.network {
            Network::Mlp(mlp) => mlp.token_embed_dim > 0,
            Network::Unet1d(_) => false,
        };
        if self.rtc_training_max_delay >= self.horizon || (self.rtc_training_max_delay > 0) != rows
        {
            return Err(Error::Invalid(format!(
                "rtc_training_max_delay: expected less than the horizon ({}), and above 0 for a network \
                 with a time for each row (mlp, token_embed_dim) and only for one, got {}",
                self.horizon, self.rtc_training_max_delay
            )));
        }
        if let Some(joining) = &self.joining {
            joining.validate(self.horizon)?;
            if joining.mode.form() == Some(Form::Prefix) && !rows {
                return Err(Error::Invalid(
                    "joining: expected a network with a time for each row for rtc_prefix; \
                     rtc_identity joins the chunks of any network"
                        .into(),
                ));
            }
        }
        self.rtc_config.as_ref().map_or(Ok(()), |rtc| rtc.validate())
    }

    /// Lengths of state, environment state and action.
    fn dims(&self) -> [usize; 3] {
        [
            vector(&self.input_features, STATE),
            vector(&self.input_features, ENVIRONMENT_STATE),
            vector(&self.output_features, super::ACTION),
        ]
    }

    /// What every policy has.
    pub fn signature(&self) -> Signature {
        Signature {
            kind: Self::TYPE,
            n_obs_steps: self.n_obs_steps,
            horizon: self.horizon,
            first_row: 0,
            n_action_steps: self.n_action_steps,
            fps: Some(self.fps),
            input_features: self.input_features.clone(),
            output_features: self.output_features.clone(),
            normalization_mapping: self.normalization_mapping.clone(),
            use_relative_actions: self.use_relative_actions,
        }
    }

    /// How noise becomes a chunk.
    pub fn process(&self) -> Process {
        let time_scale = match (&self.path, &self.network) {
            (Path::Discrete(table), Network::Mlp(_)) => 1.0 / table.steps() as f64,
            (Path::Discrete(_), Network::Unet1d(_)) | (_, Network::Mlp(_)) => 1.0,
            (_, Network::Unet1d(_)) => 1000.0,
        };
        Process {
            path: self.path.clone(),
            target: self.prediction_type,
            time_scale,
            limit: self.clip_sample_range.map(|range| Limit::Clip { range }),
        }
    }
}
