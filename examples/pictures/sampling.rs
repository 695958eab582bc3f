//! Samples from a pipeline's folder, in batches.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use pathline::image::{Pipeline, Progress, Request};
use pathline::{Error, Result, device};

use crate::plan::{Line, Subject};

/// The most pictures at once.
const BATCH: usize = 50;

/// Pictures and what they cost.
pub(crate) struct Drawn {
    /// `[n, 3, h, w]` in −1 … 1.
    pub(crate) pictures: Tensor,
    /// Forward passes a picture.
    pub(crate) evaluations: usize,
    /// Seconds a picture, in batches.
    pub(crate) seconds: f64,
}

/// Opened folders; each is read once.
#[derive(Default)]
pub(crate) struct Models(BTreeMap<PathBuf, Pipeline>);

impl Models {
    fn open(&mut self, path: &Path) -> Result<&Pipeline> {
        if !self.0.contains_key(path) {
            self.0.insert(path.to_owned(), Pipeline::open(path, &device::cpu())?);
        }
        self.0.get(path).ok_or_else(|| Error::Invalid("a model that was opened is gone".into()))
    }

    /// One picture a subject; picture i is drawn from the noise of `seed + i`.
    pub(crate) fn draw(
        &mut self,
        line: &Line,
        steps: usize,
        subjects: &[Subject],
        seed: u64,
        segmentation: Option<&Tensor>,
    ) -> Result<Drawn> {
        let pipeline = self.open(&line.model)?;
        let (mut parts, mut evaluations, mut seconds) = (Vec::new(), 0, 0.0);
        for (i, subjects) in subjects.chunks(BATCH).enumerate() {
            let mut request = Request {
                seed: seed + (i * BATCH) as u64,
                batch_count: subjects.len(),
                steps: Some(steps),
                sampling_method: line.sampling_method.clone(),
                schedule: line.schedule.clone(),
                cfg_scale: line.cfg_scale,
                eta: line.eta,
                segmentation: segmentation.cloned(),
                ..Request::default()
            };
            for subject in subjects {
                match subject {
                    Subject::Prompt(prompt) if !prompt.is_empty() => {
                        request.prompts.push(prompt.clone());
                    }
                    Subject::Class(class) => request.classes.push(class.clone()),
                    Subject::Prompt(_) => {}
                }
            }
            let mut go_on = |_: &Progress<'_>| Ok(ControlFlow::Continue(()));
            let drawn = pipeline.sample(&request, &mut go_on)?;
            evaluations = drawn.evaluations;
            seconds += drawn.seconds.values().sum::<f64>();
            parts.push(drawn.image);
        }
        let pictures = Tensor::cat(&parts, 0)?;
        Ok(Drawn { pictures, evaluations, seconds: seconds / subjects.len().max(1) as f64 })
    }
}
