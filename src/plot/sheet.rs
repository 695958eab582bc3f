//! Pictures in rows and columns with words around them.
//!
//! A [`Sheet`] is data, as a figure is. Words are drawn like those of plots; the pictures' pixels go into
//! the file as they are, each enlarged to a square of whole pixels, so that nothing is smoothed.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::Color;
use super::canvas::{Anchor, Canvas};
use crate::{Error, Result};

/// Sizes of letters and distances in px.
const TITLE: f64 = 17.0;
const HEADER: f64 = 14.0;
const CAPTION: f64 = 12.0;
const LINE: u32 = 15;
const MARGIN: u32 = 10;
const GAP: u32 = 6;
/// Lines of a caption, a header or a row's name; what is longer ends in "…".
const MOST_LINES: usize = 5;
const MAX_PIXELS: u64 = 100_000_000;

/// A labelled sheet of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Above everything; may be empty.
    pub title: String,
    /// Above the columns; fewer than columns, or none, are fine.
    pub headers: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<Row>,
    /// Pixels of the sheet along a pixel of a picture.
    pub enlarged: usize,
}

/// Pictures beside each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// To the left; may be empty.
    pub name: String,
    /// From left to right.
    pub tiles: Vec<Tile>,
}

/// One picture and what is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tile {
    /// Height and width in px.
    pub size: [usize; 2],
    /// `h·w·3` bytes; empty for an empty place.
    pub rgb: Vec<u8>,
    /// Below it; may be empty.
    pub caption: String,
}

impl Tile {
    /// A tile from bytes of one channel or three, `h·w·c`.
    pub fn new(
        size: [usize; 2],
        channels: usize,
        bytes: &[u8],
        caption: impl Into<String>,
    ) -> Self {
        let rgb = match channels {
            1 => bytes.iter().flat_map(|v| [*v; 3]).collect(),
            _ => bytes.to_vec(),
        };
        Self { size, rgb, caption: caption.into() }
    }
}

/// Lines of letters of `size` px from `at` downwards.
struct Words {
    lines: Vec<String>,
    size: f64,
    at: (f64, f64),
    anchor: Anchor,
}

/// Where everything goes, in px.
struct Plan {
    /// Left edge and width of the pictures' part of each column.
    columns: Vec<(u32, u32)>,
    /// Left edge of the first column: room for the rows' names.
    left: u32,
    width: u32,
}

impl Sheet {
    /// Draws the sheet into a PNG file.
    ///
    /// # Errors
    /// There are no pictures, a picture has not the bytes of its size, the sheet would be larger than
    /// 100 megapixels, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (size, rgb) = self.draw()?;
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), size[0], size[1]);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::High);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&rgb).and_then(|()| writer.finish()))
            .map_err(|e| Error::io(path, std::io::Error::other(e)))
    }

    /// Width and height, and `height·width·3` bytes.
    fn draw(&self) -> Result<([u32; 2], Vec<u8>)> {
        let enlarged = self.enlarged.clamp(1, 64) as u32;
        let mut ruler = Canvas::new([1, 1])?;
        let plan = self.plan(enlarged, &mut ruler)?;
        let wrapped = |ruler: &mut Canvas, words: &str, width: u32, size: f64| {
            wrap(ruler, words, f64::from(width), size)
        };

        // Heights first, since a canvas has one from the start.
        let mut words: Vec<Words> = Vec::new();
        let mut y = MARGIN;
        if !self.title.is_empty() {
            let lines = wrapped(&mut ruler, &self.title, plan.width - 2 * MARGIN, TITLE)?;
            y += 6 * lines.len() as u32;
            let height = LINE * lines.len() as u32;
            let at = (f64::from(MARGIN), f64::from(y));
            words.push(Words { lines, size: TITLE, at, anchor: Anchor::Right });
            y += height + GAP;
        }
        let mut below = 0;
        for (header, &(x, width)) in self.headers.iter().zip(&plan.columns) {
            let lines = wrapped(&mut ruler, header, width, HEADER)?;
            if !lines.is_empty() {
                below = below.max(LINE * lines.len() as u32 + GAP);
            }
            let at = (f64::from(x + width / 2), f64::from(y));
            words.push(Words { lines, size: HEADER, at, anchor: Anchor::Below });
        }
        y += below;
        let mut places = Vec::new();
        for row in &self.rows {
            let tallest = row.tiles.iter().map(|tile| tile.size[0] as u32 * enlarged).max();
            let tallest = tallest.unwrap_or(0);
            let mut bottom = y + tallest;
            if !row.name.is_empty() {
                let lines =
                    wrapped(&mut ruler, &row.name, plan.left.saturating_sub(MARGIN + GAP), HEADER)?;
                let height = LINE * lines.len() as u32;
                let top = y + tallest.saturating_sub(height) / 2;
                bottom = bottom.max(top + height);
                let at = (f64::from(MARGIN), f64::from(top));
                words.push(Words { lines, size: HEADER, at, anchor: Anchor::Right });
            }
            for (tile, &(x, width)) in row.tiles.iter().zip(&plan.columns) {
                let inset = width.saturating_sub(tile.size[1] as u32 * enlarged) / 2;
                places.push((tile, x + inset, y));
                let lines = wrapped(&mut ruler, &tile.caption, width, CAPTION)?;
                let under = y + tallest + 2;
                if !lines.is_empty() {
                    bottom = bottom.max(under + LINE * lines.len() as u32);
                }
                let at = (f64::from(x + width / 2), f64::from(under));
                words.push(Words { lines, size: CAPTION, at, anchor: Anchor::Below });
            }
            y = bottom + GAP;
        }
        let size = [plan.width, y + MARGIN - GAP];
        if u64::from(size[0]) * u64::from(size[1]) > MAX_PIXELS {
            return Err(Error::Invalid(format!(
                "sheet: expected at most {MAX_PIXELS} pixels, got {}×{}",
                size[0], size[1]
            )));
        }
        let mut canvas = Canvas::new(size)?;
        for Words { lines, size: letters, at: (x, y), anchor } in words {
            for (i, line) in lines.iter().enumerate() {
                let mut y = y + f64::from(LINE) * i as f64;
                if let Anchor::Right = anchor {
                    // These stand in the middle of their line.
                    y += f64::from(LINE) / 2.0;
                }
                canvas.words(line, (x, y), letters, Color::INK, anchor)?;
            }
        }
        let mut rgb = canvas.finish();
        for (tile, x, y) in places {
            paste(&mut rgb, size[0], tile, (x, y), enlarged);
        }
        Ok((size, rgb))
    }

    fn plan(&self, enlarged: u32, ruler: &mut Canvas) -> Result<Plan> {
        for tile in self.rows.iter().flat_map(|row| &row.tiles) {
            let [h, w] = tile.size;
            let fits = h.checked_mul(w).and_then(|area| area.checked_mul(3));
            if !tile.rgb.is_empty() && fits != Some(tile.rgb.len()) || h.max(w) > 1 << 14 {
                return Err(Error::shape("sheet: picture", [h, w, 3], tile.rgb.len()));
            }
        }
        let count = self.rows.iter().map(|row| row.tiles.len()).max().unwrap_or(0);
        if count == 0 {
            return Err(Error::Invalid("sheet: expected one picture or more, got none".into()));
        }
        let mut left = MARGIN;
        let longest = 170.0;
        for row in &self.rows {
            let width = ruler.width(&row.name, HEADER)?.min(longest).ceil() as u32;
            left = left.max(if width > 0 { MARGIN + width + 2 * GAP } else { MARGIN });
        }
        let mut x = left;
        let mut columns = Vec::with_capacity(count);
        for column in 0..count {
            let tiles = self.rows.iter().filter_map(|row| row.tiles.get(column));
            let width = tiles.map(|tile| tile.size[1] as u32 * enlarged).max().unwrap_or(0);
            columns.push((x, width));
            x = x.saturating_add(width + GAP);
        }
        Ok(Plan { columns, left, width: x - GAP + MARGIN })
    }
}

/// Words in lines of at most `width` px, if each alone fits.
fn wrap(ruler: &mut Canvas, words: &str, width: f64, size: f64) -> Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        let longer = match lines.last() {
            Some(line) => format!("{line} {word}"),
            None => word.to_owned(),
        };
        let fits = !lines.is_empty() && ruler.width(&longer, size)? <= width;
        match lines.last_mut() {
            Some(line) if fits => *line = longer,
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.len() > MOST_LINES {
        lines.truncate(MOST_LINES);
        if let Some(last) = lines.last_mut() {
            last.push('…');
        }
    }
    Ok(lines)
}

fn paste(rgb: &mut [u8], width: u32, tile: &Tile, (x, y): (u32, u32), enlarged: u32) {
    let (width, x, y, enlarged) = (width as usize, x as usize, y as usize, enlarged as usize);
    let across = tile.size[1] * 3;
    for (i, row) in tile.rgb.chunks_exact(across.max(3)).enumerate() {
        let wide: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(enlarged)).collect();
        for copy in 0..enlarged {
            let start = ((y + i * enlarged + copy) * width + x) * 3;
            if let Some(target) = rgb.get_mut(start..start + wide.len()) {
                target.copy_from_slice(&wide);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(value: u8, caption: &str) -> Tile {
        Tile::new([8, 8], 1, &[value; 64], caption)
    }

    #[test]
    fn pictures_keep_their_pixels_and_words_stand_outside() {
        let row = |name: &str, caption: &str| Row {
            name: name.to_owned(),
            tiles: vec![tile(10, caption), tile(200, caption), Tile::default()],
        };
        let sheet = |title: &str, name: &str, caption: &str| Sheet {
            title: title.to_owned(),
            headers: vec![name.to_owned(); 2],
            rows: vec![row(name, caption), row(name, caption)],
            enlarged: 12,
        };
        let bare = sheet("", "", "").draw().unwrap();
        assert_eq!(bare.0, [10 + 96 + 6 + 96 + 6 + 10, 10 + 96 + 6 + 96 + 10]);
        let full = sheet("A title", "first row", "a caption of words").draw().unwrap();
        let count = |rgb: &[u8], value: u8| {
            rgb.chunks_exact(3).filter(|pixel| pixel.iter().all(|v| *v == value)).count()
        };
        for (size, rgb) in [&bare, &full] {
            assert_eq!(rgb.len(), (size[0] * size[1] * 3) as usize);
            assert!(count(rgb, 10) >= 2 * 96 * 96 && count(rgb, 10) < 2 * 96 * 96 + 40);
            assert!(count(rgb, 200) >= 2 * 96 * 96);
        }
        assert!(full.0[0] > bare.0[0] + 40 && full.0[1] > bare.0[1] + 60, "{:?}", full.0);
        let ink = |rgb: &[u8]| rgb.iter().filter(|v| **v > 10 && **v < 150).count();
        assert!(ink(&full.1) > ink(&bare.1) + 500);
        if let Ok(folder) = std::env::var("PATHLINE_PICTURES") {
            let path = Path::new(&folder).join("sheet.png");
            sheet("A title", "first row", "a caption of words").save(&path).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        assert!(Sheet::default().draw().is_err());
        let rows = |tile: Tile| vec![Row { name: String::new(), tiles: vec![tile] }];
        let short = Tile { size: [8, 9], ..tile(0, "") };
        assert!(Sheet { rows: rows(short), ..Sheet::default() }.draw().is_err());
        let large = Tile { size: [16_000, 16_000], ..Tile::default() };
        assert!(Sheet { rows: rows(large), ..Sheet::default() }.draw().is_err());
        let path = Path::new("/nowhere/at/all.png");
        assert!(Sheet { rows: rows(tile(0, "")), ..Sheet::default() }.save(path).is_err());
    }

    #[test]
    fn long_words_are_cut() {
        let mut ruler = Canvas::new([1, 1]).unwrap();
        let lines =
            wrap(&mut ruler, "one two three four five six seven eight", 40.0, 12.0).unwrap();
        assert_eq!(lines.len(), MOST_LINES);
        assert!(lines[MOST_LINES - 1].ends_with('…'), "{lines:?}");
        assert_eq!(wrap(&mut ruler, "", 40.0, 12.0).unwrap(), Vec::<String>::new());
        assert_eq!(wrap(&mut ruler, "one two", 400.0, 12.0).unwrap(), ["one two"]);
    }
}
