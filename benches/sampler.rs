//! What integration costs beside the network: a field that is one multiplication, over a chunk of
//! PushT's size `[1, 16, 2]`; and the noise of that chunk.
//!
//! Run: `cargo bench --bench sampler`. Time a step is the time divided by the steps.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pathline::device;
use pathline::flow::Noise;
use pathline::solver::{grid, integrate, tableau};

fn steps(c: &mut Criterion) {
    let noise = Noise::new(0);
    let Ok(x) = Tensor::from_vec(noise.normal(0, 0, 32), (1, 16, 2), &device::cpu()) else {
        eprintln!("skipped: no tensor could be made");
        return;
    };
    let mut group = c.benchmark_group("sampler");
    group.sample_size(30).measurement_time(Duration::from_secs(1));
    for (method, steps) in
        [(&tableau::EULER, 1), (&tableau::EULER, 8), (&tableau::HEUN, 4), (&tableau::RK4, 2)]
    {
        let Ok(grid) = grid::uniform(1.0, 0.0, steps) else { continue };
        group.throughput(Throughput::Elements(steps as u64));
        group.bench_function(BenchmarkId::new(method.name, steps), |b| {
            b.iter(|| {
                let mut field = |x: &Tensor, _: f64| Ok(x.affine(-1.0, 0.0)?);
                black_box(integrate(&mut field, x.clone(), &grid, method)).is_ok()
            });
        });
    }
    group.throughput(Throughput::Elements(32));
    let mut out = [0f32; 32];
    group.bench_function("noise", |b| {
        b.iter(|| noise.normal_into(black_box(1), black_box(2), &mut out));
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
