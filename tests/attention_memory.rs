//! Attention over a large picture does not hold the square of its pixels.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]
#![cfg(feature = "nn")]

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use pathline::nn::attention::{Attention, AttentionConfig};
use pathline::nn::params::Params;

#[path = "support/meter.rs"]
mod meter;

#[test]
fn many_pixels_are_looked_at_in_little_memory() {
    const TOKENS: usize = 3072;
    let config = AttentionConfig {
        query_dim: 16,
        cross_attention_dim: None,
        heads: 2,
        dim_head: 8,
        bias: false,
    };
    let params = Params::new(1);
    let learning = Attention::load(&config, params.builder(&Device::Cpu)).unwrap();
    let fixed = params.named().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    let vb = VarBuilder::from_tensors(fixed.collect(), candle_core::DType::F32, &Device::Cpu);
    let fixed = Attention::load(&config, vb).unwrap();
    let x: Vec<f32> = (0..TOKENS * 16).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let x = Tensor::from_vec(x, (1, TOKENS, 16), &Device::Cpu).unwrap();
    let (out, held) = meter::peak(|| fixed.forward(&x, None, None).unwrap());
    // The twin: with a gradient in sight all scores are kept.
    let (same, all) = meter::peak(|| learning.forward(&x, None, None).unwrap());
    let scores = 2 * TOKENS * TOKENS * 4;
    println!("scores {scores}, held {held} some queries at a time, {all} at once");
    assert!(held < 64 << 20, "{held}");
    assert!(all > 2 * scores, "{all}");
    // Two programs for one formula, which add in different orders.
    let gap = (&out - &same).unwrap().abs().unwrap().max_all().unwrap();
    let largest = same.abs().unwrap().max_all().unwrap();
    let gap = gap.to_scalar::<f32>().unwrap() / largest.to_scalar::<f32>().unwrap();
    assert!(gap < 2e-6, "{gap}");
}
