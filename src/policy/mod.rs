//! A policy: observations in, an action chunk out.
//!
//! ```text
//! observations ─ normalise ─ features ─ encode ─► context ┐
//!                                      noise ─ integrate(velocity(context, x_t, t)) ─ unnormalise ─► chunk
//! ```
//!
//! A policy is data: a folder in LeRobot's layout (`config.json`, `model.safetensors`, processor
//! files). [`Policy::load`] reads it, [`Policy::infer`] answers a batch of observation histories.

pub mod config;
pub mod digest;
pub mod features;
pub mod folder;
pub mod processor;
pub mod weights;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

pub use crate::action::PolicyObs as Observation;
use crate::flow::{self, Target};
use crate::nn::mlp::FlowMlp;
use crate::nn::unet1d::UNet1d;
use crate::solver::{self, Sampler, Tableau, tableau};
use crate::{Error, Result};
use config::{ENVIRONMENT_STATE, Network, PolicyConfig, STATE};
use processor::Processor;
use weights::Weights;

/// File name of the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// File name of the configuration.
pub const CONFIG: &str = "config.json";

/// How to integrate: the checkpoint's choice unless the user names another.
#[derive(Clone, Debug)]
pub struct Solver {
    /// Name of the method.
    pub name: String,
    /// The method.
    pub sampler: Sampler,
    /// Steps, uniform in time from noise to data.
    pub steps: usize,
}

impl Solver {
    /// The method called `name`, with a fixed number of evaluations and without noise of its own: a
    /// tableau in the path's own time, or an exponential method (`ddim`, `dpmpp_2m`).
    ///
    /// # Errors
    /// When there is no such method, or steps are not in 1 to 1000.
    pub fn new(name: &str, steps: usize) -> Result<Self> {
        let names = tableau::ALL.iter().map(|tableau| tableau.name).chain(["ddim", "dpmpp_2m"]);
        if !names.clone().any(|known| known == name) {
            let expected = names.collect::<Vec<_>>().join(", ");
            return Err(Error::Unknown { what: "solver".into(), expected, got: name.into() });
        }
        let sampler = match Tableau::by_name(name) {
            Ok(tableau) => Sampler::RungeKutta { tableau, euler_at_final: false },
            Err(_) => Sampler::by_name(name)?,
        };
        if !(1..=config::MAX_STEPS).contains(&steps) {
            let expected = format!("1 to {}", config::MAX_STEPS);
            return Err(Error::range("steps", expected, steps as f64));
        }
        Ok(Self { name: name.into(), sampler, steps })
    }

    /// Network evaluations a chunk.
    pub fn evaluations(&self) -> usize {
        self.sampler.evaluations(self.steps).unwrap_or(self.steps)
    }
}

/// Sees a flow time and the chunk at that time, in robot units.
pub type Trace<'a> = dyn FnMut(f64, &[f32]) + 'a;

/// What [`Policy::infer`] answers.
#[derive(Clone, Debug)]
pub struct Chunks {
    /// Actions in robot units, `[batch, horizon, action_dim]` row by row.
    pub actions: Vec<f32>,
    /// The same before unnormalising.
    pub normalized: Vec<f32>,
    /// Network evaluations a chunk.
    pub nfe: usize,
}

/// The network with its inputs and outputs as flat chunks.
pub enum Net {
    /// Residual MLP.
    Mlp(FlowMlp),
    /// UNet over the time axis.
    Unet(Box<UNet1d>),
}

impl Net {
    /// Builds the network that `config` describes.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has one of another shape.
    pub fn load(config: &PolicyConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let features = feature_len(config);
        Ok(match &config.network {
            Network::Mlp(mlp) => {
                let chunk = config.horizon * config.action_dim();
                Self::Mlp(FlowMlp::load(mlp, features, chunk, vb)?)
            }
            Network::Unet1d(unet) => {
                if unet.action_dim != config.action_dim() || unet.cond_dim != features {
                    return Err(Error::Invalid(format!(
                        "network unet1d: expected action_dim {} and cond_dim {features}, got {} and {}",
                        config.action_dim(),
                        unet.action_dim,
                        unet.cond_dim
                    )));
                }
                Self::Unet(Box::new(UNet1d::load(unet, vb)?))
            }
        })
    }

    /// Features `[b, features]` to what the velocity needs of them; once per observation.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn encode(&self, features: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Mlp(mlp) => mlp.encode(features)?,
            Self::Unet(_) => features.clone(),
        })
    }

    /// Velocity of `x_t` `[b, horizon, action_dim]` at one flow time per sample.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn velocity(&self, context: &Tensor, x_t: &Tensor, t: &[f64]) -> Result<Tensor> {
        Ok(match self {
            Self::Mlp(mlp) => {
                mlp.velocity(context, &x_t.flatten_from(1)?, t)?.reshape(x_t.shape())?
            }
            Self::Unet(unet) => {
                let time: Vec<f32> = t.iter().map(|t| (t * 1000.0) as f32).collect();
                let time = Tensor::from_vec(time, t.len(), x_t.device())?;
                unet.forward(x_t, &time, context)?
            }
        })
    }
}

/// Number of features that the network of `config` sees.
pub fn feature_len(config: &PolicyConfig) -> usize {
    features::len(
        &config.feature_encoder,
        config.n_obs_steps,
        config.state_dim(),
        config.environment_dim(),
    )
}

/// A loaded policy.
pub struct Policy {
    config: PolicyConfig,
    processor: Processor,
    net: Net,
    device: Device,
    folder: PathBuf,
}

impl Policy {
    /// Loads a policy folder, or the policy of a run or of a Hugging Face cache (see
    /// [`folder::resolve`]).
    ///
    /// # Errors
    /// One error that names the file and the key: missing files, unknown keys, tensors that are
    /// missing, too many, of another shape, or not finite.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let folder = folder::resolve(folder)?;
        let config = PolicyConfig::load(&folder.join(CONFIG))?;
        let processor = processor::load(&folder, &config)?;
        let net = Weights::open(&folder)?.load(device, |vb| Net::load(&config, vb))?;
        Ok(Self { config, processor, net, device: device.clone(), folder })
    }

    /// A policy around a network that is being trained.
    pub fn from_parts(
        config: PolicyConfig,
        processor: Processor,
        net: Net,
        device: Device,
    ) -> Self {
        Self { config, processor, net, device, folder: PathBuf::new() }
    }

    /// The configuration.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// The folder that the policy was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The solver: the configuration's, with the user's overrides.
    ///
    /// # Errors
    /// When the name is unknown or steps are not in 1 to 1000.
    pub fn solver(&self, name: Option<&str>, steps: Option<usize>) -> Result<Solver> {
        let name = name.unwrap_or(&self.config.solver);
        Solver::new(name, steps.unwrap_or(self.config.num_inference_steps))
    }

    /// Length of one chunk, `horizon·action_dim`: what [`Policy::infer`] needs of noise per sample.
    pub fn chunk_len(&self) -> usize {
        self.config.horizon * self.config.action_dim()
    }

    /// One chunk for each history. `histories` hold `n_obs_steps` observations each, oldest first;
    /// `noise` is `[batch, horizon, action_dim]`, unit normal.
    ///
    /// # Errors
    /// When an observation has another shape or is not finite, or the network's output is not.
    pub fn infer(
        &self,
        histories: &[&[Observation]],
        noise: Vec<f32>,
        solver: &Solver,
    ) -> Result<Chunks> {
        self.run(histories, noise, solver, None)
    }

    /// As [`Policy::infer`]; `trace(t, x_t)` sees the noise and the state after every solver step,
    /// in robot units.
    ///
    /// # Errors
    /// As [`Policy::infer`].
    pub fn infer_traced(
        &self,
        histories: &[&[Observation]],
        noise: Vec<f32>,
        solver: &Solver,
        trace: &mut Trace<'_>,
    ) -> Result<Chunks> {
        self.run(histories, noise, solver, Some(trace))
    }

    fn run(
        &self,
        histories: &[&[Observation]],
        noise: Vec<f32>,
        solver: &Solver,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<Chunks> {
        let (b, h, d) = (histories.len(), self.config.horizon, self.config.action_dim());
        if b == 0 || noise.len() != b * h * d {
            return Err(Error::Invalid(format!(
                "noise: expected [{b}, {h}, {d}] for one history or more, got {} values",
                noise.len()
            )));
        }
        let mut encoded = Vec::with_capacity(b * feature_len(&self.config));
        for history in histories {
            self.encode_history(history, &mut encoded)?;
        }
        let features = Tensor::from_vec(encoded, (b, feature_len(&self.config)), &self.device)?;
        let context = self.net.encode(&features)?;

        let robot_units = |normalized: &[f32]| {
            let mut actions = normalized.to_vec();
            for (row, history) in actions.chunks_exact_mut(h * d).zip(histories) {
                let state = history.last().map_or(&[][..], |newest| &newest.state);
                self.processor.unnormalize_actions(state, row);
            }
            actions
        };
        let (from, to) = self.config.path.ends();
        let grid = solver::grid::uniform(from, to, solver.steps)?;
        let x = Tensor::from_vec(noise, (b, h, d), &self.device)?;
        let path = &self.config.path;
        let mut field =
            |x: &Tensor, t: f64| -> Result<Tensor> { self.net.velocity(&context, x, &vec![t; b]) };
        let mut observe = |_step: usize, t: f64, x: &Tensor| -> Result<()> {
            if let Some(trace) = trace.as_mut() {
                trace(t, &robot_units(&x.flatten_all()?.to_vec1()?));
            }
            Ok(())
        };
        let solution = match &solver.sampler {
            // The field is what the network emits: no detour over data and noise.
            Sampler::RungeKutta { tableau, .. } => {
                solver::integrate_observed(&mut field, x, &grid, tableau, &mut observe)?
            }
            sampler => {
                let mut denoiser = flow::denoiser::denoiser(path, Target::Velocity, field);
                let mut draw = |_: usize, x: &Tensor| Ok(x.zeros_like()?);
                sampler.run(&mut denoiser, path, x, &grid, &mut draw, &mut observe)?
            }
        };
        let normalized: Vec<f32> = solution.x.flatten_all()?.to_vec1()?;
        let actions = robot_units(&normalized);
        if !actions.iter().all(|a| a.is_finite()) {
            return Err(Error::Rejected { reason: "the network's actions are not finite".into() });
        }
        Ok(Chunks { actions, normalized, nfe: solution.nfe })
    }

    fn encode_history(&self, history: &[Observation], out: &mut Vec<f32>) -> Result<()> {
        if history.len() != self.config.n_obs_steps {
            return Err(Error::Invalid(format!(
                "observation history: expected n_obs_steps = {}, got {}",
                self.config.n_obs_steps,
                history.len()
            )));
        }
        let mut flat = Vec::with_capacity(
            history.len() * (self.config.state_dim() + self.config.environment_dim()),
        );
        for observation in history {
            let parts = [
                (STATE, &observation.state, self.config.state_dim()),
                (ENVIRONMENT_STATE, &observation.environment_state, self.config.environment_dim()),
            ];
            for (key, values, expected) in parts {
                if values.len() != expected {
                    return Err(Error::Rejected {
                        reason: format!("{key}: expected {expected} values, got {}", values.len()),
                    });
                }
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(Error::Rejected { reason: format!("{key}: not finite") });
                }
                let start = flat.len();
                flat.extend_from_slice(values);
                if let Some(map) = self.processor.inputs.get(key) {
                    map.normalize(&mut flat[start..]);
                }
            }
        }
        features::encode(&self.config.feature_encoder, &flat, history.len(), out);
        Ok(())
    }
}
