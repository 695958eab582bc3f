//! Messages to bytes and back: a PushT observation, one with a 96×96 picture, and a chunk `[16, 2]`.
//!
//! Run: `cargo bench --bench wire`.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pathline::action::ActionChunk;
use pathline::wire::{ActionChunkMsg, CameraImage, Flags, Header, Observation, Time};

fn observation() -> Observation {
    Observation {
        seq: 7,
        task: "Push the T-shaped block onto the T-shaped target.".to_owned(),
        state: vec![256.0, 400.0],
        environment_state: (0..16u8).map(f32::from).collect(),
        ..Observation::default()
    }
}

fn picture() -> CameraImage {
    CameraImage {
        name: "top".to_owned(),
        encoding: "rgb8".to_owned(),
        height: 96,
        width: 96,
        data: vec![127; 96 * 96 * 3],
    }
}

fn chunk() -> ActionChunkMsg {
    ActionChunkMsg {
        header: Header::default(),
        obs_stamp: Time::default(),
        episode: 1,
        t0: Time::default(),
        prefix_len: 0,
        nfe: 2,
        infer_ms: 1.5,
        seed: 3,
        flags: Flags::default(),
        encode_ms: 0.0,
        queue_ms: 0.0,
        chunk: ActionChunk {
            session: 1,
            epoch: 2,
            seq: 3,
            obs_seq: 7,
            obs_tick: 7,
            dt: Duration::from_millis(100),
            dim: 2,
            actions: (0..32u8).map(f32::from).collect(),
        },
    }
}

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.sample_size(30).measurement_time(Duration::from_secs(1));
    let seen = Observation { images: vec![picture()], ..observation() };
    for (name, message) in [("observation", observation()), ("observation with picture", seen)] {
        let Ok(bytes) = message.encode() else { continue };
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group
            .bench_function(format!("{name}, encode"), |b| b.iter(|| black_box(&message).encode()));
        group.bench_function(format!("{name}, decode"), |b| {
            b.iter(|| Observation::decode(black_box(&bytes)));
        });
    }
    let message = chunk();
    if let Ok(bytes) = message.encode() {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("chunk, encode", |b| b.iter(|| black_box(&message).encode()));
        group.bench_function("chunk, decode", |b| {
            b.iter(|| ActionChunkMsg::decode(black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
