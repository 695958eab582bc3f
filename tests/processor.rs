//! Parity of the processors with LeRobot's: `tests/golden/processor.py` made the numbers.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::collections::BTreeMap;

use pathline::policy::config::NormalizationMode;
use pathline::policy::processor::{Affine, Stats};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    mode: NormalizationMode,
    dim: usize,
    stats: BTreeMap<String, Vec<f32>>,
    raw: Vec<f32>,
    normalized: Vec<f32>,
    input: Vec<f32>,
    back: Vec<f32>,
}

/// Largest error, absolute below 1 and relative above.
fn error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let gap = |(a, b): (&f32, &f32)| (a - b).abs() / b.abs().max(1.0);
    got.iter().zip(want).map(gap).fold(0.0, f32::max)
}

#[test]
fn normalisation_is_lerobots() {
    let golden: Golden = serde_json::from_str(include_str!("golden/processor.json")).unwrap();
    assert_eq!(golden.cases.len(), 6);
    for case in golden.cases {
        let stats = Stats::from([("x".to_owned(), case.stats)]);
        let map = Affine::new("x", case.mode, &stats, case.dim).unwrap();
        let (mut forward, mut back) = (case.raw.clone(), case.input.clone());
        map.normalize(&mut forward);
        map.unnormalize(&mut back);
        let errors = [error(&forward, &case.normalized), error(&back, &case.back)];
        println!("{}: {errors:?}", case.name);
        assert!(errors.iter().all(|e| *e <= 1e-6), "{}: {errors:?}", case.name);
        if case.mode != NormalizationMode::Identity {
            assert!(error(&case.raw, &case.normalized) > 0.1, "{}: nothing to do", case.name);
        }
    }
}
