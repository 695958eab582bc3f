//! Pictures for training: bytes, and what each one shows.
//!
//! ```text
//! emoji           Noto Color Emoji's bitmaps; captions are the Unicode names, labels the subgroups
//! fashion_mnist   Fashion-MNIST: 28×28 grey, ten classes
//! folder          any folder of PNG files; subfolders are classes, metadata.jsonl or NAME.txt captions
//! pusht           the simulator's world with a map that says what every pixel shows
//! ```
//! A [`PicturesConfig`] names one of them, as it stands in a recipe; [`Pictures::open`] reads it into
//! memory. Files of known data sets are compared with known SHA-256 sums first. Pictures that are held
//! out stay in the set, and [`Pictures::training`] leaves them out.

mod captions;
mod checksum;
mod emoji;
mod emoji_font;
mod emoji_names;
mod fashion;
mod folder;
mod idx;
mod png_file;
mod pusht;
mod resample;

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use checksum::Checksum;

use crate::{Error, Result};

/// The most bytes of pixels that are read into memory.
const MAX_BYTES: usize = 8 << 30;

/// Longest and shortest edge of a picture.
const SIZES: std::ops::RangeInclusive<usize> = 4..=1024;

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum PicturesConfig {
    /// The fully qualified emoji of Unicode 15.0 as Noto Color Emoji draws them, on white.
    Emoji {
        /// Edge length in px; the font's bitmaps have 136×128.
        size: usize,
        /// The font; Debian's place for it by default.
        #[serde(default = "emoji::default_font")]
        font: PathBuf,
        /// Unicode's `emoji-test.txt`; Debian's place for it by default.
        #[serde(default = "emoji::default_names")]
        names: PathBuf,
        /// A text file of captions that are not trained on, one a line; `#` opens a comment line.
        #[serde(default)]
        held_out: Option<PathBuf>,
        /// Whether font and names must be the known ones.
        #[serde(default)]
        checksum: Checksum,
    },
    /// Fashion-MNIST, in the middle of a black square.
    FashionMnist {
        /// Edge length in px, at least 28.
        size: usize,
        /// Which part.
        #[serde(default)]
        split: Split,
        /// The folder of the four `.gz` files; Debian's place for it by default.
        #[serde(default = "fashion::default_folder")]
        folder: PathBuf,
        /// Whether the files must be the known ones.
        #[serde(default)]
        checksum: Checksum,
    },
    /// All `.png` files of a folder and of its subfolders, in the order of their names.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Edge length in px: the middle square of each picture, resampled.
        size: usize,
        /// 3 for colour, 1 for grey.
        #[serde(default = "colour")]
        channels: usize,
        /// As for emoji.
        #[serde(default)]
        held_out: Option<PathBuf>,
    },
    /// PushT's world at random starts, with maps.
    Pusht {
        /// Edge length in px, a divisor of 512.
        size: usize,
        /// How many pictures.
        count: usize,
        /// Reset seed of the first picture; the others follow.
        seed: u64,
    },
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What is trained on.
    #[default]
    Train,
    /// What is only looked at.
    Test,
    /// Both, and the test half is held out.
    Both,
}

fn colour() -> usize {
    3
}

/// Pictures of one size, in memory.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// Height and width.
    pub size: [usize; 2],
    /// 3 for red, green and blue, 1 for grey.
    pub channels: usize,
    /// `n·h·w·c` bytes, row by row from the top left.
    pub pixels: Vec<u8>,
    /// What each picture shows, in words; empty if nobody says.
    pub captions: Vec<String>,
    /// Each picture's class as an index into `classes`; empty if there are none.
    pub labels: Vec<u32>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `n·h·w` indices into `map_classes`: what each pixel shows; empty if there are no maps.
    pub maps: Vec<u8>,
    /// Names of what pixels show.
    pub map_classes: Vec<String>,
    /// Pictures that are not trained on, in ascending order.
    pub held_out: Vec<usize>,
}

impl Pictures {
    /// Reads the pictures that `config` names.
    ///
    /// # Errors
    /// A file is missing, is not the one that is expected, or is corrupt; a number is out of range; a
    /// caption that is to be held out does not occur.
    pub fn open(config: &PicturesConfig) -> Result<Self> {
        match config {
            PicturesConfig::Emoji { size, font, names, held_out, checksum } => {
                check_size(*size, *SIZES.start())?;
                let pictures = emoji::read(*size, font, names, *checksum)?;
                pictures.with_held_out(held_out.as_deref())
            }
            PicturesConfig::FashionMnist { size, split, folder, checksum } => {
                check_size(*size, idx::SIZE)?;
                fashion::read_split(*size, *split, folder, *checksum)
            }
            PicturesConfig::Folder { path, size, channels, held_out } => {
                check_size(*size, *SIZES.start())?;
                if !matches!(channels, 1 | 3) {
                    return Err(Error::range("pictures: channels", "1 or 3", *channels as f64));
                }
                let pictures = folder::read(path, *size, *channels)?;
                pictures.with_held_out(held_out.as_deref())
            }
            PicturesConfig::Pusht { size, count, seed } => pusht::render(*size, *count, *seed),
        }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.bytes_each().max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// The bytes of picture `index`, `[h, w, c]`; none beyond the end.
    pub fn picture(&self, index: usize) -> Option<&[u8]> {
        self.pixels.chunks_exact(self.bytes_each().max(1)).nth(index)
    }

    /// The map of picture `index`, `[h, w]`; none beyond the end or without maps.
    pub fn map(&self, index: usize) -> Option<&[u8]> {
        self.maps.chunks_exact((self.size[0] * self.size[1]).max(1)).nth(index)
    }

    /// The pictures to train on: all that are not held out.
    pub fn training(&self) -> Vec<usize> {
        (0..self.len()).filter(|i| self.held_out.binary_search(i).is_err()).collect()
    }

    /// The chosen pictures as `[b, c, h, w]` on the CPU, black −1 and white 1.
    ///
    /// # Errors
    /// An index is beyond the end.
    pub fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        let ([h, w], c) = (self.size, self.channels);
        let area = h * w;
        let mut values = vec![0f32; indices.len() * c * area];
        for (&index, out) in indices.iter().zip(values.chunks_mut((c * area).max(1))) {
            let bytes = self.picture(index).ok_or_else(|| self.beyond(index))?;
            for (channel, plane) in out.chunks_mut(area).enumerate() {
                for (out, pixel) in plane.iter_mut().zip(bytes.chunks_exact(c)) {
                    *out = f32::from(pixel[channel]) / 127.5 - 1.0;
                }
            }
        }
        Ok(Tensor::from_vec(values, (indices.len(), c, h, w), &Device::Cpu)?)
    }

    /// The maps of the chosen pictures as `[b, h, w]` bytes on the CPU.
    ///
    /// # Errors
    /// An index is beyond the end, or there are no maps.
    pub fn map_batch(&self, indices: &[usize]) -> Result<Tensor> {
        let [h, w] = self.size;
        let mut values = Vec::with_capacity(indices.len() * h * w);
        for &index in indices {
            values.extend_from_slice(self.map(index).ok_or_else(|| self.beyond(index))?);
        }
        Ok(Tensor::from_vec(values, (indices.len(), h, w), &Device::Cpu)?)
    }

    fn bytes_each(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }

    fn beyond(&self, index: usize) -> Error {
        let maps = if self.maps.is_empty() { "no maps" } else { "maps" };
        Error::Invalid(format!(
            "pictures: expected an index below {}, got {index}; there are {maps}",
            self.len()
        ))
    }

    /// Marks the pictures whose captions stand in the text file.
    fn with_held_out(mut self, path: Option<&std::path::Path>) -> Result<Self> {
        if let Some(path) = path {
            self.held_out = captions::held_out(path, &self.captions)?;
        }
        Ok(self)
    }
}

fn check_size(size: usize, least: usize) -> Result<()> {
    let most = *SIZES.end();
    if (least..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::range("pictures: size", format!("{least} to {most} px"), size as f64))
}

/// That `count` pictures fit into memory.
fn check_bytes(count: usize, each: usize) -> Result<()> {
    match count.checked_mul(each) {
        Some(bytes) if bytes <= MAX_BYTES => Ok(()),
        _ => Err(Error::Invalid(format!(
            "pictures: expected at most {MAX_BYTES} bytes of pixels, got {count} pictures of {each}; \
             choose a smaller size or fewer pictures"
        ))),
    }
}
