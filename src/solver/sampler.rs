//! A sampler as plain data: what a configuration file or the command line names.
//!
//! | names | sampler |
//! |---|---|
//! | ddim, euler, flow_match_euler, dpmpp_1 | Transfer, η = 0 |
//! | ddpm, euler_ancestral, sde_dpmpp_1 | Transfer, η = 1 |
//! | lcm, flow_match_stochastic | Transfer, renoise |
//! | dpmpp_2m, dpmpp_2m_sde | Multistep2, η = 0 and 1 |
//! | heun, midpoint, rk4 | Runge–Kutta in the path's own time; heun ends with Euler |
//! | dopri5 | adaptive |
//! | euler_maruyama | SDE with w = σ |
//!
//! `euler` steps in σ/α, as all schedulers of that name do; on a straight path that is Euler in t.
//! Runge–Kutta methods of the field step in σ/α too: sample on [`Path::Edm`] with
//! [`crate::flow::denoiser::retimed`] for them.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::adaptive::{Adaptive, adaptive};
use super::grid;
use super::integrate::integrate_observed;
use super::multistep::multistep2;
use super::sde::{Diffusion, euler_maruyama};
use super::solution::{Draw, Field, Observer, Solution};
use super::tableau::{self, Tableau};
use super::transfer::{Noising, check_eta, transfer};
use crate::flow::{Denoiser, Path, denoiser::velocity};
use crate::{Error, Result};

/// Which sampler, with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Sampler {
    /// [`transfer`].
    Transfer {
        /// How much noise is new.
        #[serde(default)]
        noising: Noising,
    },
    /// [`multistep2`].
    Multistep2 {
        /// 0 is the ODE, 1 the SDE.
        #[serde(default)]
        eta: f64,
    },
    /// [`integrate_observed`] on the velocity of the path.
    RungeKutta {
        /// The method, by its name.
        #[serde(with = "by_its_name")]
        tableau: &'static Tableau,
        /// Whether the last step is Euler's, which does not look at the data end.
        #[serde(default)]
        euler_at_final: bool,
    },
    /// [`adaptive`] on the velocity of the path; the grid is where states are shown.
    Adaptive(Adaptive),
    /// [`euler_maruyama`].
    EulerMaruyama {
        /// The diffusion.
        #[serde(default)]
        diffusion: Diffusion,
    },
}

mod by_its_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Tableau;

    pub(super) fn serialize<S: Serializer>(t: &&'static Tableau, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(t.name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<&'static Tableau, D::Error> {
        Tableau::by_name(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Sampler {
    /// All names.
    pub const NAMES: [&str; 16] = [
        "ddpm",
        "ddim",
        "euler",
        "euler_ancestral",
        "flow_match_euler",
        "flow_match_stochastic",
        "dpmpp_1",
        "sde_dpmpp_1",
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "lcm",
        "heun",
        "midpoint",
        "rk4",
        "dopri5",
        "euler_maruyama",
    ];

    /// The sampler that the field calls `name`, with the usual numbers.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none; the message lists the names.
    pub fn by_name(name: &str) -> Result<Self> {
        let runge_kutta =
            |tableau, euler_at_final| Ok(Self::RungeKutta { tableau, euler_at_final });
        let eta = |eta| Ok(Self::Transfer { noising: Noising::Eta(eta) });
        match name {
            "ddim" | "euler" | "flow_match_euler" | "dpmpp_1" => eta(0.0),
            "ddpm" | "euler_ancestral" | "sde_dpmpp_1" => eta(1.0),
            "lcm" | "flow_match_stochastic" => Ok(Self::Transfer { noising: Noising::Renoise }),
            "dpmpp_2m" => Ok(Self::Multistep2 { eta: 0.0 }),
            "dpmpp_2m_sde" => Ok(Self::Multistep2 { eta: 1.0 }),
            "heun" => runge_kutta(&tableau::HEUN, true),
            "midpoint" => runge_kutta(&tableau::MIDPOINT, false),
            "rk4" => runge_kutta(&tableau::RK4, false),
            "dopri5" => Ok(Self::Adaptive(Adaptive::default())),
            "euler_maruyama" => Ok(Self::EulerMaruyama { diffusion: Diffusion::default() }),
            _ => Err(Error::Unknown {
                what: "sampler".into(),
                expected: Self::NAMES.join(", "),
                got: name.into(),
            }),
        }
    }

    /// Checks the numbers that need no path.
    ///
    /// # Errors
    /// [`Error::Range`] for the first that is outside its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Transfer { noising } => noising.validate(),
            Self::Multistep2 { eta } => check_eta(*eta),
            Self::RungeKutta { .. } => Ok(()),
            Self::Adaptive(control) => control.validate(),
            Self::EulerMaruyama { diffusion: Diffusion { scale, .. } } => {
                let fits = *scale >= 0.0 && scale.is_finite();
                let wrong = || Error::range("diffusion: scale", "a number from 0", *scale);
                if fits { Ok(()) } else { Err(wrong()) }
            }
        }
    }

    /// Evaluations of the network over `steps` steps; none where the method decides on its way.
    pub fn evaluations(&self, steps: usize) -> Option<usize> {
        match self {
            Self::RungeKutta { tableau, euler_at_final: true } if steps > 0 => {
                Some((steps - 1) * tableau.evals() + 1)
            }
            Self::RungeKutta { tableau, .. } => Some(steps * tableau.evals()),
            Self::Adaptive(_) => None,
            _ => Some(steps),
        }
    }

    /// Whether steps need fresh noise.
    pub fn is_stochastic(&self) -> bool {
        match self {
            Self::Transfer { noising } => *noising != Noising::Eta(0.0),
            Self::Multistep2 { eta } => *eta > 0.0,
            Self::EulerMaruyama { .. } => true,
            Self::RungeKutta { .. } | Self::Adaptive(_) => false,
        }
    }

    /// Carries `x` over the times of `grid`, which are times of `path`.
    ///
    /// `draw` gives the noise of stochastic samplers; `observer` sees every grid point, first the
    /// start at index 0.
    ///
    /// # Errors
    /// When the sampler's numbers or the grid are wrong, the denoiser fails, or it returns a number
    /// that is not finite: the message names the step.
    pub fn run(
        &self,
        denoiser: &mut Denoiser<'_>,
        path: &Path,
        x: Tensor,
        grid: &[f64],
        draw: &mut Draw<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Solution> {
        self.validate()?;
        path.validate()?;
        grid::validate_on(grid, path)?;
        match self {
            Self::Transfer { noising } => {
                transfer(denoiser, path, x, grid, *noising, draw, observer)
            }
            Self::Multistep2 { eta } => multistep2(denoiser, path, x, grid, *eta, draw, observer),
            Self::RungeKutta { tableau, euler_at_final } => {
                let field = &mut velocity(path, denoiser);
                if *euler_at_final {
                    with_euler_at_final(field, x, grid, tableau, observer)
                } else {
                    integrate_observed(field, x, grid, tableau, observer)
                }
            }
            Self::Adaptive(control) => {
                adaptive(&mut velocity(path, denoiser), x, grid, control, observer)
            }
            Self::EulerMaruyama { diffusion } => {
                euler_maruyama(denoiser, path, x, grid, diffusion, draw, observer)
            }
        }
    }
}

/// `tableau` up to the last time but one, and Euler's method from there.
fn with_euler_at_final(
    field: &mut Field<'_>,
    x: Tensor,
    grid: &[f64],
    tableau: &Tableau,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    let before = grid.len() - 2;
    let mut solution = match before {
        0 => {
            observer(0, grid[0], &x)?;
            Solution { x, nfe: 0, accepted: 0, rejected: 0 }
        }
        _ => integrate_observed(field, x, &grid[..=before], tableau, observer)?,
    };
    let mut show = |i: usize, t: f64, x: &Tensor| match i {
        0 => Ok(()),
        _ => observer(before + i, t, x),
    };
    let last = integrate_observed(field, solution.x, &grid[before..], &tableau::EULER, &mut show);
    let last = last.map_err(|error| match error {
        Error::NotFinite { got, step, t } => Error::NotFinite { got, step: before + step, t },
        error => error,
    })?;
    solution =
        Solution { x: last.x, nfe: solution.nfe + last.nfe, accepted: before + 1, rejected: 0 };
    Ok(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_sampler_and_samplers_are_data() {
        for name in Sampler::NAMES {
            let sampler = Sampler::by_name(name).unwrap();
            sampler.validate().unwrap();
            let ode = ["ddim", "euler", "flow_match_euler", "dpmpp_1", "dpmpp_2m", "heun"];
            let ode = ode.contains(&name) || ["midpoint", "rk4", "dopri5"].contains(&name);
            assert_eq!(sampler.is_stochastic(), !ode, "{name}");
            let text = serde_json::to_string(&sampler).unwrap();
            assert_eq!(serde_json::from_str::<Sampler>(&text).unwrap(), sampler, "{text}");
        }
        let read = |text| serde_json::from_str::<Sampler>(text);
        let heun = read(r#"{"runge_kutta":{"tableau":"heun","euler_at_final":true}}"#).unwrap();
        assert_eq!(heun, Sampler::by_name("heun").unwrap());
        assert_eq!(
            read(r#"{"transfer":{"noising":{"eta":0.3}}}"#).unwrap(),
            Sampler::Transfer { noising: Noising::Eta(0.3) }
        );
        for (wrong, named) in [
            (r#"{"runge_kutta":{"tableau":"rk5"}}"#, "midpoint"),
            (r#"{"multistep2":{"order":3}}"#, "order"),
            (r#"{"adaptive":{"tol":3}}"#, "tol"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let error = Sampler::by_name("plms").unwrap_err().to_string();
        assert!(error.contains("dpmpp_2m_sde") && error.contains("\"plms\""), "{error}");
        assert!(Sampler::Multistep2 { eta: 1.5 }.validate().is_err());
        assert_eq!(heun.evaluations(4), Some(7));
        assert_eq!(Sampler::by_name("rk4").unwrap().evaluations(4), Some(16));
        assert_eq!(Sampler::by_name("dopri5").unwrap().evaluations(4), None);
    }
}
