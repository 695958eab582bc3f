//! `meta/episodes/…parquet`: one row an episode, where its frames are and its statistics.

use std::path::{Path, PathBuf};

use super::stats::{QUANTILES, Stats};
use super::table::{Cells, TableColumn};
use super::table_file::TableFile;
use super::{DType, Features};
use crate::{Error, Result};

/// Folder of the files.
pub(crate) const EPISODES_DIR: &str = "meta/episodes";

/// Where one episode's frames are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpisodeIndex {
    /// Number of the episode, from 0.
    pub episode_index: usize,
    /// First frame in the data set.
    pub from: usize,
    /// One past the last frame.
    pub to: usize,
    /// What was to be done, in words; most data sets have one text an episode.
    pub tasks: Vec<String>,
    /// Number of the data file's `chunk-` folder.
    pub(crate) chunk_index: usize,
    /// Number of the data file.
    pub(crate) file_index: usize,
}

impl EpisodeIndex {
    /// Number of frames, always more than 0.
    pub fn length(&self) -> usize {
        self.to - self.from
    }
}

/// The row of one episode, in LeRobot's order of columns.
pub(crate) fn row(episode: &EpisodeIndex, stats: &Stats, features: &Features) -> Vec<TableColumn> {
    let number =
        |name: &str, value: usize| TableColumn::scalar(name, Cells::I64(vec![value as i64]));
    let mut columns = vec![
        number("episode_index", episode.episode_index),
        TableColumn::list("tasks", episode.tasks.len(), Cells::Text(episode.tasks.clone())),
        number("length", episode.length()),
        number("data/chunk_index", episode.chunk_index),
        number("data/file_index", episode.file_index),
        number("dataset_from_index", episode.from),
        number("dataset_to_index", episode.to),
    ];
    for (key, feature) in features.iter() {
        let Some(s) = stats.get(key) else { continue };
        let mut add = |name: &str, cells: Cells| {
            columns.push(TableColumn::list(format!("stats/{key}/{name}"), cells.len(), cells));
        };
        add("min", typed(&s.min, &feature.dtype));
        add("max", typed(&s.max, &feature.dtype));
        add("mean", Cells::F64(s.mean.clone()));
        add("std", Cells::F64(s.std.clone()));
        add("count", Cells::I64(vec![s.count as i64]));
        for (name, _) in QUANTILES {
            if let Some(values) = s.quantiles.get(name) {
                add(name, Cells::F64(values.clone()));
            }
        }
    }
    columns.push(number("meta/episodes/chunk_index", 0));
    columns.push(number("meta/episodes/file_index", 0));
    columns
}

fn typed(values: &[f64], dtype: &DType) -> Cells {
    match dtype {
        DType::Bool => Cells::Bool(values.iter().map(|v| *v != 0.0).collect()),
        DType::Int64 => Cells::I64(values.iter().map(|v| *v as i64).collect()),
        _ => Cells::F64(values.to_vec()),
    }
}

/// Reads all rows; episodes must be numbered from 0, lie one after the other and not be empty.
pub(crate) fn read(dir: &Path) -> Result<Vec<EpisodeIndex>> {
    let mut episodes: Vec<EpisodeIndex> = Vec::new();
    for path in parquet_files(&dir.join(EPISODES_DIR))? {
        let file = TableFile::open(&path, "where the episodes are")?;
        let numbers = file.indices("episode_index")?;
        let chunk_index = file.indices("data/chunk_index")?;
        let file_index = file.indices("data/file_index")?;
        let (from, to) = (file.indices("dataset_from_index")?, file.indices("dataset_to_index")?);
        let length = file.indices("length")?;
        let mut tasks = file.texts("tasks")?.into_iter();
        for i in 0..numbers.len() {
            let expected_from = episodes.last().map_or(0, |e| e.to);
            let right = numbers[i] == episodes.len()
                && from[i] == expected_from
                && length[i] > 0
                && to[i] == from[i].saturating_add(length[i]);
            if !right {
                return Err(Error::config(
                    &path,
                    format!(
                        "row {i}: expected episode {} from frame {expected_from} with at least one frame, got \
                         episode {} from frame {} to {} with length {}",
                        episodes.len(),
                        numbers[i],
                        from[i],
                        to[i],
                        length[i]
                    ),
                ));
            }
            episodes.push(EpisodeIndex {
                episode_index: numbers[i],
                from: from[i],
                to: to[i],
                tasks: tasks.next().unwrap_or_default(),
                chunk_index: chunk_index[i],
                file_index: file_index[i],
            });
        }
    }
    Ok(episodes)
}

// `chunk-*/file-*.parquet`, in the order of their names, as LeRobot takes them.
fn parquet_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for chunk in entries(dir)? {
        if chunk.is_dir() {
            files.extend(entries(&chunk)?);
        }
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "parquet"));
    if files.is_empty() {
        return Err(Error::config(
            dir,
            "expected chunk-000/file-000.parquet, found no parquet file",
        ));
    }
    files.sort();
    Ok(files)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            Error::config(dir, "the folder is missing; it holds where the episodes are")
        } else {
            Error::io(dir, e)
        }
    })?;
    list.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io(dir, e))).collect()
}
