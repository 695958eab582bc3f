//! The gate takes no memory after its start: every way of joining, all limits, four commands a tick. An
//! allocator that counts is the witness.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use pathline::action::{ActionChunk, Gate, Join, RobotFile};

#[path = "support/meter.rs"]
mod meter;

const HORIZON: usize = 50;

fn chunk(seq: u64, tick: u64, dim: usize) -> ActionChunk {
    // Every third is spoiled, and every fifth jumps.
    let value = |i: usize| match seq {
        _ if seq.is_multiple_of(3) && i == 30 => f32::NAN,
        _ if seq.is_multiple_of(5) => 1.1,
        _ => 0.5 + 0.3 * ((tick + i as u64 / 6) as f32 * 0.1).sin(),
    };
    ActionChunk {
        session: 7,
        epoch: 1,
        seq,
        obs_seq: tick,
        obs_tick: tick,
        dt: Duration::from_millis(20),
        dim,
        actions: (0..dim * HORIZON).map(value).collect(),
    }
}

#[test]
fn the_gate_takes_no_memory_after_its_start() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/robots/arm.toml");
    let robot = RobotFile::load(&path).unwrap();
    for join in [
        Join::Replace,
        Join::Keep,
        Join::Blend { old: 0.3 },
        Join::Ensemble { coefficient: 0.01 },
        Join::Stop { rows: 8 },
    ] {
        let config = robot.gate(7, HORIZON, join).unwrap();
        let (dim, commands) = (config.limits.len(), config.commands_per_tick);
        let chunks: Vec<_> = (0..250).map(|i| chunk(i + 1, 4 * i + 1, dim)).collect();
        let mut made = None;
        let (_, taken) = meter::peak(|| made = Some(Gate::new(config, &[0.5; 6]).unwrap()));
        let mut gate = made.unwrap();
        assert!(taken > 0, "the meter runs");
        let bytes = gate.memory_bytes();
        let (moved, taken) = meter::peak(|| {
            let mut moved = 0.0;
            for tick in 1..=1000_u64 {
                gate.observed(tick, tick);
                black_box(gate.executing(tick));
                if tick % 4 == 1 && tick % 50 < 40 {
                    let _ = gate.offer(&chunks[(tick / 4) as usize].view(), tick + 2);
                }
                if tick == 500 {
                    gate.reset(&[0.5; 6]).unwrap();
                    gate.latch();
                    gate.unlatch();
                }
                for sub in 0..commands {
                    moved += gate.step_at(tick, sub).action[0];
                }
            }
            moved
        });
        assert_eq!(taken, 0, "{join:?}: bytes taken in 1000 ticks");
        assert_eq!(gate.memory_bytes(), bytes);
        let counters = *gate.counters();
        assert!(moved > 0.0 && counters.accepted > 50, "{join:?}: {counters:?}");
        println!("{join:?}: {bytes} bytes, {counters:?}");
    }
}
