//! Fréchet and kernel distance against closed forms and scipy; neighbours and accuracy by hand.

use candle_core::Device;
use nalgebra::DMatrix;

use super::*;
use crate::flow::Noise;

fn tensor(rows: usize, values: Vec<f64>) -> Tensor {
    let width = values.len() / rows;
    Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
}

fn normal(seed: u64, rows: usize, width: usize) -> Vec<f64> {
    Noise::new(seed).normal(0, 0, rows * width).into_iter().map(f64::from).collect()
}

#[test]
fn numbers_of_scipy() {
    let text = include_str!("../../tests/golden/quality.json");
    let golden: serde_json::Value = serde_json::from_str(text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let set = |key: &str| -> Tensor {
            let values = case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
            tensor(case[format!("{key}_rows")].as_u64().unwrap() as usize, values.collect())
        };
        let (a, b) = (set("a"), set("b"));
        let distances = [
            ("frechet", frechet_distance(&a, &b).unwrap()),
            ("kernel", kernel_distance(&a, &b).unwrap()),
        ];
        for (key, got) in distances {
            let expected = case[key].as_f64().unwrap();
            if key == "frechet" {
                let mirrored = frechet_distance(&b, &a).unwrap();
                assert!((got - mirrored).abs() < 1e-12 * (1.0 + got), "{got} {mirrored}");
            }
            let off = (got - expected).abs() / (1.0 + expected.abs());
            println!("{} {key}: {got} off by {off:e}", case["name"]);
            // scipy's root of a singular product is good to the root of the rounding error.
            let singular = case["name"].as_str().unwrap().contains("rank") && key == "frechet";
            assert!(off < if singular { 2e-8 } else { 1e-13 }, "{} {key}", case["name"]);
        }
    }
}

#[test]
fn closed_forms() {
    // One dimension: (μ_a − μ_b)² + (σ_a − σ_b)².
    let a = tensor(4, vec![1.0, 3.0, 1.0, 3.0]);
    let b = tensor(4, vec![10.0, 16.0, 10.0, 16.0]);
    let (sigma_a, sigma_b) = ((4.0f64 / 3.0).sqrt(), (36.0f64 / 3.0).sqrt());
    let expected = 121.0 + (sigma_a - sigma_b).powi(2);
    assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-12);

    // b = s·a + m: the covariances commute.
    let (n, d, s) = (200, 24, 1.7);
    let values = normal(1, n, d);
    let x = tensor(n, values.clone());
    let y = tensor(n, values.iter().map(|v| s * v + 0.25).collect());
    let (mean, covariance) = moments(&matrix("x", &x).unwrap()).unwrap();
    let shift = mean.map(|m| (s - 1.0) * m + 0.25).norm_squared();
    let expected = shift + (s - 1.0f64).powi(2) * covariance.trace();
    let got = frechet_distance(&x, &y).unwrap();
    assert!((got - expected).abs() < 1e-10 * expected, "{got} {expected}");
    assert!(frechet_distance(&x, &x).unwrap().abs() < 1e-10);

    // Two dimensions: tr M^½ = √(tr M + 2 √det M) for M = Σ_a Σ_b.
    let (p, q) = (tensor(30, normal(2, 30, 2)), tensor(30, normal(3, 30, 2)));
    let skewed =
        |x: Tensor, by: [[f64; 2]; 2]| x.matmul(&Tensor::new(&by, &Device::Cpu).unwrap()).unwrap();
    let p = skewed(p, [[1.0, 0.0], [2.0, 0.3]]);
    let q = skewed(q, [[1.0, 2.0], [0.0, 0.5]]);
    let (a, b) =
        (moments(&matrix("p", &p).unwrap()).unwrap(), moments(&matrix("q", &q).unwrap()).unwrap());
    let product = &a.1 * &b.1;
    let root = (product.trace() + 2.0 * product.determinant().sqrt()).sqrt();
    let expected = (&a.0 - &b.0).norm_squared() + a.1.trace() + b.1.trace() - 2.0 * root;
    let got = frechet_distance(&p, &q).unwrap();
    assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    // The twin that multiplies the roots is another number here, and the same where they commute.
    let twin = |a: &Moments, b: &Moments| {
        let shared: DMatrix<f64> = square_root(&a.1) * square_root(&b.1);
        (&a.0 - &b.0).norm_squared() + a.1.trace() + b.1.trace() - 2.0 * shared.trace()
    };
    assert!((twin(&a, &b) - expected).abs() > 0.1, "{} {expected}", twin(&a, &b));
}

#[test]
fn kernel_distance_is_zero_on_average() {
    let distance = |seed: u64, shift: f64| {
        let a = tensor(50, normal(seed, 50, 8));
        let b = tensor(60, normal(seed + 1000, 60, 8).into_iter().map(|v| v + shift).collect());
        kernel_distance(&a, &b).unwrap()
    };
    let mean = |shift: f64| (0..100).map(|i| distance(i, shift)).sum::<f64>() / 100.0;
    let (same, other) = (mean(0.0), mean(0.5));
    assert!(same.abs() < 0.01, "{same}");
    assert!(other > 0.5, "{other}");
}

#[test]
fn neighbours_and_accuracy() {
    let known = tensor(3, vec![0.0, 0.0, 1.0, 1.0, 5.0, 5.0]);
    let queries = tensor(4, vec![0.9, 1.1, 9.0, 9.0, 0.0, 0.0, 0.5, 0.5]);
    let found = nearest(&known, &queries).unwrap();
    let indices: Vec<usize> = found.iter().map(|f| f.0).collect();
    assert_eq!(indices, [1, 2, 0, 0]);
    for (got, expected) in found.iter().zip([0.1, 4.0, 0.0, 0.5]) {
        assert!((got.1 - expected).abs() < 1e-6, "{found:?}");
    }
    let logits = tensor(4, vec![0.0, 2.0, 1.0, 0.0, 3.0, 3.0, -1.0, -2.0]);
    // Of equal entries the first.
    assert_eq!(accuracy(&logits, &[1, 0, 0, 1]).unwrap(), 0.75);
}

#[test]
fn bad_sets_are_refused() {
    let two = tensor(2, vec![0.0, 1.0, 2.0, 3.0]);
    let bad = [
        tensor(1, vec![0.0, 1.0]),
        tensor(2, vec![0.0; 6]),
        tensor(2, vec![0.0, f64::NAN, 1.0, 1.0]),
    ];
    for bad in bad {
        assert!(frechet_distance(&two, &bad).is_err(), "{bad:?}");
        assert!(kernel_distance(&two, &bad).is_err(), "{bad:?}");
    }
    assert!(nearest(&two, &tensor(2, vec![0.0; 6])).is_err());
    assert!(accuracy(&two, &[1]).is_err());
}
