//! One row of the table: how long something took, what it did, and the least that it could have taken.

use anyhow::Context;
use hdrhistogram::Histogram;
use pathline::nn::Work;
use serde::Serialize;

use super::limits::Limits;

/// A stage with its work.
#[derive(Clone, Serialize)]
pub(super) struct Stage {
    pub(super) name: String,
    /// Median, milliseconds.
    pub(super) ms: f64,
    /// Multiplications and additions of its products, 10⁶.
    pub(super) mop: f64,
    /// Their weights, inputs and outputs, each once, 10⁶ bytes.
    pub(super) mb: f64,
    /// The least time that this takes: the products at the machine's rate, or the bytes at that of its memory.
    pub(super) floor_ms: f64,
}

impl Stage {
    pub(super) fn new(name: impl Into<String>, ms: f64, work: Work, limits: &Limits) -> Self {
        Self {
            name: name.into(),
            ms,
            mop: work.operations as f64 / 1e6,
            mb: work.bytes as f64 / 1e6,
            floor_ms: limits.floor_ms(work),
        }
    }

    pub(super) fn print(stages: &[Self]) {
        println!("stage                 median ms      Mop       MB   floor ms  floor/median");
        for Self { name, ms, mop, mb, floor_ms } in stages {
            let near = 100.0 * floor_ms / ms.max(f64::MIN_POSITIVE);
            println!("{name:<20} {ms:>10.3} {mop:>8.1} {mb:>8.2} {floor_ms:>10.3} {near:>11.0} %");
        }
    }
}

/// The middle one of some times; 0 of none.
pub(super) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// What is left of some work without a part of it.
pub(super) fn less(all: Work, part: Work) -> Work {
    Work {
        operations: all.operations.saturating_sub(part.operations),
        bytes: all.bytes.saturating_sub(part.bytes),
    }
}

/// Times in nanoseconds, up to ten minutes.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> anyhow::Result<Self> {
        let times = Histogram::new_with_bounds(1, 600_000_000_000, 3);
        Ok(Self(times.context("histogram of latencies")?))
    }

    pub(super) fn record(&mut self, time: std::time::Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile in milliseconds; the largest at 1.
    pub(super) fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e6
    }
}
