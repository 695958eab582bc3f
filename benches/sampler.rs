//! What sampling costs beside the network: integration of a field that is one multiplication, over a
//! chunk of PushT's size `[1, 16, 2]`; the noise of that chunk; and one Transfer step on a chunk
//! `[1, 16, 64]` and on latents `[4, 4, 64, 64]`, beside the time that its memory alone takes.
//!
//! `step` is the arithmetic of one step with its new tensor; `memory` reads the same numbers once and
//! writes as many once, into memory that is already there; `affine` is the step as separate tensor
//! operations; `run` is eight steps of the sampler with its check for finite numbers (divide by 8).
//!
//! Run: `cargo bench --bench sampler`. Time a step is the time divided by the steps.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pathline::device;
use pathline::flow::{Estimate, Noise, Path};
use pathline::solver::transfer::Step;
use pathline::solver::{Noising, grid, integrate, tableau, transfer};

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

fn transfer_steps(c: &mut Criterion) {
    let path = Path::Straight;
    let (from, to) = (path.at(0.6), path.at(0.5));
    let noise = Noise::new(0);
    for dims in [&[1, 16, 64][..], &[4, 4, 64, 64]] {
        let n: usize = dims.iter().product();
        let draws = [0, 1, 2].map(|draw| noise.normal(0, draw, n));
        let tensors = draws.clone().map(|v| Tensor::from_vec(v, dims, &device::cpu()).unwrap());
        let [data, eps, z] = tensors;
        let estimate = Estimate { data, noise: eps };
        let mut out = vec![0f32; n];
        let shape = dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let mut group = c.benchmark_group("sampler/transfer");
        group.sample_size(50).measurement_time(Duration::from_secs(1));
        for (name, eta) in [("eta0", 0.0), ("eta1", 1.0)] {
            let id =
                |what: &str| BenchmarkId::new(format!("{what}_{name}"), format!("{shape}/f32/cpu"));
            let step = Step::new(&from, &to, Noising::Eta(eta)).unwrap();
            let z = (eta > 0.0).then_some(&z);
            // Operands and result, each once.
            group.throughput(Throughput::Bytes(4 * n as u64 * if z.is_some() { 4 } else { 3 }));
            group.bench_function(id("step"), |b| {
                b.iter(|| black_box(black_box(&step).apply(&estimate, z).unwrap()));
            });
            group.bench_function(id("affine"), |b| {
                b.iter(|| {
                    let sum = estimate.data.affine(step.data, 0.0).unwrap()
                        + estimate.noise.affine(step.noise, 0.0).unwrap();
                    black_box(match z {
                        Some(z) => (sum.unwrap() + z.affine(step.fresh, 0.0).unwrap()).unwrap(),
                        None => sum.unwrap(),
                    })
                });
            });
            let [x, y, z] = &draws;
            group.bench_function(id("memory"), |b| {
                b.iter(|| {
                    let pairs = black_box(&mut out).iter_mut().zip(black_box(x)).zip(black_box(y));
                    if eta > 0.0 {
                        for (((out, x), y), z) in pairs.zip(black_box(z)) {
                            *out = x + y + z;
                        }
                    } else {
                        for ((out, x), y) in pairs {
                            *out = x + y;
                        }
                    }
                });
            });
        }
        let grid = grid::uniform(0.9, 0.1, 8).unwrap();
        group.throughput(Throughput::Elements(8));
        group.bench_function(BenchmarkId::new("run_eta0", format!("{shape}/f32/cpu")), |b| {
            b.iter(|| {
                let mut denoiser = |_: &Tensor, _: f64| Ok(estimate.clone());
                let mut draw = |_: usize, _: &Tensor| Ok(z.clone());
                let x = estimate.data.clone();
                let noising = Noising::Eta(0.0);
                let quiet = &mut |_: usize, _: f64, _: &Tensor| Ok(());
                transfer(&mut denoiser, &path, x, &grid, noising, &mut draw, quiet).unwrap()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, steps, transfer_steps);
criterion_main!(benches);
