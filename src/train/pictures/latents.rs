//! What a denoiser is trained on: latents of pictures, or the pictures themselves.
//!
//! A picture is encoded once: mean and deviation of its posterior are kept, and every time it is seen
//! another latent is drawn from them, as latent-diffusion does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::order::{draw, is_flipped};
use super::recipe::Augment;
use crate::dataset::pictures::Pictures;
use crate::flow::Noise;
use crate::tensors::folder;
use crate::vae::{Autoencoder, FOLDER};
use crate::{Error, Result};

/// Pictures encoded at a time.
const TOGETHER: usize = 16;

pub(super) struct Latents<'a> {
    pictures: &'a Pictures,
    augment: Augment,
    autoencoder: Option<Autoencoder>,
    /// Its folder.
    folder: Option<PathBuf>,
    /// By picture and whether it is mirrored: mean, and deviation if the latent is drawn.
    known: HashMap<(usize, bool), (Vec<f32>, Vec<f32>)>,
    /// Channels, height, width.
    shape: [usize; 3],
    device: Device,
}

impl<'a> Latents<'a> {
    pub(super) fn new(
        pictures: &'a Pictures,
        augment: &Augment,
        autoencoder: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        if augment.crop.is_some() {
            let message = "augment.crop: expected none, a denoiser is trained on whole pictures";
            return Err(Error::Invalid(message.into()));
        }
        let folder = autoencoder.map(|path| folder::resolve(path, &FOLDER)).transpose()?;
        let autoencoder = match &folder {
            Some(folder) => Some(Autoencoder::open(folder, device)?),
            None => None,
        };
        let [height, width] = pictures.size;
        let shape = match &autoencoder {
            None => [pictures.channels, height, width],
            Some(net) => {
                let factor = net.downsampling();
                [net.latent_channels(), height.div_ceil(factor), width.div_ceil(factor)]
            }
        };
        let (augment, device) = (augment.clone(), device.clone());
        Ok(Self { pictures, augment, autoencoder, folder, known: HashMap::new(), shape, device })
    }

    pub(super) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The folder of the autoencoder, if there is one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    pub(super) fn autoencoder(&self) -> Option<&Autoencoder> {
        self.autoencoder.as_ref()
    }

    /// The latents of `indices` `[b, c, h, w]`; `first` is the number of the first sample in the run.
    pub(super) fn batch(&mut self, indices: &[usize], noise: &Noise, first: u64) -> Result<Tensor> {
        let keys: Vec<(usize, bool)> = indices
            .iter()
            .enumerate()
            .map(|(i, &index)| (index, is_flipped(&self.augment, noise, first + i as u64)))
            .collect();
        let mut unknown: Vec<(usize, bool)> =
            keys.iter().filter(|key| !self.known.contains_key(key)).copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        for keys in unknown.chunks(TOGETHER) {
            self.encode(keys)?;
        }
        let [c, h, w] = self.shape;
        let mut values = Vec::with_capacity(keys.len() * c * h * w);
        for (i, key) in keys.iter().enumerate() {
            let Some((mean, deviation)) = self.known.get(key) else { continue };
            if deviation.is_empty() {
                values.extend(mean);
                continue;
            }
            let z = noise.normal(first + i as u64, draw::POSTERIOR, mean.len());
            values.extend(mean.iter().zip(deviation).zip(z).map(|((m, d), z)| m + d * z));
        }
        Ok(Tensor::from_vec(values, (keys.len(), c, h, w), &self.device)?)
    }

    fn encode(&mut self, keys: &[(usize, bool)]) -> Result<()> {
        let indices: Vec<usize> = keys.iter().map(|key| key.0).collect();
        let straight = self.pictures.batch(&indices)?;
        let mirrored = straight.flip(&[3])?;
        let rows = keys.iter().enumerate().map(|(i, key)| {
            let from = if key.1 { &mirrored } else { &straight };
            from.narrow(0, i, 1)
        });
        let x = Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let x = x.to_device(&self.device)?;
        let (mean, deviation) = match &self.autoencoder {
            None => (x, None),
            Some(Autoencoder::Kl(net)) => {
                let posterior = net.encode(&x)?;
                let deviation = posterior.logvar.affine(0.5, 0.0)?.exp()?;
                let scale = net.config.scaling_factor;
                (net.scale(&posterior.mean)?, Some(deviation.affine(scale, 0.0)?))
            }
            Some(net) => (net.encode(&x, None)?, None),
        };
        for (i, key) in keys.iter().enumerate() {
            let row = |x: &Tensor| x.get(i)?.flatten_all()?.to_vec1::<f32>();
            let deviation = deviation.as_ref().map(row).transpose()?.unwrap_or_default();
            self.known.insert(*key, (row(&mean)?, deviation));
        }
        Ok(())
    }
}
