//! The pooling of a ResNet's stem: the largest of 3×3 pixels, every second one in both directions.
//!
//! PyTorch's `MaxPool2d(kernel_size=3, stride=2, padding=1)`. candle's own has no padding, and its
//! backward pass refuses windows that overlap. The largest along one side and then along the other is
//! the largest of the square. At the border the outermost pixel stands twice instead of −∞ beside
//! it, which changes neither the maximum nor who has it. Among equals the first one takes the
//! gradient, as in PyTorch.

use candle_core::Tensor;

use crate::{Error, Result};

/// `x` `[b, c, h, w]` to `[b, c, ⌈h/2⌉, ⌈w/2⌉]`.
///
/// # Errors
/// When there are other dimensions or no pixels.
pub fn max_pool_3x3_stride_2(x: &Tensor) -> Result<Tensor> {
    match *x.dims() {
        [_, _, (1..), (1..)] => largest_of_three(&largest_of_three(x, 3)?, 2),
        _ => Err(Error::shape("max pool", "[b, c, h, w] with pixels", x.dims())),
    }
}

/// [`max_pool_3x3_stride_2`] with the channels last: `x` `[b, h, w, c]`.
pub(crate) fn max_pool_last(x: &Tensor) -> Result<Tensor> {
    largest_of_three(&largest_of_three(x, 2)?, 1)
}

/// The largest of 2i − 1, 2i and 2i + 1 along dimension `dim`.
fn largest_of_three(x: &Tensor, dim: usize) -> Result<Tensor> {
    let length = x.dim(dim)?;
    let out = length.div_ceil(2);
    let mut pairs = x.dims().to_vec();
    pairs[dim] = out;
    pairs.insert(dim + 1, 2);
    let pairs = x.pad_with_same(dim, 0, 2 * out - length)?.contiguous()?.reshape(pairs)?;
    let centre = pairs.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)?;
    let after = pairs.narrow(dim + 1, 1, 1)?.squeeze(dim + 1)?;
    let before = Tensor::cat(&[x.narrow(dim, 0, 1)?, after.narrow(dim, 0, out - 1)?], dim)?;
    first_largest(&first_largest(&before, &centre)?, &after)
}

/// The larger of two, the first if they are equal.
fn first_largest(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    if first.track_op() || second.track_op() {
        return Ok(second.gt(first)?.where_cond(second, first)?);
    }
    Ok(first.maximum(second)?)
}
