//! The velocity's objective, the estimates and the noise together, against closed forms.
//! tests/objectives.rs has the objectives of other targets.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor};
use pathline::Error;
use pathline::flow::{Estimate, Noise, Path, Target, TimeLaw, cfm, mse};

const PATHS: [Path; 2] = [Path::Straight, Path::StraightReversed];

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn normal(sample: u64, shape: &[usize]) -> Tensor {
    let z = Noise::new(4).normal(sample, 0, shape.iter().product());
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap()
}

#[test]
fn a_batch_is_on_its_paths_and_gives_back_its_ends() {
    let t = [0.0, 0.25, 0.7, 1.0];
    let (data, noise) = (normal(0, &[4, 3, 2]), normal(1, &[4, 3, 2]));
    for path in PATHS {
        let batch = cfm(&path, &data, &noise, &t).unwrap();
        for (i, &t) in t.iter().enumerate() {
            let row = |x: &Tensor| x.get(i).unwrap();
            let (x_t, v) = (row(&batch.x_t), row(&batch.velocity));
            let coef = path.at(t);
            let (d, n) = (values(&row(&data)), values(&row(&noise)));
            for (j, (x_t, v)) in values(&x_t).into_iter().zip(values(&v)).enumerate() {
                assert!((x_t - (coef.alpha * d[j] + coef.sigma * n[j])).abs() < 1e-6);
                assert!((v - (coef.d_alpha * d[j] + coef.d_sigma * n[j])).abs() < 1e-6);
            }
            let back = Estimate::from_output(Target::Velocity, &coef, &x_t, &v).unwrap();
            for (got, want) in values(&back.data).into_iter().zip(&d) {
                assert!((got - want).abs() < 1e-6, "{path:?} {t}");
            }
        }
    }
}

#[test]
fn a_sample_does_not_see_the_rest_of_its_batch() {
    let (data, noise) = (normal(0, &[5, 4]), normal(1, &[5, 4]));
    let t: Vec<f64> = (0..5).map(|i| TimeLaw::Uniform.sample(&Noise::new(2), i, 0)).collect();
    let whole = cfm(&Path::Straight, &data, &noise, &t).unwrap();
    for i in 0..5 {
        let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
        let alone = cfm(&Path::Straight, &row(&data), &row(&noise), &t[i..=i]).unwrap();
        assert_eq!(values(&alone.x_t), values(&row(&whole.x_t)));
        assert_eq!(values(&alone.velocity), values(&row(&whole.velocity)));
    }
}

#[test]
fn the_regression_on_conditional_velocities_finds_the_marginal_one() {
    // Data N(1, 0.5²): E[v | x_t] is linear in x_t with slope cov(v, x_t)/var(x_t).
    let n = 200_000;
    let data = normal(0, &[n, 1]).affine(0.5, 1.0).unwrap().to_dtype(DType::F64).unwrap();
    let noise = normal(1, &[n, 1]).to_dtype(DType::F64).unwrap();
    for path in PATHS {
        for t in [0.2, 0.5, 0.9] {
            let batch = cfm(&path, &data, &noise, &vec![t; n]).unwrap();
            let (x, v) = (values(&batch.x_t), values(&batch.velocity));
            let mean = |a: &[f64]| a.iter().sum::<f64>() / n as f64;
            let (mx, mv) = (mean(&x), mean(&v));
            let cov: f64 = x.iter().zip(&v).map(|(x, v)| (x - mx) * (v - mv)).sum();
            let var: f64 = x.iter().map(|x| (x - mx).powi(2)).sum();
            let c = path.at(t);
            let slope = (c.d_alpha * c.alpha * 0.25 + c.d_sigma * c.sigma)
                / (c.alpha * c.alpha * 0.25 + c.sigma * c.sigma);
            assert!((cov / var - slope).abs() < 0.03, "{path:?} {t}: {} {slope}", cov / var);
            assert!((mv - c.d_alpha).abs() < 0.02, "{path:?} {t}: {mv}");
        }
    }
}

#[test]
fn the_weighted_loss_is_the_mean_over_all_elements() {
    let pred = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    let target = Tensor::new(&[[0f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
    assert_eq!(values(&mse(&pred, &target, None).unwrap()), [7.5]);
    let weight = Tensor::new(&[[1f32], [0.0]], &Device::Cpu).unwrap();
    assert_eq!(values(&mse(&pred, &target, Some(&weight)).unwrap()), [1.25]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (data, noise) = (normal(0, &[2, 3]), normal(1, &[2, 3]));
    for (data, noise, t) in [
        (&data, &noise, &[0.5][..]),
        (&data, &normal(1, &[2, 4]), &[0.5, 0.5]),
        (&normal(0, &[3]).get(0).unwrap(), &normal(1, &[3]).get(0).unwrap(), &[0.5]),
    ] {
        let error = cfm(&Path::Straight, data, noise, t).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}
