//! The picture itself: frame, grid, labels, lines, legend.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::Series;
use super::axis::Axis;
use crate::{Error, Result};

/// Everything is drawn this many times larger and averaged down.
const SCALE: i32 = 2;
const FONT: &str = "pathline-plot";

const TEXT: RGBColor = RGBColor(31, 41, 55);
const FAINT_TEXT: RGBColor = RGBColor(75, 85, 99);
const FRAME: RGBColor = RGBColor(156, 163, 175);
const GRID: RGBColor = RGBColor(229, 231, 235);
const LINES: [RGBColor; 7] = [
    RGBColor(37, 99, 235),
    RGBColor(234, 88, 12),
    RGBColor(22, 163, 74),
    RGBColor(147, 51, 234),
    RGBColor(219, 39, 119),
    RGBColor(13, 148, 136),
    RGBColor(120, 113, 108),
];

/// Lines with at most this many points show each of them.
const FEW_POINTS: usize = 40;

/// Distance of the plot from the picture's sides: left, top, right, bottom.
const MARGIN: [i32; 4] = [86, 56, 28, 68];

pub(super) struct Labels<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// `height * width * 3` bytes of RGB.
pub(super) fn render(
    [width, height]: [u32; 2],
    labels: &Labels<'_>,
    axes: &[Axis; 2],
    series: &[Series],
) -> Result<Vec<u8>> {
    register()?;
    let large = [width, height].map(|v| v * SCALE as u32);
    let mut buffer = vec![255; (large[0] * large[1] * 3) as usize];
    {
        let area =
            BitMapBackend::with_buffer(&mut buffer, (large[0], large[1])).into_drawing_area();
        let size = [width as i32, height as i32];
        frame(&area, size, labels, axes)
            .and_then(|()| lines(&area, size, axes, series))
            .and_then(|()| legend(&area, size, axes, series))
            .and_then(|()| area.present().map_err(failed))?;
    }
    Ok(shrink(&buffer, large))
}

fn frame(area: &Area<'_>, size: [i32; 2], labels: &Labels<'_>, axes: &[Axis; 2]) -> Result<()> {
    let [left, top, right, bottom] = inner(size);
    for (place, text) in axes[0].ticks(8) {
        let x = left + (place * f64::from(right - left)).round() as i32;
        stroke(area, &[(x, top), (x, bottom)], GRID.into(), 1)?;
        write(area, &text, (x, bottom + 8), 15, FAINT_TEXT, Pos::new(HPos::Center, VPos::Top))?;
    }
    for (place, text) in axes[1].ticks(6) {
        let y = bottom - (place * f64::from(bottom - top)).round() as i32;
        stroke(area, &[(left, y), (right, y)], GRID.into(), 1)?;
        write(area, &text, (left - 8, y + 1), 15, FAINT_TEXT, Pos::new(HPos::Right, VPos::Center))?;
    }
    stroke(area, &[(left, top), (left, bottom), (right, bottom)], FRAME.into(), 1)?;
    let middle = (left + right) / 2;
    write(area, labels.title, (middle, 16), 23, TEXT, Pos::new(HPos::Center, VPos::Top))?;
    let below = (middle, size[1] - 14);
    write(area, labels.x, below, 17, TEXT, Pos::new(HPos::Center, VPos::Bottom))?;
    let style = text_style(17, TEXT, Pos::new(HPos::Center, VPos::Top));
    let turned = style.transform(FontTransform::Rotate270);
    let beside = (14 * SCALE, (top + bottom) / 2 * SCALE);
    area.draw(&Text::new(labels.y, beside, turned)).map_err(failed)
}

fn lines(area: &Area<'_>, size: [i32; 2], axes: &[Axis; 2], series: &[Series]) -> Result<()> {
    for (line, color) in series.iter().zip(LINES.iter().cycle()) {
        let places: Vec<Option<(i32, i32)>> =
            line.points.iter().map(|&point| place(size, axes, point)).collect();
        for piece in places.split(|place| place.is_none()) {
            let piece: Vec<(i32, i32)> = piece.iter().flatten().copied().collect();
            let style = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: 4 };
            if piece.len() > 1 {
                area.draw(&PathElement::new(piece.clone(), style)).map_err(failed)?;
            }
            if line.points.len() <= FEW_POINTS || piece.len() == 1 {
                for &point in &piece {
                    area.draw(&Circle::new(point, 7, color.filled())).map_err(failed)?;
                }
            }
        }
    }
    Ok(())
}

/// The legend stands in the upper corner where it covers fewer points.
fn legend(area: &Area<'_>, size: [i32; 2], axes: &[Axis; 2], series: &[Series]) -> Result<()> {
    let named = || series.iter().zip(LINES.iter().cycle()).filter(|(s, _)| !s.name.is_empty());
    let style = text_style(16, TEXT, Pos::new(HPos::Left, VPos::Center));
    let mut longest = 0;
    for (line, _) in named() {
        let (width, _) = area.estimate_text_size(&line.name, &style).map_err(failed)?;
        longest = longest.max(width as i32 / SCALE);
    }
    let count = named().count() as i32;
    if count == 0 {
        return Ok(());
    }
    let [left, top, right, _] = inner(size);
    let [width, height] = [longest + 62, count * 24 + 12];
    let corners = [[right - width - 12, top + 10], [left + 12, top + 10]];
    let covered = |[x, y]: [i32; 2]| {
        let inside = |&(px, py): &(i32, i32)| {
            (x * SCALE..(x + width) * SCALE).contains(&px)
                && (y * SCALE..(y + height) * SCALE).contains(&py)
        };
        let points = series.iter().flat_map(|s| &s.points);
        points.filter_map(|&point| place(size, axes, point)).filter(inside).count()
    };
    let corner = if covered(corners[1]) < covered(corners[0]) { corners[1] } else { corners[0] };
    let [x, y] = corner;
    let outline = [(x * SCALE, y * SCALE), ((x + width) * SCALE, (y + height) * SCALE)];
    area.draw(&Rectangle::new(outline, WHITE.mix(0.88).filled())).map_err(failed)?;
    area.draw(&Rectangle::new(outline, ShapeStyle::from(&GRID).stroke_width(2))).map_err(failed)?;
    for ((line, color), row) in named().zip(0..) {
        let middle = y + 18 + row * 24;
        stroke(area, &[(x + 12, middle), (x + 38, middle)], color.to_rgba(), 3)?;
        let (anchor, position) = (Pos::new(HPos::Left, VPos::Center), (x + 48, middle));
        write(area, &line.name, position, 16, TEXT, anchor)?;
    }
    Ok(())
}

/// The plot's rectangle: left, top, right, bottom.
fn inner([width, height]: [i32; 2]) -> [i32; 4] {
    [MARGIN[0], MARGIN[1], width - MARGIN[2], height - MARGIN[3]]
}

/// Where a point lies on the large buffer.
fn place(size: [i32; 2], axes: &[Axis; 2], (x, y): (f64, f64)) -> Option<(i32, i32)> {
    let [left, top, right, bottom] = inner(size).map(|v| f64::from(v * SCALE));
    let column = left + axes[0].place(x)? * (right - left);
    let row = bottom - axes[1].place(y)? * (bottom - top);
    Some((column.round() as i32, row.round() as i32))
}

fn stroke(area: &Area<'_>, points: &[(i32, i32)], color: RGBAColor, width: u32) -> Result<()> {
    let points: Vec<(i32, i32)> = points.iter().map(|&(x, y)| (x * SCALE, y * SCALE)).collect();
    let style = ShapeStyle { color, filled: false, stroke_width: width * SCALE as u32 };
    area.draw(&PathElement::new(points, style)).map_err(failed)
}

fn write(
    area: &Area<'_>,
    text: &str,
    (x, y): (i32, i32),
    size: i32,
    color: RGBColor,
    anchor: Pos,
) -> Result<()> {
    let style = text_style(size, color, anchor);
    area.draw(&Text::new(text, (x * SCALE, y * SCALE), style)).map_err(failed)
}

fn text_style(size: i32, color: RGBColor, anchor: Pos) -> TextStyle<'static> {
    let mut style = TextStyle::from((FONT, size * SCALE).into_font()).pos(anchor);
    style.color = color.to_backend_color();
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

/// Averages squares of SCALE×SCALE pixels.
fn shrink(buffer: &[u8], [width, height]: [u32; 2]) -> Vec<u8> {
    let [width, height, scale] = [width as usize, height as usize, SCALE as usize];
    let mut small = Vec::with_capacity(buffer.len() / (scale * scale));
    for y in (0..height).step_by(scale) {
        for x in (0..width).step_by(scale) {
            for channel in 0..3 {
                let at = |i: usize| {
                    let (row, column) = (y + i / scale, x + i % scale);
                    u32::from(buffer[(row * width + column) * 3 + channel])
                };
                let sum: u32 = (0..scale * scale).map(at).sum();
                small.push((sum / (scale * scale) as u32) as u8);
            }
        }
    }
    small
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> Error {
    Error::Invalid(format!("plot: {error}"))
}
