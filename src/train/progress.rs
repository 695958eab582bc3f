//! A bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log::Metric;

/// How far a run is.
pub(super) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    first: usize,
    total: usize,
    start: Instant,
    said: std::cell::Cell<Instant>,
}

impl Progress {
    pub(super) fn new(step: usize, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr_with_hz(4)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) =
            ProgressStyle::with_template("{pos}/{len} [{bar:30}] {per_sec} eta {eta} {msg}")
        {
            bar.set_style(style);
        }
        bar.reset_eta();
        bar.set_position(step as u64);
        let now = Instant::now();
        Self { bar, terminal, first: step, total, start: now, said: std::cell::Cell::new(now) }
    }

    pub(super) fn tick(&self, step: usize, loss: f64) {
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("loss {loss:.4}"));
    }

    pub(super) fn say(&self, line: &str) {
        if self.terminal { self.bar.println(line) } else { eprintln!("{line}") }
    }

    pub(super) fn log(&self, metric: &Metric) {
        let quiet = self.said.get().elapsed() < Duration::from_secs(10);
        if self.terminal || (quiet && metric.step < self.total) {
            return;
        }
        self.said.set(Instant::now());
        let rate = (metric.step - self.first) as f64 / self.start.elapsed().as_secs_f64();
        let eta = (self.total - metric.step) as f64 / rate.max(1e-9);
        eprintln!(
            "step {}/{}  loss {:.4}  lr {:.2e}  grad_norm {:.2}  {rate:.1} steps/s  eta {eta:.0} s",
            metric.step, self.total, metric.loss, metric.lr, metric.grad_norm
        );
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
