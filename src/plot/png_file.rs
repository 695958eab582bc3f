//! PNG files of at most 256 colours: a third of the size of full ones, and for plots as good.
//!
//! The palette holds the most frequent colours as they are (papers, lines, shades of heat maps) and
//! then the most frequent of a coarse cube (the blends at smooth edges). Every pixel takes the
//! nearest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::{Error, Result};

type Rgb = [u8; 3];

/// Colours kept exactly.
const EXACT: usize = 96;
const MOST: usize = 256;
/// Rungs of the coarse cube are multiples of this.
const RUNG: u8 = 17;

/// Writes `height·width·3` bytes.
pub(super) fn write(path: &Path, [width, height]: [u32; 2], rgb: &[u8]) -> Result<()> {
    let (palette, pixels) = index(rgb);
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.concat());
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels).and_then(|()| writer.finish()))
        .map_err(|e| Error::io(path, std::io::Error::other(e)))
}

/// A palette, and each pixel's place in it.
fn index(rgb: &[u8]) -> (Vec<Rgb>, Vec<u8>) {
    let pixels = || rgb.chunks_exact(3).map(|p| [p[0], p[1], p[2]]);
    let mut counts = BTreeMap::new();
    for pixel in pixels() {
        *counts.entry(pixel).or_insert(0usize) += 1;
    }
    let mut palette = most_frequent(&counts, EXACT);
    let mut coarse = BTreeMap::new();
    for (color, count) in &counts {
        let rung = color.map(|v| (v.saturating_add(RUNG / 2) / RUNG) * RUNG);
        if !palette.contains(&rung) {
            *coarse.entry(rung).or_insert(0) += count;
        }
    }
    palette.extend(most_frequent(&coarse, MOST - palette.len()));
    let nearest: BTreeMap<Rgb, u8> =
        counts.into_keys().map(|color| (color, nearest(&palette, color))).collect();
    let pixels = pixels().map(|pixel| nearest.get(&pixel).copied().unwrap_or(0)).collect();
    (palette, pixels)
}

fn most_frequent(counts: &BTreeMap<Rgb, usize>, wanted: usize) -> Vec<Rgb> {
    let mut order: Vec<(usize, Rgb)> =
        counts.iter().map(|(color, count)| (*count, *color)).collect();
    // Ties by colour, so that the same picture is the same file.
    order.sort_by(|a, b| b.cmp(a));
    order.into_iter().take(wanted).map(|(_, color)| color).collect()
}

fn nearest(palette: &[Rgb], color: Rgb) -> u8 {
    let distance = |other: &Rgb| -> i32 {
        let squares = other.iter().zip(color).map(|(a, b)| (i32::from(*a) - i32::from(b)).pow(2));
        squares.sum()
    };
    let best = palette.iter().enumerate().min_by_key(|(_, other)| distance(other));
    best.map_or(0, |(place, _)| place as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_colours_are_kept_and_many_move_little() {
        let few: Vec<u8> = (0..60u8).flat_map(|i| [i, 255 - i, 7]).collect();
        let back = |rgb: &[u8]| -> Vec<u8> {
            let (palette, pixels) = index(rgb);
            assert!(palette.len() <= MOST);
            pixels.iter().flat_map(|i| palette[usize::from(*i)]).collect()
        };
        assert_eq!(back(&few), few);
        // A line's edge: white to blue in 256 blends, below a wide white paper.
        let mut many = vec![255; 3 * 5000];
        many.extend((0..=255u8).flat_map(|i| [i, 114 + (u16::from(i) * 141 / 255) as u8, 178]));
        let moved = back(&many);
        let most = many.iter().zip(&moved).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 17, "{most}");
        assert_eq!(moved[..15000], many[..15000]);
    }
}
