//! The stages of one picture.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use pathline::device;
use pathline::image::{Pipeline, Request};
use pathline::nn::Work;

use super::limits::Limits;
use super::stage::{Stage, less, median};
use crate::cli::dtype::DtypeArgs;

/// Steps of the picture that is measured.
const STEPS: usize = 5;
/// Pictures; the fastest of each stage counts.
const REPEAT: usize = 3;

/// Prompt to tokens, one step, latents to pixels.
pub(super) fn stages(
    folder: &Path,
    dtype: DtypeArgs,
    limits: &Limits,
) -> anyhow::Result<Vec<Stage>> {
    let pipeline = dtype.load(|| Pipeline::open(folder, &device::cpu()))?;
    let class = pipeline.class_names().first().cloned().filter(|_| !pipeline.takes_prompt());
    let request = Request {
        prompt: pipeline.takes_prompt().then(|| "red apple".to_owned()),
        class,
        steps: Some(STEPS),
        ..Request::default()
    };
    let mut best: Option<Vec<(String, f64, Work)>> = None;
    for _ in 0..REPEAT {
        let (mut done, mut times) = (Vec::new(), Vec::new());
        let (begun, start) = (Work::so_far(), Instant::now());
        let drawn = pipeline.sample(&request, &mut |_| {
            done.push(begun.since());
            times.push(start.elapsed().as_secs_f64() * 1e3);
            Ok(ControlFlow::Continue(()))
        })?;
        let all = begun.since();
        let (Some(last), true) = (done.last(), done.len() > 1) else {
            anyhow::bail!("bench: expected {STEPS} steps of {}", folder.display());
        };
        let step = less(done[1], done[0]);
        let mut each: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        let stage = |name: &str| drawn.seconds.get(name).copied().unwrap_or(0.0) * 1e3;
        let rows = vec![
            ("encode".to_owned(), stage("encode"), less(done[0], step)),
            ("step".to_owned(), median(&mut each), step),
            ("decode".to_owned(), stage("decode"), less(all, *last)),
        ];
        best = Some(match best {
            None => rows,
            Some(best) => {
                best.into_iter().zip(rows).map(|(a, b)| if a.1 < b.1 { a } else { b }).collect()
            }
        });
    }
    let rows = best.unwrap_or_default().into_iter();
    Ok(rows.map(|(name, ms, work)| Stage::new(name, ms, work, limits)).collect())
}
