//! Large pictures in tiles that overlap and are blended.
//!
//! ```text
//! tiles of `pixels` every pixels·(1 − overlap), each through the network by itself;
//! in the overlap of extent n: left·(1 − i/n) + right·i/n, then the same from above
//! ```
//!
//! A tile does not see the whole picture, so the result differs a little from that in one piece; its
//! memory does not grow with the picture. Source of the sizes: diffusers `AutoencoderKL.tiled_decode`.

use candle_core::Tensor;

use crate::{Error, Result};

/// With a larger activation a picture goes in tiles: numbers, so 1 GiB in f32. A Stable Diffusion
/// autoencoder reaches it at 1024×1024 pixels.
const LARGEST: usize = 1 << 28;
/// So many pictures go together that their activation is no larger: one of 512×512 pixels there.
const TOGETHER: usize = 1 << 26;
/// A tile that is chosen here has at least so many latents on a side.
const LEAST_LATENTS: usize = 64;

/// Sizes of the tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// Pixels on a side of a tile.
    pub pixels: usize,
    /// Latents on a side of a tile.
    pub latents: usize,
    /// Part of a tile that its neighbour has too.
    pub overlap: f64,
}

impl Tiling {
    /// diffusers' `enable_tiling` for an autoencoder of `sample_size` that makes sides `f` times
    /// smaller.
    pub fn of(sample_size: usize, f: usize) -> Self {
        Self { pixels: sample_size, latents: sample_size / f.max(1), overlap: 0.25 }
    }

    /// The same, or larger tiles where those would be small or not fit.
    pub(super) fn automatic(sample_size: usize, f: usize) -> Self {
        let latents = (sample_size / f.max(1)).max(LEAST_LATENTS).next_multiple_of(4);
        Self { pixels: latents.saturating_mul(f), latents, overlap: 0.25 }
    }

    /// The plan of an encoder that makes sides `f` times smaller.
    pub(super) fn encoding(&self, f: usize) -> Result<Plan> {
        let step = part(self.pixels, 1.0 - self.overlap);
        let blend = part(self.latents, self.overlap);
        let keep = self.latents.saturating_sub(blend);
        self.fits(keep.checked_mul(f) == Some(step) && step > 0)?;
        Ok(Plan { tile: self.pixels, step, blend, keep, least: f })
    }

    /// The plan of a decoder that makes sides `f` times larger.
    pub(super) fn decoding(&self, f: usize) -> Result<Plan> {
        let step = part(self.latents, 1.0 - self.overlap);
        let blend = part(self.pixels, self.overlap);
        let keep = self.pixels.saturating_sub(blend);
        self.fits(step.checked_mul(f) == Some(keep) && step > 0)?;
        Ok(Plan { tile: self.latents, step, blend, keep, least: 1 })
    }

    fn fits(&self, fits: bool) -> Result<()> {
        if fits {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "tiling: expected tiles whose parts without overlap fit each other, such as 512 pixels, \
             64 latents and 0.25, got {} pixels, {} latents and {}",
            self.pixels, self.latents, self.overlap
        )))
    }
}

/// `n·share`, rounded down.
fn part(n: usize, share: f64) -> usize {
    (n as f64 * share) as usize
}

/// How a network goes over a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Side of a tile, and from one to the next, before the network.
    tile: usize,
    step: usize,
    /// What is blended and what is kept of a tile, behind it.
    blend: usize,
    keep: usize,
    /// A tile at the edge with less than this gives nothing.
    least: usize,
}

/// A network from `[b, c, h, w]` to the same in another size.
type Net<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// `x` `[b, c, h, w]` through `net`: whole if the `largest` activation of a picture is not too large,
/// else in tiles, and picture by picture if all of them are too large together.
pub(super) fn in_parts(x: &Tensor, largest: usize, plan: &Plan, net: Net<'_>) -> Result<Tensor> {
    let pictures = x.dim(0)?;
    let one = |x: &Tensor| if largest > LARGEST { plan.run(x, net) } else { net(x) };
    if pictures <= 1 || largest.saturating_mul(pictures) <= TOGETHER {
        return one(x);
    }
    // As many at a time as fit.
    let step = (TOGETHER / largest.max(1)).max(1);
    let parts = (0..pictures).step_by(step);
    let parts = parts.map(|first| one(&x.narrow(0, first, step.min(pictures - first))?));
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
}

impl Plan {
    /// `x` `[b, c, h, w]` in tiles through `net`; in one piece if it is no larger than a tile.
    pub(super) fn run(&self, x: &Tensor, net: Net<'_>) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        if h.max(w) <= self.tile {
            return net(x);
        }
        let mut lines = Vec::new();
        let mut above: Vec<Tensor> = Vec::new();
        for top in self.starts(h) {
            let mut row: Vec<Tensor> = Vec::new();
            let mut line = Vec::new();
            for left in self.starts(w) {
                let tile = x.narrow(2, top, self.tile.min(h - top))?;
                let tile = tile.narrow(3, left, self.tile.min(w - left))?.contiguous()?;
                let mut tile = net(&tile)?;
                if let Some(above) = above.get(row.len()) {
                    tile = blend(above, &tile, 2, self.blend)?;
                }
                if let Some(left) = row.last() {
                    tile = blend(left, &tile, 3, self.blend)?;
                }
                let kept = tile.narrow(2, 0, self.keep.min(tile.dim(2)?))?;
                line.push(kept.narrow(3, 0, self.keep.min(tile.dim(3)?))?);
                row.push(tile);
            }
            lines.push(Tensor::cat(&line, 3)?);
            above = row;
        }
        Ok(Tensor::cat(&lines, 2)?)
    }

    /// Where the tiles of a side of `length` begin.
    fn starts(&self, length: usize) -> impl Iterator<Item = usize> {
        (0..length).step_by(self.step).filter(move |start| length - start >= self.least)
    }
}

/// `after` with its first `extent` numbers along `dim` going over from the last of `before`.
fn blend(before: &Tensor, after: &Tensor, dim: usize, extent: usize) -> Result<Tensor> {
    let (from, length) = (before.dim(dim)?, after.dim(dim)?);
    let extent = extent.min(from).min(length);
    if extent == 0 {
        return Ok(after.clone());
    }
    let mut shape = [1; 4];
    shape[dim] = extent;
    let ramp = |of: &dyn Fn(f64) -> f64| -> Result<Tensor> {
        let values = (0..extent).map(|i| of(i as f64 / extent as f64) as f32);
        let values = values.collect::<Vec<_>>();
        Ok(Tensor::from_vec(values, &shape, after.device())?.to_dtype(after.dtype())?)
    };
    let fading = before.narrow(dim, from - extent, extent)?.broadcast_mul(&ramp(&|u| 1.0 - u)?)?;
    let coming = after.narrow(dim, 0, extent)?.broadcast_mul(&ramp(&|u| u)?)?;
    let blended = (fading + coming)?;
    match length - extent {
        0 => Ok(blended),
        rest => Ok(Tensor::cat(&[blended, after.narrow(dim, extent, rest)?], dim)?),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tiles_of_a_network_that_sees_one_pixel_are_the_whole() {
        for (h, w) in [(5, 7), (8, 8), (23, 9), (17, 6), (3, 31)] {
            let values: Vec<f32> = (0..2 * h * w).map(|i| (i * 29 % 97) as f32).collect();
            let x = Tensor::from_vec(values, (1, 2, h, w), &Device::Cpu).unwrap();
            let plan = Tiling { pixels: 8, latents: 8, overlap: 0.25 }.decoding(1).unwrap();
            let y = plan.run(&x, &|x| Ok((x * 2.0)?)).unwrap();
            let gap = (&y - (&x * 2.0).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-4, "{h}×{w}");
            // The broken twin: a part that is kept too long.
            let twin = Plan { keep: 7, ..plan };
            assert!(h.max(w) <= 8 || twin.run(&x, &|x| Ok(x.clone())).unwrap().dims() != x.dims());
        }
    }

    /// Pictures that are large go in tiles, batches that are large in parts, and nothing else changes.
    #[test]
    fn what_is_too_large_goes_in_parts() {
        let values: Vec<f32> = (0..5 * 12 * 12).map(|i| (i * 31 % 89) as f32).collect();
        let x = Tensor::from_vec(values, (5, 1, 12, 12), &Device::Cpu).unwrap();
        let plan = Tiling { pixels: 8, latents: 8, overlap: 0.25 }.decoding(1).unwrap();
        for (largest, expected) in [
            (TOGETHER / 5, vec![[5, 12, 12]]),
            (TOGETHER / 2, vec![[2, 12, 12], [2, 12, 12], [1, 12, 12]]),
            (LARGEST, vec![[1, 12, 12]; 5]),
            (LARGEST + 1, [[1, 8, 8], [1, 8, 6], [1, 6, 8], [1, 6, 6]].repeat(5)),
            (usize::MAX, [[1, 8, 8], [1, 8, 6], [1, 6, 8], [1, 6, 6]].repeat(5)),
        ] {
            let seen = std::cell::RefCell::new(Vec::new());
            let y = in_parts(&x, largest, &plan, &|x| {
                let (b, _, h, w) = x.dims4()?;
                seen.borrow_mut().push([b, h, w]);
                Ok(x.clone())
            });
            let gap = (y.unwrap() - &x).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-4);
            assert_eq!(*seen.borrow(), expected, "{largest}");
        }
    }

    #[test]
    fn tiles_are_chosen_that_fit() {
        for (sample, f) in [(32, 8), (512, 8), (36, 8), (64, 4), (1000, 16), (1, 1), (256, 64)] {
            let tiling = Tiling::automatic(sample, f);
            assert!(tiling.encoding(f).is_ok() && tiling.decoding(f).is_ok(), "{sample}, {f}");
        }
        assert_eq!(Tiling::automatic(512, 8), Tiling::of(512, 8));
        assert!(Tiling::of(36, 8).encoding(8).unwrap_err().to_string().contains("36 pixels"));
        let none = Tiling { pixels: 8, latents: 1, overlap: 1.0 };
        assert!(none.encoding(8).is_err() && none.decoding(8).is_err());
    }
}
