//! Tiles from tensors, neighbours among training pictures, tables.

use std::path::Path;

use candle_core::Tensor;
use pathline::dataset::pictures::Pictures;
use pathline::image::pixels;
use pathline::image::png::Picture;
use pathline::plot::Tile;
use pathline::train::quality;
use pathline::vae::features::FeatureNet;
use pathline::{Error, Result};

/// A tile for every picture of `x` `[b, 1 or 3, h, w]` in −1 … 1.
pub(crate) fn tiles(x: &Tensor) -> Result<Vec<Tile>> {
    let tile = |p: Picture| Tile::new([p.height, p.width], 3, &p.rgb, "");
    Ok(pixels::pictures(x)?.into_iter().map(tile).collect())
}

/// A tile of a picture of the data, with its caption or class below.
pub(crate) fn data_tile(pictures: &Pictures, index: usize) -> Result<Tile> {
    let bytes = pictures
        .picture(index)
        .ok_or_else(|| Error::Invalid(format!("expected a picture {index}, got none")))?;
    Ok(Tile::new(pictures.size, pictures.channels, bytes, describe(pictures, index)))
}

pub(crate) fn describe(pictures: &Pictures, index: usize) -> String {
    let class = || {
        let label = *pictures.labels.get(index)? as usize;
        pictures.classes.get(label).cloned()
    };
    pictures.captions.get(index).cloned().or_else(class).unwrap_or_default()
}

/// `count` of `indices`, evenly spaced.
pub(crate) fn spread(indices: &[usize], count: usize) -> Vec<usize> {
    let count = count.min(indices.len());
    (0..count).map(|i| indices[i * indices.len() / count]).collect()
}

/// Samples as the data have them: in −1 … 1, and grey where the data are grey.
pub(crate) fn as_data(x: &Tensor, channels: usize) -> Result<Tensor> {
    let x = x.clamp(-1f32, 1f32)?;
    Ok(if x.dim(1)? > channels { x.mean_keepdim(1)? } else { x })
}

/// Pictures to compare with, by their pixels.
pub(crate) struct Known<'a> {
    pictures: &'a Pictures,
    indices: Vec<usize>,
    batch: Tensor,
}

impl<'a> Known<'a> {
    pub(crate) fn new(pictures: &'a Pictures, indices: Vec<usize>) -> Result<Self> {
        let batch = pictures.batch(&indices)?;
        Ok(Self { pictures, indices, batch })
    }

    /// For each picture of `x` the nearest known one and the root mean squared difference in levels
    /// of 255.
    pub(crate) fn nearest(&self, x: &Tensor) -> Result<Vec<(usize, f64)>> {
        let found = quality::nearest(&self.batch, &as_data(x, self.pictures.channels)?)?;
        Ok(found.into_iter().map(|(i, distance)| (self.indices[i], distance * 127.5)).collect())
    }

    /// How many known pictures are nearer to `x` `[1, …]` than the picture `index` is.
    pub(crate) fn rank(&self, x: &Tensor, index: usize) -> Result<usize> {
        let x = as_data(x, self.pictures.channels)?;
        let gaps = self.batch.broadcast_sub(&x)?.sqr()?.flatten_from(1)?.mean(1)?;
        let gaps: Vec<f32> = gaps.to_vec1()?;
        let at = self.indices.iter().position(|i| *i == index);
        let own = at.map_or(f32::INFINITY, |at| gaps[at]);
        Ok(gaps.iter().filter(|gap| **gap < own).count())
    }
}

/// The features `[n, d]` and logits of pictures, in batches.
pub(crate) fn features(net: &FeatureNet, x: &Tensor) -> Result<Tensor> {
    in_batches(x, |x| net.pooled(x))
}

pub(crate) fn logits(net: &FeatureNet, x: &Tensor) -> Result<Tensor> {
    in_batches(x, |x| net.logits(x))
}

pub(crate) fn in_batches(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (n, size) = (x.dim(0)?, 50);
    let parts = (0..n).step_by(size).map(|start| f(&x.narrow(0, start, size.min(n - start))?));
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
}

/// A table in Markdown, and as JSON next to it.
pub(crate) struct Table {
    pub(crate) columns: Vec<&'static str>,
    /// The JSON keys of the columns.
    pub(crate) keys: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

pub(crate) enum Cell {
    Text(String),
    /// A number and its decimals; not finite is shown as "–".
    Number(f64, usize),
}

impl Table {
    pub(crate) fn save(&self, out: &Path, name: &str) -> Result<()> {
        write(&out.join(format!("{name}.md")), &self.markdown())?;
        let objects = self.rows.iter().map(|row| {
            let value = |cell: &Cell| match cell {
                Cell::Text(text) => serde_json::Value::from(text.as_str()),
                Cell::Number(value, _) => serde_json::Value::from(*value),
            };
            // JSON has no NaN: what was not measured is absent.
            let known = |cell: &Cell| !matches!(cell, Cell::Number(x, _) if !x.is_finite());
            let pairs = self.keys.iter().zip(row).filter(|(_, cell)| known(cell));
            let pairs = pairs.map(|(key, cell)| ((*key).to_owned(), value(cell)));
            serde_json::Value::Object(pairs.collect())
        });
        let json = serde_json::to_string_pretty(&objects.collect::<Vec<_>>());
        write(&out.join(format!("{name}.json")), &json.map_err(|e| Error::Invalid(e.to_string()))?)
    }

    fn markdown(&self) -> String {
        let show = |cell: &Cell| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Number(value, decimals) if value.is_finite() => format!("{value:.decimals$}"),
            Cell::Number(..) => "–".to_owned(),
        };
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|c| (*c).to_owned()).collect());
        text += &line(self.columns.iter().map(|_| "---".to_owned()).collect());
        for row in &self.rows {
            text += &line(row.iter().map(show).collect());
        }
        text
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("{}\n", text.trim_end())).map_err(|e| Error::io(path, e))
}
