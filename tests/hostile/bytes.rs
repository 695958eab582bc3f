//! Safetensors files whose lengths, headers or values are wrong.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use candle_core::DType;
use serde_json::{Value, json};

use crate::*;

/// Files that are shorter or longer than they say.
pub(crate) fn length() -> Vec<Case> {
    let header_end = |bytes: &[u8]| 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut all = Vec::new();
    for file in [MODEL, STATE] {
        let mut cut = |name: &str, at: fn(usize, usize) -> usize, says: &str| {
            let cut = move |dir: &Path| {
                let bytes = fs::read(dir.join(file)).unwrap();
                let len = at(header_end(&bytes), bytes.len());
                fs::write(dir.join(file), &bytes[..len]).unwrap();
            };
            all.push(flow(format!("{file} is {name}"), cut, &[file, says]));
        };
        cut("empty", |_, _| 0, "got 0 bytes");
        cut("cut in the length", |_, _| 5, "got 5 bytes");
        cut("cut after the length", |_, _| 8, "truncated");
        cut("cut in the header", |header, _| header / 2, "truncated");
        cut("cut before the last byte of the header", |header, _| header - 1, "truncated");
        cut("cut after the header", |header, _| header, "truncated");
        cut("cut in the data", |header, len| (header + len) / 2, "truncated");
        cut("cut before the last byte", |_, len| len - 1, "truncated");
        let append = move |dir: &Path| {
            let mut out = fs::File::options().append(true).open(dir.join(file)).unwrap();
            out.write_all(&[0]).unwrap();
        };
        all.push(flow(format!("{file} has a byte more"), append, &[file, "belong to no tensor"]));
        for claimed in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 100_000_000] {
            let claim = move |dir: &Path| {
                let mut bytes = fs::read(dir.join(file)).unwrap();
                bytes[..8].copy_from_slice(&claimed.to_le_bytes());
                fs::write(dir.join(file), bytes).unwrap();
            };
            let claimed = claimed.to_string();
            all.push(flow(format!("{file} claims {claimed}"), claim, &[file, &claimed]));
        }
    }
    all.push(flow(
        "99 MB of empty tensors",
        |dir| fs::write(dir.join(MODEL), empty_tensors(1_770_000)).unwrap(),
        &[MODEL, "at most 16000000 bytes"],
    ));
    all.push(flow(
        "15 MB of empty tensors",
        |dir| fs::write(dir.join(MODEL), empty_tensors(270_000)).unwrap(),
        &[MODEL, "at most 65536 tensors"],
    ));
    all.push(flow(
        "15 MB of metadata",
        |dir| {
            raw::edit_header(&dir.join(MODEL), |header| {
                header["__metadata__"] = json!({"note": "x".repeat(15_000_000)});
            });
        },
        &[MODEL, "at most 1000000 bytes"],
    ));
    all
}

/// Headers that break a rule.
pub(crate) fn header() -> Vec<Case> {
    let text = |name: &str, edit: fn(&str) -> String, says: &[&str]| {
        let says = [&[MODEL][..], says].concat();
        flow(name, move |dir: &Path| raw::edit_text(&dir.join(MODEL), edit), &says)
    };
    let header = |name: &str, edit: fn(&mut Value), says: &[&str]| {
        let says = [&[MODEL][..], says].concat();
        flow(name, move |dir: &Path| raw::edit_header(&dir.join(MODEL), edit), &says)
    };
    let bias = "time.bias";
    vec![
        text("NUL after the JSON", |json| format!("{json}\0\0\0"), &["after the JSON"]),
        text("JSON after the JSON", |json| format!("{json}{{}}"), &["after the JSON"]),
        text("a list", |json| format!("[{json}]"), &["begins with {"]),
        text("a space before", |json| format!(" {json}"), &["begins with {"]),
        text("deep objects", |_| "{\"a\":".repeat(2_000_000), &["levels"]),
        text("deep lists", |_| format!("{{\"a\":{}", "[".repeat(5_000_000)), &["levels"]),
        text(
            "two tensors of one name",
            |json| {
                let entry = r#""z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
                json.replacen('{', &format!("{{{entry},{entry},"), 1)
            },
            &["z: expected each name once"],
        ),
        text(
            "metadata twice",
            |json| json.replacen('{', r#"{"__metadata__":{},"__metadata__":{},"#, 1),
            &["__metadata__: expected each name once"],
        ),
        text(
            "a name that clears the terminal",
            |json| json.replacen("\"time.bias\"", r#""\u001b[2Jx\ny""#, 1),
            &["\\u{1b}[2Jx\\ny"],
        ),
        text(
            "a name of 100,000 bytes",
            |json| json.replacen("time.bias", &"n".repeat(100_000), 1),
            &["at most 1024 bytes"],
        ),
        header(
            "metadata that is no text",
            |h| h["__metadata__"] = json!({"a": [1]}),
            &["metadata"],
        ),
        header("a tensor that is null", |h| h["time.bias"] = Value::Null, &[bias]),
        header("an unknown field", |h| h["time.bias"]["x"] = json!(1), &[bias, "unknown field"]),
        header(
            "an unknown type",
            |h| h["time.bias"]["dtype"] = json!("F33"),
            &[bias, "F33", "F32"],
        ),
        header(
            "another type",
            |h| h["time.bias"]["dtype"] = json!("F64"),
            &[bias, "bytes for F64"],
        ),
        header("another shape", |h| h["time.bias"]["shape"] = json!([3]), &[bias, "[3]"]),
        header("a negative shape", |h| h["time.bias"]["shape"] = json!([-1]), &[bias, "-1"]),
        header("a shape of 1.5", |h| h["time.bias"]["shape"] = json!([1.5]), &[bias, "1.5"]),
        header("a shape of text", |h| h["time.bias"]["shape"] = json!(["a"]), &[bias]),
        header(
            "nine dimensions",
            |h| h["time.bias"]["shape"] = json!([1, 1, 1, 1, 1, 1, 1, 1, 448]),
            &["8 dimensions"],
        ),
        header(
            "dimensions whose product overflows",
            |h| h["time.bias"]["shape"] = json!([u64::MAX, u64::MAX]),
            &[bias, "can be counted"],
        ),
        header(
            "dimensions whose product overflows beside a 0",
            |h| h["time.bias"]["shape"] = json!([0, u64::MAX, 2]),
            &[bias, "can be counted"],
        ),
        header(
            "offsets up to 2^64 - 1",
            |h| {
                let end = h["time.bias"]["data_offsets"][0].as_u64().unwrap();
                h["time.bias"] = json!({
                    "dtype": "U8", "shape": [u64::MAX - end], "data_offsets": [end, u64::MAX],
                });
            },
            &[bias, "can be counted"],
        ),
        header(
            "eight tensors of 2^61 - 1 bytes and one of 7",
            |h| {
                let big = (1u64 << 61) - 1;
                *h = json!({"z": {"dtype": "U8", "shape": [7], "data_offsets": [8 * big, u64::MAX]}});
                for i in 0..8 {
                    h[format!("{i}")] = json!({
                        "dtype": "U8", "shape": [big], "data_offsets": [i * big, (i + 1) * big],
                    });
                }
            },
            &["can be counted"],
        ),
        header(
            "offsets that run backwards",
            |h| h["time.bias"]["data_offsets"] = json!([2000, 208]),
            &[bias, "start ≤ end"],
        ),
        header("three offsets", |h| h["time.bias"]["data_offsets"] = json!([0, 1, 2]), &[bias]),
        header(
            "two tensors over each other",
            |h| {
                let other = h["norm.bias"]["data_offsets"].clone();
                h["time.bias"]["data_offsets"] = other;
            },
            &["overlaps another"],
        ),
        header(
            "a hole",
            |h| drop(h.as_object_mut().unwrap().remove("norm.bias")),
            &["follows a hole"],
        ),
        header(
            "everything beyond the file",
            |h| {
                for entry in h.as_object_mut().unwrap().values_mut() {
                    for i in 0..2 {
                        let offset = entry["data_offsets"][i].as_u64().unwrap();
                        entry["data_offsets"][i] = json!(offset + (1 << 50));
                    }
                }
            },
            &["follows a hole"],
        ),
    ]
}

/// Values of a good file that no network can use.
pub(crate) fn value() -> Vec<Case> {
    let mut all = Vec::new();
    let mut poison = |name: &str, dtype: &'static str, value: &'static [u8], says: &str| {
        let poison = move |dir: &Path| {
            let (to, width) = match dtype {
                "F32" => (DType::F32, 4),
                "F16" => (DType::F16, 2),
                "BF16" => (DType::BF16, 2),
                _ => (DType::F64, 8),
            };
            convert(&dir.join(MODEL), dtype, to);
            raw::edit_parts(&dir.join(MODEL), |parts| {
                let bytes = &mut parts.get_mut("blocks.2.up.weight").unwrap().bytes;
                bytes[1000 * width..][..value.len()].copy_from_slice(value);
            });
        };
        let says = [MODEL, "tensor blocks.2.up.weight", says, "["];
        all.push(flow(name, poison, &says));
    };
    poison("NaN in f32", "F32", &[0, 0, 0xc0, 0x7f], "got NaN");
    poison("a signalling NaN in f32", "F32", &[1, 0, 0x80, 0xff], "got NaN");
    poison("infinity in f32", "F32", &[0, 0, 0x80, 0x7f], "got inf");
    poison("minus infinity in f32", "F32", &[0, 0, 0x80, 0xff], "got -inf");
    poison("NaN in f16", "F16", &[1, 0x7c], "got NaN");
    poison("infinity in f16", "F16", &[0, 0xfc], "got -inf");
    poison("NaN in bf16", "BF16", &[0xc0, 0x7f], "got NaN");
    poison("infinity in bf16", "BF16", &[0x80, 0x7f], "got inf");
    poison("NaN in f64", "F64", &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f], "got NaN");
    poison("1e300 in f64", "F64", &[0x9c, 0x75, 0, 0x88, 0x3c, 0xe4, 0x37, 0x7e], "got inf");
    for (dtype, width) in [("BOOL", 1), ("C64", 8), ("F8_E5M2", 1)] {
        let retype = move |dir: &Path| {
            raw::edit_parts(&dir.join(MODEL), |parts| {
                let part = parts.get_mut("time.bias").unwrap();
                let elements: usize = part.shape.iter().product();
                part.dtype = dtype.into();
                part.bytes = vec![0; width * elements];
            });
        };
        all.push(flow(format!("a tensor of {dtype}"), retype, &[MODEL, "time.bias", dtype, "F32"]));
    }
    all
}
