//! A chunk of the shipped policy, by network evaluations, and loading its folder.
//!
//! Run: `cargo bench --bench policy`; `PATHLINE_BENCH_POLICY` names another policy folder.
//! Set `RAYON_NUM_THREADS`, as the binary does: without it candle reads the system's files at every
//! matrix product.
#![allow(clippy::unwrap_used, reason = "a bench may panic: that is how it fails")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::{Policy, WEIGHTS};
use pathline::train::eval::observation;
use pathline_sim::pusht::PushT;

fn folder() -> PathBuf {
    match std::env::var_os("PATHLINE_BENCH_POLICY") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow"),
    }
}

fn chunks(c: &mut Criterion) {
    let folder = folder();
    if !folder.join(WEIGHTS).is_file() {
        eprintln!("skipped: {} has no {WEIGHTS}", folder.display());
        return;
    }
    let policy = match Policy::load(&folder, &device::cpu()) {
        Ok(policy) => policy,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let mut group = c.benchmark_group("policy");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("load", |b| b.iter(|| Policy::load(&folder, &device::cpu()).is_ok()));
    let history = vec![observation(&PushT::reset(0)); policy.signature().n_obs_steps];
    let noise = Noise::new(0).normal(0, 0, policy.chunk_len());
    for evaluations in [1, 2, 4, 8] {
        let Ok(solver) = policy.solver(Some("euler"), Some(evaluations)) else { continue };
        group.bench_function(BenchmarkId::new("chunk", evaluations), |b| {
            b.iter_batched(
                || noise.clone(),
                |noise| black_box(policy.infer(&[&history], noise, &solver)).is_ok(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
