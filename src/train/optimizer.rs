//! The optimiser: clipping, AdamW and the moving average, with all state by name.
//!
//! Weight decay applies to matrices only. candle-nn's optimiser hides its moments, so a run could not
//! be resumed with it. The pieces are in [`super::clip`], `adamw.rs`, [`super::ema`] and
//! [`super::schedule`].

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::adamw::{Moments, Rule};
use super::clip::Clip;
use super::ema::{self, EmaWarmup};
use super::schedule::LrSchedule;
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
    /// Largest norm of the whole gradient; 0 for no such limit.
    pub grad_clip_norm: f64,
    /// Largest element of the gradient; only without `grad_clip_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_clip_value: Option<f64>,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Learning rate at the end of the default schedule, as a share of the peak.
    pub final_lr_ratio: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
    /// Shape of the learning rate over the run.
    #[serde(default, skip_serializing_if = "LrSchedule::is_default")]
    pub lr_scheduler: LrSchedule,
    /// How the decay of the moving average rises.
    #[serde(default, skip_serializing_if = "EmaWarmup::is_default")]
    pub ema_warmup: EmaWarmup,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 1e-2,
            grad_clip_norm: 1.0,
            grad_clip_value: None,
            warmup_steps: 500,
            final_lr_ratio: 0.0,
            ema_decay: 0.999,
            lr_scheduler: LrSchedule::default(),
            ema_warmup: EmaWarmup::default(),
        }
    }
}

impl OptimizerConfig {
    /// Learning rate at `step` of `total`.
    pub fn lr_at(&self, step: usize, total: usize) -> f64 {
        self.lr_scheduler.lr_at(self.lr, [step, total, self.warmup_steps], self.final_lr_ratio)
    }

    /// What is done to a gradient that is too large.
    pub fn clip(&self) -> Clip {
        match self.grad_clip_value {
            Some(value) => Clip::Value(value),
            None if self.grad_clip_norm > 0.0 => Clip::Norm(self.grad_clip_norm),
            None => Clip::None,
        }
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
            ("grad_clip_norm", self.grad_clip_norm, self.grad_clip_norm >= 0.0),
            ("final_lr_ratio", self.final_lr_ratio, (0.0..=1.0).contains(&self.final_lr_ratio)),
            ("ema_decay", self.ema_decay, unit.contains(&self.ema_decay)),
        ];
        for (key, value, valid) in checks {
            if !valid {
                return Err(Error::Invalid(format!("optimizer.{key}: {value} is out of range")));
            }
        }
        if let Some(value) = self.grad_clip_value
            && (value.is_nan() || value <= 0.0 || self.grad_clip_norm != 0.0)
        {
            return Err(Error::Invalid(format!(
                "optimizer.grad_clip_value: expected a positive number and grad_clip_norm = 0, got \
                 {value} and {}",
                self.grad_clip_norm
            )));
        }
        if !self.lr_scheduler.is_default() && self.final_lr_ratio != 0.0 {
            return Err(Error::Invalid(format!(
                "optimizer.final_lr_ratio: expected 0, since lr_scheduler is not the default \
                 warmup_cosine, got {}",
                self.final_lr_ratio
            )));
        }
        self.lr_scheduler.validate()?;
        self.ema_warmup.validate(self.ema_decay)
    }
}

/// Per parameter: two moments and the averaged weight, on the host.
#[derive(Clone)]
struct State {
    moments: Moments,
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
            let moments = Moments::zeros(ema.len());
            states.insert(name.clone(), State { moments, ema });
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
        self.config.clip().apply(&mut flat, norm);
        let rule = Rule::new(self.step, lr, self.config.betas, self.config.eps);
        let decay = self.config.ema_warmup.decay_at(self.step, self.config.ema_decay) as f32;
        for ((name, var), grad) in self.vars.iter().zip(&flat) {
            let Some(state) = self.states.get_mut(name) else { continue };
            let shrink =
                if var.dims().len() > 1 { (lr * self.config.weight_decay) as f32 } else { 0.0 };
            let mut weights = to_vec(var)?;
            rule.apply(&mut weights, grad, &mut state.moments, 1.0 - shrink);
            ema::average(&mut state.ema, &weights, decay);
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
        let mut out = self.collect("m.", |state| &state.moments.m)?;
        out.extend(self.collect("v.", |state| &state.moments.v)?);
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
            let moments = Moments { m: flat("m")?, v: flat("v")? };
            let state = State { moments, ema: flat("ema")? };
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
}
