//! Success and speed of the PushT expert:
//! `expert_eval [reset|perturbed] [first_seed] [episodes] [beam] [replan_ticks]`.
#![allow(clippy::print_stdout, reason = "the figures are the program's output")]

use std::time::Instant;

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{ExpertConfig, perturbed, takeover};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number =
        |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let is_perturbed = args.get(1).is_some_and(|a| a == "perturbed");
    let (first, count) = (number(2, 100_000), number(3, 100));
    let base = ExpertConfig::default();
    let cfg = ExpertConfig {
        beam: number(4, base.beam as u64) as usize,
        replan_ticks: number(5, base.replan_ticks as u64) as usize,
        ..base
    };
    let start = Instant::now();
    let (mut lengths, mut failed) = (Vec::new(), Vec::new());
    for seed in first..first + count {
        let env = if is_perturbed { perturbed(seed) } else { PushT::reset(seed) };
        let steps = takeover(env, &cfg, PushT::MAX_STEPS);
        if steps.last().is_some_and(|s| s.success) {
            lengths.push(steps.len());
        } else {
            failed.push(seed);
        }
    }
    let secs = start.elapsed().as_secs_f64();
    lengths.sort_unstable();
    let solved = lengths.len();
    let mean = lengths.iter().sum::<usize>() as f64 / solved.max(1) as f64;
    let median = lengths.get(solved / 2).copied().unwrap_or(0);
    let longest = lengths.last().copied().unwrap_or(0);
    println!(
        "solved {solved}/{count} = {:.1} % · steps mean {mean:.1} median {median} longest {longest} \
         · {:.3} s an episode",
        100.0 * solved as f64 / count as f64,
        secs / count as f64
    );
    if !failed.is_empty() {
        println!("not solved: {failed:?}");
    }
}
