//! Nearest-neighbour upsampling with a backward pass that adds up.
//!
//! Every pixel becomes four, so its gradient is the sum of four. candle's `upsample_nearest2d`
//! overwrites the gradient that is already there instead of adding to it (candle PR #3507); a
//! broadcast over two new axes is the same picture and has the right one.

use candle_core::{
    CpuStorage, CustomOp1, Layout, Result as TensorResult, Shape, Tensor, WithDType,
};

use super::gather::part;
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

/// `x` `[b, h, w, c]`, the channels last, to `[b, height, width, c]`: pixel (i, j) is
/// (⌊i·h/height⌋, ⌊j·w/width⌋), torch's `interpolate(mode="nearest")`. f32 or f64, on the CPU.
pub(crate) fn nearest_last(x: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
    let [_, (1..), (1..), (1..)] = *x.dims() else {
        return Err(Error::shape(
            "upsampling, channels last",
            "[b, h, w, c] with pixels",
            x.dims(),
        ));
    };
    Ok(x.contiguous()?.apply_op1(Nearest { size: [height, width] })?)
}

/// The sizes after, height and width.
#[derive(Clone, Copy)]
struct Nearest {
    size: [usize; 2],
}

/// The transposed of [`Nearest`]: every pixel gets the sum of what it became.
struct Sums {
    /// Height and width before.
    from: [usize; 2],
}

/// Calls `pixel(from, to)` for every pixel after, both counted over all pictures.
fn pixels(batch: usize, from: [usize; 2], to: [usize; 2], mut pixel: impl FnMut(usize, usize)) {
    for b in 0..batch {
        for i in 0..to[0] {
            let line = (b * from[0] + i * from[0] / to[0]) * from[1];
            for j in 0..to[1] {
                pixel(line + j * from[1] / to[1], (b * to[0] + i) * to[1] + j);
            }
        }
    }
}

fn spread<T: WithDType>(x: &[T], [batch, h, w, c]: [usize; 4], size: [usize; 2]) -> Vec<T> {
    let mut out = vec![T::zero(); batch * size[0] * size[1] * c];
    pixels(batch, [h, w], size, |from, to| {
        out[to * c..(to + 1) * c].copy_from_slice(&x[from * c..(from + 1) * c]);
    });
    out
}

fn gathered<T: WithDType>(g: &[T], [batch, h, w, c]: [usize; 4], size: [usize; 2]) -> Vec<T> {
    let mut out = vec![T::zero(); batch * size[0] * size[1] * c];
    pixels(batch, size, [h, w], |to, from| {
        let sums = out[to * c..(to + 1) * c].iter_mut();
        sums.zip(&g[from * c..(from + 1) * c]).for_each(|(sum, &g)| *sum += g);
    });
    out
}

impl CustomOp1 for Nearest {
    fn name(&self) -> &'static str {
        "upsample-nearest"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let dims = [b, h, w, c];
        let out = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(spread(part(x, layout)?, dims, self.size)),
            CpuStorage::F64(x) => CpuStorage::F64(spread(part(x, layout)?, dims, self.size)),
            _ => candle_core::bail!("upsampling: expected f32 or f64"),
        };
        Ok((out, (b, self.size[0], self.size[1], c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        let (_, h, w, _) = x.dims4()?;
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Sums { from: [h, w] })?))
    }
}

impl CustomOp1 for Sums {
    fn name(&self) -> &'static str {
        "upsample-nearest-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let dims = [b, h, w, c];
        let out = match storage {
            CpuStorage::F32(g) => CpuStorage::F32(gathered(part(g, layout)?, dims, self.from)),
            CpuStorage::F64(g) => CpuStorage::F64(gathered(part(g, layout)?, dims, self.from)),
            _ => candle_core::bail!("upsampling: expected f32 or f64"),
        };
        Ok((out, (b, self.from[0], self.from[1], c).into()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Twice the size as in `nearest_2x`, value and gradient; other sizes by torch's rule.
    #[test]
    fn channels_last_is_the_same_picture() {
        let x: Vec<f32> = (0..2 * 3 * 4 * 5).map(|i| (i as f32).sin()).collect();
        let x = Var::from_vec(x, (2, 3, 4, 5), &Device::Cpu).unwrap();
        let last = nearest_last(&x, [6, 8]).unwrap();
        let first = nearest_2x(&x.permute((0, 3, 1, 2)).unwrap()).unwrap();
        let first = first.permute((0, 2, 3, 1)).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&last), flat(&first.contiguous().unwrap()));
        let grad = |y: &Tensor| {
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            flat(grads.get(&x).unwrap())
        };
        assert_eq!(grad(&last), grad(&first));
        let row = Tensor::new(&[[[[0f32], [1.0], [2.0]]]], &Device::Cpu).unwrap();
        assert_eq!(flat(&nearest_last(&row, [1, 5]).unwrap()), [0.0, 0.0, 1.0, 1.0, 2.0]);
    }
}
