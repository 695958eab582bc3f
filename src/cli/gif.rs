//! Animated GIFs, written frame by frame.
//!
//! GIF89a with one global palette: the first [`SAMPLE`] frames are kept back and give its 255 colours.
//! From then on a frame costs only its changed rectangle, in which unchanged pixels are transparent.
//! A frame whose colours the palette misses gets one of its own. Memory stays bounded by
//! [`SAMPLE`] frames.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gif::{DisposalMethod, Encoder, EncodingError, Frame, Repeat};

use pathline::{Error, Result};

/// Frames that choose the palette.
const SAMPLE: usize = 24;
/// Largest change of a channel, in levels, that is not worth writing.
const UNSEEN: u8 = 3;
/// Squared distance between a colour and its palette entry from which it counts as missed.
const MISSED: u32 = 24 * 24;
/// So many missed pixels give a frame a palette of its own.
const MISSED_PIXELS: usize = 4;

type Rgb = [u8; 3];

/// Writes RGB frames of one size as an endlessly repeating GIF.
pub(crate) struct GifWriter {
    path: PathBuf,
    file: Option<File>,
    size: [u16; 2],
    fps: f64,
    sample: Vec<Vec<u8>>,
    stream: Option<Stream>,
    /// Frames accepted, for the time at which the next one starts.
    count: u64,
    /// Hundredths of a second given out so far.
    elapsed: u64,
    /// Hundredths of a second by which pauses have moved the frames.
    paused: u64,
}

/// What exists once the palette is known.
struct Stream {
    encoder: Encoder<BufWriter<File>>,
    palette: Palette,
    /// The picture as its last written pixels intended it.
    shown: Vec<u8>,
    /// Held back until its duration is known.
    pending: Option<Frame<'static>>,
}

impl GifWriter {
    /// Creates `path` for frames of `width`×`height` at `fps` (0.1 to 50) frames a second.
    ///
    /// # Errors
    /// The file cannot be created, a side is 0 or beyond 65535, or `fps` is out of range.
    pub(crate) fn create(path: &Path, width: u32, height: u32, fps: f64) -> Result<Self> {
        let side = |v: u32| u16::try_from(v).ok().filter(|&v| v > 0);
        let (Some(w), Some(h)) = (side(width), side(height)) else {
            let message = format!("a GIF's sides are 1 to 65535 px, not {width}×{height}");
            return Err(Error::Invalid(message));
        };
        if !(0.1..=50.0).contains(&fps) {
            return Err(Error::Invalid(format!(
                "a GIF plays 0.1 to 50 frames a second, not {fps}"
            )));
        }
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            size: [w, h],
            fps,
            sample: Vec::new(),
            stream: None,
            count: 0,
            elapsed: 0,
            paused: 0,
        })
    }

    /// Adds a frame: `height * width * 3` bytes, row by row from the top left, red first.
    ///
    /// # Errors
    /// `rgb` has another length, or the file cannot be written.
    pub(crate) fn frame(&mut self, rgb: &[u8]) -> Result<()> {
        let expected = usize::from(self.size[0]) * usize::from(self.size[1]) * 3;
        if rgb.len() != expected {
            let got = rgb.len();
            return Err(Error::Invalid(format!("a frame has {expected} bytes of RGB, not {got}")));
        }
        if self.stream.is_none() {
            self.sample.push(rgb.to_vec());
            if self.sample.len() == SAMPLE { self.open() } else { Ok(()) }
        } else {
            self.add(rgb)
        }
    }

    /// Keeps the latest frame on screen for another `secs` (0 to 60), as at the end of an episode.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn pause(&mut self, secs: f64) -> Result<()> {
        if self.stream.is_none() {
            self.open()?;
        }
        self.paused += (secs.clamp(0.0, 60.0) * 100.0) as u64;
        Ok(())
    }

    /// Writes what is held back and closes the file.
    ///
    /// # Errors
    /// The file cannot be written, or there was no frame at all.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.stream.is_none() {
            self.open()?;
        }
        self.flush()?;
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let writer = stream.encoder.into_inner().map_err(|e| self.failed(e))?;
        writer.into_inner().map_err(|e| Error::io(&self.path, e.into_error()))?;
        Ok(())
    }

    /// Chooses the palette from the sample and writes the sample.
    fn open(&mut self) -> Result<()> {
        let sample = std::mem::take(&mut self.sample);
        let (Some(first), Some(file)) = (sample.first(), self.file.take()) else {
            return Err(Error::Invalid(format!("{}: a GIF needs a frame", self.path.display())));
        };
        let [width, height] = self.size;
        let palette = Palette::of(&sample);
        let writer = BufWriter::new(file);
        let encoder = Encoder::new(writer, width, height, &palette.bytes)
            .and_then(|mut encoder| encoder.set_repeat(Repeat::Infinite).map(|()| encoder))
            .map_err(|e| self.failed(e))?;
        // The first frame differs from this one everywhere.
        let shown = first.iter().map(|v| v.wrapping_add(128)).collect();
        self.stream = Some(Stream { encoder, palette, shown, pending: None });
        sample.iter().try_for_each(|rgb| self.add(rgb))
    }

    fn add(&mut self, rgb: &[u8]) -> Result<()> {
        let width = usize::from(self.size[0]);
        let changed = self.stream.as_mut().and_then(|stream| stream.encode(rgb, width));
        if let Some(frame) = changed {
            self.flush()?;
            if let Some(stream) = &mut self.stream {
                stream.pending = Some(frame);
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Writes the pending frame; it lasts until the frame that is about to start.
    fn flush(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let Some(mut frame) = stream.pending.take() else { return Ok(()) };
        let now = (self.count as f64 * 100.0 / self.fps).round() as u64 + self.paused;
        frame.delay = u16::try_from(now - self.elapsed).unwrap_or(u16::MAX);
        self.elapsed = now;
        let written = stream.encoder.write_frame(&frame);
        written.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: EncodingError) -> Error {
        let source = match error {
            EncodingError::Io(source) => source,
            other => std::io::Error::other(other),
        };
        Error::io(&self.path, source)
    }
}

impl Stream {
    /// The rectangle of `rgb` that differs from what is shown; `None` if nothing does.
    fn encode(&mut self, rgb: &[u8], width: usize) -> Option<Frame<'static>> {
        let pixels = rgb.chunks_exact(3).map(|p| [p[0], p[1], p[2]]);
        let changes: Vec<Option<Rgb>> = pixels
            .zip(self.shown.chunks_exact_mut(3))
            .map(|(new, shown)| {
                let seen = new.iter().zip(&*shown).any(|(a, b)| a.abs_diff(*b) > UNSEEN);
                seen.then(|| {
                    shown.copy_from_slice(&new);
                    new
                })
            })
            .collect();
        let [left, top, right, bottom] = bounds(&changes, width)?;
        let (columns, rows) = (right - left + 1, bottom - top + 1);
        let inside = || {
            changes
                .chunks_exact(width)
                .take(bottom + 1)
                .skip(top)
                .flat_map(|row| &row[left..=right])
        };
        let global = &mut self.palette;
        let missed = inside().flatten().filter(|c| global.nearest(**c).1 >= MISSED).count();
        let mut own = (missed >= MISSED_PIXELS).then(|| {
            let colors: Vec<Rgb> = inside().flatten().copied().collect();
            Palette::of(&[colors.into_flattened()])
        });
        let own_bytes = own.as_ref().map(|palette| palette.bytes.clone());
        let palette = own.as_mut().unwrap_or(global);
        let index = |change: &Option<Rgb>| change.map_or(TRANSPARENT, |c| palette.nearest(c).0);
        Some(Frame {
            left: left as u16,
            top: top as u16,
            width: columns as u16,
            height: rows as u16,
            buffer: inside().map(index).collect(),
            palette: own_bytes,
            transparent: Some(TRANSPARENT),
            dispose: DisposalMethod::Keep,
            ..Frame::default()
        })
    }
}

/// Left, top, right and bottom of the changes, all included.
fn bounds(changes: &[Option<Rgb>], width: usize) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for (i, _) in changes.iter().enumerate().filter(|(_, change)| change.is_some()) {
        let (x, y) = (i % width, i / width);
        let [left, top, right, _] = found.unwrap_or([x, y, x, y]);
        found = Some([left.min(x), top, right.max(x), y]);
    }
    found
}

/// The palette entry that stands for "as before".
const TRANSPARENT: u8 = 255;

/// 255 colours and the transparent entry, with the answers given so far.
struct Palette {
    bytes: Vec<u8>,
    known: HashMap<Rgb, (u8, u32)>,
}

impl Palette {
    /// Colours of `frames`, one after the other: the one that the entries so far miss by most.
    ///
    /// A miss weighs the squared distance times the root of the pixels it concerns, so that large
    /// areas come out exact and a small red cross does not turn grey, as it does with NeuQuant.
    fn of(frames: &[Vec<u8>]) -> Self {
        let mut counts: HashMap<Rgb, u32> = HashMap::new();
        for pixel in frames.iter().flat_map(|frame| frame.chunks_exact(3)) {
            *counts.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
        }
        let mut colors: Vec<(Rgb, u32)> = counts.into_iter().collect();
        colors.sort_unstable_by_key(|&(color, count)| (std::cmp::Reverse(count), color));
        let mut misses = vec![f64::INFINITY; colors.len()];
        let mut entries: Vec<Rgb> = Vec::with_capacity(256);
        while entries.len() < usize::from(TRANSPARENT) {
            let worst = misses.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
            let Some((next, _)) = worst.filter(|(_, miss)| **miss > 0.0) else { break };
            let entry = colors[next].0;
            entries.push(entry);
            for (miss, (color, count)) in misses.iter_mut().zip(&colors) {
                let weight = f64::from(*count).sqrt();
                *miss = miss.min(f64::from(distance(entry, *color)) * weight);
            }
        }
        entries.resize(256, [0, 0, 0]);
        Self { bytes: entries.into_flattened(), known: HashMap::new() }
    }

    /// The nearest entry and its squared distance.
    fn nearest(&mut self, color: Rgb) -> (u8, u32) {
        if let Some(&known) = self.known.get(&color) {
            return known;
        }
        let mut best = (0, u32::MAX);
        for (i, entry) in (0..TRANSPARENT).zip(self.bytes.chunks_exact(3)) {
            let distance = distance([entry[0], entry[1], entry[2]], color);
            if distance < best.1 {
                best = (i, distance);
            }
        }
        if self.known.len() > 1 << 16 {
            self.known.clear();
        }
        self.known.insert(color, best);
        best
    }
}

fn distance(a: Rgb, b: Rgb) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 64;

    /// A disc of `color` at `x` on a light ground with a smooth edge.
    fn picture(x: f64, color: Rgb) -> Vec<u8> {
        let mut rgb = Vec::new();
        for row in 0..SIDE {
            for column in 0..SIDE {
                let distance = (column as f64 - x).hypot(row as f64 - 30.0);
                let inside = (10.5 - distance).clamp(0.0, 1.0);
                rgb.extend(color.map(|c| (f64::from(c) * inside + 247.0 * (1.0 - inside)) as u8));
            }
        }
        rgb
    }

    /// Every frame composed as a viewer does it, with its delay in hundredths of a second.
    fn play(path: &Path) -> Vec<(Vec<u8>, u16)> {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(File::open(path).unwrap()).unwrap();
        let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
        let mut screen = vec![0; width * height * 3];
        let mut frames = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            for (i, pixel) in frame.buffer.chunks_exact(4).enumerate() {
                let x = usize::from(frame.left) + i % usize::from(frame.width);
                let y = usize::from(frame.top) + i / usize::from(frame.width);
                if pixel[3] == 255 {
                    screen[(y * width + x) * 3..][..3].copy_from_slice(&pixel[..3]);
                }
            }
            frames.push((screen.clone(), frame.delay));
        }
        frames
    }

    fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn what_is_played_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        let mut pictures: Vec<Vec<u8>> =
            (0..40).map(|i| picture(12.0 + f64::from(i), [60, 110, 220])).collect();
        // A colour that the sample has never seen must not become the nearest blue.
        pictures.extend((0..4).map(|i| picture(12.0 + f64::from(i), [220, 30, 30])));
        let mut gif = GifWriter::create(&path, SIDE as u32, SIDE as u32, 30.0).unwrap();
        for picture in &pictures {
            gif.frame(picture).unwrap();
        }
        gif.finish().unwrap();
        let played = play(&path);
        assert_eq!(played.len(), pictures.len());
        for (i, ((frame, _), picture)) in played.iter().zip(&pictures).enumerate() {
            let worst = largest_difference(frame, picture);
            assert!(worst <= 24, "frame {i} is off by {worst} levels");
        }
        let total: u32 = played.iter().map(|(_, delay)| u32::from(*delay)).sum();
        assert_eq!(total, 147, "44 frames at 30 a second take 1.47 s");
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes < 44 * 800, "{bytes} bytes for a small moving disc");
    }

    #[test]
    fn still_frames_and_pauses_only_cost_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        let mut gif = GifWriter::create(&path, SIDE as u32, SIDE as u32, 10.0).unwrap();
        for _ in 0..5 {
            gif.frame(&picture(20.0, [0, 90, 0])).unwrap();
        }
        gif.pause(1.0).unwrap();
        gif.frame(&picture(30.0, [0, 90, 0])).unwrap();
        gif.finish().unwrap();
        let delays: Vec<u16> = play(&path).into_iter().map(|(_, delay)| delay).collect();
        assert_eq!(delays, [150, 10]);
    }

    #[test]
    fn bad_sizes_and_empty_animations_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        assert!(GifWriter::create(&path, 0, 4, 10.0).is_err());
        assert!(GifWriter::create(&path, 4, 70_000, 10.0).is_err());
        assert!(GifWriter::create(&path, 4, 4, f64::NAN).is_err());
        assert!(GifWriter::create(&path.join("none"), 4, 4, 10.0).is_err());
        let mut gif = GifWriter::create(&path, 4, 4, 10.0).unwrap();
        assert!(gif.frame(&[0; 47]).is_err());
        assert!(gif.finish().is_err());
    }
}
