//! A request to pictures.
//!
//! Picture i begins with the noise of `seed + i`, sample 0, draw 0, and has draw k + 1 in step k: it is the
//! same in a batch of any size. Under guidance both branches are one batch of pairs, negative first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Tensor};

use super::conditions::Conditions;
use super::network::interval_velocity;
use super::pipeline::Pipeline;
use super::plan::{Choice, Plan};
use super::request::{Pictures, Progress, Request};
use super::settings::Settings;
use super::start::{self, Start};
use crate::flow::clip::limited;
use crate::flow::guidance::{Branches, Guidance, Outputs, guided};
use crate::flow::{Denoiser, Estimate, Known, Noise};
use crate::nn::condition::Condition;
use crate::solver::{Solution, flow_map, grid};
use crate::{Error, Result};

/// Steps of a folder that does not say how many.
const STEPS: usize = 20;
/// Guidance of a folder that does not say how much: diffusers' and stable-diffusion.cpp's.
const CFG_SCALE: f64 = 7.0;
/// The sampling method of networks that are told the length of a step.
pub(super) const FLOW_MAP: &str = "flow_map";
/// No batch is larger.
const MAX_BATCH: usize = 4096;
/// No side of a picture is larger.
const MAX_SIDE: usize = 16_384;

/// What the denoiser is asked with.
struct Asked<'a> {
    pipeline: &'a Pipeline,
    conditions: Conditions,
    guidance: Guidance,
}

impl Pipeline {
    /// Draws. `progress` is called after every step and may end it.
    ///
    /// # Errors
    /// When the request is not one of this model (the message says what is), `progress` breaks it off, or a
    /// number is not finite.
    pub fn sample(
        &self,
        request: &Request,
        progress: &mut dyn FnMut(&Progress<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<Pictures> {
        if !(1..=MAX_BATCH).contains(&request.batch_count) {
            let expected = format!("1 to {MAX_BATCH}");
            return Err(Error::range("batch_count", expected, request.batch_count as f64));
        }
        let (size, steps) = (self.checked_size(request)?, self.steps(request));
        let is_map = self.takes_steps_of_a_map(request)?;
        let guidance = self.guidance(request)?;
        let mut seconds = BTreeMap::new();
        let begin = Instant::now();
        let choice = Choice {
            steps,
            method: self.method(request).filter(|_| !is_map),
            schedule: request.schedule.as_deref().or(self.defaults().schedule.as_deref()),
            eta: request.eta,
            tokens: size.iter().map(|side| side / self.factor()).product(),
        };
        let plan = start::shortened(self.scheduler().plan(&choice)?, request, steps)?;
        let noise = self.noise(request, size)?;
        let Start { x, known, concat } = start::start(self, request, &plan, &noise, size)?;
        let concat = self.concat(request, size, concat)?;
        let conditions = self.conditions(request, guidance.scale != 1.0, concat)?;
        let cut = conditions.cut.clone();
        seconds.insert("encode".to_owned(), begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let asked = Asked { pipeline: self, conditions, guidance };
        let latest = RefCell::new(x.clone());
        let total = if is_map { steps } else { plan.steps() };
        let mut observe = |step: usize, _: f64, x: &Tensor| {
            if step == 0 {
                return Ok(());
            }
            let estimate = latest.borrow();
            let seen = Progress {
                step,
                steps: total,
                elapsed: begin.elapsed(),
                latents: x,
                estimate: &estimate,
                pipeline: self,
            };
            match progress(&seen)? {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Invalid(format!(
                    "sampling was stopped after {step} of {total} steps"
                ))),
            }
        };
        let (latents, evaluations) = if is_map {
            let solution = asked.by_flow_map(&plan, x, steps, &latest, &mut observe)?;
            (solution.x, solution.nfe)
        } else {
            let mut draw = self.draws(request, &plan, &noise)?;
            asked.by_plan(&plan, &x, known.as_ref(), &latest, &mut draw, &mut observe)?
        };
        seconds.insert("sample".to_owned(), begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let image = self.decode(&latents, request.vae_tiling)?;
        seconds.insert("decode".to_owned(), begin.elapsed().as_secs_f64());
        check_finite(&image)?;
        let image = image.clamp(-1f32, 1f32)?;
        let method = if is_map { FLOW_MAP } else { plan.method.as_str() };
        let settings = self.settings(request, &asked, &plan.schedule, (method, size, steps))?;
        Ok(Pictures { latents, image, settings, evaluations, seconds, cut })
    }

    /// The size that is drawn, a multiple of the latents' and of what the network halves.
    fn checked_size(&self, request: &Request) -> Result<[usize; 2]> {
        let [height, width] = request.size.unwrap_or(self.size());
        let factor = self.factor();
        for (what, side) in [("height", height), ("width", width)] {
            if side == 0 || side > MAX_SIDE || side % factor != 0 {
                let down = (side.min(MAX_SIDE) / factor * factor).max(factor);
                let up = (down + factor).min(MAX_SIDE / factor * factor);
                let expected =
                    format!("a multiple of {factor} up to {MAX_SIDE}, such as {down} or {up}");
                return Err(Error::range(what, expected, side as f64));
            }
        }
        Ok([height, width])
    }

    fn steps(&self, request: &Request) -> usize {
        request.steps.or(self.defaults().steps).unwrap_or(STEPS)
    }

    fn method<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        request.sampling_method.as_deref().or(self.defaults().sampling_method.as_deref())
    }

    /// Whether a flow map is walked.
    fn takes_steps_of_a_map(&self, request: &Request) -> Result<bool> {
        let is_named = self.method(request) == Some(FLOW_MAP);
        if is_named && !self.is_few_step() {
            return Err(Error::Invalid(format!(
                "sampling method {FLOW_MAP}: expected a network that was told the length of its steps in \
                 training, got one that was not; take euler or heun"
            )));
        }
        let steps = self.steps(request);
        if is_named && !(1..=super::plan::MAX_STEPS).contains(&steps) {
            let expected = format!("1 to {}", super::plan::MAX_STEPS);
            return Err(Error::range("steps", expected, steps as f64));
        }
        if is_named && request.init_image.is_some() {
            let message =
                "sampling method flow_map: expected no initial picture; take euler or heun";
            return Err(Error::Invalid(message.into()));
        }
        Ok(is_named)
    }

    /// The guidance of a request: none where there is nothing to lead away from.
    fn guidance(&self, request: &Request) -> Result<Guidance> {
        if !self.can_guide() {
            if request.cfg_scale.is_some_and(|scale| scale != 1.0) {
                let message = "cfg_scale: expected 1, since this model knows no empty condition to lead \
                     away from";
                return Err(Error::Invalid(message.into()));
            }
            return Ok(Guidance::new(1.0));
        }
        let default = if Self::is_asked(request) {
            self.defaults().cfg_scale.unwrap_or(CFG_SCALE)
        } else {
            1.0
        };
        let scale = request.cfg_scale.unwrap_or(default);
        let guidance = Guidance { rescale: request.guidance_rescale, ..Guidance::new(scale) };
        guidance.validate()?;
        Ok(guidance)
    }

    /// The initial noise `[b, c, h, w]`.
    fn noise(&self, request: &Request, size: [usize; 2]) -> Result<Tensor> {
        let [h, w] = size.map(|side| side / self.factor());
        let shape = [request.batch_count, self.channels(), h, w];
        if let Some(latents) = &request.latents {
            if latents.dims() != shape {
                return Err(Error::shape("latents (the initial noise)", shape, latents.dims()));
            }
            check_finite(latents)?;
            return Ok(latents.to_dtype(DType::F32)?.to_device(self.device())?);
        }
        self.normals(request, 0, &shape)
    }

    /// Draw number `draw` for every picture.
    fn normals(&self, request: &Request, draw: u64, shape: &[usize]) -> Result<Tensor> {
        let each: usize = shape[1..].iter().product();
        let mut values = vec![0f32; shape[0] * each];
        for (i, values) in values.chunks_mut(each.max(1)).enumerate() {
            Noise::new(request.seed.wrapping_add(i as u64)).normal_into(0, draw, values);
        }
        Ok(Tensor::from_vec(values, shape, self.device())?)
    }

    /// The noise of the steps: the request's, or the seeds'.
    fn draws<'a>(
        &'a self,
        request: &'a Request,
        plan: &Plan,
        noise: &Tensor,
    ) -> Result<impl FnMut(usize, &Tensor) -> Result<Tensor> + 'a> {
        let shape = noise.dims().to_vec();
        if let Some(given) = &request.step_noise {
            let expected: Vec<usize> = [plan.steps()].iter().chain(&shape).copied().collect();
            if plan.is_stochastic() && (given.rank() != 5 || given.dims()[1..] != shape) {
                return Err(Error::shape("step_noise", expected, given.dims()));
            }
        }
        Ok(move |step: usize, _: &Tensor| match &request.step_noise {
            None => self.normals(request, step as u64 + 1, &shape),
            Some(given) if step < given.dim(0)? => {
                Ok(given.get(step)?.to_dtype(DType::F32)?.to_device(self.device())?)
            }
            Some(given) => {
                let expected = format!("noise for step {step} too");
                Err(Error::range("step_noise: steps", expected, given.dim(0)? as f64))
            }
        })
    }

    /// What stands behind the latents' channels: a mask and a masked picture, or a map.
    fn concat(
        &self,
        request: &Request,
        [height, width]: [usize; 2],
        masked: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        match (self.rescaler(), &request.segmentation) {
            (None, None) => {
                if self.takes_mask() && masked.is_none() {
                    let message = "mask: expected a picture (init_image) and a mask, since this model only \
                         fills holes, got none";
                    return Err(Error::Invalid(message.into()));
                }
                Ok(masked)
            }
            (None, Some(_)) => Err(Error::Invalid(
                "segmentation: expected none, since this model draws from no map".into(),
            )),
            (Some(_), None) => Err(Error::Invalid(format!(
                "segmentation: expected a map of {height}×{width} class numbers, since this model draws \
                 from one, got none"
            ))),
            (Some(rescaler), Some(map)) => {
                if map.dims() != [1, height, width] {
                    let expected = [1, height, width];
                    return Err(Error::shape("segmentation map", expected, map.dims()));
                }
                let small = rescaler.forward(&map.to_device(self.device())?)?;
                Ok(Some(small.repeat((request.batch_count, 1, 1, 1))?))
            }
        }
    }

    fn settings(
        &self,
        request: &Request,
        asked: &Asked<'_>,
        schedule: &str,
        (method, size, steps): (&str, [usize; 2], usize),
    ) -> Result<Settings> {
        let class = match (&request.class, self.class_ids(request)?) {
            (Some(_), Some(ids)) => ids.first().map(|id| self.classes().name(*id)),
            _ => None,
        };
        Ok(Settings {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            class,
            seed: request.seed,
            batch_count: request.batch_count,
            size,
            steps,
            sampling_method: method.to_owned(),
            schedule: schedule.to_owned(),
            cfg_scale: asked.guidance.scale,
            guidance_rescale: request.guidance_rescale,
            eta: request.eta,
            strength: request.init_image.as_ref().map(|_| request.strength),
            vae_tiling: request.vae_tiling,
            ..Settings::default()
        })
    }
}

impl Asked<'_> {
    /// What the network emits for `x` under the condition, and under the negative one if both are asked.
    fn outputs(
        &self,
        x: &Tensor,
        branches: Branches,
        ask: &dyn Fn(&Tensor, &Condition) -> Result<Tensor>,
    ) -> Result<Outputs> {
        match (branches, &self.conditions.pairs) {
            (Branches::Both, Some(pairs)) => {
                let both = ask(&Tensor::cat(&[x, x], 0)?, pairs)?.chunk(2, 0)?;
                let [negative, conditional] = [&both[0], &both[1]].map(Clone::clone);
                Ok(Outputs { conditional, negative: Some(negative) })
            }
            _ => Ok(Outputs { conditional: ask(x, &self.conditions.alone)?, negative: None }),
        }
    }

    /// The output of the network at its time, the same for all rows.
    fn ask(&self, plan: &Plan, x: &Tensor, t: f64, condition: &Condition) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let net = self.pipeline.network();
        let output = if self.pipeline.is_few_step() {
            // An interval without length: the velocity.
            let times = vec![t; rows];
            interval_velocity(net, &plan.path, x, (&times, &times), condition)?
        } else {
            net.forward(x, &vec![plan.network_time(t); rows], condition)?
        };
        let channels = self.pipeline.channels();
        match output.dim(1)? {
            both if both > channels => Ok(output.narrow(1, 0, channels)?.contiguous()?),
            _ => Ok(output),
        }
    }

    /// Along a plan; also the evaluations of a picture.
    fn by_plan(
        &self,
        plan: &Plan,
        x: &Tensor,
        known: Option<&Known>,
        latest: &RefCell<Tensor>,
        draw: &mut crate::solver::Draw<'_>,
        observe: &mut crate::solver::Observer<'_>,
    ) -> Result<(Tensor, usize)> {
        let evaluations = RefCell::new(0);
        let mut plain = guided(&plan.path, plan.target, self.guidance, |x, t, branches| {
            *evaluations.borrow_mut() += if branches == Branches::Both { 2 } else { 1 };
            self.outputs(x, branches, &|x, condition| self.ask(plan, x, t, condition))
        })?;
        let mut remembered = |x: &Tensor, t: f64| -> Result<Estimate> {
            let estimate = plain(x, t)?;
            *latest.borrow_mut() = estimate.data.clone();
            Ok(estimate)
        };
        let mut run = |denoiser: &mut Denoiser<'_>| -> Result<Tensor> {
            let Some(known) = known else {
                return Ok(plan.run(denoiser, x.clone(), draw, observe)?.x);
            };
            // The first evaluation sees the state as it is (see `start.rs`).
            let first = RefCell::new(Some(x.clone()));
            let mut seen = |held: &Tensor, t: f64| match first.take() {
                Some(x) => denoiser(&x, t),
                None => denoiser(held, t),
            };
            let mut holding = known.denoiser(&plan.path, &mut seen)?;
            let end = plan.run(&mut holding, x.clone(), draw, observe)?.x;
            known.hold(&plan.path, &end, plan.path.ends().1)
        };
        let x = match plan.limit {
            None => run(&mut remembered)?,
            Some((limit, residue)) => {
                run(&mut limited(&plan.path, limit, residue, &mut remembered)?)?
            }
        };
        let evaluations = *evaluations.borrow();
        Ok((x, evaluations))
    }

    /// In a few large steps of a learned map.
    fn by_flow_map(
        &self,
        plan: &Plan,
        x: Tensor,
        steps: usize,
        latest: &RefCell<Tensor>,
        observe: &mut crate::solver::Observer<'_>,
    ) -> Result<Solution> {
        let (from, to) = plan.path.ends();
        let times = grid::uniform(from, to, steps)?;
        let mut calls = 0;
        let mut field = |x: &Tensor, t: f64, r: f64| {
            let ask = |x: &Tensor, condition: &Condition| {
                let rows = x.dim(0)?;
                let ends = (vec![t; rows], vec![r; rows]);
                let net = self.pipeline.network();
                interval_velocity(net, &plan.path, x, (&ends.0, &ends.1), condition)
            };
            let branches = self.guidance.branches(&plan.path, t);
            let outputs = self.outputs(x, branches, &ask)?;
            calls += 1 + usize::from(outputs.negative.is_some());
            let average = match &outputs.negative {
                Some(negative) => self.guidance.apply(&outputs.conditional, negative)?,
                None => outputs.conditional,
            };
            *latest.borrow_mut() = (x + average.affine(to - t, 0.0)?)?;
            Ok(average)
        };
        let solution = flow_map(&mut field, x, &times, observe)?;
        Ok(Solution { nfe: calls, ..solution })
    }
}

fn check_finite(x: &Tensor) -> Result<()> {
    let sum = x.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if sum.is_finite() {
        return Ok(());
    }
    Err(Error::Invalid("sampling: expected finite numbers, got others".into()))
}
