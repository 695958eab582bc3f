//! Sampling methods by name: the core's names, those of stable-diffusion.cpp, and PLMS.
//!
//! Over a table a method is a diffusers class with the folder's keys, or one of the core's own samplers
//! in σ/α; on a flow it is the core's sampler on the flow's grid.

use super::scheduler::{Class, Scheduler};
use crate::solver::Sampler;
use crate::{Error, Result};

/// A chosen method.
pub(super) struct Method {
    /// Its name.
    pub(super) name: &'static str,
    /// What walks the grid, where a grid is walked.
    pub(super) sampler: Sampler,
}

/// The names of the sampling methods.
pub fn names() -> Vec<&'static str> {
    let mut names = Sampler::NAMES.to_vec();
    names.push("plms");
    names
}

/// The project's name of a method that others call otherwise: stable-diffusion.cpp, diffusers' classes.
fn common(name: &str) -> &str {
    match name {
        "euler_a" => "euler_ancestral",
        "dpm++2m" | "dpmpp2m" => "dpmpp_2m",
        "dpm++2m_sde" | "dpmpp2m_sde" => "dpmpp_2m_sde",
        "pndm" => "plms",
        name => name,
    }
}

impl Method {
    /// The scheduler to sample with, and the method; the folder's own without a name.
    pub(super) fn choose(folder: &Scheduler, name: Option<&str>) -> Result<(Scheduler, Self)> {
        let Some(given) = name.filter(|name| *name != "default") else {
            let name = own(folder);
            return Ok((folder.clone(), Self::new(name)?));
        };
        let given = common(given);
        let Some(name) = names().into_iter().find(|known| *known == given) else {
            return Err(Error::Unknown {
                what: "sampling method".into(),
                expected: names().join(", "),
                got: given.into(),
            });
        };
        let method = Self::new(name)?;
        if folder.class().is_flow() {
            return match name {
                "plms" => Err(Error::Invalid(format!(
                    "sampling method plms: expected a folder with a table of training steps, got a flow \
                     ({}); take euler, heun or dpmpp_2m",
                    folder.class().name()
                ))),
                _ => Ok((folder.clone(), method)),
            };
        }
        let like = |class: Class| Ok(folder.as_class(class));
        let dpm = |algorithm: &str, order: u64| {
            Ok(folder
                .as_class(Class::DpmSolver)
                .with("algorithm_type", algorithm)
                .with("solver_order", order))
        };
        let scheduler = match name {
            "ddpm" => like(Class::Ddpm),
            "ddim" => like(Class::Ddim),
            "plms" => Ok(folder.as_class(Class::Pndm).with("skip_prk_steps", true)),
            "euler" | "euler_maruyama" => like(Class::Euler),
            "euler_ancestral" => like(Class::EulerAncestral),
            "heun" | "midpoint" | "rk4" | "dopri5" => like(Class::Heun),
            "dpmpp_2m" => dpm("dpmsolver++", 2),
            "dpmpp_2m_sde" => dpm("sde-dpmsolver++", 2),
            "dpmpp_1" => dpm("dpmsolver++", 1),
            "sde_dpmpp_1" => dpm("sde-dpmsolver++", 1),
            "lcm" => like(Class::Lcm),
            _ => Err(Error::Invalid(format!(
                "sampling method {name}: expected a folder with a flow's scheduler, got {}; take euler, \
                 heun or dpmpp_2m",
                folder.class().name()
            ))),
        }?;
        // The keys again: the other class may know one with a value that it does not support.
        scheduler.check()?;
        Ok((scheduler, method))
    }

    fn new(name: &'static str) -> Result<Self> {
        // PLMS and LCM walk by themselves.
        let sampler = Sampler::by_name(if name == "plms" { "ddim" } else { name })?;
        Ok(Self { name, sampler })
    }
}

/// The method of a folder's own class.
fn own(folder: &Scheduler) -> &'static str {
    match folder.class() {
        Class::Ddpm => "ddpm",
        Class::Ddim => "ddim",
        Class::Pndm => "plms",
        Class::Euler => "euler",
        Class::EulerAncestral => "euler_ancestral",
        Class::Heun | Class::FlowHeun => "heun",
        Class::Lcm => "lcm",
        Class::FlowEuler if folder.flag("stochastic_sampling", false) => "flow_match_stochastic",
        Class::FlowEuler => "flow_match_euler",
        Class::DpmSolver => {
            let is_sde = folder.text("algorithm_type", "dpmsolver++").starts_with("sde");
            match (is_sde, folder.count("solver_order", 2)) {
                (false, 1) => "dpmpp_1",
                (true, 1) => "sde_dpmpp_1",
                (false, _) => "dpmpp_2m",
                (true, _) => "dpmpp_2m_sde",
            }
        }
    }
}
