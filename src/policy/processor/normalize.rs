//! Normalisation of one feature.
//!
//! Formulas and their order of operations: LeRobot `processor/normalize_processor.py`, so that every
//! operation rounds as there.
//!
//! | mode | forward | back |
//! |---|---|---|
//! | MEAN_STD | `(x − mean)/(std + eps)` | `x·std + mean` |
//! | MIN_MAX | `2(x − min)/w − 1` | `(x + 1)/2·w + min` |
//! | QUANTILES, QUANTILE10 | as MIN_MAX with q01 and q99, q10 and q90 | `(x + 1)·w/2 + q01` |
//!
//! The width `w = max − min` is `eps` where it is 0 ([`Edge::Replace`]). Versions before 0.4 divided
//! by `max − min + eps` and went back with `max − min` ([`Edge::Add`]; `common/policies/normalize.py`).

use crate::policy::config::NormalizationMode;
use crate::{Error, Result};

use super::stats::{Statistic, Stats};

/// LeRobot's epsilon.
pub const EPS: f64 = 1e-8;

/// What is done about a feature of no width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// A width of 0 becomes epsilon: LeRobot 0.4 and later.
    Replace,
    /// Epsilon is added to every width, on the way forward only: before 0.4.
    Add,
}

/// How a feature is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The formula.
    pub mode: NormalizationMode,
    /// Epsilon of the step.
    pub eps: f64,
    /// What is done about a feature of no width.
    pub edge: Edge,
}

impl Rule {
    /// `mode` as LeRobot 0.4 and later do it.
    pub const fn new(mode: NormalizationMode) -> Self {
        Self { mode, eps: EPS, edge: Edge::Replace }
    }

    /// Nothing is done.
    pub const IDENTITY: Self = Self::new(NormalizationMode::Identity);
}

/// A map of each element of a feature between raw and normalised units.
///
/// Elements repeat: over the rows of a history or chunk, and each over the pixels of its channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    mode: NormalizationMode,
    elements: Vec<Element>,
    /// How many values in a row share one element: the pixels of a channel, or 1.
    pixels: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Element {
    center: f32,
    scale: f32,
    scale_back: f32,
}

impl Affine {
    /// The map of the feature `key` of `shape`: `[D]`, `[C, H, W]`, or `[rows, D]` for a chunk whose
    /// statistics may differ from row to row.
    ///
    /// # Errors
    /// Names the statistic that is missing, does not broadcast over the feature, or is not finite.
    pub fn new(key: &str, rule: &Rule, stats: &Stats, shape: &[usize]) -> Result<Self> {
        let (first, second) = match rule.mode {
            NormalizationMode::Identity => {
                return Ok(Self { mode: rule.mode, elements: Vec::new(), pixels: 1 });
            }
            NormalizationMode::MeanStd => ("mean", "std"),
            NormalizationMode::MinMax => ("min", "max"),
            NormalizationMode::Quantiles => ("q01", "q99"),
            NormalizationMode::Quantile10 => ("q10", "q90"),
        };
        if !(rule.eps.is_finite() && rule.eps >= 0.0) {
            return Err(Error::range("eps", "a finite number, 0 or more", rule.eps));
        }
        let a = statistic(key, first, rule.mode, stats, shape)?;
        let b = statistic(key, second, rule.mode, stats, shape)?;
        // The smallest layout that holds both: one value a dimension or channel, else all of them.
        let small = match shape {
            [channels, _, _] => vec![*channels, 1, 1],
            [_, dim] => vec![*dim],
            _ => shape.to_vec(),
        };
        let both = |layout: &[usize]| Some((a.spread(layout)?, b.spread(layout)?));
        let size: usize = shape.iter().product();
        let whole = |s: &Statistic| shape.len() != 3 || s.values().len() == size;
        let (layout, (a, b)) = match both(&small) {
            Some(values) => (small, values),
            // A picture's statistics are small or as large as the picture.
            None => match (whole(a) || whole(b)).then(|| both(shape)).flatten() {
                Some(values) => (shape.to_vec(), values),
                None => return Err(Error::shape(format!("{key}.{first}"), small, a.shape())),
            },
        };
        let pixels = match (shape, layout.as_slice()) {
            ([_, h, w], [_, 1, 1]) => h * w,
            _ => 1,
        };
        if rule.mode == NormalizationMode::MeanStd
            && let Some(bad) = b.iter().find(|std| **std < 0.0)
        {
            let what = format!("{key}.std");
            return Err(Error::checkpoint(what, "0 or more", bad.to_string()));
        }
        let eps = rule.eps as f32;
        let element = |(a, b): (f32, f32)| match (rule.mode, rule.edge) {
            (NormalizationMode::MeanStd, _) => Element { center: a, scale: b + eps, scale_back: b },
            (_, Edge::Add) => Element { center: a, scale: b - a + eps, scale_back: b - a },
            (_, Edge::Replace) => {
                let width = if b == a { eps } else { b - a };
                Element { center: a, scale: width, scale_back: width }
            }
        };
        let elements = a.into_iter().zip(b).map(element).collect();
        Ok(Self { mode: rule.mode, elements, pixels })
    }

    /// The formula.
    pub fn mode(&self) -> NormalizationMode {
        self.mode
    }

    /// Normalises in place; `values` is a whole number of features, or of rows of a chunk.
    pub fn normalize(&self, values: &mut [f32]) {
        match self.mode {
            NormalizationMode::Identity => {}
            NormalizationMode::MeanStd => self.each(values, |x, e| (x - e.center) / e.scale),
            _ => self.each(values, |x, e| 2.0 * (x - e.center) / e.scale - 1.0),
        }
    }

    /// Back to raw units, in place.
    pub fn unnormalize(&self, values: &mut [f32]) {
        match self.mode {
            NormalizationMode::Identity => {}
            NormalizationMode::MeanStd => self.each(values, |x, e| x * e.scale_back + e.center),
            NormalizationMode::MinMax => {
                self.each(values, |x, e| (x + 1.0) / 2.0 * e.scale_back + e.center);
            }
            _ => self.each(values, |x, e| (x + 1.0) * e.scale_back / 2.0 + e.center),
        }
    }

    fn each(&self, values: &mut [f32], map: impl Fn(f32, &Element) -> f32) {
        if self.pixels == 1 {
            for (value, e) in values.iter_mut().zip(self.elements.iter().cycle()) {
                *value = map(*value, e);
            }
            return;
        }
        for (channel, e) in values.chunks_mut(self.pixels).zip(self.elements.iter().cycle()) {
            channel.iter_mut().for_each(|value| *value = map(*value, e));
        }
    }
}

/// The statistic `key.name`, which must be there, broadcast over `shape` and be finite.
fn statistic<'a>(
    key: &str,
    name: &str,
    mode: NormalizationMode,
    stats: &'a Stats,
    shape: &[usize],
) -> Result<&'a Statistic> {
    let label = format!("{key}.{name}");
    let Some(statistic) = stats.get(key).and_then(|stats| stats.get(name)) else {
        let got = match stats.get(key) {
            Some(found) => found.keys().cloned().collect::<Vec<_>>().join(", "),
            None => format!("no statistics of {key}"),
        };
        let expected = format!("a statistic, which the normalisation {mode:?} of {key} needs");
        return Err(Error::checkpoint(label, expected, got));
    };
    if !statistic.fits(shape) {
        let expected = format!("a shape that broadcasts to {shape:?}");
        let got = format!("{:?}", statistic.shape());
        return Err(Error::checkpoint(label, expected, got));
    }
    match statistic.values().iter().find(|value| !value.is_finite()) {
        Some(bad) => Err(Error::checkpoint(label, "finite values", bad.to_string())),
        None => Ok(statistic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics of one feature by name.
    type Named<'a> = &'a [(&'a str, &'a [f32])];

    fn stats(entries: &[(&str, Named<'_>)]) -> Stats {
        let feature = |pairs: &[(&str, &[f32])]| {
            pairs.iter().map(|(name, v)| ((*name).to_owned(), v.to_vec().into())).collect()
        };
        entries.iter().map(|(key, pairs)| ((*key).to_owned(), feature(pairs))).collect()
    }

    fn map(mode: NormalizationMode, pairs: &[(&str, &[f32])], shape: &[usize]) -> Affine {
        Affine::new("a", &Rule::new(mode), &stats(&[("a", pairs)]), shape).unwrap()
    }

    #[test]
    fn forward_and_backward_are_inverse() {
        let pairs: [(&str, &[f32]); 8] = [
            ("mean", &[1.0, 2.0]),
            ("std", &[2.0, 4.0]),
            ("min", &[0.0, 0.0]),
            ("max", &[512.0, 256.0]),
            ("q01", &[1.0, 2.0]),
            ("q99", &[500.0, 200.0]),
            ("q10", &[3.0, 4.0]),
            ("q90", &[400.0, 100.0]),
        ];
        for mode in [
            NormalizationMode::Identity,
            NormalizationMode::MeanStd,
            NormalizationMode::MinMax,
            NormalizationMode::Quantiles,
            NormalizationMode::Quantile10,
        ] {
            let map = map(mode, &pairs, &[2]);
            let raw = [3.0f32, -7.0, 100.0, 511.0];
            let mut values = raw;
            map.normalize(&mut values);
            assert_eq!(values == raw, mode == NormalizationMode::Identity);
            map.unnormalize(&mut values);
            for (got, want) in values.iter().zip(raw) {
                assert!((got - want).abs() < 1e-3, "{mode:?}: {got} {want}");
            }
        }
        let map = map(NormalizationMode::MinMax, &[("min", &[0.0]), ("max", &[512.0])], &[1]);
        let mut ends = [0.0, 256.0, 512.0];
        map.normalize(&mut ends);
        assert_eq!(ends, [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_constant_feature_far_from_zero_stays_where_it_is() {
        let pairs: [(&str, &[f32]); 2] = [("min", &[300.0]), ("max", &[300.0])];
        for edge in [Edge::Replace, Edge::Add] {
            let rule = Rule { edge, ..Rule::new(NormalizationMode::MinMax) };
            let map = Affine::new("a", &rule, &stats(&[("a", &pairs)]), &[1]).unwrap();
            let mut value = [300.0];
            map.normalize(&mut value);
            assert_eq!(value, [-1.0]);
            map.unnormalize(&mut value);
            assert_eq!(value, [300.0]);
        }
    }

    #[test]
    fn a_channel_has_one_value_for_all_its_pixels() {
        let pairs: [(&str, &[f32]); 2] = [("mean", &[1.0, 2.0, 3.0]), ("std", &[1.0, 2.0, 4.0])];
        let map = map(NormalizationMode::MeanStd, &pairs, &[3, 1, 2]);
        // Two pictures, one after the other.
        let mut values = [1.0, 2.0, 2.0, 4.0, 3.0, 7.0, 1.0, 2.0, 2.0, 4.0, 3.0, 7.0];
        map.normalize(&mut values);
        let want = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        assert_eq!(values, [want, want].concat()[..]);
    }

    #[test]
    fn missing_or_broken_statistics_are_named() {
        let stats = stats(&[
            ("a", &[("mean", &[1.0, 2.0]), ("std", &[1.0, 2.0, 3.0])]),
            ("b", &[("min", &[0.0]), ("max", &[512.0])]),
            ("c", &[("min", &[f32::NAN]), ("max", &[1.0])]),
            ("d", &[("mean", &[0.0]), ("std", &[-1.0])]),
            ("e", &[("q01", &[0.0]), ("q99", &[f32::INFINITY])]),
        ]);
        for (key, mode, dim, named) in [
            ("b", NormalizationMode::MeanStd, 1, &["b.mean", "MeanStd", "max, min"][..]),
            ("x", NormalizationMode::MinMax, 1, &["x.min", "no statistics of x"]),
            ("b", NormalizationMode::Quantile10, 1, &["b.q10"]),
            ("c", NormalizationMode::MinMax, 1, &["c.min", "NaN"]),
            ("a", NormalizationMode::MeanStd, 2, &["a.std", "[2]", "[3]"]),
            ("d", NormalizationMode::MeanStd, 1, &["d.std", "-1"]),
            ("e", NormalizationMode::Quantiles, 1, &["e.q99", "inf"]),
        ] {
            let error = Affine::new(key, &Rule::new(mode), &stats, &[dim]).unwrap_err().to_string();
            assert!(named.iter().all(|name| error.contains(name)), "{error}");
        }
        let rule = Rule { eps: f64::NAN, ..Rule::new(NormalizationMode::MinMax) };
        let error = Affine::new("b", &rule, &stats, &[1]).unwrap_err().to_string();
        assert!(error.contains("eps"), "{error}");
    }
}
