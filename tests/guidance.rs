//! Classifier-free guidance, against diffusers and on the closed-form mixture.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor};
use pathline::Error;
use pathline::flow::denoiser::velocity;
use pathline::flow::guidance::{Branches, Interval, Outputs};
use pathline::flow::{GaussianMixture, Guidance, Noise, Path, Target, guided};
use pathline::solver::{grid, integrate, tableau};

fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(&(a - b).unwrap()).into_iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn branches() -> (Tensor, Tensor) {
    let shape = [2, 1, 2, 2];
    let conditional = tensor(&[0.5, -1.25, 2.0, 0.75, 1.5, 0.25, -0.5, 3.0], &shape);
    let negative = tensor(&[0.1, -0.5, 1.0, 1.25, 0.5, 0.75, -1.5, 1.0], &shape);
    (conditional, negative)
}

#[test]
fn scale_and_rescale_are_those_of_diffusers() {
    // diffusers 0.42.1, torch f64: u + 7.5·(c − u), then rescale_noise_cfg(…, 0.7).
    let want = [
        1.382_864_803_064_521,
        -2.732_273_199_603_288,
        3.791_726_072_918_848,
        -1.115_213_550_858_485,
        3.499_657_949_554_839,
        -1.312_371_731_083_064,
        2.624_743_462_166_129,
        6.999_315_899_109_678,
    ];
    let (c, u) = branches();
    let guidance = Guidance { rescale: 0.7, ..Guidance::new(7.5) };
    let want = tensor(&want, c.dims());
    assert!(gap(&guidance.apply(&c, &u).unwrap(), &want) < 1e-13);
    let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    let half = guidance.apply(&single(&c), &single(&u)).unwrap().to_dtype(DType::F64).unwrap();
    assert!(gap(&half, &want) < 1e-5);
    // The broken twins: the other paper's w taken for s, and one deviation for the whole batch.
    let plain = Guidance::new(7.5).apply(&c, &u).unwrap();
    assert_eq!(values(&plain)[0], 0.1 + 7.5 * 0.4);
    assert!(gap(&Guidance::new(6.5).apply(&c, &u).unwrap(), &plain) > 0.1);
    let flat = |x: &Tensor| x.reshape((1, 8)).unwrap();
    let whole = guidance.apply(&flat(&c), &flat(&u)).unwrap().reshape(c.dims()).unwrap();
    assert!(gap(&whole, &want) > 0.01);
}

#[test]
fn a_sample_does_not_see_its_batch_and_equal_numbers_stay() {
    let (c, u) = branches();
    let guidance = Guidance { rescale: 0.5, ..Guidance::new(3.0) };
    let both = guidance.apply(&c, &u).unwrap();
    for i in 0..2 {
        let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
        assert_eq!(values(&guidance.apply(&row(&c), &row(&u)).unwrap()), values(&row(&both)));
    }
    let (ones, zeros) = (tensor(&[1.0; 4], &[1, 4]), tensor(&[0.0; 4], &[1, 4]));
    assert_eq!(values(&guidance.apply(&ones, &zeros).unwrap()), [3.0; 4]);
    let (one, zero) = (tensor(&[1.0], &[1, 1]), tensor(&[0.0], &[1, 1]));
    assert_eq!(values(&guidance.apply(&one, &zero).unwrap()), [3.0]);
}

fn mixture() -> GaussianMixture {
    let means = vec![vec![-1.5, 0.4], vec![0.7, -1.1], vec![1.8, 1.2]];
    GaussianMixture::new(vec![5.0, 3.0, 2.0], means, vec![0.4, 0.7, 0.3]).unwrap()
}

fn paths() -> [Path; 5] {
    [
        Path::Straight,
        Path::StraightReversed,
        Path::Cosine,
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        Path::Edm { sigma_max: 5.0 },
    ]
}

fn states() -> Tensor {
    let z = Noise::new(1).normal(0, 0, 10);
    tensor(&z.into_iter().map(f64::from).collect::<Vec<_>>(), &[5, 2])
}

#[test]
fn one_scale_means_the_same_for_every_target_and_is_guidance_of_the_score() {
    let (whole, x) = (mixture(), states());
    let one = whole.component(2).unwrap();
    let mut worst = 0.0f64;
    for path in paths() {
        for t in [0.2, 0.5, 0.8].map(|u| path.own_time(u)) {
            let coef = path.at(t);
            let (c, u) = (one.score(&path, &x, t).unwrap(), whole.score(&path, &x, t).unwrap());
            let want = (&u + ((c - &u).unwrap() * 2.5).unwrap()).unwrap();
            for target in Target::ALL {
                let net = |x: &Tensor, t: f64, branches: Branches| {
                    assert_eq!(branches, Branches::Both);
                    let out =
                        |m: &GaussianMixture| m.estimate(&path, x, t)?.output(target, &path.at(t));
                    Ok(Outputs { conditional: out(&one)?, negative: Some(out(&whole)?) })
                };
                let mut denoiser = guided(&path, target, Guidance::new(2.5), net).unwrap();
                let got = denoiser(&x, t).unwrap();
                worst = worst.max(gap(&got.score(&coef).unwrap(), &want));
                worst = worst.max(gap(&got.state(&coef).unwrap(), &x));
            }
        }
    }
    println!("guided score: {worst:.1e}");
    assert!(worst < 1e-11);
}

/// The times at which both branches were asked for, on a uniform grid, and the end.
fn run(path: &Path, guidance: Guidance) -> (Vec<f64>, usize, Tensor) {
    let (whole, mut both) = (mixture(), Vec::new());
    let one = whole.component(2).unwrap();
    let net = |x: &Tensor, t: f64, branches: Branches| {
        let out = |m: &GaussianMixture| m.velocity(path, x, t);
        let negative = match branches {
            Branches::Both => {
                both.push(t);
                Some(out(&whole)?)
            }
            Branches::Conditional => None,
        };
        Ok(Outputs { conditional: out(&one)?, negative })
    };
    let (noise, data) = path.ends();
    let grid = grid::uniform(noise, data, 16).unwrap();
    let mut denoiser = guided(path, Target::Velocity, guidance, net).unwrap();
    let mut field = velocity(path, &mut denoiser);
    let solution = integrate(&mut field, states(), &grid, &tableau::EULER).unwrap();
    drop(field);
    drop(denoiser);
    (both, solution.nfe, solution.x)
}

#[test]
fn outside_the_interval_and_at_scale_one_only_the_condition_is_evaluated() {
    let path = Path::Straight;
    let (both, nfe, free) = run(&path, Guidance::new(1.0));
    assert_eq!((both.len(), nfe), (0, 16));
    let everywhere = run(&path, Guidance::new(3.0));
    assert_eq!((everywhere.0.len(), everywhere.1), (16, 16));
    let within = |interval| Guidance { interval: Some(interval), ..Guidance::new(3.0) };
    let (both, nfe, some) = run(&path, within(Interval::Time { from: 0.25, to: 0.5 }));
    assert_eq!((both, nfe), (vec![0.5, 0.4375, 0.375, 0.3125, 0.25], 16));
    assert!(gap(&some, &free) > 1e-3 && gap(&some, &everywhere.2) > 1e-3);
    // A range of noise levels means the same in both conventions; one of times does not.
    let levels = within(Interval::SigmaHat { from: 0.3, to: 2.0 });
    let (a, b) = (run(&path, levels), run(&Path::StraightReversed, levels));
    assert_eq!(a.0.iter().map(|t| 1.0 - t).collect::<Vec<_>>(), b.0);
    assert!(!a.0.is_empty() && a.0.len() < 16 && gap(&a.2, &b.2) < 1e-12);
    let all = within(Interval::SigmaHat { from: 0.0, to: f64::INFINITY });
    assert_eq!(run(&path, all).0.len(), 16);
}

#[test]
fn nonsense_is_refused() {
    let refused = |guidance: Guidance, named: &str| {
        let error = guidance.validate().unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
        let net = |x: &Tensor, _: f64, _: Branches| {
            Ok(Outputs { conditional: x.clone(), negative: None })
        };
        assert!(guided(&Path::Straight, Target::Data, guidance, net).is_err());
    };
    let plain = Guidance::new(2.0);
    refused(Guidance::new(f64::NAN), "scale");
    refused(Guidance::new(f64::INFINITY), "scale");
    refused(Guidance { rescale: 1.1, ..plain }, "rescale");
    refused(Guidance { rescale: f64::NAN, ..plain }, "rescale");
    for interval in [
        Interval::Time { from: 0.6, to: 0.5 },
        Interval::SigmaHat { from: 0.6, to: 0.5 },
        Interval::SigmaHat { from: f64::NAN, to: 0.5 },
        Interval::Time { from: 0.0, to: f64::NAN },
    ] {
        refused(Guidance { interval: Some(interval), ..plain }, "interval");
    }
    let (c, u) = branches();
    let error = plain.apply(&c, &u.flatten_all().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let net =
        |x: &Tensor, _: f64, _: Branches| Ok(Outputs { conditional: x.clone(), negative: None });
    let error = guided(&Path::Straight, Target::Velocity, plain, net).unwrap()(&c, 0.5);
    assert!(error.unwrap_err().to_string().contains("both branches"));
    let read = serde_json::from_str::<Guidance>;
    let written = r#"{"scale":4.0,"rescale":0.5,"interval":{"sigma_hat":{"from":0.3,"to":5.0}}}"#;
    let guidance = read(written).unwrap();
    assert_eq!(serde_json::to_string(&guidance).unwrap(), written);
    assert!(read(r#"{"scale":4.0,"w":1}"#).is_err());
}
