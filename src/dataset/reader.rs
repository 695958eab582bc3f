//! Reading data sets, Pathline's own and LeRobot's, into flat columns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::episodes::{self, EpisodeIndex};
use super::stats::{FeatureStats, Stats};
use super::table_file::TableFile;
use super::{Features, Info};
use crate::{Error, Result};

/// All frames of one feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Elements of one frame's value.
    pub dim: usize,
    /// Values, row-major `[n_frames, dim]`; truth values are 0 and 1.
    pub values: Vec<f32>,
}

impl Column {
    /// The value of one frame, `dim` elements; empty where there is no such frame.
    pub fn row(&self, frame: usize) -> &[f32] {
        let from = frame.saturating_mul(self.dim);
        self.values.get(from..from.saturating_add(self.dim)).unwrap_or(&[])
    }
}

/// A data set in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// `meta/info.json`.
    pub info: Info,
    /// The features of a frame, without the five columns that every data set has.
    pub features: Features,
    /// `meta/stats.json`, by feature key.
    pub stats: Stats,
    /// Task texts; [`Dataset::task_index`] counts in this list.
    pub tasks: Vec<String>,
    /// Where each episode's frames are.
    pub episodes: Vec<EpisodeIndex>,
    /// The numeric features, all frames of all episodes.
    pub columns: BTreeMap<String, Column>,
    /// Per frame its episode.
    pub episode_index: Vec<usize>,
    /// Per frame its number in the episode, from 0.
    pub frame_index: Vec<usize>,
    /// Per frame its task.
    pub task_index: Vec<usize>,
    /// Per frame its time since the episode's start, s.
    pub timestamp: Vec<f32>,
}

impl Dataset {
    /// Reads a LeRobotDataset v3.0 folder; what is missing, of another version, of unequal length or not
    /// finite is an error that names the file.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let info = Info::read(dir)?;
        let own = info.features.own().fold(Features::new(), |all, (k, f)| all.with(k, f.clone()));
        let columns = own
            .iter()
            .filter(|(_, f)| f.dtype.is_numeric())
            .map(|(k, f)| (k.to_owned(), Column { dim: f.dim(), values: Vec::new() }))
            .collect();
        let mut set = Self {
            features: own,
            stats: read_stats(&dir.join("meta/stats.json"))?,
            tasks: read_tasks(&dir.join("meta/tasks.parquet"))?,
            episodes: episodes::read(dir)?,
            columns,
            episode_index: Vec::new(),
            frame_index: Vec::new(),
            task_index: Vec::new(),
            timestamp: Vec::new(),
            info,
        };
        set.check_totals(dir)?;
        for (path, range) in set.data_files(dir) {
            set.read_data(&path, range)?;
        }
        Ok(set)
    }

    /// Reads several folders as one data set: episodes one after the other in the order of the folders,
    /// tasks and statistics merged. Features and frame rate must agree.
    pub fn open_all<P: AsRef<Path>>(dirs: &[P]) -> Result<Self> {
        let Some((first, rest)) = dirs.split_first() else {
            return Err(Error::Invalid("expected at least one data set folder, got none".into()));
        };
        let mut all = Self::open(first)?;
        for dir in rest {
            let more = Self::open(dir)?;
            all.append(more, dir.as_ref())?;
        }
        Ok(all)
    }

    /// Number of frames.
    pub fn n_frames(&self) -> usize {
        self.episode_index.len()
    }

    /// The column of a feature; an error that lists the keys where there is none.
    pub fn column(&self, key: &str) -> Result<&Column> {
        self.columns.get(key).ok_or_else(|| {
            let keys: Vec<_> = self.columns.keys().map(String::as_str).collect();
            Error::Invalid(format!(
                "expected a feature `{key}`, the data set has {}",
                keys.join(", ")
            ))
        })
    }

    fn check_totals(&self, dir: &Path) -> Result<()> {
        let (info, path) = (&self.info, dir.join(super::info::INFO_PATH));
        let frames = self.episodes.last().map_or(0, |e| e.to);
        let found = (self.episodes.len(), frames);
        if found != (info.total_episodes, info.total_frames) {
            return Err(Error::config(
                path,
                format!(
                    "says {} episodes and {} frames, meta/episodes lists {} and {}; was the folder copied whole?",
                    info.total_episodes, info.total_frames, found.0, found.1
                ),
            ));
        }
        if self.episodes.is_empty() {
            return Err(Error::config(
                path,
                "expected at least one episode, the data set is empty",
            ));
        }
        for (key, feature) in self.features.iter().filter(|(_, f)| f.dtype.is_numeric()) {
            let Some(stats) = self.stats.get(key) else { continue };
            if stats.mean.len() != feature.dim() {
                let path = dir.join("meta/stats.json");
                let (expected, got) = (feature.dim(), stats.mean.len());
                let message = format!("{key}: expected {expected} values a statistic, got {got}");
                return Err(Error::config(path, message));
            }
        }
        Ok(())
    }

    // The data files in the order of the frames, and which frames each must hold.
    fn data_files(&self, dir: &Path) -> Vec<(PathBuf, std::ops::Range<usize>)> {
        let mut files: Vec<(PathBuf, std::ops::Range<usize>)> = Vec::new();
        for episode in &self.episodes {
            let path = dir.join(self.info.data_file(episode.chunk_index, episode.file_index));
            match files.last_mut() {
                Some((last, range)) if *last == path => range.end = episode.to,
                _ => files.push((path, episode.from..episode.to)),
            }
        }
        files
    }

    fn read_data(&mut self, path: &Path, range: std::ops::Range<usize>) -> Result<()> {
        let what = format!("frames {} to {}", range.start, range.end.saturating_sub(1));
        let file = TableFile::open(path, &what)?;
        let wrong = |message: String| Err(Error::config(path, message));
        if file.rows() != range.len() {
            let (expected, got) = (range.len(), file.rows());
            return wrong(format!(
                "expected {expected} rows ({what}, by meta/episodes), got {got}"
            ));
        }
        let index = file.indices("index")?;
        let episode_index = file.indices("episode_index")?;
        let frame_index = file.indices("frame_index")?;
        let task_index = file.indices("task_index")?;
        for row in 0..range.len() {
            let frame = range.start + row;
            let episode = self.episodes.partition_point(|e| e.to <= frame);
            let expected = (frame, episode, frame - self.episodes[episode].from);
            let got = (index[row], episode_index[row], frame_index[row]);
            if got != expected {
                return wrong(format!(
                    "row {row}: expected (index, episode_index, frame_index) {expected:?} by meta/episodes, got {got:?}"
                ));
            }
            if task_index[row] >= self.tasks.len() {
                let (got, count) = (task_index[row], self.tasks.len());
                return wrong(format!(
                    "row {row}: task_index {got}, meta/tasks.parquet has {count}"
                ));
            }
        }
        self.timestamp.extend(floats(&file, "timestamp", 1)?);
        for (key, column) in &mut self.columns {
            column.values.extend(floats(&file, key, column.dim)?);
        }
        self.episode_index.extend(episode_index);
        self.frame_index.extend(frame_index);
        self.task_index.extend(task_index);
        Ok(())
    }

    fn append(&mut self, more: Self, dir: &Path) -> Result<()> {
        let mine: Vec<_> = self.columns.iter().map(|(k, c)| (k.as_str(), c.dim)).collect();
        let theirs: Vec<_> = more.columns.iter().map(|(k, c)| (k.as_str(), c.dim)).collect();
        if mine != theirs {
            let message =
                format!("expected the features of the first folder {mine:?}, got {theirs:?}");
            return Err(Error::config(dir, message));
        }
        if self.info.fps != more.info.fps {
            let (expected, got) = (self.info.fps, more.info.fps);
            let message = format!("expected {expected} fps as in the first folder, got {got}");
            return Err(Error::config(dir, message));
        }
        let (frames, episodes) = (self.n_frames(), self.episodes.len());
        let mut task_of = Vec::with_capacity(more.tasks.len());
        for task in more.tasks {
            task_of.push(self.tasks.iter().position(|t| *t == task).unwrap_or(self.tasks.len()));
            if task_of.last() == Some(&self.tasks.len()) {
                self.tasks.push(task);
            }
        }
        self.episodes.extend(more.episodes.into_iter().map(|e| EpisodeIndex {
            episode_index: e.episode_index + episodes,
            from: e.from + frames,
            to: e.to + frames,
            ..e
        }));
        for (column, other) in self.columns.values_mut().zip(more.columns.into_values()) {
            column.values.extend(other.values);
        }
        self.episode_index.extend(more.episode_index.into_iter().map(|e| e + episodes));
        self.frame_index.extend(more.frame_index);
        self.task_index.extend(more.task_index.into_iter().map(|t| task_of[t]));
        self.timestamp.extend(more.timestamp);
        self.stats.retain(|key, _| more.stats.contains_key(key));
        for (key, stats) in &mut self.stats {
            stats.merge(&more.stats[key]);
        }
        self.info.total_episodes = self.episodes.len();
        self.info.total_frames = self.episode_index.len();
        self.info.total_tasks = self.tasks.len();
        let train = format!("0:{}", self.info.total_episodes);
        self.info.splits = BTreeMap::from([("train".to_owned(), train)]);
        Ok(())
    }
}

fn floats(file: &TableFile, key: &str, dim: usize) -> Result<Vec<f32>> {
    let values: Vec<f32> = file.numbers(key, dim, |v| v as f32)?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => {
            let (row, element, value) = (i / dim, i % dim, values[i]);
            let message = format!(
                "{key}: row {row}, element {element}: expected a finite number, got {value}"
            );
            Err(Error::config(file.path(), message))
        }
        None => Ok(values),
    }
}

fn read_stats(path: &Path) -> Result<Stats> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
        .map_err(|e| Error::config(path, format!("expected an object per feature: {e}")))?;
    let read = |(key, value): (&String, &serde_json::Value)| {
        let stats = FeatureStats::from_json(value)
            .map_err(|message| Error::config(path, format!("{key}: {message}")))?;
        Ok((key.clone(), stats))
    };
    json.iter().map(read).collect()
}

// Columns task_index and the text, which is pandas' index: `__index_level_0__`, or `task` where it was named.
fn read_tasks(path: &Path) -> Result<Vec<String>> {
    let file = TableFile::open(path, "the texts of the tasks")?;
    let Some(name) = file.names().into_iter().find(|n| n != "task_index") else {
        return Err(Error::config(
            path,
            "expected a column of texts beside task_index, found none",
        ));
    };
    let index = file.indices("task_index")?;
    let texts = file.texts(&name)?;
    let mut tasks = vec![None; index.len()];
    for (slot, text) in index.iter().zip(texts) {
        match (tasks.get_mut(*slot), text.into_iter().next()) {
            (Some(task @ None), Some(text)) => *task = Some(text),
            _ => {
                let message =
                    format!("expected each task_index from 0 to {} once", index.len() - 1);
                return Err(Error::config(path, message));
            }
        }
    }
    Ok(tasks.into_iter().flatten().collect())
}
