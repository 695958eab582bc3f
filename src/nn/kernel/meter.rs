//! Counts what the products of this process did, for a benchmark to compare with the machine.

use std::sync::atomic::{AtomicU64, Ordering};

static OPERATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Work of matrix products, convolutions and attention in f32 on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiplications and additions.
    pub operations: u64,
    /// Weights, inputs and outputs, each once.
    pub bytes: u64,
}

impl Work {
    /// What this process has done so far.
    pub fn so_far() -> Self {
        Self {
            operations: OPERATIONS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
        }
    }

    /// What was done since.
    pub fn since(self) -> Self {
        let now = Self::so_far();
        Self {
            operations: now.operations.saturating_sub(self.operations),
            bytes: now.bytes.saturating_sub(self.bytes),
        }
    }
}

/// Adds the work of one product.
pub(in crate::nn) fn count(multiplications: usize, bytes: usize) {
    OPERATIONS.fetch_add(2 * multiplications as u64, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}
