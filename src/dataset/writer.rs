//! Writing a data set, episode after episode, with memory for one row group.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::episodes::{self, EPISODES_DIR, EpisodeIndex};
use super::info::{self, Info};
use super::staging::Staging;
use super::stats::{FeatureStats, Stats};
use super::table::{Cells, Table, TableColumn};
use super::{DType, Episode, Features};
use crate::{Error, Result};

// Row groups: a few thousand frames of data, a few dozen episodes of wide metadata.
const FRAMES_PER_GROUP: usize = 4096;
const EPISODES_PER_GROUP: usize = 64;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The folder.
    pub dir: PathBuf,
    /// Number of episodes.
    pub episodes: usize,
    /// Number of frames.
    pub frames: usize,
    /// Number of different tasks.
    pub tasks: usize,
}

/// Writes a LeRobotDataset v3.0 folder.
///
/// The folder appears when [`DatasetWriter::finish`] returns; a writer that is dropped before leaves nothing.
/// The same episodes give the same bytes.
pub struct DatasetWriter {
    staging: Staging,
    info: Info,
    stats: Stats,
    tasks: Vec<String>,
    data: Option<Table>,
    index: Option<Table>,
    chunk_index: usize,
    file_index: usize,
}

impl DatasetWriter {
    /// Starts a data set in `dir`, a new or empty folder; `features` are those of a frame, float32, float64,
    /// int64 or bool, without the five that every data set has.
    pub fn create(
        dir: impl AsRef<Path>,
        features: &Features,
        fps: u32,
        robot_type: &str,
    ) -> Result<Self> {
        if fps == 0 {
            return Err(Error::Invalid("fps: expected at least 1, got 0".into()));
        }
        for (key, feature) in features.own() {
            let known = matches!(
                feature.dtype,
                DType::Float32 | DType::Float64 | DType::Int64 | DType::Bool
            );
            if key.is_empty() || key.contains('/') || !known || feature.shape.len() != 1 {
                return Err(Error::Invalid(format!(
                    "feature `{key}`: expected a name without `/`, a shape of one dimension and float32, float64, \
                     int64 or bool, got {:?} {:?}",
                    feature.dtype, feature.shape
                )));
            }
            if feature.dim() == 0 {
                return Err(Error::Invalid(format!(
                    "feature `{key}`: expected at least one element"
                )));
            }
        }
        Ok(Self {
            staging: Staging::new(dir.as_ref())?,
            info: Info::empty(features, fps, robot_type),
            stats: Stats::new(),
            tasks: Vec::new(),
            data: None,
            index: None,
            chunk_index: 0,
            file_index: 0,
        })
    }

    /// The same writer with another limit for a data file's size (100 MB unless told otherwise) and for the
    /// number of files in a `chunk-` folder (1000); 0 counts as 1.
    #[must_use]
    pub fn with_limits(mut self, data_files_size_in_mb: u64, chunks_size: usize) -> Self {
        self.info.data_files_size_in_mb = data_files_size_in_mb.max(1);
        self.info.chunks_size = chunks_size.max(1);
        self
    }

    /// Number of episodes so far.
    pub fn episodes(&self) -> usize {
        self.info.total_episodes
    }

    /// Adds an episode; one that does not fit the features or is not finite is refused and changes nothing.
    pub fn add_episode(&mut self, episode: &Episode) -> Result<()> {
        let number = self.info.total_episodes;
        let length = episode.check(&self.info.features, number)?;
        let columns = self.columns(episode, length);
        let mut stats = Stats::new();
        for column in &columns {
            let dim = column.list.unwrap_or(1);
            stats.insert(column.name.clone(), FeatureStats::of(&column.cells.to_f64(), dim));
        }
        self.rotate(&columns)?;
        let (chunk_index, file_index) = (self.chunk_index, self.file_index);
        let data = match self.data.take() {
            Some(data) => data,
            None => {
                let path = self.staging.folder().join(self.info.data_file(chunk_index, file_index));
                Table::create(&path, &columns, FRAMES_PER_GROUP, &[])?
            }
        };
        self.data.insert(data).append(columns)?;
        let from = self.info.total_frames;
        let tasks = vec![episode.task.clone()];
        let to = from + length;
        let place =
            EpisodeIndex { episode_index: number, from, to, tasks, chunk_index, file_index };
        let row = episodes::row(&place, &stats, &self.info.features);
        let index = match self.index.take() {
            Some(index) => index,
            None => {
                let path =
                    self.staging.folder().join(EPISODES_DIR).join("chunk-000/file-000.parquet");
                Table::create(&path, &row, EPISODES_PER_GROUP, &[])?
            }
        };
        self.index.insert(index).append(row)?;
        for (key, more) in stats {
            match self.stats.get_mut(&key) {
                Some(all) => all.merge(&more),
                None => {
                    self.stats.insert(key, more);
                }
            }
        }
        self.info.total_episodes += 1;
        self.info.total_frames = to;
        Ok(())
    }

    // Ends the data file before an episode would carry it over the limit: no episode lies in two files.
    fn rotate(&mut self, next: &[TableColumn]) -> Result<()> {
        let limit = self.info.data_files_size_in_mb.saturating_mul(1 << 20);
        let more: usize = next.iter().map(|c| c.cells.len() * 8).sum();
        let full = self.data.as_ref().is_some_and(|d| (d.bytes() + more) as u64 >= limit);
        if let Some(data) = self.data.take_if(|_| full) {
            data.close()?;
            self.file_index += 1;
            if self.file_index == self.info.chunks_size {
                (self.chunk_index, self.file_index) = (self.chunk_index + 1, 0);
            }
        }
        Ok(())
    }

    fn columns(&mut self, episode: &Episode, length: usize) -> Vec<TableColumn> {
        let task_index = match self.tasks.iter().position(|t| *t == episode.task) {
            Some(index) => index,
            None => {
                self.tasks.push(episode.task.clone());
                self.tasks.len() - 1
            }
        };
        let (number, from) = (self.info.total_episodes as i64, self.info.total_frames as i64);
        let fps = self.info.fps;
        let frames = 0..length as i64;
        let column = |(key, feature): (&str, &super::Feature)| {
            let cells = match key {
                "timestamp" => {
                    Cells::F32(frames.clone().map(|i| (i as f64 / fps) as f32).collect())
                }
                "frame_index" => Cells::I64(frames.clone().collect()),
                "episode_index" => Cells::I64(vec![number; length]),
                "index" => Cells::I64(frames.clone().map(|i| from + i).collect()),
                "task_index" => Cells::I64(vec![task_index as i64; length]),
                _ => cells(episode.columns.get(key).map_or(&[], Vec::as_slice), &feature.dtype),
            };
            match feature.dim() {
                1 => TableColumn::scalar(key, cells),
                dim => TableColumn::list(key, dim, cells),
            }
        };
        self.info.features.iter().map(column).collect()
    }

    /// Writes the metadata and moves the folder to its place; a data set without episodes is an error.
    pub fn finish(mut self) -> Result<Summary> {
        let (Some(data), Some(index)) = (self.data.take(), self.index.take()) else {
            let dir = self.staging.target();
            return Err(Error::config(dir, "expected at least one episode; nothing was written"));
        };
        data.close()?;
        index.close()?;
        let folder = self.staging.folder();
        self.info.total_tasks = self.tasks.len();
        let train = format!("0:{}", self.info.total_episodes);
        self.info.splits = BTreeMap::from([("train".to_owned(), train)]);
        self.info.write(folder)?;
        let stats: serde_json::Map<String, Value> = self
            .info
            .features
            .iter()
            .filter_map(|(key, f)| Some((key.to_owned(), self.stats.get(key)?.to_json(&f.dtype))))
            .collect();
        info::write_json(&folder.join("meta/stats.json"), &stats)?;
        write_tasks(&folder.join("meta/tasks.parquet"), &self.tasks)?;
        let summary = Summary {
            dir: self.staging.target().to_owned(),
            episodes: self.info.total_episodes,
            frames: self.info.total_frames,
            tasks: self.tasks.len(),
        };
        self.staging.commit()?;
        Ok(summary)
    }
}

fn cells(values: &[f32], dtype: &DType) -> Cells {
    match dtype {
        DType::Bool => Cells::Bool(values.iter().map(|v| *v != 0.0).collect()),
        DType::Int64 => Cells::I64(values.iter().map(|v| *v as i64).collect()),
        DType::Float64 => Cells::F64(values.iter().map(|v| f64::from(*v)).collect()),
        _ => Cells::F32(values.to_vec()),
    }
}

// LeRobot reads the tasks with pandas and looks texts up in the frame's index: the text column is pandas'
// unnamed index, which the `pandas` entry of the file's metadata says.
fn write_tasks(path: &Path, tasks: &[String]) -> Result<()> {
    const INDEX: &str = "__index_level_0__";
    let pandas = json!({
        "index_columns": [INDEX],
        "column_indexes": [{"name": null, "field_name": null, "pandas_type": "unicode",
            "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
                "numpy_type": "int64", "metadata": null},
            {"name": null, "field_name": INDEX, "pandas_type": "unicode", "numpy_type": "object",
                "metadata": null},
        ],
        "creator": {"library": "pathline", "version": env!("CARGO_PKG_VERSION")},
        "pandas_version": "2.2.0",
    });
    let rows = vec![
        TableColumn::scalar("task_index", Cells::I64((0..tasks.len() as i64).collect())),
        TableColumn::scalar(INDEX, Cells::Text(tasks.to_vec())),
    ];
    let mut table = Table::create(path, &rows, tasks.len(), &[("pandas", pandas.to_string())])?;
    table.append(rows)?;
    table.close()
}
