//! Training on pictures: a classifier, an autoencoder, a denoiser.
//!
//! ```text
//! recipe.toml ─ pictures ─ order ─ job.update ─► metrics.jsonl, loss.png
//!                                     ├ every so often: job.sheet ─► samples/<step>.png
//!                                     └ job.write ─► checkpoints/<step>/pretrained_model
//! ```
//!
//! As everywhere in training, a run is a function of its recipe: order, times and noise are read from
//! the counter-based generator at (seed, update), so a run that was stopped and resumed writes what one
//! that was not would have written. The three jobs differ in their loss and in what they leave behind,
//! and share this loop.

mod autoencoder;
mod classifier;
mod conditions;
mod critic;
mod denoiser;
mod latents;
mod order;
pub mod recipe;
mod sheet;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::checkpoint;
use super::log::{Log, Metric};
use super::progress::Progress;
use crate::dataset::pictures::Pictures;
use crate::{Error, Result};
use recipe::{Model, PictureRecipe};

/// What a run leaves behind.
#[derive(Clone, Debug, Serialize)]
pub struct PictureSummary {
    /// Updates made in all.
    pub steps: usize,
    /// Mean loss of the last log interval.
    pub loss: f64,
    /// Parameters that were trained.
    pub parameters: usize,
    /// Pictures in an epoch.
    pub pictures: usize,
    /// Wall time of this process, seconds.
    pub train_s: f64,
    /// The newest model.
    pub model: PathBuf,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// What one update says of itself.
struct Update {
    loss: f64,
    lr: f64,
    grad_norm: f64,
    /// Terms of the loss.
    parts: Vec<(&'static str, f64)>,
}

/// One of the three trainings.
trait Job {
    /// Updates made.
    fn step(&self) -> usize;
    /// Parameters that are trained.
    fn parameters(&self) -> usize;
    /// One update.
    fn update(&mut self) -> Result<Update>;
    /// Everything that a resumed run needs.
    fn state(&self) -> Result<HashMap<String, Tensor>>;
    /// Takes back what [`Job::state`] gave.
    fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<()>;
    /// Writes the model, with averaged weights, into the folder `dir`.
    fn write(&mut self, dir: &Path) -> Result<()>;
    /// Draws what the model can do by now, if there is anything to see.
    fn sheet(&mut self, path: &Path) -> Result<()>;
    /// Numbers that are watched beside the loss, on pictures that are not trained on.
    fn watch(&mut self) -> Result<Vec<(&'static str, f64)>>;
}

/// Trains. With `resume`, goes on from the newest checkpoint of the recipe's folder; `stop` ends the run
/// after the current update, with a checkpoint.
///
/// # Errors
/// When the recipe, the pictures or the folder cannot be used, or the loss is no longer finite.
pub fn train(
    recipe: &PictureRecipe,
    resume: bool,
    stop: &AtomicBool,
    device: &Device,
) -> Result<PictureSummary> {
    let root = recipe.output_dir.join("checkpoints");
    let newest = checkpoint::begin(&recipe.output_dir, resume)?;
    let pictures = Pictures::open(&recipe.data)?;
    let mut job: Box<dyn Job + '_> = match &recipe.model {
        Model::Classifier { network } => {
            Box::new(classifier::ClassifierJob::new(recipe, network, &pictures, device)?)
        }
        Model::Autoencoder(model) => {
            Box::new(autoencoder::AutoencoderJob::new(recipe, model, &pictures, device)?)
        }
        Model::Denoiser(model) => {
            Box::new(denoiser::DenoiserJob::new(recipe, model, &pictures, device)?)
        }
    };
    if let Some((_, folder)) = &newest {
        let (step, state) = checkpoint::load_state(folder)?;
        job.restore(step, &state)?;
    }
    let mut log = Log::open(&recipe.output_dir, job.step())?;
    let (parameters, training) = (job.parameters(), pictures.training().len());
    let rhythm = &recipe.train;
    eprintln!(
        "{training} pictures, {parameters} parameters, step {} of {}",
        job.step(),
        rhythm.steps
    );
    let samples = recipe.output_dir.join("samples");
    fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, e))?;
    let progress = Progress::new(job.step(), rhythm.steps);
    let start = Instant::now();
    let mut mean = Mean::default();
    let (mut loss, mut interrupted) = (f64::NAN, false);
    let mut saved = newest.map(|(step, _)| step);
    while job.step() < rhythm.steps {
        let update = job.update()?;
        let step = job.step();
        if !update.loss.is_finite() {
            return Err(Error::Invalid(format!("the loss is {} at step {step}", update.loss)));
        }
        progress.tick(step, update.loss);
        let (lr, grad_norm) = (update.lr, update.grad_norm);
        mean.add(update);
        interrupted = stop.load(Ordering::Relaxed);
        let last = step == rhythm.steps || interrupted;
        let due = |freq: usize| freq > 0 && step.is_multiple_of(freq);
        let sheet = due(rhythm.sample_freq) || (last && rhythm.sample_freq > 0);
        if due(rhythm.log_freq) || last {
            let mut parts;
            (loss, parts) = mean.take();
            if sheet {
                parts.extend(job.watch()?.into_iter().map(|(name, value)| (name.into(), value)));
            }
            let metric = Metric { step, loss, lr, grad_norm, pc_success: None, parts };
            log.write(&metric)?;
            progress.log(&metric);
        }
        if sheet {
            job.sheet(&samples.join(format!("{step:06}.png")))?;
        }
        if due(rhythm.save_freq) || last {
            let state = job.state()?;
            checkpoint::save(&root, step, rhythm.keep_checkpoints, &state, &mut |dir| {
                job.write(dir)?;
                write_recipe(recipe, dir)
            })?;
            saved = Some(step);
            log.plot()?;
        }
        if interrupted {
            break;
        }
    }
    progress.finish();
    if saved.is_none() {
        return Err(Error::Invalid("train.steps: expected an update to make, got none".into()));
    }
    Ok(PictureSummary {
        steps: job.step(),
        loss,
        parameters,
        pictures: training,
        train_s: start.elapsed().as_secs_f64(),
        model: root.join("last").join(checkpoint::PRETRAINED_MODEL),
        interrupted,
    })
}

fn write_recipe(recipe: &PictureRecipe, dir: &Path) -> Result<()> {
    let text = toml::to_string(recipe).map_err(|e| Error::Invalid(e.to_string()))?;
    let path = dir.join("recipe.toml");
    fs::write(&path, text).map_err(|e| Error::io(path, e))
}

/// Means over a log interval.
#[derive(Default)]
struct Mean {
    count: usize,
    loss: f64,
    parts: BTreeMap<String, f64>,
}

impl Mean {
    fn add(&mut self, update: Update) {
        self.count += 1;
        self.loss += update.loss;
        for (name, value) in update.parts {
            *self.parts.entry(name.to_owned()).or_default() += value;
        }
    }

    fn take(&mut self) -> (f64, BTreeMap<String, f64>) {
        let Self { count, loss, mut parts } = std::mem::take(self);
        parts.values_mut().for_each(|sum| *sum /= count as f64);
        (loss / count as f64, parts)
    }
}
