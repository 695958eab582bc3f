//! Multi-head attention, to itself or to a context, under diffusers' names or torch's.
//!
//! `softmax(q·kᵀ/√head_dim + mask)·v` per head, with a projection before each of q, k and v, and one
//! after. The softmax is in f32 at least. Sources: Vaswani et al. 2017, section 3.2; diffusers
//! `models/attention_processor.py` (`to_q`, `to_k`, `to_v`, `to_out.0`); torch
//! `nn.MultiheadAttention` (`in_proj_weight` of all three, `out_proj`).

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::attend::{Attend, Mask};
use super::linear::Linear;
use super::product::ours;
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
        let q = self.to_q.forward(query)?;
        let k = self.to_k.forward(key)?;
        let v = self.to_v.forward(value)?;
        let scale = 1.0 / (self.dim_head as f64).sqrt();
        let shape = [batch, self.heads, t, k.dim(1)?];
        if let Some(mask) = mask
            && mask.broadcast_as(&shape[..]).is_err()
        {
            return Err(Error::shape("attention mask", shape, mask.dims()));
        }
        let learns = [&q, &k, &v].into_iter().chain(mask).any(Tensor::track_op);
        if !learns && ours(&q) && ours(&k) && ours(&v) {
            let mask = mask.map(|mask| Mask::new(mask, shape)).transpose()?;
            let op = Attend { heads: self.heads, scale: scale as f32, mask };
            let seen = q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &op)?;
            return Ok(self.to_out.forward(&seen)?);
        }
        let [q, k, v] = [self.split(&q)?, self.split(&k)?, self.split(&v)?];
        let mut scores = widen(&q.affine(scale, 0.0)?.matmul(&k.transpose(2, 3)?)?)?;
        if let Some(mask) = mask {
            scores = (&scores + mask.broadcast_as(&shape[..])?.to_dtype(scores.dtype())?)?;
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

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::flow::Noise;

    fn normal(sample: u64, shape: &[usize]) -> Tensor {
        let z = Noise::new(1).normal(sample, 0, shape.iter().product());
        Tensor::from_vec(z, shape, &Device::Cpu).unwrap()
    }

    /// softmax(q·kᵀ/√d + mask)·v in f64, of heads that lie side by side.
    fn exact(qkv: &[Tensor; 3], heads: usize, mask: Option<&Tensor>) -> Tensor {
        let (b, t, width) = qkv[0].dims3().unwrap();
        let split = |x: &Tensor| {
            let x = x.to_dtype(DType::F64).unwrap();
            let x = x.reshape((b, x.dim(1).unwrap(), heads, width / heads)).unwrap();
            x.transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let [q, k, v] = [split(&qkv[0]), split(&qkv[1]), split(&qkv[2])];
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let mut scores = (q.matmul(&k.t().unwrap()).unwrap() * scale).unwrap();
        if let Some(mask) = mask {
            scores = scores.broadcast_add(&mask.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let seen = softmax(&scores).unwrap().matmul(&v).unwrap();
        seen.transpose(1, 2).unwrap().reshape((b, t, width)).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Sizes around those of blocks and panels, with a mask per key, per query, and none.
    #[test]
    fn one_operation_is_the_formula_and_a_sample_has_the_same_bits_in_any_batch() {
        for (t, s, heads, d) in [(1, 1, 1, 1), (7, 5, 3, 8), (100, 77, 2, 40), (300, 1030, 1, 17)] {
            let qkv = [(0, t), (1, s), (2, s)].map(|(i, n)| normal(i, &[2, n, heads * d]));
            let per_key = normal(3, &[2, 1, 1, s]);
            let per_query = normal(4, &[t, s]);
            for mask in [None, Some(&per_key), Some(&per_query)] {
                let run = |from: usize, count: usize| {
                    let part = |x: &Tensor| x.narrow(0, from, count).unwrap().contiguous().unwrap();
                    let mask = mask.map(|mask| match mask.rank() {
                        4 => part(mask),
                        _ => mask.clone(),
                    });
                    let mask = mask.map(|mask| Mask::new(&mask, [count, heads, t, s]).unwrap());
                    let op = Attend { heads, scale: 1.0 / (d as f32).sqrt(), mask };
                    let [q, k, v] = [part(&qkv[0]), part(&qkv[1]), part(&qkv[2])];
                    q.apply_op3_no_bwd(&k, &v, &op).unwrap()
                };
                let both = run(0, 2);
                let pairs = numbers(&both).into_iter().zip(numbers(&exact(&qkv, heads, mask)));
                let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 3e-6, "{t} {s}: {worst}");
                let apart = Tensor::cat(&[run(0, 1), run(1, 1)], 0).unwrap();
                assert_eq!(numbers(&both), numbers(&apart), "{t} {s}");
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing_is_no_number_and_a_hidden_key_has_no_share() {
        let qkv = [(0, 3), (1, 2), (2, 2)].map(|(i, n)| normal(i, &[1, n, 4]));
        let hide = [0.0, f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let mask = Tensor::from_slice(&hide, (3, 2), &Device::Cpu).unwrap();
        let mask = Some(Mask::new(&mask, [1, 1, 3, 2]).unwrap());
        let op = Attend { heads: 1, scale: 1.0, mask };
        let seen = numbers(&qkv[0].apply_op3_no_bwd(&qkv[1], &qkv[2], &op).unwrap());
        assert_eq!(seen[..4], numbers(&qkv[2])[..4]);
        assert!(seen[4..8].iter().all(|x| x.is_finite()) && seen[8..].iter().all(|x| x.is_nan()));
    }
}
