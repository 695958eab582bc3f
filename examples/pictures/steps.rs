//! One noise under several methods and numbers of steps.
//!
//! ```toml
//! name = "steps"
//! title = "The same noise, by method and steps"
//! seed = 7
//! enlarged = 1
//! subjects = [{ prompt = "red apple" }, { class = "sneaker" }]
//! [[line]]
//! name = "Euler"
//! model = "policies/emoji-flow"
//! sampling_method = "euler"
//! steps = [1, 2, 4, 8, 16, 32]
//! ```
//! Columns are numbers of steps, the same for all lines; below each picture stands how many times the
//! network was evaluated.

use std::collections::BTreeSet;
use std::path::Path;

use pathline::Result;
use pathline::plot::{Row, Sheet, Tile};
use serde::Deserialize;

use crate::common::tiles;
use crate::plan::{self, Line, Subject};
use crate::sampling::Models;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    seed: u64,
    enlarged: usize,
    subjects: Vec<Subject>,
    line: Vec<Line>,
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let mut models = Models::default();
    let columns: BTreeSet<usize> = plan.line.iter().flat_map(|l| l.steps.iter().copied()).collect();
    let mut rows: Vec<Vec<Row>> = plan.subjects.iter().map(|_| Vec::new()).collect();
    let lines = plan.line.iter().filter(|line| plan::is_there(&line.name, &line.model));
    for line in lines {
        let name = |subject: &Subject| format!("{}: {}", subject.name(), line.name);
        let mut own: Vec<Row> = plan
            .subjects
            .iter()
            .map(|subject| Row { name: name(subject), tiles: Vec::new() })
            .collect();
        for &steps in &columns {
            if !line.steps.contains(&steps) {
                own.iter_mut().for_each(|row| row.tiles.push(Tile::default()));
                continue;
            }
            // Each subject alone, so that all have the noise of the same seed.
            for (row, subject) in own.iter_mut().zip(&plan.subjects) {
                let one = std::slice::from_ref(subject);
                let drawn = models.draw(line, steps, one, plan.seed, None)?;
                for mut tile in tiles(&drawn.pictures)? {
                    tile.caption = match drawn.evaluations {
                        1 => "1 evaluation".to_owned(),
                        n => format!("{n} evaluations"),
                    };
                    row.tiles.push(tile);
                }
            }
        }
        rows.iter_mut().zip(own).for_each(|(rows, own)| rows.push(own));
    }
    let headers = columns
        .iter()
        .map(|steps| format!("{steps} step{}", if *steps == 1 { "" } else { "s" }))
        .collect();
    let (title, rows) = (plan.title.clone(), rows.into_iter().flatten().collect());
    let sheet = Sheet { title, headers, rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}.png", plan.name)))
}
