//! A policy: observations in, an action chunk out.
//!
//! ```text
//! observations ─ normalise ─ features ─ encode ─► context ┐
//!                                      noise ─ integrate(velocity(context, x_t, t)) ─ unnormalise ─► chunk
//! ```
//!
//! A policy is data: a folder in LeRobot's layout (`config.json`, `model.safetensors`, processor
//! files). [`Policy::load`] reads it, [`Policy::infer`] answers a batch of observation histories.

pub mod act;
pub mod config;
pub mod diffusion;
pub mod digest;
pub mod ensemble;
pub mod features;
pub mod folder;
pub mod net;
pub mod process;
pub mod processor;
pub mod queue;
pub mod weights;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

pub use crate::action::{Picture, PolicyObs as Observation};
use crate::flow::Noise;
use crate::{Error, Result};
use config::{PolicyConfig, Signature};
pub use net::{Net, feature_len};
pub use process::{Process, Solver};
use processor::{Inputs, Processor, Stats, legacy};
use weights::Weights;

/// File name of the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// File name of the configuration.
pub const CONFIG: &str = "config.json";

/// Sees a flow time and the chunk at that time, in robot units.
pub type Trace<'a> = dyn FnMut(f64, &[f32]) + 'a;

/// The noise of a batch: an argument, so that a chunk can be made again.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    /// Where the chunks begin, unit normal, `[batch, horizon, action_dim]`; empty for a policy without
    /// noise.
    pub noise: Vec<f32>,
    /// Noise of a stochastic sampler's steps, `[steps, batch, horizon, action_dim]`, else empty.
    pub step_noise: Vec<f32>,
}

impl From<Vec<f32>> for Draws {
    fn from(noise: Vec<f32>) -> Self {
        Self { noise, step_noise: Vec::new() }
    }
}

/// What [`Policy::infer`] answers.
#[derive(Clone, Debug)]
pub struct Chunks {
    /// Actions in robot units, `[batch, rows, action_dim]` row by row; row 0 belongs to the newest
    /// observation's tick.
    pub actions: Vec<f32>,
    /// All that the network made, before unnormalising: `[batch, horizon, action_dim]`.
    pub normalized: Vec<f32>,
    /// Network evaluations a chunk.
    pub nfe: usize,
}

/// A loaded policy.
pub struct Policy {
    config: PolicyConfig,
    signature: Signature,
    process: Option<Process>,
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
        let signature = config.signature();
        let weights = Weights::open(&folder)?;
        let has_pipelines = [processor::PREPROCESSOR, processor::POSTPROCESSOR]
            .iter()
            .any(|file| folder.join(file).exists());
        let statistics = match has_pipelines {
            true => None,
            false => Some(statistics_inside(&weights, &signature)?),
        };
        let processor = Processor::load(&folder, &signature, statistics.as_ref())?;
        let of_the_network = |name: &str| (!legacy::is_statistic(name)).then(|| name.to_owned());
        let weights = weights.rename(of_the_network)?;
        let net = weights.load(device, |vb| Net::load(&config, vb))?;
        let mut policy = Self::from_parts(config, processor, net, device.clone())?;
        policy.signature.fps = policy.signature.fps.or_else(|| training_rate(&folder));
        policy.folder = folder;
        Ok(policy)
    }

    /// A policy around a network that is being trained.
    ///
    /// # Errors
    /// When the configuration's schedule is impossible.
    pub fn from_parts(
        config: PolicyConfig,
        processor: Processor,
        net: Net,
        device: Device,
    ) -> Result<Self> {
        let (signature, process) = (config.signature(), config.process()?);
        Ok(Self { config, signature, process, processor, net, device, folder: PathBuf::new() })
    }

    /// The configuration of its type.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// What every policy has: shapes, steps, features.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// What lies between raw units and the network.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The folder that the policy was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The solver: the configuration's, with the user's overrides.
    ///
    /// # Errors
    /// When the name is unknown or steps are out of range.
    pub fn solver(&self, name: Option<&str>, steps: Option<usize>) -> Result<Solver> {
        let Some(process) = &self.process else { return Solver::direct(name, steps) };
        let (own, own_steps) = self.config.default_solver();
        process.solver(name.unwrap_or(own), steps.unwrap_or(own_steps))
    }

    /// Length of one chunk as the network makes it, `horizon·action_dim`.
    pub fn chunk_len(&self) -> usize {
        self.signature.horizon * self.signature.action_dim()
    }

    /// The noise of a batch: sample i of it has the generator's sample number `samples[i]`, and a
    /// sample's noise does not depend on the others. `draw` tells chunks of one sample apart.
    pub fn draws(&self, noise: &Noise, samples: &[u64], draw: u64, solver: &Solver) -> Draws {
        let len = if solver.sampler.is_some() { self.chunk_len() } else { 0 };
        let steps = if solver.is_stochastic() { solver.steps } else { 0 };
        let mut draws = Draws {
            noise: Vec::with_capacity(samples.len() * len),
            step_noise: vec![0.0; steps * samples.len() * len],
        };
        for (i, &sample) in samples.iter().enumerate() {
            let all = noise.normal(sample, draw, (steps + 1) * len);
            draws.noise.extend_from_slice(&all[..len]);
            for step in 0..steps {
                let at = (step * samples.len() + i) * len;
                let row = &all[(step + 1) * len..(step + 2) * len];
                draws.step_noise[at..at + len].copy_from_slice(row);
            }
        }
        draws
    }

    /// One chunk for each history. `histories` hold `n_obs_steps` observations each, oldest first.
    ///
    /// # Errors
    /// When an observation has another shape or is not finite, or the network's output is not.
    pub fn infer(
        &self,
        histories: &[&[Observation]],
        draws: impl Into<Draws>,
        solver: &Solver,
    ) -> Result<Chunks> {
        self.run(histories, draws.into(), solver, None)
    }

    /// As [`Policy::infer`]; `trace(t, x_t)` sees the noise and the state after every solver step,
    /// in robot units, in the shape of the actions.
    ///
    /// # Errors
    /// As [`Policy::infer`].
    pub fn infer_traced(
        &self,
        histories: &[&[Observation]],
        draws: impl Into<Draws>,
        solver: &Solver,
        trace: &mut Trace<'_>,
    ) -> Result<Chunks> {
        self.run(histories, draws.into(), solver, Some(trace))
    }

    fn run(
        &self,
        histories: &[&[Observation]],
        draws: Draws,
        solver: &Solver,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<Chunks> {
        let (h, d) = (self.signature.horizon, self.signature.action_dim());
        let shape = (histories.len(), h, d);
        self.check_draws(&draws, histories.len(), solver)?;
        let inputs =
            histories.iter().map(|history| self.inputs(history)).collect::<Result<Vec<_>>>()?;
        let robot_units = |normalized: &[f32]| {
            let mut actions = Vec::with_capacity(normalized.len());
            for (chunk, history) in normalized.chunks_exact(h * d).zip(histories) {
                let start = actions.len();
                actions.extend_from_slice(chunk);
                let state = history.last().map_or(&[][..], |newest| &newest.state);
                self.processor.unnormalize_actions(state, &mut actions[start..]);
                actions.drain(start..start + self.signature.first_row * d);
            }
            actions
        };
        let context = self.net.context(&inputs, &self.device)?;
        let (x, nfe) = match &self.process {
            None => (self.net.direct(&context)?, 1),
            Some(process) => {
                let b = histories.len();
                let x = Tensor::from_vec(draws.noise, shape, &self.device)?;
                let steps = draws.step_noise;
                let mut draw = |step: usize, x: &Tensor| -> Result<Tensor> {
                    let len = b * h * d;
                    let rows = steps.get(step * len..(step + 1) * len).unwrap_or_default();
                    Ok(Tensor::from_slice(rows, x.shape(), x.device())?)
                };
                let mut observe = |_step: usize, t: f64, x: &Tensor| -> Result<()> {
                    if let Some(trace) = trace.as_mut() {
                        trace(t, &robot_units(&x.flatten_all()?.to_vec1()?));
                    }
                    Ok(())
                };
                let mut network = |x: &Tensor, t: f64| self.net.predict(&context, x, &vec![t; b]);
                let solution = process.run(solver, x, &mut network, &mut draw, &mut observe)?;
                (solution.x, solution.nfe)
            }
        };
        let normalized: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let actions = robot_units(&normalized);
        if !actions.iter().all(|a| a.is_finite()) {
            return Err(Error::Rejected { reason: "the network's actions are not finite".into() });
        }
        Ok(Chunks { actions, normalized, nfe })
    }

    fn check_draws(&self, draws: &Draws, batch: usize, solver: &Solver) -> Result<()> {
        let (h, d) = (self.signature.horizon, self.signature.action_dim());
        let noise = if solver.sampler.is_some() { batch * h * d } else { 0 };
        if batch == 0 || draws.noise.len() != noise {
            return Err(Error::Invalid(format!(
                "noise: expected [{batch}, {h}, {d}] for one history or more, got {} values",
                draws.noise.len()
            )));
        }
        let steps = if solver.is_stochastic() { solver.steps } else { 0 };
        if draws.step_noise.len() != steps * noise {
            return Err(Error::Invalid(format!(
                "step_noise: expected [{steps}, {batch}, {h}, {d}] for {}, got {} values",
                solver.name,
                draws.step_noise.len()
            )));
        }
        Ok(())
    }

    /// A history as the network sees it, normalised.
    ///
    /// # Errors
    /// When an observation has another shape or is not finite.
    pub fn inputs(&self, history: &[Observation]) -> Result<Inputs> {
        if history.len() != self.signature.n_obs_steps {
            return Err(Error::Invalid(format!(
                "observation history: expected n_obs_steps = {}, got {}",
                self.signature.n_obs_steps,
                history.len()
            )));
        }
        self.processor.inputs(history)
    }
}

/// The rate of the environment that LeRobot trained in, where `train_config.json` says one.
fn training_rate(folder: &Path) -> Option<f64> {
    let text = folder::read_text(&folder.join("train_config.json"), folder::MAX_TEXT).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let fps = config.get("env")?.get("fps")?.as_f64()?;
    (fps.is_finite() && fps > 0.0).then_some(fps)
}

/// The statistics that LeRobot before 0.4 kept among the weights.
fn statistics_inside(weights: &Weights, signature: &Signature) -> Result<Stats> {
    let names: Vec<&str> =
        weights.names().map(|(name, _)| name).filter(|name| legacy::is_statistic(name)).collect();
    let read = |name: &str| weights.read(name, &Device::Cpu);
    let tensors = names.iter().map(|name| read(name)).collect::<Result<Vec<_>>>()?;
    legacy::statistics(names.into_iter().zip(&tensors), signature)
}
