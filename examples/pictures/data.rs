//! Sheets of what is trained on.
//!
//! ```toml
//! [[set]]
//! name = "emoji"                                  # the file's name
//! title = "Noto Color Emoji with Unicode names"
//! recipe = "policies/emoji-flow/recipe-flow.toml"
//! show = "training"                               # or "held_out", "maps"
//! count = 24
//! columns = 8
//! enlarged = 2
//! ```

use std::path::{Path, PathBuf};

use pathline::Result;
use pathline::dataset::pictures::Pictures;
use pathline::plot::{Row, Sheet, Tile};
use serde::Deserialize;

use crate::common::{data_tile, spread};
use crate::{plan, segments};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    set: Vec<Set>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    name: String,
    title: String,
    recipe: PathBuf,
    show: Show,
    count: usize,
    columns: usize,
    enlarged: usize,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Show {
    Training,
    HeldOut,
    Maps,
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    for set in &plan.set {
        let pictures = plan::pictures(&set.recipe)?;
        let from = match set.show {
            Show::HeldOut => pictures.held_out.clone(),
            Show::Training | Show::Maps => pictures.training(),
        };
        let chosen = spread(&from, set.count);
        let mut rows = Vec::new();
        for chunk in chosen.chunks(set.columns.max(1)) {
            let tiles = chunk.iter().map(|i| data_tile(&pictures, *i)).collect::<Result<_>>()?;
            if set.show == Show::Maps {
                rows.push(Row { name: "map".into(), tiles: maps(&pictures, chunk) });
                rows.push(Row { name: "picture".into(), tiles });
            } else {
                rows.push(Row { name: String::new(), tiles });
            }
        }
        let title = set.title.clone();
        let sheet = Sheet { title, headers: Vec::new(), rows, enlarged: set.enlarged };
        sheet.save(&out.join(format!("{}.png", set.name)))?;
    }
    Ok(())
}

fn maps(pictures: &Pictures, chosen: &[usize]) -> Vec<Tile> {
    chosen
        .iter()
        .map(|&i| segments::map_tile(pictures.size, pictures.map(i).unwrap_or(&[])))
        .collect()
}
