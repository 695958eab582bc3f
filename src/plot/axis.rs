//! Ticks: 1, 2 or 5 times a power of ten on linear axes; decades on logarithmic ones, written as
//! powers where they are many, with small ticks between them.

/// One axis: the range of its values and where they lie.
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// An axis around finite `values` (positive ones if `logarithmic`); `None` if there are none.
    pub(super) fn around(values: impl Iterator<Item = f64>, logarithmic: bool) -> Option<Self> {
        let place = |v: f64| if logarithmic { v.log10() } else { v };
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.map(place) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return None;
        }
        let extent = high - low;
        let margin = if extent > 0.0 { extent * 0.04 } else { (high.abs() * 0.1).max(0.5) };
        Some(Self { low: low - margin, high: high + margin, logarithmic })
    }

    /// An axis from the first end to the second, which may be the smaller; `None` if they are one.
    pub(super) fn between(ends: [f64; 2], logarithmic: bool) -> Option<Self> {
        let [low, high] = ends.map(|v| if logarithmic { v.log10() } else { v });
        let real = low.is_finite() && high.is_finite() && low != high;
        real.then_some(Self { low, high, logarithmic })
    }

    /// The same without a margin below, where zero is the natural start (counts, losses).
    pub(super) fn starting_at_zero(mut self) -> Self {
        let extent = self.high - self.low;
        if !self.logarithmic && self.low < 0.0 && self.low > -0.05 * extent {
            self.low = 0.0;
        }
        self
    }

    /// Position of `value`, 0 at the low and 1 at the high end and beyond them outside; `None` if
    /// it has none.
    pub(super) fn share(&self, value: f64) -> Option<f64> {
        let value = if self.logarithmic { value.log10() } else { value };
        let share = (value - self.low) / (self.high - self.low);
        share.is_finite().then_some(share)
    }

    /// Position of `value` between the axis' ends, 0 to 1.
    fn place(&self, value: f64) -> Option<f64> {
        self.share(value).filter(|share| (-1e-9..=1.0 + 1e-9).contains(share))
    }

    /// Positions of the small ticks between the decades, where these are few.
    pub(super) fn minor(&self) -> Vec<f64> {
        if !self.logarithmic || !(1.0..8.0).contains(&(self.high - self.low)) {
            return Vec::new();
        }
        let decades = multiples(self.low - 1.0, self.high, 1.0).into_iter();
        let values = decades.flat_map(|d| (2..10).map(move |m| f64::from(m) * 10f64.powf(d)));
        values.filter_map(|v| self.place(v)).collect()
    }

    /// Ticks as position (0 to 1) and label; around `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        let wanted = wanted.max(2) as f64;
        let (low, high) = (self.low.min(self.high), self.low.max(self.high));
        let decades = high - low;
        let values: Vec<f64> = if self.logarithmic && decades >= 1.0 {
            let every = (decades / wanted).ceil().max(1.0);
            let between: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let whole = multiples(low - 1.0, high, every).into_iter();
            whole.flat_map(|v| between.iter().map(move |m| m * 10f64.powf(v))).collect()
        } else if self.logarithmic {
            let (low, high) = (10f64.powf(low), 10f64.powf(high));
            multiples(low, high, step((high - low) / wanted))
        } else {
            multiples(low, high, step((high - low) / wanted))
        };
        let largest = values.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
        let unit = if self.logarithmic { None } else { Some(largest) };
        if self.logarithmic && decades >= 3.0 && (low < -2.5 || high > 4.5) {
            return values.iter().filter_map(|&v| Some((self.place(v)?, power(v)))).collect();
        }
        let label = |v: f64| label(v, unit.unwrap_or(v.abs()));
        values.iter().filter_map(|&v| Some((self.place(v)?, label(v)))).collect()
    }
}

/// The smallest 1, 2 or 5 times a power of ten that is not below `raw`.
fn step(raw: f64) -> f64 {
    let decade = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * decade).find(|s| *s >= raw).unwrap_or(10.0 * decade)
}

/// A power of ten; what follows the `^` is to be raised.
fn power(value: f64) -> String {
    format!("10^{}", value.log10().round()).replace('-', "−")
}

fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let count = if (0.0..100.0).contains(&(last - first)) { (last - first) as u32 + 1 } else { 0 };
    (0..count).map(|i| (first + f64::from(i)) * step).collect()
}

/// A short decimal in the unit (one, k or M) that suits `largest`, an exponent where none does.
fn label(value: f64, largest: f64) -> String {
    let short = |v: f64| {
        let text = format!("{v:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if value.abs() < largest * 1e-9 || value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e9).contains(&largest) {
        let exponent = value.abs().log10().floor();
        let mantissa = short((value / 10f64.powf(exponent) * 100.0).round() / 100.0);
        format!("{mantissa}e{exponent}")
    } else if largest >= 1e6 {
        format!("{}M", short(value / 1e6))
    } else if largest >= 1e4 {
        format!("{}k", short(value / 1e3))
    } else {
        short(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], logarithmic: bool) -> Vec<String> {
        let axis = Axis::around(values.iter().copied(), logarithmic).unwrap();
        axis.ticks(6).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&[0.0, 1.0], false), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(&[0.0, 24_000.0], false), ["0", "5k", "10k", "15k", "20k"]);
        assert_eq!(labels(&[1e-4, 0.9], true), ["10^−4", "10^−3", "10^−2", "10^−1", "10^0"]);
        assert_eq!(labels(&[1.0, 90.0], true), ["1", "2", "5", "10", "20", "50", "100"]);
        assert_eq!(labels(&[0.03, 0.6], true), ["0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(labels(&[0.2, 0.9], true), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels(&[7.0], false), ["6.5", "7", "7.5"]);
        assert_eq!(labels(&[0.0, 4e-5], false), ["0", "1e-5", "2e-5", "3e-5", "4e-5"]);
    }

    #[test]
    fn places_lie_between_the_ends_and_grow() {
        for logarithmic in [false, true] {
            let axis = Axis::around([0.5, 20.0].into_iter(), logarithmic).unwrap();
            let places: Vec<f64> = axis.ticks(5).into_iter().map(|(place, _)| place).collect();
            assert!(places.windows(2).all(|w| w[0] < w[1]), "{places:?}");
            assert!(places.iter().all(|p| (0.0..=1.0).contains(p)), "{places:?}");
        }
        assert!(Axis::around(std::iter::empty(), false).is_none());
        let reversed = Axis::between([1.0, 0.0], false).unwrap();
        let ticks = reversed.ticks(2);
        assert_eq!(ticks, [(1.0, "0".into()), (0.5, "0.5".into()), (0.0, "1".into())]);
        assert!(Axis::between([1.0, 1.0], false).is_none());
    }
}
