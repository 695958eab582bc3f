//! Statistics per feature: `meta/stats.json` and the `stats/…` columns of the episodes.
//!
//! Per episode: min, max, mean, population standard deviation, count, and the 1, 10, 50, 90 and 99 %
//! quantiles. Over episodes: min and max are exact, mean and standard deviation are pooled with the counts
//! as weights (Chan's formula, so they are the data set's own), and a quantile is the weighted mean of the
//! episodes' quantiles. The last is LeRobot 0.4.4's definition, not the data set's quantile: it is kept so
//! that both programs write the same file.
//!
//! Source: `lerobot/datasets/compute_stats.py` 0.4.4 (read, not copied). LeRobot computes in f32 where the
//! feature is f32; here everything is f64.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::DType;

/// Quantiles by LeRobot's names.
pub(crate) const QUANTILES: [(&str, f64); 5] =
    [("q01", 0.01), ("q10", 0.10), ("q50", 0.50), ("q90", 0.90), ("q99", 0.99)];

/// Statistics by feature key.
pub type Stats = BTreeMap<String, FeatureStats>;

/// Statistics of one feature; every list has one value per element of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureStats {
    /// Smallest value.
    pub min: Vec<f64>,
    /// Largest value.
    pub max: Vec<f64>,
    /// Mean.
    pub mean: Vec<f64>,
    /// Population standard deviation.
    pub std: Vec<f64>,
    /// Number of frames.
    pub count: u64,
    /// `q01`, `q10`, `q50`, `q90`, `q99`; older data sets have none.
    pub quantiles: BTreeMap<String, Vec<f64>>,
}

impl FeatureStats {
    /// Statistics of the values of one episode, row-major `[length, dim]`, all finite.
    pub(crate) fn of(values: &[f64], dim: usize) -> Self {
        let mut stats = Self {
            min: Vec::with_capacity(dim),
            max: Vec::with_capacity(dim),
            mean: Vec::with_capacity(dim),
            std: Vec::with_capacity(dim),
            count: (values.len() / dim) as u64,
            quantiles: BTreeMap::new(),
        };
        for element in 0..dim {
            let mut column: Vec<f64> = values.iter().skip(element).step_by(dim).copied().collect();
            column.sort_by(f64::total_cmp);
            let n = column.len() as f64;
            let mean = column.iter().sum::<f64>() / n;
            let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            stats.min.push(column.first().copied().unwrap_or(f64::NAN));
            stats.max.push(column.last().copied().unwrap_or(f64::NAN));
            stats.mean.push(mean);
            stats.std.push(variance.sqrt());
            for (name, q) in QUANTILES {
                let value = if column.len() < 2 { mean } else { histogram_quantile(&column, q) };
                stats.quantiles.entry(name.to_owned()).or_default().push(value);
            }
        }
        stats
    }

    /// Takes the statistics of more frames in.
    pub(crate) fn merge(&mut self, other: &Self) {
        let (a, b) = (self.count as f64, other.count as f64);
        let n = a + b;
        for i in 0..self.mean.len().min(other.mean.len()) {
            let delta = other.mean[i] - self.mean[i];
            let sum =
                self.std[i].powi(2) * a + other.std[i].powi(2) * b + delta * delta * a * b / n;
            self.mean[i] += delta * b / n;
            self.std[i] = (sum / n).max(0.0).sqrt();
            self.min[i] = self.min[i].min(other.min[i]);
            self.max[i] = self.max[i].max(other.max[i]);
        }
        self.quantiles.retain(|name, _| other.quantiles.contains_key(name));
        for (name, values) in &mut self.quantiles {
            for (mine, theirs) in values.iter_mut().zip(&other.quantiles[name]) {
                *mine = (*mine * a + *theirs * b) / n;
            }
        }
        self.count += other.count;
    }

    /// The statistics as LeRobot's JSON: integer and truth-value features keep their type in min and max.
    pub(crate) fn to_json(&self, dtype: &DType) -> Value {
        let typed = |values: &[f64]| -> Value {
            values
                .iter()
                .map(|v| match dtype {
                    DType::Bool => json!(*v != 0.0),
                    DType::Int64 => json!(*v as i64),
                    _ => json!(v),
                })
                .collect()
        };
        let mut map = Map::new();
        map.insert("min".into(), typed(&self.min));
        map.insert("max".into(), typed(&self.max));
        map.insert("mean".into(), json!(self.mean));
        map.insert("std".into(), json!(self.std));
        map.insert("count".into(), json!([self.count]));
        for (name, values) in &self.quantiles {
            map.insert(name.clone(), json!(values));
        }
        Value::Object(map)
    }

    /// Reads LeRobot's JSON; nested lists (pictures have `(3, 1, 1)`) are flattened.
    pub(crate) fn from_json(value: &Value) -> Result<Self, String> {
        let list = |key: &str| -> Result<Vec<f64>, String> {
            let mut out = Vec::new();
            let found = value.get(key).ok_or_else(|| format!("expected `{key}`, got none"))?;
            flatten(found, &mut out)
                .map_err(|got| format!("{key}: expected numbers, got {got}"))?;
            Ok(out)
        };
        let mut quantiles = BTreeMap::new();
        for (name, _) in QUANTILES {
            if value.get(name).is_some() {
                quantiles.insert(name.to_owned(), list(name)?);
            }
        }
        let count = list("count")?.first().copied().unwrap_or(0.0);
        let stats = Self {
            min: list("min")?,
            max: list("max")?,
            mean: list("mean")?,
            std: list("std")?,
            count: count as u64,
            quantiles,
        };
        let dim = stats.mean.len();
        let lists = [&stats.min, &stats.max, &stats.std];
        if lists.into_iter().chain(stats.quantiles.values()).any(|l| l.len() != dim) {
            return Err(format!("expected {dim} values in every list, as `mean` has"));
        }
        Ok(stats)
    }
}

fn flatten(value: &Value, out: &mut Vec<f64>) -> Result<(), Value> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, out)),
        Value::Bool(b) => {
            out.push(f64::from(u8::from(*b)));
            Ok(())
        }
        Value::Number(n) => {
            out.push(n.as_f64().unwrap_or(f64::NAN));
            Ok(())
        }
        other => Err(other.clone()),
    }
}

// LeRobot's quantile: a histogram of 5000 bins from min − 1e-10 to max + 1e-10; the bin where the running
// count reaches q·n, and a linear step inside it (from its left edge; the first bin answers with that edge).
// With sorted values no histogram is needed: that bin holds the ⌈q·n⌉-th smallest value.
fn histogram_quantile(sorted: &[f64], q: f64) -> f64 {
    const BINS: f64 = 5000.0;
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return f64::NAN };
    let (low, high) = (first - 1e-10, last + 1e-10);
    let width = (high - low) / BINS;
    if width <= 0.0 || !width.is_finite() {
        return *first;
    }
    let bin = |v: f64| ((v - low) / width).floor().clamp(0.0, BINS - 1.0);
    let target = q * sorted.len() as f64;
    let rank = (target.ceil() as usize).clamp(1, sorted.len()) - 1;
    let index = bin(sorted[rank]);
    if index == 0.0 {
        return low;
    }
    let before = sorted.partition_point(|v| bin(*v) < index);
    let inside = sorted.partition_point(|v| bin(*v) <= index) - before;
    low + width * (index + (target - before as f64) / inside as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    // Values from LeRobot 0.4.4 (RunningQuantileStats, f64 input) for 0, 0.1, 0.2, 0.3, 0.4.
    #[test]
    fn quantiles_are_those_of_lerobot() {
        let stats = FeatureStats::of(&[0.0, 0.1, 0.2, 0.3, 0.4], 1);
        assert_eq!(stats.quantiles["q01"], [-1e-10]);
        assert!(near(stats.quantiles["q50"][0], 0.20004), "{:?}", stats.quantiles);
        assert!((stats.quantiles["q90"][0] - 0.39996).abs() < 1e-9, "{:?}", stats.quantiles);
    }

    #[test]
    fn merging_episodes_gives_the_statistics_of_all_frames() {
        let all: Vec<f64> = (0..40).map(|i| f64::from(i * i % 17) - 3.0).collect();
        let whole = FeatureStats::of(&all, 2);
        let mut merged = FeatureStats::of(&all[..6], 2);
        merged.merge(&FeatureStats::of(&all[6..10], 2));
        merged.merge(&FeatureStats::of(&all[10..], 2));
        assert_eq!((merged.count, &merged.min, &merged.max), (20, &whole.min, &whole.max));
        for i in 0..2 {
            assert!(near(merged.mean[i], whole.mean[i]));
            assert!(near(merged.std[i], whole.std[i]));
        }
    }

    #[test]
    fn json_keeps_types_and_comes_back() {
        let stats = FeatureStats::of(&[0.0, 1.0, 1.0], 1);
        let json = stats.to_json(&DType::Bool);
        assert_eq!((&json["min"], &json["max"]), (&json!([false]), &json!([true])));
        assert_eq!(FeatureStats::from_json(&json).unwrap(), stats);
        assert_eq!(FeatureStats::of(&[2.0], 1).to_json(&DType::Int64)["min"], json!([2]));
        assert!(FeatureStats::from_json(&json!({"min": [0], "max": [1]})).is_err());
    }
}
