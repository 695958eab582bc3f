//! Walks that the core's samplers do not have: steps that do not follow each other, and σ/α for time.

use candle_core::Tensor;

use crate::Result;
use crate::flow::combine::combine;
use crate::flow::denoiser::retimed;
use crate::flow::{Denoiser, Estimate, Path};
use crate::solver::solution::walk;
use crate::solver::transfer::Step;
use crate::solver::{Draw, Observer, Sampler, Solution};

/// First-order steps, each from its own time; the next need not begin where the last one ended.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    pub(super) times: Vec<f64>,
    /// What the observer is told of the last state.
    pub(super) end: f64,
    pub(super) steps: Vec<Step>,
    /// A consistency model's scale of times: its data are `c_out·data + c_skip·x`, which is x at 0.
    /// Source: Luo et al. 2023 (LCM), section 4; diffusers takes 0.5 for the deviation of the data.
    pub(super) boundary: Option<f64>,
}

impl Pairs {
    pub(super) fn run(
        &self,
        denoiser: &mut Denoiser<'_>,
        path: &Path,
        x: Tensor,
        draw: &mut Draw<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Solution> {
        path.validate()?;
        let grid: Vec<f64> = self.times.iter().copied().chain([self.end]).collect();
        walk(x, &grid, observer, &mut |i, x| {
            let Estimate { data, noise } = denoiser(x, grid[i])?;
            let data = match self.boundary {
                None => data,
                Some(scale) => {
                    let (t, deviation) = (grid[i] * scale, 0.5);
                    let size = t.hypot(deviation);
                    combine(&[(t / size, &data), ((deviation / size).powi(2), x)])?
                }
            };
            let z = if self.steps[i].fresh > 0.0 { Some(draw(i, x)?) } else { None };
            self.steps[i].apply(&Estimate { data, noise }, z.as_ref())
        })
    }
}

/// A sampler on the states `x/α` over the times `σ/α`, where data have weight 1: Karras et al. 2022.
pub(super) fn in_sigma(
    denoiser: &mut Denoiser<'_>,
    path: &Path,
    sampler: &Sampler,
    x: &Tensor,
    times: &[f64],
    draw: &mut Draw<'_>,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    let sigmas: Vec<f64> = times.iter().map(|t| path.at(*t).sigma_hat()).collect();
    let edm = Path::Edm { sigma_max: sigmas[0] };
    let x = x.affine(1.0 / path.at(times[0]).alpha, 0.0)?;
    let mut show = |i: usize, _: f64, x: &Tensor| {
        let t = times[i.min(times.len() - 1)];
        observer(i, t, &x.affine(path.at(t).alpha, 0.0)?)
    };
    sampler.run(&mut retimed(path, &edm, denoiser), &edm, x, &sigmas, draw, &mut show)
}
