//! The diffusion transformer over patches of a picture, as diffusers writes it.
//!
//! A patch is a token; its place is added as sines and cosines. Each block is told time and class
//! through its normalisations (adaLN-Zero): from `e = time + class` come three numbers per channel for
//! attention and feed-forward each,
//!
//! ```text
//! x ← x + gate·attention(LN(x)·(1 + scale) + shift)      x ← x + gate·FF(LN(x)·(1 + scale) + shift)
//! ```
//!
//! and all of them start at 0, so that a new network is the identity up to its last layer, which is 0
//! too. Every block embeds time and class on its own, as in diffusers' files. Class `num_embeds_ada_norm`
//! is the empty one. Two things are ours: `cross_attention_dim` adds attention to tokens between
//! the two (`norm2`, `attn2`, diffusers' names for it), and without `num_embeds_ada_norm` there are no
//! classes. Sources: Peebles, Xie 2023, section 3; diffusers
//! `models/transformers/dit_transformer_2d.py` (0.42.1).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attention::{Attention, AttentionConfig};
use super::condition::{Condition, Context};
use super::conv2d::{Conv2d, Geometry};
use super::embed::TimestepEmbedding;
use super::linear::Linear;
use super::norm::{LayerNorm, standardise};
use super::transformer2d::{FeedForward, FeedForwardKind};
use super::unet2d_config::{DIFFUSERS_VERSION, check_only, unknown};
use super::unet2d_time::{TimestepMlp, rows};
use crate::{Error, Result};

/// Width of the sinusoidal embedding of the time.
const TIME_WIDTH: usize = 256;
/// Added to the variance where the normalisation has no weight.
const EPS: f64 = 1e-6;
const ONLY: [(&str, &str); 1] = [("norm_type", "\"ada_norm_zero\"")];
const NO_EFFECT: [&str; 3] = ["dropout", "norm_num_groups", "upcast_attention"];

/// diffusers' `DiTTransformer2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DitConfig {
    /// Version of the library that wrote it.
    #[serde(rename = "_diffusers_version")]
    pub diffusers_version: String,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Channels per head.
    pub attention_head_dim: usize,
    /// Channels of the input, those of `concat` included.
    pub in_channels: usize,
    /// Channels of the output; as many as of the input if absent.
    pub out_channels: Option<usize>,
    /// Number of blocks.
    pub num_layers: usize,
    /// Whether `to_q`, `to_k` and `to_v` have a bias.
    pub attention_bias: bool,
    /// Side of the pictures it was made for; the places of others are stretched to it.
    pub sample_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// `gelu-approximate`, `gelu` or `geglu`.
    pub activation_fn: String,
    /// Number of classes, the empty one not counted.
    pub num_embeds_ada_norm: Option<usize>,
    /// Whether `norm2` and `norm3` have weights.
    pub norm_elementwise_affine: bool,
    /// Added to their variances.
    pub norm_eps: f64,
    /// Channels of the tokens; none in diffusers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_attention_dim: Option<usize>,
    /// Every other key.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            diffusers_version: DIFFUSERS_VERSION.to_owned(),
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: "gelu-approximate".to_owned(),
            num_embeds_ada_norm: Some(1000),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
            cross_attention_dim: None,
            rest: BTreeMap::new(),
        }
    }
}

impl DitConfig {
    /// Channels of all heads together.
    pub fn width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Keys that diffusers' class does not have, see [`super::unet2d::UNet2dConfig::unknown_keys`].
    pub fn unknown_keys(&self) -> Vec<String> {
        unknown(&self.rest, &ONLY, &NO_EFFECT)
    }

    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot, or a key has a value that is not supported; the message names the key.
    pub fn validate(&self) -> Result<()> {
        check_only("DiTTransformer2DModel", &self.rest, &ONLY)?;
        self.activation()?;
        let fields = [
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("attention_head_dim", self.attention_head_dim, 16_384),
            ("in_channels", self.in_channels, 16_384),
            ("out_channels", self.out_channels(), 16_384),
            ("num_layers", self.num_layers, 256),
            ("sample_size", self.sample_size, 16_384),
            ("patch_size", self.patch_size, 64),
            ("num_embeds_ada_norm", self.num_embeds_ada_norm.unwrap_or(1), 1 << 24),
            ("cross_attention_dim", self.cross_attention_dim.unwrap_or(1), 1 << 20),
        ];
        for (key, value, most) in fields {
            if !(1..=most).contains(&value) {
                let expected = format!("1 to {most}");
                return Err(Error::range(format!("dit: {key}"), expected, value as f64));
            }
        }
        if !self.width().is_multiple_of(4) || self.width() > 65_536 {
            let what = "dit: num_attention_heads·attention_head_dim";
            return Err(Error::range(what, "a multiple of 4 up to 65536", self.width() as f64));
        }
        if self.sample_size < self.patch_size {
            let expected = format!("at least patch_size {}", self.patch_size);
            return Err(Error::range("dit: sample_size", expected, self.sample_size as f64));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(Error::range("dit: norm_eps", "a positive number", self.norm_eps));
        }
        Ok(())
    }

    fn activation(&self) -> Result<FeedForwardKind> {
        match self.activation_fn.as_str() {
            "gelu-approximate" => Ok(FeedForwardKind::GeluTanh),
            "gelu" => Ok(FeedForwardKind::Gelu),
            "geglu" => Ok(FeedForwardKind::Gated),
            other => Err(Error::Invalid(format!(
                "dit: activation_fn: expected gelu-approximate, gelu or geglu, got {other}"
            ))),
        }
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct Dit {
    config: DitConfig,
    patches: Conv2d,
    blocks: Vec<Block>,
    modulation_out: Linear,
    out: Linear,
}

impl Dit {
    /// Loads a network from a builder that stands at its root.
    ///
    /// # Errors
    /// When the configuration is impossible or not supported, or a tensor is missing or has another
    /// shape.
    pub fn load(config: &DitConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let (width, patch) = (config.width(), config.patch_size);
        let geometry = Geometry { stride: patch, padding: 0, dilation: 1 };
        let sizes = [config.in_channels, width, patch];
        let pixels = patch * patch * config.out_channels();
        let block = |i: usize| Block::load(config, vb.pp("transformer_blocks").pp(i));
        Ok(Self {
            config: config.clone(),
            patches: Conv2d::load(sizes, geometry, true, vb.pp("pos_embed.proj"))?,
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            modulation_out: zero_linear(width, 2 * width, vb.pp("proj_out_1"))?,
            out: zero_linear(width, pixels, vb.pp("proj_out_2"))?,
        })
    }

    /// What the network was built from.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// The prediction `[b, out_channels, h, w]` for `x` `[b, c, h, w]` at the network times `t` `[b]`
    /// under `condition`; both sides are multiples of the patch, and the channels of `x` and of its
    /// `concat` are `in_channels` together.
    ///
    /// # Errors
    /// When a shape is another, a class is unknown, or something of the condition is missing or has no
    /// use in this network.
    pub fn forward(&self, x: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let x = condition.joined(x, self.config.in_channels)?;
        let (batch, _, height, width) = x.dims4()?;
        let patch = self.config.patch_size;
        if t.len() != batch {
            return Err(Error::shape("times of the network", format!("[{batch}]"), [t.len()]));
        }
        if height.min(width) == 0 || height % patch != 0 || width % patch != 0 {
            let expected = format!("sides that are multiples of the patch {patch}");
            return Err(Error::shape("picture", expected, [height, width]));
        }
        let context = condition.context(batch, self.config.cross_attention_dim)?;
        let classes = condition.classes(batch, self.config.num_embeds_ada_norm.is_some())?;
        let sinusoidal =
            TimestepEmbedding { flip_sin_to_cos: true, ..TimestepEmbedding::new(TIME_WIDTH) };
        let time = sinusoidal.embed(t, x.dtype(), x.device())?;

        let h = self.patches.forward_last(&x.permute((0, 2, 3, 1))?)?;
        let [lines, columns] = [height / patch, width / patch];
        let inner = self.config.width();
        let places = self.places([lines, columns], x.dtype(), x.device())?;
        let mut h = h.reshape((batch, lines * columns, inner))?.broadcast_add(&places)?;
        let mut first = None;
        for block in &self.blocks {
            let told = block.told(&time, classes)?;
            h = block.forward(&h, &told, context.as_ref())?;
            first.get_or_insert(told);
        }
        if let Some(told) = first {
            let both = self.modulation_out.forward(&told)?.unsqueeze(1)?;
            let (shift, scale) = (both.narrow(2, 0, inner)?, both.narrow(2, inner, inner)?);
            h = modulated(&h, EPS, &shift, &scale)?;
        }
        let channels = self.config.out_channels();
        let h =
            self.out.forward(&h)?.reshape(vec![batch, lines, columns, patch, patch, channels])?;
        let h = h.permute(vec![0, 5, 1, 3, 2, 4])?.contiguous()?;
        Ok(h.reshape((batch, channels, height, width))?)
    }

    /// The sines and cosines of every place, `[lines·columns, width]`: the first half of the channels
    /// holds the column, the second one the line.
    fn places(
        &self,
        [lines, columns]: [usize; 2],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (width, base) = (self.config.width(), self.config.sample_size / self.config.patch_size);
        let quarter = width / 4;
        let mut out = Vec::with_capacity(lines * columns * width);
        for (line, column) in (0..lines).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            for (at, count) in [(column, columns), (line, lines)] {
                // Pictures of another size are stretched to the one it was made for.
                let at = at as f64 * base as f64 / count as f64;
                let angle = |k: usize| at / 1e4f64.powf(k as f64 / quarter as f64);
                out.extend((0..quarter).map(|k| angle(k).sin()));
                out.extend((0..quarter).map(|k| angle(k).cos()));
            }
        }
        let out = Tensor::from_vec(out, (lines * columns, width), &Device::Cpu)?;
        Ok(out.to_dtype(dtype)?.to_device(device)?)
    }
}

/// One block, with its own embedding of time and class.
#[derive(Clone, Debug)]
struct Block {
    time: TimestepMlp,
    /// `[classes + 1, width]`.
    classes: Option<Tensor>,
    modulation: Linear,
    attn1: Attention,
    tokens: Option<(Norm, Attention)>,
    norm3: Norm,
    ff: FeedForward,
}

impl Block {
    fn load(config: &DitConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width();
        let attention = |tokens: Option<usize>, name: &str| {
            let config = AttentionConfig {
                query_dim: width,
                cross_attention_dim: tokens,
                heads: config.num_attention_heads,
                dim_head: config.attention_head_dim,
                bias: config.attention_bias,
            };
            Attention::load(&config, vb.pp(name))
        };
        let embedder = vb.pp("norm1.emb");
        let table = |count: usize| {
            let init = Init::Randn { mean: 0.0, stdev: 0.02 };
            let vb = embedder.pp("class_embedder.embedding_table");
            vb.get_with_hints((count + 1, width), "weight", init)
        };
        let tokens = match config.cross_attention_dim {
            None => None,
            dim => Some((Norm::load(config, vb.pp("norm2"))?, attention(dim, "attn2")?)),
        };
        Ok(Self {
            time: TimestepMlp::load(TIME_WIDTH, width, embedder.pp("timestep_embedder"))?,
            classes: config.num_embeds_ada_norm.map(table).transpose()?,
            modulation: zero_linear(width, 6 * width, vb.pp("norm1.linear"))?,
            attn1: attention(None, "attn1")?,
            tokens,
            norm3: Norm::load(config, vb.pp("norm3"))?,
            ff: FeedForward::load(width, config.activation()?, vb.pp("ff"))?,
        })
    }

    /// SiLU of time and class, `[b, width]`.
    fn told(&self, time: &Tensor, classes: Option<&[u32]>) -> Result<Tensor> {
        let time = self.time.forward(time)?;
        let told = match (&self.classes, classes) {
            (Some(table), Some(classes)) => (time + rows(table, classes)?)?,
            _ => time,
        };
        Ok(told.silu()?)
    }

    fn forward(&self, x: &Tensor, told: &Tensor, context: Option<&Context>) -> Result<Tensor> {
        let width = x.dim(2)?;
        let all = self.modulation.forward(told)?.unsqueeze(1)?;
        let part = |i: usize| all.narrow(2, i * width, width);
        let h = modulated(x, EPS, &part(0)?, &part(1)?)?;
        let h = self.attn1.forward(&h, None, None)?;
        let mut x = (h.broadcast_mul(&part(2)?)? + x)?;
        if let (Some((norm, attention)), Some(context)) = (&self.tokens, context) {
            let Context { tokens, bias } = context;
            x = (attention.forward(&norm.forward(&x)?, Some(tokens), bias.as_ref())? + x)?;
        }
        let h = shifted(&self.norm3.forward(&x)?, &part(3)?, &part(4)?)?;
        Ok((self.ff.forward(&h)?.broadcast_mul(&part(5)?)? + x)?)
    }
}

/// Layer normalisation with weights or without.
#[derive(Clone, Debug)]
enum Norm {
    Affine(LayerNorm),
    Plain(f64),
}

impl Norm {
    fn load(config: &DitConfig, vb: VarBuilder<'_>) -> TensorResult<Self> {
        Ok(match config.norm_elementwise_affine {
            true => Self::Affine(LayerNorm::load(config.width(), config.norm_eps, vb)?),
            false => Self::Plain(config.norm_eps),
        })
    }

    fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        match self {
            Self::Affine(norm) => norm.forward(x),
            Self::Plain(eps) => standardise(x, *eps),
        }
    }
}

/// `LN(x)·(1 + scale) + shift` without weights.
fn modulated(x: &Tensor, eps: f64, shift: &Tensor, scale: &Tensor) -> TensorResult<Tensor> {
    shifted(&standardise(x, eps)?, shift, scale)
}

fn shifted(x: &Tensor, shift: &Tensor, scale: &Tensor) -> TensorResult<Tensor> {
    x.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

/// A linear layer that starts at 0.
fn zero_linear(input: usize, out: usize, vb: VarBuilder<'_>) -> TensorResult<Linear> {
    let weight = vb.get_with_hints((out, input), "weight", candle_nn::init::ZERO)?;
    Linear::new(weight, Some(vb.get_with_hints(out, "bias", candle_nn::init::ZERO)?))
}
