//! One training run, from recipe to checkpoints.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::eval::{EvalOptions, EvalReport, evaluate};
use super::optimizer::AdamW;
use super::recipe::Recipe;
use super::samples::{Batch, Demonstrations, Sampler};
use crate::dataset::Dataset;
use crate::flow::Objective;
use crate::nn::mlp::TOKEN_TIME;
use crate::nn::params::Params;
use crate::plot::{Series, line_plot};
use crate::policy::processor::{self, Processor, Stats};
use crate::policy::{CONFIG, Net, Policy, WEIGHTS, folder};
use crate::tensors::weights::Weights;
use crate::{Error, Result, tensors};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Metric {
    step: usize,
    loss: f64,
    lr: f64,
    grad_norm: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pc_success: Option<f64>,
}

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
    fs::create_dir_all(&root).map_err(|e| Error::io(&root, e))?;
    checkpoint::clean(&root)?;
    let newest = checkpoint::list(&root)?.pop();
    match (&newest, resume) {
        (Some((step, _)), false) => {
            let message = format!(
                "holds a run at step {step}; continue it with --resume, or name another output_dir"
            );
            return Err(Error::config(&recipe.output_dir, message));
        }
        (None, true) => {
            return Err(Error::config(&root, "--resume: expected a checkpoint, found none"));
        }
        _ => {}
    }

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
        let weights = Weights::open(&folder::resolve(folder)?)?;
        let tensors =
            weights.names().map(|(name, _)| Ok((name.to_owned(), weights.read(name, device)?)));
        let mut tensors = tensors.collect::<Result<HashMap<_, _>>>()?;
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
            let mut metric = Metric { step, loss, lr, grad_norm, pc_success: None };
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

/// `metrics.jsonl`, and the loss curve drawn from it.
struct Log {
    dir: PathBuf,
    file: File,
    metrics: Vec<Metric>,
}

impl Log {
    /// Opens the log and drops what lies after `step` (an interrupted run may have written more).
    fn open(dir: &Path, step: usize) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let old = fs::read_to_string(&path).unwrap_or_default();
        let metrics: Vec<Metric> = old
            .lines()
            .filter_map(|line| serde_json::from_str::<Metric>(line).ok())
            .filter(|metric| metric.step <= step)
            .collect();
        // Written beside it and renamed: a run that is killed here keeps its log.
        let next = dir.join(".metrics.jsonl");
        let file = File::create(&next).map_err(|e| Error::io(&next, e))?;
        let mut log = Self { dir: dir.to_owned(), file, metrics: Vec::new() };
        for metric in &metrics {
            log.write(metric)?;
        }
        fs::rename(&next, &path).map_err(|e| Error::io(&path, e))?;
        Ok(log)
    }

    fn write(&mut self, metric: &Metric) -> Result<()> {
        let line = serde_json::to_string(metric).map_err(|e| Error::Invalid(e.to_string()))?;
        writeln!(self.file, "{line}").map_err(|e| Error::io(self.dir.join("metrics.jsonl"), e))?;
        self.metrics.push(metric.clone());
        Ok(())
    }

    fn plot(&self) -> Result<()> {
        let loss = self.metrics.iter().map(|m| (m.step as f64, m.loss)).collect();
        let series = [Series { name: "loss".into(), points: loss }];
        line_plot(&self.dir.join("loss.png"), "Training", "step", "loss", &series, true)?;
        let points: Vec<_> =
            self.metrics.iter().filter_map(|m| Some((m.step as f64, m.pc_success?))).collect();
        if points.len() > 1 {
            let series = [Series { name: "success".into(), points }];
            let path = self.dir.join("success.png");
            line_plot(&path, "Evaluation", "step", "success, %", &series, false)?;
        }
        Ok(())
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    first: usize,
    total: usize,
    start: Instant,
    said: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(step: usize, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr_with_hz(4)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) =
            ProgressStyle::with_template("{pos}/{len} [{bar:30}] {per_sec} eta {eta} {msg}")
        {
            bar.set_style(style);
        }
        bar.reset_eta();
        bar.set_position(step as u64);
        let now = Instant::now();
        Self { bar, terminal, first: step, total, start: now, said: std::cell::Cell::new(now) }
    }

    fn tick(&self, step: usize, loss: f64) {
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("loss {loss:.4}"));
    }

    fn say(&self, line: &str) {
        if self.terminal { self.bar.println(line) } else { eprintln!("{line}") }
    }

    fn log(&self, metric: &Metric) {
        let quiet = self.said.get().elapsed() < Duration::from_secs(10);
        if self.terminal || (quiet && metric.step < self.total) {
            return;
        }
        self.said.set(Instant::now());
        let rate = (metric.step - self.first) as f64 / self.start.elapsed().as_secs_f64();
        let eta = (self.total - metric.step) as f64 / rate.max(1e-9);
        eprintln!(
            "step {}/{}  loss {:.4}  lr {:.2e}  grad_norm {:.2}  {rate:.1} steps/s  eta {eta:.0} s",
            metric.step, self.total, metric.loss, metric.lr, metric.grad_norm
        );
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
