//! What any bytes cost: a million mutated messages, no panic, bounded memory; and the robot's side
//! of the loop takes no memory at all. An allocator that counts is the witness.
//! `PATHLINE_MUTANTS` sets the number of messages.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use pathline::action::{ActionChunk, Gate, GateConfig, Limit, Reason};
use pathline::wire::{
    ACTION_CHUNK, Action, ActionChunkMsg, Attachment, CameraImage, Flags, Header, Observation,
    Time, offer,
};

thread_local! {
    /// Allocations, bytes held now, most bytes held: of this thread, since the last `measure`.
    static METER: Cell<(u64, i64, i64)> = const { Cell::new((0, 0, 0)) };
}

struct Counting;

fn note(calls: u64, bytes: i64) {
    let _ = METER.try_with(|m| {
        let (n, held, peak) = m.get();
        m.set((n + calls, held + bytes, peak.max(held + bytes)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the meter takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may be held at once.
        note(1, size as i64);
        let new = unsafe { System.realloc(ptr, layout, size) };
        note(0, -(layout.size() as i64));
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f`; its result, number of allocations, most bytes that it held at once.
fn measure<T>(f: impl FnOnce() -> T) -> (T, u64, usize) {
    METER.set((0, 0, 0));
    let out = f();
    let (calls, _, peak) = METER.get();
    (out, calls, peak as usize)
}

/// What decoding n bytes may hold at most: the fields themselves, and 4 KiB for the list of pictures
/// and the text of an error.
fn bound(n: usize) -> usize {
    n + 4096
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 29)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn observation() -> Observation {
    let image = |name: &str, encoding: &str, n| CameraImage {
        name: name.into(),
        encoding: encoding.into(),
        height: 4,
        width: 8,
        data: vec![0x80; n],
    };
    Observation {
        header: Header { stamp: Time { sec: 1, nanosec: 2 }, frame_id: "world".into() },
        session: 7,
        tick: 5,
        seq: 1,
        task: "push the T".into(),
        state: vec![1.0, 2.0],
        environment_state: vec![3.0; 16],
        images: vec![image("top", "rgb8", 96), image("wrist", "png", 33)],
        ..Observation::default()
    }
}

fn chunk(seq: u64, obs_seq: u64, obs_tick: u64) -> ActionChunkMsg {
    ActionChunkMsg {
        header: Header { stamp: Time { sec: 1, nanosec: 2 }, frame_id: "pathline".into() },
        obs_stamp: Time::default(),
        episode: 0,
        t0: Time::default(),
        prefix_len: 0,
        nfe: 4,
        infer_ms: 1.0,
        seed: 3,
        flags: Flags::default(),
        encode_ms: 0.0,
        queue_ms: 0.0,
        chunk: ActionChunk {
            session: 7,
            epoch: 1,
            seq,
            obs_seq,
            obs_tick,
            dt: Duration::from_millis(100),
            dim: 2,
            actions: (0..32).map(|i| 100.0 + i as f32).collect(),
        },
    }
}

fn gate() -> Gate {
    let limit = Limit { velocity: Some(40.0), ..Limit::new(0.0, 512.0) };
    let config = GateConfig {
        session: 7,
        limits: vec![limit; 2],
        max_horizon: 16,
        max_obs_age: 10,
        heartbeat: 8,
        overshoot: 0.1,
        latch_after: 0,
        ..GateConfig::default()
    };
    Gate::new(config, &[10.0, 20.0]).unwrap()
}

/// Changes `bytes` as noise, a broken sender or an attacker would.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let lengths = [0, 1, 2, 3, 17, 256, 257, 1024, 4097, 4098, 1 << 20, 1 << 25, 1 << 31, u32::MAX];
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => (0..1 + rng.below(8)).for_each(|_| {
                let bit = rng.below(bytes.len() * 8);
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }),
            1 => bytes.truncate(at),
            2 => {
                // An aligned word may be a length.
                let word = lengths[rng.below(lengths.len())].to_le_bytes();
                if let Some(slot) = bytes.get_mut(at / 4 * 4..).and_then(|b| b.get_mut(..4)) {
                    slot.copy_from_slice(&word);
                }
            }
            3 => {
                let other = &others[rng.below(others.len())];
                let from = rng.below(other.len());
                let n = rng.below(other.len() - from);
                let end = (at + n).min(bytes.len());
                bytes.splice(at.min(end)..end, other[from..from + n].iter().copied());
            }
            4 => {
                let word = [f32::NAN, f32::INFINITY, 1e38, -0.0][rng.below(4)].to_le_bytes();
                if let Some(slot) = bytes.get_mut(at / 4 * 4..).and_then(|b| b.get_mut(..4)) {
                    slot.copy_from_slice(&word);
                }
            }
            _ => bytes.extend((0..rng.below(64)).map(|i| i as u8)),
        }
    }
}

#[test]
fn a_million_mutated_messages() {
    let n: usize = std::env::var("PATHLINE_MUTANTS").map_or(1_000_000, |n| n.parse().unwrap());
    let bases: Vec<Vec<u8>> = vec![
        observation().encode().unwrap(),
        Observation::default().encode().unwrap(),
        chunk(1, 1, 5).encode().unwrap(),
        Action { action: vec![1.0; 2], ..Action::default() }.encode().unwrap(),
        Attachment { seq: 1, source_time_ns: 2, gid: [3; 16] }.encode().to_vec(),
    ];
    let mut rng = Rng(2);
    let (mut read, mut refused, mut accepted, mut worst) = (0_u64, 0_u64, 0_u64, 0);
    for i in 0..n {
        let mut bytes = bases[rng.below(bases.len())].clone();
        mutate(&mut bytes, &bases, &mut rng);
        let mut judge = |(ok, _, peak): (bool, u64, usize)| {
            assert!(peak <= bound(bytes.len()), "message {i}: {peak} bytes for {}", bytes.len());
            worst = worst.max(peak);
            *(if ok { &mut read } else { &mut refused }) += 1;
        };
        judge(measure(|| Observation::decode(&bytes).is_ok_and(|m| sound(&m))));
        judge(measure(|| ActionChunkMsg::decode(&bytes).is_ok_and(|m| sound_chunk(&m))));
        judge(measure(|| Action::decode(&bytes).is_ok()));
        judge(measure(|| Attachment::decode(&bytes).is_ok()));

        // The same bytes at the gate of a robot that waits for just such a chunk.
        let mut gate = gate();
        assert!(gate.observed(1, 5));
        let (verdict, calls, _) = measure(|| offer(&mut gate, ACTION_CHUNK.encoding, &bytes, 7));
        assert_eq!(calls, 0, "message {i}: the gate took memory");
        assert_eq!(gate.counters().total(), 1, "message {i} is counted once");
        let command = gate.step(7);
        assert!(command.action.iter().all(|x| (0.0..=512.0).contains(x)), "{command:?}");
        accepted += u64::from(verdict.is_accepted());
    }
    println!(
        "{n} messages, each read as 4 types: {read} read, {refused} refused, at most {worst} bytes"
    );
    println!("at the gate: {accepted} of {n} accepted");
    assert!(accepted > n as u64 / 100, "some mutants are harmless");
    assert!(
        read > n as u64 / 10 && refused > n as u64,
        "the mutants are neither all dead nor all well"
    );
}

/// A message that was read is a message: it can be sent again, and reads as itself.
fn sound(m: &Observation) -> bool {
    assert!(m.state.iter().chain(&m.environment_state).all(|v| v.is_finite()));
    assert!(m.state.len() <= 256 && m.images.len() <= 16);
    true
}

fn sound_chunk(m: &ActionChunkMsg) -> bool {
    assert!(m.chunk.actions.iter().all(|v| v.is_finite()));
    assert_eq!(m.chunk.horizon() * m.chunk.dim, m.chunk.actions.len());
    true
}

#[test]
fn what_was_read_can_be_sent_again() {
    let bases = [observation().encode().unwrap(), chunk(1, 1, 5).encode().unwrap()];
    let mut rng = Rng(3);
    let mut again = 0;
    for _ in 0..100_000 {
        let mut bytes = bases[rng.below(2)].clone();
        mutate(&mut bytes, &bases, &mut rng);
        if let Ok(m) = Observation::decode(&bytes) {
            assert_eq!(Observation::decode(&m.encode().unwrap()).unwrap(), m);
            again += 1;
        }
        if let Ok(m) = ActionChunkMsg::decode(&bytes) {
            let copy = ActionChunkMsg::decode(&m.encode().unwrap()).unwrap();
            // infer_ms may be NaN, which is not itself.
            assert_eq!((copy.chunk, copy.seed, copy.header), (m.chunk, m.seed, m.header));
            again += 1;
        }
    }
    assert!(again > 1000, "{again}");
}

#[test]
fn a_length_alone_takes_no_memory() {
    // 2^32 - 1 pictures, values or bytes are declared, none is sent.
    for bytes in [observation().encode().unwrap(), chunk(1, 1, 5).encode().unwrap()] {
        for at in (4..bytes.len() - 4).step_by(4) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
            let (_, _, peak) = measure(|| {
                let a = Observation::decode(&bytes).is_ok();
                let b = ActionChunkMsg::decode(&bytes).is_ok();
                (a, b)
            });
            assert!(peak <= bound(bytes.len()), "{peak} bytes, length at {at}");
        }
    }
}

#[test]
fn the_meter_sees_a_decoder_that_trusts_a_length() {
    let trusting = |bytes: &[u8]| {
        let len = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        std::hint::black_box(Vec::<u8>::with_capacity(len)).len()
    };
    let (_, calls, peak) = measure(|| trusting(&(1_u32 << 20).to_le_bytes()));
    assert_eq!((calls, peak), (1, 1 << 20));
    assert!(peak > bound(4));
}

#[test]
fn the_loop_of_the_robot_takes_no_memory() {
    let (mut gate, calls, _) = measure(gate);
    assert!(calls > 0, "the meter runs");
    let bytes_at_start = gate.memory_bytes();
    // One chunk every fourth tick, made before the measurement; every third one is spoiled.
    let inputs: Vec<Vec<u8>> = (0..250_u64)
        .map(|i| {
            let mut msg = chunk(i + 1, 4 * i + 1, 4 * i + 1);
            if i % 3 == 0 {
                msg.chunk.session = 8;
            }
            msg.encode().unwrap()
        })
        .collect();
    let (moved, calls, _) = measure(|| {
        let mut moved = 0.0;
        for tick in 1..=1000_u64 {
            gate.observed(tick, tick);
            std::hint::black_box(gate.executing(tick));
            if tick % 4 == 1 {
                let bytes = &inputs[(tick / 4) as usize];
                let _ = offer(&mut gate, ACTION_CHUNK.encoding, bytes, tick);
                let _ = offer(&mut gate, ACTION_CHUNK.encoding, &bytes[..20], tick);
                let _ = offer(&mut gate, "text/plain", bytes, tick);
            }
            if tick == 500 {
                gate.reset(&[256.0, 256.0]).unwrap();
            }
            moved += gate.step(tick).action[0];
            moved += gate.counters().iter().map(|(_, n)| n as f32).sum::<f32>();
        }
        moved
    });
    assert_eq!(calls, 0, "allocations in 1000 ticks");
    assert!(moved > 0.0);
    assert_eq!(gate.memory_bytes(), bytes_at_start);
    let counters = gate.counters();
    assert_eq!(counters.accepted, 166);
    assert_eq!(counters.rejected(Reason::WrongSession), 84);
    assert_eq!(counters.rejected(Reason::Malformed), 250);
    assert_eq!(counters.rejected(Reason::WrongSchema), 250);
    println!("a gate for 16 rows of 2 values holds {bytes_at_start} bytes");
}
