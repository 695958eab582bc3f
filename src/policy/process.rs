//! How noise becomes a chunk: what a network predicts along which path, and how that is walked.
//!
//! Flow and diffusion are one thing with other values:
//!
//! | | path | the network predicts | samplers | grid |
//! |---|---|---|---|---|
//! | flow | straight, cosine, … | velocity | Runge–Kutta tableaux, `ddim`, `dpmpp_2m` | uniform |
//! | diffusion | a table of betas | epsilon, sample, … | `ddpm`, `ddim`, `dpmpp_2m` | `leading` |
//!
//! The grid of a table is diffusers' `timestep_spacing: leading`, which LeRobot keeps, and clipping is
//! as the schedulers have it: DDIM keeps the noise that the network named, DDPM makes it anew.
//! Source: diffusers `schedulers/scheduling_{ddpm,ddim}.py`; LeRobot
//! `policies/diffusion/modeling_diffusion.py`.

use candle_core::Tensor;

use super::config::MAX_STEPS;
use crate::flow::clip::{Limit, Residue, limited};
use crate::flow::denoiser::velocity;
use crate::flow::known::{Times, TokenDenoiser};
use crate::flow::{Denoiser, Estimate, Known, Path, Target};
use crate::solver::{self, Draw, Noising, Observer, Sampler, Solution, Tableau, spacing, tableau};
use crate::{Error, Result};

/// The values.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// From noise to data.
    pub path: Path,
    /// What the network emits.
    pub target: Target,
    /// What the network's time embedding sees is this factor times the path's own time.
    pub time_scale: f64,
    /// Limit of the data estimate, where a table is walked.
    pub limit: Option<Limit>,
}

/// How to integrate: the checkpoint's choice unless the user names another.
#[derive(Clone, Debug)]
pub struct Solver {
    /// Name of the method; `direct` for a policy that needs none.
    pub name: String,
    /// The method; none for a policy that answers in one evaluation.
    pub sampler: Option<Sampler>,
    /// Steps from noise to data.
    pub steps: usize,
}

impl Solver {
    /// For a policy without noise: one evaluation and nothing to choose.
    ///
    /// # Errors
    /// When the user named a method or more than one step.
    pub fn direct(name: Option<&str>, steps: Option<usize>) -> Result<Self> {
        match (name, steps) {
            (None | Some("direct"), None | Some(1)) => {
                Ok(Self { name: "direct".into(), sampler: None, steps: 1 })
            }
            _ => Err(Error::Invalid(
                "solver: this policy answers in one evaluation; expected neither --solver nor \
                 --steps"
                    .into(),
            )),
        }
    }

    /// Network evaluations a chunk.
    pub fn evaluations(&self) -> usize {
        let evaluations = self.sampler.as_ref().and_then(|s| s.evaluations(self.steps));
        evaluations.unwrap_or(self.steps)
    }

    /// Whether every step needs noise of its own.
    pub fn is_stochastic(&self) -> bool {
        self.sampler.as_ref().is_some_and(Sampler::is_stochastic)
    }
}

impl Process {
    /// The method called `name`, which needs the same number of evaluations whatever the chunk.
    ///
    /// # Errors
    /// When there is no such method on this path, or steps are out of range.
    pub fn solver(&self, name: &str, steps: usize) -> Result<Solver> {
        let table = self.table();
        let names: Vec<&str> = match table {
            Some(_) => vec!["ddpm", "ddim", "dpmpp_2m"],
            None => tableau::ALL.iter().map(|t| t.name).chain(["ddim", "dpmpp_2m"]).collect(),
        };
        if !names.contains(&name) {
            let expected = names.join(", ");
            return Err(Error::Unknown { what: "solver".into(), expected, got: name.into() });
        }
        let sampler = match Tableau::by_name(name) {
            Ok(tableau) => Sampler::RungeKutta { tableau, euler_at_final: false },
            Err(_) => Sampler::by_name(name)?,
        };
        let most = table.map_or(MAX_STEPS, |table| table.min(MAX_STEPS));
        if !(1..=most).contains(&steps) {
            return Err(Error::range("steps", format!("1 to {most}"), steps as f64));
        }
        self.path.validate()?;
        Ok(Solver { name: name.into(), sampler: Some(sampler), steps })
    }

    /// Training steps of the table, if the path is one.
    fn table(&self) -> Option<usize> {
        match &self.path {
            Path::Discrete(table) => Some(table.steps()),
            _ => None,
        }
    }

    /// The times from noise to data, `steps + 1` of them.
    fn grid(&self, steps: usize) -> Result<Vec<f64>> {
        match self.table() {
            Some(n) => {
                spacing::spaced(spacing::Spacing::Leading, spacing::Family::Ddpm, n, steps, 0)
            }
            None => {
                let (from, to) = self.path.ends();
                solver::grid::uniform(from, to, steps)
            }
        }
    }

    /// Carries `x` to the data. `network(x, t)` gets the path's own time; `draw` gives the noise of
    /// stochastic steps; `observe` sees every grid point.
    ///
    /// # Errors
    /// When the network fails or returns what is not finite.
    pub fn run(
        &self,
        solver: &Solver,
        x: Tensor,
        network: &mut dyn FnMut(&Tensor, f64) -> Result<Tensor>,
        draw: &mut Draw<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<Solution> {
        let mut network = |x: &Tensor, times: &Times| network(x, times.t);
        self.run_steered(solver, x, &mut network, &Steer::Free, draw, observe)
    }

    /// As [`Process::run`], held to something known; the network may be told times of rows.
    ///
    /// # Errors
    /// As [`Process::run`]; when the method cannot be steered so.
    pub fn run_steered(
        &self,
        solver: &Solver,
        x: Tensor,
        network: &mut RowNetwork<'_>,
        steer: &Steer,
        draw: &mut Draw<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<Solution> {
        let grid = self.grid(solver.steps)?;
        let Some(sampler) = &solver.sampler else {
            return Err(Error::Invalid("solver: expected a method, got none".into()));
        };
        let residue = match sampler {
            Sampler::Transfer { noising } if *noising == Noising::Eta(0.0) => Residue::Kept,
            _ => Residue::Recomputed,
        };
        let mut of_rows = |x: &Tensor, times: &Times| {
            let output = network(x, times)?;
            Estimate::from_output(self.target, &self.path.at(times.t), x, &output)
        };
        match (sampler, steer) {
            // The field is what the network emits: no detour over data and noise.
            (Sampler::RungeKutta { tableau, .. }, Steer::Free)
                if self.target == Target::Velocity =>
            {
                let mut field = |x: &Tensor, t: f64| network(x, &Times { t, tokens: None });
                solver::integrate_observed(&mut field, x, &grid, tableau, observe)
            }
            (Sampler::RungeKutta { tableau, .. }, Steer::Ramp { speed, known, value }) => {
                let x =
                    (x.broadcast_mul(&known.affine(-1.0, 1.0)?)? + value.broadcast_mul(known)?)?;
                let mut plain = |x: &Tensor, t: f64| of_rows(x, &Times { t, tokens: None });
                let mut field = velocity(&self.path, &mut plain);
                let mut ramped = |x: &Tensor, t: f64| Ok(field(x, t)?.broadcast_mul(speed)?);
                solver::integrate_observed(&mut ramped, x, &grid, tableau, observe)
            }
            (_, Steer::Ramp { .. }) => Err(Error::Invalid(format!(
                "overlap: expected a method that follows a velocity (euler, heun, …), got {}; \
                 rtc_identity joins the chunks of any method",
                solver.name
            ))),
            (sampler, Steer::Known(known)) => {
                let x = known.hold(&self.path, &x, grid[0])?;
                self.known(sampler, known, x, &mut of_rows, residue, &grid, draw, observe)
            }
            (sampler, Steer::Free) => {
                let mut plain = |x: &Tensor, t: f64| of_rows(x, &Times { t, tokens: None });
                self.clipped(&mut plain, residue, &mut |denoiser| {
                    sampler.run(denoiser, &self.path, x.clone(), &grid, draw, observe)
                })
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one sampling run, taken apart")]
    fn known(
        &self,
        sampler: &Sampler,
        known: &Known,
        x: Tensor,
        of_rows: &mut TokenDenoiser<'_>,
        residue: Residue,
        grid: &[f64],
        draw: &mut Draw<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<Solution> {
        if known.is_clean() {
            let mut held = known.token_denoiser(&self.path, of_rows);
            return sampler.run(&mut held, &self.path, x, grid, draw, observe);
        }
        let mut plain = |x: &Tensor, t: f64| of_rows(x, &Times { t, tokens: None });
        self.clipped(&mut plain, residue, &mut |denoiser| {
            let mut held = known.denoiser(&self.path, denoiser)?;
            sampler.run(&mut held, &self.path, x.clone(), grid, draw, observe)
        })
    }

    /// Hands on the denoiser with its data estimate limited, where the process limits it.
    fn clipped(
        &self,
        plain: &mut Denoiser<'_>,
        residue: Residue,
        then: &mut dyn FnMut(&mut Denoiser<'_>) -> Result<Solution>,
    ) -> Result<Solution> {
        match self.limit {
            Some(limit) => then(&mut limited(&self.path, limit, residue, plain)?),
            None => then(plain),
        }
    }
}

/// A network that may be told the times of rows: `(x_t, times)` to what it emits.
pub type RowNetwork<'a> = dyn FnMut(&Tensor, &Times) -> Result<Tensor> + 'a;

/// What holds a sample while it is made.
#[derive(Clone, Debug)]
pub enum Steer {
    /// Nothing.
    Free,
    /// A known part.
    Known(Known),
    /// Begun at known values; the velocity is weighed by row.
    Ramp {
        /// Factor of the velocity, `[b, h, 1]`.
        speed: Tensor,
        /// 1 where the chunk begins at the value, else 0.
        known: Tensor,
        /// The values, `[b, h, d]`.
        value: Tensor,
    },
}

impl Steer {
    /// A ramp for rows that are held as firmly as `mask` `[b, h, 1]` says: begun at `value` where it is
    /// above 0, moved by `1 − mask`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn ramp(mask: &Tensor, value: Tensor) -> Result<Self> {
        let known = mask.gt(0.0)?.to_dtype(mask.dtype())?;
        Ok(Self::Ramp { speed: mask.affine(-1.0, 1.0)?, known, value })
    }
}
