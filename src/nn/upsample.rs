//! Nearest-neighbour upsampling by two, with a backward pass that adds up.
//!
//! Every pixel becomes four, so its gradient is the sum of four. candle's `upsample_nearest2d`
//! overwrites the gradient that is already there instead of adding to it (candle PR #3507); a
//! broadcast over two new axes is the same picture and has the right one.

use candle_core::Tensor;

use crate::{Error, Result};

/// `x` `[b, c, h, w]` to `[b, c, 2h, 2w]`.
///
/// # Errors
/// When the rank is another.
pub fn nearest_2x(x: &Tensor) -> Result<Tensor> {
    let [b, c, h, w] = *x.dims() else {
        return Err(Error::shape("upsampling", "[b, c, h, w]", x.dims()));
    };
    let wide = x.reshape((b * c, h, 1, w, 1))?.broadcast_as((b * c, h, 2, w, 2))?;
    Ok(wide.contiguous()?.reshape((b, c, 2 * h, 2 * w))?)
}
