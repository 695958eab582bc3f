//! What a UNet over pictures is built of, after all defaults and lists of its configuration are resolved.

use super::unet2d_config::{
    CONDITIONAL_ONLY, ConditionalUNet2dConfig, PLAIN_ONLY, PerLevel, PlainUNet2dConfig,
    UNet2dConfig, check_only, invalid,
};
use crate::Result;

/// Most channels of a level: far above any real network, and no product of a few overflows.
const MAX_CHANNELS: usize = 16_384;
const MAX_DEPTH: usize = 64;

/// The parts of the network.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Channels in and out.
    pub(super) channels: [usize; 2],
    /// Taps of the first and the last convolution.
    pub(super) kernels: [usize; 2],
    pub(super) center_input: bool,
    pub(super) time: TimePlan,
    pub(super) norm: NormPlan,
    pub(super) downsample_padding: usize,
    /// Top first.
    pub(super) down: Vec<LevelPlan>,
    pub(super) mid: Option<MidPlan>,
    /// Deepest first.
    pub(super) up: Vec<LevelPlan>,
    /// Channels of the tokens.
    pub(super) context: Option<usize>,
}

/// How the time, and the class, become one vector.
#[derive(Clone, Debug)]
pub(super) struct TimePlan {
    /// Width of the sinusoidal embedding.
    pub(super) input: usize,
    /// Width of the embedded time.
    pub(super) width: usize,
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f64,
    pub(super) post_act: Option<TimeActivation>,
    pub(super) final_act: Option<TimeActivation>,
    pub(super) class: ClassPlan,
    /// Class and time behind each other instead of added.
    pub(super) concat_class: bool,
}

/// What a class becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassPlan {
    None,
    /// A row of a table of so many.
    Table(usize),
    /// Embedded as a time.
    Timestep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeActivation {
    Silu,
    Mish,
    Gelu,
}

/// What all normalisations of residual blocks share.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormPlan {
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) scale_shift: bool,
}

/// One level.
#[derive(Clone, Debug)]
pub(super) struct LevelPlan {
    pub(super) channels: usize,
    /// What follows each residual block.
    pub(super) attention: Vec<Option<AttentionPlan>>,
}

/// The middle: a residual block, then for each entry attention (or none) and another one.
#[derive(Clone, Debug)]
pub(super) struct MidPlan {
    pub(super) scale: f64,
    pub(super) attention: Vec<Option<AttentionPlan>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionPlan {
    /// Pixels look at each other.
    Pixels { heads: usize, dim_head: usize, groups: Option<usize> },
    /// A transformer with tokens.
    Tokens { heads: usize, dim_head: usize, context: usize, depth: usize, linear: bool, only: bool },
}

impl TimePlan {
    /// Channels of what the residual blocks are told.
    pub(super) fn told(&self) -> usize {
        if self.concat_class { 2 * self.width } else { self.width }
    }
}

/// What stands in a block's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Residual,
    Pixels,
    Tokens,
}

impl UNet2dConfig {
    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot, or a key has a value that is not supported; the message names the key.
    pub fn validate(&self) -> Result<()> {
        self.plan().map(drop)
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        match self {
            Self::Conditional(config) => conditional(config),
            Self::Plain(config) => plain(config),
        }
    }
}

fn conditional(config: &ConditionalUNet2dConfig) -> Result<Plan> {
    check_only("UNet2DConditionModel", &config.rest, &CONDITIONAL_ONLY)?;
    let channels = &config.block_out_channels;
    let count = check_levels(channels, &config.down_block_types, &config.up_block_types)?;
    let layers = config.layers_per_block.spread(count, "layers_per_block")?;
    check_each("layers_per_block", &layers, MAX_DEPTH)?;
    let heads = config.attention_head_dim.spread(count, "attention_head_dim")?;
    let contexts = config.cross_attention_dim.spread(count, "cross_attention_dim")?;
    let only = config.only_cross_attention.spread(count, "only_cross_attention")?;
    let depth_key = "transformer_layers_per_block";
    let depths = config.transformer_layers_per_block.per_level().spread(count, depth_key)?;
    check_each("attention_head_dim", &heads, MAX_CHANNELS)?;
    check_each("cross_attention_dim", &contexts, 1 << 20)?;
    if contexts.iter().any(|&context| context != contexts[0]) {
        return Err(invalid(format!(
            "cross_attention_dim: expected one for all levels, got {contexts:?}"
        )));
    }
    let up_depths = match &config.reverse_transformer_layers_per_block {
        Some(depths) => {
            PerLevel::Each(depths.clone()).spread(count, "reverse_transformer_layers_per_block")?
        }
        None if depths.iter().any(|depth| matches!(depth, PerLevel::Each(_))) => {
            return Err(invalid(format!(
                "{depth_key}: expected reverse_transformer_layers_per_block beside a list for each block"
            )));
        }
        None => depths.iter().rev().cloned().collect(),
    };

    let attention = |kind: Kind, level: usize, dim_head: usize, depth: usize, only: bool| match kind
    {
        Kind::Residual => None,
        // Here, and only here, `attention_head_dim` is what it says.
        Kind::Pixels => Some(pixels(channels[level], dim_head, Some(config.norm_num_groups))),
        Kind::Tokens => Some(AttentionPlan::Tokens {
            heads: heads[level],
            dim_head: channels[level] / heads[level],
            context: contexts[level],
            depth,
            linear: config.use_linear_projection,
            only,
        }),
    };
    let level =
        |kind: &str, way: &str, level: usize, dim_head: usize, depth: &PerLevel<usize>, layers| {
            let kind = block_kind(kind, way, true)?;
            let depths = depth.spread(layers, depth_key)?;
            check_each(depth_key, &depths, MAX_DEPTH)?;
            let attention = depths
                .into_iter()
                .map(|depth| attention(kind, level, dim_head, depth, only[level]))
                .collect();
            Ok(LevelPlan { channels: channels[level], attention })
        };
    let last = count - 1;
    let down = (0..count)
        .map(|i| level(&config.down_block_types[i], "Down", i, heads[i], &depths[i], layers[i]))
        .collect::<Result<_>>()?;
    // diffusers reverses the number of heads on the way up, but not the channels per head.
    let up = (0..count)
        .map(|i| {
            let (name, at) = (&config.up_block_types[i], last - i);
            level(name, "Up", at, heads[i], &up_depths[i], layers[at] + 1)
        })
        .collect::<Result<_>>()?;
    let mid = match config.mid_block_type.as_deref() {
        None => None,
        Some("UNetMidBlock2DCrossAttn") => {
            let depth = match &depths[last] {
                PerLevel::Same(depth) => *depth,
                PerLevel::Each(depths) => depths.first().copied().unwrap_or(0),
            };
            check_each(depth_key, &[depth], MAX_DEPTH)?;
            let attention = vec![attention(Kind::Tokens, last, 0, depth, false)];
            Some(MidPlan { scale: config.mid_block_scale_factor, attention })
        }
        Some("UNetMidBlock2D") => {
            Some(MidPlan { scale: config.mid_block_scale_factor, attention: vec![] })
        }
        Some(other) => {
            return Err(invalid(format!(
                "mid_block_type: expected UNetMidBlock2DCrossAttn, UNetMidBlock2D or null, got {other}"
            )));
        }
    };
    check_activation("act_fn", &config.act_fn)?;
    let plan = Plan {
        channels: [config.in_channels, config.out_channels],
        kernels: [config.conv_in_kernel, config.conv_out_kernel],
        center_input: config.center_input_sample,
        time: TimePlan {
            input: channels[0],
            width: config.time_embedding_dim.unwrap_or(4 * channels[0]),
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift as f64,
            post_act: time_activation("timestep_post_act", config.timestep_post_act.as_deref())?,
            final_act: time_activation(
                "time_embedding_act_fn",
                config.time_embedding_act_fn.as_deref(),
            )?,
            class: class(config.class_embed_type.as_deref(), config.num_class_embeds)?,
            concat_class: config.class_embeddings_concat,
        },
        norm: norm(config.norm_num_groups, config.norm_eps, &config.resnet_time_scale_shift)?,
        downsample_padding: config.downsample_padding,
        down,
        mid,
        up,
        context: UNet2dConfig::Conditional(Box::new(config.clone())).cross_attention_dim(),
    };
    plan.check()?;
    Ok(plan)
}

fn plain(config: &PlainUNet2dConfig) -> Result<Plan> {
    check_only("UNet2DModel", &config.rest, &PLAIN_ONLY)?;
    let channels = &config.block_out_channels;
    let count = check_levels(channels, &config.down_block_types, &config.up_block_types)?;
    let norm = norm(config.norm_num_groups, config.norm_eps, &config.resnet_time_scale_shift)?;
    let attention = |level: usize, groups| {
        let dim_head = config.attention_head_dim.unwrap_or(channels[level]);
        Some(pixels(channels[level], dim_head, groups))
    };
    let level = |kind: &str, way: &str, level: usize, layers: usize| {
        let attention = match block_kind(kind, way, false)? {
            Kind::Residual => None,
            _ => attention(level, Some(norm.groups)),
        };
        Ok(LevelPlan { channels: channels[level], attention: vec![attention; layers] })
    };
    check_each("layers_per_block", &[config.layers_per_block], MAX_DEPTH)?;
    let down = (0..count)
        .map(|i| level(&config.down_block_types[i], "Down", i, config.layers_per_block))
        .collect::<Result<_>>()?;
    let up = (0..count)
        .map(|i| level(&config.up_block_types[i], "Up", count - 1 - i, config.layers_per_block + 1))
        .collect::<Result<_>>()?;
    let mid = match config.mid_block_type.as_deref() {
        None => None,
        Some("UNetMidBlock2D") => {
            let groups = match (config.attn_norm_num_groups, norm.scale_shift) {
                (Some(groups), _) => Some(groups),
                (None, true) => None,
                (None, false) => Some(norm.groups),
            };
            let attention = match config.add_attention {
                true => attention(count - 1, groups),
                false => None,
            };
            Some(MidPlan { scale: config.mid_block_scale_factor, attention: vec![attention] })
        }
        Some(other) => {
            return Err(invalid(format!(
                "mid_block_type: expected UNetMidBlock2D or null, got {other}"
            )));
        }
    };
    check_activation("act_fn", &config.act_fn)?;
    let plan = Plan {
        channels: [config.in_channels, config.out_channels],
        kernels: [3, 3],
        center_input: config.center_input_sample,
        time: TimePlan {
            input: channels[0],
            width: config.time_embedding_dim.unwrap_or(4 * channels[0]),
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift as f64,
            post_act: None,
            final_act: None,
            class: class(config.class_embed_type.as_deref(), config.num_class_embeds)?,
            concat_class: false,
        },
        norm,
        downsample_padding: config.downsample_padding,
        down,
        mid,
        up,
        context: None,
    };
    plan.check()?;
    Ok(plan)
}

impl Plan {
    /// Checks the numbers that both classes have.
    fn check(&self) -> Result<()> {
        check_each("in_channels and out_channels", &self.channels, MAX_CHANNELS)?;
        check_each("time_embedding_dim", &[self.time.width], 1 << 20)?;
        let [first, last] = self.kernels;
        if first % 2 == 0 || last % 2 == 0 || first.max(last) > 31 {
            return Err(invalid(format!(
                "conv_in_kernel and conv_out_kernel: expected odd numbers up to 31, got {first} and {last}"
            )));
        }
        if self.downsample_padding > 1 {
            return Err(invalid(format!(
                "downsample_padding: expected 0 or 1, got {}",
                self.downsample_padding
            )));
        }
        if let Some(MidPlan { scale, .. }) = self.mid
            && !(scale.is_finite() && scale != 0.0)
        {
            return Err(invalid(format!(
                "mid_block_scale_factor: expected a number but 0, got {scale}"
            )));
        }
        if let ClassPlan::Table(count) = self.time.class {
            check_each("num_class_embeds", &[count], 1 << 24)?;
        }
        Ok(())
    }
}

/// Checks that there are as many kinds as levels; their number.
fn check_levels(channels: &[usize], down: &[String], up: &[String]) -> Result<usize> {
    let count = channels.len();
    if !(1..=16).contains(&count) || down.len() != count || up.len() != count {
        return Err(invalid(format!(
            "expected 1 to 16 levels, as many in block_out_channels, down_block_types and \
             up_block_types, got {count}, {} and {}",
            down.len(),
            up.len()
        )));
    }
    check_each("block_out_channels", channels, MAX_CHANNELS)?;
    Ok(count)
}

fn check_each(key: &str, values: &[usize], most: usize) -> Result<()> {
    match values.iter().all(|value| (1..=most).contains(value)) && !values.is_empty() {
        true => Ok(()),
        false => Err(invalid(format!("{key}: expected 1 to {most}, got {values:?}"))),
    }
}

fn block_kind(name: &str, way: &str, tokens: bool) -> Result<Kind> {
    // As diffusers, which still reads names of an older kind.
    let bare = name.strip_prefix("UNetRes").unwrap_or(name);
    let known = [("", Kind::Residual), ("Attn", Kind::Pixels), ("CrossAttn", Kind::Tokens)];
    let known = &known[..if tokens { 3 } else { 2 }];
    let found = known.iter().find(|(kind, _)| bare == format!("{kind}{way}Block2D"));
    found.map(|&(_, kind)| kind).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(kind, _)| format!("{kind}{way}Block2D")).collect();
        let key = format!("{}_block_types", way.to_lowercase());
        invalid(format!("{key}: expected one of {}, got {name}", names.join(", ")))
    })
}

fn pixels(channels: usize, dim_head: usize, groups: Option<usize>) -> AttentionPlan {
    let heads = channels.checked_div(dim_head).unwrap_or(0);
    AttentionPlan::Pixels { heads, dim_head, groups }
}

fn norm(groups: usize, eps: f64, time: &str) -> Result<NormPlan> {
    let scale_shift = match time {
        "default" => false,
        "scale_shift" => true,
        other => {
            return Err(invalid(format!(
                "resnet_time_scale_shift: expected default or scale_shift, got {other}"
            )));
        }
    };
    if !(eps.is_finite() && eps > 0.0) {
        return Err(invalid(format!("norm_eps: expected a positive number, got {eps}")));
    }
    Ok(NormPlan { groups, eps, scale_shift })
}

fn class(kind: Option<&str>, count: Option<usize>) -> Result<ClassPlan> {
    match (kind, count) {
        (None, None) => Ok(ClassPlan::None),
        (None, Some(count)) => Ok(ClassPlan::Table(count)),
        (Some("timestep"), _) => Ok(ClassPlan::Timestep),
        (Some(other), _) => {
            Err(invalid(format!("class_embed_type: expected null or timestep, got {other}")))
        }
    }
}

fn check_activation(key: &str, name: &str) -> Result<()> {
    match name {
        "silu" | "swish" => Ok(()),
        other => Err(invalid(format!("{key}: expected silu, got {other}"))),
    }
}

fn time_activation(key: &str, name: Option<&str>) -> Result<Option<TimeActivation>> {
    Ok(Some(match name {
        None => return Ok(None),
        Some("silu" | "swish") => TimeActivation::Silu,
        Some("mish") => TimeActivation::Mish,
        Some("gelu") => TimeActivation::Gelu,
        Some(other) => {
            return Err(invalid(format!("{key}: expected silu, mish, gelu or null, got {other}")));
        }
    }))
}
