//! The timeline of a robot with chunks of 50 rows of 7 values: a tick's query, and a chunk entered.
//!
//! Run: `cargo bench --no-default-features --bench timeline`.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pathline::action::{Join, Plan, Timeline};

const ROWS: usize = 50;
const DIM: usize = 7;

fn plan(obs_tick: u64) -> Plan {
    Plan { epoch: 1, chunk_seq: obs_tick + 1, obs_seq: obs_tick + 1, obs_tick, horizon: ROWS }
}

/// Half a chunk was played: tick 25 is next.
fn running(join: Join, values: &[f32]) -> Timeline {
    let mut line = Timeline::new(DIM, ROWS, 100, join);
    line.load(plan(0), 0, values.iter().copied()).unwrap();
    for tick in 0..25 {
        let row = line.due(tick).unwrap().0;
        line.mark_executed(tick, &row);
    }
    line
}

fn timeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("timeline/50x7/f32/cpu");
    group.sample_size(50).measurement_time(Duration::from_secs(1));
    let values: Vec<f32> = (0..ROWS * DIM).map(|i| i as f32).collect();
    let mut line = running(Join::Replace, &values);
    group.bench_function("due + played over 25 ticks", |b| {
        b.iter(|| {
            let now = black_box(25);
            let (row, values) = line.due(now)?;
            Some((row.index, values[DIM - 1], line.played(black_box(0), now)))
        });
    });
    group.bench_function("mark_executed", |b| {
        let row = line.due(25).unwrap().0;
        b.iter(|| line.mark_executed(black_box(25), black_box(&row)));
    });
    group.bench_function("left_over of 25 rows", |b| {
        b.iter(|| line.left_over(black_box(25)).map(|row| row[0]).sum::<f32>());
    });
    let joins = [
        ("replace", Join::Replace),
        ("keep", Join::Keep),
        ("blend", Join::Blend { old: 0.3 }),
        ("ensemble", Join::Ensemble { coefficient: 0.01 }),
    ];
    for (name, join) in joins {
        let line = running(join, &values);
        // Observed at 20, there at 25: rows 5 to 49, of which 25 meet a row of the old chunk.
        group.bench_function(format!("load, {name}"), |b| {
            b.iter_batched_ref(
                || line.clone(),
                |line| line.load(plan(20), black_box(25), values.iter().copied()),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, timeline);
criterion_main!(benches);
