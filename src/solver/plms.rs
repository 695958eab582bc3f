//! PLMS: a linear multistep method over what the network emits, the pseudo linear multistep of Liu et
//! al. 2022 as Stable Diffusion runs it (diffusers' PNDMScheduler with `skip_prk_steps`).
//!
//! ```text
//! o = output at (x, t);   ô = o | (o + o₁)/2 | (3o − o₁)/2 | (23o − 16o₁ + 5o₂)/12 | (55o − 59o₁ + 37o₂ − 9o₃)/24
//! x ← DDIM from t to t − back with ô for the network's output
//! ```
//!
//! o₁, o₂, o₃ are the outputs before. The second evaluation repeats the first step: it asks at its end,
//! and goes again from its beginning with the mean of both. So there is one evaluation more than steps,
//! and the second time stands twice. Which formula is used depends on the number of the evaluation alone:
//! where a start is left out (img2img), theirs goes on with times that do not fit, and so does this.

use candle_core::Tensor;

use super::solution::{Observer, Solution, check_finite};
use super::transfer::{Noising, step};
use crate::flow::combine::combine;
use crate::flow::{Coef, Denoiser, Estimate, Path, Target};
use crate::{Error, Result};

/// Where the steps of [`plms`] are.
#[derive(Clone, Debug)]
pub struct PlmsTimes {
    /// A time for each evaluation, the second one twice.
    pub times: Vec<f64>,
    /// How far back a step goes.
    pub back: f64,
    /// What stands before the path's first time.
    pub last: Coef,
}

/// Carries `x` over `times`; `target` is what the network emits. The observer sees one state a step.
///
/// # Errors
/// When there are no times, the denoiser fails or returns a number that is not finite.
pub fn plms(
    denoiser: &mut Denoiser<'_>,
    path: &Path,
    target: Target,
    x: Tensor,
    PlmsTimes { times, back, last }: &PlmsTimes,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    let Some(&first) = times.first() else {
        return Err(Error::Grid { expected: "at least one time".into(), got: "none".into() });
    };
    let coef = |t: f64| if t < 0.0 { *last } else { path.at(t) };
    observer(0, first, &x)?;
    let (mut x, mut kept) = (x.clone(), x);
    let mut outputs: Vec<Tensor> = Vec::new();
    for (i, &t) in times.iter().enumerate() {
        let output = denoiser(&x, t)?.output(target, &path.at(t))?;
        let (from, to) = if i == 1 { (t + back, t) } else { (t, t - back) };
        let joined = match (i, outputs.as_slice()) {
            (0, _) => output.clone(),
            (1, [first, ..]) => combine(&[(0.5, &output), (0.5, first)])?,
            (_, [a]) => combine(&[(1.5, &output), (-0.5, a)])?,
            (_, [b, a]) => combine(&[(23.0 / 12.0, &output), (-16.0 / 12.0, a), (5.0 / 12.0, b)])?,
            (_, [.., c, b, a]) => combine(&[
                (55.0 / 24.0, &output),
                (-59.0 / 24.0, a),
                (37.0 / 24.0, b),
                (-9.0 / 24.0, c),
            ])?,
            (_, []) => output.clone(),
        };
        if i != 1 {
            outputs.push(output);
        }
        let sample = if i == 1 { &kept } else { &x };
        let estimate = Estimate::from_output(target, &coef(from), sample, &joined)?;
        let next = step(&coef(from), &coef(to), Noising::Eta(0.0), &estimate, None)?;
        if i == 0 {
            kept = x;
        }
        x = next;
        check_finite(&x, i, t)?;
        if i > 0 || times.len() == 1 {
            observer(i.max(1), to, &x)?;
        }
    }
    let steps = times.len().saturating_sub(1).max(1);
    Ok(Solution { x, nfe: times.len(), accepted: steps, rejected: 0 })
}
