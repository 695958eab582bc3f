//! Resizing and cropping of pictures, to the rounding of torchvision.
//!
//! torchvision's `Resize` of a float tensor is PyTorch's bilinear interpolation with antialiasing: a
//! triangle of half width `max(scale, 1)` with `scale = input/output` around the centre
//! `scale·(i + 1/2)` of each output pixel, its weights normalised to 1; along the lines first, then
//! across them. Source of the rounding: ATen, `_compute_indices_min_size_weights_aa` in
//! `UpSampleKernel.cpp`, where `scale` and the centre are f32 and some of the sums are f64.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as TensorResult, Shape, Tensor};

use super::gather::part;
use crate::{Error, Result};

/// `x` `[b, c, h, w]` in f32 to `[b, c, height, width]`; a picture that has this size is returned as
/// it is.
///
/// # Errors
/// When there are other dimensions, or no pixels before or after.
pub fn resize(x: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
    let &[_, _, from_height @ (1..), from_width @ (1..)] = x.dims() else {
        return Err(Error::shape("resize", "[b, c, h, w] with pixels", x.dims()));
    };
    if height == 0 || width == 0 {
        let got = format!("{height}×{width}");
        return Err(Error::shape("resize", "a size of at least one pixel", got));
    }
    if [from_height, from_width] == [height, width] {
        return Ok(x.clone());
    }
    let along = Pass { axis: 3, input: from_width, filters: filters(from_width, width) };
    let across = Pass { axis: 2, input: from_height, filters: filters(from_height, height) };
    Ok(x.contiguous()?.apply_op1(along)?.apply_op1(across)?)
}

/// The middle `[height, width]` of `x` `[b, c, h, w]`. Where it cannot be the middle, it lies half a
/// pixel beside it, to the side whose offset is even (torchvision rounds half to even).
///
/// # Errors
/// When there are other dimensions, or the crop is empty or larger than the picture.
pub fn center_crop(x: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
    match *x.dims() {
        [_, _, h, w] if (1..=h).contains(&height) && (1..=w).contains(&width) => {
            let top = half_to_even(h - height);
            Ok(x.narrow(2, top, height)?.narrow(3, half_to_even(w - width), width)?)
        }
        _ => {
            let expected = format!("[b, c, at least {height}, at least {width}]");
            Err(Error::shape("center crop of at least one pixel", expected, x.dims()))
        }
    }
}

/// `n/2`, rounded to the nearest integer, a half to the even one.
fn half_to_even(n: usize) -> usize {
    let half = n / 2;
    half + usize::from(n % 2 == 1 && half % 2 == 1)
}

/// The inputs that one output sees: the first, and the weights from there.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

/// A filter for each output.
fn filters(input: usize, output: usize) -> Vec<Filter> {
    let scale = input as f32 / output as f32;
    let (support, inverse) = if scale >= 1.0 { (scale, 1.0 / scale) } else { (1.0, 1.0) };
    let filter = |i: usize| {
        let centre = (f64::from(scale) * (i as f64 + 0.5)) as f32;
        // A float becomes an integer by truncation, and none is negative: `as` does the same.
        let first = (f64::from(centre - support) + 0.5) as usize;
        let last = ((f64::from(centre + support) + 0.5) as usize).min(input);
        let triangle = |j: usize| {
            let x = ((f64::from(j as f32 - centre) + 0.5) * f64::from(inverse)) as f32;
            if x.abs() < 1.0 { 1.0 - x.abs() } else { 0.0 }
        };
        let weights: Vec<f32> = (first..last).map(triangle).collect();
        let total: f32 = weights.iter().sum();
        let weights = match total != 0.0 {
            true => weights.into_iter().map(|weight| weight / total).collect(),
            false => weights,
        };
        Filter { first, weights }
    };
    (0..output).map(filter).collect()
}

/// One direction of the resize.
struct Pass {
    axis: usize,
    /// Length of the axis before.
    input: usize,
    filters: Vec<Filter>,
}

impl Pass {
    /// `x` `[.., input, inner]` to `[.., output, inner]`.
    fn forward(&self, x: &[f32], inner: usize) -> Vec<f32> {
        let plane = self.input * inner;
        let mut out = Vec::with_capacity(x.len() / self.input * self.filters.len());
        for x in x.chunks_exact(plane) {
            for Filter { first, weights } in &self.filters {
                if inner == 1 {
                    let seen = x[*first..].iter().zip(weights);
                    out.push(seen.map(|(x, weight)| x * weight).sum());
                    continue;
                }
                let start = out.len();
                out.resize(start + inner, 0.0);
                let lines = x[first * inner..].chunks_exact(inner);
                for (line, &weight) in lines.zip(weights) {
                    out[start..].iter_mut().zip(line).for_each(|(sum, x)| *sum += x * weight);
                }
            }
        }
        out
    }

    /// The transposed of [`Self::forward`].
    fn backward(&self, grad: &[f32], inner: usize) -> Vec<f32> {
        let mut out = vec![0.0; grad.len() / self.filters.len() * self.input];
        let grads = grad.chunks_exact(self.filters.len() * inner);
        for (out, grad) in out.chunks_exact_mut(self.input * inner).zip(grads) {
            for (Filter { first, weights }, grad) in
                self.filters.iter().zip(grad.chunks_exact(inner))
            {
                let lines = out[first * inner..].chunks_exact_mut(inner);
                for (line, &weight) in lines.zip(weights) {
                    line.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g * weight);
                }
            }
        }
        out
    }
}

impl CustomOp1 for Pass {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let CpuStorage::F32(x) = storage else {
            candle_core::bail!("resize: expected f32");
        };
        let mut dims = layout.dims().to_vec();
        let inner = dims[self.axis + 1..].iter().product();
        dims[self.axis] = self.filters.len();
        Ok((CpuStorage::F32(self.forward(part(x, layout)?, inner)), dims.into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Transposed(self))?))
    }
}

struct Transposed<'a>(&'a Pass);

impl CustomOp1 for Transposed<'_> {
    fn name(&self) -> &'static str {
        "resize-transposed"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let CpuStorage::F32(grad) = storage else {
            candle_core::bail!("resize: expected f32");
        };
        let mut dims = layout.dims().to_vec();
        let inner = dims[self.0.axis + 1..].iter().product();
        dims[self.0.axis] = self.0.input;
        Ok((CpuStorage::F32(self.0.backward(part(grad, layout)?, inner)), dims.into()))
    }
}
