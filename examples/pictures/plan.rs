//! What to draw, as TOML files say it.

use std::path::{Path, PathBuf};

use pathline::dataset::pictures::{Pictures, PicturesConfig};
use pathline::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads a plan.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    toml::from_str(&text).map_err(|e| Error::config(path, e.to_string()))
}

/// The pictures that a recipe trains on: its table `[data]`.
pub(crate) fn pictures(recipe: &Path) -> Result<Pictures> {
    #[derive(Deserialize)]
    struct Recipe {
        data: PicturesConfig,
    }
    Pictures::open(&read::<Recipe>(recipe)?.data)
}

/// Whether a model is there to be read; says so if not, and the sheet goes without it.
pub(crate) fn is_there(name: &str, path: &Path) -> bool {
    let is_there = path.is_dir();
    if !is_there {
        eprintln!("skipped: {name}: there is no folder {}", path.display());
    }
    is_there
}

/// Samples of a model, and how they are drawn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// In legends and tables.
    pub(crate) name: String,
    /// A folder or a run.
    pub(crate) model: PathBuf,
    /// The folder's own if absent.
    pub(crate) sampling_method: Option<String>,
    pub(crate) schedule: Option<String>,
    /// Numbers of steps, one column or row each.
    pub(crate) steps: Vec<usize>,
    pub(crate) cfg_scale: Option<f64>,
    #[serde(default)]
    pub(crate) eta: f64,
}

impl Line {
    /// The number of steps of a plan that has one.
    pub(crate) fn first_steps(&self) -> Result<usize> {
        let none = || Error::Invalid("line.steps: expected one number, got none".into());
        self.steps.first().copied().ok_or_else(none)
    }
}

/// What a picture is to show: a prompt or a class.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Subject {
    Prompt(String),
    Class(String),
}

impl Subject {
    pub(crate) fn name(&self) -> &str {
        let (Self::Prompt(name) | Self::Class(name)) = self;
        name
    }
}
