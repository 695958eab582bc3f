//! Eight Gaussians to two moons: the small benchmark of few-step flow matching (docs/moons.md).
//!
//! ```text
//! moons train --variant ot --seed 0 --out runs/moons     trains, saves the weights
//! moons eval  --variant ot --seed 0 --out runs/moons     appends one JSON line per solver to results.jsonl
//! moons floor --seed 0 --out runs/moons                  true moons against true moons
//! moons table --out runs/moons                           the table of docs/moons.md
//! moons picture --out runs/moons                         its picture, of seed 0
//! ```

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path as FilePath, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use pathline::flow::assignment::squared_w2;
use pathline::flow::coupling::{ConditionCost, Coupling};
use pathline::flow::shortcut::{Shortcut, Split, time_columns};
use pathline::flow::{Noise, Path, cfm, mse};
use pathline::nn::dense::{Activation, Dense, DenseConfig};
use pathline::nn::params::Params;
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::solver::flow_map::flow_map;
use pathline::solver::{Adaptive, adaptive, grid};
use pathline::train::optimizer::{AdamW, OptimizerConfig};
use pathline::{Error, Result};

const PATH: Path = Path::Straight;
const OT_BATCH: usize = 1024;
const BATCH: usize = 256;
const POINTS: usize = 10_000;

/// What the network is told beside state and time.
#[derive(Clone, Copy, PartialEq)]
enum Condition {
    None,
    Class,
    X,
}

/// One row of the table.
struct Variant {
    condition: Condition,
    coupling: Coupling,
    shortcut: Option<Shortcut>,
    /// Minibatches in the order of torchdyn's moons: class by class, angle by angle.
    sorted: bool,
}

fn variant(name: &str) -> Result<Variant> {
    let mut parts = name.split('-');
    let method = parts.next().unwrap_or_default();
    let mut out = Variant {
        condition: Condition::None,
        coupling: Coupling::Independent,
        shortcut: None,
        sorted: false,
    };
    let mut conditional = false;
    match method {
        "fm" => {}
        "ot" => out.coupling = Coupling::Exact,
        "c2ot" => conditional = true,
        "shortcut" => {
            out.shortcut = Some(Shortcut { split: Split::Dyadic { levels: 4 }, share: 0.5 });
        }
        "split" => out.shortcut = Some(Shortcut { split: Split::Anywhere, share: 0.5 }),
        _ => return Err(unknown(name)),
    }
    for part in parts {
        match part {
            "class" => out.condition = Condition::Class,
            "x" => out.condition = Condition::X,
            "ot" => out.coupling = Coupling::Exact,
            "sorted" => out.sorted = true,
            _ => return Err(unknown(name)),
        }
    }
    if conditional {
        out.coupling = Coupling::Conditional(match out.condition {
            Condition::Class => ConditionCost::Class,
            Condition::X => ConditionCost::Ratio { share: 0.05 },
            Condition::None => return Err(unknown(name)),
        });
    }
    Ok(out)
}

fn unknown(name: &str) -> Error {
    Error::Unknown {
        what: "variant".into(),
        expected: "fm, ot, c2ot, shortcut, split with -class, -x, -ot, -sorted".into(),
        got: name.into(),
    }
}

struct Args(BTreeMap<String, String>);

impl Args {
    fn text(&self, key: &str, default: &str) -> String {
        self.0.get(key).cloned().unwrap_or_else(|| default.into())
    }

    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Error::Invalid(format!("--{key}: expected a number, got {text:?}"))),
        }
    }
}

/// Points `[n, 2]` from eight Gaussians on a circle of radius 5. The published code asks for "variance
/// 0.1" and hands √0.1·I to PyTorch as the covariance: the deviation is 0.1^¼ = 0.562.
fn gaussians(noise: &Noise, batch: u64, n: usize) -> Result<Tensor> {
    let deviation = 0.1f64.powf(0.25);
    let normal = noise.normal(batch, 0, 2 * n);
    let centre = noise.uniforms(batch, 1, n);
    let points: Vec<f32> = (0..2 * n)
        .map(|k| {
            let angle = (centre[k / 2] * 8.0).floor() * std::f64::consts::FRAC_PI_4;
            let mean = 5.0 * if k % 2 == 0 { angle.cos() } else { angle.sin() };
            (mean + deviation * f64::from(normal[k])) as f32
        })
        .collect();
    Ok(Tensor::from_vec(points, (n, 2), &Device::Cpu)?)
}

/// Points `[n, 2]` of torchdyn's moons times 3 minus 1, and their class in ±1. The angles are equally
/// spaced, and "noise 0.2" is one uniform number of [0, 0.2) added to both coordinates.
fn moons(noise: &Noise, batch: u64, n: usize, sorted: bool) -> Result<(Tensor, Vec<f32>)> {
    let shift = noise.uniforms(batch, 2, n);
    let outer = n / 2;
    let order: Vec<usize> = if sorted {
        (0..n).collect()
    } else {
        noise.permutation(batch, n).iter().map(|&i| i as usize).collect()
    };
    let spaced = |i: usize, of: usize| std::f64::consts::PI * i as f64 / (of - 1) as f64;
    let mut points = Vec::with_capacity(2 * n);
    let mut class = Vec::with_capacity(n);
    for i in order {
        let (x, y) = if i < outer {
            let angle = spaced(i, outer);
            (angle.cos(), angle.sin())
        } else {
            let angle = spaced(i - outer, n - outer);
            (1.0 - angle.cos(), 0.5 - angle.sin())
        };
        for value in [x, y] {
            points.push((3.0 * (value + 0.2 * shift[i]) - 1.0) as f32);
        }
        class.push(if i < outer { -1.0 } else { 1.0 });
    }
    Ok((Tensor::from_vec(points, (n, 2), &Device::Cpu)?, class))
}

fn condition(kind: Condition, data: &Tensor, class: &[f32]) -> Result<Option<Tensor>> {
    Ok(match kind {
        Condition::None => None,
        Condition::Class => Some(Tensor::new(class, &Device::Cpu)?.reshape((class.len(), 1))?),
        Condition::X => Some(data.narrow(1, 0, 1)?.contiguous()?),
    })
}

fn network(args: &Args, variant: &Variant) -> Result<DenseConfig> {
    let condition = usize::from(variant.condition != Condition::None);
    let times = 1 + usize::from(variant.shortcut.is_some());
    let expansion = args.number("expansion", 0)?;
    let config = DenseConfig {
        dims: 2,
        scalars: times + condition,
        width: args.number("width", 128)?,
        depth: args.number("depth", 3)?,
        expansion,
        activation: if expansion == 0 { Activation::Silu } else { Activation::Gelu },
    };
    config.validate()?;
    Ok(config)
}

fn column(values: &[f64]) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().map(|&t| t as f32).collect();
    let n = values.len();
    Ok(Tensor::from_vec(values, (n, 1), &Device::Cpu)?)
}

fn with_condition(times: Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
    Ok(match condition {
        Some(condition) => Tensor::cat(&[&times, condition], 1)?,
        None => times,
    })
}

fn folder(args: &Args) -> PathBuf {
    PathBuf::from(args.text("out", "runs/moons"))
}

fn stem(args: &Args) -> Result<String> {
    let seed: u64 = args.number("seed", 0)?;
    let expansion: usize = args.number("expansion", 0)?;
    let tag = args.text("tag", if expansion == 0 { "" } else { "-wide" });
    Ok(format!("{}{tag}-{seed}", args.text("variant", "fm")))
}

/// The pairs of a run: read from a file when another run of the same seed has computed them.
struct Pairs {
    file: PathBuf,
    known: Vec<u16>,
    changed: bool,
}

impl Pairs {
    fn open(out: &FilePath, coupling: &Coupling, condition: Condition, seed: u64) -> Self {
        let name = match (coupling, condition) {
            (Coupling::Exact, _) => "exact",
            (_, Condition::Class) => "class",
            _ => "x",
        };
        let file = out.join(format!("pairs-{name}-{seed}.bin"));
        let bytes = std::fs::read(&file).unwrap_or_default();
        let known = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        Self { file, known, changed: false }
    }

    fn get(
        &mut self,
        batch: usize,
        compute: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        if self.known.len() < (batch + 1) * OT_BATCH {
            self.known.extend(compute()?.iter().map(|&j| j as u16));
            self.changed = true;
        }
        let part = &self.known[batch * OT_BATCH..(batch + 1) * OT_BATCH];
        Ok(part.iter().map(|&j| u32::from(j)).collect())
    }

    fn save(&self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let bytes: Vec<u8> = self.known.iter().flat_map(|j| j.to_le_bytes()).collect();
        let part = self.file.with_extension(format!("part{}", std::process::id()));
        std::fs::write(&part, bytes).map_err(|e| Error::io(&part, e))?;
        std::fs::rename(&part, &self.file).map_err(|e| Error::io(&self.file, e))
    }
}

fn train(args: &Args) -> Result<()> {
    let (mut variant, out) = (variant(&args.text("variant", "fm"))?, folder(args));
    if let Some(shortcut) = &mut variant.shortcut {
        shortcut.share = args.number("share", shortcut.share)?;
        if let Split::Dyadic { levels } = &mut shortcut.split {
            *levels = args.number("levels", *levels)?;
        }
    }
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    let seed: u64 = args.number("seed", 0)?;
    let updates: usize = args.number("updates", 20_000)?;
    let lr: f64 = args.number("lr", 3e-4)?;
    let noise = Noise::new(1000 + seed);
    let params = Params::new(seed);
    let net = Dense::load(&network(args, &variant)?, params.builder(&Device::Cpu))?;
    let decay = args.text("decay", "none");
    let optimizer = OptimizerConfig {
        lr,
        betas: [0.9, 0.999],
        weight_decay: 0.0,
        grad_clip_norm: f64::INFINITY,
        warmup_steps: 0,
        ema_decay: args.number("ema", 0.999)?,
        ..Default::default()
    };
    let mut adam = AdamW::new(optimizer.clone(), params.named())?;
    let mut pairs = Pairs::open(&out, &variant.coupling, variant.condition, seed);
    let (start, mut coupling_secs, mut mean_loss) = (Instant::now(), 0.0, 0.0);
    for batch in 0..updates.div_ceil(OT_BATCH / BATCH) {
        let x0 = gaussians(&noise, batch as u64, OT_BATCH)?;
        let (mut x1, class) = moons(&noise, batch as u64, OT_BATCH, variant.sorted)?;
        let mut y = condition(variant.condition, &x1, &class)?;
        if variant.coupling != Coupling::Independent {
            let clock = Instant::now();
            let columns = pairs
                .get(batch, || variant.coupling.pair(&x0, &x1, y.as_ref(), &noise, batch as u64))?;
            let columns = Tensor::new(columns, &Device::Cpu)?;
            x1 = x1.index_select(&columns, 0)?;
            y = y.map(|y| y.index_select(&columns, 0)).transpose()?;
            coupling_secs += clock.elapsed().as_secs_f64();
        }
        for part in 0..OT_BATCH / BATCH {
            let step = batch * (OT_BATCH / BATCH) + part;
            let rows = |x: &Tensor| x.narrow(0, part * BATCH, BATCH);
            let (x0, x1) = (rows(&x0)?, rows(&x1)?);
            let y = y.as_ref().map(rows).transpose()?;
            let loss = match &variant.shortcut {
                None => {
                    let t = noise.uniforms(step as u64, 3, BATCH);
                    let batch = cfm(&PATH, &x1, &x0, &t)?;
                    let scalars = with_condition(column(&t)?, y.as_ref())?;
                    mse(&net.forward(&batch.x_t, &scalars)?, &batch.velocity, None)?
                }
                Some(shortcut) => {
                    let mut map = |x: &Tensor, t: &[f64], r: &[f64]| -> Result<Tensor> {
                        let y = y.as_ref().map(|y| y.narrow(0, 0, t.len())).transpose()?;
                        let scalars = with_condition(time_columns(&PATH, t, r, x)?, y.as_ref())?;
                        Ok(net.forward(x, &scalars)?)
                    };
                    let draw = (&noise, 10 + step as u64);
                    let batch = shortcut.batch(&PATH, (&x1, &x0), draw, &mut map)?;
                    mse(&map(&batch.x_t, &batch.t, &batch.r)?, &batch.target, None)?
                }
            };
            let lr = if decay == "cosine" { optimizer.lr_at(step, updates) } else { lr };
            adam.update(&loss.backward()?, lr)?;
            mean_loss += f64::from(loss.to_scalar::<f32>()?);
            if (step + 1).is_multiple_of(1000) {
                let secs = start.elapsed().as_secs_f64();
                println!(
                    "{} update {} loss {:.4} {:.0} updates/s, coupling {coupling_secs:.0} s of {secs:.0}",
                    stem(args)?,
                    step + 1,
                    mean_loss / 1000.0,
                    (step + 1) as f64 / secs,
                );
                mean_loss = 0.0;
            }
        }
    }
    pairs.save()?;
    let raw =
        params.named().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    save(&out.join(format!("{}.safetensors", stem(args)?)), &raw)?;
    save(&out.join(format!("{}.ema.safetensors", stem(args)?)), &adam.ema()?)
}

fn save(file: &FilePath, tensors: &std::collections::HashMap<String, Tensor>) -> Result<()> {
    Ok(candle_core::safetensors::save(tensors, file)?)
}

fn coordinates(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn eval(args: &Args) -> Result<()> {
    let (variant, out) = (variant(&args.text("variant", "fm"))?, folder(args));
    let seed: u64 = args.number("seed", 0)?;
    let noise = Noise::new(500_000 + seed);
    let x0 = gaussians(&noise, 0, POINTS)?;
    let (x1, class) = moons(&noise, 0, POINTS, true)?;
    let y = condition(variant.condition, &x1, &class)?;
    let target = coordinates(&x1)?;
    for weights in args.text("weights", "raw").split(',') {
        let middle = if weights == "raw" { "" } else { ".ema" };
        let file = out.join(format!("{}{middle}.safetensors", stem(args)?));
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let net = Dense::load(&network(args, &variant)?, vb)?;
        let average = |x: &Tensor, y: Option<&Tensor>, t: f64, r: f64| -> Result<Tensor> {
            let n = x.dims()[0];
            let times = match variant.shortcut {
                Some(_) => time_columns(&PATH, &vec![t; n], &vec![r; n], x)?,
                None => column(&vec![t; n])?,
            };
            Ok(net.forward(x, &with_condition(times, y)?)?)
        };
        for solver in args.text("solvers", "1,dopri5").split(',') {
            let clock = Instant::now();
            let (x, nfe) = if solver == "dopri5" {
                // As published: each 256 points choose their own steps.
                let control = Adaptive { rtol: 1e-4, atol: 1e-4, ..Default::default() };
                let (mut parts, mut nfe) = (Vec::new(), 0);
                for from in (0..POINTS).step_by(BATCH) {
                    let rows = |x: &Tensor| x.narrow(0, from, BATCH.min(POINTS - from));
                    let y = y.as_ref().map(rows).transpose()?;
                    let mut field = |x: &Tensor, t: f64| average(x, y.as_ref(), t, t);
                    let ends = [1.0, 0.0];
                    let end =
                        adaptive(&mut field, rows(&x0)?, &ends, &control, &mut |_, _, _| Ok(()))?;
                    nfe += end.nfe;
                    parts.push(end.x);
                }
                (Tensor::cat(&parts, 0)?, nfe as f64 / parts.len() as f64)
            } else {
                let steps = solver.parse().map_err(|_| Error::Invalid("--solvers".into()))?;
                let grid = grid::uniform(1.0, 0.0, steps)?;
                let mut field = |x: &Tensor, t: f64, r: f64| average(x, y.as_ref(), t, r);
                let end = flow_map(&mut field, x0.clone(), &grid, &mut |_, _, _| Ok(()))?;
                (end.x, end.nfe as f64)
            };
            let (sampling, clock) = (clock.elapsed().as_secs_f64(), Instant::now());
            let w2 = squared_w2(&coordinates(&x)?, &target, 2)?;
            append(
                &out,
                &serde_json::json!({
                    "variant": stem(args)?.rsplit_once('-').map_or("", |(name, _)| name),
                    "seed": seed, "weights": weights, "solver": solver,
                    "nfe": nfe, "squared_w2": w2,
                    "sampling_secs": sampling, "assignment_secs": clock.elapsed().as_secs_f64(),
                }),
            )?;
        }
    }
    Ok(())
}

/// Two sets of true moons: as the benchmark draws them, and with random classes and angles.
fn floor(args: &Args) -> Result<()> {
    let (seed, out) = (args.number("seed", 0)?, folder(args));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    let noise = Noise::new(500_000 + seed);
    let target = coordinates(&moons(&noise, 0, POINTS, true)?.0)?;
    let spaced = coordinates(&moons(&noise, 1, POINTS, true)?.0)?;
    // Random points of a set a hundred times finer: classes and angles then vary as in any sample.
    let fine = coordinates(&moons(&noise, 2, 100 * POINTS, true)?.0)?;
    let picks = noise.uniforms(3, 9, POINTS);
    let random: Vec<f64> = picks
        .iter()
        .flat_map(|u| {
            let i = (u * (100 * POINTS) as f64) as usize;
            [fine[2 * i], fine[2 * i + 1]]
        })
        .collect();
    for (solver, points) in [("spaced", spaced), ("random", random)] {
        let w2 = squared_w2(&points, &target, 2)?;
        append(
            &out,
            &serde_json::json!({"variant": "floor", "seed": seed, "weights": "", "solver": solver,
                "nfe": 0, "squared_w2": w2}),
        )?;
    }
    Ok(())
}

fn append(out: &FilePath, line: &serde_json::Value) -> Result<()> {
    let file = out.join("results.jsonl");
    println!("{line}");
    let mut options = std::fs::OpenOptions::new();
    let mut handle =
        options.create(true).append(true).open(&file).map_err(|e| Error::io(&file, e))?;
    handle.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io(&file, e))
}

/// Samples of four ways, with straight lines from where they started (docs/moons.png).
fn picture(args: &Args) -> Result<()> {
    let out = folder(args);
    let seed: u64 = args.number("seed", 0)?;
    let n = 1000;
    let noise = Noise::new(500_000 + seed);
    let x0 = gaussians(&noise, 0, n)?;
    let pairs = |x: &Tensor| -> Result<Vec<(f64, f64)>> {
        Ok(coordinates(x)?.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    };
    let mut figure = Figure::new("", 4, [320, 320]);
    for (title, name) in [
        ("FM, one step", "fm"),
        ("minibatch OT, one step", "ot"),
        ("shortcut on OT pairs, one step", "shortcut-ot-D"),
        ("true moons", ""),
    ] {
        let mut panel = Panel::new(title, Scale::bare(-7.0, 7.0), Scale::bare(-7.0, 7.0));
        let ends = if name.is_empty() {
            pairs(&moons(&noise, 0, n, true)?.0)?
        } else {
            let variant = variant(name.trim_end_matches("-D"))?;
            let file = out.join(format!("{name}-{seed}.safetensors"));
            let tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let net = Dense::load(&network(args, &variant)?, vb)?;
            let mut field = |x: &Tensor, t: f64, r: f64| -> Result<Tensor> {
                let times = match variant.shortcut {
                    Some(_) => time_columns(&PATH, &vec![t; n], &vec![r; n], x)?,
                    None => column(&vec![t; n])?,
                };
                Ok(net.forward(x, &times)?)
            };
            pairs(&flow_map(&mut field, x0.clone(), &[1.0, 0.0], &mut |_, _, _| Ok(()))?.x)?
        };
        let starts = pairs(&x0)?;
        if !name.is_empty() {
            for (from, to) in starts.iter().zip(&ends).take(300) {
                let line = Layer::thin_line(vec![*from, *to], 0.6);
                panel = panel.with(line.colored(Color::GREY).faded(0.35));
            }
        }
        panel = panel.with(Layer::discs(starts, 1.2).colored(Color::AMBER).named("noise"));
        panel = panel.with(Layer::discs(ends, 1.2).colored(Color::BLUE).named("samples"));
        figure = figure.with(panel);
    }
    figure.save(FilePath::new(&args.text("file", "docs/moons.png")))
}

/// The rows of the table: what it is, the run's name, and the published squared W2 with one Euler step
/// and with Dopri5.
const PUBLISHED: [(&str, &str, &str, &str); 9] = [
    ("FM", "fm", "6.232 ± 0.186", "0.120 ± 0.045"),
    ("FM, published width", "fm-wide", "6.232 ± 0.186", "0.120 ± 0.045"),
    ("OT", "ot", "0.072 ± 0.025", "0.050 ± 0.040"),
    ("FM, class", "fm-class", "2.573 ± 0.112", "0.059 ± 0.029"),
    ("OT, class", "ot-class", "0.483 ± 0.059", "0.462 ± 0.025"),
    ("C²OT, class", "c2ot-class", "0.048 ± 0.010", "0.018 ± 0.006"),
    ("FM, x", "fm-x", "0.732 ± 0.052", "0.028 ± 0.010"),
    ("OT, x", "ot-x", "8.276 ± 6.510", "2.143 ± 1.993"),
    ("C²OT, x", "c2ot-x", "0.077 ± 0.024", "0.013 ± 0.003"),
];

/// The few-step rows: what it is, the run's name, the solver.
const FEW: [(&str, &str, &str); 6] = [
    ("OT, as above, Euler", "ot", "1"),
    ("OT, few-step recipe, Euler", "ot-D", "1"),
    ("OT, few-step recipe, Euler", "ot-D", "2"),
    ("**shortcut on OT pairs**, flow map", "shortcut-ot-D", "1"),
    ("**shortcut on OT pairs**, flow map", "shortcut-ot-D", "2"),
    ("true moons, random class and angle", "floor", "random"),
];

/// Prints the tables: mean ± standard deviation (with n − 1) over the seeds, newest line of each.
fn table(args: &Args) -> Result<()> {
    let file = folder(args).join("results.jsonl");
    let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
    let mut rows: BTreeMap<[String; 2], BTreeMap<u64, [f64; 2]>> = BTreeMap::new();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line)
            .map_err(|e| Error::Invalid(format!("{}: {e}", file.display())))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        if text("weights") != "ema" {
            let numbers = ["squared_w2", "nfe"].map(|key| value[key].as_f64().unwrap_or(f64::NAN));
            let seed = value["seed"].as_u64().unwrap_or_default();
            rows.entry([text("variant"), text("solver")]).or_default().insert(seed, numbers);
        }
    }
    let cell = |variant: &str, solver: &str| match rows.get(&[variant.into(), solver.into()]) {
        None => ("–".to_owned(), 0, f64::NAN),
        Some(seeds) => {
            let n = seeds.len() as f64;
            let mean = |k: usize| seeds.values().map(|x| x[k]).sum::<f64>() / n;
            let square: f64 = seeds.values().map(|x| (x[0] - mean(0)).powi(2)).sum();
            let deviation = match seeds.len() {
                1 => String::new(),
                _ => format!(" ± {:.3}", (square / (n - 1.0)).sqrt()),
            };
            (format!("{:.3}{deviation}", mean(0)), seeds.len(), mean(1))
        }
    };
    println!("| | Euler-1 | published | Dopri5 | published | evaluations | seeds |");
    println!("|---|---|---|---|---|---|---|");
    for (name, variant, euler, dopri5) in PUBLISHED {
        let ((one, seeds, _), (ode, _, nfe)) = (cell(variant, "1"), cell(variant, "dopri5"));
        println!("| {name} | {one} | {euler} | {ode} | {dopri5} | {nfe:.0} | {seeds} |");
    }
    println!("\n| | evaluations | squared W2 | seeds |\n|---|---|---|---|");
    for (name, variant, solver) in FEW {
        let (w2, seeds, nfe) = cell(variant, solver);
        println!("| {name} | {nfe:.0} | {w2} | {seeds} |");
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let mut args = BTreeMap::new();
    while let Some(key) = words.next() {
        let (Some(key), Some(value)) = (key.strip_prefix("--"), words.next()) else {
            return Err(Error::Invalid(format!("expected --name value, got {key:?}")));
        };
        args.insert(key.to_owned(), value);
    }
    let args = Args(args);
    match command.as_str() {
        "train" => train(&args),
        "eval" => eval(&args),
        "floor" => floor(&args),
        "table" => table(&args),
        "picture" => picture(&args),
        other => Err(Error::Unknown {
            what: "command".into(),
            expected: "train, eval, floor, table, picture".into(),
            got: other.into(),
        }),
    }
}
