//! Quality against the number of evaluations: a table, JSON, a plot, and samples beside their nearest
//! training pictures.
//!
//! ```toml
//! name = "quality"
//! title = "Fashion-MNIST"
//! recipe = "policies/fashion-flow/recipe-flow.toml"      # what was trained on
//! reference = { source = "fashion_mnist", size = 32, split = "test" }
//! features = "runs/fashion-features"
//! samples = 1000
//! seed = 0
//! shown = 10
//! enlarged = 2
//! [[line]]
//! name = "flow, Euler"
//! model = "policies/fashion-flow"
//! sampling_method = "euler"
//! steps = [1, 2, 4, 8, 16, 32]
//! cfg_scale = 1.0
//! ```
//! Samples have the captions or classes of evenly spaced reference pictures and are compared with all of
//! them, in features of the project's own classifier: no FID. As many training pictures, compared in the
//! same way, are the floor. A row that `NAME.json` holds already is not drawn again; remove the file to
//! begin anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use pathline::dataset::pictures::{Pictures, PicturesConfig};
use pathline::plot::{Figure, Layer, Panel, Row, Scale, Sheet};
use pathline::train::quality;
use pathline::vae::features::FeatureNet;
use pathline::{Error, Result, device};
use serde::Deserialize;

use crate::common::{
    Cell, Known, Table, as_data, data_tile, describe, features, logits, spread, tiles,
};
use crate::plan::{self, Line, Subject};
use crate::sampling::Models;

/// The most training pictures among which a neighbour is looked for.
const SEARCHED: usize = 60_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    recipe: PathBuf,
    /// The training pictures themselves if absent.
    reference: Option<PicturesConfig>,
    features: PathBuf,
    samples: usize,
    seed: u64,
    shown: usize,
    enlarged: usize,
    line: Vec<Line>,
}

/// What was measured of one line at one number of steps.
#[derive(Clone, Deserialize)]
struct Measured {
    name: String,
    steps: usize,
    evaluations: usize,
    #[serde(default = "nan")]
    frechet_own: f64,
    #[serde(default = "nan")]
    kernel_own: f64,
    #[serde(default = "nan")]
    accuracy: f64,
    seconds: f64,
}

impl Measured {
    /// Pictures that no model drew.
    fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            steps: 0,
            evaluations: 0,
            frechet_own: f64::NAN,
            kernel_own: f64::NAN,
            accuracy: f64::NAN,
            seconds: 0.0,
        }
    }
}

fn nan() -> f64 {
    f64::NAN
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let training = plan::pictures(&plan.recipe)?;
    let reference = plan.reference.as_ref().map(Pictures::open).transpose()?;
    let reference = reference.as_ref().unwrap_or(&training);
    let net = FeatureNet::open(&plan.features, &device::cpu())?;
    let indices = reference.training();
    let chosen = spread(&indices, plan.samples);
    let subjects: Vec<Subject> = chosen.iter().map(|i| subject(reference, *i)).collect();
    let labels: Vec<u32> =
        chosen.iter().filter_map(|i| reference.labels.get(*i).copied()).collect();
    let target = features(&net, &reference.batch(&indices)?)?;
    let measure = |x: &Tensor, labels: &[u32]| -> Result<[f64; 3]> {
        let made = features(&net, x)?;
        let right = match labels.len() == x.dim(0)? {
            true => quality::accuracy(&logits(&net, x)?, labels)?,
            false => f64::NAN,
        };
        let frechet = quality::frechet_distance(&made, &target)?;
        Ok([frechet, quality::kernel_distance(&made, &target)?, right])
    };

    let path = out.join(format!("{}.json", plan.name));
    let mut rows: Vec<Measured> = if path.is_file() {
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::config(&path, e.to_string()))?
    } else {
        Vec::new()
    };
    let floor = "training pictures";
    if !rows.iter().any(|row| row.name == floor) {
        // Other pictures than those that the captions are from, where the sets are the same.
        let own = training.training();
        let others: Vec<usize> = own.iter().copied().filter(|i| !chosen.contains(i)).collect();
        let few = spread(if plan.reference.is_some() { &own } else { &others }, plan.samples);
        let labels: Vec<u32> =
            few.iter().filter_map(|i| training.labels.get(*i).copied()).collect();
        let [frechet_own, kernel_own, accuracy] = measure(&training.batch(&few)?, &labels)?;
        let row = Measured { frechet_own, kernel_own, accuracy, ..Measured::of(floor) };
        rows.insert(0, row);
    }
    let itself = "all reference pictures";
    if !reference.labels.is_empty() && !rows.iter().any(|row| row.name == itself) {
        let labels: Vec<u32> = indices.iter().map(|i| reference.labels[*i]).collect();
        let accuracy = quality::accuracy(&logits(&net, &reference.batch(&indices)?)?, &labels)?;
        rows.insert(0, Measured { accuracy, ..Measured::of(itself) });
    }
    let mut models = Models::default();
    let is_there = |line: &&Line| plan::is_there(&line.name, &line.model);
    let lines: Vec<&Line> = plan.line.iter().filter(is_there).collect();
    for line in &lines {
        for &steps in &line.steps {
            if rows.iter().any(|row| row.name == line.name && row.steps == steps) {
                continue;
            }
            let drawn = models.draw(line, steps, &subjects, plan.seed, None)?;
            let x = as_data(&drawn.pictures, training.channels)?;
            let [frechet_own, kernel_own, accuracy] = measure(&x, &labels)?;
            let (evaluations, seconds) = (drawn.evaluations, drawn.seconds);
            let name = line.name.clone();
            rows.push(Measured {
                name,
                steps,
                evaluations,
                frechet_own,
                kernel_own,
                accuracy,
                seconds,
            });
            table(&rows).save(out, &plan.name)?;
        }
    }
    table(&rows).save(out, &plan.name)?;
    plot(&out.join(format!("{}.png", plan.name)), plan, &rows)?;
    neighbours(out, plan, &training, (&subjects, &lines), &mut models)
}

/// What a sample like picture `index` is asked to show.
fn subject(pictures: &Pictures, index: usize) -> Subject {
    let name = describe(pictures, index);
    if pictures.captions.is_empty() { Subject::Class(name) } else { Subject::Prompt(name) }
}

fn table(rows: &[Measured]) -> Table {
    let row = |row: &Measured| {
        vec![
            Cell::Text(row.name.clone()),
            Cell::Number(row.steps as f64, 0),
            Cell::Number(row.evaluations as f64, 0),
            Cell::Number(row.frechet_own, 3),
            Cell::Number(row.kernel_own, 4),
            Cell::Number(row.accuracy, 3),
            Cell::Number(row.seconds, 3),
        ]
    };
    Table {
        columns: vec![
            "method",
            "steps",
            "evaluations",
            "Fréchet distance, own features",
            "kernel distance, own features",
            "accuracy of the classifier",
            "s a picture",
        ],
        keys: vec![
            "name",
            "steps",
            "evaluations",
            "frechet_own",
            "kernel_own",
            "accuracy",
            "seconds",
        ],
        rows: rows.iter().map(row).collect(),
    }
}

fn plot(path: &Path, plan: &Plan, rows: &[Measured]) -> Result<()> {
    let mut lines: BTreeMap<usize, Vec<&Measured>> = BTreeMap::new();
    for row in rows {
        if let Some(at) = plan.line.iter().position(|line| line.name == row.name) {
            lines.entry(at).or_default().push(row);
        }
    }
    let floor = rows.iter().find(|row| row.evaluations == 0 && row.frechet_own.is_finite());
    let most = rows.iter().map(|row| row.evaluations).max().unwrap_or(1).max(2) as f64;
    let panel = |title: &str, y: Scale, value: fn(&Measured) -> f64| {
        let layers = lines.iter().map(|(at, rows)| {
            let mut points: Vec<(f64, f64)> =
                rows.iter().map(|row| (row.evaluations as f64, value(row))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Layer::dotted_line(points).named(plan.line[*at].name.as_str())
        });
        let mut panel =
            Panel::new(title, Scale::log("evaluations of the network"), y).with_all(layers);
        if let Some(floor) = floor.filter(|floor| value(floor).is_finite()) {
            let ends = vec![(1.0, value(floor)), (most, value(floor))];
            panel = panel.with(Layer::dashes(ends).named("training pictures"));
        }
        panel
    };
    let distance = Scale::log("Fréchet distance, own features");
    let mut figure = Figure::new(plan.title.as_str(), 2, [520, 400]).with(panel(
        "lower is better",
        distance,
        |row| row.frechet_own,
    ));
    if rows.iter().all(|row| row.accuracy.is_finite()) {
        let share = Scale::linear("share recognised by the classifier");
        figure = figure.with(panel("higher is better", share, |row| row.accuracy));
    }
    figure.save(path)
}

/// Samples of every line at its most steps, each above its nearest training picture.
fn neighbours(
    out: &Path,
    plan: &Plan,
    training: &Pictures,
    (subjects, lines): (&[Subject], &[&Line]),
    models: &mut Models,
) -> Result<()> {
    let places: Vec<usize> = (0..subjects.len()).collect();
    let few: Vec<Subject> =
        spread(&places, plan.shown).into_iter().map(|i| subjects[i].clone()).collect();
    if few.is_empty() {
        return Ok(());
    }
    let known = Known::new(training, spread(&training.training(), SEARCHED))?;
    let mut rows = Vec::new();
    for line in lines {
        let Some(&steps) = line.steps.iter().max() else { continue };
        let drawn = models.draw(line, steps, &few, plan.seed, None)?;
        let name = format!("{}, {} evaluations", line.name, drawn.evaluations);
        rows.push(Row { name, tiles: tiles(&drawn.pictures)? });
        let nearest = known.nearest(&drawn.pictures)?.into_iter().map(|(index, distance)| {
            let mut tile = data_tile(training, index)?;
            tile.caption = format!("{distance:.0}");
            Ok(tile)
        });
        let tiles = nearest.collect::<Result<_>>()?;
        rows.push(Row { name: "nearest trained on, and how far in levels of 255".into(), tiles });
    }
    let headers = few.iter().map(|subject| subject.name().to_owned()).collect();
    let title = format!("{}: samples and their nearest training pictures", plan.title);
    let sheet = Sheet { title, headers, rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}-neighbours.png", plan.name)))
}
