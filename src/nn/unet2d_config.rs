//! The `config.json` of diffusers' two UNets over pictures.
//!
//! Missing keys take the default of the class, unknown ones are kept and written back. A key that would
//! change the result and is not supported is an error that names it. What `attention_head_dim` means is
//! known to be confused (diffusers issue 2011): in `UNet2DConditionModel` it is the number of
//! *heads* of the transformers, and the channels per head in `AttnDownBlock2D` and its twin; in
//! `UNet2DModel` it is always the channels per head. Source: diffusers
//! `models/unets/unet_2d_condition.py` and `unet_2d.py` (0.42.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// A UNet by its `_class_name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name")]
pub enum UNet2dConfig {
    /// With cross-attention to tokens: Stable Diffusion's.
    #[serde(rename = "UNet2DConditionModel")]
    Conditional(Box<ConditionalUNet2dConfig>),
    /// Without tokens: DDPM's.
    #[serde(rename = "UNet2DModel")]
    Plain(Box<PlainUNet2dConfig>),
}

/// One value for all levels, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// For all.
    Same(T),
    /// For each, top level first.
    Each(Vec<T>),
}

impl<T: Clone> PerLevel<T> {
    /// A value for each of `count` levels.
    pub(super) fn spread(&self, count: usize, key: &str) -> Result<Vec<T>> {
        match self {
            Self::Same(value) => Ok(vec![value.clone(); count]),
            Self::Each(values) if values.len() == count => Ok(values.clone()),
            Self::Each(values) => Err(invalid(format!(
                "{key}: expected one value or {count}, one for each, got {}",
                values.len()
            ))),
        }
    }
}

/// Transformer blocks in each transformer: one number, one for each level, or there one for each
/// residual block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Depths {
    /// For all.
    Same(usize),
    /// For each level, top level first.
    Each(Vec<PerLevel<usize>>),
}

impl Depths {
    /// As [`PerLevel`]: a serde enum of lists in lists would take the outer for the inner.
    pub(super) fn per_level(&self) -> PerLevel<PerLevel<usize>> {
        match self {
            Self::Same(depth) => PerLevel::Same(PerLevel::Same(*depth)),
            Self::Each(depths) => PerLevel::Each(depths.clone()),
        }
    }
}

/// diffusers' `UNet2DConditionModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConditionalUNet2dConfig {
    /// Version of the library that wrote it.
    #[serde(rename = "_diffusers_version")]
    pub diffusers_version: String,
    /// Height and width of the pictures it is made for; says nothing about the network.
    pub sample_size: Option<PerLevel<usize>>,
    /// Channels of the input, those of `concat` included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is taken from 0…1 to −1…1.
    pub center_input_sample: bool,
    /// Cosines first in the embedding of the time.
    pub flip_sin_to_cos: bool,
    /// Shift of its frequencies.
    pub freq_shift: i64,
    /// Kind of each level on the way down.
    pub down_block_types: Vec<String>,
    /// Kind of the middle; none without one.
    pub mid_block_type: Option<String>,
    /// Kind of each level on the way up, deepest first.
    pub up_block_types: Vec<String>,
    /// Whether `attn1` looks at the tokens too.
    pub only_cross_attention: PerLevel<bool>,
    /// Channels of each level, top first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: PerLevel<usize>,
    /// Padding of the strided convolution; 0 pads right and below.
    pub downsample_padding: usize,
    /// What the sums in the middle are divided by.
    pub mid_block_scale_factor: f64,
    /// Activation; SiLU.
    pub act_fn: String,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Added to their variances.
    pub norm_eps: f64,
    /// Channels of the tokens.
    pub cross_attention_dim: PerLevel<usize>,
    /// Transformer blocks in each transformer on the way down and in the middle.
    pub transformer_layers_per_block: Depths,
    /// The same on the way up, deepest level first; reversed from the way down if absent.
    pub reverse_transformer_layers_per_block: Option<Vec<PerLevel<usize>>>,
    /// Number of *heads*, see the module.
    pub attention_head_dim: PerLevel<usize>,
    /// Linear layers around the transformers instead of convolutions.
    pub use_linear_projection: bool,
    /// `timestep`, or none.
    pub class_embed_type: Option<String>,
    /// Number of classes.
    pub num_class_embeds: Option<usize>,
    /// Whether class and time are put behind each other instead of added.
    pub class_embeddings_concat: bool,
    /// `default`: the time is added; `scale_shift`: it scales and shifts.
    pub resnet_time_scale_shift: String,
    /// Width of the embedded time; four times the first level's channels if absent.
    pub time_embedding_dim: Option<usize>,
    /// Activation of the embedded time before all blocks.
    pub time_embedding_act_fn: Option<String>,
    /// Activation behind the time's two linear layers.
    pub timestep_post_act: Option<String>,
    /// Taps of the first convolution.
    pub conv_in_kernel: usize,
    /// Taps of the last one.
    pub conv_out_kernel: usize,
    /// Every other key.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Default for ConditionalUNet2dConfig {
    fn default() -> Self {
        Self {
            diffusers_version: DIFFUSERS_VERSION.to_owned(),
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0,
            down_block_types: names(["CrossAttnDownBlock2D"; 3], ["DownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: names(["UpBlock2D"], ["CrossAttnUpBlock2D"; 3]),
            only_cross_attention: PerLevel::Same(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::Same(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: "silu".to_owned(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::Same(1280),
            transformer_layers_per_block: Depths::Same(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerLevel::Same(8),
            use_linear_projection: false,
            class_embed_type: None,
            num_class_embeds: None,
            class_embeddings_concat: false,
            resnet_time_scale_shift: "default".to_owned(),
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            rest: BTreeMap::new(),
        }
    }
}

/// diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlainUNet2dConfig {
    /// Version of the library that wrote it.
    #[serde(rename = "_diffusers_version")]
    pub diffusers_version: String,
    /// Height and width of the pictures it is made for; says nothing about the network.
    pub sample_size: Option<PerLevel<usize>>,
    /// Channels of the input, those of `concat` included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is taken from 0…1 to −1…1.
    pub center_input_sample: bool,
    /// Width of the embedded time; four times the first level's channels if absent.
    pub time_embedding_dim: Option<usize>,
    /// Shift of the frequencies in the embedding of the time.
    pub freq_shift: i64,
    /// Cosines first in it.
    pub flip_sin_to_cos: bool,
    /// Kind of each level on the way down.
    pub down_block_types: Vec<String>,
    /// Whether there is a middle.
    pub mid_block_type: Option<String>,
    /// Kind of each level on the way up, deepest first.
    pub up_block_types: Vec<String>,
    /// Channels of each level, top first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// What the sums in the middle are divided by.
    pub mid_block_scale_factor: f64,
    /// Padding of the strided convolution; 0 pads right and below.
    pub downsample_padding: usize,
    /// Activation; SiLU.
    pub act_fn: String,
    /// Channels per head; one head if absent.
    pub attention_head_dim: Option<usize>,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Groups of the one before the middle's attention.
    pub attn_norm_num_groups: Option<usize>,
    /// Added to their variances.
    pub norm_eps: f64,
    /// `default`: the time is added; `scale_shift`: it scales and shifts.
    pub resnet_time_scale_shift: String,
    /// Whether the middle has attention.
    pub add_attention: bool,
    /// `timestep`, or none.
    pub class_embed_type: Option<String>,
    /// Number of classes.
    pub num_class_embeds: Option<usize>,
    /// Every other key.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Default for PlainUNet2dConfig {
    fn default() -> Self {
        Self {
            diffusers_version: DIFFUSERS_VERSION.to_owned(),
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_dim: None,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: names(["DownBlock2D"], ["AttnDownBlock2D"; 3]),
            mid_block_type: Some("UNetMidBlock2D".to_owned()),
            up_block_types: names(["AttnUpBlock2D"; 3], ["UpBlock2D"]),
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            act_fn: "silu".to_owned(),
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: "default".to_owned(),
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            rest: BTreeMap::new(),
        }
    }
}

/// The version whose layout is written.
pub(super) const DIFFUSERS_VERSION: &str = "0.42.1";

/// Keys of `UNet2DConditionModel` that are supported with one value alone, which is also the default.
pub(super) const CONDITIONAL_ONLY: [(&str, &str); 9] = [
    ("addition_embed_type", "null"),
    ("attention_type", "\"default\""),
    ("cross_attention_norm", "null"),
    ("dual_cross_attention", "false"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("num_attention_heads", "null"),
    ("time_cond_proj_dim", "null"),
    ("time_embedding_type", "\"positional\""),
];
/// Keys that change nothing with the blocks that are supported. Dropout is training's, and not done.
const CONDITIONAL_NO_EFFECT: [&str; 8] = [
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "dropout",
    "mid_block_only_cross_attention",
    "projection_class_embeddings_input_dim",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "upcast_attention",
];
/// The same of `UNet2DModel`.
pub(super) const PLAIN_ONLY: [(&str, &str); 3] = [
    ("downsample_type", "\"conv\""),
    ("time_embedding_type", "\"positional\""),
    ("upsample_type", "\"conv\""),
];
const PLAIN_NO_EFFECT: [&str; 2] = ["dropout", "num_train_timesteps"];

impl UNet2dConfig {
    /// Channels of the input, those of `concat` included.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Conditional(config) => config.in_channels,
            Self::Plain(config) => config.in_channels,
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        match self {
            Self::Conditional(config) => config.out_channels,
            Self::Plain(config) => config.out_channels,
        }
    }

    /// Channels of the tokens; nothing if no block looks at any.
    pub fn cross_attention_dim(&self) -> Option<usize> {
        let Self::Conditional(config) = self else { return None };
        let kinds = config.down_block_types.iter().chain(&config.mid_block_type);
        let looks = kinds.chain(&config.up_block_types).any(|kind| kind.contains("CrossAttn"));
        let dim = match &config.cross_attention_dim {
            PerLevel::Same(dim) => Some(*dim),
            PerLevel::Each(dims) => dims.first().copied(),
        };
        dim.filter(|_| looks)
    }

    /// Number of classes, if there are classes.
    pub fn num_class_embeds(&self) -> Option<usize> {
        match self {
            Self::Conditional(config) => config.num_class_embeds,
            Self::Plain(config) => config.num_class_embeds,
        }
    }

    /// Height and width of the pictures or latents that it was made for, if known.
    pub fn sample_size(&self) -> Option<[usize; 2]> {
        match self {
            Self::Conditional(config) => sides(config.sample_size.as_ref()),
            Self::Plain(config) => sides(config.sample_size.as_ref()),
        }
    }

    /// Keys that diffusers' class does not have: in a file of others they are nothing, in one of our own
    /// they are a slip of the pen.
    pub fn unknown_keys(&self) -> Vec<String> {
        match self {
            Self::Conditional(config) => {
                unknown(&config.rest, &CONDITIONAL_ONLY, &CONDITIONAL_NO_EFFECT)
            }
            Self::Plain(config) => unknown(&config.rest, &PLAIN_ONLY, &PLAIN_NO_EFFECT),
        }
    }
}

pub(super) fn sides(size: Option<&PerLevel<usize>>) -> Option<[usize; 2]> {
    match size {
        Some(&PerLevel::Same(side)) => Some([side, side]),
        Some(PerLevel::Each(sides)) => sides.as_slice().try_into().ok(),
        None => None,
    }
}

/// The keys of `rest` that stand in neither list and are no remark (`_name_or_path`).
pub(super) fn unknown(
    rest: &BTreeMap<String, Value>,
    only: &[(&str, &str)],
    no_effect: &[&str],
) -> Vec<String> {
    let known = |key: &str| {
        key.starts_with('_') || only.iter().any(|o| o.0 == key) || no_effect.contains(&key)
    };
    rest.keys().filter(|key| !known(key)).cloned().collect()
}

/// Refuses a key that has another value than the one that is supported.
pub(super) fn check_only(
    class: &str,
    rest: &BTreeMap<String, Value>,
    only: &[(&str, &str)],
) -> Result<()> {
    for (key, supported) in only {
        let Some(value) = rest.get(*key).map(Value::to_string) else { continue };
        if value != *supported {
            return Err(Error::Invalid(format!(
                "{class}: `{key}` is supported with {supported} alone, got {value}"
            )));
        }
    }
    Ok(())
}

fn names<const A: usize, const B: usize>(first: [&str; A], then: [&str; B]) -> Vec<String> {
    first.iter().chain(&then).map(|&name| name.to_owned()).collect()
}

pub(super) fn invalid(message: String) -> Error {
    Error::Invalid(format!("unet2d: {message}"))
}
