//! AdamW with its state by name, gradient clipping, learning-rate schedule and EMA.
//!
//! AdamW (Loshchilov, Hutter 2019, algorithm 2) with bias correction; decay applies to matrices
//! only. The exponential moving average of the weights warms up as `min(decay, (1+n)/(10+n))`.
//! candle-nn's optimiser hides its moments, so a run could not be resumed with it.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Settings of the optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient.
    pub grad_clip_norm: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Learning rate at the end of the cosine, as a share of the peak.
    pub final_lr_ratio: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 1e-2,
            grad_clip_norm: 1.0,
            warmup_steps: 500,
            final_lr_ratio: 0.0,
            ema_decay: 0.999,
        }
    }
}

impl OptimizerConfig {
    /// Learning rate at `step` of `total`: linear warm-up, then half a cosine.
    pub fn lr_at(&self, step: usize, total: usize) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = total.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.lr * (self.final_lr_ratio + (1.0 - self.final_lr_ratio) * cosine)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<()> {
        let unit = 0.0..1.0;
        let checks = [
            ("lr", self.lr, self.lr > 0.0 && self.lr < 10.0),
            ("betas[0]", self.betas[0], unit.contains(&self.betas[0])),
            ("betas[1]", self.betas[1], unit.contains(&self.betas[1])),
            ("eps", self.eps, self.eps > 0.0),
            ("weight_decay", self.weight_decay, (0.0..10.0).contains(&self.weight_decay)),
            ("grad_clip_norm", self.grad_clip_norm, self.grad_clip_norm > 0.0),
            ("final_lr_ratio", self.final_lr_ratio, (0.0..=1.0).contains(&self.final_lr_ratio)),
            ("ema_decay", self.ema_decay, unit.contains(&self.ema_decay)),
        ];
        for (key, value, valid) in checks {
            if !valid {
                return Err(Error::Invalid(format!("optimizer.{key}: {value} is out of range")));
            }
        }
        Ok(())
    }
}

/// Per parameter: two moments and the averaged weight, on the host.
#[derive(Clone)]
struct State {
    m: Vec<f32>,
    v: Vec<f32>,
    ema: Vec<f32>,
}

/// The optimiser.
pub struct AdamW {
    config: OptimizerConfig,
    vars: Vec<(String, Var)>,
    states: BTreeMap<String, State>,
    step: usize,
}

impl AdamW {
    /// An optimiser over `vars`, in the order given (sort them by name).
    ///
    /// # Errors
    /// When a parameter cannot be read.
    pub fn new(config: OptimizerConfig, vars: Vec<(String, Var)>) -> Result<Self> {
        let mut states = BTreeMap::new();
        for (name, var) in &vars {
            let ema = to_vec(var)?;
            let zeros = vec![0.0; ema.len()];
            states.insert(name.clone(), State { m: zeros.clone(), v: zeros, ema });
        }
        Ok(Self { config, vars, states, step: 0 })
    }

    /// Number of updates made.
    pub fn step(&self) -> usize {
        self.step
    }

    /// One update with learning rate `lr`. Returns the norm of the gradient before clipping.
    ///
    /// # Errors
    /// When a parameter has no gradient, or the gradient is not finite (nothing is changed then).
    pub fn update(&mut self, grads: &GradStore, lr: f64) -> Result<f64> {
        let mut flat = Vec::with_capacity(self.vars.len());
        let mut square = 0.0f64;
        for (name, var) in &self.vars {
            let grad = grads
                .get(var.as_tensor())
                .ok_or_else(|| Error::checkpoint(name, "a gradient", "none"))?;
            let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            square += grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
            flat.push(grad);
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            return Err(Error::Invalid(format!(
                "the gradient is not finite at step {}; lower optimizer.lr or look at the data",
                self.step
            )));
        }
        self.step += 1;
        let clip = (self.config.grad_clip_norm / norm.max(1e-12)).min(1.0) as f32;
        let [b1, b2] = self.config.betas;
        let n = self.step as f64;
        let (c1, c2) = (1.0 - b1.powf(n), 1.0 - b2.powf(n));
        let ema = self.config.ema_decay.min((1.0 + n) / (10.0 + n)) as f32;
        let scale = Scale {
            clip,
            b1: b1 as f32,
            b2: b2 as f32,
            step_size: (lr / c1) as f32,
            root: (1.0 / c2.sqrt()) as f32,
            eps: self.config.eps as f32,
            ema,
        };
        for ((name, var), grad) in self.vars.iter().zip(&flat) {
            let Some(state) = self.states.get_mut(name) else { continue };
            let decay =
                if var.dims().len() > 1 { (lr * self.config.weight_decay) as f32 } else { 0.0 };
            let mut weights = to_vec(var)?;
            scale.apply(&mut weights, grad, state, 1.0 - decay);
            var.set(&Tensor::from_vec(weights, var.dims(), var.device())?)?;
        }
        Ok(norm)
    }

    /// The averaged weights by name.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn ema(&self) -> Result<HashMap<String, Tensor>> {
        self.collect("", |state| &state.ema)
    }

    /// Everything that a resumed run needs, by name: `m.<name>`, `v.<name>`, `ema.<name>`,
    /// `weight.<name>`.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn save_state(&self) -> Result<HashMap<String, Tensor>> {
        let mut out = self.collect("m.", |state| &state.m)?;
        out.extend(self.collect("v.", |state| &state.v)?);
        out.extend(self.collect("ema.", |state| &state.ema)?);
        for (name, var) in &self.vars {
            out.insert(format!("weight.{name}"), var.as_tensor().copy()?);
        }
        Ok(out)
    }

    /// Restores what [`AdamW::save_state`] gave, at `step`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load_state(&mut self, step: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in &self.vars {
            let get = |prefix: &str| -> Result<&Tensor> {
                let key = format!("{prefix}.{name}");
                let expected = format!("shape {:?}", var.dims());
                match tensors.get(&key) {
                    Some(tensor) if tensor.dims() == var.dims() => Ok(tensor),
                    Some(other) => {
                        Err(Error::checkpoint(key, expected, format!("{:?}", other.dims())))
                    }
                    None => Err(Error::checkpoint(key, expected, "nothing")),
                }
            };
            let flat = |prefix| -> Result<Vec<f32>> { Ok(get(prefix)?.flatten_all()?.to_vec1()?) };
            let state = State { m: flat("m")?, v: flat("v")?, ema: flat("ema")? };
            self.states.insert(name.clone(), state);
            var.set(get("weight")?)?;
        }
        self.step = step;
        Ok(())
    }

    fn collect(
        &self,
        prefix: &str,
        field: impl Fn(&State) -> &Vec<f32>,
    ) -> Result<HashMap<String, Tensor>> {
        let mut out = HashMap::new();
        for (name, var) in &self.vars {
            let Some(state) = self.states.get(name) else { continue };
            let tensor = Tensor::from_slice(field(state), var.dims(), &Device::Cpu)?;
            out.insert(format!("{prefix}{name}"), tensor);
        }
        Ok(out)
    }
}

struct Scale {
    clip: f32,
    b1: f32,
    b2: f32,
    step_size: f32,
    root: f32,
    eps: f32,
    ema: f32,
}

impl Scale {
    fn apply(&self, weights: &mut [f32], grad: &[f32], state: &mut State, keep: f32) {
        let moments = state.m.iter_mut().zip(&mut state.v).zip(&mut state.ema);
        for ((w, &g), ((m, v), ema)) in weights.iter_mut().zip(grad).zip(moments) {
            let g = g * self.clip;
            *m = self.b1 * *m + (1.0 - self.b1) * g;
            *v = self.b2 * *v + (1.0 - self.b2) * g * g;
            *w = keep * *w - self.step_size * *m / (v.sqrt() * self.root + self.eps);
            *ema = self.ema * *ema + (1.0 - self.ema) * *w;
        }
    }
}

fn to_vec(var: &Var) -> Result<Vec<f32>> {
    Ok(var.as_tensor().flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_rises_and_the_cosine_falls_to_its_end() {
        let config = OptimizerConfig {
            lr: 1.0,
            warmup_steps: 10,
            final_lr_ratio: 0.1,
            ..Default::default()
        };
        assert!((config.lr_at(4, 110) - 0.5).abs() < 1e-12);
        assert!((config.lr_at(10, 110) - 1.0).abs() < 1e-12);
        assert!((config.lr_at(60, 110) - 0.55).abs() < 1e-12);
        assert!((config.lr_at(110, 110) - 0.1).abs() < 1e-12);
    }

    /// PyTorch's AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.01) on w = [1, 2], g = w, two steps,
    /// worked by hand: the first step moves every weight by lr against the sign of its gradient.
    #[test]
    fn two_steps_match_the_formula() {
        let w = Var::from_slice(&[1f32, 2.0], (1, 2), &Device::Cpu).unwrap();
        let config = OptimizerConfig { grad_clip_norm: 1e9, ..Default::default() };
        let mut adam = AdamW::new(config, vec![("w".into(), w.clone())]).unwrap();
        let mut expected = [1f64, 2.0];
        let (mut m, mut v) = ([0f64; 2], [0f64; 2]);
        for step in 1..=2 {
            let loss = (w.as_tensor().sqr().unwrap() * 0.5).unwrap().sum_all().unwrap();
            adam.update(&loss.backward().unwrap(), 0.1).unwrap();
            for i in 0..2 {
                let g = expected[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let m_hat = m[i] / (1.0 - 0.9f64.powi(step));
                let v_hat = v[i] / (1.0 - 0.99f64.powi(step));
                expected[i] =
                    expected[i] * (1.0 - 0.1 * 0.01) - 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        let got: Vec<f32> = w.as_tensor().flatten_all().unwrap().to_vec1().unwrap();
        for (got, want) in got.iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
