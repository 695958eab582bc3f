//! Success and speed of the PushT expert: `expert_eval [first_seed] [episodes] [beam] [depth]`.
#![allow(clippy::print_stdout, reason = "the figures are the program's output")]

use std::time::Instant;

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{ExpertConfig, episode};

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let first = args.first().copied().unwrap_or(100_000);
    let count = args.get(1).copied().unwrap_or(100);
    let mut cfg = ExpertConfig::default();
    if let Some(beam) = args.get(2) {
        cfg.beam = *beam as usize;
    }
    if let Some(depth) = args.get(3) {
        cfg.depth = *depth as usize;
    }
    let start = Instant::now();
    let (mut lengths, mut failed) = (Vec::new(), Vec::new());
    for seed in first..first + count {
        let steps = episode(PushT::reset(seed), &cfg, PushT::MAX_STEPS);
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
