//! What the machine can do: the two rates that bound every stage.

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use pathline::device;
use pathline::flow::Noise;
use pathline::nn::{Work, linear::Linear};
use serde::Serialize;

/// Side of the product; its three matrices fit into a third-level cache.
const SIDE: usize = 768;
/// Numbers of the memory that is read: 256 MiB, more than any cache.
const NUMBERS: usize = 64 << 20;
/// A measurement repeats for so long; the best counts, since all else is a disturbance.
const TIME: Duration = Duration::from_millis(500);

/// Rates with one thread and with all.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Limits {
    /// Multiplications and additions of a matrix product of side 768 in f32, 10⁹/s.
    pub(super) gemm_gflops: [f64; 2],
    /// Reading memory from front to back, 10⁹ bytes/s.
    pub(super) read_gb_s: [f64; 2],
}

impl Limits {
    /// Measures them, which takes two seconds.
    pub(super) fn measure(threads: usize) -> anyhow::Result<Self> {
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        let memory = vec![1f32; NUMBERS];
        Ok(Self {
            gemm_gflops: [alone.install(gemm)?, gemm()?],
            read_gb_s: [read(&memory, 1), read(&memory, threads)],
        })
    }

    /// The least time for some work with all threads, milliseconds.
    pub(super) fn floor_ms(&self, work: Work) -> f64 {
        let compute = work.operations as f64 / (self.gemm_gflops[1] * 1e6);
        compute.max(work.bytes as f64 / (self.read_gb_s[1] * 1e6))
    }
}

/// The best of several runs.
fn best(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < TIME {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn gemm() -> anyhow::Result<f64> {
    let matrix = |sample: u64| {
        let numbers = Noise::new(0).normal(sample, 0, SIDE * SIDE);
        Tensor::from_vec(numbers, (SIDE, SIDE), &device::cpu())
    };
    let (x, layer) = (matrix(0)?, Linear::new(matrix(1)?, None)?);
    let seconds = best(|| {
        black_box(layer.forward(&x)?);
        Ok(())
    })?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds / 1e9)
}

fn read(memory: &[f32], threads: usize) -> f64 {
    /// Sums that do not wait for each other.
    const LANES: usize = 64;
    let sum = |part: &[f32]| {
        let mut sums = [0f32; LANES];
        for line in part.chunks_exact(LANES) {
            sums.iter_mut().zip(line).for_each(|(sum, x)| *sum += x);
        }
        black_box(sums);
    };
    let seconds = best(|| {
        std::thread::scope(|scope| {
            for part in memory.chunks(memory.len().div_ceil(threads.max(1))) {
                scope.spawn(move || sum(part));
            }
        });
        Ok(())
    });
    4.0 * memory.len() as f64 / seconds.unwrap_or(f64::INFINITY) / 1e9
}
