//! Latency percentiles: an HDR histogram of microseconds and its summary in milliseconds.
//!
//! Percentiles, never means: a policy that misses one deadline in a hundred looks fine on average.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest latency that is told apart, in microseconds; longer ones count as this.
const MAX_MICROS: u64 = 120_000_000;

/// A histogram of durations from 1 µs to two minutes, three significant digits.
#[derive(Debug, Clone)]
pub struct Latency {
    micros: Histogram<u64>,
}

/// Percentiles of a [`Latency`], in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Number of samples.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// One in a thousand is longer.
    #[serde(default)]
    pub p999_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

impl Latency {
    /// An empty histogram.
    ///
    /// # Errors
    /// Never with the bounds above; the histogram's constructor can fail in principle.
    pub fn new() -> Result<Self> {
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, 3)
            .map_err(|error| Error::Invalid(format!("latency histogram: {error}")))?;
        Ok(Self { micros })
    }

    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(MAX_MICROS);
        self.micros.saturating_record(micros.clamp(1, MAX_MICROS));
    }

    /// Adds all samples of another histogram.
    pub fn merge(&mut self, other: &Self) {
        // Same bounds on both sides, so nothing can be out of range.
        let _ = self.micros.add(&other.micros);
    }

    /// The percentiles so far; zeros if empty.
    pub fn summary(&self) -> LatencySummary {
        if self.micros.is_empty() {
            return LatencySummary::default();
        }
        let at = |quantile| self.micros.value_at_quantile(quantile) as f64 / 1e3;
        LatencySummary {
            count: self.micros.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.micros.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_known_samples() {
        let mut latency = Latency::new().unwrap();
        assert_eq!(latency.summary().count, 0);
        for milli in 1..=100 {
            latency.record(Duration::from_millis(milli));
        }
        let summary = latency.summary();
        assert_eq!(summary.count, 100);
        assert!((summary.p50_ms - 50.0).abs() < 0.1, "{summary:?}");
        assert!((summary.p99_ms - 99.0).abs() < 0.1, "{summary:?}");
        assert!((summary.max_ms - 100.0).abs() < 0.1, "{summary:?}");
    }
}
