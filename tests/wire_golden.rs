//! Our bytes are rosbags' bytes: every message of tests/golden/wire.json, both ways.
//! Made by tests/golden/wire.py, which also reads them back with mcap-ros2-support.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::time::Duration;

use pathline::action::ActionChunk;
use pathline::wire::{
    ACTION, ACTION_CHUNK, Action, ActionChunkMsg, Asks, CameraImage, Flags, Header, OBSERVATION,
    Observation, Time,
};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/wire.json")).unwrap()
}

fn u64_of(v: &Value) -> u64 {
    v.as_u64().unwrap()
}

fn u32_of(v: &Value) -> u32 {
    u64_of(v).try_into().unwrap()
}

fn u16_of(v: &Value) -> u16 {
    u64_of(v).try_into().unwrap()
}

fn i32_of(v: &Value) -> i32 {
    v.as_i64().unwrap().try_into().unwrap()
}

fn text_of(v: &Value) -> String {
    v.as_str().unwrap().to_owned()
}

fn list<T>(v: &Value, each: impl Fn(&Value) -> T) -> Vec<T> {
    v.as_array().unwrap().iter().map(each).collect()
}

fn f32s(v: &Value) -> Vec<f32> {
    list(v, |x| x.as_f64().unwrap() as f32)
}

fn time(v: &Value) -> Time {
    Time { sec: i32_of(&v["sec"]), nanosec: u32_of(&v["nanosec"]) }
}

fn header(v: &Value) -> Header {
    Header { stamp: time(&v["stamp"]), frame_id: text_of(&v["frame_id"]) }
}

fn image(v: &Value) -> CameraImage {
    CameraImage {
        name: text_of(&v["name"]),
        encoding: text_of(&v["encoding"]),
        height: u16_of(&v["height"]),
        width: u16_of(&v["width"]),
        data: list(&v["data"], |b| u64_of(b).try_into().unwrap()),
    }
}

fn observation(v: &Value) -> Observation {
    Observation {
        header: header(&v["header"]),
        session: u64_of(&v["session"]),
        tick: u64_of(&v["tick"]),
        seq: u64_of(&v["seq"]),
        episode: u32_of(&v["episode"]),
        step: u32_of(&v["step"]),
        task: text_of(&v["task"]),
        state: f32s(&v["state"]),
        environment_state: f32s(&v["environment_state"]),
        images: list(&v["images"], image),
        executing_chunk: u64_of(&v["executing_chunk"]),
        executing_index: i32_of(&v["executing_index"]),
        request: match u64_of(&v["request"]) {
            0 => Asks::ByRule,
            1 => Asks::Chunk,
            _ => Asks::Nothing,
        },
        expected_delay: u16_of(&v["expected_delay"]),
        left_over: f32s(&v["left_over"]),
    }
}

fn chunk(v: &Value) -> ActionChunkMsg {
    let dt = time(&v["dt"]);
    let actions = f32s(&v["actions"]);
    assert_eq!(actions.len() as u64, u64_of(&v["horizon"]) * u64_of(&v["dim"]));
    ActionChunkMsg {
        header: header(&v["header"]),
        obs_stamp: time(&v["obs_stamp"]),
        episode: u32_of(&v["episode"]),
        t0: time(&v["t0"]),
        prefix_len: u16_of(&v["prefix_len"]),
        nfe: u16_of(&v["nfe"]),
        infer_ms: v["infer_ms"].as_f64().unwrap() as f32,
        seed: u64_of(&v["seed"]),
        flags: Flags(u32_of(&v["flags"])),
        encode_ms: v["encode_ms"].as_f64().unwrap() as f32,
        queue_ms: v["queue_ms"].as_f64().unwrap() as f32,
        chunk: ActionChunk {
            session: u64_of(&v["session"]),
            epoch: u64_of(&v["epoch"]),
            seq: u64_of(&v["seq"]),
            obs_seq: u64_of(&v["obs_seq"]),
            obs_tick: u64_of(&v["obs_tick"]),
            dt: Duration::new(dt.sec.try_into().unwrap(), dt.nanosec),
            dim: u64_of(&v["dim"]) as usize,
            actions,
        },
    }
}

fn action(v: &Value) -> Action {
    Action {
        stamp: time(&v["stamp"]),
        tick: u64_of(&v["tick"]),
        chunk_seq: u64_of(&v["chunk_seq"]),
        index: i32_of(&v["index"]),
        action: f32s(&v["action"]),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Runs `check` on (fields, bytes) of every golden message of `name`; there must be `n`.
fn each(name: &str, n: usize, check: impl Fn(&Value, &[u8])) {
    let golden = golden();
    let entries: Vec<_> =
        golden["messages"].as_array().unwrap().iter().filter(|e| e["type"] == name).collect();
    assert_eq!(entries.len(), n, "golden messages of {name}");
    entries.iter().for_each(|e| check(&e["fields"], &unhex(e["cdr"].as_str().unwrap())));
}

#[test]
fn observations_are_rosbags_bytes() {
    each("Observation", 3, |fields, bytes| {
        let want = observation(fields);
        assert_eq!(want.encode().unwrap(), bytes);
        assert_eq!(Observation::decode(bytes).unwrap(), want);
    });
}

#[test]
fn chunks_are_rosbags_bytes() {
    each("ActionChunk", 3, |fields, bytes| {
        let want = chunk(fields);
        assert_eq!(want.encode().unwrap(), bytes);
        assert_eq!(ActionChunkMsg::decode(bytes).unwrap(), want);
    });
}

#[test]
fn actions_are_rosbags_bytes() {
    each("Action", 2, |fields, bytes| {
        let want = action(fields);
        assert_eq!(want.encode().unwrap(), bytes);
        assert_eq!(Action::decode(bytes).unwrap(), want);
    });
}

#[test]
fn schema_texts_are_those_that_the_bytes_were_read_back_by() {
    for schema in [OBSERVATION, ACTION_CHUNK, ACTION] {
        let name = schema.name.rsplit('/').next().unwrap();
        assert_eq!(golden()["schemas"][name].as_str().unwrap(), schema.text, "{name}");
    }
}

#[test]
fn a_message_may_be_longer_but_not_shorter() {
    each("ActionChunk", 3, |_, bytes| {
        let want = ActionChunkMsg::decode(bytes).unwrap();
        let longer = [bytes, &[0xff; 100]].concat();
        assert_eq!(ActionChunkMsg::decode(&longer).unwrap(), want);
        // Without the times: what was sent before there were any.
        let old = bytes.len() - 8;
        let without = ActionChunkMsg { encode_ms: 0.0, queue_ms: 0.0, ..want };
        assert_eq!(ActionChunkMsg::decode(&bytes[..old]).unwrap(), without);
        for n in (0..bytes.len()).filter(|n| *n != old) {
            assert!(ActionChunkMsg::decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    });
    each("Observation", 3, |_, bytes| {
        let want = Observation::decode(bytes).unwrap();
        // Request, padding, delay, length and values of the left-over.
        let old = bytes.len() - 8 - 4 * want.left_over.len();
        let without =
            Observation { request: Asks::ByRule, expected_delay: 0, left_over: Vec::new(), ..want };
        assert_eq!(Observation::decode(&bytes[..old]).unwrap(), without);
        for n in (0..bytes.len()).filter(|n| *n != old) {
            assert!(Observation::decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    });
    each("Action", 2, |_, bytes| {
        for n in 0..bytes.len() {
            assert!(Action::decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    });
}

#[test]
fn an_action_that_is_not_finite_is_well_formed_and_rejected() {
    each("ActionChunk", 3, |_, bytes| {
        let mut bytes = bytes.to_vec();
        // The last action stands before the two times.
        let last = bytes.len() - 12;
        bytes[last..last + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = ActionChunkMsg::decode(&bytes).unwrap_err();
        assert!(matches!(error, pathline::Error::Rejected { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "rejected: actions: expected finite values, got NaN or infinity"
        );
    });
}

#[test]
fn a_frame_over_the_cap_is_not_looked_at() {
    let bytes = vec![0; pathline::wire::MAX_FRAME + 1];
    let error = Observation::decode(&bytes).unwrap_err().to_string();
    assert_eq!(error, "wire: frame: expected at most 67108864 bytes, got 67108865");
}
