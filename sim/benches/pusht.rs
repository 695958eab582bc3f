//! Control steps per second of PushT on one core, in permanent contact.
//!
//! Run: `cargo bench -p pathline-sim --bench pusht`, and benches/peers/pusht_gym.py for gym-pusht
//! on the same actions in the same session. The agent pushes the bar from the side for 20 steps at
//! 90 px/s, so the block moves in every substep after the first; each repetition clones the start.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pathline_sim::pusht::PushT;
use std::hint::black_box;

const STEPS: u32 = 20;

/// The targets: 9 px further per step, led by the PD law's lag of 0.2 s.
fn target(k: u32) -> [f64; 2] {
    [f64::from(110 + 18 + 9 * k), 270.0]
}

fn push(c: &mut Criterion) {
    // gym's legacy order would turn the block about its centre; angle 0 makes both the same.
    let mut start = PushT::from_state([110.0, 270.0, 190.0, 256.0, 0.0]);
    start.step(target(0));
    let (mut probe, mut moved) = (start.clone(), 0);
    for k in 1..=STEPS {
        let before = probe.block_pose();
        probe.step(target(k));
        moved += u32::from(before != probe.block_pose());
    }
    assert!(moved == STEPS && !probe.wall_touched(), "contact in {moved} of {STEPS} steps");

    let mut group = c.benchmark_group("pusht");
    group.throughput(Throughput::Elements(u64::from(STEPS)));
    group.bench_function("control steps in contact", |b| {
        b.iter_batched_ref(
            || start.clone(),
            |env| {
                for k in 1..=STEPS {
                    black_box(env.step(black_box(target(k))));
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("reset", |b| {
        let mut seed = 0;
        b.iter(|| {
            seed += 1;
            black_box(PushT::reset(seed))
        });
    });
    group.bench_function("clone", |b| b.iter(|| black_box(&start).clone()));
    group.finish();
}

criterion_group!(benches, push);
criterion_main!(benches);
