//! A font of bitmaps: which glyph draws a sequence of code points, and its PNG.
//!
//! A sequence such as woman, skin tone, joiner, fire engine is one glyph by way of the font's
//! substitutions: `cmap` gives a glyph for each code point (variation selectors have none), and the
//! ligatures of GSUB's `ccmp` feature join them, longest first as the font lists them. The feature's
//! contextual lookups treat ill-formed sequences and are left out. Source: OpenType 1.9, GSUB lookup
//! type 4 and CBDT; read with ttf-parser.

use std::collections::BTreeMap;

use ttf_parser::gsub::SubstitutionSubtable;
use ttf_parser::{Face, GlyphId, RasterImageFormat, Tag};

use super::png_file;
use super::resample::Raster;

/// Emoji presentation of a character that is also a letter or a sign: it has no glyph.
const PRESENTATION: char = '\u{FE0F}';

/// A font and its ligatures by their first glyph.
pub(super) struct EmojiFont<'a> {
    face: Face<'a>,
    lookups: Vec<BTreeMap<GlyphId, Vec<Ligature>>>,
}

struct Ligature {
    /// The glyphs after the first.
    rest: Vec<GlyphId>,
    glyph: GlyphId,
}

impl<'a> EmojiFont<'a> {
    /// Reads a font's bytes.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let face = Face::parse(bytes, 0).map_err(|e| format!("expected a font: {e}"))?;
        let lookups = ligatures(&face).unwrap_or_default();
        Ok(Self { face, lookups })
    }

    /// The one glyph of a sequence.
    pub(super) fn glyph(&self, characters: &[char]) -> Result<GlyphId, String> {
        let drawn = characters.iter().filter(|c| **c != PRESENTATION);
        let glyphs: Option<Vec<GlyphId>> = drawn.map(|c| self.face.glyph_index(*c)).collect();
        let mut glyphs = glyphs.ok_or("a code point has no glyph in this font")?;
        for lookup in &self.lookups {
            glyphs = substitute(&glyphs, lookup);
        }
        match glyphs[..] {
            [glyph] => Ok(glyph),
            _ => Err(format!("expected one glyph in this font, got {}", glyphs.len())),
        }
    }

    /// A glyph's largest bitmap, on white.
    pub(super) fn picture(&self, glyph: GlyphId) -> Result<Raster, String> {
        let image =
            self.face.glyph_raster_image(glyph, u16::MAX).ok_or("no bitmap in this font")?;
        if image.format != RasterImageFormat::PNG {
            return Err(format!("expected a PNG in this font, got {:?}", image.format));
        }
        png_file::decode(std::io::Cursor::new(image.data))
    }
}

/// The ligatures of `ccmp`, one map a lookup in the order in which they apply.
fn ligatures(face: &Face<'_>) -> Option<Vec<BTreeMap<GlyphId, Vec<Ligature>>>> {
    let gsub = face.tables().gsub?;
    let feature = gsub.features.find(Tag::from_bytes(b"ccmp"))?;
    let mut indices: Vec<u16> = feature.lookup_indices.into_iter().collect();
    indices.sort_unstable();
    let mut lookups = Vec::new();
    for index in indices {
        let mut by_first: BTreeMap<GlyphId, Vec<Ligature>> = BTreeMap::new();
        for subtable in gsub.lookups.get(index)?.subtables.into_iter::<SubstitutionSubtable<'_>>() {
            let SubstitutionSubtable::Ligature(subtable) = subtable else { continue };
            for first in (0..face.number_of_glyphs()).map(GlyphId) {
                let set = subtable.coverage.get(first).and_then(|i| subtable.ligature_sets.get(i));
                let Some(set) = set else { continue };
                let ligatures = set
                    .into_iter()
                    .map(|l| Ligature { rest: l.components.into_iter().collect(), glyph: l.glyph });
                by_first.entry(first).or_default().extend(ligatures);
            }
        }
        if !by_first.is_empty() {
            lookups.push(by_first);
        }
    }
    Some(lookups)
}

/// One lookup over the glyphs from left to right.
fn substitute(glyphs: &[GlyphId], lookup: &BTreeMap<GlyphId, Vec<Ligature>>) -> Vec<GlyphId> {
    let mut out = Vec::with_capacity(glyphs.len());
    let mut left = glyphs;
    while let [first, rest @ ..] = left {
        let candidates = lookup.get(first).map_or(&[][..], Vec::as_slice);
        match candidates.iter().find(|l| rest.starts_with(&l.rest)) {
            Some(ligature) => {
                out.push(ligature.glyph);
                left = &rest[ligature.rest.len()..];
            }
            None => {
                out.push(*first);
                left = rest;
            }
        }
    }
    out
}
