//! One training run, from recipe to checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::checkpoint;
use super::eval::{EvalOptions, EvalReport, evaluate};
use super::log::{Log, Metric};
use super::optimizer::AdamW;
use super::progress::Progress;
use super::recipe::Recipe;
use super::samples::{Batch, Demonstrations, Sampler};
use crate::dataset::Dataset;
use crate::flow::Objective;
use crate::nn::mlp::TOKEN_TIME;
use crate::nn::params::Params;
use crate::policy::processor::{self, Processor, Stats};
use crate::policy::{CONFIG, FOLDER, Net, Policy, WEIGHTS};
use crate::tensors::{folder, weights::Weights};
use crate::{Error, Result, tensors};

/// What a run leaves behind.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Updates made in all.
    pub steps: usize,
    /// Mean loss of the last log interval.
    pub loss: f64,
    /// Parameters of the network.
    pub parameters: usize,
    /// Samples in an epoch.
    pub frames: usize,
    /// Wall time of this process, seconds.
    pub train_s: f64,
    /// The newest policy.
    pub policy: PathBuf,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// Trains. With `resume`, goes on from the newest checkpoint of the recipe's folder; `stop` ends
/// the run after the current update, with a checkpoint.
///
/// # Errors
/// When the recipe, the dataset or the folder cannot be used, or the loss is no longer finite.
pub fn train(recipe: &Recipe, resume: bool, stop: &AtomicBool, device: &Device) -> Result<Summary> {
    let root = recipe.output_dir.join("checkpoints");
    let newest = checkpoint::begin(&recipe.output_dir, resume)?;

    let dataset = Dataset::open_all(&recipe.dataset.paths)?;
    let signature = recipe.policy.signature();
    let demos = Demonstrations::new(&dataset, &signature)?;
    drop(dataset);
    let stats = demos.stats(&signature, recipe.dataset.observation_bounds)?;
    let processor = Processor::new(&signature, &stats)?;
    let objective = objective(recipe)?;
    let params = Params::new(recipe.train.seed);
    let net = Net::load(&recipe.policy, params.builder(device))?;
    if let Some(folder) = &recipe.init_from {
        let mut tensors = Weights::open(&folder::resolve(folder, &FOLDER)?)?.read_all(device)?;
        // A layer that starts at zero changes nothing: it may be new.
        for (name, var) in params.named() {
            if name.starts_with(TOKEN_TIME) && !tensors.contains_key(&name) {
                tensors.insert(name, var.as_tensor().copy()?);
            }
        }
        params.assign(&tensors)?;
    }
    let mut adam = AdamW::new(recipe.optimizer.clone(), params.named())?;
    if let Some((_, folder)) = &newest {
        let (step, state) = checkpoint::load_state(folder)?;
        adam.load_state(step, &state)?;
    }
    let mut log = Log::open(&recipe.output_dir, adam.step())?;
    eprintln!(
        "{} episodes, {} frames, {} parameters, step {} of {}",
        demos.episodes(),
        demos.len(),
        params.count(),
        adam.step(),
        recipe.train.steps
    );

    let mut sampler = Sampler::new(
        &demos,
        &recipe.policy,
        &processor,
        recipe.dataset.mirror.as_ref(),
        &objective,
        recipe.train.seed,
    );
    let save = |adam: &AdamW| -> Result<PathBuf> {
        let (ema, state) = (adam.ema()?, adam.save_state()?);
        checkpoint::save(&root, adam.step(), recipe.train.keep_checkpoints, &state, &mut |dir| {
            write_policy(dir, recipe, &stats, &ema)
        })
    };
    let progress = Progress::new(adam.step(), recipe.train.steps);
    let start = Instant::now();
    let (mut sum, mut count, mut loss) = (0.0, 0usize, f64::NAN);
    let mut interrupted = false;
    let mut saved = newest.map(|(step, _)| step);
    while adam.step() < recipe.train.steps {
        let step = adam.step();
        let batch = sampler.batch(step, recipe.train.batch_size, device)?;
        let value = batch_loss(&net, &objective, &batch)?;
        let lr = recipe.optimizer.lr_at(step, recipe.train.steps);
        let grad_norm = adam.update(&value.backward()?, lr)?;
        let value = f64::from(value.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(Error::Invalid(format!("the loss is {value} at step {step}")));
        }
        sum += value;
        count += 1;
        let step = adam.step();
        progress.tick(step, value);
        interrupted = stop.load(Ordering::Relaxed);
        let last = step == recipe.train.steps || interrupted;
        let due = |freq: usize| freq > 0 && step % freq == 0;
        if due(recipe.train.log_freq) || last {
            loss = sum / count as f64;
            (sum, count) = (0.0, 0);
            let mut metric =
                Metric { step, loss, lr, grad_norm, pc_success: None, parts: BTreeMap::new() };
            if due(recipe.eval.freq) {
                let report = evaluate_ema(recipe, &adam, &processor, device)?;
                progress.say(&format!(
                    "step {step}: pc_success {:.1}, avg_max_reward {:.3}, avg_steps {:.0}, {:.0} s",
                    report.pc_success, report.avg_max_reward, report.avg_steps, report.eval_s
                ));
                metric.pc_success = Some(report.pc_success);
            }
            log.write(&metric)?;
            progress.log(&metric);
        }
        if due(recipe.train.save_freq) || last {
            save(&adam)?;
            saved = Some(step);
            log.plot()?;
        }
        if interrupted {
            break;
        }
    }
    progress.finish();
    if saved.is_none() {
        save(&adam)?;
    }
    Ok(Summary {
        steps: adam.step(),
        loss,
        parameters: params.count(),
        frames: demos.len(),
        train_s: start.elapsed().as_secs_f64(),
        policy: root.join("last").join(checkpoint::PRETRAINED_MODEL),
        interrupted,
    })
}

/// What the policy of a recipe is trained for: the path and the target are the policy's, the time law
/// is the recipe's.
///
/// # Errors
/// When the policy needs no noise, or its schedule is impossible.
pub fn objective(recipe: &Recipe) -> Result<Objective> {
    let Some(process) = recipe.policy.process()? else {
        return Err(Error::Invalid(
            "training: expected a policy that makes chunks of noise".into(),
        ));
    };
    let time = recipe.train.time_law;
    Ok(Objective { path: process.path, target: process.target, time, ..Objective::default() })
}

/// The loss of one minibatch, padding masked out where the policy says so. Rows that are given (see
/// [`Batch::delay`]) are clean, have the time of the data, and are no part of the loss.
///
/// # Errors
/// When a shape is another.
pub fn batch_loss(net: &Net, objective: &Objective, batch: &Batch) -> Result<Tensor> {
    let pairs = objective.batch(&batch.actions, &batch.noise, None, &batch.t)?;
    let context = net.encode(&batch.features)?;
    if batch.delay.iter().all(|delay| *delay == 0) {
        let output = net.predict(&context, &pairs.x_t, &batch.t)?;
        return pairs.loss(&output, Some(&batch.mask));
    }
    let (b, h, _) = batch.actions.dims3()?;
    let clean = objective.path.ends().1;
    let (mut known, mut times) = (vec![0f32; b * h], vec![0f64; b * h]);
    for (i, (t, delay)) in batch.t.iter().zip(&batch.delay).enumerate() {
        times[i * h..(i + 1) * h].fill(*t);
        times[i * h..i * h + delay].fill(clean);
        known[i * h..i * h + delay].fill(1.0);
    }
    let known = Tensor::from_vec(known, (b, h, 1), batch.actions.device())?;
    let pairs = pairs.with_known(&batch.actions, &known)?;
    let output = net.predict_rows(&context, &pairs.x_t, &batch.t, Some(&times))?;
    let free = known.affine(-1.0, 1.0)?;
    pairs.loss(&output, Some(&(&batch.mask * free)?))
}

fn evaluate_ema(
    recipe: &Recipe,
    adam: &AdamW,
    processor: &Processor,
    device: &Device,
) -> Result<EvalReport> {
    let vb = candle_nn::VarBuilder::from_tensors(adam.ema()?, candle_core::DType::F32, device);
    let net = Net::load(&recipe.policy, vb)?;
    let config = recipe.policy.clone();
    let policy = Policy::from_parts(config, processor.clone(), net, device.clone())?;
    let options = EvalOptions::new(&policy, recipe.eval.episodes, recipe.eval.seed);
    evaluate(&policy, &policy.solver(None, None)?, &options, &mut |_, _, _| ())
}

fn write_policy(
    dir: &Path,
    recipe: &Recipe,
    stats: &Stats,
    weights: &HashMap<String, Tensor>,
) -> Result<()> {
    tensors::save(weights, &dir.join(WEIGHTS))?;
    processor::save(dir, &recipe.policy.signature(), stats)?;
    let invalid = |e: String| Error::Invalid(e);
    let config =
        serde_json::to_string_pretty(&recipe.policy).map_err(|e| invalid(e.to_string()))?;
    let text = toml::to_string(recipe).map_err(|e| invalid(e.to_string()))?;
    for (name, text) in [(CONFIG, config + "\n"), ("recipe.toml", text)] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}
