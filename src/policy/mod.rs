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
pub mod net;
pub mod process;
pub mod processor;
pub mod queue;
pub mod rtc;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::action::{Form, Joining, Mode};
pub use crate::action::{Picture, PolicyObs as Observation};
use crate::flow::Noise;
use crate::flow::known::Times;
use crate::tensors::folder::{self, Kind};
use crate::tensors::{files, weights::Weights};
use crate::{Error, Result};
use config::{PolicyConfig, Signature};
pub use net::{Net, feature_len};
pub use process::{Process, Solver, Steer};
use processor::{Inputs, Processor, Stats, legacy};
pub use rtc::{Continuing, RtcConfig};

/// File name of the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// File name of the configuration.
pub const CONFIG: &str = "config.json";
/// What is looked for where a user names a policy.
pub const FOLDER: Kind =
    Kind { name: "policy folder", file: CONFIG, with: "model.safetensors and processor files" };

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

impl Draws {
    /// The noise of some samples of a batch of `batch` chunks of `len` values.
    fn select(&self, samples: &[usize], batch: usize, len: usize) -> Self {
        let pick = |all: &[f32]| -> Vec<f32> {
            let row = |i: &usize| all.get(i * len..(i + 1) * len).unwrap_or_default().to_vec();
            samples.iter().flat_map(row).collect()
        };
        let steps = self.step_noise.chunks_exact((batch * len).max(1));
        Self { noise: pick(&self.noise), step_noise: steps.flat_map(pick).collect() }
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
    /// Time until the observations were encoded; the rest is the integration.
    pub encode: Duration,
}

/// What a sampling run begins from.
struct Run<'a> {
    histories: &'a [&'a [Observation]],
    draws: Draws,
    solver: &'a Solver,
    continuing: Option<Continuing<'a>>,
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
        let folder = folder::resolve(folder, &FOLDER)?;
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

    /// How its chunks are joined, as its folder says; the newest chunk at once where that is silent.
    pub fn joining(&self) -> Joining {
        match (&self.config, self.config.temporal_ensemble_coeff()) {
            (PolicyConfig::Flow(config), _) => config.joining.unwrap_or_default(),
            (_, Some(temporal_ensemble_coeff)) => Joining {
                mode: Mode::TemporalEnsemble,
                temporal_ensemble_coeff,
                ..Joining::default()
            },
            _ => Joining::default(),
        }
    }

    /// Whether it can make chunks for this way of joining.
    pub fn can_join(&self, mode: Mode) -> bool {
        match mode.form() {
            None => true,
            Some(Form::Prefix) => self.net.takes_row_times(),
            Some(_) => self.process.is_some(),
        }
    }

    /// Guidance of real-time chunking, as its folder says.
    pub fn rtc_config(&self) -> RtcConfig {
        match &self.config {
            PolicyConfig::Flow(config) => config.rtc_config.clone().unwrap_or_default(),
            PolicyConfig::Diffusion(_) | PolicyConfig::Act(_) => RtcConfig::default(),
        }
    }

    /// The noise of a batch: sample i of it has the generator's sample number `samples[i]`, and a
    /// sample's noise does not depend on the others. `draw` tells chunks of one sample apart.
    pub fn draws(&self, noise: &Noise, samples: &[u64], draw: u64, solver: &Solver) -> Draws {
        let keys: Vec<_> = samples.iter().map(|&sample| (sample, draw)).collect();
        self.draws_of(noise, &keys, solver)
    }

    /// As [`Policy::draws`], with sample and draw number of each chunk.
    pub fn draws_of(&self, noise: &Noise, keys: &[(u64, u64)], solver: &Solver) -> Draws {
        let len = if solver.sampler.is_some() { self.chunk_len() } else { 0 };
        let steps = if solver.is_stochastic() { solver.steps } else { 0 };
        let mut draws = Draws {
            noise: Vec::with_capacity(keys.len() * len),
            step_noise: vec![0.0; steps * keys.len() * len],
        };
        for (i, &(sample, draw)) in keys.iter().enumerate() {
            let all = noise.normal(sample, draw, (steps + 1) * len);
            draws.noise.extend_from_slice(&all[..len]);
            for step in 0..steps {
                let at = (step * keys.len() + i) * len;
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
        let run = Run { histories, draws: draws.into(), solver, continuing: None };
        self.run(run, None)
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
        let run = Run { histories, draws: draws.into(), solver, continuing: None };
        self.run(run, Some(trace))
    }

    /// As [`Policy::infer`], with chunks that continue what is being played. Chunks that stand alone are
    /// made as if nobody else were in the batch.
    ///
    /// # Errors
    /// As [`Policy::infer`]; when what is left over has another shape or is not finite, or the
    /// network or solver cannot continue in this form.
    pub fn infer_continued(
        &self,
        histories: &[&[Observation]],
        draws: impl Into<Draws>,
        solver: &Solver,
        continuing: Continuing<'_>,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<Chunks> {
        let (draws, n) = (draws.into(), histories.len());
        if continuing.chunks.len() != n {
            let got = continuing.chunks.len();
            return Err(Error::shape("continuations", [n], [got]));
        }
        self.check_draws(&draws, n, solver)?;
        let (rows, len) = (self.signature.rows() * self.signature.action_dim(), self.chunk_len());
        let mut all = Chunks {
            actions: vec![0.0; n * rows],
            normalized: vec![0.0; n * len],
            nfe: 0,
            encode: Duration::ZERO,
        };
        let is_alone = |i: &usize| continuing.chunks[*i].is_none();
        let (alone, continued): (Vec<usize>, Vec<usize>) = (0..n).partition(is_alone);
        // A backward pass multiplies in another order in a batch: each has its own.
        let size = if continuing.form == Form::Vjp { 1 } else { n };
        let groups = continued.chunks(size).map(|group| (group, true));
        let groups = groups.chain(alone.chunks(n).map(|group| (group, false)));
        for (group, continued) in groups {
            let histories: Vec<_> = group.iter().map(|&i| histories[i]).collect();
            let chunks: Vec<_> = group.iter().map(|&i| continuing.chunks[i]).collect();
            let run = Run {
                histories: &histories,
                draws: draws.select(group, n, len),
                solver,
                continuing: continued.then_some(Continuing { chunks: &chunks, ..continuing }),
            };
            // Only the first of the batch is drawn.
            let trace = if group[0] == 0 { trace.take() } else { None };
            let part = self.run(run, trace)?;
            for (at, &i) in group.iter().enumerate() {
                all.actions[i * rows..(i + 1) * rows]
                    .copy_from_slice(&part.actions[at * rows..(at + 1) * rows]);
                all.normalized[i * len..(i + 1) * len]
                    .copy_from_slice(&part.normalized[at * len..(at + 1) * len]);
            }
            all.nfe = all.nfe.max(part.nfe);
            all.encode += part.encode;
        }
        Ok(all)
    }

    fn run(&self, run: Run<'_>, mut trace: Option<&mut Trace<'_>>) -> Result<Chunks> {
        let Run { histories, draws, solver, continuing } = run;
        let (h, d) = (self.signature.horizon, self.signature.action_dim());
        let shape = (histories.len(), h, d);
        self.check_draws(&draws, histories.len(), solver)?;
        let start = Instant::now();
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
        let encode = start.elapsed();
        let (x, nfe) = match &self.process {
            None if continuing.is_some() => {
                return Err(Error::Invalid(
                    "this policy makes its chunk in one evaluation and cannot continue another: \
                     expected temporal_ensemble, an average, append, replace or synchronous"
                        .into(),
                ));
            }
            None => (self.net.direct(&context)?, 1),
            Some(process) => {
                let b = histories.len();
                let steer = match continuing {
                    None => Steer::Free,
                    Some(continuing) => continuing.steer(
                        histories,
                        &self.signature,
                        &self.processor,
                        solver.steps,
                        &self.device,
                    )?,
                };
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
                let mut network = |x: &Tensor, times: &Times| {
                    let rows = times.tokens.as_ref();
                    let rows = rows.map(|t| t.flatten_all()?.to_vec1::<f64>()).transpose()?;
                    self.net.predict_rows(&context, x, &vec![times.t; b], rows.as_deref())
                };
                let solution = process.run_steered(
                    solver,
                    x,
                    &mut network,
                    &steer,
                    &mut draw,
                    &mut observe,
                )?;
                (solution.x, solution.nfe)
            }
        };
        let normalized: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let actions = robot_units(&normalized);
        if !actions.iter().all(|a| a.is_finite()) {
            return Err(Error::Rejected { reason: "the network's actions are not finite".into() });
        }
        Ok(Chunks { actions, normalized, nfe, encode })
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
    let text = files::read_text(&folder.join("train_config.json"), files::MAX_TEXT).ok()?;
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
