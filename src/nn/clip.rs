//! CLIP's text encoder: token ids to one vector a token, each seeing what came before it.
//!
//! ```text
//! x = token_embedding(ids) + position_embedding
//! x = x + attention(norm1(x), causal);  x = x + fc2(act(fc1(norm2(x))))      for each layer
//! last_hidden_state = final_layer_norm(x);  pooled = its row at the end-of-text token
//! ```
//!
//! Names and configuration are those of transformers' `CLIPTextModel` up to version 4, with
//! `text_model.` before every name; version 5 writes them without, see [`with_prefix`]. Stable Diffusion
//! 1 has CLIP-L and `quick_gelu`, 2 has OpenCLIP-H less its last layer and `gelu`. Sources: Radford
//! et al. 2021; transformers `models/clip/modeling_clip.py`.

use candle_core::{Device, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::activation::{gelu, gelu_tanh, quick_gelu};
use super::attention::{Attention, causal_mask};
use super::linear::Linear;
use super::norm::LayerNorm;
use crate::{Error, Result};

/// The most of anything that a size counts: no real encoder comes near.
const MOST: usize = 1 << 20;

/// The nonlinearity of the two-layer networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipActivation {
    /// `x·sigmoid(1.702·x)`.
    #[default]
    QuickGelu,
    /// The exact GELU.
    Gelu,
    /// The GELU by a hyperbolic tangent.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
}

/// Size of a [`ClipTextEncoder`]: what of transformers' config.json changes the result. Defaults are
/// those of the class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width inside the two-layer networks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Nonlinearity.
    pub hidden_act: ClipActivation,
    /// Beside the variance of a normalisation.
    pub layer_norm_eps: f64,
    /// The token whose row is `pooled`; 2, in old files, stands for the largest id of the sequence.
    pub eos_token_id: u32,
    /// First token of a sequence; of no use to the encoder.
    pub bos_token_id: u32,
    /// What fills a sequence; of no use to the encoder.
    pub pad_token_id: u32,
    /// Whether padding is hidden from the queries; only `false` is implemented.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_attention_mask: bool,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: ClipActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            bos_token_id: 49406,
            pad_token_id: 1,
            use_attention_mask: false,
        }
    }
}

impl ClipTextConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Invalid`] for the first that no encoder has.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if !(1..=MOST).contains(&value) {
                let what = format!("text encoder: {name}");
                return Err(Error::range(what, format!("1 to {MOST}"), value as f64));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::Invalid(format!(
                "text encoder: expected hidden_size a multiple of num_attention_heads, got {} and {}",
                self.hidden_size, self.num_attention_heads
            )));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            let expected = "a small number above 0";
            return Err(Error::range(
                "text encoder: layer_norm_eps",
                expected,
                self.layer_norm_eps,
            ));
        }
        if self.use_attention_mask {
            return Err(Error::Invalid(
                "text encoder: expected use_attention_mask false, got true; an encoder that hides its \
                 padding is not supported"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// What the encoder says of a text.
#[derive(Clone, Debug)]
pub struct ClipText {
    /// `[b, t, hidden_size]`, normalised: what Stable Diffusion looks at.
    pub last_hidden_state: Tensor,
    /// The states before the first layer and after each, not normalised: `num_hidden_layers + 1`.
    pub hidden_states: Vec<Tensor>,
    /// `[b, hidden_size]`: the row of `last_hidden_state` at the end of the text.
    pub pooled: Tensor,
}

/// The encoder.
#[derive(Clone, Debug)]
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
}

#[derive(Clone, Debug)]
struct Layer {
    attention: Attention,
    norms: [LayerNorm; 2],
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(config: &ClipTextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        let attention = vb.pp("self_attn");
        let load = |name: &str| Linear::load(width, width, attention.pp(name));
        let projections = [load("q_proj")?, load("k_proj")?, load("v_proj")?, load("out_proj")?];
        let norm = |name: &str| LayerNorm::load(width, config.layer_norm_eps, vb.pp(name));
        Ok(Self {
            attention: Attention::new(projections, heads, width / heads)?,
            norms: [norm("layer_norm1")?, norm("layer_norm2")?],
            fc1: Linear::load(width, config.intermediate_size, vb.pp("mlp.fc1"))?,
            fc2: Linear::load(config.intermediate_size, width, vb.pp("mlp.fc2"))?,
        })
    }

    fn forward(&self, x: &Tensor, act: ClipActivation, mask: &Tensor) -> Result<Tensor> {
        let seen = self.attention.forward(&self.norms[0].forward(x)?, None, Some(mask))?;
        let x = (x + seen)?;
        let inner = self.fc1.forward(&self.norms[1].forward(&x)?)?;
        let inner = match act {
            ClipActivation::QuickGelu => quick_gelu(&inner)?,
            ClipActivation::Gelu => gelu(&inner)?,
            ClipActivation::GeluNew => gelu_tanh(&inner)?,
        };
        Ok((x + self.fc2.forward(&inner)?)?)
    }
}

impl ClipTextEncoder {
    /// Loads `text_model.…`, or creates it.
    ///
    /// # Errors
    /// When a number of the configuration is wrong, or a tensor is missing or has another shape.
    pub fn load(config: &ClipTextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let vb = vb.pp("text_model");
        // transformers' own initial deviation.
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        let table = |rows: usize, name: &str| {
            vb.pp("embeddings").pp(name).get_with_hints((rows, config.hidden_size), "weight", init)
        };
        let layer = |i: usize| Layer::load(config, vb.pp("encoder.layers").pp(i));
        Ok(Self {
            token_embedding: table(config.vocab_size, "token_embedding")?,
            position_embedding: table(config.max_position_embeddings, "position_embedding")?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(
                config.hidden_size,
                config.layer_norm_eps,
                vb.pp("final_layer_norm"),
            )?,
            config: config.clone(),
        })
    }

    /// What it was made from.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The ids of several texts as the tensor `[b, t]` that [`Self::forward`] takes.
    ///
    /// # Errors
    /// When the texts differ in length, are longer than the encoder's, or an id is not in its
    /// vocabulary.
    pub fn ids(&self, texts: &[Vec<u32>], device: &Device) -> Result<Tensor> {
        let most = self.config.max_position_embeddings;
        let length = texts.first().map_or(0, Vec::len);
        if let Some(other) =
            texts.iter().find(|text| text.len() != length || !(1..=most).contains(&text.len()))
        {
            let expected = format!("texts of one length from 1 to {most}");
            return Err(Error::shape("text encoder: ids", expected, [other.len()]));
        }
        if let Some(id) = texts.iter().flatten().find(|id| **id as usize >= self.config.vocab_size)
        {
            let expected =
                format!("0 up to the {} tokens of its vocabulary", self.config.vocab_size);
            return Err(Error::range("text encoder: token id", expected, f64::from(*id)));
        }
        Ok(Tensor::from_vec(texts.concat(), (texts.len(), length), device)?)
    }

    /// Encodes `ids` `[b, t]` u32, of which every text is one that [`Self::ids`] takes.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(&self, ids: &Tensor) -> Result<ClipText> {
        let (batch, length) = match *ids.dims() {
            [b, t] if b > 0 && (1..=self.config.max_position_embeddings).contains(&t) => (b, t),
            _ => {
                let expected = format!("[b, 1 to {}]", self.config.max_position_embeddings);
                return Err(Error::shape("text encoder: ids", expected, ids.dims()));
            }
        };
        let width = self.config.hidden_size;
        let tokens = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        let positions = self.position_embedding.narrow(0, 0, length)?;
        let mut x = tokens.reshape((batch, length, width))?.broadcast_add(&positions)?;
        let mask = causal_mask(length, ids.device())?;
        let mut hidden_states = vec![x.clone()];
        for layer in &self.layers {
            x = layer.forward(&x, self.config.hidden_act, &mask)?;
            hidden_states.push(x.clone());
        }
        let last_hidden_state = self.final_layer_norm.forward(&x)?;
        let ends: Vec<u32> = ids.to_vec2::<u32>()?.iter().map(|ids| self.end(ids)).collect();
        let rows: Vec<u32> =
            ends.iter().enumerate().map(|(i, end)| (i * length) as u32 + end).collect();
        let rows = Tensor::from_vec(rows, batch, ids.device())?;
        let pooled = last_hidden_state.reshape(((), width))?.index_select(&rows, 0)?;
        Ok(ClipText { last_hidden_state, hidden_states, pooled })
    }

    /// The states `skip` layers before the last, normalised as the last are: diffusers' `clip_skip`; 1 is
    /// the last layer but one.
    ///
    /// # Errors
    /// [`Error::Range`] when there are not so many layers.
    pub fn skipped(&self, text: &ClipText, skip: usize) -> Result<Tensor> {
        if skip == 0 {
            return Ok(text.last_hidden_state.clone());
        }
        match text.hidden_states.len().checked_sub(skip + 1).and_then(|i| text.hidden_states.get(i))
        {
            Some(states) => Ok(self.final_layer_norm.forward(states)?),
            None => {
                let expected = format!("0 to the {} layers of the text encoder", self.layers.len());
                Err(Error::range("clip_skip", expected, skip as f64))
            }
        }
    }

    /// Where a text ends: the first end-of-text token; in old files the first of the largest ids.
    fn end(&self, ids: &[u32]) -> u32 {
        let end = match self.config.eos_token_id {
            2 => ids.iter().max().copied().unwrap_or(0),
            end => end,
        };
        ids.iter().position(|id| *id == end).unwrap_or(0) as u32
    }
}

/// The name of a tensor of any version of transformers as this encoder has it; none for what holds no
/// weights.
pub fn with_prefix(name: &str) -> Option<String> {
    let bare = name.strip_prefix("text_model.").unwrap_or(name);
    (bare != "embeddings.position_ids").then(|| format!("text_model.{bare}"))
}
