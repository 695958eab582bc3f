//! `config.json` of LeRobot's ACT: `"type": "act"`.
//!
//! Every field of the dataclass of LeRobot 0.4.4 (`policies/act/configuration_act.py` and
//! `configs/policies.py`), with its default where the file is silent. Fields that only training, the hub
//! or a device choice look at are accepted and not kept. The rules are LeRobot's own, and those that its
//! network breaks at later.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    ACTION, ENVIRONMENT_STATE, FeatureType, Features, NormalizationMapping, NormalizationMode,
    STATE, Signature, check_action, check_count, check_vector, vector,
};
use crate::nn::resnet::{Depth, Naming, ResNetConfig, ResNetNorm};
use crate::policy::ensemble::Ensembler;
use crate::{Error, Result};

/// Most rows of a chunk.
const MAX_CHUNK: usize = 1024;
/// Most channels of the transformer.
const MAX_WIDTH: usize = 16_384;
/// Most layers of one stack.
const MAX_LAYERS: usize = 256;
/// Longest side of a picture, and most cameras.
const MAX_SIDE: usize = 8192;
const MAX_CAMERAS: usize = 64;

/// The activation between the two layers of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForwardActivation {
    /// `max(x, 0)`.
    Relu,
    /// `x·Φ(x)`.
    Gelu,
    /// Half of the channels gate the others. LeRobot names it, but its own layers do not fit it.
    Glu,
}

/// The whole `config.json` but for `"type"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActConfig {
    /// Observations that the policy sees: 1.
    pub n_obs_steps: usize,
    /// Inputs by LeRobot's feature key, in the order of the file.
    pub input_features: Features,
    /// Outputs by LeRobot's feature key.
    pub output_features: Features,
    /// Rows of the chunk; row 0 belongs to the observation's tick.
    pub chunk_size: usize,
    /// Actions executed before the next chunk.
    pub n_action_steps: usize,
    /// Normalisation by type of feature.
    pub normalization_mapping: NormalizationMapping,
    /// torchvision's name of the ResNet; looked at only where there is a camera.
    pub vision_backbone: String,
    /// Whether the last level of the ResNet dilates instead of striding.
    #[serde(deserialize_with = "python_truth")]
    pub replace_final_stride_with_dilation: bool,
    /// Whether a block normalises before its layer instead of after the sum.
    pub pre_norm: bool,
    /// Channels of the transformer.
    pub dim_model: usize,
    /// Heads of the attention.
    pub n_heads: usize,
    /// Channels inside the feed-forward blocks.
    pub dim_feedforward: usize,
    /// The activation there.
    pub feedforward_activation: FeedForwardActivation,
    /// Layers of the encoder.
    pub n_encoder_layers: usize,
    /// Layers of the decoder.
    pub n_decoder_layers: usize,
    /// Whether the file also holds the encoder of the variational objective, which inference never runs.
    pub use_vae: bool,
    /// Length of the latent, zero at inference.
    pub latent_dim: usize,
    /// Layers of that encoder.
    pub n_vae_encoder_layers: usize,
    /// Decay of the temporal ensemble's weights; none: actions are queued instead.
    pub temporal_ensemble_coeff: Option<f64>,
    /// Whether the weights are an adapter of another checkpoint: refused.
    pub use_peft: bool,

    #[serde(skip_serializing)]
    device: IgnoredAny,
    #[serde(skip_serializing)]
    use_amp: IgnoredAny,
    #[serde(skip_serializing)]
    push_to_hub: IgnoredAny,
    #[serde(skip_serializing)]
    repo_id: IgnoredAny,
    #[serde(skip_serializing)]
    private: IgnoredAny,
    #[serde(skip_serializing)]
    tags: IgnoredAny,
    #[serde(skip_serializing)]
    license: IgnoredAny,
    #[serde(skip_serializing)]
    pretrained_path: IgnoredAny,
    #[serde(skip_serializing)]
    pretrained_revision: IgnoredAny,
    #[serde(skip_serializing)]
    pretrained_backbone_weights: IgnoredAny,
    #[serde(skip_serializing)]
    dropout: IgnoredAny,
    #[serde(skip_serializing)]
    kl_weight: IgnoredAny,
    #[serde(skip_serializing)]
    optimizer_lr: IgnoredAny,
    #[serde(skip_serializing)]
    optimizer_weight_decay: IgnoredAny,
    #[serde(skip_serializing)]
    optimizer_lr_backbone: IgnoredAny,
}

impl Default for ActConfig {
    /// LeRobot's defaults.
    fn default() -> Self {
        let mean_std = |kind| (kind, NormalizationMode::MeanStd);
        Self {
            n_obs_steps: 1,
            input_features: Features::new(),
            output_features: Features::new(),
            chunk_size: 100,
            n_action_steps: 100,
            normalization_mapping: [FeatureType::Visual, FeatureType::State, FeatureType::Action]
                .map(mean_std)
                .into(),
            vision_backbone: "resnet18".to_owned(),
            replace_final_stride_with_dilation: false,
            pre_norm: false,
            dim_model: 512,
            n_heads: 8,
            dim_feedforward: 3200,
            feedforward_activation: FeedForwardActivation::Relu,
            n_encoder_layers: 4,
            n_decoder_layers: 1,
            use_vae: true,
            latent_dim: 32,
            n_vae_encoder_layers: 4,
            temporal_ensemble_coeff: None,
            use_peft: false,
            device: IgnoredAny,
            use_amp: IgnoredAny,
            push_to_hub: IgnoredAny,
            repo_id: IgnoredAny,
            private: IgnoredAny,
            tags: IgnoredAny,
            license: IgnoredAny,
            pretrained_path: IgnoredAny,
            pretrained_revision: IgnoredAny,
            pretrained_backbone_weights: IgnoredAny,
            dropout: IgnoredAny,
            kl_weight: IgnoredAny,
            optimizer_lr: IgnoredAny,
            optimizer_weight_decay: IgnoredAny,
            optimizer_lr_backbone: IgnoredAny,
        }
    }
}

impl ActConfig {
    /// The value of `"type"`.
    pub const TYPE: &str = "act";

    /// Checks that the values fit together.
    ///
    /// # Errors
    /// Names the first key that does not fit, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        if self.use_peft {
            return fail(
                "use_peft: expected false, got true; merge the adapter into its base policy in \
                 LeRobot and save that",
            );
        }
        check_count("n_obs_steps", self.n_obs_steps, 1, 1)?;
        check_count("chunk_size", self.chunk_size, 1, MAX_CHUNK)?;
        if !(1..=self.chunk_size).contains(&self.n_action_steps) {
            let (size, got) = (self.chunk_size, self.n_action_steps);
            return fail(format!("n_action_steps: expected 1 to chunk_size ({size}), got {got}"));
        }
        if let Some(coefficient) = self.temporal_ensemble_coeff {
            if self.n_action_steps != 1 {
                return fail(format!(
                    "n_action_steps: expected 1, since temporal_ensemble_coeff is set and the policy \
                     runs every tick, got {}",
                    self.n_action_steps
                ));
            }
            Ensembler::new(coefficient, self.chunk_size)?;
        }
        self.validate_transformer()?;
        self.validate_features()
    }

    fn validate_transformer(&self) -> Result<()> {
        for (key, value, least, most) in [
            ("dim_model", self.dim_model, 1, MAX_WIDTH),
            ("n_heads", self.n_heads, 1, self.dim_model),
            ("dim_feedforward", self.dim_feedforward, 1, 4 * MAX_WIDTH),
            ("latent_dim", self.latent_dim, 1, MAX_WIDTH),
            ("n_encoder_layers", self.n_encoder_layers, 0, MAX_LAYERS),
            ("n_decoder_layers", self.n_decoder_layers, 0, MAX_LAYERS),
            ("n_vae_encoder_layers", self.n_vae_encoder_layers, 0, MAX_LAYERS),
        ] {
            check_count(key, value, least, most)?;
        }
        if !self.dim_model.is_multiple_of(self.n_heads) {
            let (width, heads) = (self.dim_model, self.n_heads);
            return fail(format!(
                "dim_model: expected a multiple of n_heads ({heads}), got {width}"
            ));
        }
        if self.feedforward_activation == FeedForwardActivation::Glu {
            return fail(
                "feedforward_activation: expected relu or gelu, got glu; it halves the channels and \
                 does not fit LeRobot's own layers",
            );
        }
        Ok(())
    }

    fn validate_features(&self) -> Result<()> {
        check_action(&self.input_features, &self.output_features)?;
        // LeRobot builds the network by type and reads the observation by key.
        let environment = self.input_features.iter().find(|(_, f)| f.kind == FeatureType::Env);
        if let Some((key, _)) = environment
            && key != ENVIRONMENT_STATE
        {
            return fail(format!("{key}: expected {ENVIRONMENT_STATE} as the one ENV feature"));
        }
        for (key, kind) in [(STATE, FeatureType::State), (ENVIRONMENT_STATE, FeatureType::Env)] {
            if let Some(feature) = self.input_features.get(key) {
                check_vector(key, feature, kind)?;
            }
        }
        let mut cameras = 0;
        for (key, feature) in &self.input_features {
            if feature.kind != FeatureType::Visual {
                continue;
            }
            cameras += 1;
            let side = 1..=MAX_SIDE;
            match feature.shape.as_slice() {
                [3, h, w] if side.contains(h) && side.contains(w) => {}
                got => {
                    return fail(format!(
                        "{key}: expected shape [3, height, width] with sides up to {MAX_SIDE}, got \
                         {got:?}"
                    ));
                }
            }
        }
        if !self.vision_backbone.starts_with("resnet") {
            let got = &self.vision_backbone;
            return fail(format!("vision_backbone: expected a ResNet, got {got:?}"));
        }
        match cameras {
            0 if environment.is_none() => fail(format!(
                "input_features: expected at least one VISUAL feature or {ENVIRONMENT_STATE}"
            )),
            0 => Ok(()),
            1..=MAX_CAMERAS => self.validate_backbone(),
            _ => {
                fail(format!("input_features: expected up to {MAX_CAMERAS} cameras, got {cameras}"))
            }
        }
    }

    /// What only holds where there is a camera.
    fn validate_backbone(&self) -> Result<()> {
        if !self.dim_model.is_multiple_of(4) {
            return fail(format!(
                "dim_model: expected a multiple of 4, for the position embedding of pictures, got {}",
                self.dim_model
            ));
        }
        self.resnet()?.validate()
    }

    /// The network that sees the pictures: torchvision's, with frozen batch normalisation.
    ///
    /// # Errors
    /// When `vision_backbone` is no ResNet known here.
    pub fn resnet(&self) -> Result<ResNetConfig> {
        Ok(ResNetConfig {
            depth: Depth::by_name(&self.vision_backbone)?,
            norm: ResNetNorm::Frozen,
            dilate_last: self.replace_final_stride_with_dilation,
            naming: Naming::Named,
        })
    }

    /// Whether the network sees the input: LeRobot keeps other state features of a data set, such as
    /// `observation.effort`, in `input_features` and never looks at them.
    fn sees(key: &str, kind: FeatureType) -> bool {
        match kind {
            FeatureType::State => key == STATE,
            kind => matches!(kind, FeatureType::Env | FeatureType::Visual),
        }
    }

    /// What every policy has; inputs that the network does not see are left out.
    pub fn signature(&self) -> Signature {
        let mut input_features = self.input_features.clone();
        input_features.retain(|key, feature| Self::sees(key, feature.kind));
        Signature {
            kind: Self::TYPE,
            n_obs_steps: self.n_obs_steps,
            horizon: self.chunk_size,
            first_row: 0,
            n_action_steps: self.n_action_steps,
            fps: None,
            input_features,
            output_features: self.output_features.clone(),
            normalization_mapping: self.normalization_mapping.clone(),
            use_relative_actions: false,
        }
    }

    /// Length of `observation.state`, 0 if the network does not see it.
    pub fn state_dim(&self) -> usize {
        vector(&self.input_features, STATE)
    }

    /// Length of `observation.environment_state`, 0 if the network does not see it.
    pub fn environment_dim(&self) -> usize {
        vector(&self.input_features, ENVIRONMENT_STATE)
    }

    /// Length of one action.
    pub fn action_dim(&self) -> usize {
        vector(&self.output_features, ACTION)
    }

    /// The cameras in the order in which the network sees them: key, and channels, height, width.
    pub fn cameras(&self) -> impl Iterator<Item = (&str, [usize; 3])> {
        super::cameras(&self.input_features)
    }
}

fn fail(message: impl Into<String>) -> Result<()> {
    Err(Error::Invalid(message.into()))
}

/// A flag that LeRobot declares as an integer: `false`, `true`, 0 or another number.
fn python_truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a boolean or an integer")]
    enum Truth {
        Flag(bool),
        Number(i64),
    }
    Ok(match Truth::deserialize(deserializer)? {
        Truth::Flag(flag) => flag,
        Truth::Number(number) => number != 0,
    })
}
