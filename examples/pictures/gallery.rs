//! One picture a subject, in rows.
//!
//! ```toml
//! name = "gallery"
//! title = "Drawn by the shipped model"
//! seed = 7
//! columns = 8
//! enlarged = 1
//! subjects = [{ prompt = "red apple" }, { class = "sneaker" }]
//! [line]
//! name = "Heun"
//! model = "policies/emoji-flow"
//! steps = [10]
//! ```
//! Every subject is drawn from the noise of the same seed, so that nothing is chosen.

use std::path::Path;

use pathline::Result;
use pathline::plot::{Row, Sheet};
use serde::Deserialize;

use crate::common::tiles;
use crate::plan::{Line, Subject};
use crate::sampling::Models;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    seed: u64,
    columns: usize,
    enlarged: usize,
    subjects: Vec<Subject>,
    line: Line,
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let steps = plan.line.first_steps()?;
    let mut models = Models::default();
    let mut all = Vec::new();
    for subject in &plan.subjects {
        let one = std::slice::from_ref(subject);
        let drawn = models.draw(&plan.line, steps, one, plan.seed, None)?;
        for mut tile in tiles(&drawn.pictures)? {
            tile.caption = subject.name().to_owned();
            all.push(tile);
        }
    }
    let rows = all
        .chunks(plan.columns.max(1))
        .map(|tiles| Row { name: String::new(), tiles: tiles.to_vec() });
    let (rows, title) = (rows.collect(), plan.title.clone());
    let sheet = Sheet { title, headers: Vec::new(), rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}.png", plan.name)))
}
