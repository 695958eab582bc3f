//! The closed-form mixture: every identity of the flow on the one field that is known exactly.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor, Var};
use pathline::Error;
use pathline::flow::denoiser::{denoiser, retimed, velocity};
use pathline::flow::schedule::{BetaSchedule, DiscreteConfig};
use pathline::flow::{Coef, Discrete, Estimate, GaussianMixture, Noise, Path, Target};
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

/// Times inside a path, off the points of a table.
fn times(path: &Path) -> Vec<f64> {
    let inside = [0.05, 0.2, 0.5, 0.8, 0.95].map(|u| path.own_time(u));
    let middle = |t: f64| if matches!(path, Path::Discrete(_)) { t.floor() + 0.5 } else { t };
    inside.into_iter().map(middle).collect()
}

/// A table is long.
fn name(path: &Path) -> String {
    format!("{path:?}").chars().take(30).collect()
}

fn tensor(values: Vec<f64>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn states(rows: usize) -> Tensor {
    let z = Noise::new(3).normal(0, 0, rows * 3);
    tensor(z.into_iter().map(|z| 1.3 * f64::from(z)).collect(), &[rows, 3])
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The largest gap, relative where the numbers are above 1.
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let gap = |(a, b): (f64, f64)| (a - b).abs() / b.abs().max(1.0);
    let worst = |m: f64, g: f64| if g.is_nan() { f64::INFINITY } else { m.max(g) };
    values(a).into_iter().zip(values(b)).map(gap).fold(0.0, worst)
}

fn gradient(of: &Tensor, x: &Var) -> Tensor {
    of.sum_all().unwrap().backward().unwrap().remove(x).unwrap()
}

/// The trace of the Jacobian of each row, `[b]`.
fn divergence(field: &dyn Fn(&Tensor) -> Tensor, x: &Tensor) -> Vec<f64> {
    let x = Var::from_tensor(x).unwrap();
    let (v, d) = (field(&x), x.dim(1).unwrap());
    let mut sum = vec![0.0; x.dim(0).unwrap()];
    for i in 0..d {
        let row = gradient(&v.narrow(1, i, 1).unwrap(), &x).narrow(1, i, 1).unwrap();
        sum.iter_mut().zip(values(&row)).for_each(|(sum, row)| *sum += row);
    }
    sum
}

#[test]
fn the_estimate_makes_the_state_and_is_right_at_both_ends() {
    let (mixture, x) = (mixture(), states(6));
    let mean = tensor(mixture.mean().repeat(6), &[6, 3]);
    let mut worst = 0.0f64;
    for path in paths() {
        let (noise, data) = path.ends();
        for t in times(&path).into_iter().chain([noise, data]) {
            let (coef, estimate) = (path.at(t), mixture.estimate(&path, &x, t).unwrap());
            worst = worst.max(gap(&estimate.state(&coef).unwrap(), &x));
            if coef.sigma == 0.0 {
                assert!(
                    gap(&estimate.data, &(&x / coef.alpha).unwrap()) < 1e-14,
                    "{}",
                    name(&path)
                );
                assert!(values(&estimate.noise).iter().all(|n| *n == 0.0), "{}", name(&path));
            }
            if coef.alpha == 0.0 {
                assert!(gap(&estimate.data, &mean) < 1e-14, "{}", name(&path));
                assert!(
                    gap(&estimate.noise, &(&x / coef.sigma).unwrap()) < 1e-14,
                    "{}",
                    name(&path)
                );
            }
        }
    }
    println!("alpha·data + sigma·noise − x: {worst:.1e}");
    assert!(worst < 1e-13);
}

#[test]
fn the_score_is_the_gradient_of_the_log_density() {
    let (mixture, x) = (mixture(), states(6));
    let (mut worst, mut single) = (0.0f64, 0.0f64);
    for path in paths() {
        let (noise, data) = path.ends();
        for t in times(&path).into_iter().chain([noise, data]) {
            let var = Var::from_tensor(&x).unwrap();
            let grad = gradient(&mixture.log_density(&path, &var, t).unwrap(), &var);
            let score = mixture.score(&path, &x, t).unwrap();
            worst = worst.max(gap(&score, &grad));
            let estimate = mixture.estimate(&path, &x, t).unwrap();
            if path.at(t).sigma > 0.0 {
                worst = worst.max(gap(&estimate.score(&path.at(t)).unwrap(), &grad));
            }
            // The broken twin: the score of the first component only.
            let twin = mixture.component(0).unwrap().score(&path, &x, t).unwrap();
            single = single.max(gap(&twin, &grad));
        }
    }
    println!("score − ∇ log p: {worst:.1e}");
    assert!(worst < 1e-10 && single > 0.1);
}

#[test]
fn every_target_of_the_mixture_gives_the_same_estimate_and_losses_keep_their_ratio() {
    let (mixture, x) = (mixture(), states(6));
    let bump = states(12).narrow(0, 6, 6).unwrap();
    let square = |a: &Tensor, b: &Tensor| -> f64 {
        values(&(a - b).unwrap()).into_iter().map(|x| x * x).sum()
    };
    let (mut conversion, mut loss, mut formula) = (0.0f64, 0.0f64, 0.0f64);
    for path in paths() {
        for t in times(&path) {
            let coef = path.at(t);
            let truth = mixture.estimate(&path, &x, t).unwrap();
            for from in Target::ALL {
                let output = truth.output(from, &coef).unwrap();
                let back = Estimate::from_output(from, &coef, &x, &output).unwrap();
                conversion = conversion.max(gap(&back.data, &truth.data) * coef.alpha.min(1.0));
                conversion = conversion.max(gap(&back.noise, &truth.noise));
                let wrong = (&output + &bump).unwrap();
                let wrong = Estimate::from_output(from, &coef, &x, &wrong).unwrap();
                for to in Target::ALL {
                    let output = back.output(to, &coef).unwrap();
                    let error = square(&wrong.output(to, &coef).unwrap(), &output);
                    let want = to.loss_ratio(from, &coef)
                        * values(&bump.sqr().unwrap()).iter().sum::<f64>();
                    loss = loss.max((error / want - 1.0).abs());
                }
            }
            // v = (α'/α)·x + ((α'/α)·σ² − σ·σ')·score.
            let Coef { alpha, sigma, d_alpha, d_sigma } = coef;
            let rate = d_alpha / alpha;
            let score = mixture.score(&path, &x, t).unwrap();
            let by_score = ((&x * rate).unwrap()
                + (score * (rate * sigma * sigma - sigma * d_sigma)).unwrap())
            .unwrap();
            formula = formula.max(gap(&by_score, &mixture.velocity(&path, &x, t).unwrap()));
        }
    }
    println!("conversions {conversion:.1e}, losses {loss:.1e}, velocity by score {formula:.1e}");
    assert!(conversion < 1e-12 && loss < 1e-12 && formula < 1e-12);
}

/// The largest `∂t log p + v·∇ log p + div v`, with the velocity of a changed coefficient.
fn continuity(path: &Path, change: fn(Coef) -> Coef) -> f64 {
    let (mixture, x) = (mixture(), states(6));
    let (noise, data) = path.ends();
    let h = if matches!(path, Path::Discrete(_)) { 0.1 } else { 1e-3 };
    let mut worst = 0.0f64;
    for t in times(path) {
        let field = |x: &Tensor| {
            mixture.estimate(path, x, t).unwrap().velocity(&change(path.at(t))).unwrap()
        };
        let log = |step: f64| values(&mixture.log_density(path, &x, t + step * h).unwrap());
        let (a, b, c, d) = (log(-2.0), log(-1.0), log(1.0), log(2.0));
        let flow = (field(&x) * mixture.score(path, &x, t).unwrap()).unwrap().sum(1).unwrap();
        let (flow, divergence) = (values(&flow), divergence(&field, &x));
        for i in 0..flow.len() {
            let rate = (a[i] - 8.0 * b[i] + 8.0 * c[i] - d[i]) / (12.0 * h);
            // In units of the whole path's time, as rates are.
            worst = worst.max((rate + flow[i] + divergence[i]).abs() * (noise - data).abs());
        }
    }
    worst
}

#[test]
fn velocity_and_density_satisfy_the_continuity_equation() {
    for path in paths() {
        let right = continuity(&path, |coef| coef);
        let flipped = continuity(&path, |coef| Coef { d_sigma: -coef.d_sigma, ..coef });
        let forgotten = continuity(&path, |coef| Coef { d_alpha: 0.0, ..coef });
        let path_name = name(&path);
        println!("{path_name}: {right:.1e}, twins {flipped:.2} {forgotten:.2}");
        assert!(right < 2e-6, "{path_name}: {right}");
        assert!(flipped > 0.1, "{path_name}: {flipped}");
        // On EDM there is nothing to forget.
        assert!(forgotten > 0.1 || matches!(path, Path::Edm { .. }), "{path_name}: {forgotten}");
    }
}

#[test]
fn both_time_conventions_and_all_paths_tell_the_same() {
    let (mixture, x) = (mixture(), states(6));
    let mut worst = 0.0f64;
    for (inside, reversed) in
        [(Path::Straight, Path::StraightReversed), (Path::Cosine, Path::CosineReversed)]
    {
        for t in [0.0, 0.1, 0.35, 0.5, 0.8, 1.0] {
            let other = 1.0 - t;
            let (a, b) = (
                mixture.velocity(&inside, &x, t).unwrap(),
                mixture.velocity(&reversed, &x, other).unwrap().neg().unwrap(),
            );
            worst = worst.max(gap(&a, &b));
            let (a, b) = (
                mixture.score(&inside, &x, t).unwrap(),
                mixture.score(&reversed, &x, other).unwrap(),
            );
            worst = worst.max(gap(&a, &b));
        }
        let end = |path: &Path| {
            let (noise, data) = path.ends();
            let grid = grid::uniform(noise, data, 40).unwrap();
            let mut net = mixture.denoiser(path);
            let mut field = velocity(path, &mut net);
            integrate(&mut field, x.clone(), &grid, &tableau::HEUN).unwrap().x
        };
        worst = worst.max(gap(&end(&inside), &end(&reversed)));
        // The broken twin: the velocity of the other convention without its sign.
        let (a, b) = (
            mixture.velocity(&inside, &x, 0.35).unwrap(),
            mixture.velocity(&reversed, &x, 0.65).unwrap(),
        );
        assert!(gap(&a, &b) > 0.1);
    }
    println!("conventions: {worst:.1e}");
    assert!(worst < 1e-12);
    // At one σ/α all paths see the same data and noise.
    let onto = Path::Edm { sigma_max: 80.0 };
    let mut worst = 0.0f64;
    for path in paths() {
        for sigma in [0.2, 0.7, 2.5] {
            let truth = mixture.estimate(&onto, &x, sigma).unwrap();
            let mut net = denoiser(&path, Target::Velocity, |x, t| mixture.velocity(&path, x, t));
            let there = retimed(&path, &onto, &mut net)(&x, sigma).unwrap();
            worst = worst.max(gap(&there.data, &truth.data)).max(gap(&there.noise, &truth.noise));
        }
    }
    println!("paths: {worst:.1e}");
    assert!(worst < 1e-11);
}

#[test]
fn the_marginal_field_is_the_posterior_mean_of_the_conditional_ones() {
    let (mixture, x) = (mixture(), states(6));
    // Over the components, exactly.
    let mut worst = 0.0f64;
    for path in paths() {
        for t in times(&path) {
            let posterior = mixture.posterior(&path, &x, t).unwrap();
            worst = worst.max(gap(&posterior.sum(1).unwrap(), &tensor(vec![1.0; 6], &[6])));
            let mut sum = x.zeros_like().unwrap();
            for k in 0..mixture.components() {
                let conditional = mixture.component(k).unwrap().velocity(&path, &x, t).unwrap();
                let share = posterior.narrow(1, k, 1).unwrap();
                sum = (sum + conditional.broadcast_mul(&share).unwrap()).unwrap();
            }
            worst = worst.max(gap(&sum, &mixture.velocity(&path, &x, t).unwrap()));
        }
    }
    println!("over components: {worst:.1e}");
    assert!(worst < 1e-12);
    // Over data points, by Monte Carlo: weights p(x_t | data), the path to each point as its field.
    let n = 200_000;
    let data = values(&mixture.sample(&Noise::new(5), 0, n).unwrap());
    let (mut z_worst, mut twin, mut error) = (0.0f64, 0.0f64, 0.0f64);
    for path in [Path::Straight, Path::CosineReversed, Path::Vp { beta_min: 0.1, beta_max: 20.0 }] {
        let t = path.own_time(0.5);
        let Coef { alpha, sigma, d_alpha, d_sigma } = path.at(t);
        // Where states are.
        let ends = mixture.sample(&Noise::new(6), 0, 6).unwrap();
        let x = ((ends * alpha).unwrap() + (&x * (sigma / 1.3)).unwrap()).unwrap();
        let field = values(&mixture.velocity(&path, &x, t).unwrap());
        for (x, field) in values(&x).chunks(3).zip(field.chunks(3)) {
            let weight = |point: &[f64]| {
                let off = point.iter().zip(x).map(|(d, x)| (x - alpha * d).powi(2)).sum::<f64>();
                (-0.5 * off / (sigma * sigma)).exp()
            };
            let weights: Vec<f64> = data.chunks(3).map(weight).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..3 {
                let to = |d: f64| d_alpha * d + d_sigma * (x[i] - alpha * d) / sigma;
                let pairs = || weights.iter().zip(data.chunks(3).map(|point| to(point[i])));
                let mean = pairs().map(|(w, v)| w * v).sum::<f64>() / total;
                let spread = pairs().map(|(w, v)| (w * (v - mean)).powi(2)).sum::<f64>();
                let deviation = spread.sqrt() / total;
                error = error.max(deviation / (1.0 + field[i].abs()));
                z_worst = z_worst.max((mean - field[i]).abs() / deviation);
                let plain = pairs().map(|(_, v)| v).sum::<f64>() / n as f64;
                twin = twin.max((plain - field[i]).abs() / deviation);
            }
        }
    }
    println!("over points: {z_worst:.2} standard errors (largest {error:.1e}); twin {twin:.0}");
    // 54 numbers, each within four standard errors.
    assert!(z_worst < 4.0 && error < 0.05 && twin > 50.0);
}

#[test]
fn samples_have_the_mean_and_covariance_and_do_not_see_their_batch() {
    let (mixture, n) = (mixture(), 20_000);
    let noise = Noise::new(9);
    let sample = mixture.sample(&noise, 0, n).unwrap();
    let alone = mixture.sample(&noise, 17, 1).unwrap();
    assert_eq!(values(&sample.narrow(0, 17, 1).unwrap()), values(&alone));
    let (rows, mean, covariance) = (values(&sample), mixture.mean(), mixture.covariance());
    let average = |f: &dyn Fn(&[f64]) -> f64| {
        let mean = rows.chunks(3).map(f).sum::<f64>() / n as f64;
        let spread = rows.chunks(3).map(|row| (f(row) - mean).powi(2)).sum::<f64>() / n as f64;
        (mean, (spread / n as f64).sqrt())
    };
    for i in 0..3 {
        let (got, error) = average(&|row| row[i]);
        assert!((got - mean[i]).abs() < 4.0 * error, "mean {i}: {got} {}", mean[i]);
        for j in 0..3 {
            let (got, error) = average(&|row| (row[i] - mean[i]) * (row[j] - mean[j]));
            let want = covariance[i][j];
            assert!((got - want).abs() < 4.0 * error, "covariance {i} {j}: {got} {want}");
        }
    }
    // The density is that of the samples: its entropy two ways (here against a wrong mixture).
    let log = |mixture: &GaussianMixture| {
        let log = values(&mixture.log_density(&Path::Straight, &sample, 0.0).unwrap());
        log.iter().sum::<f64>() / n as f64
    };
    let wider = GaussianMixture::isotropic(vec![mean], 1.5).unwrap();
    assert!(log(&mixture) > log(&wider) + 0.5);
    // Integrates to 1 (one dimension, trapezoid).
    let line = GaussianMixture::new(vec![1.0, 3.0], vec![vec![-1.0], vec![2.0]], vec![0.3, 0.6]);
    let x = tensor((0..4000).map(|i| -8.0 + f64::from(i) * 0.004).collect(), &[4000, 1]);
    for t in [0.0, 0.4, 1.0] {
        let density = line.as_ref().unwrap().log_density(&Path::Straight, &x, t).unwrap();
        let mass = density.exp().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() * 0.004;
        assert!((mass - 1.0).abs() < 1e-9, "{t}: {mass}");
    }
}

#[test]
fn single_precision_and_other_shapes_follow() {
    let (mixture, x) = (mixture(), states(6));
    let single = x.to_dtype(DType::F32).unwrap().reshape((6, 1, 3)).unwrap();
    let mut worst = 0.0f64;
    for path in paths() {
        for t in times(&path) {
            let want = mixture.estimate(&path, &x, t).unwrap();
            let got = mixture.estimate(&path, &single, t).unwrap();
            assert_eq!((got.data.dims(), got.data.dtype()), (single.dims(), DType::F32));
            for (got, want) in [(got.data, want.data), (got.noise, want.noise)] {
                worst = worst.max(gap(&got.reshape((6, 3)).unwrap(), &want));
            }
        }
    }
    println!("f32: {worst:.1e}");
    assert!(worst < 2e-4);
}

#[test]
fn nonsense_is_refused() {
    let new = GaussianMixture::new;
    let point = || vec![vec![0.0, 1.0]];
    for (mixture, named) in [
        (new(vec![], vec![], vec![]), "means"),
        (new(vec![1.0], vec![vec![]], vec![1.0]), "means"),
        (new(vec![1.0; 2], vec![vec![0.0], vec![1.0, 2.0]], vec![1.0; 2]), "means"),
        (new(vec![1.0; 2], point(), vec![1.0]), "weights"),
        (new(vec![1.0], point(), vec![]), "deviations"),
        (new(vec![0.0], point(), vec![1.0]), "weight"),
        (new(vec![1.0], point(), vec![-1.0]), "deviation"),
        (new(vec![1.0], vec![vec![f64::NAN]], vec![1.0]), "mean"),
    ] {
        let error = mixture.unwrap_err();
        assert!(matches!(error, Error::Shape { .. } | Error::Range { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    let (mixture, x) = (mixture(), states(2));
    let straight = Path::Straight;
    assert!(matches!(mixture.estimate(&straight, &x, 1.1), Err(Error::Time { .. })));
    let wide = tensor(vec![0.0; 8], &[2, 4]);
    assert!(matches!(mixture.estimate(&straight, &wide, 0.5), Err(Error::Shape { .. })));
    assert!(matches!(mixture.component(3), Err(Error::Range { .. })));
    let points = GaussianMixture::isotropic(point(), 0.0).unwrap();
    let x = tensor(vec![0.0; 2], &[1, 2]);
    assert!(points.estimate(&straight, &x, 0.01).is_ok());
    let error = points.estimate(&straight, &x, 0.0).unwrap_err().to_string();
    assert!(error.contains("before the data end"), "{error}");
    let vp = Path::Vp { beta_min: 0.1, beta_max: 20.0 };
    let one = GaussianMixture::isotropic(point(), 1.0).unwrap();
    assert!(one.estimate(&vp, &x, 0.0).is_ok());
    assert!(one.velocity(&vp, &x, 0.0).unwrap_err().to_string().contains("t = 0"));
}
