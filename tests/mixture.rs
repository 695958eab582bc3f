//! The closed-form mixture: every identity of the flow on the one field that is known exactly.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor, Var};
use pathline::Error;
use pathline::flow::schedule::{BetaSchedule, DiscreteConfig};
use pathline::flow::{Discrete, Estimate, GaussianMixture, Noise, Path, Target, denoiser};
use pathline::solver::{grid, integrate, tableau};

fn mixture() -> GaussianMixture {
    let means = vec![vec![-1.5, 0.4, 0.3], vec![0.7, -1.1, 0.0], vec![1.8, 1.2, -0.9]];
    GaussianMixture::new(vec![5.0, 3.0, 2.0], means, vec![0.4, 0.7, 0.25]).unwrap()
}

fn paths() -> Vec<Path> {
    let table = |rescale_betas_zero_snr, beta_schedule| {
        let config =
            DiscreteConfig { rescale_betas_zero_snr, beta_schedule, ..DiscreteConfig::default() };
        Path::Discrete(Discrete::new(config).unwrap())
    };
    vec![
        Path::Straight,
        Path::StraightReversed,
        Path::Lipman { sigma_min: 0.1 },
        Path::Cosine,
        Path::CosineReversed,
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        table(false, BetaSchedule::Linear),
        table(true, BetaSchedule::ScaledLinear),
        Path::Edm { sigma_max: 5.0 },
    ]
}

fn states(rows: usize) -> Tensor {
    let z = Noise::new(3).normal(0, 0, rows * 3);
    let z = Tensor::from_vec(z, (rows, 3), &Device::Cpu).unwrap();
    (z.to_dtype(DType::F64).unwrap() * 1.3).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The largest gap, in units of the numbers where they are above 1.
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.fold(0.0, |m: f64, (a, b)| {
        let g = (a - b).abs() / b.abs().max(1.0);
        if g.is_nan() { f64::INFINITY } else { m.max(g) }
    })
}

#[test]
fn quick() {
    let (mixture, x) = (mixture(), states(6));
    for path in paths() {
        let (noise, data) = path.ends();
        for t in [noise, path.own_time(0.5), data] {
            let e = mixture.estimate(&path, &x, t).unwrap();
            let coef = path.at(t);
            assert!(gap(&e.state(&coef).unwrap(), &x) < 1e-14, "{path:?} {t}");
            let var = Var::from_tensor(&x).unwrap();
            let log_density = mixture.log_density(&path, &var, t).unwrap();
            let grads = log_density.sum_all().unwrap().backward().unwrap();
            let score = mixture.score(&path, &x, t).unwrap();
            assert!(gap(grads.get(&var).unwrap(), &score) < 1e-12, "{path:?} {t}");
        }
    }
}
