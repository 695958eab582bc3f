//! What a picture holds: panels in rows, and in each panel layers from back to front.
//!
//! All of it is data. [`Figure::save`] draws it.

use std::path::Path;

use super::axis::Axis;
use super::{Color, draw, png_file};
use crate::{Error, Result};

/// Panels in rows of `columns`, with one legend below them all.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Above everything; may be empty.
    pub title: String,
    /// Panels in a row.
    pub columns: usize,
    /// Width and height of each panel in px, with its labels.
    pub panel: [u32; 2],
    /// Row by row.
    pub panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panel {
    /// Above it; may be empty.
    pub title: String,
    /// Along the bottom.
    pub x: Scale,
    /// Along the left.
    pub y: Scale,
    /// From back to front.
    pub layers: Vec<Layer>,
}

/// How numbers become places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    /// Beside the axis; may be empty.
    pub label: String,
    /// Logarithmic, where only positive numbers have a place.
    pub logarithmic: bool,
    /// Ends of the axis, the second may be the smaller; around the layers' points if absent.
    pub range: Option<[f64; 2]>,
    /// Neither ticks nor numbers.
    pub bare: bool,
}

impl Scale {
    /// A linear axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), ..Self::default() }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Self { logarithmic: true, ..Self::linear(label) }
    }

    /// An axis without numbers.
    pub fn bare(low: f64, high: f64) -> Self {
        Self { bare: true, ..Self::default().within(low, high) }
    }

    /// The same from `low` to `high`; what lies outside is cut off.
    pub fn within(self, low: f64, high: f64) -> Self {
        Self { range: Some([low, high]), ..self }
    }
}

/// How the points of a layer are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// Joined; a point that has no place interrupts the line.
    Line {
        /// In px.
        width: f64,
        /// Broken into dashes.
        dashed: bool,
        /// A disc on each point.
        dots: bool,
    },
    /// A disc each.
    Discs {
        /// In px.
        radius: f64,
    },
    /// An arrow from each point to the tip of the same number.
    Arrows {
        /// As many as points.
        tips: Vec<(f64, f64)>,
    },
    /// Filled between the points and y = 0, or the end of the axis nearest to it.
    Area,
    /// Filled inside the closed line through the points.
    Shape,
    /// The points are two opposite corners, and the values fill the rectangle between them.
    Heat {
        /// Values in a row.
        columns: usize,
        /// From 0 (white) to 1 (dark), row by row, the row of the first corner first.
        values: Vec<f64>,
    },
    /// Words beside each point, to its right.
    Words(String),
}

/// Points and how they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// In the legend, once a name; an empty name has no entry.
    pub name: String,
    /// x and y in the units of the axes.
    pub points: Vec<(f64, f64)>,
    /// How.
    pub mark: Mark,
    /// The next of the palette if absent.
    pub color: Option<Color>,
    /// From 0 to 1.
    pub opacity: f64,
}

impl Layer {
    /// A layer of any mark.
    pub fn new(points: Vec<(f64, f64)>, mark: Mark) -> Self {
        Self { name: String::new(), points, mark, color: None, opacity: 1.0 }
    }

    /// A line of 2 px.
    pub fn line(points: Vec<(f64, f64)>) -> Self {
        Self::new(points, Mark::Line { width: 2.0, dashed: false, dots: false })
    }

    /// A line with a disc on each point.
    pub fn dotted_line(points: Vec<(f64, f64)>) -> Self {
        Self::new(points, Mark::Line { width: 2.0, dashed: false, dots: true })
    }

    /// A dashed line of 2 px.
    pub fn dashes(points: Vec<(f64, f64)>) -> Self {
        Self::new(points, Mark::Line { width: 2.0, dashed: true, dots: false })
    }

    /// A line of `width` px.
    pub fn thin_line(points: Vec<(f64, f64)>, width: f64) -> Self {
        Self::new(points, Mark::Line { width, dashed: false, dots: false })
    }

    /// A disc of `radius` px on each point.
    pub fn discs(points: Vec<(f64, f64)>, radius: f64) -> Self {
        Self::new(points, Mark::Discs { radius })
    }

    /// An arrow at each point; `vectors` in the units of the axes, times `length`.
    pub fn arrows(points: Vec<(f64, f64)>, vectors: &[(f64, f64)], length: f64) -> Self {
        let ends = points.iter().zip(vectors);
        let tips = ends.map(|(p, v)| (p.0 + v.0 * length, p.1 + v.1 * length)).collect();
        Self::new(points, Mark::Arrows { tips })
    }

    /// Filled down to 0.
    pub fn area(points: Vec<(f64, f64)>) -> Self {
        Self { opacity: 0.25, ..Self::new(points, Mark::Area) }
    }

    /// Filled inside the closed line through `points`.
    pub fn shape(points: Vec<(f64, f64)>) -> Self {
        Self::new(points, Mark::Shape)
    }

    /// `values` from 0 to 1 in rows of `columns` over the rectangle between two corners.
    pub fn heat(corners: [(f64, f64); 2], columns: usize, values: Vec<f64>) -> Self {
        Self::new(corners.to_vec(), Mark::Heat { columns, values })
    }

    /// Words at a point.
    pub fn words(at: (f64, f64), words: impl Into<String>) -> Self {
        let words = Self::new(vec![at], Mark::Words(words.into()));
        words.colored(Color::INK)
    }

    /// With an entry in the legend.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// In this colour.
    pub fn colored(self, color: Color) -> Self {
        Self { color: Some(color), ..self }
    }

    /// So that what lies behind shows through.
    pub fn faded(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }
}

impl Panel {
    /// An empty panel.
    pub fn new(title: impl Into<String>, x: Scale, y: Scale) -> Self {
        Self { title: title.into(), x, y, layers: Vec::new() }
    }

    /// With one more layer in front.
    pub fn with(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// With more layers in front.
    pub fn with_all(mut self, layers: impl IntoIterator<Item = Layer>) -> Self {
        self.layers.extend(layers);
        self
    }

    /// The axes; an error if there is nothing to put between their ends.
    pub(super) fn axes(&self) -> Result<[Axis; 2]> {
        let drawable = |&(x, y): &(f64, f64)| {
            let has_place =
                |v: f64, scale: &Scale| v.is_finite() && (!scale.logarithmic || v > 0.0);
            has_place(x, &self.x) && has_place(y, &self.y)
        };
        let points =
            || self.layers.iter().flat_map(|layer| &layer.points).copied().filter(drawable);
        let nothing = || {
            let title = &self.title;
            Error::Invalid(format!("plot {title:?}: expected a point that can be drawn, got none"))
        };
        let axis = |scale: &Scale, values: &mut dyn Iterator<Item = f64>| match scale.range {
            Some(ends) => Axis::between(ends, scale.logarithmic),
            None => Axis::around(values, scale.logarithmic).map(Axis::starting_at_zero),
        };
        let x = axis(&self.x, &mut points().map(|p| p.0)).ok_or_else(nothing)?;
        let y = axis(&self.y, &mut points().map(|p| p.1)).ok_or_else(nothing)?;
        Ok([x, y])
    }
}

impl Figure {
    /// A figure without panels; `panel` is the width and height of each.
    pub fn new(title: impl Into<String>, columns: usize, panel: [u32; 2]) -> Self {
        Self { title: title.into(), columns, panel, panels: Vec::new() }
    }

    /// With one more panel.
    pub fn with(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// Draws it to a PNG file on white.
    ///
    /// # Errors
    /// There is no panel, a panel has no point that can be drawn, a heat map is not a rectangle, or
    /// the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (size, rgb) = draw::render(self)?;
        png_file::write(path, size, &rgb)
    }
}
