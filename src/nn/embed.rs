//! Sinusoidal embedding of the flow time.
//!
//! `[sin(t·ω_i), cos(t·ω_i)]` with periods `min_period … max_period` in geometric progression, as in
//! π0 (openpi `models/pi0.py`): frequencies are computed in f64 on the host and only the finished
//! embedding becomes f32, since in half precision the angles themselves are wrong.

use candle_core::{Device, Result, Tensor};

/// Embeds one flow time per sample: `t` `[b]` on the host to `[b, dim]`, sines first.
///
/// # Errors
/// When the tensor cannot be made.
pub fn sinusoidal(
    t: &[f64],
    dim: usize,
    min_period: f64,
    max_period: f64,
    device: &Device,
) -> Result<Tensor> {
    let half = dim / 2;
    let mut out = vec![0f32; t.len() * half * 2];
    for (row, &t) in out.chunks_exact_mut(half * 2).zip(t) {
        let (sines, cosines) = row.split_at_mut(half);
        for (i, (sine, cosine)) in sines.iter_mut().zip(cosines).enumerate() {
            let fraction = i as f64 / (half.max(2) - 1) as f64;
            let period = min_period * (max_period / min_period).powf(fraction);
            let angle = t * std::f64::consts::TAU / period;
            *sine = angle.sin() as f32;
            *cosine = angle.cos() as f32;
        }
    }
    Tensor::from_vec(out, (t.len(), half * 2), device)
}
