//! An RGB buffer that is larger than the picture and averaged down to it.
//!
//! All lengths here are px of the picture. Averaging makes lines and letters smooth. Words and
//! polygons are drawn by plotters; lines are not, because its sharp joints reach far out of the
//! picture where a line turns back.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::Color;
use crate::{Error, Result};

/// Everything is drawn this many times larger.
const SCALE: f64 = 3.0;
const FONT: &str = "pathline-plot";

/// Where words stand against their point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    /// Centred, below it.
    Below,
    /// Centred, above it.
    Above,
    /// Ending at it.
    Left,
    /// Beginning at it.
    Right,
    /// Turned by a quarter, centred, to the right of it.
    Turned,
}

/// A white picture to draw on.
pub(super) struct Canvas {
    /// The enlarged picture, three bytes a pixel.
    buffer: Vec<u8>,
    /// Of the enlarged picture.
    width: usize,
    height: usize,
}

impl Canvas {
    /// A canvas of `[width, height]` px.
    pub(super) fn new(size: [u32; 2]) -> Result<Self> {
        register()?;
        let [width, height] = size.map(|v| v as usize * SCALE as usize);
        Ok(Self { buffer: vec![255; width * height * 3], width, height })
    }

    /// A line through `points` with round joints; where it crosses itself it is no darker.
    pub(super) fn line(&mut self, points: &[(f64, f64)], width: f64, paint: Paint) {
        let radius = (width * SCALE / 2.0).max(0.6);
        let large = points.iter().map(|&(x, y)| (x * SCALE - 0.5, y * SCALE - 0.5));
        let large: Vec<(f64, f64)> = large.collect();
        let mut inside = BTreeSet::new();
        for pair in large.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let (dx, dy) = (b.0 - a.0, b.1 - a.1);
            let square = (dx * dx + dy * dy).max(1e-12);
            for y in span(a.1.min(b.1) - radius, a.1.max(b.1) + radius, self.height) {
                // Only the columns near the line in this row.
                let rest = y as f64 - a.1;
                let (mut from, mut to) = (a.0.min(b.0), a.0.max(b.0));
                if dy.abs() > 1e-9 {
                    let reach = radius * square.sqrt() / dy.abs();
                    let middle = a.0 + dx * rest / dy;
                    from = from.max(middle - reach - radius);
                    to = to.min(middle + reach + radius);
                }
                for x in span(from - radius, to + radius, self.width) {
                    let (px, py) = (x as f64 - a.0, rest);
                    let along = ((px * dx + py * dy) / square).clamp(0.0, 1.0);
                    if (px - along * dx).hypot(py - along * dy) <= radius {
                        inside.insert(y * self.width + x);
                    }
                }
            }
        }
        inside.into_iter().for_each(|pixel| self.blend(pixel, paint));
    }

    pub(super) fn disc(&mut self, (x, y): (f64, f64), radius: f64, paint: Paint) {
        let (x, y, radius) = (x * SCALE - 0.5, y * SCALE - 0.5, (radius * SCALE).max(0.6));
        for row in span(y - radius, y + radius, self.height) {
            let half = (radius * radius - (row as f64 - y).powi(2)).max(0.0).sqrt();
            for column in span(x - half, x + half, self.width) {
                self.blend(row * self.width + column, paint);
            }
        }
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], paint: Paint) -> Result<()> {
        let polygon = Polygon::new(enlarged(points), paint.rgba().filled());
        self.area().draw(&polygon).map_err(failed)
    }

    /// Paints a rectangle, `corners` left top and right bottom, with `color` of the place in it,
    /// (0, 0) to (1, 1) from the left top.
    pub(super) fn fill(
        &mut self,
        [(left, top), (right, bottom)]: [(f64, f64); 2],
        color: impl Fn(f64, f64) -> Color,
    ) {
        let edge = |v: f64, end: usize| ((v * SCALE).round().max(0.0) as usize).min(end);
        for y in edge(top, self.height)..edge(bottom, self.height) {
            let down = (y as f64 + 0.5 - top * SCALE) / ((bottom - top) * SCALE);
            for x in edge(left, self.width)..edge(right, self.width) {
                let along = (x as f64 + 0.5 - left * SCALE) / ((right - left) * SCALE);
                self.blend(y * self.width + x, Paint(color(along, down), 1.0));
            }
        }
    }

    pub(super) fn words(
        &mut self,
        words: &str,
        at: (f64, f64),
        size: f64,
        color: Color,
        anchor: Anchor,
    ) -> Result<()> {
        let (mut style, at) = (style(size, color, anchor), enlarged(&[at])[0]);
        if let Anchor::Turned = anchor {
            style = style.transform(FontTransform::Rotate270);
        }
        self.area().draw(&Text::new(words, at, style)).map_err(failed)
    }

    /// Width of words.
    pub(super) fn width(&mut self, words: &str, size: f64) -> Result<f64> {
        let style = style(size, Color::INK, Anchor::Right);
        let (width, _) = self.area().estimate_text_size(words, &style).map_err(failed)?;
        Ok(f64::from(width) / SCALE)
    }

    /// The picture, averaged over squares of SCALE×SCALE pixels: `height·width·3` bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        let scale = SCALE as usize;
        let width = self.width / scale;
        let mut small = Vec::with_capacity(width * self.height / scale * 3);
        let mut sums = vec![0u32; width * 3];
        for rows in self.buffer.chunks_exact((self.width * 3 * scale).max(1)) {
            sums.fill(0);
            for row in rows.chunks_exact(self.width * 3) {
                for (sum, square) in sums.chunks_exact_mut(3).zip(row.chunks_exact(scale * 3)) {
                    for pixel in square.chunks_exact(3) {
                        sum.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += u32::from(*v));
                    }
                }
            }
            small.extend(sums.iter().map(|sum| (sum / (scale * scale) as u32) as u8));
        }
        small
    }

    fn blend(&mut self, pixel: usize, Paint(Color(r, g, b), opacity): Paint) {
        for (under, over) in self.buffer[pixel * 3..][..3].iter_mut().zip([r, g, b]) {
            let mixed = f64::from(*under) * (1.0 - opacity) + f64::from(over) * opacity;
            *under = mixed.round() as u8;
        }
    }

    fn area(&mut self) -> DrawingArea<BitMapBackend<'_>, Shift> {
        let size = (self.width as u32, self.height as u32);
        BitMapBackend::with_buffer(&mut self.buffer, size).into_drawing_area()
    }
}

/// Whole numbers from `from` to `to` that are below `end`.
fn span(from: f64, to: f64, end: usize) -> std::ops::Range<usize> {
    let (first, last) = (from.ceil().max(0.0) as usize, (to.floor() + 1.0).max(0.0) as usize);
    first.min(end)..last.min(end)
}

/// A colour and its opacity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(pub(super) Color, pub(super) f64);

impl Paint {
    fn rgba(self) -> RGBAColor {
        let Self(Color(r, g, b), opacity) = self;
        RGBColor(r, g, b).mix(opacity)
    }
}

fn enlarged(points: &[(f64, f64)]) -> Vec<(i32, i32)> {
    let large = |v: f64| (v * SCALE).round() as i32;
    points.iter().map(|&(x, y)| (large(x), large(y))).collect()
}

fn style(size: f64, color: Color, anchor: Anchor) -> TextStyle<'static> {
    let place = match anchor {
        Anchor::Below | Anchor::Turned => Pos::new(HPos::Center, VPos::Top),
        Anchor::Above => Pos::new(HPos::Center, VPos::Bottom),
        Anchor::Left => Pos::new(HPos::Right, VPos::Center),
        Anchor::Right => Pos::new(HPos::Left, VPos::Center),
    };
    let mut style = TextStyle::from((FONT, size * SCALE).into_font()).pos(place);
    style.color = RGBColor(color.0, color.1, color.2).to_backend_color();
    style
}

/// plotters keeps fonts in one table of the process; ours enters it once, under its own name.
fn register() -> Result<()> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let bytes = epaint_default_fonts::UBUNTU_LIGHT;
    let usable = || register_font(FONT, FontStyle::Normal, bytes).is_ok();
    if *REGISTERED.get_or_init(usable) {
        Ok(())
    } else {
        Err(Error::Invalid("the font compiled in for plots cannot be read".to_owned()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> Error {
    Error::Invalid(format!("plot: {error}"))
}
