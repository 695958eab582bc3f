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
use crate::flow::denoiser::denoiser;
use crate::flow::{Denoiser, Path, Target};
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
        let grid = self.grid(solver.steps)?;
        let Some(sampler) = &solver.sampler else {
            return Err(Error::Invalid("solver: expected a method, got none".into()));
        };
        match sampler {
            // The field is what the network emits: no detour over data and noise.
            Sampler::RungeKutta { tableau, .. } if self.target == Target::Velocity => {
                solver::integrate_observed(network, x, &grid, tableau, observe)
            }
            sampler => {
                let mut plain = denoiser(&self.path, self.target, network);
                let residue = match sampler {
                    Sampler::Transfer { noising } if *noising == Noising::Eta(0.0) => Residue::Kept,
                    _ => Residue::Recomputed,
                };
                let mut clipped;
                let denoiser: &mut Denoiser<'_> = match self.limit {
                    Some(limit) => {
                        clipped = limited(&self.path, limit, residue, &mut plain)?;
                        &mut clipped
                    }
                    None => &mut plain,
                };
                sampler.run(denoiser, &self.path, x, &grid, draw, observe)
            }
        }
    }
}
