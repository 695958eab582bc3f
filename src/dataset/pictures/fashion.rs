//! Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 28×28 grey on black, ten classes.
//!
//! Xiao, Rasul, Vollgraf 2017, MIT licence. Debian packs the files anew, so the sums are of what is
//! inside the `.gz`.

use std::path::{Path, PathBuf};

use super::checksum::{Checksum, Known};
use super::resample::Raster;
use super::{Pictures, Split, check_bytes, idx};
use crate::{Error, Result};

/// In the order of the labels.
const CLASSES: [&str; 10] = [
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

const fn known(sha256: &'static str, most: u64) -> Known {
    let origin = "Debian's package dataset-fashion-mnist, version 0.0~git20200523.55506a9-1";
    Known { sha256, origin, most }
}

const TRAIN: [Known; 2] = [
    known("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
    known("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
];
const TEST: [Known; 2] = [
    known("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
    known("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
];

pub(super) fn default_folder() -> PathBuf {
    "/usr/share/datasets/fashion-mnist".into()
}

/// One half of the data set or both, each picture in the middle of a black `size`×`size` square.
pub(super) fn read_split(
    size: usize,
    split: Split,
    folder: &Path,
    checksum: Checksum,
) -> Result<Pictures> {
    let half = |prefix, known| read_half(size, prefix, known, folder, checksum);
    match split {
        Split::Train => half("train", TRAIN),
        Split::Test => half("t10k", TEST),
        Split::Both => {
            let (mut both, test) = (half("train", TRAIN)?, half("t10k", TEST)?);
            both.held_out = (both.len()..both.len() + test.len()).collect();
            both.pixels.extend(test.pixels);
            both.labels.extend(test.labels);
            Ok(both)
        }
    }
}

fn read_half(
    size: usize,
    prefix: &str,
    [images, labels]: [Known; 2],
    folder: &Path,
    checksum: Checksum,
) -> Result<Pictures> {
    let image_path = folder.join(format!("{prefix}-images-idx3-ubyte.gz"));
    let label_path = folder.join(format!("{prefix}-labels-idx1-ubyte.gz"));
    let values = idx::read(&image_path, &images, checksum, &[idx::SIZE; 2])?;
    let labels = idx::read(&label_path, &labels, checksum, &[])?;
    let count = values.len() / (idx::SIZE * idx::SIZE);
    if labels.len() != count {
        let got = labels.len();
        let message = format!("expected {count} labels, one a picture, got {got}");
        return Err(Error::config(&label_path, message));
    }
    if let Some(label) = labels.iter().find(|label| usize::from(**label) >= CLASSES.len()) {
        let message = format!("expected labels below {}, got {label}", CLASSES.len());
        return Err(Error::config(&label_path, message));
    }
    check_bytes(count, size * size)?;
    let mut pixels = Vec::with_capacity(count * size * size);
    for picture in values.chunks_exact(idx::SIZE * idx::SIZE) {
        let [width, height] = [idx::SIZE; 2];
        let raster = Raster { width, height, channels: 1, pixels: picture.to_vec() };
        pixels.extend(raster.on_square(size, 0).pixels);
    }
    Ok(Pictures {
        size: [size; 2],
        channels: 1,
        pixels,
        labels: labels.into_iter().map(u32::from).collect(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        ..Pictures::default()
    })
}
