//! `config.json` of LeRobot's DiffusionPolicy, `"type": "diffusion"`, in every version of it.
//!
//! Fields and defaults are those of LeRobot 0.4.4 (`policies/diffusion/configuration_diffusion.py`);
//! files hold every field, so the other defaults of later versions (horizon 64, batch normalisation,
//! an encoder a camera) do not matter. One field is ours: `objective` is `flow` where the network was
//! trained to predict the velocity of the straight path. LeRobot refuses such a file, rightly.

use serde::{Deserialize, Serialize};

use super::{
    ENVIRONMENT_STATE, Feature, FeatureType, Features, NormalizationMapping, NormalizationMode,
    STATE, Signature, check_action, check_count, check_vector, vector,
};
use crate::flow::clip::Limit;
use crate::flow::schedule::{BetaSchedule, Discrete, DiscreteConfig};
use crate::flow::{Path, Target};
use crate::nn::resnet::{Depth, Naming, ResNetConfig, ResNetNorm};
use crate::nn::unet1d::UNet1dConfig;
use crate::policy::process::Process;
use crate::{Error, Result};

/// What the network was trained for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// LeRobot's: epsilon or sample over a table of betas.
    #[default]
    Diffusion,
    /// The velocity of the straight path, at network time `t·num_train_timesteps`.
    Flow,
}

/// LeRobot's `noise_scheduler_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NoiseScheduler {
    /// With fresh noise at every step.
    #[default]
    Ddpm,
    /// Without.
    Ddim,
}

/// Steps of a flow whose configuration names none.
const FLOW_STEPS: usize = 10;

/// The whole `config.json`, beside `"type"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Number of observations that the policy sees, one a tick, ending at the newest.
    pub n_obs_steps: usize,
    /// Inputs by LeRobot's feature key; cameras are concatenated in this order.
    pub input_features: Features,
    /// Outputs by LeRobot's feature key.
    pub output_features: Features,
    /// Where LeRobot puts the tensors; not looked at.
    pub device: Option<String>,
    /// Mixed precision in LeRobot; here everything is f32.
    pub use_amp: bool,
    /// Whether the weights are an adapter: not supported.
    pub use_peft: bool,
    /// Of the hub; not looked at.
    pub push_to_hub: bool,
    /// Of the hub; not looked at.
    pub repo_id: Option<String>,
    /// Of the hub; not looked at.
    pub private: Option<bool>,
    /// Of the hub; not looked at.
    pub tags: Option<Vec<String>>,
    /// Of the hub; not looked at.
    pub license: Option<String>,
    /// Where training began; not looked at.
    pub pretrained_path: Option<String>,
    /// Of the hub in later versions; not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained_revision: Option<String>,
    /// Rows of the chunk; row `n_obs_steps − 1` belongs to the newest observation.
    pub horizon: usize,
    /// Number of actions executed before the next chunk.
    pub n_action_steps: usize,
    /// Normalisation by feature type.
    pub normalization_mapping: NormalizationMapping,
    /// Of training; not looked at.
    pub drop_n_last_frames: usize,
    /// `resnet18`, `resnet34`, `resnet50`, `resnet101` or `resnet152`.
    pub vision_backbone: String,
    /// Height and width that pictures are resized to.
    pub resize_shape: Option<[usize; 2]>,
    /// Share of the resized picture that is kept.
    pub crop_ratio: f64,
    /// Height and width of the crop.
    pub crop_shape: Option<[usize; 2]>,
    /// Of training: at inference the centre is taken.
    pub crop_is_random: bool,
    /// Of training: the checkpoint holds the weights.
    pub pretrained_backbone_weights: Option<String>,
    /// Group instead of batch normalisation in the backbone.
    pub use_group_norm: bool,
    /// Keypoints of the pooling.
    pub spatial_softmax_num_keypoints: usize,
    /// An encoder a camera, or one for all.
    pub use_separate_rgb_encoder_per_camera: bool,
    /// Channels per level of the UNet.
    pub down_dims: Vec<usize>,
    /// Taps of its convolutions.
    pub kernel_size: usize,
    /// Groups of its normalisation.
    pub n_groups: usize,
    /// Width of its time embedding.
    pub diffusion_step_embed_dim: usize,
    /// Whether FiLM scales as well as shifts.
    pub use_film_scale_modulation: bool,
    /// Which sampler.
    pub noise_scheduler_type: NoiseScheduler,
    /// Steps of the table.
    pub num_train_timesteps: usize,
    /// Shape of the schedule.
    pub beta_schedule: BetaSchedule,
    /// First β of the linear schedules.
    pub beta_start: f64,
    /// Last β of these.
    pub beta_end: f64,
    /// `epsilon` or `sample`.
    pub prediction_type: Target,
    /// Whether the data estimate is clipped at every step.
    pub clip_sample: bool,
    /// To ± this.
    pub clip_sample_range: f64,
    /// Steps at inference; all of the table if absent.
    pub num_inference_steps: Option<usize>,
    /// Whether LeRobot compiled the UNet, which changes the names of its tensors.
    pub compile_model: bool,
    /// How; not looked at.
    pub compile_mode: String,
    /// Of training: whether rows beyond the episode count in the loss.
    pub do_mask_loss_for_padding: bool,
    /// Of training, as the others that begin with `optimizer_` and `scheduler_`.
    pub optimizer_lr: f64,
    /// Of training.
    pub optimizer_betas: Vec<f64>,
    /// Of training.
    pub optimizer_eps: f64,
    /// Of training.
    pub optimizer_weight_decay: f64,
    /// Of training.
    pub scheduler_name: String,
    /// Of training.
    pub scheduler_warmup_steps: usize,
    /// What the network was trained for: Pathline's own field.
    #[serde(skip_serializing_if = "is_diffusion")]
    pub objective: Objective,
}

fn is_diffusion(objective: &Objective) -> bool {
    *objective == Objective::Diffusion
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        let mode = |kind, mode| (kind, mode);
        Self {
            n_obs_steps: 2,
            input_features: Features::new(),
            output_features: Features::new(),
            device: None,
            use_amp: false,
            use_peft: false,
            push_to_hub: false,
            repo_id: None,
            private: None,
            tags: None,
            license: None,
            pretrained_path: None,
            pretrained_revision: None,
            horizon: 16,
            n_action_steps: 8,
            normalization_mapping: NormalizationMapping::from([
                mode(FeatureType::Visual, NormalizationMode::MeanStd),
                mode(FeatureType::State, NormalizationMode::MinMax),
                mode(FeatureType::Action, NormalizationMode::MinMax),
            ]),
            drop_n_last_frames: 7,
            vision_backbone: "resnet18".into(),
            resize_shape: None,
            crop_ratio: 1.0,
            crop_shape: None,
            crop_is_random: true,
            pretrained_backbone_weights: None,
            use_group_norm: true,
            spatial_softmax_num_keypoints: 32,
            use_separate_rgb_encoder_per_camera: false,
            down_dims: vec![512, 1024, 2048],
            kernel_size: 5,
            n_groups: 8,
            diffusion_step_embed_dim: 128,
            use_film_scale_modulation: true,
            noise_scheduler_type: NoiseScheduler::Ddpm,
            num_train_timesteps: 100,
            beta_schedule: BetaSchedule::SquaredcosCapV2,
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction_type: Target::Noise,
            clip_sample: true,
            clip_sample_range: 1.0,
            num_inference_steps: None,
            compile_model: false,
            compile_mode: "reduce-overhead".into(),
            do_mask_loss_for_padding: false,
            optimizer_lr: 1e-4,
            optimizer_betas: vec![0.95, 0.999],
            optimizer_eps: 1e-8,
            optimizer_weight_decay: 1e-6,
            scheduler_name: "cosine".into(),
            scheduler_warmup_steps: 500,
            objective: Objective::Diffusion,
        }
    }
}

impl DiffusionConfig {
    /// The value of `"type"`.
    pub const TYPE: &str = "diffusion";

    /// Checks that the values fit together: LeRobot's own rules, and sizes that can be built.
    ///
    /// # Errors
    /// Names the first key that does not fit, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Invalid(message));
        if self.use_peft {
            return fail(
                "use_peft: expected false: the weights are an adapter; merge it in LeRobot \
                 (`merge_and_unload`) and save the policy again"
                    .into(),
            );
        }
        check_count("n_obs_steps", self.n_obs_steps, 1, 64)?;
        check_count("horizon", self.horizon, 1, 1024)?;
        let last = (self.horizon + 1).saturating_sub(self.n_obs_steps);
        if !(1..=last).contains(&self.n_action_steps) {
            return fail(format!(
                "n_action_steps: expected 1 to horizon − n_obs_steps + 1 = {last}, got {}",
                self.n_action_steps
            ));
        }
        self.check_features()?;
        self.check_pictures()?;
        self.unet().validate()?;
        if self.down_dims.len() > 10 || !self.horizon.is_multiple_of(1 << self.down_dims.len()) {
            return fail(format!(
                "horizon: expected a multiple of 2^{} for {} levels in down_dims, got {}",
                self.down_dims.len(),
                self.down_dims.len(),
                self.horizon
            ));
        }
        check_count("num_train_timesteps", self.num_train_timesteps, 1, 100_000)?;
        match (self.objective, self.prediction_type) {
            (Objective::Flow, _) | (_, Target::Noise | Target::Data | Target::V) => {}
            (Objective::Diffusion, other) => {
                return fail(format!(
                    "prediction_type: expected epsilon, sample or v_prediction, got {}",
                    serde_json::json!(other)
                ));
            }
        }
        if !(self.clip_sample_range > 0.0 && self.clip_sample_range.is_finite()) {
            return fail(format!(
                "clip_sample_range: expected a number above 0, got {}",
                self.clip_sample_range
            ));
        }
        self.table()?;
        let (name, steps) = self.default_solver();
        self.process()?.solver(name, steps)?;
        Ok(())
    }

    fn check_features(&self) -> Result<()> {
        check_action(&self.input_features, &self.output_features)?;
        match self.input_features.get(STATE) {
            Some(feature) => check_vector(STATE, feature, FeatureType::State)?,
            None => return Err(Error::Invalid(format!("feature {STATE}: expected, but missing"))),
        }
        for (key, feature) in &self.input_features {
            match feature.kind {
                FeatureType::Env if key == ENVIRONMENT_STATE => {
                    check_vector(key, feature, FeatureType::Env)?;
                }
                FeatureType::State if key == STATE => {}
                FeatureType::Visual => check_picture(key, feature)?,
                kind => {
                    return Err(Error::Invalid(format!(
                        "feature {key} of type {kind:?}: expected {STATE}, {ENVIRONMENT_STATE} and \
                         cameras; this policy would not look at it"
                    )));
                }
            }
        }
        let mut shapes = self.cameras().map(|(_, shape)| shape);
        let Some(first) = shapes.next() else {
            let environment = self.input_features.contains_key(ENVIRONMENT_STATE);
            return if environment {
                Ok(())
            } else {
                let message = format!("expected a camera or {ENVIRONMENT_STATE} among the inputs");
                Err(Error::Invalid(message))
            };
        };
        match shapes.find(|shape| *shape != first) {
            Some(other) => Err(Error::Invalid(format!(
                "cameras: expected pictures of one shape, got {first:?} and {other:?}"
            ))),
            None => Ok(()),
        }
    }

    fn check_pictures(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Invalid(message));
        let sized = |[h, w]: [usize; 2]| (1..=8192).contains(&h) && (1..=8192).contains(&w);
        for (key, shape) in [("resize_shape", self.resize_shape), ("crop_shape", self.crop_shape)] {
            if let Some(shape) = shape.filter(|shape| !sized(*shape)) {
                return fail(format!("{key}: expected two numbers from 1 to 8192, got {shape:?}"));
            }
        }
        if !(self.crop_ratio > 0.0 && self.crop_ratio <= 1.0) {
            return fail(format!("crop_ratio: expected above 0, up to 1, got {}", self.crop_ratio));
        }
        let Some((_, [_, h, w])) = self.cameras().next() else { return Ok(()) };
        let resized = self.resize_shape.unwrap_or([h, w]);
        match self.crop() {
            Some([0, _] | [_, 0]) => {
                return fail(format!("crop_ratio: {} of {resized:?} is empty", self.crop_ratio));
            }
            Some(crop) if crop[0] > resized[0] || crop[1] > resized[1] => {
                return fail(format!(
                    "crop_shape: expected one within the picture {resized:?}, got {crop:?}"
                ));
            }
            _ => {}
        }
        check_count("spatial_softmax_num_keypoints", self.spatial_softmax_num_keypoints, 1, 4096)?;
        Depth::by_name(&self.vision_backbone)?;
        Ok(())
    }

    /// Height and width of the crop. A ratio below 1 counts where pictures are resized, and a resize
    /// without one takes an explicit shape away, as in LeRobot.
    pub fn crop(&self) -> Option<[usize; 2]> {
        match self.resize_shape {
            Some(shape) if self.crop_ratio < 1.0 => {
                Some(shape.map(|side| (side as f64 * self.crop_ratio) as usize))
            }
            Some(_) => None,
            None => self.crop_shape,
        }
    }

    /// The cameras in the order in which they are concatenated: key, and channels, height, width.
    pub fn cameras(&self) -> impl Iterator<Item = (&str, [usize; 3])> {
        super::cameras(&self.input_features)
    }

    /// Height and width of what the backbone sees; none without a camera.
    pub fn seen(&self) -> Option<[usize; 2]> {
        let (_, [_, h, w]) = self.cameras().next()?;
        Some(self.crop().or(self.resize_shape).unwrap_or([h, w]))
    }

    /// Numbers of one observation in the conditioning vector: state, cameras, environment.
    pub fn observation_len(&self) -> usize {
        let features = 2 * self.spatial_softmax_num_keypoints * self.cameras().count();
        let environment = vector(&self.input_features, ENVIRONMENT_STATE);
        vector(&self.input_features, STATE) + features + environment
    }

    /// The UNet.
    pub fn unet(&self) -> UNet1dConfig {
        UNet1dConfig {
            action_dim: vector(&self.output_features, super::ACTION),
            cond_dim: self.observation_len() * self.n_obs_steps,
            down_dims: self.down_dims.clone(),
            kernel_size: self.kernel_size,
            n_groups: self.n_groups,
            diffusion_step_embed_dim: self.diffusion_step_embed_dim,
            use_film_scale_modulation: self.use_film_scale_modulation,
        }
    }

    /// The backbone of the cameras.
    ///
    /// # Errors
    /// When there is no such network.
    pub fn backbone(&self) -> Result<ResNetConfig> {
        Ok(ResNetConfig {
            depth: Depth::by_name(&self.vision_backbone)?,
            norm: if self.use_group_norm { ResNetNorm::Group } else { ResNetNorm::Batch },
            dilate_last: false,
            naming: Naming::Sequential,
        })
    }

    fn table(&self) -> Result<Discrete> {
        Discrete::new(DiscreteConfig {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: self.beta_schedule,
            float32: true,
            ..DiscreteConfig::default()
        })
    }

    /// How noise becomes a chunk.
    ///
    /// # Errors
    /// When no table can be made of the betas.
    pub fn process(&self) -> Result<Process> {
        Ok(match self.objective {
            Objective::Diffusion => Process {
                path: Path::Discrete(self.table()?),
                target: self.prediction_type,
                time_scale: 1.0,
                limit: self.clip_sample.then_some(Limit::Clip { range: self.clip_sample_range }),
            },
            Objective::Flow => Process {
                path: Path::Straight,
                target: Target::Velocity,
                time_scale: self.num_train_timesteps as f64,
                limit: None,
            },
        })
    }

    /// The sampler of the configuration, and its steps.
    pub fn default_solver(&self) -> (&'static str, usize) {
        let steps = self.num_inference_steps;
        match (self.objective, self.noise_scheduler_type) {
            (Objective::Flow, _) => ("euler", steps.unwrap_or(FLOW_STEPS)),
            (_, NoiseScheduler::Ddpm) => ("ddpm", steps.unwrap_or(self.num_train_timesteps)),
            (_, NoiseScheduler::Ddim) => ("ddim", steps.unwrap_or(self.num_train_timesteps)),
        }
    }

    /// What every policy has.
    pub fn signature(&self) -> Signature {
        Signature {
            kind: Self::TYPE,
            n_obs_steps: self.n_obs_steps,
            horizon: self.horizon,
            first_row: self.n_obs_steps - 1,
            n_action_steps: self.n_action_steps,
            fps: None,
            input_features: self.input_features.clone(),
            output_features: self.output_features.clone(),
            normalization_mapping: self.normalization_mapping.clone(),
            use_relative_actions: false,
        }
    }
}

fn check_picture(key: &str, feature: &Feature) -> Result<()> {
    match feature.shape.as_slice() {
        [3, h, w] if (1..=8192).contains(h) && (1..=8192).contains(w) => Ok(()),
        shape => Err(Error::Invalid(format!(
            "{key}: expected shape [3, height, width] up to 8192, got {shape:?}"
        ))),
    }
}
