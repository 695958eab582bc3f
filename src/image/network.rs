//! What a network of pictures is asked: its time, and for a few-step network its interval.
//!
//! A few-step network says the average velocity from t to r (`flow::shortcut`). It is told t as its time,
//! and the length `|t − r|` as one more channel of the same number everywhere, behind all others: at 0 it
//! says the velocity. So any network of pictures can be one; diffusers has no such class.

use candle_core::Tensor;

use crate::Result;
use crate::flow::Path;
use crate::nn::condition::Condition;
use crate::nn::denoiser::DenoiserNet;

/// Networks of flows count the time from 0 to this.
pub(super) const FLOW_STEPS: f64 = 1000.0;

/// What the network is told for the path's own times `t`: the step of a table, 1000 times the time of a
/// flow.
pub fn network_times(path: &Path, t: &[f64]) -> Vec<f64> {
    let factor = if let Path::Discrete(_) = path { 1.0 } else { FLOW_STEPS };
    t.iter().map(|t| t * factor).collect()
}

/// The average velocity of a few-step network for the states `x` `[b, c, h, w]` from the path's own times
/// `t` to `r`, one pair a row.
///
/// # Errors
/// As [`DenoiserNet::forward`].
pub fn interval_velocity(
    net: &DenoiserNet,
    path: &Path,
    x: &Tensor,
    (t, r): (&[f64], &[f64]),
    condition: &Condition,
) -> Result<Tensor> {
    let (b, _, h, w) = x.dims4()?;
    let lengths: Vec<f32> = t.iter().zip(r).map(|(t, r)| (t - r).abs() as f32).collect();
    let lengths = Tensor::from_vec(lengths, (t.len(), 1, 1, 1), x.device())?;
    let lengths = lengths.to_dtype(x.dtype())?.broadcast_as((b, 1, h, w))?;
    let concat = match &condition.concat {
        None => lengths.contiguous()?,
        Some(concat) => Tensor::cat(&[concat, &lengths], 1)?,
    };
    let condition = Condition { concat: Some(concat), ..condition.clone() };
    net.forward(x, &network_times(path, t), &condition)
}
