//! Multi-head attention, to itself or to a context, under diffusers' names or torch's.
//!
//! `softmax(q·kᵀ/√head_dim + mask)·v` per head, with a projection before each of q, k and v, and one
//! after. The softmax is in f32 at least. Sources: Vaswani et al. 2017, section 3.2; diffusers
//! `models/attention_processor.py` (`to_q`, `to_k`, `to_v`, `to_out.0`); torch
//! `nn.MultiheadAttention` (`in_proj_weight` of all three, `out_proj`).

use candle_core::{Device, Result as TensorResult, Tensor};
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
        let shape = (batch, self.heads, t, k.dim(2)?);
        let mask = mask.map(|mask| {
            let wrong = |_| Error::shape("attention mask", shape, mask.dims());
            mask.broadcast_as(shape).map_err(wrong)
        });
        let learns = q.track_op() || k.track_op() || v.track_op();
        let rows = if learns { t } else { block_rows(batch * self.heads * k.dim(2)?) };
        let seen = in_blocks(&q, [&k, &v], mask.transpose()?.as_ref(), rows)?;
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

/// So many scores are held at a time where no gradient is wanted, if that is [`LEAST_ROWS`] queries.
const SCORES: usize = 1 << 22;
/// Blocks are at least half as long as this. Up to 64 rows the order of the additions would depend on
/// their number (see `product.rs`); so it does not, and the bits are those of one block.
const LEAST_ROWS: usize = 256;

/// Queries in a block, where one of them has `scores` scores with all heads of the batch.
fn block_rows(scores: usize) -> usize {
    (SCORES / scores.max(1)).max(LEAST_ROWS)
}

/// `softmax(q·kᵀ + mask)·v` of all heads, `[b, heads, t, dim_head]`, for at most `rows` queries at a
/// time, so that a large picture does not take the square of its pixels in memory.
fn in_blocks(
    q: &Tensor,
    [k, v]: [&Tensor; 2],
    mask: Option<&Tensor>,
    rows: usize,
) -> TensorResult<Tensor> {
    let t = q.dim(2)?;
    let count = t.div_ceil(rows.max(1)).max(1);
    let keys = k.transpose(2, 3)?;
    let block = |from: usize, rows: usize| {
        let mut scores = widen(&q.narrow(2, from, rows)?.matmul(&keys)?)?;
        if let Some(mask) = mask {
            scores = (&scores + mask.narrow(2, from, rows)?.to_dtype(scores.dtype())?)?;
        }
        softmax(&scores)?.to_dtype(v.dtype())?.matmul(v)
    };
    if count == 1 {
        return block(0, t);
    }
    let parts = (0..count).map(|i| block(i * t / count, (i + 1) * t / count - i * t / count));
    Tensor::cat(&parts.collect::<TensorResult<Vec<_>>>()?, 2)
}

/// The additive mask `[t, t]` under which a query sees itself and what came before it.
///
/// # Errors
/// When the tensor cannot be made.
pub fn causal_mask(t: usize, device: &Device) -> Result<Tensor> {
    let sees = |i: usize| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 };
    Ok(Tensor::from_vec((0..t * t).map(sees).collect::<Vec<_>>(), (t, t), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Noise;

    fn normal(sample: u64, shape: (usize, usize, usize, usize)) -> Tensor {
        let (a, b, c, d) = shape;
        let z = Noise::new(1).normal(sample, 0, a * b * c * d);
        Tensor::from_vec(z, shape, &Device::Cpu).unwrap()
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        x.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn blocks_have_the_bits_of_the_whole() {
        for (t, s, head, rows) in
            [(1030, 1030, 8, 256), (700, 700, 40, 256), (513, 77, 16, 256), (900, 1300, 80, 300)]
        {
            let (q, k) = (normal(0, (2, 2, t, head)), normal(1, (2, 2, s, head)));
            let v = normal(2, (2, 2, s, head));
            let mask = normal(3, (2, 1, 1, s)).broadcast_as((2, 2, t, s)).unwrap();
            for mask in [None, Some(&mask)] {
                let whole = in_blocks(&q, [&k, &v], mask, t).unwrap();
                let blocks = in_blocks(&q, [&k, &v], mask, rows).unwrap();
                assert_eq!(bits(&whole), bits(&blocks), "{t} {s} {head}");
                // The broken twin: blocks so short that gemm adds in another order.
                if s > 512 && head <= 64 {
                    let short = in_blocks(&q, [&k, &v], mask, 60).unwrap();
                    assert_ne!(bits(&whole), bits(&short), "{t} {s} {head}");
                }
            }
        }
    }

    #[test]
    fn a_block_is_bounded_and_never_short() {
        assert_eq!(block_rows(1 << 12), 1 << 10);
        assert_eq!(block_rows(1 << 20), LEAST_ROWS);
        assert_eq!(block_rows(0), SCORES);
    }
}
