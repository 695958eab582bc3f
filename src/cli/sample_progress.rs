//! What is seen while pictures are drawn: a bar on a terminal or a line now and then, and previews.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pathline::image::{Progress, grid, pixels, png};

use super::sample_output::Pattern;

/// Lines where there is no terminal are so far apart.
const PAUSE: Duration = Duration::from_secs(10);

/// A bar with time per step and the time that is left.
pub(crate) struct Bar {
    bar: ProgressBar,
    terminal: bool,
    said: Instant,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr_with_hz(4)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("step {pos}/{len} [{bar:30}] {msg}") {
            bar.set_style(style);
        }
        Self { bar, terminal, said: Instant::now() }
    }

    /// After a step.
    pub(crate) fn tick(&mut self, step: usize, steps: usize, elapsed: Duration) {
        let text = pace(step, steps, elapsed);
        self.bar.set_length(steps as u64);
        self.bar.set_position(step as u64);
        self.bar.set_message(text.clone());
        if !self.terminal && (self.said.elapsed() >= PAUSE || step == steps) {
            self.said = Instant::now();
            eprintln!("step {step}/{steps}  {text}");
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn pace(step: usize, steps: usize, elapsed: Duration) -> String {
    let each = elapsed.as_secs_f64() / step.max(1) as f64;
    let left = each * steps.saturating_sub(step) as f64;
    let rest = if step < steps { format!("  eta {}", clock(left)) } else { String::new() };
    format!("{}/step{rest}", seconds(each))
}

/// Three digits of a short time.
pub(crate) fn seconds(secs: f64) -> String {
    match secs {
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}

fn clock(secs: f64) -> String {
    match secs.ceil() as u64 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        s => format!("{}:{:02} h", s / 3600, s / 60 % 60),
    }
}

/// Half-done pictures in a file, or with `%d` or `{}` in its name a file a time.
pub(crate) struct Preview {
    pattern: Result<Pattern, PathBuf>,
    interval: usize,
}

impl Preview {
    pub(crate) fn new(path: &Path, interval: usize) -> Self {
        Self { pattern: Pattern::find(path).ok_or_else(|| path.to_owned()), interval }
    }

    /// The file after `step` steps.
    pub(crate) fn file(&self, step: usize) -> PathBuf {
        self.pattern.as_ref().map_or_else(Clone::clone, |pattern| pattern.with(step))
    }

    /// Draws what there is, if this step is due; the last is not, since the picture itself follows.
    pub(crate) fn show(&self, progress: &Progress<'_>) -> pathline::Result<()> {
        if !progress.step.is_multiple_of(self.interval) || progress.step == progress.steps {
            return Ok(());
        }
        let pictures = pixels::pictures(&progress.pipeline.preview(progress.estimate)?)?;
        let all = grid::grid(&pictures, grid::columns(pictures.len()))?;
        png::write(&self.file(progress.step), &all, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(pace(4, 20, Duration::from_secs(2)), "0.50 s/step  eta 8 s");
        assert_eq!(pace(20, 20, Duration::from_millis(500)), "25.00 ms/step");
        assert_eq!(pace(1, 1000, Duration::from_secs(12)), "12.0 s/step  eta 3:19 h");
        assert_eq!(clock(61.2), "1:02 min");
    }
}
