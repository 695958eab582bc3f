//! Rotary position embedding, with a backward pass.
//!
//! Channel pair i of a head of `dim` channels is turned by the angle `p·theta^(−2i/dim)` at position
//! p. Which channels are a pair is a convention of the checkpoint, and nothing tells but bad output.
//! Angles are f64 on the host. candle-nn's fused `rope` has no backward pass.
//! Source: Su et al. 2021, section 3.2.2.

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which channels are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// i and i + dim/2: GPT-NeoX, Llama in transformers, Gemma.
    Halves,
    /// 2i and 2i + 1: the paper, Flux.
    Interleaved,
}

/// Cosines and sines for a row of positions.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
    pairing: Pairing,
}

impl Rope {
    /// For heads of `dim` channels at `positions`, with base `theta` (10000 in the paper), for
    /// states of `dtype`.
    ///
    /// # Errors
    /// When `dim` is odd or zero, `theta` is not positive, or a position is not finite.
    pub fn new(
        dim: usize,
        theta: f64,
        positions: &[f64],
        pairing: Pairing,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if dim == 0 || dim % 2 == 1 {
            return Err(Error::range("rope: dim", "an even number above 0", dim as f64));
        }
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(Error::range("rope: theta", "a positive number", theta));
        }
        if let Some(&position) = positions.iter().find(|p| !p.is_finite()) {
            return Err(Error::range("rope: position", "a finite number", position));
        }
        let half = dim / 2;
        let frequency = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64);
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = positions
                .iter()
                .flat_map(|p| (0..half).map(move |i| f(p * frequency(i))))
                .collect();
            let table = Tensor::from_vec(values, (positions.len(), half), &Device::Cpu)?;
            Ok(table.to_dtype(dtype)?.to_device(device)?)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, pairing })
    }

    /// Turns `x` `[.., t, dim]`, one position per t.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (count, half) = self.cos.dims2()?;
        match *x.dims() {
            [.., t, dim] if t == count && dim == 2 * half => {}
            _ => {
                return Err(Error::shape("rope", format!("[.., {count}, {}]", 2 * half), x.dims()));
            }
        }
        let (a, b) = match self.pairing {
            Pairing::Halves => (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?),
            Pairing::Interleaved => {
                let pairs = x.reshape([&x.dims()[..x.rank() - 1], &[half, 2]].concat())?;
                let part = |i| pairs.narrow(D::Minus1, i, 1)?.squeeze(D::Minus1);
                (part(0)?, part(1)?)
            }
        };
        let turned = [
            (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?,
            (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?,
        ];
        Ok(match self.pairing {
            Pairing::Halves => Tensor::cat(&turned, D::Minus1)?,
            Pairing::Interleaved => Tensor::stack(&turned, x.rank())?.reshape(x.shape())?,
        })
    }
}
