//! Noto Color Emoji with the Unicode names: pictures with captions that combine.
//!
//! 3,655 fully qualified emoji of Unicode 15.0; every one has a bitmap of 136×128 px in the font's
//! CBDT table. It is laid on white in a square of 136 px, which leaves a margin of 4 px around the
//! drawn 128, and brought to size by area ([`super::resample`]). A few share their drawing: the six
//! tones of "snowboarder", and the flags of some islands. Sources: Debian's `fonts-noto-color-emoji`
//! (SIL Open Font License 1.1) and `unicode-data`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::checksum::{Checksum, Known};
use super::emoji_font::EmojiFont;
use super::emoji_names::{self, Name};
use super::{Pictures, check_bytes};
use crate::{Error, Result};

const FONT: Known = Known {
    sha256: "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
    origin: "Debian's package fonts-noto-color-emoji, version 2.042-0+deb12u1",
    most: 64 << 20,
};

const NAMES: Known = Known {
    sha256: "8445f23ac8388e096be19d0262e14fceff856ff52093f2356dc89485f1a853db",
    origin: "Debian's package unicode-data, version 15.0.0-1",
    most: 16 << 20,
};

/// Edge of the square that holds a bitmap.
const SQUARE: usize = 136;

pub(super) fn default_font() -> PathBuf {
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf".into()
}

pub(super) fn default_names() -> PathBuf {
    "/usr/share/unicode/emoji/emoji-test.txt".into()
}

/// All emoji of `names` as `font` draws them, at `size`×`size`.
pub(super) fn read(size: usize, font: &Path, names: &Path, checksum: Checksum) -> Result<Pictures> {
    let font_bytes = FONT.read(font, checksum)?;
    let text = NAMES.read(names, checksum)?;
    let text = std::str::from_utf8(&text)
        .map_err(|e| Error::config(names, format!("expected UTF-8 text: {e}")))?;
    let emoji = emoji_names::parse(text).map_err(|e| Error::config(names, e))?;
    if emoji.is_empty() {
        return Err(Error::config(names, "expected one fully-qualified emoji or more, got none"));
    }
    check_bytes(emoji.len(), size * size * 3)?;
    let face = EmojiFont::parse(&font_bytes).map_err(|e| Error::config(font, e))?;
    let draw = |name: &Name| -> Result<Vec<u8>> {
        let picture = face.glyph(&name.characters).and_then(|glyph| face.picture(glyph));
        let picture = picture.map_err(|e| {
            Error::config(font, format!("{:?}: {e}; install fonts for these names", name.caption))
        })?;
        Ok(picture.with_channels(3).on_square(SQUARE, 255).resized(size).pixels)
    };
    let drawn = emoji.par_iter().map(draw).collect::<Result<Vec<_>>>()?;

    let mut classes = Vec::new();
    let mut class_of = BTreeMap::new();
    let mut labels = Vec::with_capacity(emoji.len());
    for name in &emoji {
        let next = classes.len() as u32;
        let label = *class_of.entry(name.subgroup.as_str()).or_insert(next);
        if label == next {
            classes.push(name.subgroup.clone());
        }
        labels.push(label);
    }
    Ok(Pictures {
        size: [size; 2],
        channels: 3,
        pixels: drawn.concat(),
        captions: emoji.iter().map(|name| name.caption.clone()).collect(),
        labels,
        classes,
        ..Pictures::default()
    })
}
