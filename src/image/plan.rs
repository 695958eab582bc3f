//! How a picture is sampled: times, and the sampler that walks them, from a scheduler and a choice.
//!
//! | walk | who |
//! |---|---|
//! | pairs of times, DDIM's own next time | DDIM; DDPM with the large variance; LCM |
//! | a grid on the path, by a sampler of the core | DDPM, Euler, Euler ancestral, DPM-Solver, flows |
//! | a grid of σ/α, by a Runge–Kutta method | Heun and its like over a table |
//! | PLMS's own times | PNDM |
//!
//! DDIM goes to t − ⌊N/n⌋ and not to the next time of its grid; Euler, Heun and their like start with
//! the largest σ on linspace and trailing grids, which beside unit data is a little less than unit noise;
//! a flow's default grid is shifted twice (diffusers issue 13243). States are on the path, `α·data + σ·noise`,
//! whatever the class scales them to in diffusers.

use candle_core::Tensor;

use super::methods::Method;
use super::scheduler::{Class, Scheduler};
use super::walk;
use crate::flow::clip::{Limit, Residue};
use crate::flow::combine::combine;
use crate::flow::{Coef, Denoiser, Path, Target};
use crate::solver::grid::{self, DynamicShift};
use crate::solver::spacing::{Family, Grid, Spacing, spaced};
use crate::solver::transfer::{Noising, Step};
use crate::solver::{Draw, Observer, PlmsTimes, Sampler, Solution, plms};
use crate::{Error, Result};

/// No picture takes more steps.
pub const MAX_STEPS: usize = 10_000;

/// What the user may choose.
#[derive(Clone, Debug, Default)]
pub struct Choice<'a> {
    /// Number of steps.
    pub steps: usize,
    /// Name of the sampling method; the folder's own if absent.
    pub method: Option<&'a str>,
    /// Name of the schedule; the folder's own if absent.
    pub schedule: Option<&'a str>,
    /// How much noise of a step is new, for DDIM: 0 is none.
    pub eta: f64,
    /// Pixels of the latents, for a shift that depends on them.
    pub tokens: usize,
}

/// The steps of one picture.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The network's path.
    pub path: Path,
    /// What it emits.
    pub target: Target,
    /// What the data are limited to.
    pub limit: Option<(Limit, Residue)>,
    /// Name of the sampling method.
    pub method: String,
    /// Name of the schedule.
    pub schedule: String,
    walk: Walk,
    /// Part of unit noise that the first state is.
    initial: f64,
    train_steps: f64,
    /// Whether the network is told whole times.
    is_rounded: bool,
}

#[derive(Clone, Debug)]
enum Walk {
    Grid { sampler: Sampler, times: Vec<f64> },
    Sigmas { sampler: Sampler, times: Vec<f64> },
    Pairs(walk::Pairs),
    Plms(PlmsTimes),
}

impl Scheduler {
    /// The plan of a choice.
    ///
    /// # Errors
    /// When there are no or too many steps, or a name is unknown (the known ones are listed) or not for
    /// this folder.
    pub fn plan(&self, choice: &Choice<'_>) -> Result<Plan> {
        if !(1..=MAX_STEPS).contains(&choice.steps) {
            let expected = format!("1 to {MAX_STEPS}");
            return Err(Error::range("steps", expected, choice.steps as f64));
        }
        let (scheduler, method) = Method::choose(self, choice.method)?;
        let (scheduler, schedule) = scheduler.scheduled(choice.schedule)?;
        if choice.eta != 0.0 && method.name != "ddim" {
            return Err(Error::Invalid(format!(
                "eta: expected 0 with sampling method {}, got {}; only ddim takes it",
                method.name, choice.eta
            )));
        }
        let path = scheduler.path()?;
        let (walk, initial) = scheduler.walk(&path, &method, schedule, choice)?;
        let name = match schedule {
            Some(name) => name.to_owned(),
            None => scheduler.schedule_name()?,
        };
        Ok(Plan {
            target: scheduler.target()?,
            limit: scheduler.limit(),
            method: method.name.to_owned(),
            schedule: name,
            walk,
            initial,
            train_steps: scheduler.train_steps() as f64,
            is_rounded: scheduler.class() == Class::DpmSolver && scheduler.sigmas()?.is_some(),
            path,
        })
    }

    /// The scheduler with a schedule that its class has, or the name of one that only the core has.
    fn scheduled<'a>(&self, name: Option<&'a str>) -> Result<(Self, Option<&'a str>)> {
        let has_sigmas = matches!(self.class(), Class::Euler | Class::Heun | Class::DpmSolver);
        match name {
            None | Some("default" | "discrete") => Ok((self.clone(), None)),
            Some("leading" | "trailing" | "linspace") if !self.class().is_flow() => {
                let off = |scheduler: Self, key: &str| match scheduler.sigmas() {
                    Ok(Some(_)) => scheduler.with(key, false),
                    _ => scheduler,
                };
                let scheduler = self.clone().with("timestep_spacing", name.unwrap_or_default());
                let scheduler = off(scheduler, "use_karras_sigmas");
                Ok((off(scheduler, "use_exponential_sigmas"), None))
            }
            Some(name @ ("karras" | "exponential")) if has_sigmas => {
                let scheduler = self.clone().with("use_karras_sigmas", name == "karras");
                Ok((scheduler.with("use_exponential_sigmas", name == "exponential"), None))
            }
            Some(name @ ("uniform" | "karras" | "exponential")) => {
                if matches!(self.class(), Class::Pndm | Class::Lcm) {
                    return Err(Error::Invalid(format!(
                        "schedule: expected default, leading, trailing or linspace with {}, got {name}",
                        self.class().name()
                    )));
                }
                if self.class().is_flow() && name != "uniform" {
                    return Err(flow_schedules(name));
                }
                Ok((self.clone(), Some(name)))
            }
            Some(name) if self.class().is_flow() => Err(flow_schedules(name)),
            Some(name) => Err(Error::Unknown {
                what: "schedule".into(),
                expected: SCHEDULES.join(", "),
                got: name.into(),
            }),
        }
    }

    fn schedule_name(&self) -> Result<String> {
        if self.class().is_flow() {
            return Ok("default".into());
        }
        Ok(match (self.sigmas()?, self.spacing()?) {
            (Some(name), _) => name,
            (None, Spacing::Leading) => "leading",
            (None, Spacing::Trailing) => "trailing",
            (None, Spacing::Linspace) => "linspace",
        }
        .to_owned())
    }

    /// The times of diffusers' grid, and the path's data end.
    fn times(&self, path: &Path, steps: usize) -> Result<Vec<f64>> {
        let family = match self.class() {
            Class::Ddpm | Class::Ddim | Class::Pndm => Family::Ddpm,
            Class::Lcm => return self.lcm_times(steps),
            Class::DpmSolver => Family::DpmSolver,
            _ => Family::Euler,
        };
        let spacing = self.spacing()?;
        let Path::Discrete(table) = path else {
            return Err(Error::Invalid("schedule: expected a table of training steps".into()));
        };
        let offset = if spacing == Spacing::Leading { self.count("steps_offset", 0) } else { 0 };
        let times = spaced(spacing, family, table.steps(), steps, offset)?;
        let Some(name) = self.sigmas()? else { return Ok(times) };
        let sigma = |t: f64| path.at(t).sigma_hat();
        // DPM-Solver takes the ends of the table, Euler and Heun those of the spacing.
        let (first, last) = match family {
            Family::DpmSolver => (table.steps() as f64 - 1.0, 0.0),
            _ => (times[0], times[steps - 1]),
        };
        let max = self.number("sigma_max", sigma(first));
        let min = self.number("sigma_min", sigma(last));
        let sigmas = match name {
            "karras" => grid::karras(steps, max, min, 7.0)?,
            _ => grid::exponential(steps, max, min)?,
        };
        grid::times_of(path, &sigmas)
    }

    /// Every so many of the times that a consistency model was distilled on.
    fn lcm_times(&self, steps: usize) -> Result<Vec<f64>> {
        let original = self.count("original_inference_steps", 50);
        let train = self.train_steps();
        if !(1..=train).contains(&original) {
            let expected = format!("1 to {train}");
            return Err(Error::range("original_inference_steps", expected, original as f64));
        }
        if steps > original {
            let expected = format!("1 to {original}, its original_inference_steps");
            return Err(Error::range("steps of an LCM", expected, steps as f64));
        }
        let time = |i: usize| {
            let index = (i as f64 * (original as f64 / steps as f64)).floor() as usize;
            ((original - index) * (train / original)) as f64 - 1.0
        };
        Ok((0..steps).map(time).chain([-1.0]).collect())
    }

    fn flow_times(&self, choice: &Choice<'_>, schedule: Option<&str>) -> Result<Vec<f64>> {
        let (n, train) = (choice.steps, self.train_steps() as f64);
        let is_dynamic =
            self.class() == Class::FlowEuler && self.flag("use_dynamic_shifting", false);
        let shift = if is_dynamic {
            let default = DynamicShift::default();
            let line = DynamicShift {
                base_shift: self.number("base_shift", default.base_shift),
                max_shift: self.number("max_shift", default.max_shift),
                base_image_seq_len: self.count("base_image_seq_len", default.base_image_seq_len),
                max_image_seq_len: self.count("max_image_seq_len", default.max_image_seq_len),
            };
            line.shift(choice.tokens)
        } else {
            self.number("shift", 1.0)
        };
        if schedule.is_some() {
            return grid::shifted(&grid::uniform(1.0, 0.0, n)?, shift);
        }
        // The table's own last time is shifted, and then the grid made of it once more.
        let least = if is_dynamic { 1.0 / train } else { grid::shift(1.0 / train, shift) };
        let times = if n == 1 { vec![1.0] } else { grid::uniform(1.0, least, n - 1)? };
        let mut times: Vec<f64> = times.into_iter().map(|t| grid::shift(t, shift)).collect();
        times.push(0.0);
        grid::validate(&times)?;
        Ok(times)
    }

    fn walk(
        &self,
        path: &Path,
        method: &Method,
        schedule: Option<&str>,
        choice: &Choice<'_>,
    ) -> Result<(Walk, f64)> {
        let sampler = match &method.sampler {
            Sampler::Transfer { noising: Noising::Eta(0.0) } if choice.eta != 0.0 => {
                Sampler::Transfer { noising: Noising::Eta(choice.eta) }
            }
            sampler => sampler.clone(),
        };
        sampler.validate()?;
        if self.class().is_flow() {
            return Ok((Walk::Grid { sampler, times: self.flow_times(choice, schedule)? }, 1.0));
        }
        let times = match schedule {
            Some(name) => Grid::by_name(name)?.times(path, choice.steps)?,
            None => self.times(path, choice.steps)?,
        };
        let unit = 1.0;
        Ok(match self.class() {
            Class::Ddim if schedule.is_none() => (self.ddim(path, &times, choice)?, unit),
            Class::Ddpm if self.text("variance_type", "fixed_small") == "fixed_large" => {
                (Walk::Pairs(large_variance(path, times)?), unit)
            }
            Class::Pndm => (self.plms(path, &times), unit),
            Class::Lcm => (Walk::Pairs(self.lcm(path, times)?), unit),
            Class::Heun => {
                (Walk::Sigmas { sampler, times: times.clone() }, self.largest(path, &times)?)
            }
            Class::Euler | Class::EulerAncestral => {
                let initial = self.largest(path, &times)?;
                (Walk::Grid { sampler, times }, initial)
            }
            _ => (Walk::Grid { sampler, times }, unit),
        })
    }

    /// σ on grids whose first state is `σ̂·noise`, 1 where it is `√(σ̂² + 1)·noise`.
    fn largest(&self, path: &Path, times: &[f64]) -> Result<f64> {
        Ok(if self.spacing()? == Spacing::Leading { 1.0 } else { path.at(times[0]).sigma })
    }

    /// What stands before the table's first step.
    fn before(&self, path: &Path, default: bool) -> Coef {
        path.at(if self.flag("set_alpha_to_one", default) { -1.0 } else { 0.0 })
    }

    fn ddim(&self, path: &Path, times: &[f64], choice: &Choice<'_>) -> Result<Walk> {
        let (last, back) = (self.before(path, true), (self.train_steps() / choice.steps) as f64);
        let (times, end) = (&times[..choice.steps], times[choice.steps]);
        let step = |t: &f64| {
            let to = if t - back < 0.0 { last } else { path.at(t - back) };
            let from = path.at(*t);
            // A step that goes nowhere has no noise to make new.
            let noising = Noising::Eta(if from == to { 0.0 } else { choice.eta });
            Step::new(&from, &to, noising)
        };
        let steps = times.iter().map(step).collect::<Result<_>>()?;
        Ok(Walk::Pairs(walk::Pairs { times: times.to_vec(), end, steps, boundary: None }))
    }

    fn plms(&self, path: &Path, times: &[f64]) -> Walk {
        let steps = times.len() - 1;
        let mut times = times[..steps].to_vec();
        if steps > 1 {
            times.insert(1, times[1]);
        }
        let back = (self.train_steps() / steps) as f64;
        Walk::Plms(PlmsTimes { times, back, last: self.before(path, false) })
    }

    fn lcm(&self, path: &Path, mut times: Vec<f64>) -> Result<walk::Pairs> {
        let end = times.pop().unwrap_or(-1.0);
        let next = times.iter().skip(1).copied().chain([end]);
        let step = |(t, to): (&f64, f64)| Step::new(&path.at(*t), &path.at(to), Noising::Renoise);
        let steps = times.iter().zip(next).map(step).collect::<Result<_>>()?;
        let boundary = Some(self.number("timestep_scaling", 10.0));
        Ok(walk::Pairs { times, end, steps, boundary })
    }
}

/// Names of the schedules over a table.
pub const SCHEDULES: [&str; 7] =
    ["default", "leading", "trailing", "linspace", "karras", "exponential", "uniform"];

fn flow_schedules(name: &str) -> Error {
    Error::Unknown {
        what: "schedule of a flow".into(),
        expected: "default, uniform".into(),
        got: name.into(),
    }
}

/// DDPM with β for the variance of a step.
fn large_variance(path: &Path, mut times: Vec<f64>) -> Result<walk::Pairs> {
    let end = times.pop().unwrap_or(-1.0);
    let next = times.iter().skip(1).copied().chain([end]);
    let step = |(t, to): (&f64, f64)| {
        let (from, to) = (path.at(*t), path.at(to));
        let mut step = Step::new(&from, &to, Noising::Eta(1.0))?;
        if *t > 0.0 {
            step.fresh = (1.0 - (from.alpha / to.alpha).powi(2)).sqrt();
        }
        Ok(step)
    };
    let steps = times.iter().zip(next).map(step).collect::<Result<_>>()?;
    Ok(walk::Pairs { times, end, steps, boundary: None })
}

impl Plan {
    /// Steps, and states that an observer sees after the first.
    pub fn steps(&self) -> usize {
        match &self.walk {
            Walk::Grid { times, .. } | Walk::Sigmas { times, .. } => times.len() - 1,
            Walk::Pairs(pairs) => pairs.times.len(),
            Walk::Plms(plms) => plms.times.len().saturating_sub(1).max(1),
        }
    }

    /// Whether steps need fresh noise.
    pub fn is_stochastic(&self) -> bool {
        match &self.walk {
            Walk::Grid { sampler, .. } | Walk::Sigmas { sampler, .. } => sampler.is_stochastic(),
            Walk::Pairs(pairs) => pairs.steps.iter().any(|step| step.fresh > 0.0),
            Walk::Plms(_) => false,
        }
    }

    /// The plan without its first `count` times, as diffusers' pipelines slice `timesteps`.
    ///
    /// # Errors
    /// When nothing would be left.
    pub fn without_first(mut self, count: usize) -> Result<Self> {
        if count == 0 {
            return Ok(self);
        }
        let length = match &self.walk {
            Walk::Grid { times, .. } | Walk::Sigmas { times, .. } => times.len() - 1,
            Walk::Pairs(pairs) => pairs.times.len(),
            Walk::Plms(plms) => plms.times.len(),
        };
        if count >= length {
            let expected = format!("fewer than the {length} that there are");
            return Err(Error::range("steps that are left out", expected, count as f64));
        }
        match &mut self.walk {
            Walk::Grid { times, .. } | Walk::Sigmas { times, .. } => {
                times.drain(..count);
            }
            Walk::Pairs(pairs) => {
                pairs.times.drain(..count);
                pairs.steps.drain(..count);
            }
            Walk::Plms(plms) => {
                plms.times.drain(..count);
            }
        }
        Ok(self)
    }

    /// The first time.
    pub fn start(&self) -> f64 {
        let times = match &self.walk {
            Walk::Grid { times, .. } | Walk::Sigmas { times, .. } => times,
            Walk::Pairs(pairs) => &pairs.times,
            Walk::Plms(plms) => &plms.times,
        };
        times.first().copied().unwrap_or(self.path.ends().0)
    }

    /// What the network is told for the path's own time `t`.
    pub fn network_time(&self, t: f64) -> f64 {
        match self.path {
            Path::Discrete(_) if self.is_rounded => t.round_ties_even(),
            Path::Discrete(_) => t,
            _ => t * self.train_steps,
        }
    }

    /// The first state of a picture that is all noise.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn of_noise(&self, noise: &Tensor) -> Result<Tensor> {
        Ok(noise.affine(self.initial, 0.0)?)
    }

    /// The first state of a picture that begins at `data`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn of_data(&self, data: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let coef = self.path.at(self.start());
        combine(&[(coef.alpha, data), (coef.sigma, noise)])
    }

    /// Carries the first state `x` to the data.
    ///
    /// # Errors
    /// When the denoiser, a draw or the observer fails, or a number is not finite.
    pub fn run(
        &self,
        denoiser: &mut Denoiser<'_>,
        x: Tensor,
        draw: &mut Draw<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Solution> {
        match &self.walk {
            Walk::Grid { sampler, times } => {
                sampler.run(denoiser, &self.path, x, times, draw, observer)
            }
            Walk::Sigmas { sampler, times } => {
                walk::in_sigma(denoiser, &self.path, sampler, &x, times, draw, observer)
            }
            Walk::Pairs(pairs) => pairs.run(denoiser, &self.path, x, draw, observer),
            Walk::Plms(times) => plms(denoiser, &self.path, self.target, x, times, observer),
        }
    }
}
