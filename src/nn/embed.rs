//! Sinusoidal embeddings of the time.
//!
//! Angles are computed in f64 on the host and only the finished embedding becomes f32, since in half
//! precision the angles themselves are wrong. Two families are in use: periods in geometric
//! progression ([`sinusoidal`]), and the frequencies of DDPM ([`TimestepEmbedding`]).

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use crate::{Error, Result};

/// `[sin(t·ω_i), cos(t·ω_i)]` with periods `min_period … max_period` in geometric progression, as in
/// π0 (openpi `models/pi0.py`).
///
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
) -> TensorResult<Tensor> {
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

/// DDPM's embedding with diffusers' options: angle `scale·t·max_period^(−i/(dim/2 − freq_shift))`.
/// Source: Ho, Jain, Abbeel 2020, appendix B; diffusers `get_timestep_embedding`.
#[derive(Clone, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Width; a zero is appended to an odd one.
    pub dim: usize,
    /// Cosines first: `[cos, sin]` instead of `[sin, cos]`.
    pub flip_sin_to_cos: bool,
    /// 1: the last frequency is `1/max_period`; 0: it is one step short of that.
    pub freq_shift: f64,
    /// Factor of all angles.
    pub scale: f64,
    /// Ratio of the frequencies.
    pub max_period: f64,
}

impl TimestepEmbedding {
    /// The function's defaults: sines first, shift 1, scale 1, period 10000.
    pub fn new(dim: usize) -> Self {
        Self { dim, flip_sin_to_cos: false, freq_shift: 1.0, scale: 1.0, max_period: 1e4 }
    }

    /// Embeds one network time per sample: `t` `[b]` on the host to `[b, dim]`.
    ///
    /// # Errors
    /// When there is no frequency, or one is not finite: `dim` at least 2, `dim/2` above
    /// `freq_shift`.
    pub fn embed(&self, t: &[f64], dtype: DType, device: &Device) -> Result<Tensor> {
        let half = self.dim / 2;
        let span = half as f64 - self.freq_shift;
        if half == 0 || span.is_nan() || span <= 0.0 {
            let expected = format!("at least 2, and dim/2 above freq_shift {}", self.freq_shift);
            return Err(Error::range("time embedding: dim", expected, self.dim as f64));
        }
        if !(self.max_period > 0.0 && self.max_period.is_finite()) {
            let expected = "a positive number";
            return Err(Error::range("time embedding: max_period", expected, self.max_period));
        }
        let (sine, cosine) = if self.flip_sin_to_cos { (half, 0) } else { (0, half) };
        let mut out = vec![0f64; t.len() * self.dim];
        for (row, t) in out.chunks_exact_mut(self.dim).zip(t) {
            for i in 0..half {
                let frequency = (-self.max_period.ln() * i as f64 / span).exp();
                let angle = self.scale * (t * frequency);
                row[sine + i] = angle.sin();
                row[cosine + i] = angle.cos();
            }
        }
        let out = Tensor::from_vec(out, (t.len(), self.dim), &Device::Cpu)?;
        Ok(out.to_dtype(dtype)?.to_device(device)?)
    }
}
