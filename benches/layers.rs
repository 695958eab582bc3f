//! The layers by themselves: linear, conv1d, conv2d, group norm, attention, in the shapes that policies and
//! pictures have. Names are layer/shape/dtype/device; throughput counts multiplications and additions.
//!
//! Run: `cargo bench --bench layers`. Set `RAYON_NUM_THREADS` to the threads that shall compute.
#![allow(clippy::unwrap_used, reason = "a bench may panic: that is how it fails")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use pathline::device;
use pathline::flow::Noise;
use pathline::nn::attention::{Attention, AttentionConfig};
use pathline::nn::conv::Conv1d;
use pathline::nn::conv2d::{Conv2d, Geometry};
use pathline::nn::linear::Linear;
use pathline::nn::norm::GroupNorm;
use pathline::nn::{Storage, Work, stored_as};

fn normal(shape: &[usize]) -> Tensor {
    let numbers = Noise::new(1).normal(0, 0, shape.iter().product());
    Tensor::from_vec(numbers, shape, &device::cpu()).unwrap()
}

/// Weights of zeros cost what others cost.
fn weights() -> VarBuilder<'static> {
    VarBuilder::zeros(DType::F32, &device::cpu())
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, run: impl Fn() -> Tensor) {
    let before = Work::so_far();
    black_box(run());
    let work = before.since();
    if work.operations > 0 {
        group.throughput(Throughput::Elements(work.operations));
    }
    group.bench_function(name, |b| b.iter(|| black_box(run())));
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group
}

fn linear(c: &mut Criterion) {
    let mut group = group(c, "linear");
    for [rows, input, out] in
        [[1, 448, 448], [16, 1024, 1024], [1024, 1024, 1024], [4096, 320, 2560]]
    {
        for (dtype, storage) in
            [("f32", Storage::F32), ("bf16", Storage::Bf16), ("int8", Storage::Int8)]
        {
            let layer = stored_as(storage, || Linear::load(input, out, weights())).unwrap();
            let x = normal(&[rows, input]);
            let name = format!("{rows}x{input}x{out}/{dtype}/cpu");
            measure(&mut group, &name, || layer.forward(&x).unwrap());
        }
    }
    group.finish();
}

fn conv1d(c: &mut Criterion) {
    let mut group = group(c, "conv1d");
    for [batch, channels, out, time] in
        [[1, 256, 256, 16], [1, 1024, 1024, 8], [1, 2048, 2048, 4], [64, 256, 256, 16]]
    {
        for (dtype, storage) in
            [("f32", Storage::F32), ("bf16", Storage::Bf16), ("int8", Storage::Int8)]
        {
            let layer = || Conv1d::load([channels, out, 5], 1, 2, weights());
            let layer = stored_as(storage, layer).unwrap();
            let x = normal(&[batch, channels, time]);
            let name = format!("{batch}x{channels}x{time}k5/{dtype}/cpu");
            measure(&mut group, &name, || layer.forward(&x).unwrap());
        }
    }
    group.finish();
}

fn conv2d(c: &mut Criterion) {
    let mut group = group(c, "conv2d");
    for [batch, channels, side] in [[2, 64, 32], [2, 128, 8], [1, 320, 64], [1, 128, 128]] {
        let geometry = Geometry { stride: 1, padding: 1, dilation: 1 };
        let layer = Conv2d::load([channels, channels, 3], geometry, true, weights()).unwrap();
        let x = normal(&[batch, channels, side, side]);
        let name = format!("{batch}x{channels}x{side}x{side}k3/f32/cpu");
        measure(&mut group, &name, || layer.forward(&x).unwrap());
    }
    group.finish();
}

fn group_norm(c: &mut Criterion) {
    let mut group = group(c, "group_norm");
    for [batch, channels, side] in [[1, 320, 64], [2, 128, 8], [1, 128, 128]] {
        let layer = GroupNorm::load(channels, 32, 1e-5, weights()).unwrap();
        // The numbers lie as the networks have them, the channels last.
        let x = normal(&[batch, side, side, channels]).permute((0, 3, 1, 2)).unwrap();
        let name = format!("{batch}x{channels}x{side}x{side}/f32/cpu");
        measure(&mut group, &name, || layer.forward(&x).unwrap());
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = group(c, "attention");
    for [batch, tokens, heads, dim_head] in [[2, 64, 4, 32], [1, 1024, 12, 64], [1, 4096, 8, 40]] {
        let query_dim = heads * dim_head;
        let config =
            AttentionConfig { query_dim, cross_attention_dim: None, heads, dim_head, bias: false };
        let layer = Attention::load(&config, weights()).unwrap();
        let x = normal(&[batch, tokens, query_dim]);
        let name = format!("{batch}x{tokens}x{heads}x{dim_head}/f32/cpu");
        measure(&mut group, &name, || layer.forward(&x, None, None).unwrap());
    }
    group.finish();
}

criterion_group!(benches, linear, conv1d, conv2d, group_norm, attention);
criterion_main!(benches);
