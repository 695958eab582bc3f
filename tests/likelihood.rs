//! The likelihood by the change of variables, against the mixture's own density.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor};
use pathline::Error;
use pathline::flow::{Coef, GaussianMixture, Noise, Path};
use pathline::solver::likelihood::{Settings, log_likelihood};
use pathline::solver::{Divergence, Likelihood, grid, tableau};

fn mixture() -> GaussianMixture {
    let means = vec![vec![2.0, 0.0], vec![-1.0, 1.5], vec![-1.0, -1.5]];
    GaussianMixture::isotropic(means, 0.3).unwrap()
}

fn deeper() -> GaussianMixture {
    let means = vec![vec![-1.5, 0.4, 0.3], vec![0.7, -1.1, 0.0], vec![1.8, 1.2, -0.9]];
    GaussianMixture::new(vec![5.0, 3.0, 2.0], means, vec![0.4, 0.7, 0.3]).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Mean and largest of |a − b|.
fn gaps(a: &[f64], b: &[f64]) -> (f64, f64) {
    let gaps: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect();
    (gaps.iter().sum::<f64>() / gaps.len() as f64, gaps.iter().copied().fold(0.0, f64::max))
}

fn exact() -> Settings {
    Settings::new(&tableau::RK4, Divergence::Exact)
}

fn of(
    mixture: &GaussianMixture,
    path: &Path,
    x: &Tensor,
    grid: &[f64],
    settings: &Settings,
) -> pathline::Result<Likelihood> {
    let mut field = |x: &Tensor, t: f64| mixture.velocity(path, x, t);
    log_likelihood(path, &mut field, x, grid, settings)
}

#[test]
fn the_exact_divergence_gives_the_density_of_the_mixture() {
    let mixture = mixture();
    let data = mixture.sample(&Noise::new(1), 0, 48).unwrap();
    let vp = Path::Vp { beta_min: 0.1, beta_max: 20.0 };
    let uniform = |from, to| grid::uniform(from, to, 64).unwrap();
    // Geometric, as Karras et al. would: the velocity of EDM changes with ln σ.
    let ratio = 80.0f64 / 0.01;
    let mut geometric: Vec<f64> =
        (0..=128).map(|i| 0.01 * ratio.powf(f64::from(i) / 128.0)).collect();
    geometric[128] = 80.0;
    for (path, grid) in [
        (Path::Straight, uniform(0.0, 1.0)),
        (Path::StraightReversed, uniform(1.0, 0.0)),
        (Path::Lipman { sigma_min: 0.05 }, uniform(1.0, 0.0)),
        (Path::Cosine, uniform(0.0, 1.0)),
        (vp, uniform(1e-3, 1.0)),
        (Path::Edm { sigma_max: 80.0 }, geometric),
    ] {
        let got = of(&mixture, &path, &data, &grid, &exact()).unwrap();
        let want = values(&mixture.log_density(&path, &data, grid[0]).unwrap());
        let (mean, worst) = gaps(&got.log_density, &want);
        println!(
            "{path:?}: mean |Δ| {mean:.1e}, largest {worst:.1e} nats, disagreement {:.1e} bits/dim, nfe {}",
            got.disagreement, got.nfe
        );
        assert!(mean < 1e-3, "{path:?}: {mean}");
        assert_eq!(got.nfe, 3 + 4 * (grid.len() - 1) * 3 / 2);
        assert_eq!(got.noise.dims(), data.dims());
        // The broken twin: the divergence with the wrong sign.
        let sigma = path.at(path.ends().0).sigma;
        let square = values(&got.noise.sqr().unwrap().sum(1).unwrap());
        let prior =
            |s: &f64| -0.5 * s / (sigma * sigma) - (std::f64::consts::TAU * sigma * sigma).ln();
        let twin: Vec<f64> =
            square.iter().zip(&got.log_density).map(|(s, log)| 2.0 * prior(s) - log).collect();
        assert!(gaps(&twin, &want).0 > 0.1, "{path:?}");
    }
}

#[test]
fn a_broken_field_is_seen_in_the_likelihood() {
    let (mixture, path) = (mixture(), Path::Straight);
    let data = mixture.sample(&Noise::new(1), 0, 16).unwrap();
    let want = values(&mixture.log_density(&path, &data, 0.0).unwrap());
    let grid = grid::uniform(0.0, 1.0, 64).unwrap();
    let settings = Settings { tolerance: f64::INFINITY, ..exact() };
    let run = |change: fn(Coef) -> Coef| {
        let mut field =
            |x: &Tensor, t: f64| mixture.estimate(&path, x, t)?.velocity(&change(path.at(t)));
        let got = log_likelihood(&path, &mut field, &data, &grid, &settings);
        got.map_or(f64::INFINITY, |got| gaps(&got.log_density, &want).0)
    };
    assert!(run(|coef| coef) < 1e-3);
    let flipped = run(|coef| Coef { d_sigma: -coef.d_sigma, ..coef });
    let forgotten = run(|coef| Coef { d_alpha: 0.0, ..coef });
    println!("twins: {flipped:.1} {forgotten:.1} nats");
    assert!(flipped > 1.0 && forgotten > 1.0);
}

#[test]
fn hutchinson_is_unbiased_and_a_row_does_not_see_its_batch() {
    let (mixture, path, n) = (deeper(), Path::Straight, 600);
    let point = mixture.sample(&Noise::new(8), 3, 1).unwrap();
    let grid = grid::uniform(0.0, 1.0, 32).unwrap();
    let want = of(&mixture, &path, &point, &grid, &exact()).unwrap().log_density[0];
    // Every row the same point, each with its own signs.
    let rows = point.broadcast_as((n, 3)).unwrap().contiguous().unwrap();
    let hutchinson = |probes| Divergence::Hutchinson { probes, noise: Noise::new(2) };
    let with = |probes| Settings::new(&tableau::RK4, hutchinson(probes));
    let mut spread = Vec::new();
    for probes in [1, 4] {
        let got = of(&mixture, &path, &rows, &grid, &with(probes)).unwrap().log_density;
        let mean = got.iter().sum::<f64>() / n as f64;
        let variance = got.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let error = (variance / n as f64).sqrt();
        println!("{probes} probes: {mean:.4} ± {error:.4}, exact {want:.4}");
        assert!((mean - want).abs() < 4.0 * error);
        // A bias of a tenth of a nat would be seen: a broken twin that counts 3 % too much.
        assert!((1.03 * mean - want).abs() > 4.0 * error, "{probes}");
        spread.push(variance);
    }
    // Four probes have a quarter of the variance.
    let ratio = spread[0] / spread[1];
    assert!((2.8..5.6).contains(&ratio), "{ratio}");
    let data = mixture.sample(&Noise::new(8), 0, 8).unwrap();
    let whole = of(&mixture, &path, &data, &grid, &with(2)).unwrap();
    let first = data.narrow(0, 0, 1).unwrap();
    let alone = of(&mixture, &path, &first, &grid, &with(2)).unwrap();
    assert_eq!(whole.log_density[0].to_bits(), alone.log_density[0].to_bits());
}

#[test]
fn pictures_and_single_precision_work_too() {
    // Rows of any shape; f32 as networks are.
    let (mixture, path) = (deeper(), Path::Straight);
    let data = mixture.sample(&Noise::new(4), 0, 8).unwrap();
    let grid = grid::uniform(0.0, 1.0, 64).unwrap();
    let single = data.to_dtype(DType::F32).unwrap().reshape((8, 1, 3)).unwrap();
    let got = of(&mixture, &path, &single, &grid, &exact()).unwrap();
    let want = values(&mixture.log_density(&path, &data, 0.0).unwrap());
    let (mean, worst) = gaps(&got.log_density, &want);
    println!("f32: mean |Δ| {mean:.1e}, largest {worst:.1e} nats");
    assert!(mean < 1e-3);
    assert_eq!(got.noise.dims(), single.dims());
    let bits = got.bits_per_dimension();
    assert!((bits[0] + got.log_density[0] / (3.0 * std::f64::consts::LN_2)).abs() < 1e-12);
    // Pictures of 256 equally likely levels have the density 1/2 on [−1, 1]: 8 bits a dimension.
    let level = Likelihood { log_density: vec![-3.0 * std::f64::consts::LN_2], ..got };
    assert!((level.bits_per_dimension_8bit()[0] - 8.0).abs() < 1e-12);
}

#[test]
fn what_would_mean_nothing_is_refused_with_a_reason() {
    let (mixture, path) = (mixture(), Path::Straight);
    let data = mixture.sample(&Noise::new(1), 0, 8).unwrap();
    let want = values(&mixture.log_density(&path, &data, 0.0).unwrap());
    let run = |steps: usize, settings: &Settings| {
        of(&mixture, &path, &data, &grid::uniform(0.0, 1.0, steps).unwrap(), settings)
    };
    let euler = Settings::new(&tableau::EULER, Divergence::Exact);
    let error = run(8, &euler).unwrap_err();
    assert!(matches!(error, Error::Range { got: 8.0, .. }), "{error}");
    assert!(error.to_string().contains("means nothing"), "{error}");
    let error = run(32, &euler).unwrap_err();
    println!("{error}");
    assert!(matches!(error, Error::Range { .. }), "{error}");
    assert!(error.to_string().contains("use more steps"), "{error}");
    // It was right to refuse: without the check the number is wrong by more than it allows.
    let open = Settings { tolerance: f64::INFINITY, ..euler };
    let wrong = run(32, &open).unwrap();
    println!("Euler-32 would be wrong by {:.2} nats", gaps(&wrong.log_density, &want).1);
    assert!(gaps(&wrong.log_density, &want).1 > 0.05 * 2.0 * std::f64::consts::LN_2);
    for (grid, named) in [
        (grid::uniform(0.0, 1.0, 33).unwrap(), "even number"),
        (grid::uniform(1.0, 0.0, 64).unwrap(), "to the noise (t = 1)"),
        (grid::uniform(0.0, 0.9, 64).unwrap(), "to 0.9"),
        (vec![0.5], "two finite times"),
    ] {
        let error = of(&mixture, &path, &data, &grid, &exact()).unwrap_err();
        assert!(
            matches!(error, Error::Grid { .. }) && error.to_string().contains(named),
            "{error}"
        );
    }
    let grid = grid::uniform(0.0, 1.0, 64).unwrap();
    let outside = grid::uniform(0.0, 2.0, 64).unwrap();
    assert!(matches!(of(&mixture, &path, &data, &outside, &exact()), Err(Error::Time { .. })));
    let wide = Tensor::zeros((2, 257), DType::F64, &Device::Cpu).unwrap();
    let mut still = |x: &Tensor, _: f64| Ok(x.affine(0.5, 0.0)?);
    let error = log_likelihood(&path, &mut still, &wide, &grid, &exact()).unwrap_err().to_string();
    assert!(error.contains("use Hutchinson"), "{error}");
    let none = Divergence::Hutchinson { probes: 0, noise: Noise::new(0) };
    let settings = Settings::new(&tableau::RK4, none);
    assert!(matches!(of(&mixture, &path, &data, &grid, &settings), Err(Error::Range { .. })));
    let mut detached = |x: &Tensor, t: f64| Ok(mixture.velocity(&path, x, t)?.detach());
    let error =
        log_likelihood(&path, &mut detached, &data, &grid, &exact()).unwrap_err().to_string();
    assert!(error.contains("do not detach"), "{error}");
    let mut narrow = |x: &Tensor, _: f64| Ok(x.narrow(1, 0, 1)?);
    let error = log_likelihood(&path, &mut narrow, &data, &grid, &exact()).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let mut infinite = |x: &Tensor, _: f64| Ok((x / 0.0)?);
    let error = log_likelihood(&path, &mut infinite, &data, &grid, &exact()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 0, .. }), "{error}");
    let empty = Tensor::zeros((0, 2), DType::F64, &Device::Cpu).unwrap();
    assert!(matches!(of(&mixture, &path, &empty, &grid, &exact()), Err(Error::Shape { .. })));
}

#[test]
fn a_field_that_drops_a_part_of_its_gradient_is_refused() {
    // Attention-like: candle-nn's fused softmax has no backward pass and says nothing.
    let (path, n) = (Path::Straight, 8);
    let grid = grid::uniform(0.0, 1.0, 64).unwrap();
    for dtype in [DType::F64, DType::F32] {
        let z = Noise::new(6).normal(0, 0, n * 4);
        let x = Tensor::from_vec(z, (n, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let attend = |x: &Tensor, share: Tensor| -> pathline::Result<Tensor> {
            Ok(((share * 2.0)? + x.affine(-0.5, 0.0)?)?)
        };
        let mut own = |x: &Tensor, _: f64| {
            let powers = x.exp()?;
            attend(x, powers.broadcast_div(&powers.sum_keepdim(1)?)?)
        };
        let right = log_likelihood(&path, &mut own, &x, &grid, &exact()).unwrap();
        assert!(right.log_density.iter().all(|log| log.is_finite()));
        let mut fused = |x: &Tensor, _: f64| attend(x, candle_nn::ops::softmax_last_dim(x)?);
        let error = log_likelihood(&path, &mut fused, &x, &grid, &exact()).unwrap_err();
        println!("{dtype:?}: {error}");
        assert!(matches!(error, Error::Range { .. }), "{error}");
        assert!(error.to_string().contains("differentiable layers"), "{error}");
    }
}
