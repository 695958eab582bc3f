//! Maps of classes to pictures.
//!
//! ```toml
//! name = "segments"
//! title = "Maps of PushT that were not trained on, and pictures drawn from them"
//! count = 8
//! samples = 2
//! seed = 0
//! enlarged = 1
//! data = { source = "pusht", size = 64, count = 200, seed = 900000 }
//! [line]
//! name = "Euler"
//! model = "runs/pusht-segments"
//! steps = [16]
//! ```
//! The table says how many pixels of a drawn picture show what the map says. A pixel counts for the class
//! whose mean colour in the data is nearest; real pictures, judged in the same way, are the ceiling.

use std::path::Path;

use pathline::dataset::pictures::{Pictures, PicturesConfig};
use pathline::plot::{Row, Sheet, Tile};
use pathline::{Error, Result};
use serde::Deserialize;

use crate::common::{Cell, Table, data_tile, tiles};
use crate::plan::{Line, Subject};
use crate::sampling::Models;

/// Colours of maps in sheets.
const PALETTE: [[u8; 3]; 8] = [
    [240, 240, 240],
    [90, 90, 90],
    [0, 158, 115],
    [230, 159, 0],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [86, 180, 233],
];
/// Seeds of different samples of a map are so far apart.
const APART: u64 = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    count: usize,
    samples: usize,
    seed: u64,
    enlarged: usize,
    data: PicturesConfig,
    line: Line,
}

/// A map in colours.
pub(crate) fn map_tile(size: [usize; 2], map: &[u8]) -> Tile {
    let rgb = map.iter().flat_map(|class| PALETTE[usize::from(*class) % PALETTE.len()]).collect();
    Tile { size, rgb, caption: String::new() }
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let pictures = Pictures::open(&plan.data)?;
    let steps = plan.line.first_steps()?;
    let judge = Judge::new(&pictures)?;
    let mut models = Models::default();
    let mut rows = vec![
        Row { name: "map".into(), tiles: Vec::new() },
        Row { name: "real, not shown to the model".into(), tiles: Vec::new() },
    ];
    rows.extend((1..=plan.samples).map(|i| Row { name: format!("drawn {i}"), tiles: Vec::new() }));
    let (mut drawn_right, mut real_right) = (Tally::default(), Tally::default());
    let nothing = [Subject::Prompt(String::new())];
    for i in 0..plan.count.min(pictures.len()) {
        let map = pictures.map(i).unwrap_or(&[]);
        rows[0].tiles.push(map_tile(pictures.size, map));
        let real = data_tile(&pictures, i)?;
        judge.count(&real.rgb, map, &mut real_right);
        rows[1].tiles.push(real);
        let given = pictures.map_batch(&[i])?;
        for sample in 0..plan.samples {
            let seed = plan.seed + i as u64 + sample as u64 * APART;
            let drawn = models.draw(&plan.line, steps, &nothing, seed, Some(&given))?;
            for tile in tiles(&drawn.pictures)? {
                judge.count(&tile.rgb, map, &mut drawn_right);
                rows[2 + sample].tiles.push(tile);
            }
        }
    }
    let sheet = Sheet { title: plan.title.clone(), headers: vec![], rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}.png", plan.name)))?;

    let mut table = Table {
        columns: vec!["class", "pixels", "drawn as asked", "real pictures, judged alike"],
        keys: vec!["class", "pixels", "drawn", "real"],
        rows: Vec::new(),
    };
    for (class, name) in pictures.map_classes.iter().enumerate() {
        table.rows.push(vec![
            Cell::Text(name.clone()),
            Cell::Number(real_right.pixels.get(class).map_or(0.0, |n| *n as f64), 0),
            Cell::Number(drawn_right.share(class), 3),
            Cell::Number(real_right.share(class), 3),
        ]);
    }
    table.save(out, &plan.name)
}

#[derive(Default)]
struct Tally {
    pixels: Vec<usize>,
    right: Vec<usize>,
}

impl Tally {
    fn share(&self, class: usize) -> f64 {
        match self.pixels.get(class) {
            Some(&pixels) if pixels > 0 => self.right[class] as f64 / pixels as f64,
            _ => f64::NAN,
        }
    }
}

/// Names a pixel's class by its colour.
struct Judge {
    means: Vec<[f64; 3]>,
}

impl Judge {
    fn new(pictures: &Pictures) -> Result<Self> {
        if pictures.maps.is_empty() || pictures.channels != 3 {
            return Err(Error::Invalid("data: expected colour pictures with maps".into()));
        }
        let mut sums = vec![([0.0; 3], 0.0); pictures.map_classes.len()];
        for (pixel, class) in pictures.pixels.chunks_exact(3).zip(&pictures.maps) {
            let Some((sum, count)) = sums.get_mut(usize::from(*class)) else { continue };
            sum.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += f64::from(*v));
            *count += 1.0;
        }
        let mean = |(sum, count): ([f64; 3], f64)| sum.map(|v| v / f64::max(count, 1.0));
        Ok(Self { means: sums.into_iter().map(mean).collect() })
    }

    fn count(&self, rgb: &[u8], map: &[u8], tally: &mut Tally) {
        tally.pixels.resize(self.means.len(), 0);
        tally.right.resize(self.means.len(), 0);
        for (pixel, class) in rgb.chunks_exact(3).zip(map) {
            let gap = |mean: &[f64; 3]| -> f64 {
                mean.iter().zip(pixel).map(|(mean, v)| (mean - f64::from(*v)).powi(2)).sum()
            };
            let nearest =
                self.means.iter().enumerate().min_by(|a, b| gap(a.1).total_cmp(&gap(b.1)));
            let class = usize::from(*class);
            tally.pixels[class] += 1;
            if nearest.map(|(i, _)| i) == Some(class) {
                tally.right[class] += 1;
            }
        }
    }
}
