//! `metrics.jsonl`, and the curves drawn from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plot::{Figure, Layer, Panel, Scale, Series, line_plot};
use crate::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Metric {
    pub(super) step: usize,
    pub(super) loss: f64,
    pub(super) lr: f64,
    pub(super) grad_norm: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pc_success: Option<f64>,
    /// The terms of the loss, and what else is watched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) parts: BTreeMap<String, f64>,
}

/// `metrics.jsonl`, and the loss curve drawn from it.
pub(super) struct Log {
    dir: PathBuf,
    file: File,
    metrics: Vec<Metric>,
}

impl Log {
    /// Opens the log and drops what lies after `step` (an interrupted run may have written more).
    pub(super) fn open(dir: &Path, step: usize) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let old = fs::read_to_string(&path).unwrap_or_default();
        let metrics: Vec<Metric> = old
            .lines()
            .filter_map(|line| serde_json::from_str::<Metric>(line).ok())
            .filter(|metric| metric.step <= step)
            .collect();
        // Written beside it and renamed: a run that is killed here keeps its log.
        let next = dir.join(".metrics.jsonl");
        let file = File::create(&next).map_err(|e| Error::io(&next, e))?;
        let mut log = Self { dir: dir.to_owned(), file, metrics: Vec::new() };
        for metric in &metrics {
            log.write(metric)?;
        }
        fs::rename(&next, &path).map_err(|e| Error::io(&path, e))?;
        Ok(log)
    }

    pub(super) fn write(&mut self, metric: &Metric) -> Result<()> {
        let line = serde_json::to_string(metric).map_err(|e| Error::Invalid(e.to_string()))?;
        writeln!(self.file, "{line}").map_err(|e| Error::io(self.dir.join("metrics.jsonl"), e))?;
        self.metrics.push(metric.clone());
        Ok(())
    }

    pub(super) fn plot(&self) -> Result<()> {
        let loss = self.metrics.iter().map(|m| (m.step as f64, m.loss)).collect();
        let series = [Series { name: "loss".into(), points: loss }];
        line_plot(&self.dir.join("loss.png"), "Training", "step", "loss", &series, true)?;
        self.plot_parts()?;
        let points: Vec<_> =
            self.metrics.iter().filter_map(|m| Some((m.step as f64, m.pc_success?))).collect();
        if points.len() > 1 {
            let series = [Series { name: "success".into(), points }];
            let path = self.dir.join("success.png");
            line_plot(&path, "Evaluation", "step", "success, %", &series, false)?;
        }
        Ok(())
    }

    /// Each part in a panel of its own: they have other units.
    fn plot_parts(&self) -> Result<()> {
        let names: BTreeSet<&String> = self.metrics.iter().flat_map(|m| m.parts.keys()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut figure = Figure::new("Training", 2, [420, 260]);
        for name in names {
            let value = |m: &Metric| Some((m.step as f64, *m.parts.get(name)?));
            let points = self.metrics.iter().filter_map(value).collect();
            let panel = Panel::new(name.as_str(), Scale::linear("step"), Scale::linear(""));
            figure = figure.with(panel.with(Layer::line(points)));
        }
        figure.save(&self.dir.join("parts.png"))
    }
}
