//! What a picture network is told besides the noisy picture and the time.
//!
//! Three ports cover text, class, segmentation map and image: tokens that are looked at by
//! cross-attention, a class that is added to the embedding of the time, and channels that are put
//! behind those of the picture. Source: Rombach et al. 2022, section 3.3.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// A condition for each picture of a batch; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// Tokens of a text `[b, s, cross_attention_dim]`.
    pub tokens: Option<Tensor>,
    /// Which tokens are seen, `[b, s]`: 1 seen, 0 not; all of them without a mask.
    pub mask: Option<Tensor>,
    /// A class each.
    pub class: Option<Vec<u32>>,
    /// Channels that are put behind those of the picture, `[b, c, h, w]`.
    pub concat: Option<Tensor>,
}

impl Condition {
    /// That of the first `count` pictures.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn first(&self, count: usize) -> Result<Self> {
        let some = |tensor: &Option<Tensor>| match tensor {
            Some(tensor) => tensor.narrow(0, 0, count).map(Some),
            None => Ok(None),
        };
        let class = self.class.as_ref().map(|class| class.iter().take(count).copied().collect());
        let (tokens, mask, concat) = (some(&self.tokens)?, some(&self.mask)?, some(&self.concat)?);
        Ok(Self { tokens, mask, class, concat })
    }

    /// The picture `x` `[b, c, h, w]` with the channels of `concat` behind its own.
    pub(crate) fn joined(&self, x: &Tensor, channels: usize) -> Result<Tensor> {
        let wrong = |got: String| {
            let what = "picture with the condition's `concat` behind its channels";
            Err(Error::shape(what, format!("[b, {channels} in all, h, w]"), got))
        };
        let joined = match (&self.concat, x.dims()) {
            (None, [_, _, _, _]) => x.clone(),
            (Some(concat), &[b, _, h, w]) if matches!(*concat.dims(), [cb, _, ch, cw] if [cb, ch, cw] == [b, h, w]) => {
                Tensor::cat(&[x, concat], 1)?
            }
            (concat, dims) => {
                let behind = concat.as_ref().map(|concat| concat.dims().to_vec());
                return wrong(format!("{dims:?} and {behind:?}"));
            }
        };
        match joined.dim(1)? == channels {
            true => Ok(joined),
            false => wrong(format!("{:?}", joined.dims())),
        }
    }

    /// The tokens for a batch of `batch`, and what is added to the scores: 0 for a seen token, −10000 for
    /// another, as diffusers does it; nothing if the network has no use for tokens.
    pub(crate) fn context(&self, batch: usize, dim: Option<usize>) -> Result<Option<Context>> {
        let (Some(tokens), Some(dim)) = (&self.tokens, dim) else {
            return match (&self.tokens, dim) {
                (None, None) => Ok(None),
                (None, Some(dim)) => {
                    Err(Error::shape("tokens", format!("[{batch}, s, {dim}]"), "none"))
                }
                _ => Err(Error::Invalid(
                    "tokens: expected none, since the network has no cross-attention".to_owned(),
                )),
            };
        };
        let length = match *tokens.dims() {
            [b, s, d] if b == batch && s > 0 && d == dim => s,
            _ => return Err(Error::shape("tokens", format!("[{batch}, s, {dim}]"), tokens.dims())),
        };
        let bias = match &self.mask {
            None => None,
            Some(mask) if mask.dims() == [batch, length] => {
                let seen = mask.to_dtype(match tokens.dtype() {
                    DType::F64 => DType::F64,
                    _ => DType::F32,
                })?;
                Some(seen.affine(1e4, -1e4)?.reshape((batch, 1, 1, length))?)
            }
            Some(mask) => {
                let expected = format!("[{batch}, {length}], one for each token");
                return Err(Error::shape("mask of the tokens", expected, mask.dims()));
            }
        };
        Ok(Some(Context { tokens: tokens.clone(), bias }))
    }

    /// The class of each picture; nothing if the network has no classes.
    pub(crate) fn classes(&self, batch: usize, wanted: bool) -> Result<Option<&[u32]>> {
        match &self.class {
            Some(class) if wanted && class.len() == batch => Ok(Some(class)),
            None if !wanted => Ok(None),
            Some(_) if !wanted => Err(Error::Invalid(
                "class: expected none, since the network has no class embedding".to_owned(),
            )),
            class => {
                let got = class.as_ref().map_or(0, Vec::len);
                Err(Error::Invalid(format!(
                    "class: expected one for each of {batch} pictures, got {got}"
                )))
            }
        }
    }
}

/// What cross-attention looks at.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// `[b, s, d]`.
    pub(crate) tokens: Tensor,
    /// Added to the scores, `[b, 1, 1, s]`.
    pub(crate) bias: Option<Tensor>,
}
