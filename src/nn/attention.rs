//! Multi-head attention, to itself or to a context, under diffusers' names or torch's.
//!
//! `softmax(q·kᵀ/√head_dim + mask)·v` per head, with a projection before each of q, k and v, and one
//! after. The softmax is in f32 at least. Sources: Vaswani et al. 2017, section 3.2; diffusers
//! `models/attention_processor.py` (`to_q`, `to_k`, `to_v`, `to_out.0`); torch
//! `nn.MultiheadAttention` (`in_proj_weight` of all three, `out_proj`).

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::linear::Linear;
use super::softmax::{softmax, widen};
use crate::{Error, Result};

/// Size of an [`Attention`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Channels of the queries and of the result.
    pub query_dim: usize,
    /// Channels of the context; those of the queries if absent.
    #[serde(default)]
    pub cross_attention_dim: Option<usize>,
    /// Number of heads.
    pub heads: usize,
    /// Channels per head.
    pub dim_head: usize,
    /// Whether `to_q`, `to_k` and `to_v` have a bias; `to_out.0` always has.
    #[serde(default)]
    pub bias: bool,
}

/// The layer.
#[derive(Clone, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    dim_head: usize,
}

impl Attention {
    /// Loads the four projections.
    ///
    /// # Errors
    /// When a size is zero, or a tensor is missing or has another shape.
    pub fn load(config: &AttentionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let AttentionConfig { query_dim, heads, dim_head, .. } = *config;
        if query_dim == 0 || heads == 0 || dim_head == 0 {
            return Err(Error::Invalid(format!(
                "attention: expected query_dim, heads and dim_head above 0, got {query_dim}, {heads} \
                 and {dim_head}"
            )));
        }
        let inner = heads * dim_head;
        let context = config.cross_attention_dim.unwrap_or(query_dim);
        let load = if config.bias { Linear::load } else { Linear::load_no_bias };
        Ok(Self {
            to_q: load(query_dim, inner, vb.pp("to_q"))?,
            to_k: load(context, inner, vb.pp("to_k"))?,
            to_v: load(context, inner, vb.pp("to_v"))?,
            to_out: Linear::load(inner, query_dim, vb.pp("to_out.0"))?,
            heads,
            dim_head,
        })
    }

    /// The layer of its projections `to_q`, `to_k`, `to_v` and `to_out`.
    ///
    /// # Errors
    /// When there are no heads.
    pub(super) fn new(projections: [Linear; 4], heads: usize, dim_head: usize) -> Result<Self> {
        if heads == 0 || dim_head == 0 {
            return Err(Error::Invalid(format!(
                "attention: expected heads and channels per head above 0, got {heads} and {dim_head}"
            )));
        }
        let [to_q, to_k, to_v, to_out] = projections;
        Ok(Self { to_q, to_k, to_v, to_out, heads, dim_head })
    }

    /// Loads torch's `nn.MultiheadAttention`: `in_proj_weight` `[3·dim, dim]` and `in_proj_bias`
    /// `[3·dim]`, queries, keys and values below each other, and `out_proj`.
    ///
    /// # Errors
    /// When `dim` is no multiple of `heads`, or a tensor is missing or has another shape.
    pub fn load_packed(dim: usize, heads: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if dim == 0 || heads == 0 || !dim.is_multiple_of(heads) {
            return Err(Error::Invalid(format!(
                "attention: expected channels a multiple of the heads, got {dim} and {heads}"
            )));
        }
        let init = candle_nn::init::DEFAULT_KAIMING_NORMAL;
        let weight = vb.get_with_hints((3 * dim, dim), "in_proj_weight", init)?;
        let bias = vb.get_with_hints(3 * dim, "in_proj_bias", candle_nn::init::ZERO)?;
        let third = |i: usize| {
            Linear::new(weight.narrow(0, i * dim, dim)?, Some(bias.narrow(0, i * dim, dim)?))
        };
        Ok(Self {
            to_q: third(0)?,
            to_k: third(1)?,
            to_v: third(2)?,
            to_out: Linear::load(dim, dim, vb.pp("out_proj"))?,
            heads,
            dim_head: dim / heads,
        })
    }

    /// `x` `[b, t, query_dim]` looks at `context` `[b, s, cross_attention_dim]`, or at itself
    /// without one; shape of `x`. `mask` is added to the scores and must broadcast to
    /// `[b, heads, t, s]`; a query that sees nothing (a row of −∞) gives NaN.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn forward(
        &self,
        x: &Tensor,
        context: Option<&Tensor>,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let context = context.unwrap_or(x);
        self.attend(x, [context, context], mask)
    }

    /// As [`Attention::forward`], with what is compared and what is taken from the context apart:
    /// `key` and `value` are `[b, s, cross_attention_dim]` both.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn attend(
        &self,
        query: &Tensor,
        [key, value]: [&Tensor; 2],
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        match (query.dims(), key.dims(), value.dims()) {
            ([b, _, _], [bk, s, _], [bv, sv, _]) if b == bk && b == bv && s == sv => {}
            (query, key, value) => {
                let got = format!("{query:?}, {key:?} and {value:?}");
                return Err(Error::shape("attention", "[b, t, c] and twice [b, s, d]", got));
            }
        }
        let (batch, t, _) = query.dims3()?;
        let q = self.split(&self.to_q.forward(query)?)?;
        let k = self.split(&self.to_k.forward(key)?)?;
        let v = self.split(&self.to_v.forward(value)?)?;
        let q = q.affine(1.0 / (self.dim_head as f64).sqrt(), 0.0)?;
        let mut scores = widen(&q.matmul(&k.transpose(2, 3)?)?)?;
        if let Some(mask) = mask {
            let mask = mask.to_dtype(scores.dtype())?;
            let mask = mask
                .broadcast_as(scores.shape())
                .map_err(|_| Error::shape("attention mask", scores.dims(), mask.dims()))?;
            scores = (scores + mask)?;
        }
        let seen = softmax(&scores)?.to_dtype(v.dtype())?.matmul(&v)?;
        let joined = seen.transpose(1, 2)?.reshape((batch, t, self.heads * self.dim_head))?;
        Ok(self.to_out.forward(&joined)?)
    }

    /// `[b, t, heads·dim_head]` to `[b, heads, t, dim_head]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, t, _) = x.dims3()?;
        let x = x.reshape((batch, t, self.heads, self.dim_head))?;
        Ok(x.transpose(1, 2)?.contiguous()?)
    }
}

/// The additive mask `[t, t]` under which a query sees itself and what came before it.
///
/// # Errors
/// When the tensor cannot be made.
pub fn causal_mask(t: usize, device: &Device) -> Result<Tensor> {
    let sees = |i: usize| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 };
    Ok(Tensor::from_vec((0..t * t).map(sees).collect::<Vec<_>>(), (t, t), device)?)
}
