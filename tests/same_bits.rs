//! The same seed gives the same bits: alone and in a batch, with one thread and with several.
//!
//! A sampler repeats its network many times, so that one bit becomes many. What could change bits is
//! the kernel of a matrix product, which is chosen by size (see src/nn/product.rs).

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::HashMap;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use pathline::Result;
use pathline::flow::Noise;
use pathline::nn::attention::{Attention, AttentionConfig};
use pathline::nn::mlp::{FlowMlp, MlpConfig};
use pathline::nn::params::Params;
use pathline::nn::unet1d::{UNet1d, UNet1dConfig};
use pathline::solver::{Field, grid, integrate, tableau};

/// A network under test: the velocity of `x` under `condition` `[b, 5]`, at time t.
type Velocity = Box<dyn Fn(&Tensor, &Tensor, f64) -> Result<Tensor>>;

/// What a network is built from: parameters with a gradient, or a checkpoint's tensors.
#[derive(Clone, Copy, PartialEq)]
enum Weights {
    Trained,
    Fixed,
}

/// The same values either way.
fn build<T>(weights: Weights, load: &dyn Fn(VarBuilder<'_>) -> Result<T>) -> T {
    let params = Params::new(7);
    let trained = load(params.builder(&Device::Cpu)).unwrap();
    if weights == Weights::Trained {
        return trained;
    }
    let copies: HashMap<String, Tensor> = params
        .named()
        .into_iter()
        .map(|(name, var)| (name, var.as_tensor().copy().unwrap()))
        .collect();
    let fixed: HashMap<String, Tensor> =
        copies.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect();
    load(VarBuilder::from_tensors(fixed, DType::F32, &Device::Cpu)).unwrap()
}

fn mlp(weights: Weights, width: usize, chunk: usize) -> (Vec<usize>, Velocity) {
    let config = MlpConfig { width, depth: 3, time_embed_dim: 16, token_embed_dim: 8 };
    let net = build(weights, &|vb| Ok(FlowMlp::load(&config, 5, [chunk, 1], vb)?));
    let velocity = move |x: &Tensor, condition: &Tensor, t: f64| {
        Ok(net.velocity(&net.encode(condition)?, x, &vec![t; x.dim(0)?], None)?)
    };
    (vec![chunk], Box::new(velocity))
}

fn unet(weights: Weights, down_dims: &[usize], horizon: usize) -> (Vec<usize>, Velocity) {
    let config = UNet1dConfig {
        action_dim: 2,
        cond_dim: 5,
        down_dims: down_dims.to_vec(),
        kernel_size: 5,
        n_groups: 8,
        diffusion_step_embed_dim: 16,
        use_film_scale_modulation: true,
    };
    let net = build(weights, &|vb| UNet1d::load(&config, vb));
    let velocity = move |x: &Tensor, condition: &Tensor, t: f64| {
        let times = Tensor::full(t as f32 * 100.0, x.dim(0)?, &Device::Cpu)?;
        net.forward(x, &times, condition)
    };
    (vec![horizon, 2], Box::new(velocity))
}

fn attention(weights: Weights) -> (Vec<usize>, Velocity) {
    let config = AttentionConfig {
        query_dim: 24,
        cross_attention_dim: None,
        heads: 4,
        dim_head: 6,
        bias: true,
    };
    let net = build(weights, &|vb| Attention::load(&config, vb));
    (vec![10, 24], Box::new(move |x, _, _| net.forward(x, None, None)))
}

/// Every network by name, in sizes that meet every kernel: narrow, usual, longer than a block.
fn networks(weights: Weights) -> Vec<(&'static str, Vec<usize>, Velocity)> {
    let named = |name, (shape, net)| (name, shape, net);
    vec![
        named("mlp of 16", mlp(weights, 16, 1)),
        named("mlp of 448", mlp(weights, 448, 32)),
        named("mlp of 600", mlp(weights, 600, 32)),
        named("unet", unet(weights, &[16, 32, 64], 4)),
        named("unet, long", unet(weights, &[32, 128], 16)),
        named("attention", attention(weights)),
    ]
}

/// Samples `first .. first + count` by four steps of Heun from noise.
fn sample(shape: &[usize], net: &Velocity, first: u64, count: usize) -> Vec<u32> {
    let noise = Noise::new(11);
    let tensor = |draw: u64, shape: &[usize]| {
        let shape = [&[count], shape].concat();
        let like = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        noise.normal_like(first, draw, &like).unwrap()
    };
    let condition = tensor(1, &[5]);
    let mut field = |x: &Tensor, t: f64| net(x, &condition, t);
    let field: &mut Field<'_> = &mut field;
    let grid = grid::uniform(1.0, 0.0, 4).unwrap();
    let x = integrate(field, tensor(0, shape), &grid, &tableau::HEUN).unwrap().x;
    let x: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    x.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_sample_has_the_same_bits_alone_and_in_a_batch() {
    for weights in [Weights::Fixed, Weights::Trained] {
        for (name, shape, net) in networks(weights) {
            let together = sample(&shape, &net, 0, 8);
            let len = together.len() / 8;
            assert!(together == sample(&shape, &net, 0, 8), "{name}: not even twice");
            assert!(together[..len] != together[len..2 * len], "{name}: samples differ");
            for i in [0, 3, 7] {
                let alone = sample(&shape, &net, i as u64, 1);
                assert!(alone == together[i * len..][..len], "{name}: sample {i} alone");
            }
            // The first eight of many.
            let many = sample(&shape, &net, 0, 70);
            assert!(many[..together.len()] == together, "{name}: 8 of 70");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    const NAME: &str = "the_number_of_threads_changes_no_bit";
    // candle reads the number of threads from the environment, so this test starts itself again.
    if std::env::var_os("PATHLINE_PRINT_BITS").is_some() {
        for (name, shape, net) in networks(Weights::Fixed) {
            // 64 samples: enough work for gemm to share it out.
            for count in [1, 8, 64] {
                println!("bits {name} {count} {:x?}", sample(&shape, &net, 0, count));
            }
        }
        return;
    }
    let bits = |threads: &str| -> Vec<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads", "1"])
            .env("PATHLINE_PRINT_BITS", "1")
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("bits ").skip(1).map(|line| line.lines().next().unwrap().to_owned()).collect()
    };
    let one = bits("1");
    assert_eq!(one.len(), 18);
    for threads in ["2", "3"] {
        for (one, several) in one.iter().zip(bits(threads)) {
            assert!(*one == several, "{threads} threads: {:?}", several.split('[').next());
        }
    }
}

/// The broken twin: the same network with candle's own linear layers.
#[test]
fn candles_own_layers_do_not_have_the_same_bits() {
    let layers: Vec<candle_nn::Linear> = (0..3)
        .map(|i| {
            let params = Params::new(i);
            candle_nn::linear(448, 448, params.builder(&Device::Cpu)).unwrap()
        })
        .collect();
    let net: Velocity = Box::new(move |x, _, _| {
        let mut h = x.clone();
        for layer in &layers {
            h = candle_nn::Module::forward(layer, &h)?.silu()?;
        }
        Ok(h)
    });
    let (alone, together) = (sample(&[448], &net, 0, 1), sample(&[448], &net, 0, 8));
    assert!(alone != together[..448], "gemm is repaired: src/nn/product.rs can go");
}
