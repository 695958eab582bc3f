//! LeRobotDataset v3.0 folders: demonstrations in, demonstrations out.
//!
//! A data set is a folder:
//! ```text
//! meta/info.json                              what is in it: features, rates, totals
//! meta/stats.json                             min, max, mean, std, count, quantiles per feature
//! meta/tasks.parquet                          task_index and the task's text
//! meta/episodes/chunk-000/file-000.parquet    one row an episode: where its frames are, its statistics
//! data/chunk-000/file-000.parquet             one row a frame, episodes one after the other
//! ```
//! [`DatasetWriter`] writes one, [`Dataset::open`] reads one, [`Dataset::open_all`] reads several as one.
//! Its pictures and videos are not read: their features are listed, their columns are skipped.
//! Pictures without robots are read by [`pictures`].
//!
//! Source: the files that LeRobot 0.4.4 writes and reads (`lerobot/datasets`, `codebase_version` v3.0);
//! `tests/golden/lerobot_dataset.py` opens what this module writes and wrote the golden folder that the
//! reader is tested on.

mod episode;
mod episodes;
mod features;
mod info;
pub mod pictures;
pub mod pusht;
mod reader;
mod staging;
mod stats;
mod table;
mod table_file;
mod writer;

pub use episode::Episode;
pub use episodes::EpisodeIndex;
pub use features::{DType, Feature, Features};
pub use info::Info;
pub use reader::{Column, Dataset};
pub use stats::{FeatureStats, Stats};
pub use writer::{DatasetWriter, Summary};

/// The version of the layout, as `meta/info.json` names it.
pub const CODEBASE_VERSION: &str = "v3.0";

/// Columns that every data set has besides its own features.
pub(crate) const DEFAULT_KEYS: [&str; 5] =
    ["timestamp", "frame_index", "episode_index", "index", "task_index"];
