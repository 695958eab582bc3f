//! A plain network for fields of few dimensions: `v(x, s)` with a state x and scalars s, which are
//! the time, for a flow map the second time, and the condition.
//!
//! ```text
//! h = W_in·[x, s] + b        expansion 0:  h ← act(h), then act(W·h + b) `depth − 1` times
//!                            expansion e:  h ← h + W₂·act(W₁·h), W₁ widens to e·width, `depth` times
//! out = W_out·h + b
//! ```
//!
//! The first is the multilayer perceptron of torchcfm's examples; the second is what C²OT (Cheng and
//! Schwing 2025) calls three layers of 128, with expansion 4 and GELU. Weights start as PyTorch's
//! `Linear`: uniform in ±1/√inputs.
//!
//! The activation is one operation with one backward pass, on the CPU: candle's own are made of up to
//! six, which for a network this small is most of the time of an update. In f32 its exponential is
//! a polynomial with a relative error below 2·10⁻⁷; f64 uses the standard library's.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, D, Layout, Result as TensorResult, Shape, Tensor, WithDType,
};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::linear::Linear;
use crate::{Error, Result};

/// The nonlinearity between two layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x/(1 + e^(−x))`, also called swish.
    #[default]
    Silu,
    /// `λ·x` above 0 and `λ·α·(e^x − 1)` below, of Klambauer et al. 2017.
    Selu,
    /// `x·Φ(x)` with the exact normal distribution Φ.
    Gelu,
}

/// Size of a [`Dense`] network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseConfig {
    /// Numbers in the state, and in the output.
    pub dims: usize,
    /// Scalars beside the state: times and condition.
    pub scalars: usize,
    /// Width of the hidden layers.
    pub width: usize,
    /// Hidden layers, or residual blocks if there is an expansion.
    pub depth: usize,
    /// Width inside a residual block as a multiple of `width`; 0 for plain layers.
    #[serde(default)]
    pub expansion: usize,
    /// Nonlinearity.
    #[serde(default)]
    pub activation: Activation,
}

impl DenseConfig {
    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// When it cannot; the message names the field.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("dims", self.dims, 1, 65_536),
            ("scalars", self.scalars, 0, 65_536),
            ("width", self.width, 1, 16_384),
            ("depth", self.depth, 1, 256),
            ("expansion", self.expansion, 0, 64),
        ];
        for (name, value, low, high) in fields {
            if !(low..=high).contains(&value) {
                let expected = format!("a whole number from {low} to {high}");
                return Err(Error::range(format!("network dense: {name}"), expected, value as f64));
            }
        }
        Ok(())
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct Dense {
    input: Linear,
    /// One layer each, or two of a residual block.
    layers: Vec<(Linear, Option<Linear>)>,
    output: Linear,
    activation: Activation,
}

impl Dense {
    /// Loads `input`, `layers.<i>` (or `blocks.<i>.up` and `.down`) and `output`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &DenseConfig, vb: VarBuilder<'_>) -> TensorResult<Self> {
        let width = config.width;
        let layer = |i: usize| -> TensorResult<(Linear, Option<Linear>)> {
            if config.expansion == 0 {
                return Ok((linear(width, width, vb.pp(format!("layers.{i}")))?, None));
            }
            let (vb, wide) = (vb.pp(format!("blocks.{i}")), config.expansion * width);
            let down = linear(wide, width, vb.pp("down"))?;
            Ok((linear(width, wide, vb.pp("up"))?, Some(down)))
        };
        let layers = config.depth - usize::from(config.expansion == 0);
        Ok(Self {
            input: linear(config.dims + config.scalars, width, vb.pp("input"))?,
            layers: (0..layers).map(layer).collect::<TensorResult<_>>()?,
            output: linear(width, config.dims, vb.pp("output"))?,
            activation: config.activation,
        })
    }

    /// The field at the states `x` `[b, dims]` with the scalars `[b, scalars]`, to `[b, dims]`.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn forward(&self, x: &Tensor, scalars: &Tensor) -> TensorResult<Tensor> {
        let act = |h: Tensor| h.contiguous()?.apply_op1(Act(self.activation));
        let mut h = self.input.forward(&Tensor::cat(&[x, scalars], D::Minus1)?)?;
        if self.layers.iter().all(|(_, down)| down.is_none()) {
            h = act(h)?;
        }
        for (up, down) in &self.layers {
            let inner = act(up.forward(&h)?)?;
            h = match down {
                Some(down) => (h + down.forward(&inner)?)?,
                None => inner,
            };
        }
        self.output.forward(&h)
    }
}

/// A linear layer with PyTorch's initial values.
fn linear(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> TensorResult<Linear> {
    let bound = 1.0 / (inputs as f64).sqrt();
    let init = Init::Uniform { lo: -bound, up: bound };
    let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
    Linear::new(weight, Some(vb.get_with_hints(outputs, "bias", init)?))
}

/// The activation as an operation of its own, and its slope times a gradient.
struct Act(Activation);
struct Slope(Activation);

impl CustomOp1 for Act {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> TensorResult<(CpuStorage, Shape)> {
        let out = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(self.map(part(x, layout)?)),
            CpuStorage::F64(x) => CpuStorage::F64(self.map(part(x, layout)?)),
            _ => candle_core::bail!("activation: expected f32 or f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> TensorResult<Option<Tensor>> {
        Ok(Some(arg.apply_op2_no_bwd(&grad.contiguous()?, &Slope(self.0))?))
    }
}

impl Act {
    fn map<T: Real>(&self, x: &[T]) -> Vec<T> {
        let x = x.iter().copied();
        match self.0 {
            Activation::Relu => x.map(|x| if x > T::of(0.0) { x } else { T::of(0.0) }).collect(),
            Activation::Silu => x.map(|x| x * sigmoid(x)).collect(),
            Activation::Selu => x.map(|x| selu(x).0).collect(),
            Activation::Gelu => x.map(|x| x * x.phi().0).collect(),
        }
    }
}

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation-slope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let out = match (x, grad) {
            (CpuStorage::F32(x), CpuStorage::F32(g)) => {
                CpuStorage::F32(self.map(part(x, x_layout)?, part(g, grad_layout)?))
            }
            (CpuStorage::F64(x), CpuStorage::F64(g)) => {
                CpuStorage::F64(self.map(part(x, x_layout)?, part(g, grad_layout)?))
            }
            _ => candle_core::bail!("activation: expected f32 or f64, and a gradient of its dtype"),
        };
        Ok((out, x_layout.shape().clone()))
    }
}

impl Slope {
    fn map<T: Real>(&self, x: &[T], grad: &[T]) -> Vec<T> {
        let both = x.iter().copied().zip(grad.iter().copied());
        let one = T::of(1.0);
        match self.0 {
            Activation::Relu => {
                both.map(|(x, g)| if x > T::of(0.0) { g } else { T::of(0.0) }).collect()
            }
            Activation::Silu => both
                .map(|(x, g)| {
                    let s = sigmoid(x);
                    g * s * (one + x * (one - s))
                })
                .collect(),
            Activation::Selu => both.map(|(x, g)| g * selu(x).1).collect(),
            Activation::Gelu => both
                .map(|(x, g)| {
                    let (cumulative, density) = x.phi();
                    g * (cumulative + x * density)
                })
                .collect(),
        }
    }
}

fn part<'a, T: WithDType>(data: &'a [T], layout: &Layout) -> TensorResult<&'a [T]> {
    match layout.contiguous_offsets().and_then(|(from, to)| data.get(from..to)) {
        Some(part) => Ok(part),
        None => candle_core::bail!("activation: expected a contiguous tensor"),
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    T::of(1.0) / (T::of(1.0) + (T::of(0.0) - x).exponential())
}

/// SELU and its slope.
fn selu<T: Real>(x: T) -> (T, T) {
    let scale = T::of(1.050_700_987_355_480_5);
    let alpha = T::of(1.050_700_987_355_480_5 * 1.673_263_242_354_377_2);
    let below = alpha * x.exponential();
    if x > T::of(0.0) { (scale * x, scale) } else { (below - alpha, below) }
}

/// What the activations need of a floating-point type.
trait Real: WithDType + PartialOrd {
    fn of(x: f64) -> Self;
    fn exponential(self) -> Self;
    /// Φ(x) and φ(x) of the standard normal distribution.
    fn phi(self) -> (Self, Self);
}

const INVERSE_ROOT_TWO_PI: f64 = 0.398_942_280_401_432_7;

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn exponential(self) -> Self {
        self.exp()
    }

    fn phi(self) -> (Self, Self) {
        let erf = candle_core::cpu::erf::erf_f64(self * std::f64::consts::FRAC_1_SQRT_2);
        (0.5 * (1.0 + erf), INVERSE_ROOT_TWO_PI * (-0.5 * self * self).exp())
    }
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }

    /// `2^n·e^r` with `r = x − n·ln 2` in ±ln 2/2 and the series of e^r: no branch and no call, so
    /// that the compiler makes whole vectors of it.
    #[inline]
    fn exponential(self) -> Self {
        // Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts: the first has few bits, so that n times it is exact.
        let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
        let series = 1.0
            + r * (1.0
                + r * (0.5
                    + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
        let power = (shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits());
        series * f32::from_bits(power)
    }

    /// Abramowitz and Stegun 7.1.26: the error of erf is below 1.5·10⁻⁷.
    #[inline]
    fn phi(self) -> (Self, Self) {
        let bell = (-0.5 * self * self).exponential();
        let k = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * self.abs());
        let series = k
            * (0.254_829_6
                + k * (-0.284_496_74 + k * (1.421_413_7 + k * (-1.453_152_1 + k * 1.061_405_4))));
        let tail = 0.5 * series * bell;
        let cumulative = if self > 0.0 { 1.0 - tail } else { tail };
        (cumulative, INVERSE_ROOT_TWO_PI as f32 * bell)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
mod tests {
    use candle_core::{DType, Device, Var};
    use candle_nn::VarMap;

    use super::*;
    use crate::flow::Noise;

    const ALL: [Activation; 4] =
        [Activation::Relu, Activation::Silu, Activation::Selu, Activation::Gelu];

    fn config(expansion: usize, activation: Activation) -> DenseConfig {
        DenseConfig { dims: 2, scalars: 3, width: 8, depth: 3, expansion, activation }
    }

    fn normal(sample: u64, shape: (usize, usize)) -> Tensor {
        let z = Noise::new(1).normal(sample, 0, shape.0 * shape.1);
        Tensor::from_vec(z, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    }

    #[test]
    fn every_parameter_has_the_slope_of_the_loss() {
        for (expansion, activation) in
            [0, 4].into_iter().flat_map(|e| ALL.map(|activation| (e, activation)))
        {
            let vars = VarMap::new();
            let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
            let net = Dense::load(&config(expansion, activation), vb).unwrap();
            let (x, s, want) = (normal(0, (5, 2)), normal(1, (5, 3)), normal(2, (5, 2)));
            let loss = || -> Tensor {
                let got = net.forward(&x, &s).unwrap();
                (got - &want).unwrap().sqr().unwrap().mean_all().unwrap()
            };
            let value = || loss().to_scalar::<f64>().unwrap();
            let grads = loss().backward().unwrap();
            let named: Vec<(String, Var)> =
                vars.data().lock().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            assert_eq!(named.len(), if expansion == 0 { 8 } else { 16 });
            for (name, var) in named {
                let grad = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}: none"));
                let before = var.as_tensor().copy().unwrap();
                let direction = normal(7, (1, var.elem_count())).reshape(var.dims()).unwrap();
                let slope = (grad * &direction).unwrap().sum_all().unwrap();
                let slope = slope.to_scalar::<f64>().unwrap();
                let at = |h: f64| {
                    var.set(&(&before + (&direction * h).unwrap()).unwrap()).unwrap();
                    value()
                };
                let h = 1e-6;
                let quotient = (at(h) - at(-h)) / (2.0 * h);
                var.set(&before).unwrap();
                assert!(slope != 0.0 && slope.is_finite(), "{name}: {slope}");
                let error = (slope - quotient).abs() / slope.abs().max(1e-3);
                assert!(error < 1e-6, "{activation:?} {expansion} {name}: {slope} {quotient}");
            }
        }
    }

    #[test]
    fn single_precision_agrees_with_double() {
        let x: Vec<f64> = (-2000..=2000).map(|i| f64::from(i) * 0.01).collect();
        let mut worst = 0.0f64;
        for activation in ALL {
            let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let wide: Vec<f64> = narrow.iter().map(|&x| f64::from(x)).collect();
            let pairs = Act(activation).map(&narrow).into_iter().zip(Act(activation).map(&wide));
            let ones = (vec![1f32; x.len()], vec![1f64; x.len()]);
            let slopes = Slope(activation).map(&narrow, &ones.0).into_iter();
            let slopes = slopes.zip(Slope(activation).map(&wide, &ones.1));
            for (got, want) in pairs.chain(slopes) {
                let error = (f64::from(got) - want).abs() / want.abs().max(1.0);
                worst = worst.max(error);
            }
        }
        println!("worst error {worst:e}");
        assert!(worst < 2e-6, "{worst:e}");
    }

    #[test]
    fn sizes_that_make_no_network_are_refused() {
        let broken = DenseConfig { width: 0, ..config(0, Activation::Silu) };
        assert!(broken.validate().unwrap_err().to_string().contains("width"));
        assert!(config(4, Activation::Gelu).validate().is_ok());
    }
}
