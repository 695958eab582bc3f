//! What the gate costs: one command period, the row of a tick, a chunk on arrival.
//!
//! `pusht` is a robot without limits of motion, 2 values and 1 command a tick; `arm` has 6 joints with all
//! limits and 4 commands a tick: `following` a path that keeps them, `catching` up with one that does not,
//! `near` a position limit, and `holding`. Times are per command period, except `chunk`.
//!
//! Run: `cargo bench --no-default-features --bench gate`.
#![allow(clippy::unwrap_used, reason = "a bench may panic: that is how it fails")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use pathline::action::{ActionChunk, Gate, GateConfig, Join, RobotFile};

const HORIZON: usize = 50;
/// Ticks between two chunks.
const STEPS: u64 = 25;

fn robot(name: &str) -> GateConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/robots");
    let mut config =
        RobotFile::load(&folder.join(name)).unwrap().gate(7, HORIZON, Join::Replace).unwrap();
    (config.max_obs_age, config.heartbeat) = (60, 60);
    config.limits.iter_mut().for_each(|l| l.jump = None);
    config
}

fn chunk(tick: u64, dim: usize, path: impl Fn(f32) -> f32) -> ActionChunk {
    let row = |i: usize| path((tick + (i / dim) as u64) as f32);
    ActionChunk {
        session: 7,
        epoch: 1,
        seq: tick + 1,
        obs_seq: tick + 1,
        obs_tick: tick,
        dt: Duration::from_millis(20),
        dim,
        actions: (0..dim * HORIZON).map(row).collect(),
    }
}

/// Steps a gate along `path` (by tick), with a chunk every [`STEPS`] ticks: time per command.
fn along(c: &mut Criterion, name: &str, config: &GateConfig, path: Option<fn(f32) -> f32>) {
    let (dim, commands) = (config.limits.len(), config.commands_per_tick);
    // A period of the paths is 1000 ticks.
    let chunks: Vec<_> =
        (0..1000 / STEPS).map(|i| path.map(|path| chunk(STEPS * i, dim, path))).collect();
    let mut group = c.benchmark_group("gate");
    group.bench_function(format!("{name}/{dim}/f32/cpu"), |b| {
        b.iter_custom(|n| {
            let start = vec![path.map_or(0.5, |path| path(0.0)); dim];
            let mut gate = Gate::new(config.clone(), &start).unwrap();
            let mut spent = Duration::ZERO;
            let (mut left, mut tick) = (n, 0_u64);
            while left > 0 {
                gate.observed(tick + 1, tick);
                let at = (tick % 1000 / STEPS) as usize;
                if let Some(Some(chunk)) = chunks.get(at)
                    && tick % STEPS == 0
                {
                    let mut view = chunk.view();
                    (view.seq, view.obs_seq, view.obs_tick) = (tick + 1, tick + 1, tick);
                    assert!(gate.offer(&view, tick).is_accepted());
                }
                // STEPS ticks at a time, so that the clock is read seldom.
                let begin = std::time::Instant::now();
                for _ in 0..STEPS {
                    for sub in 0..commands {
                        black_box(gate.step_at(tick, sub));
                    }
                    tick += 1;
                }
                spent += begin.elapsed();
                left = left.saturating_sub(STEPS * u64::from(commands));
            }
            let ran = tick * u64::from(commands);
            spent.mul_f64(n as f64 / ran as f64)
        });
    });
    group.finish();
}

fn steps(c: &mut Criterion) {
    let (pusht, arm) = (robot("pusht.toml"), robot("arm.toml"));
    const TURN: f32 = std::f32::consts::TAU / 1000.0;
    along(c, "pusht", &pusht, Some(|t| 256.0 + 200.0 * (TURN * t).sin()));
    along(c, "arm_following", &arm, Some(|t| 0.6 + 0.5 * (TURN * t).sin()));
    along(c, "arm_catching", &arm, Some(|t| 0.6 + 0.5 * (40.0 * TURN * t).sin()));
    let mut narrow = arm.clone();
    narrow.limits.iter_mut().for_each(|l| (l.lo, l.hi) = (0.0, 1.2));
    along(c, "arm_near", &narrow, Some(|t| (0.6 + 0.9 * (20.0 * TURN * t).sin()).clamp(0.0, 1.2)));
    along(
        c,
        "arm_jumping",
        &arm,
        Some(|t| if ((t / 7.0) as u32).is_multiple_of(2) { 0.0 } else { 1.2 }),
    );
    along(c, "arm_holding", &arm, None);
}

fn queries(c: &mut Criterion) {
    let mut group = c.benchmark_group("gate");
    let config = robot("arm.toml");
    let dim = config.limits.len();
    let mut gate = Gate::new(config, &[0.6; 6]).unwrap();
    gate.observed(1, 0);
    let plan = chunk(0, dim, |_| 0.6);
    assert!(gate.offer(&plan.view(), 0).is_accepted());
    group.bench_function("timeline_due/6/f32/cpu", |b| {
        b.iter(|| black_box(gate.timeline().due(black_box(7))));
    });
    group.bench_function("executing/6/f32/cpu", |b| {
        b.iter(|| black_box(gate.executing(black_box(7))));
    });
    let mut seq = 1;
    group.bench_function("chunk/50x6/f32/cpu", |b| {
        b.iter(|| {
            seq += 1;
            let mut view = plan.view();
            view.seq = seq;
            black_box(gate.offer(&view, 0))
        });
    });
    group.finish();
}

criterion_group!(benches, steps, queries);
criterion_main!(benches);
