//! The timeline against LeRobot's own queues, and its memory against an allocator that counts.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;

use pathline::action::{Join, Joining, Mode, Plan, Timeline};
use serde::Deserialize;

#[path = "support/meter.rs"]
mod meter;

const DIM: usize = 2;

/// See tests/golden/async_queue.py.
#[derive(Deserialize)]
struct Golden {
    chunks: Vec<Chunk>,
    played: BTreeMap<String, Vec<Vec<f32>>>,
    append: Vec<Vec<f32>>,
    every_tick: Vec<Vec<f32>>,
    ensemble: BTreeMap<String, Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
struct Chunk {
    observed: u64,
    arrives: u64,
    values: Vec<f32>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/async_queue.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Plays `chunks` from tick 0 until nothing is left.
fn play(join: Join, chunks: &[Chunk]) -> Vec<Vec<f32>> {
    let mut line = Timeline::new(DIM, 8, 20, join);
    let mut played = Vec::new();
    for tick in 0.. {
        for (seq, chunk) in (1..).zip(chunks).filter(|(_, chunk)| chunk.arrives == tick) {
            let (obs_tick, horizon) = (chunk.observed, chunk.values.len() / DIM);
            let plan = Plan { epoch: 1, chunk_seq: seq, obs_seq: seq, obs_tick, horizon };
            line.load(plan, tick, chunk.values.iter().copied());
        }
        let Some((row, values)) = line.due(tick) else { break };
        played.push(values.to_vec());
        line.mark_executed(tick, &row);
    }
    played
}

#[test]
fn blends_are_those_of_lerobot_to_the_bit() {
    let golden = golden();
    assert_eq!(golden.played.len(), 4);
    for (name, want) in &golden.played {
        let joining = Joining { mode: Mode::by_name(name).unwrap(), ..Joining::default() };
        let join = joining.join(8);
        assert_eq!(&play(join, &golden.chunks), want, "{name}: {join:?}");
    }
    let half = play(Join::Blend { old: 0.5 }, &golden.chunks);
    assert_ne!(half, golden.played["weighted_average"], "the rows tell weights apart");
}

#[test]
fn ensembles_are_those_of_lerobot_to_the_bit() {
    let golden = golden();
    let chunks: Vec<_> = (0..)
        .zip(&golden.every_tick)
        .map(|(tick, values)| Chunk { observed: tick, arrives: tick, values: values.clone() })
        .collect();
    assert_eq!(golden.ensemble.len(), 4);
    for (name, want) in &golden.ensemble {
        let got = play(Join::Ensemble { coefficient: name.parse().unwrap() }, &chunks);
        assert_eq!(&got[..want.len()], want, "{name}");
    }
}

#[test]
fn append_enters_a_chunk_where_now_is() {
    let golden = golden();
    let [first, second, ..] = &golden.chunks[..] else { panic!("two chunks") };
    let ours = play(Join::Keep, &golden.chunks);
    let end = first.values.len() / DIM;
    assert_eq!(ours[..end], golden.append[..end]);
    // LeRobot plays the second chunk's row 0 then, which answers what was seen five ticks before.
    let row = |i: usize| &second.values[i * DIM..][..DIM];
    assert_eq!(golden.append[end], row(0));
    assert_eq!(ours[end], row(end - second.observed as usize));
}

#[test]
fn it_takes_no_memory_after_its_start() {
    let joins = [
        Join::Stop { rows: 20 },
        Join::Keep,
        Join::Replace,
        Join::Blend { old: 0.3 },
        Join::Ensemble { coefficient: 0.01 },
    ];
    for join in joins {
        let mut made = None;
        let (_, taken) = meter::peak(|| made = Some(Timeline::new(7, 50, 100, join)));
        let mut line = made.unwrap();
        assert!(taken >= line.memory_bytes() && taken > 0, "the meter runs");
        let bytes = line.memory_bytes();
        let (played, taken) = meter::peak(|| {
            let mut played = 0_u64;
            for tick in 0..2000_u64 {
                if tick % 7 == 3 && tick % 300 < 200 {
                    let obs_tick = tick - tick % 5 % 3;
                    let horizon = 50 - (tick % 11) as usize;
                    let plan = Plan { epoch: 1, chunk_seq: tick, obs_seq: tick, obs_tick, horizon };
                    line.load(plan, tick, (0..horizon * 7).map(|i| i as f32));
                }
                if tick == 1000 {
                    line.clear();
                }
                black_box(line.left_over(tick).map(|row| row[6]).sum::<f32>());
                black_box((line.executing(tick), line.played(tick.saturating_sub(50), tick)));
                if let Some((row, _)) = line.due(tick) {
                    line.mark_executed(tick, &row);
                    played += 1;
                }
            }
            played
        });
        assert_eq!((taken, line.memory_bytes()), (0, bytes), "{join:?}");
        assert!(played > 500, "{join:?}: {played}");
        println!("{join:?}: {bytes} bytes, {played} rows of 2000 ticks played");
    }
}
