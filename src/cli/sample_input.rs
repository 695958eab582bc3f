//! The files that pictures are drawn from: read and checked before the model is, then brought to its
//! size.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use pathline::image::png::{self, MAX_PIXELS, Numbers, Picture};
use pathline::image::{Settings, Source, pixels};
use pathline::nn::resize::resize;
use pathline::policy::digest::sha256;
use pathline::tensors;
use pathline::tensors::header::Header;

use super::sample_wish::Wish;

/// The most numbers of a latents file: 4 GB of them.
const MAX_NUMBERS: usize = 1 << 30;

/// A file that was read, and what it was.
struct Read<T> {
    value: T,
    source: Source,
}

/// What the files hold.
pub(crate) struct Inputs {
    init_image: Option<Read<Picture>>,
    mask: Option<Read<Picture>>,
    segmentation: Option<Read<Numbers>>,
    noise: Option<Read<Noise>>,
}

struct Noise {
    latents: Tensor,
    step_noise: Option<Tensor>,
}

/// The same as tensors of the model's size.
pub(crate) struct Tensors {
    pub(crate) init_image: Option<Tensor>,
    pub(crate) mask: Option<Tensor>,
    pub(crate) segmentation: Option<Tensor>,
    pub(crate) latents: Option<Tensor>,
    pub(crate) step_noise: Option<Tensor>,
}

impl Inputs {
    pub(crate) fn read(wish: &Wish) -> anyhow::Result<Self> {
        let picture = |path: &Path| png::read(path, MAX_PIXELS);
        let all = Self {
            init_image: read(wish, "--init-img", wish.init_img.as_deref(), picture)?,
            mask: read(wish, "--mask", wish.mask.as_deref(), picture)?,
            segmentation: read(wish, "--segmentation", wish.segmentation.as_deref(), |path| {
                png::read_numbers(path, MAX_PIXELS)
            })?,
            noise: read(wish, "--latents", wish.latents.as_deref(), read_noise)?,
        };
        if let (Some(image), Some(mask)) = (&all.init_image, &all.mask) {
            let size = |picture: &Picture| (picture.width, picture.height);
            let (expected, got) = (size(&image.value), size(&mask.value));
            ensure!(
                expected == got,
                "--mask {}: expected the size of --init-img, {}×{}, got {}×{}",
                mask.source.path,
                expected.0,
                expected.1,
                got.0,
                got.1
            );
        }
        if let (Some(noise), Some(count)) = (&all.noise, wish.batch_count) {
            let batch = noise.value.latents.dims()[0];
            ensure!(
                batch == count,
                "--latents {}: expected --batch-count {count} samples, got {batch}",
                noise.source.path
            );
        }
        Ok(all)
    }

    /// Pictures that the file of noise is for.
    pub(crate) fn batch_count(&self) -> Option<usize> {
        self.noise.as_ref().map(|noise| noise.value.latents.dims()[0])
    }

    /// Writes down which files went into the pictures.
    pub(crate) fn name_in(&self, settings: &mut Settings) {
        fn source<T>(read: &Option<Read<T>>) -> Option<Source> {
            read.as_ref().map(|read| read.source.clone())
        }
        settings.init_image = source(&self.init_image);
        settings.mask = source(&self.mask);
        settings.segmentation = source(&self.segmentation);
        settings.latents = source(&self.noise);
    }

    /// Tensors of pictures of `size`; says what was resized.
    pub(crate) fn tensors(self, size: [usize; 2], device: &Device) -> anyhow::Result<Tensors> {
        let note = |read: &Source, [height, width]: [usize; 2]| {
            if [height, width] != size {
                let [to_height, to_width] = size;
                let shape = if height * to_width == width * to_height { "" } else { ", stretched" };
                eprintln!(
                    "note: {} is {width}×{height}, resized to {to_width}×{to_height}{shape}",
                    read.path
                );
            }
        };
        let init_image = self.init_image.map(|Read { value, source }| {
            note(&source, [value.height, value.width]);
            resize(&pixels::tensor(&value, device)?, size)
        });
        // Of the same size as the picture, which was said already.
        let mask =
            self.mask.map(|Read { value, .. }| resize(&pixels::brightness(&value, device)?, size));
        let segmentation = self.segmentation.map(|Read { value, source }| {
            note(&source, [value.height, value.width]);
            let map = pixels::nearest(&value, size);
            Tensor::from_vec(map.values, (1, map.height, map.width), device)
        });
        let (latents, step_noise) = match self.noise {
            Some(Read { value, .. }) => (Some(value.latents), value.step_noise),
            None => (None, None),
        };
        Ok(Tensors {
            init_image: init_image.transpose()?,
            mask: mask.transpose()?,
            segmentation: segmentation.transpose()?,
            latents,
            step_noise,
        })
    }
}

/// Reads a file; one that a PNG named must still be the same.
fn read<T>(
    wish: &Wish,
    flag: &str,
    path: Option<&Path>,
    read: impl Fn(&Path) -> pathline::Result<T>,
) -> anyhow::Result<Option<Read<T>>> {
    let Some(path) = path else { return Ok(None) };
    let value = read(path).with_context(|| flag.to_owned())?;
    let source = Source { path: path.display().to_string(), sha256: sha256(path)? };
    let expected = wish.sources.iter().find(|expected| expected.path == source.path);
    if let Some(expected) = expected {
        ensure!(
            expected.sha256 == source.sha256,
            "--from-image: expected {} as it was, SHA-256 {}, got another file, {}; name the right one with {flag}",
            source.path,
            expected.sha256,
            source.sha256
        );
    }
    Ok(Some(Read { value, source }))
}

fn read_noise(path: &Path) -> pathline::Result<Noise> {
    let refuse = |message: String| pathline::Error::config(path, message);
    let header = Header::read(path)?;
    for (key, dims, optional) in [("latents", 4, false), ("step_noise", 5, true)] {
        let Some(entry) = header.find(key) else {
            if optional {
                continue;
            }
            let found: Vec<_> =
                header.entries.iter().map(|entry| entry.name.as_str()).take(20).collect();
            return Err(refuse(format!(
                "expected a tensor {key} f32 [batch, c, h, w], found {found:?}"
            )));
        };
        let is_empty = entry.elements() == 0;
        if entry.shape.len() != dims || is_empty || entry.elements() > MAX_NUMBERS {
            let expected = if optional { "[steps, batch, c, h, w]" } else { "[batch, c, h, w]" };
            return Err(refuse(format!("{key}: expected f32 {expected}, got {:?}", entry.shape)));
        }
    }
    let mut tensors: HashMap<String, Tensor> = tensors::load(path, &Device::Cpu)?;
    let mut take = |key: &str| -> pathline::Result<Option<Tensor>> {
        let Some(tensor) = tensors.remove(key) else { return Ok(None) };
        if tensor.dtype() != DType::F32 {
            return Err(refuse(format!("{key}: expected f32, got {}", tensor.dtype().as_str())));
        }
        // One number that is not finite makes the sum so.
        let sum = (&tensor * 0.0)?.sum_all()?.to_scalar::<f32>()?;
        if sum.is_nan() {
            return Err(refuse(format!("{key}: expected finite values, got NaN or infinity")));
        }
        Ok(Some(tensor))
    };
    let (latents, step_noise) = (take("latents")?, take("step_noise")?);
    let latents = latents.ok_or_else(|| refuse("expected a tensor latents".into()))?;
    Ok(Noise { latents, step_noise })
}
