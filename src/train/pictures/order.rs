//! Which pictures an update sees: every one once an epoch, in an order that the seed decides.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::super::epochs::Epochs;
use super::recipe::{Augment, Rhythm};
use crate::dataset::pictures::Pictures;
use crate::flow::Noise;
use crate::{Error, Result};

/// Draw numbers, one for each purpose.
pub(super) mod draw {
    pub(in super::super) const NOISE: u64 = 0;
    pub(in super::super) const TIME: u64 = 1;
    pub(in super::super) const POSTERIOR: u64 = 2;
    pub(in super::super) const DROPOUT: u64 = 3;
    pub(super) const FLIP: u64 = 4;
    pub(super) const CROP: u64 = 5;
    pub(super) const SHARED: u64 = 6;
    pub(super) const ORDER: u64 = 1 << 32;
}

/// The order of one run.
pub(super) struct Order {
    /// Pictures that are trained on, those that share a place in the epoch together.
    places: Vec<Vec<usize>>,
    noise: Noise,
    epochs: Epochs,
}

impl Order {
    /// # Errors
    /// When there is nothing to train on.
    pub(super) fn new(pictures: &Pictures, rhythm: &Rhythm) -> Result<Self> {
        let training = pictures.training();
        if training.is_empty() {
            return Err(Error::Invalid("data: expected pictures to train on, got none".into()));
        }
        let mut places: BTreeMap<(String, usize), Vec<usize>> = BTreeMap::new();
        for index in training {
            let key = match pictures.captions.get(index).filter(|_| rhythm.skin_tones_share) {
                Some(caption) => (without_skin_tone(caption), 0),
                None => (String::new(), index),
            };
            places.entry(key).or_default().push(index);
        }
        let (places, noise): (Vec<_>, _) =
            (places.into_values().collect(), Noise::new(rhythm.seed));
        let epochs = Epochs::new(Noise::new(rhythm.seed), draw::ORDER, places.len());
        Ok(Self { places, noise, epochs })
    }

    /// The pictures of update `step`.
    pub(super) fn batch(&mut self, step: usize, size: usize) -> Vec<usize> {
        (0..size).map(|i| self.picture((step * size + i) as u64)).collect()
    }

    fn picture(&mut self, global: u64) -> usize {
        let sharing = &self.places[self.epochs.at(global)];
        sharing[self.noise.below(global, draw::SHARED, sharing.len())]
    }
}

/// "kiss: person, person, dark skin tone" is "kiss: person, person", one of six that look alike.
fn without_skin_tone(caption: &str) -> String {
    let (name, details) = caption.split_once(": ").unwrap_or((caption, ""));
    let kept: Vec<&str> =
        details.split(", ").filter(|d| !d.is_empty() && !d.ends_with("skin tone")).collect();
    if kept.is_empty() { name.to_owned() } else { format!("{name}: {}", kept.join(", ")) }
}

/// Whether sample number `global` of the run is mirrored.
pub(super) fn is_flipped(augment: &Augment, noise: &Noise, global: u64) -> bool {
    augment.flip && noise.uniform(global, draw::FLIP) < 0.5
}

/// The pictures `[b, c, h, w]` in −1 … 1, each changed as `augment` says; `first` is the number of the
/// first sample in the run.
///
/// # Errors
/// When a crop is larger than the pictures.
pub(super) fn augmented(
    pictures: &Pictures,
    indices: &[usize],
    augment: &Augment,
    (noise, first): (&Noise, u64),
    device: &Device,
) -> Result<Tensor> {
    let batch = pictures.batch(indices)?;
    let (b, c, h, w) = batch.dims4()?;
    let side = augment.crop.unwrap_or(0);
    if side > h || side > w {
        let expected = format!("at most {} pixels", h.min(w));
        return Err(Error::range("augment.crop", expected, side as f64));
    }
    if !augment.flip && side == 0 {
        return Ok(batch.to_device(device)?);
    }
    let (rows, columns) = if side == 0 { (h, w) } else { (side, side) };
    let from: Vec<f32> = batch.flatten_all()?.to_vec1()?;
    let mut to: Vec<f32> = Vec::with_capacity(b * c * rows * columns);
    for (i, picture) in from.chunks_exact(c * h * w).enumerate() {
        let global = first + i as u64;
        let flip = is_flipped(augment, noise, global);
        let corner = noise.uniforms(global, draw::CROP, 2);
        let top = (corner[0] * (h - rows + 1) as f64) as usize;
        let left = (corner[1] * (w - columns + 1) as f64) as usize;
        for plane in picture.chunks_exact(h * w) {
            for line in plane.chunks_exact(w).skip(top).take(rows) {
                let line = &line[left..left + columns];
                if flip {
                    to.extend(line.iter().rev());
                } else {
                    to.extend(line);
                }
            }
        }
    }
    Ok(Tensor::from_vec(to, (b, c, rows, columns), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skin_tones_are_taken_off_and_nothing_else() {
        for (caption, kept) in [
            ("woman firefighter: medium skin tone", "woman firefighter"),
            ("kiss: person, person, light skin tone, dark skin tone", "kiss: person, person"),
            ("woman: dark skin tone, red hair", "woman: red hair"),
            ("flag: France", "flag: France"),
            ("red apple", "red apple"),
        ] {
            assert_eq!(without_skin_tone(caption), kept);
        }
    }

    #[test]
    fn an_epoch_has_every_place_once() {
        let pictures = Pictures {
            size: [1, 1],
            channels: 1,
            pixels: vec![0; 5],
            captions: ["a", "b", "b: dark skin tone", "c", "d"].map(String::from).to_vec(),
            held_out: vec![3],
            ..Pictures::default()
        };
        let rhythm = |share| Rhythm {
            steps: 1,
            batch_size: 1,
            seed: 3,
            log_freq: 1,
            save_freq: 1,
            sample_freq: 0,
            keep_checkpoints: 1,
            skin_tones_share: share,
        };
        let mut order = Order::new(&pictures, &rhythm(false)).unwrap();
        let mut epoch = order.batch(2, 4);
        epoch.sort_unstable();
        assert_eq!((order.places.len(), epoch), (4, vec![0, 1, 2, 4]));
        let mut order = Order::new(&pictures, &rhythm(true)).unwrap();
        assert_eq!(order.places.len(), 3);
        let seen = order.batch(0, 300);
        let of = |picture| seen.iter().filter(|seen| **seen == picture).count();
        assert_eq!((of(0), of(1) + of(2), of(3), of(4)), (100, 100, 0, 100));
        assert!(of(1) > 25 && of(2) > 25);
    }
}
