//! `recipe.toml`: everything that a training run depends on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::OptimizerConfig;
use super::samples::Mirror;
use crate::flow::TimeLaw;
use crate::policy::config::PolicyConfig;
use crate::{Error, Result};

/// Where demonstrations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// LeRobotDataset v3 folders, read one after another.
    pub paths: Vec<PathBuf>,
    /// Lower and upper bound of every observation coordinate, for min/max normalisation with one
    /// scale; measured per coordinate if absent.
    #[serde(default)]
    pub observation_bounds: Option<[f32; 2]>,
    /// A mirror symmetry of the task.
    #[serde(default)]
    pub mirror: Option<Mirror>,
}

/// How long and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of updates.
    pub steps: usize,
    /// Samples an update.
    pub batch_size: usize,
    /// Seed of initial weights, order, flow times and noise.
    pub seed: u64,
    /// Law of the flow time.
    pub time_law: TimeLaw,
    /// Updates between log lines.
    pub log_freq: usize,
    /// Updates between checkpoints.
    pub save_freq: usize,
    /// Checkpoints to keep, the newest.
    pub keep_checkpoints: usize,
}

/// Evaluation during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Updates between evaluations; 0 for none.
    pub freq: usize,
    /// Episodes.
    pub episodes: usize,
    /// First reset seed; keep it apart from the seeds of the demonstrations.
    pub seed: u64,
}

/// A whole recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Folder of the run.
    pub output_dir: PathBuf,
    /// Weights to start from instead of random ones: a policy folder.
    #[serde(default)]
    pub init_from: Option<PathBuf>,
    /// Demonstrations.
    pub dataset: DatasetConfig,
    /// The policy, as its `config.json` will be.
    pub policy: PolicyConfig,
    /// Length and rhythm.
    pub train: TrainConfig,
    /// Optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Evaluation in the simulator.
    pub eval: EvalConfig,
}

/// The recipe at `path` with `overrides` (see [`Recipe::load`]), as text once more, so that errors show the
/// line that is wrong.
pub(super) fn merged(path: &Path, overrides: &[String]) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::config(path, e.to_string()))?;
    for entry in overrides {
        set(&mut table, entry).map_err(|message| Error::config("--set", message))?;
    }
    // Through text once more, so that errors show the line that is wrong.
    toml::to_string(&table).map_err(|e| Error::config(path, e.to_string()))
}

impl Recipe {
    /// Reads a recipe and applies `overrides` of the form `a.b=value` (TOML values; a bare word is
    /// a string).
    ///
    /// # Errors
    /// When the file is missing, or a key or value is unknown or impossible.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let merged = merged(path, overrides)?;
        let recipe: Self =
            toml::from_str(&merged).map_err(|e| Error::config(path, e.to_string()))?;
        recipe.validate().map_err(|e| Error::config(path, e.to_string()))?;
        Ok(recipe)
    }

    fn validate(&self) -> Result<()> {
        self.policy.validate()?;
        self.optimizer.validate()?;
        self.train.time_law.validate()?;
        let signature = self.policy.signature();
        if let Some((key, _)) = signature.cameras().next() {
            return Err(Error::Invalid(format!(
                "policy: {key}: expected vectors only; policies with cameras are not trained here yet"
            )));
        }
        if self.policy.process()?.is_none() {
            return Err(Error::Invalid(format!(
                "policy.type: expected pathline_flow or diffusion, got {}",
                signature.kind
            )));
        }
        let many = 1_000_000_000;
        let ranges = [
            ("train.steps", self.train.steps, 1, many),
            ("train.batch_size", self.train.batch_size, 1, 1 << 20),
            ("train.log_freq", self.train.log_freq, 1, many),
            ("train.save_freq", self.train.save_freq, 1, many),
            ("train.keep_checkpoints", self.train.keep_checkpoints, 1, many),
            ("eval.episodes", self.eval.episodes, 1, 1_000_000),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                let message = format!("{key}: expected {least} to {most}, got {value}");
                return Err(Error::Invalid(message));
            }
        }
        if self.dataset.paths.is_empty() {
            return Err(Error::Invalid("dataset.paths: expected one folder or more".into()));
        }
        if let Some([lo, hi]) = self.dataset.observation_bounds
            && !(lo.is_finite() && hi.is_finite() && lo < hi)
        {
            return Err(Error::Invalid(format!(
                "dataset.observation_bounds: expected lower < upper, got {lo} and {hi}"
            )));
        }
        if let Some(mirror) = &self.dataset.mirror {
            mirror.validate(signature.environment_dim() / 2)?;
        }
        Ok(())
    }
}

fn set(table: &mut toml::Table, entry: &str) -> Result<(), String> {
    let (key, value) =
        entry.split_once('=').ok_or_else(|| format!("expected a.b=value, got {entry}"))?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut at = table;
    for part in parts {
        at = at
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{key}: {part} is a value, not a table"))?;
    }
    at.insert(last.to_owned(), parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_reach_nested_keys() {
        let mut table: toml::Table = toml::from_str("[train]\nsteps = 1").unwrap();
        set(&mut table, "train.steps=20").unwrap();
        set(&mut table, "output_dir=runs/x").unwrap();
        assert_eq!(table["train"]["steps"].as_integer(), Some(20));
        assert_eq!(table["output_dir"].as_str(), Some("runs/x"));
        assert!(set(&mut table, "train.steps.deeper=1").unwrap_err().contains("not a table"));
        assert!(set(&mut table, "nonsense").unwrap_err().contains("a.b=value"));
    }
}
