//! `pathline eval --study`: every way of joining chunks at every delay, as table, JSON and picture.

use std::fs;
use std::path::Path;

use anyhow::Context;
use pathline::action::{Joining, Mode};
use pathline::plot::{Color, Figure, Layer, Panel, Scale};
use pathline::policy::{Policy, Solver};
use pathline::train::eval::{EvalOptions, EvalReport, evaluate};
use serde::Serialize;
use serde_json::json;

/// Size of one panel, px.
const PANEL: [u32; 2] = [960, 420];

/// What is the same in all cells.
pub(crate) struct Study<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) solver: &'a Solver,
    pub(crate) base: EvalOptions,
    pub(crate) name: &'a Path,
}

/// One way at one delay.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    mode: Mode,
    latency_ms: f64,
    pc_success: f64,
    avg_max_reward: f64,
    avg_steps: f64,
    mean_step: f64,
    seam_jump_mean: f64,
    seam_jump_max: f64,
    /// Mean seam jump over mean step.
    seam_ratio: f64,
    jerk_mean: f64,
    held_share: f64,
}

impl Study<'_> {
    /// Runs all cells and writes `folder/latency.{json,md,png}`.
    pub(crate) fn run(
        &self,
        joinings: &[Joining],
        latencies: &[f64],
        folder: &Path,
        as_json: bool,
    ) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut cells = Vec::new();
        if !as_json {
            println!("{HEAD}");
        }
        for joining in joinings {
            for &latency_ms in latencies {
                let options = EvalOptions { joining: *joining, latency_ms, ..self.base.clone() };
                let report = evaluate(self.policy, self.solver, &options, &mut |_, _, _| ())?;
                let cell = Cell::of(&report);
                if !as_json {
                    println!("{}", cell.line());
                }
                cells.push(cell);
            }
        }
        let about = json!({
            "pathline": env!("CARGO_PKG_VERSION"),
            "policy": self.name,
            "solver": self.solver.name,
            "steps": self.solver.steps,
            "episodes": self.base.episodes,
            "seed": self.base.seed,
            "rtc_config": self.base.rtc,
            "cells": cells,
        });
        let text = serde_json::to_string_pretty(&about)? + "\n";
        write(&folder.join("latency.json"), &text)?;
        write(&folder.join("latency.md"), &self.page(&cells, latencies))?;
        draw(&cells, &folder.join("latency.png"))?;
        if as_json {
            println!("{}", serde_json::to_string(&about)?);
        } else {
            println!("wrote {0}/latency.json  {0}/latency.md  {0}/latency.png", folder.display());
        }
        Ok(())
    }

    /// Two tables for people: success, and seam jump over step, with jerk in the second.
    fn page(&self, cells: &[Cell], latencies: &[f64]) -> String {
        let mut lines = Vec::new();
        let head: Vec<String> = latencies.iter().map(|ms| format!("{ms} ms")).collect();
        type Figure<'a> = (&'a str, &'a dyn Fn(&Cell) -> String);
        let tables: [Figure<'_>; 4] = [
            ("solved, percent", &|c| format!("{:.1}", c.pc_success)),
            ("seam jump / mean step", &|c| format!("{:.2}", c.seam_ratio)),
            ("jerk, px per tick³", &|c| format!("{:.1}", c.jerk_mean)),
            ("mean steps of the solved", &|c| format!("{:.0}", c.avg_steps)),
        ];
        for (title, figure) in tables {
            lines.push(format!("| {title} | {} |", head.join(" | ")));
            lines.push(format!("|---|{}", "---|".repeat(latencies.len())));
            for row in cells.chunks(latencies.len()) {
                let values: Vec<String> = row.iter().map(figure).collect();
                lines.push(format!("| `{}` | {} |", row[0].mode.name(), values.join(" | ")));
            }
            lines.push(String::new());
        }
        lines.join("\n")
    }
}

const HEAD: &str =
    "mode               delay ms  success %  steps   step   seam  ratio    max   jerk  held %";

impl Cell {
    fn of(report: &EvalReport) -> Self {
        let smooth = report.smoothness;
        Self {
            mode: report.mode,
            latency_ms: report.latency_ms,
            pc_success: report.pc_success,
            avg_max_reward: report.avg_max_reward,
            avg_steps: report.avg_steps,
            mean_step: smooth.mean_step,
            seam_jump_mean: smooth.seam_jump_mean,
            seam_jump_max: smooth.seam_jump_max,
            seam_ratio: smooth.seam_jump_mean / smooth.mean_step.max(1e-9),
            jerk_mean: smooth.jerk_mean,
            held_share: smooth.held_share,
        }
    }

    fn line(&self) -> String {
        format!(
            "{:<18} {:>8} {:>10.1} {:>6.0} {:>6.1} {:>6.1} {:>6.2} {:>6.0} {:>6.1} {:>7.1}",
            self.mode.name(),
            self.latency_ms,
            self.pc_success,
            self.avg_steps,
            self.mean_step,
            self.seam_jump_mean,
            self.seam_ratio,
            self.seam_jump_max,
            self.jerk_mean,
            100.0 * self.held_share
        )
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Success and seam jump against the delay, a line a way.
fn draw(cells: &[Cell], path: &Path) -> anyhow::Result<()> {
    let mut modes: Vec<Mode> = cells.iter().map(|cell| cell.mode).collect();
    modes.dedup();
    let panel = |title: &str, y: Scale, value: &dyn Fn(&Cell) -> f64, named: bool| {
        let layers = modes.iter().enumerate().map(|(i, mode)| {
            let of = cells.iter().filter(|cell| cell.mode == *mode);
            let points: Vec<_> = of.map(|cell| (cell.latency_ms, value(cell))).collect();
            let color = Color::PALETTE[i % Color::PALETTE.len()];
            let layer = match i / Color::PALETTE.len() {
                0 => Layer::dotted_line(points),
                _ => Layer::dashes(points),
            };
            layer.colored(color).named(if named { mode.name() } else { "" })
        });
        Panel::new(title, Scale::linear("delay, ms"), y).with_all(layers.collect::<Vec<_>>())
    };
    let bar: Vec<_> = cells.iter().map(|cell| (cell.latency_ms, 1.5)).collect();
    let seam = panel("", Scale::linear("seam jump / mean step"), &|c| c.seam_ratio, false);
    let figure = Figure::new("PushT under latency", 1, PANEL)
        .with(panel("", Scale::linear("solved, percent"), &|c| c.pc_success, true))
        .with(seam.with(Layer::thin_line(bar, 1.0).colored(Color::GREY)));
    figure.save(path)?;
    Ok(())
}
