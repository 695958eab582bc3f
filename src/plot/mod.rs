//! Pictures as PNG files, without a display or a system font.
//!
//! A [`Figure`] is data: panels of layers (lines, discs, arrows, areas, shapes, heat maps, words) over linear
//! or logarithmic axes, and one legend below them, where it can cover nothing. [`line_plot`] is the
//! short way to one panel of lines. A [`Sheet`] is rows of pictures with words around them.
//!
//! plotters draws on an RGB buffer of three times the size, which is then averaged down, so that
//! lines and letters are smooth; files hold at most 256 colours. The letters are Ubuntu Light, compiled in.

mod axis;
mod canvas;
mod color;
mod draw;
mod figure;
mod marks;
mod png_file;
mod sheet;

use std::path::Path;

pub use color::Color;
pub use figure::{Figure, Layer, Mark, Panel, Scale};
pub use sheet::{Row, Sheet, Tile};

use crate::Result;

/// Width and height of a line plot's panel in px.
const SIZE: [u32; 2] = [960, 560];

/// Lines with at most this many points show each of them.
const FEW_POINTS: usize = 40;

/// A named line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend; an empty name has no entry.
    pub name: String,
    /// x and y; points that are not finite, or not positive on a logarithmic axis, interrupt the line.
    pub points: Vec<(f64, f64)>,
}

/// Draws `series` as lines to a PNG file of 960 px width, with a dot a point where there are few.
///
/// # Errors
/// There is no point that can be drawn, or the file cannot be written.
pub fn line_plot(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
    log_y: bool,
) -> Result<()> {
    let y = Scale { logarithmic: log_y, ..Scale::linear(y_label) };
    let layers = series.iter().map(|series| {
        let points = series.points.clone();
        let few = points.len() <= FEW_POINTS;
        let layer = if few { Layer::dotted_line(points) } else { Layer::line(points) };
        layer.named(series.name.as_str())
    });
    let panel = Panel::new("", Scale::linear(x_label), y).with_all(layers);
    Figure::new(title, 1, SIZE).with(panel).save(path)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn read(path: &Path) -> Vec<u8> {
        let file = std::io::BufReader::new(File::open(path).unwrap());
        let mut decoder = png::Decoder::new(file);
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width, info.color_type), (SIZE[0], png::ColorType::Rgb));
        rgb
    }

    fn ink(rgb: &[u8]) -> usize {
        rgb.chunks_exact(3).filter(|p| p.iter().all(|v| *v < 150)).count()
    }

    fn example() -> Vec<Series> {
        let line = |name: &str, scale: f64| Series {
            name: name.to_owned(),
            points: (0..400)
                .map(|i| {
                    let x = f64::from(i);
                    (x * 50.0, scale * ((-x / 60.0).exp() + 0.05 + 0.01 * (x * 1.3).sin()))
                })
                .collect(),
        };
        let few = Series {
            name: "validation".to_owned(),
            points: (1..=8).map(|i| (f64::from(i) * 2400.0, 0.9 / f64::from(i))).collect(),
        };
        vec![line("training", 1.0), line("training, EMA 0.999", 0.6), few]
    }

    #[test]
    fn words_are_drawn_and_the_legend_lies_below() {
        let folder = tempfile::tempdir().unwrap();
        let target = std::env::var("PATHLINE_PICTURES");
        let folder = target.as_deref().map_or(folder.path(), Path::new);
        for (log_y, name) in [(false, "linear"), (true, "log")] {
            let path = folder.join(format!("plot-{name}.png"));
            let draw = |title: &str, x: &str, y: &str, series: &[Series]| {
                line_plot(&path, title, x, y, series, log_y).unwrap();
                read(&path)
            };
            let nameless: Vec<Series> =
                example().into_iter().map(|s| Series { name: String::new(), ..s }).collect();
            let bare = draw("", "", "", &nameless);
            let labelled = draw("", "training step", "loss", &nameless);
            assert!(ink(&labelled) > ink(&bare) + 80, "{} {}", ink(&labelled), ink(&bare));
            let legend = draw("", "training step", "loss", &example());
            // One more row of the picture for all entries, and the panel as it was, but for the
            // palette.
            assert_eq!(legend.len() - labelled.len(), 38 * 960 * 3);
            let pairs = legend.iter().zip(&labelled).take(520 * 960 * 3);
            let moved = pairs.filter(|(a, b)| a.abs_diff(**b) > 24).count();
            assert!(moved == 0, "{moved} bytes of the panel moved");
            let full = draw("Flow matching on PushT", "training step", "loss", &example());
            assert_eq!(full.len() - legend.len(), 40 * 960 * 3);
            assert!(ink(&full) > ink(&legend) + 100, "{} {}", ink(&full), ink(&legend));
        }
    }

    #[test]
    fn every_mark_is_drawn_inside_its_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marks.png");
        let hue = |layer: Layer| {
            // Half of the layer lies outside the axes.
            let panel = Panel::new("", Scale::bare(0.0, 1.0), Scale::bare(0.0, 1.0));
            let layer = layer.colored(Color::VERMILION).faded(1.0);
            let figure = Figure::new("", 1, [960, 200]).with(panel.with(layer));
            figure.save(&path).unwrap();
            let rgb = read(&path);
            let red = |p: &[u8]| p[0] > 150 && p[2] < 60;
            let rows = rgb.chunks_exact(960 * 3).map(|row| {
                let found: Vec<usize> = row
                    .chunks_exact(3)
                    .enumerate()
                    .filter(|(_, p)| red(p))
                    .map(|(i, _)| i)
                    .collect();
                (
                    found.len(),
                    found.first().copied().unwrap_or(500),
                    found.last().copied().unwrap_or(500),
                )
            });
            rows.fold((0, 500, 500), |all, row| (all.0 + row.0, all.1.min(row.1), all.2.max(row.2)))
        };
        let across = vec![(-1.0, 0.5), (0.5, 0.5), (2.0, 0.6)];
        let layers = [
            Layer::line(across.clone()),
            Layer::dashes(across.clone()),
            Layer::discs(across.clone(), 3.0),
            Layer::arrows(across.clone(), &[(1.0, 0.0), (9.0, 0.2), (-1.0, 0.0)], 1.0),
            Layer::shape(vec![(-1.0, 0.2), (2.0, 0.2), (2.0, 0.8)]),
            Layer::area(across),
        ];
        for layer in layers {
            let mark = layer.mark.clone();
            let (count, first, last) = hue(layer);
            assert!(count > 15 && first >= 9 && last <= 951, "{mark:?}: {count} {first} {last}");
        }
        // A heat map: white at its first corner, dark at the other.
        let heat = Layer::heat([(0.0, 0.0), (1.0, 1.0)], 2, vec![0.0, 0.5, 0.5, 1.0]);
        let panel = || Panel::new("", Scale::bare(0.0, 1.0), Scale::bare(0.0, 1.0));
        Figure::new("", 1, [960, 200]).with(panel().with(heat)).save(&path).unwrap();
        let rgb = read(&path);
        let pixel = |x: usize, y: usize| &rgb[(y * 960 + x) * 3..][..3];
        assert!(pixel(16, 180).iter().all(|v| *v > 240), "{:?}", pixel(16, 180));
        assert!(pixel(940, 16)[0] < 60, "{:?}", pixel(940, 16));

        let broken = Layer::heat([(0.0, 0.0), (1.0, 1.0)], 3, vec![0.0; 4]);
        assert!(Figure::new("", 1, [960, 200]).with(panel().with(broken)).save(&path).is_err());
        assert!(Figure::new("", 1, [960, 200]).save(&path).is_err());
    }

    #[test]
    fn nothing_to_draw_is_an_error_and_gaps_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        let draw = |points: Vec<(f64, f64)>, log_y| {
            let series = Series { name: String::new(), points };
            line_plot(&path, "t", "x", "y", &[series], log_y)
        };
        assert!(draw(vec![], false).is_err());
        assert!(draw(vec![(0.0, f64::NAN)], false).is_err());
        assert!(draw(vec![(0.0, -1.0)], true).is_err());
        draw(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)], false).unwrap();
        draw(vec![(5.0, 5.0)], true).unwrap();
        let nowhere = folder.path().join("none").join("plot.png");
        assert!(line_plot(&nowhere, "t", "x", "y", &example(), false).is_err());
    }
}
