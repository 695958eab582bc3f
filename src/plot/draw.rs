//! From a figure to pixels: where its panels lie, their frames, and the legend below.

use super::Color;
use super::axis::Axis;
use super::canvas::{Anchor, Canvas, Paint};
use super::figure::{Figure, Layer, Mark, Panel};
use super::marks::{self, Place};
use crate::{Error, Result};

const FAINT_TEXT: Color = Color(75, 85, 99);
const FRAME: Color = Color(156, 163, 175);
const GRID: Color = Color(229, 231, 235);

/// Sizes of letters in px: figure's title, panel's title, axis labels and legend, numbers, powers.
const LETTERS: [f64; 5] = [21.0, 18.0, 17.0, 15.0, 11.0];
/// Room for a number in px, along and up.
const EACH: [f64; 2] = [62.0, 48.0];
/// Height of a row of the legend.
const ROW: f64 = 26.0;

/// A layer's name, how it looks, and where its entry lies below the panels.
struct Entry<'a> {
    layer: &'a Layer,
    color: Color,
    at: (f64, f64),
}

/// Width and height in px, and the bytes.
pub(super) fn render(figure: &Figure) -> Result<([u32; 2], Vec<u8>)> {
    let (count, columns) =
        (figure.panels.len(), figure.columns.clamp(1, figure.panels.len().max(1)));
    if count == 0 {
        let title = &figure.title;
        return Err(Error::Invalid(format!("plot {title:?}: expected a panel, got none")));
    }
    let head = if figure.title.is_empty() { 4.0 } else { 44.0 };
    let [width, height] = figure.panel.map(f64::from);
    let total = width * columns as f64;
    let below = head + height * count.div_ceil(columns) as f64;
    let mut measure = Canvas::new([1, 1])?;
    let (entries, rows) = legend(&mut measure, figure, total, below)?;
    let foot = if rows == 0 { 0.0 } else { rows as f64 * ROW + 12.0 };
    let size = [total as u32, (below + foot) as u32];

    let mut canvas = Canvas::new(size)?;
    canvas.words(&figure.title, (total / 2.0, 14.0), LETTERS[0], Color::INK, Anchor::Below)?;
    for (i, panel) in figure.panels.iter().enumerate() {
        let corner = ((i % columns) as f64 * width, head + (i / columns) as f64 * height);
        let place = place(&mut measure, panel, corner, [width, height])?;
        panel.layers.iter().try_for_each(|layer| marks::heat(&mut canvas, layer, &place))?;
        frame(&mut canvas, panel, &place)?;
        for (layer, color) in panel.layers.iter().zip(colors(panel)) {
            marks::draw(&mut canvas, layer, color, &place)?;
        }
    }
    for entry in &entries {
        key(&mut canvas, entry)?;
    }
    Ok((size, canvas.finish()))
}

/// Colours of the layers: their own, or the next of the palette.
fn colors(panel: &Panel) -> impl Iterator<Item = Color> {
    let mut next = Color::PALETTE.into_iter().cycle();
    panel.layers.iter().map(move |layer| match layer.color {
        Some(color) => color,
        None => next.next().unwrap_or(Color::INK),
    })
}

/// Ticks of an axis of so many px: as many as have room.
fn ticks(axis: &Axis, extent: f64, each: f64) -> Vec<(f64, String)> {
    axis.ticks(((extent / each) as usize).max(3))
}

/// The frame of a panel whose left top corner is given.
fn place(
    measure: &mut Canvas,
    panel: &Panel,
    (x, y): (f64, f64),
    [width, height]: [f64; 2],
) -> Result<Place> {
    let axes = panel.axes()?;
    let top = 6.0 + 26.0 * given(&panel.title);
    let bottom = if panel.x.bare { 12.0 } else { 34.0 } + 24.0 * given(&panel.x.label);
    let mut left = 12.0 + 22.0 * given(&panel.y.label);
    if !panel.y.bare {
        let mut widest = 20.0f64;
        for (_, number) in ticks(&axes[1], height - top - bottom, EACH[1]) {
            widest = widest.max(number_width(measure, &number)?);
        }
        left += widest + 8.0;
    }
    let right = if panel.x.bare { 10.0 } else { 18.0 };
    Ok(Place {
        left: (x + left).round(),
        top: (y + top).round(),
        right: (x + width - right).round(),
        bottom: (y + height - bottom).round(),
        label: x + 6.0,
        axes,
    })
}

/// A number that ends at a point; what follows a `^` is smaller and higher.
fn write_number(canvas: &mut Canvas, number: &str, (x, y): (f64, f64)) -> Result<()> {
    let (base, power) = number.split_once('^').unwrap_or((number, ""));
    let raised = canvas.width(power, LETTERS[4])?;
    canvas.words(power, (x, y - 5.0), LETTERS[4], FAINT_TEXT, Anchor::Left)?;
    canvas.words(base, (x - raised, y), LETTERS[3], FAINT_TEXT, Anchor::Left)
}

fn number_width(measure: &mut Canvas, number: &str) -> Result<f64> {
    let (base, power) = number.split_once('^').unwrap_or((number, ""));
    Ok(measure.width(base, LETTERS[3])? + measure.width(power, LETTERS[4])?)
}

fn given(words: &str) -> f64 {
    if words.is_empty() { 0.0 } else { 1.0 }
}

fn frame(canvas: &mut Canvas, panel: &Panel, place: &Place) -> Result<()> {
    let &Place { left, top, right, bottom, .. } = place;
    let filled = panel.layers.iter().any(|layer| matches!(layer.mark, Mark::Heat { .. }));
    let rule = |canvas: &mut Canvas, points: [(f64, f64); 2], color: Color| {
        if !(filled && color == GRID) {
            canvas.line(&points, 1.0, Paint(color, 1.0));
        }
    };
    let [x_axis, y_axis]: &[Axis; 2] = &place.axes;
    if !panel.x.bare {
        for share in x_axis.minor() {
            let x = left + share * (right - left);
            rule(canvas, [(x, bottom - 4.0), (x, bottom)], FRAME);
        }
        for (share, number) in ticks(x_axis, right - left, EACH[0]) {
            let x = left + share * (right - left);
            rule(canvas, [(x, top), (x, bottom)], GRID);
            rule(canvas, [(x, bottom), (x, bottom + 5.0)], FRAME);
            let half = number_width(canvas, &number)? / 2.0;
            write_number(canvas, &number, (x + half, bottom + 16.0))?;
        }
    }
    if !panel.y.bare {
        for share in y_axis.minor() {
            let y = bottom - share * (bottom - top);
            rule(canvas, [(left, y), (left + 4.0, y)], FRAME);
        }
        for (share, number) in ticks(y_axis, bottom - top, EACH[1]) {
            let y = bottom - share * (bottom - top);
            rule(canvas, [(left, y), (right, y)], GRID);
            rule(canvas, [(left - 5.0, y), (left, y)], FRAME);
            write_number(canvas, &number, (left - 9.0, y))?;
        }
    }
    let corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
    for side in corners.windows(2) {
        rule(canvas, [side[0], side[1]], FRAME);
    }
    let middle = (left + right) / 2.0;
    canvas.words(&panel.title, (middle, top - 6.0), LETTERS[1], Color::INK, Anchor::Above)?;
    let under = bottom + if panel.x.bare { 8.0 } else { 30.0 };
    canvas.words(&panel.x.label, (middle, under), LETTERS[2], Color::INK, Anchor::Below)?;
    let height = (top + bottom) / 2.0;
    canvas.words(&panel.y.label, (place.label, height), LETTERS[2], Color::INK, Anchor::Turned)
}

/// Entries in rows below the panels, so that they can cover nothing; a name appears once.
fn legend<'a>(
    measure: &mut Canvas,
    figure: &'a Figure,
    total: f64,
    top: f64,
) -> Result<(Vec<Entry<'a>>, usize)> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut rows: Vec<(f64, usize)> = Vec::new();
    for panel in &figure.panels {
        for (layer, color) in panel.layers.iter().zip(colors(panel)) {
            let known = |entry: &Entry<'_>| entry.layer.name == layer.name;
            if layer.name.is_empty() || entries.iter().any(known) {
                continue;
            }
            let width = 38.0 + measure.width(&layer.name, LETTERS[2])? + 26.0;
            match rows.last_mut() {
                Some((used, count)) if *used + width <= total - 24.0 => {
                    entries.push(Entry { layer, color, at: (*used, 0.0) });
                    *used += width;
                    *count += 1;
                }
                _ => {
                    entries.push(Entry { layer, color, at: (0.0, 0.0) });
                    rows.push((width, 1));
                }
            }
        }
    }
    let mut rest = entries.iter_mut();
    for (row, (used, count)) in rows.iter().enumerate() {
        let left = (total - used + 26.0) / 2.0;
        for entry in rest.by_ref().take(*count) {
            entry.at = (left + entry.at.0, top + (row as f64 + 0.5) * ROW);
        }
    }
    Ok((entries, rows.len()))
}

/// A sample of the layer and its name.
fn key(canvas: &mut Canvas, entry: &Entry<'_>) -> Result<()> {
    let Entry { layer, color, at: (x, y) } = *entry;
    let paint = Paint(color, layer.opacity.max(0.5));
    match &layer.mark {
        Mark::Line { width, dashed, dots } => {
            let pieces: &[[f64; 2]] =
                if *dashed { &[[0.0, 7.0], [10.0, 17.0], [20.0, 27.0]] } else { &[[0.0, 28.0]] };
            for [from, to] in pieces {
                canvas.line(&[(x + from, y), (x + to, y)], width.max(2.5), paint);
            }
            if *dots {
                canvas.disc((x + 14.0, y), 4.0, paint);
            }
        }
        Mark::Arrows { .. } => marks::arrow(canvas, [(x, y), (x + 28.0, y)], paint)?,
        Mark::Area | Mark::Shape | Mark::Heat { .. } => {
            let (left, right) = (x + 4.0, x + 26.0);
            let corners = [(left, y - 7.0), (right, y - 7.0), (right, y + 7.0), (left, y + 7.0)];
            canvas.polygon(&corners, paint)?;
        }
        Mark::Discs { .. } | Mark::Words(_) => canvas.disc((x + 20.0, y), 5.0, paint),
    }
    canvas.words(&layer.name, (x + 36.0, y), LETTERS[2], Color::INK, Anchor::Right)
}
