//! Networks as wholes: the 1-D UNet of LeRobot's default DiffusionPolicy and of the shipped one, the ResNet of its
//! camera, a block of Stable Diffusion 1.5's UNet, the shipped UNet and decoder, one update of training.
//! Names are network/shape/dtype/device.
//!
//! Run: `cargo bench --bench networks`. Set `RAYON_NUM_THREADS` to the threads that shall compute.
#![allow(clippy::unwrap_used, reason = "a bench may panic: that is how it fails")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use pathline::device;
use pathline::flow::Noise;
use pathline::nn::condition::Condition;
use pathline::nn::params::Params;
use pathline::nn::resnet::{Depth, Naming, ResNet, ResNetConfig, ResNetNorm};
use pathline::nn::unet1d::{UNet1d, UNet1dConfig};
use pathline::nn::unet2d::{UNet2d, UNet2dConfig};
use pathline::nn::{Storage, Work, stored_as};
use pathline::vae::{AutoencoderKl, AutoencoderKlConfig};

const STORAGES: [(&str, Storage); 3] =
    [("f32", Storage::F32), ("bf16", Storage::Bf16), ("int8", Storage::Int8)];

fn normal(shape: &[usize]) -> Tensor {
    let numbers = Noise::new(1).normal(0, 0, shape.iter().product());
    Tensor::from_vec(numbers, shape, &device::cpu()).unwrap()
}

/// Weights of zeros cost what others cost.
fn weights() -> VarBuilder<'static> {
    VarBuilder::zeros(DType::F32, &device::cpu())
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    group
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, run: impl Fn() -> Tensor) {
    let before = Work::so_far();
    black_box(run());
    group.throughput(Throughput::Elements(before.since().operations));
    group.bench_function(name, |b| b.iter(|| black_box(run())));
}

fn unet1d_config(down_dims: &[usize], cond_dim: usize, embed: usize) -> UNet1dConfig {
    UNet1dConfig {
        action_dim: 2,
        cond_dim,
        down_dims: down_dims.to_vec(),
        kernel_size: 5,
        n_groups: 8,
        diffusion_step_embed_dim: embed,
        use_film_scale_modulation: true,
    }
}

/// One evaluation, by horizon, batch and storage.
fn unet1d(c: &mut Criterion) {
    let mut group = group(c, "unet1d");
    let networks: [(&str, UNet1dConfig); 2] = [
        ("shipped", unet1d_config(&[32, 64, 128], 36, 64)),
        ("lerobot_default", unet1d_config(&[512, 1024, 2048], 132, 128)),
    ];
    for (name, config) in &networks {
        let sizes: &[[usize; 2]] = match *name {
            "shipped" => &[[1, 16], [1, 64], [64, 16]],
            _ => &[[1, 16], [1, 32], [1, 64], [4, 16], [16, 16]],
        };
        for (dtype, storage) in STORAGES {
            let net = stored_as(storage, || UNet1d::load(config, weights())).unwrap();
            for &[batch, horizon] in sizes {
                let (x, t) = (normal(&[batch, horizon, 2]), normal(&[batch]));
                let cond = normal(&[batch, config.cond_dim]);
                measure(&mut group, &format!("{name}/{batch}x{horizon}/{dtype}/cpu"), || {
                    net.forward(&x, &t, &cond).unwrap()
                });
            }
        }
    }
    group.finish();
}

fn resnet(c: &mut Criterion) {
    let mut group = group(c, "resnet18");
    let config = ResNetConfig {
        depth: Depth::Resnet18,
        norm: ResNetNorm::Group,
        dilate_last: false,
        naming: Naming::Sequential,
    };
    let net = ResNet::load(&config, weights()).unwrap();
    for side in [96, 224] {
        let x = normal(&[1, 3, side, side]);
        measure(&mut group, &format!("1x3x{side}x{side}/f32/cpu"), || net.forward(&x).unwrap());
    }
    group.finish();
}

fn pictures(c: &mut Criterion) {
    let mut group = group(c, "pictures");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/emoji-flow");
    let read = |part: &str| fs::read_to_string(shipped.join(part).join("config.json")).unwrap();
    let block = r#"{"_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4,
        "out_channels": 4, "block_out_channels": [320], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
        "cross_attention_dim": 768, "attention_head_dim": 8}"#;
    for (name, json, tokens) in [
        ("unet2d_shipped", &read("unet"), [24, 128]),
        ("unet2d_sd15_block", &block.to_owned(), [77, 768]),
    ] {
        let config = serde_json::from_str::<UNet2dConfig>(json).unwrap();
        let net = UNet2d::load(&config, weights()).unwrap();
        let side = serde_json::from_str::<serde_json::Value>(json).unwrap()["sample_size"].as_u64();
        let side = side.unwrap() as usize;
        let channels = if side == 64 { 4 } else { 16 };
        let x = normal(&[1, channels, side, side]);
        let condition =
            Condition { tokens: Some(normal(&[1, tokens[0], tokens[1]])), ..Condition::default() };
        measure(&mut group, &format!("{name}/1x{channels}x{side}x{side}/f32/cpu"), || {
            net.forward(&x, &[0.5], &condition).unwrap()
        });
    }
    let config: AutoencoderKlConfig = serde_json::from_str(&read("vae")).unwrap();
    let net = AutoencoderKl::load(&config, weights()).unwrap();
    let z = normal(&[1, 16, 8, 8]);
    measure(&mut group, "vae_decode_shipped/1x16x8x8/f32/cpu", || net.decode(&z).unwrap());
    group.finish();
}

/// One forward and one backward pass.
fn training(c: &mut Criterion) {
    let mut group = group(c, "training");
    let config = unet1d_config(&[32, 64, 128], 36, 64);
    let params = Params::new(0);
    let net = UNet1d::load(&config, params.builder(&device::cpu())).unwrap();
    let (x, t, cond) = (normal(&[64, 16, 2]), normal(&[64]), normal(&[64, 36]));
    group.bench_function(BenchmarkId::new("unet1d_shipped", "64x16/f32/cpu"), |b| {
        b.iter(|| {
            let loss = net.forward(&x, &t, &cond).unwrap().sqr().unwrap().mean_all().unwrap();
            black_box(loss.backward().unwrap());
        });
    });
    group.finish();
}

criterion_group!(benches, unet1d, resnet, pictures, training);
criterion_main!(benches);
