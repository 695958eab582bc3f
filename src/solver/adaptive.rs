//! Dormand–Prince 5(4) with steps of its own choice, and states at any times between.
//!
//! A step of size h is accepted where the error is at most 1; the next one is h times the factor:
//!
//! ```text
//! error = rms(e / (atol + rtol·max(|y₀|, |y₁|)))
//! factor = safety · error^(−(p+i+d)/5) · error₋^((p+2d)/5) · error₋₋^(−d/5)
//! ```
//!
//! with the errors of the accepted steps before, within `min_factor … max_factor`, not below 1 after
//! an accepted step and not above `safety` after a rejected one. `[p, i, d] = [0, 1, 0]` is
//! torchdiffeq's control. The last stage of a step is the first of the next, so a solution costs
//! 2 + 6·(accepted + rejected) evaluations: one at the start and one to guess the first step.
//!
//! **The rms runs over the whole tensor.** Step sizes, and so results, depend on what else is in the
//! batch, within the tolerance; integrate one sample at a time where that matters.
//!
//! Sources: Dormand and Prince 1980; Hairer, Nørsett, Wanner I, section II.4 (control and first
//! step); Söderlind 2003 (PID); Shampine 1986 (interpolation of order 4). Unlike torchdiffeq no step
//! looks beyond the last time: the path may end there.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::grid;
use super::solution::{Field, Observer, Solution, check_finite};
use super::tableau::{DOPRI5, Embedded, Tableau};
use crate::flow::combine::combine;
use crate::{Error, Result};

/// Tolerances and the step control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive {
    /// Error allowed per step, relative to the state.
    pub rtol: f64,
    /// Error allowed per step, absolute.
    pub atol: f64,
    /// Exponents p, i and d of the controller.
    pub pid: [f64; 3],
    /// Steps are this much smaller than the error alone asks for.
    pub safety: f64,
    /// The most a step shrinks.
    pub min_factor: f64,
    /// The most a step grows.
    pub max_factor: f64,
    /// Size of the first step in the path's own time; guessed if absent.
    pub first_step: Option<f64>,
    /// Steps, accepted or not, after which to give up.
    pub max_steps: usize,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            rtol: 1e-5,
            atol: 1e-5,
            pid: [0.0, 1.0, 0.0],
            safety: 0.9,
            min_factor: 0.2,
            max_factor: 10.0,
            first_step: None,
            max_steps: 10_000,
        }
    }
}

impl Adaptive {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Range`] for the first that no control can work with.
    pub fn validate(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let first = self.first_step.unwrap_or(1.0);
        for (what, expected, got, fits) in [
            ("rtol", "a number from 0", self.rtol, self.rtol >= 0.0 && self.rtol.is_finite()),
            ("atol", "a number above 0", self.atol, positive(self.atol)),
            ("safety", "above 0, below 1", self.safety, self.safety > 0.0 && self.safety < 1.0),
            (
                "min_factor",
                "above 0 up to 1",
                self.min_factor,
                (1e-9..=1.0).contains(&self.min_factor),
            ),
            ("max_factor", "a number above 1", self.max_factor, self.max_factor > 1.0),
            ("first_step", "a number above 0", first, positive(first)),
        ] {
            if !fits {
                return Err(Error::range(format!("adaptive: {what}"), expected, got));
            }
        }
        match self.pid.iter().find(|k| !k.is_finite()) {
            Some(k) => Err(Error::range("adaptive: pid", "three finite numbers", *k)),
            None => Ok(()),
        }
    }

    /// The factor for the next step, from the error of this one and of the two accepted before.
    fn factor(&self, error: f64, before: [f64; 2]) -> f64 {
        let ([p, i, d], order) = (self.pid, f64::from(DOPRI5.order));
        let factor = self.safety
            * error.powf(-(p + i + d) / order)
            * before[0].powf((p + 2.0 * d) / order)
            * before[1].powf(-d / order);
        if error <= 1.0 {
            // Also where the error is 0 and the factor infinite.
            factor.clamp(1.0, self.max_factor)
        } else {
            factor.clamp(self.min_factor, self.safety.max(self.min_factor))
        }
    }
}

/// Carries `x` along `field` from the first to the last of `times`, and shows it to `observer` at
/// all of them; between the two ends the states are interpolated.
///
/// # Errors
/// When the times are not a grid, a number of `control` is out of range, the field fails or returns
/// a number that is not finite (the message names the attempted step), the steps grow too small for
/// the time to move, or `max_steps` are not enough.
pub fn adaptive(
    field: &mut Field<'_>,
    x: Tensor,
    times: &[f64],
    control: &Adaptive,
    observer: &mut Observer<'_>,
) -> Result<Solution> {
    control.validate()?;
    grid::validate(times)?;
    let Some(embedded) = &DOPRI5.embedded else {
        return Err(Error::Invalid("dopri5: expected an error estimate, got none".into()));
    };
    let (mut t, end) = (times[0], times[times.len() - 1]);
    let direction = (end - t).signum();
    let (mut y, mut accepted, mut rejected, mut shown) = (x, 0, 0, 1);
    observer(0, t, &y)?;
    let mut first = field(&y, t)?;
    check_finite(&first, 0, t)?;
    let mut h = match control.first_step {
        Some(h) => h,
        None => first_step(field, &y, &first, (t, end), control)?,
    };
    let mut nfe = 1 + usize::from(control.first_step.is_none());
    let mut before = [1.0, 1.0];
    while shown < times.len() {
        let attempt = accepted + rejected;
        if attempt >= control.max_steps {
            let expected = format!("the end ({end}) within; loosen the tolerances, or allow more");
            let what = format!("adaptive: {attempt} steps");
            return Err(Error::range(what, expected, t));
        }
        let next = if h < (end - t).abs() { t + direction * h } else { end };
        if next == t {
            let expected = "steps that move the time; the field is too steep for the tolerance";
            return Err(Error::range(format!("adaptive: step size at t = {t}"), expected, h));
        }
        let step = attempt_step(field, &y, first.clone(), (t, next), attempt)?;
        nfe += DOPRI5.evals();
        let error = step.error(embedded, &y, control)?;
        let factor = control.factor(error, before);
        if error <= 1.0 {
            accepted += 1;
            while shown < times.len() && (next - times[shown]) * direction >= 0.0 {
                let at = times[shown];
                let state = if at == next { step.to.clone() } else { step.at(at, embedded, &y)? };
                observer(shown, at, &state)?;
                shown += 1;
            }
            before = [error.max(1e-10), before[0]];
            first = step.stages[DOPRI5.evals()].clone();
            (t, y) = (next, step.to);
        } else {
            rejected += 1;
        }
        h = step.size.abs() * factor;
    }
    Ok(Solution { x: y, nfe, accepted, rejected })
}

/// A step that was tried: its stages, the last of which is the field at the new state.
struct Attempt {
    from: f64,
    size: f64,
    stages: Vec<Tensor>,
    to: Tensor,
}

fn attempt_step(
    field: &mut Field<'_>,
    y: &Tensor,
    first: Tensor,
    (from, next): (f64, f64),
    attempt: usize,
) -> Result<Attempt> {
    let Tableau { a, b, c, .. } = DOPRI5;
    let size = next - from;
    let state = |weights: &[f64], stages: &[Tensor]| sum(y, 1.0, size, weights, stages);
    let mut stages = vec![first];
    for (row, c) in a.iter().zip(c).skip(1) {
        let at = from * (1.0 - c) + next * c;
        let slope = field(&state(row, &stages)?, at)?;
        check_finite(&slope, attempt, at)?;
        stages.push(slope);
    }
    let to = state(b, &stages)?;
    let slope = field(&to, next)?;
    check_finite(&slope, attempt, next)?;
    stages.push(slope);
    Ok(Attempt { from, size, stages, to })
}

impl Attempt {
    /// The rms of the error over what is allowed.
    fn error(&self, embedded: &Embedded, y: &Tensor, control: &Adaptive) -> Result<f64> {
        let error = sum(y, 0.0, self.size, embedded.error, &self.stages)?;
        let largest = y.abs()?.maximum(&self.to.abs()?)?;
        rms(&(error / largest.affine(control.rtol, control.atol)?)?)
    }

    /// The state at a time in the step: the quartic through both states, both slopes and the middle.
    fn at(&self, t: f64, embedded: &Embedded, y: &Tensor) -> Result<Tensor> {
        let x = (t - self.from) / self.size;
        let powers = |a: f64, b: f64, c: f64, d: f64| x * (a + x * (b + x * (c + x * d)));
        let middle = powers(0.0, 16.0, -32.0, 16.0);
        let mut weights: Vec<f64> = embedded.mid.iter().map(|w| w * middle).collect();
        weights[0] += powers(1.0, -4.0, 5.0, -2.0);
        weights[DOPRI5.evals()] += powers(0.0, 1.0, -3.0, 2.0);
        let state = sum(y, 1.0 + powers(0.0, 5.0, -14.0, 8.0), self.size, &weights, &self.stages)?;
        combine(&[(1.0, &state), (powers(0.0, -5.0, 14.0, -8.0), &self.to)])
    }
}

/// `of_y·y + h·Σ w_i·k_i`.
fn sum(y: &Tensor, of_y: f64, h: f64, weights: &[f64], stages: &[Tensor]) -> Result<Tensor> {
    let stages = weights.iter().zip(stages).map(|(w, stage)| (h * w, stage));
    combine(&[(of_y, y)].into_iter().chain(stages).collect::<Vec<_>>())
}

fn rms(x: &Tensor) -> Result<f64> {
    Ok(x.sqr()?.mean_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt())
}

/// The guess of Hairer, Nørsett and Wanner, which evaluates the field once more.
fn first_step(
    field: &mut Field<'_>,
    y: &Tensor,
    slope: &Tensor,
    (from, end): (f64, f64),
    control: &Adaptive,
) -> Result<f64> {
    let scale = y.abs()?.affine(control.rtol, control.atol)?;
    let norm = |x: &Tensor| rms(&(x / &scale)?);
    let (d0, d1) = (norm(y)?, norm(slope)?);
    let guess = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 };
    let guess = guess.min((end - from).abs());
    let signed = guess * (end - from).signum();
    let there = field(&combine(&[(1.0, y), (signed, slope)])?, from + signed)?;
    check_finite(&there, 0, from + signed)?;
    let d2 = norm(&(there - slope)?)? / guess;
    let steepest = d1.max(d2);
    let h = if steepest <= 1e-15 {
        (guess * 1e-3).max(1e-6)
    } else {
        (0.01 / steepest).powf(1.0 / f64::from(DOPRI5.order))
    };
    Ok(h.min(100.0 * guess))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn row(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn quiet(_: usize, _: f64, _: &Tensor) -> Result<()> {
        Ok(())
    }

    #[test]
    fn the_solution_and_the_states_between_keep_the_tolerance() {
        // A pendulum's small swing, y'' = −y, forwards and backwards.
        let mut swing = |x: &Tensor, _: f64| {
            let v = x.to_vec1::<f64>()?;
            Ok(row(&[v[1], -v[0]]))
        };
        for end in [7.0, -7.0] {
            let times: Vec<f64> = (0..=20).map(|i| end * f64::from(i) / 20.0).collect();
            for tolerance in [1e-4, 1e-7, 1e-10] {
                let control = Adaptive { rtol: tolerance, atol: tolerance, ..Default::default() };
                let (mut seen, mut worst) = (0, 0f64);
                let mut show = |i: usize, t: f64, x: &Tensor| {
                    assert_eq!((i, t), (seen, times[i]));
                    seen += 1;
                    let v = x.to_vec1::<f64>()?;
                    worst = worst.max((v[0] - t.cos()).abs()).max((v[1] + t.sin()).abs());
                    Ok(())
                };
                let x = row(&[1.0, 0.0]);
                let solution = adaptive(&mut swing, x, &times, &control, &mut show).unwrap();
                assert_eq!(seen, times.len());
                assert_eq!(solution.nfe, 2 + 6 * (solution.accepted + solution.rejected));
                assert!(worst < 20.0 * tolerance, "{end} {tolerance}: {worst}");
            }
        }
    }

    #[test]
    fn other_controllers_reach_the_same_solution() {
        let mut field = |x: &Tensor, t: f64| Ok((x * (-10.0 * (5.0 * t).sin()))?);
        for pid in [[0.0, 1.0, 0.0], [0.4, 0.3, 0.0], [0.1, 0.3, 0.0], [0.2, 0.4, 0.1]] {
            let control = Adaptive { rtol: 1e-8, atol: 1e-8, pid, ..Default::default() };
            let solution =
                adaptive(&mut field, row(&[1.0]), &[0.0, 3.0], &control, &mut quiet).unwrap();
            let exact = (2.0 * (15f64.cos() - 1.0)).exp();
            let got = solution.x.to_vec1::<f64>().unwrap()[0];
            println!("{pid:?}: {} accepted, {} rejected", solution.accepted, solution.rejected);
            assert!((got - exact).abs() < 1e-6, "{pid:?}: {got} {exact}");
        }
    }

    #[test]
    fn what_cannot_be_solved_is_an_error() {
        let mut field = |x: &Tensor, _: f64| Ok(x.sqr()?);
        let mut run = |times: &[f64], control: Adaptive| {
            adaptive(&mut field, row(&[1.0]), times, &control, &mut quiet)
        };
        // y' = y² from 1 is infinite at t = 1.
        let blow_up = run(&[0.0, 2.0], Adaptive { max_steps: 2000, ..Default::default() });
        let error = blow_up.unwrap_err();
        assert!(matches!(error, Error::Range { .. } | Error::NotFinite { .. }), "{error}");
        let error = run(&[0.0, 0.9], Adaptive { max_steps: 3, ..Default::default() });
        assert!(error.unwrap_err().to_string().contains("3 steps"));
        for wrong in [
            Adaptive { atol: 0.0, ..Default::default() },
            Adaptive { rtol: f64::NAN, ..Default::default() },
            Adaptive { safety: 1.5, ..Default::default() },
            Adaptive { first_step: Some(0.0), ..Default::default() },
        ] {
            assert!(matches!(run(&[0.0, 0.9], wrong), Err(Error::Range { .. })));
        }
        assert!(matches!(run(&[0.0], Adaptive::default()), Err(Error::Grid { .. })));
        let mut nan = |x: &Tensor, t: f64| Ok(if t > 0.3 { (x * f64::NAN)? } else { x.clone() });
        let error = adaptive(&mut nan, row(&[1.0]), &[0.0, 1.0], &Adaptive::default(), &mut quiet);
        assert!(matches!(error, Err(Error::NotFinite { .. })));
    }
}
