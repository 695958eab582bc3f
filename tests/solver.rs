//! Orders of convergence, both time conventions, and errors of the integrator, on fields whose
//! solution is known in closed form. All in f64.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{Device, Tensor};
use pathline::Error;
use pathline::flow::Path;
use pathline::solver::{Tableau, grid, integrate, integrate_observed, tableau};

fn row(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_vec1().unwrap()
}

/// Applies a function of one number to every element.
fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> pathline::Result<Tensor> {
    Ok(Tensor::new(x.to_vec1::<f64>()?.into_iter().map(f).collect::<Vec<_>>(), x.device())?)
}

/// A mixture of normal distributions (weight, mean, deviation) as data: the marginal velocity
/// `α'·E[data | x] + σ'·E[noise | x]` is known exactly on every path.
const MIXTURE: [(f64, f64, f64); 3] = [(0.5, -1.5, 0.4), (0.3, 0.7, 0.6), (0.2, 2.5, 0.3)];
const NARROW: [(f64, f64, f64); 2] = [(0.5, -0.5, 0.3), (0.5, 0.6, 0.2)];
const NORMAL: [(f64, f64, f64); 1] = [(1.0, 0.0, 1.0)];

fn density(mixture: &[(f64, f64, f64)], x: f64) -> f64 {
    let part = |&(w, m, s): &(f64, f64, f64)| w / s * (-0.5 * ((x - m) / s).powi(2)).exp();
    mixture.iter().map(part).sum::<f64>() / std::f64::consts::TAU.sqrt()
}

fn velocity(path: &Path, mixture: &[(f64, f64, f64)], x: f64, t: f64) -> f64 {
    let c = path.at(t);
    let (mut sum, mut flow) = (0.0, 0.0);
    for &(weight, mean, std) in mixture {
        let variance = (c.alpha * std).powi(2) + c.sigma * c.sigma;
        let off = x - c.alpha * mean;
        let share = weight / variance.sqrt() * (-0.5 * off * off / variance).exp();
        let data = mean + c.alpha * std * std / variance * off;
        let noise = c.sigma / variance * off;
        sum += share;
        flow += share * (c.d_alpha * data + c.d_sigma * noise);
    }
    flow / sum
}

/// Carries `x` from the noise end of a path to its data end.
fn sample(
    path: &Path,
    mixture: &[(f64, f64, f64)],
    tableau: &Tableau,
    steps: usize,
    x: &Tensor,
) -> Tensor {
    let (noise, data) = path.ends();
    let grid = grid::uniform(noise, data, steps).unwrap();
    let mut field = |x: &Tensor, t: f64| map(x, |x| velocity(path, mixture, x, t));
    integrate(&mut field, x.clone(), &grid, tableau).unwrap().x
}

fn largest_gap(a: &Tensor, b: &Tensor) -> f64 {
    values(&(a - b).unwrap()).into_iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The order seen on the mixture, whose flow map the next-but-one test checks against quantiles.
fn observed_order(path: &Path, tableau: &Tableau) -> f64 {
    let noise = row(&[-1.3, 0.2, 0.9, 2.1]);
    // On the wide mixture the error of order 6 rules until rounding does.
    let (mixture, steps): (&[_], _) =
        if tableau.order > 4 { (&NARROW, 48) } else { (&MIXTURE, 256) };
    let exact = sample(path, mixture, &tableau::DOPRI5, 1024, &noise);
    let error = |steps| largest_gap(&sample(path, mixture, tableau, steps, &noise), &exact);
    (error(steps) / error(2 * steps)).log2()
}

#[test]
fn methods_converge_with_their_order() {
    for tableau in tableau::ALL {
        for path in [Path::Straight, Path::StraightReversed] {
            let order = observed_order(&path, tableau);
            println!("{} on {path:?}: order {order:.3}", tableau.name);
            assert!((order - f64::from(tableau.order)).abs() < 0.1, "{}: {order}", tableau.name);
        }
    }
    // Broken twins: weights that do not balance the stages, and stages at the wrong times.
    let unbalanced = Tableau { b: &[0.25, 0.25, 0.25, 0.25], ..tableau::RK4 };
    assert!(observed_order(&Path::Straight, &unbalanced) < 2.5);
    let late = Tableau { c: &[0.0, 0.0], ..tableau::HEUN };
    assert!(observed_order(&Path::Straight, &late) < 1.5);
}

#[test]
fn a_linear_system_with_rotation_converges_with_the_order_too() {
    // y' = A·y with A = [[−0.3, −2], [2, −0.3]]: a shrinking rotation.
    let matrix = Tensor::new(&[[-0.3f64, 2.0], [-2.0, -0.3]], &Device::Cpu).unwrap();
    let start = Tensor::new(&[[1.0f64, 0.5]], &Device::Cpu).unwrap();
    let exact = |t: f64| {
        let (shrink, sin, cos) = ((-0.3 * t).exp(), (2.0 * t).sin(), (2.0 * t).cos());
        row(&[shrink * (cos - 0.5 * sin), shrink * (sin + 0.5 * cos)])
    };
    for tableau in tableau::ALL {
        let error = |steps: usize| {
            let grid = grid::uniform(0.0, 1.5, steps).unwrap();
            let mut field = |y: &Tensor, _: f64| Ok(y.matmul(&matrix)?);
            let y = integrate(&mut field, start.clone(), &grid, tableau).unwrap().x;
            largest_gap(&y.get(0).unwrap(), &exact(1.5))
        };
        let steps = if tableau.order > 4 { 40 } else { 128 };
        let order = (error(steps) / error(2 * steps)).log2();
        assert!((order - f64::from(tableau.order)).abs() < 0.1, "{}: {order}", tableau.name);
    }
}

#[test]
fn the_flow_carries_the_normal_distribution_to_the_data() {
    // In one dimension the flow keeps the order of particles, so it maps quantiles to quantiles.
    let noise = row(&[-2.0, -0.8, 0.0, 0.45, 1.7]);
    let data = sample(&Path::Straight, &MIXTURE, &tableau::RK4, 512, &noise);
    let below = |mixture: &[(f64, f64, f64)], x: f64| {
        // Simpson's rule from far below.
        let (from, n) = (-12.0, 20_000u32);
        let h = (x - from) / f64::from(n);
        let weight = |i: u32| if i == 0 || i == n { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
        (0..=n).map(|i| weight(i) * density(mixture, from + f64::from(i) * h)).sum::<f64>() * h
            / 3.0
    };
    for (noise, data) in values(&noise).into_iter().zip(values(&data)) {
        let (before, after) = (below(&NORMAL, noise), below(&MIXTURE, data));
        assert!((before - after).abs() < 1e-8, "{noise} {data}: {before} {after}");
    }
}

#[test]
fn both_time_conventions_give_the_same_samples() {
    let noise = row(&[-2.2, -0.7, 0.1, 0.6, 1.9]);
    for tableau in tableau::ALL {
        for steps in [1, 3, 10, 50] {
            let inside = sample(&Path::Straight, &MIXTURE, tableau, steps, &noise);
            let reversed = sample(&Path::StraightReversed, &MIXTURE, tableau, steps, &noise);
            let gap = largest_gap(&inside, &reversed);
            assert!(gap <= 1e-12, "{} with {steps} steps: {gap}", tableau.name);
        }
    }
    // The broken twin: the sign flipped in place, the time forgotten.
    let grid = grid::uniform(0.0, 1.0, 50).unwrap();
    let mut flipped = |x: &Tensor, t: f64| map(x, |x| -velocity(&Path::Straight, &MIXTURE, x, t));
    let wrong = integrate(&mut flipped, noise.clone(), &grid, &tableau::EULER).unwrap().x;
    let right = sample(&Path::Straight, &MIXTURE, &tableau::EULER, 50, &noise);
    assert!(largest_gap(&wrong, &right) > 0.1);
}

#[test]
fn evaluations_are_counted_and_every_grid_point_is_shown() {
    let times = [1.0, 0.6, 0.5, 0.0];
    for tableau in tableau::ALL {
        let (mut calls, mut seen) = (Vec::new(), Vec::new());
        let mut field = |x: &Tensor, t: f64| {
            calls.push(t);
            Ok(x.affine(0.0, 2.0)?)
        };
        let mut show = |i: usize, t: f64, x: &Tensor| {
            seen.push((i, t, values(x)[0]));
            Ok(())
        };
        let solution =
            integrate_observed(&mut field, row(&[3.0]), &times, tableau, &mut show).unwrap();
        assert_eq!(solution.nfe, 3 * tableau.evals());
        assert_eq!(calls.len(), solution.nfe);
        assert!(calls.iter().all(|t| (0.0..=1.0).contains(t)), "{calls:?}");
        assert_eq!(seen.len(), times.len());
        for (i, t, x) in seen {
            assert_eq!(t, times[i]);
            assert!((x - (3.0 + 2.0 * (t - 1.0))).abs() < 1e-14, "{}", tableau.name);
        }
    }
}

#[test]
fn numbers_that_are_not_finite_stop_the_integration() {
    for bad in [f64::NAN, f64::INFINITY] {
        let mut field = |x: &Tensor, t: f64| {
            let x = x.affine(0.0, 1.0)?;
            Ok(if t < 0.3 { (x * bad)? } else { x })
        };
        let grid = grid::uniform(1.0, 0.0, 4).unwrap();
        let error = integrate(&mut field, row(&[1.0, 2.0]), &grid, &tableau::HEUN).unwrap_err();
        // The second stage of step 2 is the first to look below 0.3.
        assert!(error.to_string().contains("at step 2, t = 0.25"), "{error}");
    }
    let mut field = |x: &Tensor, _: f64| Ok(x.clone());
    assert!(integrate(&mut field, row(&[1.0]), &[1.0], &tableau::EULER).is_err());
    let mut failing = |_: &Tensor, _: f64| Err(Error::Invalid("the network's own".to_owned()));
    let error = integrate(&mut failing, row(&[1.0]), &[1.0, 0.0], &tableau::EULER).unwrap_err();
    assert!(error.to_string().contains("the network's own"), "{error}");
}
