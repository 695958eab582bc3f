//! The lines and the table that `demo` and `sim` print.

use pathline::node::{EpisodeReport, LatencySummary, RunReport};

/// One line for one episode.
pub(crate) fn episode_line(episode: &EpisodeReport, episodes: u32) -> String {
    let width = episodes.to_string().len();
    let outcome = if episode.success { "success" } else { "failure" };
    let holds = match episode.holds {
        0 => String::new(),
        n => format!("  held {n} steps"),
    };
    format!(
        "episode {:>width$}/{episodes}  seed {}  {outcome}  {:>3} steps  reward {:.3}  infer p50 {:.2} ms  p99 {:.2} ms{holds}",
        episode.episode + 1,
        episode.seed,
        episode.steps,
        episode.max_reward,
        episode.inference.p50_ms,
        episode.inference.p99_ms,
    )
}

/// The result of a run and its table of latencies.
pub(crate) fn table(report: &RunReport) -> String {
    let successes = report.episodes.iter().filter(|episode| episode.success).count();
    let mut lines = vec![
        format!(
            "success {successes}/{}  pc_success {:.1}  avg_max_reward {:.3}  avg_sum_reward {:.1}",
            report.n_episodes, report.pc_success, report.avg_max_reward, report.avg_sum_reward
        ),
        format!("{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}", "latency, ms", "p50", "p90", "p99", "max", "n"),
        row("inference", &report.inference),
        row("observation→chunk overhead", &report.overhead),
        row("observation→action", &report.end_to_end),
    ];
    let cadence = &report.cadence;
    lines.push(if cadence.target_hz > 0.0 {
        let on_time = cadence.ticks - cadence.late;
        format!(
            "cadence {:.2} Hz of {:.0} Hz  ticks on time {on_time}/{} ({:.1} %)  skipped {}",
            cadence.rate_hz,
            cadence.target_hz,
            cadence.ticks,
            100.0 * on_time as f64 / cadence.ticks.max(1) as f64,
            cadence.skipped
        )
    } else {
        format!(
            "lockstep: {} ticks at {:.0} a second, {:.0} times real time",
            cadence.ticks,
            cadence.rate_hz,
            cadence.rate_hz / 10.0
        )
    });
    let refused: Vec<String> = report
        .chunks
        .iter()
        .filter(|(name, count)| *name != "accepted" && **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !refused.is_empty() {
        lines.push(format!("chunks refused: {}", refused.join(", ")));
    }
    lines.join("\n")
}

fn row(name: &str, latency: &LatencySummary) -> String {
    // Arrows are one column wide but three bytes: pad by characters.
    let pad = 26_usize.saturating_sub(name.chars().count());
    format!(
        "{name}{}{:>9.3}{:>9.3}{:>9.3}{:>9.3}{:>9}",
        " ".repeat(pad),
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.max_ms,
        latency.count
    )
}
