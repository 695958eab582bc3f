//! The lines and the table that `demo` and `sim` print; none wider than 80 columns.

use pathline::node::{Cadence, EpisodeReport, LatencySummary, RunReport};

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

/// The result of a run, its cadence, and how smoothly it ran.
pub(crate) fn table(report: &RunReport) -> String {
    let successes = report.episodes.iter().filter(|episode| episode.success).count();
    let stages = &report.stages;
    let mut lines = vec![
        format!(
            "success {successes}/{}  pc_success {:.1}  avg_max_reward {:.3}  avg_sum_reward {:.1}",
            report.n_episodes, report.pc_success, report.avg_max_reward, report.avg_sum_reward
        ),
        format!("{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}", "stage, ms", "p50", "p90", "p99", "max", "n"),
        row("observe", &stages.observe),
        row("encode", &stages.encode),
        row("integrate", &stages.integrate),
        row("transfer", &stages.transfer),
        row("queue", &stages.queue),
        row("observation→action", &report.end_to_end),
        cadence(&report.cadence),
    ];
    let smooth = &report.smoothness;
    let added = match report.latency_ms {
        0.0 => String::new(),
        ms => format!("  every chunk {ms} ms late"),
    };
    lines.push(format!("joining {}{added}  {} seams", report.joining.mode.name(), smooth.seams));
    lines.push(format!(
        "seam jump mean {:.2} max {:.2}  step {:.2}  jerk {:.2}  held {:.1} %",
        smooth.seam_jump_mean,
        smooth.seam_jump_max,
        smooth.mean_step,
        smooth.jerk_mean,
        100.0 * smooth.held_share
    ));
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

fn cadence(cadence: &Cadence) -> String {
    let share = 100.0 * cadence.late as f64 / cadence.ticks.max(1) as f64;
    let budget = format!("over budget {}/{} ({share:.1} %)", cadence.late, cadence.ticks);
    if cadence.target_hz > 0.0 {
        format!(
            "cadence {:.2} Hz of {:.0} Hz  {budget}  skipped {}",
            cadence.rate_hz, cadence.target_hz, cadence.skipped
        )
    } else {
        // PushT's own rate: what a tick would have to keep in real time.
        let times = cadence.rate_hz / 10.0;
        format!("cadence {:.0} Hz in lockstep, {times:.0} x real time  {budget}", cadence.rate_hz)
    }
}

fn row(name: &str, latency: &LatencySummary) -> String {
    // Arrows are one column wide but three bytes: pad by characters.
    let pad = 26_usize.saturating_sub(name.chars().count());
    if latency.count == 0 {
        return format!(
            "{name}{}{:>9}{:>9}{:>9}{:>9}{:>9}",
            " ".repeat(pad),
            "-",
            "-",
            "-",
            "-",
            0
        );
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pathline::action::{Joining, Mode, SmoothnessSummary};
    use pathline::node::Stages;

    use super::*;

    #[test]
    fn the_table_fits_a_terminal() {
        let slow = LatencySummary {
            count: 1_000_000,
            p50_ms: 1234.567,
            p90_ms: 12345.678,
            p99_ms: 12345.678,
            p999_ms: 12345.678,
            max_ms: 120_000.0,
        };
        let smoothness = SmoothnessSummary {
            mean_step: 123.4,
            seam_jump_mean: 234.5,
            seam_jump_max: 512.0,
            jerk_mean: 123.4,
            held_share: 1.0,
            seams: 100_000,
            ticks: 1_000_000,
            ..SmoothnessSummary::default()
        };
        let stages = Stages { observe: slow, integrate: slow, ..Stages::default() };
        let cadence =
            Cadence { target_hz: 10.0, rate_hz: 9.87, ticks: 100_000, late: 12_345, skipped: 1234 };
        let mut report = RunReport {
            pc_success: 100.0,
            avg_max_reward: 1.0,
            avg_sum_reward: 123.4,
            eval_s: 1.0,
            eval_ep_s: 1.0,
            n_episodes: 1000,
            episodes: Vec::new(),
            inference: slow,
            overhead: slow,
            end_to_end: slow,
            cadence,
            stages,
            smoothness,
            joining: Joining { mode: Mode::TemporalEnsemble, ..Joining::default() },
            latency_ms: 300.0,
            chunks: BTreeMap::new(),
            interrupted: false,
        };
        for target_hz in [10.0, 0.0] {
            report.cadence = Cadence { target_hz, rate_hz: 1234.5, ..report.cadence };
            for line in table(&report).lines() {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
            }
        }
        let text = table(&report);
        for word in ["observe", "encode", "integrate", "transfer", "queue", "held 100.0 %"] {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
    }
}
