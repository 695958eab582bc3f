//! Small line plots as PNG files, without a display or a system font.
//!
//! plotters draws on an RGB buffer of twice the size, which is then averaged down, so that lines and
//! letters are smooth. The letters are Ubuntu Light, compiled in.

mod axis;
mod draw;

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::{Error, Result};
use axis::Axis;

/// Width and height of a plot in px.
const SIZE: [u32; 2] = [960, 600];

/// A named line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend; an empty name has no entry.
    pub name: String,
    /// x and y; points that are not finite, or not positive on a logarithmic axis, interrupt the line.
    pub points: Vec<(f64, f64)>,
}

/// Draws `series` as lines to a 960×600 PNG file, with a dot a point where there are few.
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
    let drawable = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite() && (!log_y || y > 0.0);
    let points = || series.iter().flat_map(|s| s.points.iter().filter(drawable));
    let x_axis = Axis::around(points().map(|p| p.0), false);
    let y_axis = Axis::around(points().map(|p| p.1), log_y);
    let (Some(x_axis), Some(y_axis)) = (x_axis, y_axis) else {
        let path = path.display();
        return Err(Error::Invalid(format!("{path}: a plot needs a point that can be drawn")));
    };
    let axes = [x_axis.starting_at_zero(), y_axis.starting_at_zero()];
    let labels = draw::Labels { title, x: x_label, y: y_label };
    let rgb = draw::render(SIZE, &labels, &axes, series)?;
    write_png(path, SIZE, &rgb)
}

fn write_png(path: &Path, [width, height]: [u32; 2], rgb: &[u8]) -> Result<()> {
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(rgb).and_then(|()| writer.finish()))
        .map_err(|e| Error::io(path, std::io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<u8> {
        let file = std::io::BufReader::new(File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!([info.width, info.height], SIZE);
        rgb
    }

    fn ink(rgb: &[u8], rows: std::ops::Range<usize>) -> usize {
        let row = SIZE[0] as usize * 3;
        let area = &rgb[rows.start * row..rows.end * row];
        area.chunks_exact(3).filter(|p| p.iter().all(|v| *v < 200)).count()
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
    fn text_and_lines_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let target = std::env::var("PATHLINE_PICTURES");
        let folder = target.as_deref().map_or(folder.path(), Path::new);
        for (log_y, name) in [(false, "linear"), (true, "log")] {
            let path = folder.join(format!("plot-{name}.png"));
            let title = "Flow matching on PushT";
            line_plot(&path, title, "training step", "loss", &example(), log_y).unwrap();
            let named = read(&path);
            line_plot(&path.with_extension("bare.png"), "", "", "", &example(), log_y).unwrap();
            let bare = read(&path.with_extension("bare.png"));
            // The title's letters are all the dark ink there is above the plot.
            assert!(ink(&named, 8..48) > 500, "the title has {} dark pixels", ink(&named, 8..48));
            assert_eq!(ink(&bare, 8..48), 0);
            // Below the axis there are tick labels, and the axis' name only where it has one.
            let below = 536..600;
            assert!(ink(&bare, below.clone()) > 100);
            assert!(ink(&named, below.clone()) > ink(&bare, below) + 200);
        }
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
