//! The marks of a layer, cut off at the frame of their panel.

use super::Color;
use super::axis::Axis;
use super::canvas::{Anchor, Canvas, Paint};
use super::figure::{Layer, Mark};
use crate::{Error, Result};

/// Shades of a heat map: few, so that its edges can be followed like contour lines.
const SHADES: f64 = 24.0;

/// The frame of a panel in px of the picture, and its axes.
pub(super) struct Place {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
    /// Left edge of the y axis' label.
    pub(super) label: f64,
    pub(super) axes: [Axis; 2],
}

impl Place {
    /// Where a point lies, also outside the frame.
    fn of(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let column = self.left + self.axes[0].share(x)? * (self.right - self.left);
        let row = self.bottom - self.axes[1].share(y)? * (self.bottom - self.top);
        Some((column, row))
    }

    fn holds(&self, (x, y): (f64, f64)) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }

    /// The part of a line between two points that lies in the frame.
    fn cut(&self, a: (f64, f64), b: (f64, f64)) -> Option<[(f64, f64); 2]> {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let (mut from, mut to) = (0.0f64, 1.0f64);
        let sides = [
            (-dx, a.0 - self.left),
            (dx, self.right - a.0),
            (-dy, a.1 - self.top),
            (dy, self.bottom - a.1),
        ];
        for (outwards, room) in sides {
            if outwards == 0.0 {
                if room < 0.0 {
                    return None;
                }
            } else if outwards < 0.0 {
                from = from.max(room / outwards);
            } else {
                to = to.min(room / outwards);
            }
        }
        let at = |share: f64| (a.0 + share * dx, a.1 + share * dy);
        (from <= to).then(|| [at(from), at(to)])
    }

    fn clamped(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// Everything but heat maps.
pub(super) fn draw(canvas: &mut Canvas, layer: &Layer, color: Color, place: &Place) -> Result<()> {
    let paint = Paint(color, layer.opacity);
    let spots: Vec<Option<(f64, f64)>> = layer.points.iter().map(|&p| place.of(p)).collect();
    let visible = || spots.iter().flatten().copied().filter(|&spot| place.holds(spot));
    match &layer.mark {
        Mark::Line { width, dashed, dots } => {
            for piece in pieces(&spots, place) {
                if *dashed {
                    dashes(&piece).iter().for_each(|dash| canvas.line(dash, *width, paint));
                } else {
                    canvas.line(&piece, *width, paint);
                }
            }
            let alone = spots.iter().flatten().count() == 1;
            if *dots || alone {
                visible().for_each(|spot| canvas.disc(spot, 4.0, paint));
            }
        }
        Mark::Discs { radius } => {
            visible().for_each(|spot| canvas.disc(spot, *radius, paint));
        }
        Mark::Arrows { tips } => {
            for (spot, tip) in spots.iter().zip(tips) {
                if let (Some(from), Some(to)) = (*spot, place.of(*tip))
                    && place.holds(from)
                {
                    arrow(canvas, [from, place.clamped(to)], paint)?;
                }
            }
        }
        Mark::Area => {
            let zero = place.of((0.0, 0.0)).map_or(place.bottom, |(_, row)| row);
            let edge: Vec<(f64, f64)> = spots.iter().flatten().map(|&s| place.clamped(s)).collect();
            if let (Some(first), Some(last)) = (edge.first(), edge.last()) {
                let mut outline = vec![place.clamped((first.0, zero))];
                let end = place.clamped((last.0, zero));
                outline.extend(&edge);
                outline.push(end);
                canvas.polygon(&outline, paint)?;
            }
        }
        Mark::Shape => {
            let outline: Vec<_> = spots.iter().flatten().map(|&s| place.clamped(s)).collect();
            canvas.polygon(&outline, paint)?;
        }
        Mark::Words(words) => visible()
            .try_for_each(|(x, y)| canvas.words(words, (x + 8.0, y), 16.0, color, Anchor::Right))?,
        Mark::Heat { .. } => {}
    }
    Ok(())
}

/// Paints a heat map; other marks are left alone.
pub(super) fn heat(canvas: &mut Canvas, layer: &Layer, place: &Place) -> Result<()> {
    let Mark::Heat { columns, values } = &layer.mark else { return Ok(()) };
    let rows = values.len() / (*columns).max(1);
    let corners = (
        layer.points.first().and_then(|p| place.of(*p)),
        layer.points.get(1).and_then(|p| place.of(*p)),
    );
    let ((Some(a), Some(b)), true) = (corners, rows > 0 && rows * columns == values.len()) else {
        return Err(Error::Invalid(format!(
            "plot: expected a heat map between two points with full rows of {columns}, got {} \
             points and {} values",
            layer.points.len(),
            values.len()
        )));
    };
    // The point of a place on the picture may lie anywhere between the corners, in either order.
    let (left, right) = (a.0.min(b.0).max(place.left), a.0.max(b.0).min(place.right));
    let (top, bottom) = (a.1.min(b.1).max(place.top), a.1.max(b.1).min(place.bottom));
    let value = |along: f64, down: f64| {
        let (x, y) = (left + along * (right - left), top + down * (bottom - top));
        let column = ((x - a.0) / (b.0 - a.0)).clamp(0.0, 1.0) * (columns - 1) as f64;
        let row = ((y - a.1) / (b.1 - a.1)).clamp(0.0, 1.0) * (rows - 1) as f64;
        let (i, j) = (column.floor() as usize, row.floor() as usize);
        let (i1, j1) = ((i + 1).min(columns - 1), (j + 1).min(rows - 1));
        let (u, v) = (column - i as f64, row - j as f64);
        let at = |i: usize, j: usize| values[j * columns + i];
        (1.0 - v) * ((1.0 - u) * at(i, j) + u * at(i1, j))
            + v * ((1.0 - u) * at(i, j1) + u * at(i1, j1))
    };
    let shade = |value: f64| (value.clamp(0.0, 1.0) * SHADES).round() / SHADES;
    let color = |along: f64, down: f64| Color::amount(shade(value(along, down)));
    canvas.fill([(left, top), (right, bottom)], color);
    Ok(())
}

/// A shaft and a head that shrinks with it.
pub(super) fn arrow(canvas: &mut Canvas, [from, to]: [(f64, f64); 2], paint: Paint) -> Result<()> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy);
    if length < 0.8 {
        canvas.disc(from, 0.7, paint);
        return Ok(());
    }
    let (ux, uy) = (dx / length, dy / length);
    let head = (0.42 * length).clamp(1.5, 7.0);
    let neck = (to.0 - ux * head, to.1 - uy * head);
    canvas.line(&[from, neck], 1.3, paint);
    let wing = 0.48 * head;
    canvas.polygon(
        &[to, (neck.0 - uy * wing, neck.1 + ux * wing), (neck.0 + uy * wing, neck.1 - ux * wing)],
        paint,
    )
}

/// Unbroken parts of a line inside the frame.
fn pieces(spots: &[Option<(f64, f64)>], place: &Place) -> Vec<Vec<(f64, f64)>> {
    let mut out: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in spots.windows(2) {
        let [Some(a), Some(b)] = *pair else { continue };
        let Some([from, to]) = place.cut(a, b) else { continue };
        match out.last_mut() {
            Some(piece) if piece.last() == Some(&from) => piece.push(to),
            _ => out.push(vec![from, to]),
        }
    }
    out
}

/// Dashes of 8 px with gaps of 5 px.
fn dashes(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    const PERIOD: f64 = 13.0;
    let (mut out, mut done) = (Vec::<Vec<(f64, f64)>>::new(), 0.0f64);
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        let at = |s: f64| (a.0 + (b.0 - a.0) * s / length, a.1 + (b.1 - a.1) * s / length);
        let mut gone = 0.0;
        while length > 0.0 && gone < length {
            let phase = (done + gone) % PERIOD;
            let ink = phase < 8.0;
            let next = (gone + if ink { 8.0 - phase } else { PERIOD - phase })
                .min(length)
                .max(gone + 1e-6);
            if ink {
                match out.last_mut() {
                    Some(dash) if phase > 0.0 && dash.last() == Some(&at(gone)) => {
                        dash.push(at(next));
                    }
                    _ => out.push(vec![at(gone), at(next)]),
                }
            }
            gone = next;
        }
        done += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Place {
        let axis = || Axis::between([0.0, 1.0], false).unwrap();
        Place {
            left: 0.0,
            top: 0.0,
            right: 100.0,
            bottom: 100.0,
            label: 0.0,
            axes: [axis(), axis()],
        }
    }

    #[test]
    fn lines_end_at_the_frame() {
        let place = unit();
        assert_eq!(place.cut((-50.0, 50.0), (150.0, 50.0)), Some([(0.0, 50.0), (100.0, 50.0)]));
        assert_eq!(place.cut((20.0, 50.0), (30.0, 60.0)), Some([(20.0, 50.0), (30.0, 60.0)]));
        assert_eq!(place.cut((-10.0, 50.0), (-1.0, 60.0)), None);
        assert_eq!(place.cut((-10.0, 95.0), (20.0, 125.0)), None);
        let spots =
            [Some((10.0, 10.0)), None, Some((20.0, 20.0)), Some((30.0, 20.0)), Some((30.0, 200.0))];
        let found = pieces(&spots, &place);
        assert_eq!(found, [vec![(20.0, 20.0), (30.0, 20.0), (30.0, 100.0)]]);
    }

    #[test]
    fn dashes_cover_eight_of_thirteen_px() {
        let found = dashes(&[(0.0, 0.0), (60.0, 0.0), (130.0, 0.0)]);
        let ink: f64 = found.iter().flat_map(|d| d.windows(2)).map(|w| w[1].0 - w[0].0).sum();
        assert!((ink - 80.0).abs() < 1e-4, "{ink}");
        assert_eq!(found.len(), 10);
    }
}
