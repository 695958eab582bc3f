//! scheduler_config.json: the path a network was trained on, what it emits, and how it is sampled.
//!
//! A configuration is a class and its keys, diffusers' own. Another sampling method than the folder's is
//! the other class with the same keys, as diffusers' `X.from_config(pipe.scheduler.config)`; keys that
//! are not there take the class's own default. What a class does with them is in `plan`. A key whose
//! value would change the result and is not supported is an error that names it.
//!
//! Tables are rounded to f32 as diffusers has them. Where `rescale_betas_zero_snr` meets a class that steps
//! in σ/α (Euler, DPM-Solver), the last ᾱ is 2⁻²⁴ as there, since σ/α would be infinite.

use std::path::Path as File;

use serde_json::{Map, Value, json};

use super::json;
use crate::flow::clip::{Limit, Residue};
use crate::flow::schedule::{BetaSchedule, DiscreteConfig, Interpolation};
use crate::flow::{Discrete, Path, Target};
use crate::solver::spacing::Spacing;
use crate::{Error, Result};

/// File of the configuration.
const CONFIG: &str = "scheduler_config.json";
/// The version of diffusers whose keys are written.
pub(super) const DIFFUSERS_VERSION: &str = "0.42.1";

/// diffusers' classes that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `DDPMScheduler`.
    Ddpm,
    /// `DDIMScheduler`.
    Ddim,
    /// `PNDMScheduler` with `skip_prk_steps`: PLMS.
    Pndm,
    /// `EulerDiscreteScheduler`.
    Euler,
    /// `EulerAncestralDiscreteScheduler`.
    EulerAncestral,
    /// `HeunDiscreteScheduler`.
    Heun,
    /// `DPMSolverMultistepScheduler`.
    DpmSolver,
    /// `LCMScheduler`.
    Lcm,
    /// `FlowMatchEulerDiscreteScheduler`.
    FlowEuler,
    /// `FlowMatchHeunDiscreteScheduler`.
    FlowHeun,
}

impl Class {
    const NAMES: [(&str, Self); 10] = [
        ("DDPMScheduler", Self::Ddpm),
        ("DDIMScheduler", Self::Ddim),
        ("PNDMScheduler", Self::Pndm),
        ("EulerDiscreteScheduler", Self::Euler),
        ("EulerAncestralDiscreteScheduler", Self::EulerAncestral),
        ("HeunDiscreteScheduler", Self::Heun),
        ("DPMSolverMultistepScheduler", Self::DpmSolver),
        ("LCMScheduler", Self::Lcm),
        ("FlowMatchEulerDiscreteScheduler", Self::FlowEuler),
        ("FlowMatchHeunDiscreteScheduler", Self::FlowHeun),
    ];

    fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class)
    }

    /// diffusers' name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| *name)
    }

    /// Whether it is of a flow on the straight path.
    pub fn is_flow(self) -> bool {
        matches!(self, Self::FlowEuler | Self::FlowHeun)
    }
}

/// A scheduler's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduler {
    class: Class,
    keys: Map<String, Value>,
}

impl Scheduler {
    /// Reads `scheduler_config.json` of the folder `dir`.
    ///
    /// # Errors
    /// When there is no such file, the class is unknown, or a key has a value that is not supported.
    pub fn open(dir: &File) -> Result<Self> {
        let path = dir.join(CONFIG);
        let keys = json::object(&path)?;
        Self::from_keys(keys).map_err(|error| match error {
            Error::Config { .. } | Error::Io { .. } => error,
            error => Error::config(&path, error.to_string()),
        })
    }

    /// The scheduler of these keys, `_class_name` among them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_keys(mut keys: Map<String, Value>) -> Result<Self> {
        let name = keys.remove("_class_name");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        keys.remove("_diffusers_version");
        let Some(class) = Class::by_name(name) else {
            let names: Vec<&str> = Class::NAMES.iter().map(|(name, _)| *name).collect();
            return Err(Error::Unknown {
                what: "_class_name".into(),
                expected: names.join(", "),
                got: name.into(),
            });
        };
        let scheduler = Self { class, keys };
        scheduler.check()?;
        Ok(scheduler)
    }

    /// The scheduler of a flow on the straight path, with the grid shifted by `shift` (1: not).
    ///
    /// # Errors
    /// [`Error::Range`] when the shift is not above 0.
    pub fn flow(shift: f64) -> Result<Self> {
        let keys = json!({
            "_class_name": Class::FlowEuler.name(), "num_train_timesteps": 1000, "shift": shift,
        });
        Self::from_keys(keys.as_object().cloned().unwrap_or_default())
    }

    /// DDIM's scheduler over the table of `config`, for a network that emits `target`; the data are
    /// clipped to ±`clip`, if to anything.
    ///
    /// # Errors
    /// When diffusers has no such table or target.
    pub fn table(config: &DiscreteConfig, target: Target, clip: Option<f64>) -> Result<Self> {
        let prediction_type = match target {
            Target::Noise => "epsilon",
            Target::Data => "sample",
            Target::V => "v_prediction",
            other => {
                return Err(Error::Invalid(format!(
                    "scheduler: expected a network of noise, data or v over a table, got {other:?}"
                )));
            }
        };
        let keys = json!({
            "_class_name": Class::Ddim.name(),
            "num_train_timesteps": config.num_train_timesteps,
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "beta_schedule": config.beta_schedule,
            "trained_betas": config.trained_betas,
            "rescale_betas_zero_snr": config.rescale_betas_zero_snr,
            "prediction_type": prediction_type,
            "clip_sample": clip.is_some(),
            "clip_sample_range": clip.unwrap_or(1.0),
            "set_alpha_to_one": true,
            "timestep_spacing": "trailing",
        });
        Self::from_keys(keys.as_object().cloned().unwrap_or_default())
    }

    /// Writes `scheduler_config.json` into the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &File) -> Result<()> {
        let mut keys = self.keys.clone();
        keys.insert("_class_name".into(), self.class.name().into());
        keys.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
        json::write(&dir.join(CONFIG), &keys)
    }

    /// The class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The same keys under another class.
    pub(super) fn as_class(&self, class: Class) -> Self {
        Self { class, keys: self.keys.clone() }
    }

    /// With one key set.
    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.into(), value.into());
        self
    }

    /// Number of training steps; a network of a flow is told the time times this.
    pub fn train_steps(&self) -> usize {
        self.count("num_train_timesteps", 1000)
    }

    /// What the network emits.
    ///
    /// # Errors
    /// When `prediction_type` is unknown.
    pub fn target(&self) -> Result<Target> {
        if self.class.is_flow() {
            return Ok(Target::Velocity);
        }
        match self.text("prediction_type", "epsilon") {
            "epsilon" => Ok(Target::Noise),
            "sample" => Ok(Target::Data),
            "v_prediction" => Ok(Target::V),
            got => Err(Error::Unknown {
                what: "prediction_type".into(),
                expected: "epsilon, sample, v_prediction".into(),
                got: got.into(),
            }),
        }
    }

    /// The path of the network.
    ///
    /// # Errors
    /// When the table is impossible.
    pub fn path(&self) -> Result<Path> {
        if self.class.is_flow() {
            return Ok(Path::Straight);
        }
        let default = match self.class {
            Class::Heun | Class::Lcm => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        let schedule = if self.class == Class::Lcm { "scaled_linear" } else { "linear" };
        let trained_betas: Option<Vec<f64>> = match self.keys.get("trained_betas") {
            None | Some(Value::Null) => None,
            Some(betas) => Some(
                serde_json::from_value(betas.clone())
                    .map_err(|e| Error::Invalid(format!("trained_betas: {e}")))?,
            ),
        };
        let zero_snr = self.flag("rescale_betas_zero_snr", false);
        let config = DiscreteConfig {
            num_train_timesteps: trained_betas.as_ref().map_or(self.train_steps(), Vec::len),
            beta_start: self.number("beta_start", default.0),
            beta_end: self.number("beta_end", default.1),
            beta_schedule: BetaSchedule::by_name(self.text("beta_schedule", schedule))?,
            trained_betas,
            rescale_betas_zero_snr: zero_snr,
            // Euler walks timesteps that are not whole; on grids of σ they come from ln σ.
            interpolation_type: match self.sigmas()? {
                None => Interpolation::Linear,
                Some(_) => Interpolation::LogLinear,
            },
            float32: true,
        };
        let table = Discrete::new(config.clone())?;
        let in_sigma =
            matches!(self.class, Class::Euler | Class::EulerAncestral | Class::DpmSolver);
        if !(zero_snr && in_sigma) {
            return Ok(Path::Discrete(table));
        }
        let mut bars = table.alphas_cumprod().to_vec();
        if let Some(last) = bars.last_mut() {
            *last = 2f64.powi(-24);
        }
        let before = std::iter::once(1.0).chain(bars.iter().copied());
        let betas = before.zip(&bars).map(|(before, bar)| 1.0 - bar / before).collect();
        Ok(Path::Discrete(Discrete::new(DiscreteConfig {
            trained_betas: Some(betas),
            rescale_betas_zero_snr: false,
            float32: false,
            ..config
        })?))
    }

    /// What the data estimate is limited to.
    pub(super) fn limit(&self) -> Option<(Limit, Residue)> {
        let (clips, anew) = match self.class {
            Class::Ddpm => (self.flag("clip_sample", true), Residue::Recomputed),
            Class::Ddim => (self.flag("clip_sample", true), Residue::Kept),
            Class::Heun | Class::Lcm => (self.flag("clip_sample", false), Residue::Recomputed),
            // The noise is not looked at.
            Class::DpmSolver => (false, Residue::Recomputed),
            _ => return None,
        };
        if self.class != Class::Heun && self.flag("thresholding", false) {
            let ratio = self.number("dynamic_thresholding_ratio", 0.995);
            let max = self.number("sample_max_value", 1.0);
            return Some((Limit::Dynamic { ratio, max }, anew));
        }
        let range = self.number("clip_sample_range", 1.0);
        clips.then_some((Limit::Clip { range }, anew))
    }

    /// `timestep_spacing`.
    pub(super) fn spacing(&self) -> Result<Spacing> {
        let default = match self.class {
            Class::Ddpm | Class::Ddim | Class::Pndm | Class::Lcm => "leading",
            _ => "linspace",
        };
        let name = self.text("timestep_spacing", default);
        serde_json::from_value(Value::from(name)).map_err(|_| Error::Unknown {
            what: "timestep_spacing".into(),
            expected: "linspace, leading, trailing".into(),
            got: name.into(),
        })
    }

    /// The name of a grid of deviations, where the class walks one.
    pub(super) fn sigmas(&self) -> Result<Option<&'static str>> {
        if !matches!(self.class, Class::Euler | Class::Heun | Class::DpmSolver) {
            return Ok(None);
        }
        match (self.flag("use_karras_sigmas", false), self.flag("use_exponential_sigmas", false)) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some("karras")),
            (false, true) => Ok(Some("exponential")),
            (true, true) => Err(Error::Invalid(
                "use_karras_sigmas, use_exponential_sigmas: expected at most one, got both".into(),
            )),
        }
    }

    /// Keys that are not supported but with these values.
    pub(super) fn check(&self) -> Result<()> {
        let off: &[(&str, Value)] = match self.class {
            Class::Ddpm | Class::Ddim | Class::EulerAncestral | Class::Lcm => &[],
            Class::Pndm => &[("skip_prk_steps", Value::Bool(true))],
            Class::Euler => &[
                ("use_beta_sigmas", Value::Bool(false)),
                ("interpolation_type", Value::Null),
                ("timestep_type", Value::Null),
                ("final_sigmas_type", Value::Null),
            ],
            Class::Heun => &[("use_beta_sigmas", Value::Bool(false))],
            Class::DpmSolver => &[
                ("use_beta_sigmas", Value::Bool(false)),
                ("use_lu_lambdas", Value::Bool(false)),
                ("use_flow_sigmas", Value::Bool(false)),
                ("use_dynamic_shifting", Value::Bool(false)),
                ("final_sigmas_type", Value::Null),
                ("solver_type", Value::Null),
                ("lambda_min_clipped", Value::Null),
                ("variance_type", Value::Null),
            ],
            Class::FlowEuler | Class::FlowHeun => &[
                ("use_karras_sigmas", Value::Bool(false)),
                ("use_exponential_sigmas", Value::Bool(false)),
                ("use_beta_sigmas", Value::Bool(false)),
                ("invert_sigmas", Value::Bool(false)),
                ("shift_terminal", Value::Null),
                ("time_shift_type", Value::Null),
            ],
        };
        // Null stands for the class's own default.
        let default = |key: &str| match key {
            "interpolation_type" => "linear",
            "timestep_type" => "discrete",
            "final_sigmas_type" => "zero",
            "solver_type" => "midpoint",
            "time_shift_type" => "exponential",
            _ => "-Infinity",
        };
        for (key, only) in off {
            let got = self.keys.get(*key).unwrap_or(&Value::Null);
            let fits = match only {
                Value::Null => got.is_null() || got == default(key),
                only => got == only || (got.is_null() && *only == Value::Bool(false)),
            };
            if !fits {
                let only = if only.is_null() { default(key).to_owned() } else { only.to_string() };
                return Err(Error::Invalid(format!(
                    "{}: {key}: expected {only}, the one value that is supported, got {got}",
                    self.class.name()
                )));
            }
        }
        self.check_texts()?;
        let steps = self.train_steps();
        if !(1..=1_000_000).contains(&steps) {
            return Err(Error::range("num_train_timesteps", "1 to 1000000", steps as f64));
        }
        let shift = self.number("shift", 1.0);
        if self.class.is_flow() && !(shift > 0.0 && shift.is_finite()) {
            return Err(Error::range("shift", "a number above 0", shift));
        }
        self.target()?;
        self.spacing()?;
        self.path()?;
        self.limit().map_or(Ok(()), |(limit, _)| limit.validate())
    }

    fn check_texts(&self) -> Result<()> {
        let one_of = |key: &str, default: &'static str, known: &[&str]| {
            let got = self.text(key, default);
            if known.contains(&got) {
                return Ok(());
            }
            let what = format!("{}: {key}", self.class.name());
            Err(Error::Unknown { what, expected: known.join(", "), got: got.into() })
        };
        match self.class {
            Class::Ddpm => one_of("variance_type", "fixed_small", &["fixed_small", "fixed_large"]),
            Class::DpmSolver => {
                one_of("algorithm_type", "dpmsolver++", &["dpmsolver++", "sde-dpmsolver++"])?;
                let order = self.count("solver_order", 2);
                if (1..=2).contains(&order) {
                    return Ok(());
                }
                Err(Error::range("solver_order", "1 or 2", order as f64))
            }
            Class::Pndm => one_of("prediction_type", "epsilon", &["epsilon", "v_prediction"]),
            _ => Ok(()),
        }
    }

    pub(super) fn number(&self, key: &str, default: f64) -> f64 {
        self.keys.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    pub(super) fn count(&self, key: &str, default: usize) -> usize {
        let number = self.keys.get(key).and_then(Value::as_u64);
        number.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.keys.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(super) fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.keys.get(key).and_then(Value::as_str).unwrap_or(default)
    }
}
