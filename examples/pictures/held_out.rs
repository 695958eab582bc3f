//! Captions that were not trained on: samples, the real picture, and the nearest training pictures.
//!
//! ```toml
//! name = "held-out"
//! title = "Captions that were not trained on"
//! recipe = "policies/emoji-flow/recipe-flow.toml"
//! seed = 0
//! samples = 3
//! shown = ["green heart", "woman firefighter: medium skin tone"]
//! enlarged = 1
//! [line]
//! name = "Euler"
//! model = "policies/emoji-flow"
//! steps = [24]
//! ```
//! The table is over all captions that are held out: how often the first sample is nearer, by pixels, to
//! the real picture of its caption than to any other picture of the whole set, training included.

use std::path::{Path, PathBuf};

use pathline::plot::{Row, Sheet};
use pathline::{Error, Result};
use serde::Deserialize;

use crate::common::{Cell, Known, Table, data_tile, tiles};
use crate::plan::{self, Line, Subject};
use crate::sampling::Models;

/// Seeds of different samples of a caption are so far apart.
const APART: u64 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    recipe: PathBuf,
    seed: u64,
    samples: usize,
    shown: Vec<String>,
    enlarged: usize,
    line: Line,
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let pictures = plan::pictures(&plan.recipe)?;
    let steps = plan.line.first_steps()?;
    let known = Known::new(&pictures, pictures.training())?;
    let all = Known::new(&pictures, (0..pictures.len()).collect())?;
    let held_out = &pictures.held_out;
    let subject = |index: &usize| Subject::Prompt(pictures.captions[*index].clone());
    let subjects: Vec<Subject> = held_out.iter().map(subject).collect();
    let mut models = Models::default();
    let mut samples = Vec::new();
    for sample in 0..plan.samples.max(1) as u64 {
        let seed = plan.seed + sample * APART;
        samples.push(models.draw(&plan.line, steps, &subjects, seed, None)?.pictures);
    }

    let mut rows = Vec::new();
    for caption in &plan.shown {
        let at = held_out.iter().position(|i| pictures.captions[*i] == *caption);
        let at = at.ok_or_else(|| {
            Error::Invalid(format!("shown: expected captions that are held out, got {caption:?}"))
        })?;
        let mut row = Row { name: caption.clone(), tiles: Vec::new() };
        for batch in &samples {
            row.tiles.extend(tiles(&batch.narrow(0, at, 1)?)?);
        }
        let mut real = data_tile(&pictures, held_out[at])?;
        real.caption = String::new();
        row.tiles.push(real);
        for batch in samples.iter().take(2) {
            for (index, distance) in known.nearest(&batch.narrow(0, at, 1)?)? {
                let mut tile = data_tile(&pictures, index)?;
                tile.caption = format!("{} ({distance:.0})", tile.caption);
                row.tiles.push(tile);
            }
        }
        rows.push(row);
    }
    let mut headers: Vec<String> = (1..=samples.len()).map(|i| format!("sample {i}")).collect();
    headers.push("real, never seen".into());
    headers
        .extend((1..=samples.len().min(2)).map(|i| format!("nearest trained on, to sample {i}")));
    let sheet = Sheet { title: plan.title.clone(), headers, rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}.png", plan.name)))?;

    let mut ranks = Vec::new();
    for (i, index) in held_out.iter().enumerate() {
        ranks.push(all.rank(&samples[0].narrow(0, i, 1)?, *index)?);
    }
    let share = |most: usize| {
        ranks.iter().filter(|rank| **rank < most).count() as f64 / ranks.len().max(1) as f64
    };
    let mut sorted = ranks.clone();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).map_or(f64::NAN, |rank| *rank as f64 + 1.0);
    let row = vec![
        Cell::Number(ranks.len() as f64, 0),
        Cell::Number(pictures.len() as f64, 0),
        Cell::Number(share(1), 3),
        Cell::Number(share(5), 3),
        Cell::Number(share(20), 3),
        Cell::Number(median, 0),
    ];
    let columns = vec![
        "captions held out",
        "pictures",
        "real picture is the nearest",
        "among 5 nearest",
        "among 20 nearest",
        "median place",
    ];
    let keys = vec!["captions", "pictures", "first", "among_5", "among_20", "median_place"];
    Table { columns, keys, rows: vec![row] }.save(out, &plan.name)
}
