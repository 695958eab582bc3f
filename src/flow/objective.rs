//! Training objectives: put pairs of data and noise on their path, and regress the network's output
//! on what it should have been there.
//!
//! ```text
//! x_t = α(t)·data + σ(t)·noise + γ(t)·extra
//! L   = E w(t)·‖network(x_t, t) − (p·data + q·noise + r·extra)‖²
//! ```
//!
//! One function makes the batch of every objective; they differ in data only:
//!
//! | objective | path | target | weight | bridge |
//! |---|---|---|---|---|
//! | DDPM, simple | discrete | epsilon | unit | none |
//! | v- and x₀-prediction | any | v_prediction, sample | unit, truncated, min_snr | none |
//! | CFM, OT-CFM | straight_reversed | velocity | unit | none, constant |
//! | target-CFM | lipman | velocity | unit | none |
//! | SB-CFM | straight_reversed | velocity | unit | schrodinger |
//! | VP-CFM | cosine_reversed | velocity | unit | none |
//! | EDM | edm | sample | edm | none |
//!
//! OT-CFM and SB-CFM take pairs that a coupling has made; this page does not know where pairs come
//! from. Under a bridge, `noise` is the other end of the pair, whatever its distribution.
//!
//! The loss has the same gradient as the regression on the marginal `E[target | x_t]`, which nobody
//! can evaluate: `flow::marginal` says when one can. Sources: Ho et al. 2020, Salimans and Ho 2022,
//! Lipman et al. 2023 (theorem 2), Tong et al. 2024.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::bridge::Bridge;
use super::noise::Noise;
use super::path::{Coef, Path};
use super::target::Target;
use super::time_law::{TimeLaw, shifted};
use super::weight::Weight;
use crate::{Error, Result};

/// What is regressed on what, where and how heavily: plain data, as a recipe holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objective {
    /// The curve from noise to data.
    pub path: Path,
    /// What the network emits.
    pub target: Target,
    /// How training times are drawn.
    pub time: TimeLaw,
    /// Factor on `σ/α` at every drawn time: 1 for none, 3 for SD3.
    pub shift: f64,
    /// Weight of a sample's squared error.
    pub weight: Weight,
    /// Extra noise around the curve.
    pub bridge: Bridge,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            path: Path::default(),
            target: Target::default(),
            time: TimeLaw::default(),
            shift: 1.0,
            weight: Weight::default(),
            bridge: Bridge::default(),
        }
    }
}

/// Samples on their paths, and what the network should say of them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The state `x_t`, shape of the data.
    pub x_t: Tensor,
    /// What the network should emit, shape of the data.
    pub target: Tensor,
    /// Weight of each sample's squared error.
    pub weight: Vec<f64>,
}

impl Objective {
    /// Checks the parameters of all parts.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Invalid`], naming the part.
    pub fn validate(&self) -> Result<()> {
        self.path.validate()?;
        self.time.validate()?;
        self.weight.validate()?;
        self.bridge.validate()?;
        if !(self.shift > 0.0 && self.shift.is_finite()) {
            return Err(Error::range("objective: shift", "a number above 0", self.shift));
        }
        Ok(())
    }

    /// Training times in the path's own convention for `n` samples from `first_sample` on, of draw
    /// number `draw`.
    pub fn times(&self, noise: &Noise, first_sample: u64, draw: u64, n: usize) -> Vec<f64> {
        let time = |i| self.time.sample_on(&self.path, noise, first_sample + i, draw);
        (0..n as u64).map(|i| shifted(&self.path, time(i), self.shift)).collect()
    }

    /// The pairs `data` `[b, ..]` and `noise` `[b, ..]` on their paths at the path's own times `t`,
    /// one per sample. `extra`, unit normals of the same shape, is for a bridge and only for one.
    ///
    /// # Errors
    /// [`Error::Time`] for a time outside the path, [`Error::Shape`] when shapes differ or the number
    /// of times is not b, [`Error::Range`] at the ends of a bridge, [`Error::Invalid`] when a tensor
    /// is not finite, extra noise is missing or superfluous, or target or weight is infinite there.
    pub fn batch(
        &self,
        data: &Tensor,
        noise: &Tensor,
        extra: Option<&Tensor>,
        t: &[f64],
    ) -> Result<Batch> {
        check_shapes(data, noise, t)?;
        match (self.bridge, extra) {
            (Bridge::None, None) => {}
            (Bridge::None, Some(_)) => {
                return Err(Error::Invalid("objective: extra noise, but no bridge uses it".into()));
            }
            (bridge, None) => {
                return Err(Error::Invalid(format!("objective: {bridge:?} needs extra noise")));
            }
            (_, Some(extra)) if extra.dims() != data.dims() => {
                return Err(Error::shape("extra noise", data.dims(), extra.dims()));
            }
            _ => {}
        }
        let places = t.iter().map(|&t| self.place(t)).collect::<Result<Vec<_>>>()?;
        let column = |of: fn(&Place) -> f64| column(places.iter().map(of).collect(), data);
        let mut x_t = weighed(&column(|p| p.coef.alpha)?, data, &column(|p| p.coef.sigma)?, noise)?;
        let mut target = weighed(&column(|p| p.data)?, data, &column(|p| p.noise)?, noise)?;
        if let Some(extra) = extra {
            x_t = (x_t + extra.broadcast_mul(&column(|p| p.gamma)?)?)?;
            target = (target + extra.broadcast_mul(&column(|p| p.extra)?)?)?;
        }
        let sum = (widened(&x_t)?.sum_all()? + widened(&target)?.sum_all()?)?;
        let sum = sum.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !sum.is_finite() {
            return Err(Error::Invalid(format!(
                "objective: expected finite data and noise, got a batch whose sum is {sum}"
            )));
        }
        Ok(Batch { x_t, target, weight: places.iter().map(|p| p.weight).collect() })
    }

    /// All numbers that depend on the time alone.
    fn place(&self, t: f64) -> Result<Place> {
        let (gamma, d_gamma) = self.bridge.at(&self.path, t)?;
        let coef = self.path.at(t);
        let (data, noise) = self.target.weights(&coef);
        let (data, noise, extra) = match (self.bridge, self.target) {
            (Bridge::None, _) => (data, noise, 0.0),
            (_, Target::Velocity) => (data, noise, d_gamma),
            // Given both ends, the state is normal with deviation γ.
            (_, Target::Score) => (0.0, 0.0, -1.0 / gamma),
            _ => (data, noise, 0.0),
        };
        if !(data.is_finite() && noise.is_finite() && extra.is_finite()) {
            return Err(Error::Invalid(format!(
                "target {:?}: expected a time where it is finite, got {t}; draw times inside the path",
                self.target
            )));
        }
        let weight = self.weight.of(self.target, &coef)?;
        Ok(Place { coef, gamma, data, noise, extra, weight })
    }
}

/// A place on the path: the state's coefficients, the target's, and the weight.
struct Place {
    coef: Coef,
    gamma: f64,
    data: f64,
    noise: f64,
    extra: f64,
    weight: f64,
}

impl Batch {
    /// The batch with the part under `known` (1 or 0, broadcast to the data) clean: its state is the data,
    /// whatever the time. Training-time real-time chunking gives the first rows of a chunk so (Black
    /// et al. 2025, arXiv 2512.05964); the network is to be told their time, and the loss to leave them
    /// out.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn with_known(self, data: &Tensor, known: &Tensor) -> Result<Self> {
        let unknown = known.affine(-1.0, 1.0)?;
        let held = data.broadcast_mul(known)?;
        let x_t = (self.x_t.broadcast_mul(&unknown)? + held)?;
        Ok(Self { x_t, ..self })
    }

    /// The loss of the network's `output` for `x_t`: the mean of `mask·weight·(output − target)²`
    /// over all elements, a scalar. `mask` is broadcast to the shape of the data.
    ///
    /// # Errors
    /// [`Error::Shape`] when the output has another shape than the data.
    pub fn loss(&self, output: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        if output.dims() != self.target.dims() {
            return Err(Error::shape("network output", self.target.dims(), output.dims()));
        }
        if self.weight.iter().all(|weight| *weight == 1.0) {
            return mse(output, &self.target, mask);
        }
        let weight = column(self.weight.clone(), output)?;
        let weight = match mask {
            Some(mask) => mask.broadcast_mul(&weight)?,
            None => weight,
        };
        mse(output, &self.target, Some(&weight))
    }
}

/// Where each sample of a batch is on its path, and how fast it moves there.
#[derive(Clone, Debug)]
pub struct CfmBatch {
    /// The state `x_t`, shape of the data.
    pub x_t: Tensor,
    /// The velocity in the path's own time, shape of the data: what the network must predict.
    pub velocity: Tensor,
}

/// The batch of conditional flow matching: [`Objective::batch`] for the velocity, unweighted and
/// without a bridge.
///
/// # Errors
/// As [`Objective::batch`].
pub fn cfm(path: &Path, data: &Tensor, noise: &Tensor, t: &[f64]) -> Result<CfmBatch> {
    let objective = Objective { path: path.clone(), ..Default::default() };
    let batch = objective.batch(data, noise, None, t)?;
    Ok(CfmBatch { x_t: batch.x_t, velocity: batch.target })
}

/// The mean over all elements of `weight·(pred − target)²`, a scalar. `weight` is broadcast to the
/// shape of `pred`; elements of weight 0 still count in the mean, as in LeRobot's padding mask.
///
/// # Errors
/// When the shapes do not fit.
pub fn mse(pred: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
    let squared = (pred - target)?.sqr()?;
    let squared = match weight {
        Some(weight) => squared.broadcast_mul(weight)?,
        None => squared,
    };
    Ok(squared.mean_all()?)
}

fn check_shapes(data: &Tensor, noise: &Tensor, t: &[f64]) -> Result<()> {
    if data.rank() == 0 || data.elem_count() == 0 {
        return Err(Error::shape("data", "[b, ..] with b above 0", data.dims()));
    }
    if data.dims() != noise.dims() {
        return Err(Error::shape("noise", data.dims(), noise.dims()));
    }
    if data.dims().first() != Some(&t.len()) {
        return Err(Error::shape("times", &data.dims()[..1], [t.len()]));
    }
    Ok(())
}

/// One number per sample as `[b, 1, ..]`, in the dtype and on the device of `like` `[b, ..]`.
pub(super) fn column(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = values.len();
    let column = Tensor::from_vec(values, shape, &Device::Cpu)?;
    Ok(column.to_dtype(like.dtype())?.to_device(like.device())?)
}

fn weighed(a: &Tensor, x: &Tensor, b: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok((x.broadcast_mul(a)? + y.broadcast_mul(b)?)?)
}

/// A sum of half-precision numbers may overflow.
fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? })
}
