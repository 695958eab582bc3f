//! Policy folders made to do harm: each is one error that names the file and what is wrong with it.
//! Never a panic, never a wait, never more memory than the good folder takes.
//!
//! A case copies a good folder, breaks one thing and says which words the error must have.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

#[path = "support/meter.rs"]
mod meter;
#[path = "support/raw.rs"]
mod raw;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::weights::Weights;
use pathline::policy::{Observation, Policy};
use pathline::tensors::header::Header;
use raw::Part;
use serde_json::{Value, json};

const CONFIG: &str = "config.json";
const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PRE: &str = "policy_preprocessor.json";
const POST: &str = "policy_postprocessor.json";
const STATE: &str = "policy_preprocessor_step_4_normalizer_processor.safetensors";

/// A good folder.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// The shipped flow policy.
    Flow,
}

impl Base {
    fn folder(self) -> PathBuf {
        let name = match self {
            Self::Flow => "policies/pusht-flow",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    /// Copies what inference reads.
    fn copy(self, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(self.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json" || e == "safetensors") {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

/// One folder that must be refused.
struct Case {
    name: String,
    base: Base,
    break_it: Box<dyn Fn(&Path)>,
    says: Vec<String>,
}

/// A case of the shipped policy: what is done to its folder, and words that the error must have.
fn flow(name: impl Into<String>, break_it: impl Fn(&Path) + 'static, says: &[&str]) -> Case {
    Case {
        name: name.into(),
        base: Base::Flow,
        break_it: Box::new(break_it),
        says: says.iter().map(|&word| word.to_owned()).collect(),
    }
}

fn load(dir: &Path) -> pathline::Result<Policy> {
    Policy::load(dir, &device::cpu())
}

#[test]
fn every_hostile_folder_is_one_error() {
    let cases: Vec<Case> = [
        layout_cases(),
        text_cases(),
        length_cases(),
        header_cases(),
        value_cases(),
        network_cases(),
        pickle_cases(),
        index_cases(),
        processor_cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    let (mut failures, mut most, mut slowest) = (Vec::new(), 0, Duration::ZERO);
    for case in &cases {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("policy");
        case.base.copy(&dir);
        (case.break_it)(&dir);
        let start = Instant::now();
        let (result, bytes) = meter::peak(|| catch_unwind(AssertUnwindSafe(|| load(&dir))));
        let took = start.elapsed();
        (most, slowest) = (bytes.max(most), took.max(slowest));
        let mut fail = |what: &str| failures.push(format!("{}: {what}", case.name));
        match result {
            Err(_) => fail("panicked"),
            Ok(Ok(_)) => fail("loaded"),
            Ok(Err(error)) => {
                let text = error.to_string();
                println!("{} [{} KiB, {took:.1?}]\n    {text}", case.name, bytes / 1024);
                for word in case.says.iter().filter(|&word| !text.contains(word)) {
                    fail(&format!("expected {word:?} in: {text}"));
                }
                if !text.contains(dir.to_str().unwrap()) {
                    fail(&format!("expected the path in: {text}"));
                }
                if text.lines().count() > 45 || text.lines().any(|line| line.len() > 600) {
                    fail(&format!("too long: {text}"));
                }
                if text.chars().any(|c| c.is_control() && c != '\n') {
                    fail(&format!("control characters: {text:?}"));
                }
            }
        }
        if bytes > 32_000_000 || took > Duration::from_secs(5) {
            fail(&format!("took {bytes} bytes and {took:?}"));
        }
    }
    println!("{} cases, at most {} KiB and {slowest:.1?}", cases.len(), most / 1024);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Folders and links.
fn layout_cases() -> Vec<Case> {
    let replace = |file: &'static str, with: fn(&Path)| {
        move |dir: &Path| {
            fs::remove_file(dir.join(file)).unwrap();
            with(&dir.join(file));
        }
    };
    let mut all = vec![
        flow(
            "an empty folder",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir(dir).unwrap();
            },
            &[CONFIG],
        ),
        flow("no folder", |dir| fs::remove_dir_all(dir).unwrap(), &[CONFIG, "no such folder"]),
        flow(
            "a folder that is a link to itself",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                symlink(dir, dir).unwrap();
            },
            &["leads nowhere"],
        ),
        flow(
            "a file instead of a folder",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::write(dir, "x").unwrap();
            },
            &["expected a policy folder"],
        ),
        flow("no config", |dir| fs::remove_file(dir.join(CONFIG)).unwrap(), &[CONFIG]),
        flow("no model", |dir| fs::remove_file(dir.join(MODEL)).unwrap(), &[MODEL, INDEX]),
        flow(
            "two snapshots and no refs/main",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                for name in ["aaaa", "bbbb"] {
                    Base::Flow.copy(&dir.join("snapshots").join(name));
                }
            },
            &["refs/main", "aaaa", "bbbb"],
        ),
        flow(
            "refs/main that leads out of the cache",
            |dir| {
                fs::rename(dir, dir.with_file_name("elsewhere")).unwrap();
                fs::create_dir_all(dir.join("snapshots")).unwrap();
                fs::create_dir_all(dir.join("refs")).unwrap();
                fs::write(dir.join("refs/main"), "../../elsewhere").unwrap();
            },
            &["refs/main", "expected the name of a folder"],
        ),
        flow(
            "a run whose last checkpoint is broken and has no other",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir_all(dir.join("checkpoints")).unwrap();
                symlink("010000", dir.join("checkpoints/last")).unwrap();
            },
            &[CONFIG],
        ),
    ];
    for file in [CONFIG, MODEL, PRE, POST, STATE] {
        all.push(flow(
            format!("{file} is a folder"),
            replace(file, |path| fs::create_dir(path).unwrap()),
            &[file, "a folder"],
        ));
        all.push(flow(
            format!("{file} is a link to itself"),
            replace(file, |path| symlink(path, path).unwrap()),
            &[file],
        ));
        all.push(flow(
            format!("{file} is a device without end"),
            replace(file, |path| symlink("/dev/zero", path).unwrap()),
            &[file, "neither file nor folder"],
        ));
    }
    all
}

/// JSON files.
fn text_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for file in [CONFIG, PRE, POST, INDEX] {
        let mut text = |name: &str, bytes: Vec<u8>, says: &str| {
            let write = move |dir: &Path| {
                if file == INDEX {
                    shard(dir);
                }
                fs::write(dir.join(file), &bytes).unwrap();
            };
            all.push(flow(format!("{file} is {name}"), write, &[file, says]));
        };
        text("empty", Vec::new(), "EOF");
        text("not JSON", b"type: act".to_vec(), "expected");
        text("cut", b"{\"type\": \"pathline_flow\", ".to_vec(), "EOF");
        text("not UTF-8", b"{\"type\": \"\xff\xfe\"}".to_vec(), "UTF-8");
        text("deep", b"{\"a\":".repeat(200_000), "");
        text("deep in lists", [b"{\"a\":".to_vec(), b"[".repeat(500_000)].concat(), "");
        text("of 20 MB", vec![b' '; 20_000_000], "at most");
        text("a number", b"17".to_vec(), "");
        text("NUL", vec![0; 64], "expected value");
    }
    all
}

/// Files that are shorter or longer than they say.
fn length_cases() -> Vec<Case> {
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

/// A file of `count` tensors without an element.
fn empty_tensors(count: usize) -> Vec<u8> {
    let mut json = String::from("{");
    for i in 0..count {
        let comma = if i == 0 { "" } else { "," };
        write!(json, r#"{comma}"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#).unwrap();
    }
    json.push('}');
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

/// Headers that break a rule.
fn header_cases() -> Vec<Case> {
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
fn value_cases() -> Vec<Case> {
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

/// Turns every tensor of a file into another type.
fn convert(path: &Path, name: &str, dtype: DType) {
    let map = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let parts: BTreeMap<String, Part> = map
        .iter()
        .map(|(key, tensor)| {
            let flat = tensor.flatten_all().unwrap().to_dtype(dtype).unwrap();
            let bytes = safetensors::tensor::View::data(&flat).into_owned();
            (key.clone(), Part { dtype: name.into(), shape: tensor.dims().to_vec(), bytes })
        })
        .collect();
    raw::write(path, &parts);
}

fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Good files that do not belong to each other.
fn network_cases() -> Vec<Case> {
    let parts = |name: &str, edit: fn(&mut BTreeMap<String, Part>), says: &[&str]| {
        let says = [&[MODEL, CONFIG][..], says].concat();
        flow(name, move |dir: &Path| raw::edit_parts(&dir.join(MODEL), edit), &says)
    };
    let config = |name: &str, edit: fn(&mut Value), says: &[&str]| {
        flow(name, move |dir: &Path| edit_json(&dir.join(CONFIG), edit), says)
    };
    vec![
        parts(
            "missing, unexpected and of another shape at once",
            |parts| {
                let part = parts.remove("time.weight").unwrap();
                parts.insert("time.weight_orig".into(), part);
                parts.get_mut("norm.bias").unwrap().shape = vec![1, 448];
            },
            &[
                "1 missing",
                "time.weight [448, 64]",
                "1 unexpected",
                "time.weight_orig [448, 64]",
                "1 of another shape",
                "norm.bias: expected [448], got [1, 448]",
            ],
        ),
        parts(
            "every name with a prefix",
            |parts| {
                let all = std::mem::take(parts);
                parts.extend(all.into_iter().map(|(k, part)| (format!("_orig_mod.{k}"), part)));
            },
            &["missing", "unexpected", "_orig_mod."],
        ),
        parts("no tensor", BTreeMap::clear, &["missing", "blocks.0.down.bias"]),
        parts(
            "60,000 tensors too many",
            |parts| {
                for i in 0..60_000 {
                    let part = Part { dtype: "U8".into(), shape: vec![0], bytes: Vec::new() };
                    parts.insert(format!("spare.{i}"), part);
                }
            },
            &["60000 unexpected", "and 59988 more"],
        ),
        config("fewer blocks", |c| c["network"]["depth"] = json!(3), &[MODEL, "blocks.3.", CONFIG]),
        config("more blocks", |c| c["network"]["depth"] = json!(5), &[MODEL, "blocks.4.", CONFIG]),
        config(
            "a network of 20 GB",
            |c| {
                c["network"]["width"] = json!(8192);
                c["network"]["depth"] = json!(64);
            },
            &[MODEL, "missing", "of another shape", "8192"],
        ),
    ]
}

/// Weights that would run code.
fn pickle_cases() -> Vec<Case> {
    let names =
        ["model.pt", "policy.pth", "pytorch_model.bin", "epoch=100.ckpt", "data.pkl", "MODEL.PT"];
    names
        .into_iter()
        .map(|pickle| {
            let rename = move |dir: &Path| fs::rename(dir.join(MODEL), dir.join(pickle)).unwrap();
            flow(format!("only {pickle}"), rename, &[MODEL, pickle, "pickle", "save_pretrained"])
        })
        .chain([
            flow(
                "a pickle that is called model.safetensors",
                |dir| {
                    fs::write(dir.join(MODEL), b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.").unwrap()
                },
                &[MODEL, "a pickle or an archive"],
            ),
            flow(
                "a zip that is called model.safetensors",
                |dir| fs::write(dir.join(MODEL), [&b"PK\x03\x04"[..], &[0; 60]].concat()).unwrap(),
                &[MODEL, "a pickle or an archive"],
            ),
        ])
        .collect()
}

/// Splits the model into two shards with an index.
fn shard(dir: &Path) {
    let (mut shards, mut map) = ([BTreeMap::new(), BTreeMap::new()], json!({}));
    for (i, (name, part)) in raw::read(&dir.join(MODEL)).into_iter().enumerate() {
        map[&name] = json!(SHARDS[i % 2]);
        shards[i % 2].insert(name, part);
    }
    for (name, parts) in SHARDS.iter().zip(&shards) {
        raw::write(&dir.join(name), parts);
    }
    let index = json!({"metadata": {"total_size": 10_000_000}, "weight_map": map});
    fs::write(dir.join(INDEX), index.to_string()).unwrap();
    fs::remove_file(dir.join(MODEL)).unwrap();
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Shards.
fn index_cases() -> Vec<Case> {
    // The first name, so it lies in the first shard.
    const TWICE: &str = "blocks.0.context.weight";
    let file = |name: &str, break_it: fn(&Path), says: &[&str]| {
        let all = move |dir: &Path| {
            shard(dir);
            break_it(dir);
        };
        flow(name, all, says)
    };
    let index = |name: String, edit: fn(&mut Value), says: &[&str]| {
        let all = move |dir: &Path| {
            shard(dir);
            edit_json(&dir.join(INDEX), edit);
        };
        flow(name, all, &[&[INDEX][..], says].concat())
    };
    let mut all = vec![
        file(
            "a shard that is not there",
            |dir| fs::remove_file(dir.join(SHARDS[1])).unwrap(),
            &[INDEX, SHARDS[1]],
        ),
        file(
            "a shard that is cut",
            |dir| {
                let bytes = fs::read(dir.join(SHARDS[1])).unwrap();
                fs::write(dir.join(SHARDS[1]), &bytes[..bytes.len() - 1]).unwrap();
            },
            &[SHARDS[1], "truncated"],
        ),
        file(
            "a shard that is a folder",
            |dir| {
                fs::remove_file(dir.join(SHARDS[1])).unwrap();
                fs::create_dir(dir.join(SHARDS[1])).unwrap();
            },
            &[SHARDS[1], "a folder"],
        ),
        file(
            "a shard that is a link out of the folder",
            |dir| {
                let out = dir.with_file_name("out.safetensors");
                fs::rename(dir.join(SHARDS[1]), &out).unwrap();
                symlink(&out, dir.join(SHARDS[1])).unwrap();
            },
            &[INDEX, SHARDS[1], "a link to"],
        ),
        file(
            "a shard that is a link to itself",
            |dir| {
                fs::remove_file(dir.join(SHARDS[1])).unwrap();
                symlink(SHARDS[1], dir.join(SHARDS[1])).unwrap();
            },
            &[INDEX, SHARDS[1]],
        ),
        file(
            "a tensor in two shards",
            |dir| {
                let part = raw::read(&dir.join(SHARDS[0]))[TWICE].clone();
                raw::edit_parts(&dir.join(SHARDS[1]), |parts| {
                    parts.insert(TWICE.into(), part.clone());
                });
            },
            &[SHARDS[1], TWICE, INDEX],
        ),
        file(
            "a tensor that the index does not list",
            |dir| {
                let part = Part { dtype: "U8".into(), shape: vec![1], bytes: vec![0] };
                raw::edit_parts(&dir.join(SHARDS[0]), |parts| {
                    parts.insert("stowaway".into(), part.clone());
                });
            },
            &[SHARDS[0], "stowaway", INDEX],
        ),
        file(
            "a tensor twice in the index",
            |dir| {
                let text = fs::read_to_string(dir.join(INDEX)).unwrap();
                let more = format!("\"weight_map\":{{\"time.bias\":\"{}\",", SHARDS[0]);
                fs::write(dir.join(INDEX), text.replacen("\"weight_map\":{", &more, 1)).unwrap();
            },
            &[INDEX, "time.bias: expected each key once"],
        ),
        index(
            "a tensor that no shard has".into(),
            |i| i["weight_map"]["ghost"] = json!(SHARDS[0]),
            &["ghost"],
        ),
        index("no weight_map".into(), |i| *i = json!({}), &["weight_map"]),
        index("a weight_map that is a list".into(), |i| i["weight_map"] = json!([1]), &["object"]),
        index("a shard that is a number".into(), |i| i["weight_map"]["a"] = json!(1), &["string"]),
        index(
            "2,000 shards".into(),
            |i| {
                for n in 0..2000 {
                    i["weight_map"][format!("t{n}")] = json!(format!("{n}.safetensors"));
                }
            },
            &["1000 files"],
        ),
        index("an empty weight_map".into(), |i| i["weight_map"] = json!({}), &["missing"]),
    ];
    macro_rules! shard_named {
        ($($name:literal),*) => {
            $(all.push(index(
                format!("a shard called {:.40?}", $name),
                |i| i["weight_map"]["time.bias"] = json!($name),
                &["weight_map"],
            ));)*
        };
    }
    shard_named!(
        "../policy/model-00001-of-00002.safetensors",
        "/etc/passwd",
        "/etc/x.safetensors",
        "./model-00001-of-00002.safetensors",
        "sub/../x.safetensors",
        "..",
        "",
        "..\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "\u{1b}[2J.safetensors",
        "pytorch_model.bin",
        "config.json"
    );
    all
}

/// State files of the processors; their steps are tested in tests/policy.rs and tests/processor.rs.
fn processor_cases() -> Vec<Case> {
    vec![
        flow("no preprocessor", |dir| fs::remove_file(dir.join(PRE)).unwrap(), &[PRE]),
        flow("no postprocessor", |dir| fs::remove_file(dir.join(POST)).unwrap(), &[POST]),
        flow("no state file", |dir| fs::remove_file(dir.join(STATE)).unwrap(), &[STATE]),
        flow(
            "a state file of empty tensors",
            |dir| fs::write(dir.join(STATE), empty_tensors(70_000)).unwrap(),
            &[STATE, "65536"],
        ),
        flow(
            "a state file that overlaps",
            |dir| {
                raw::edit_header(&dir.join(STATE), |h| {
                    let other = h["action.mean"]["data_offsets"].clone();
                    h["action.std"]["data_offsets"] = other;
                });
            },
            &[STATE, "overlaps"],
        ),
        flow(
            "a state file that is a pickle",
            |dir| edit_json(&dir.join(PRE), |p| p["steps"][4]["state_file"] = json!("stats.pt")),
            &["stats.pt"],
        ),
    ]
}

/// What the loads of one good folder answer.
fn chunk(dir: &Path) -> Vec<f32> {
    let policy = load(dir).unwrap();
    let observation =
        Observation { state: vec![200.0; 2], environment_state: vec![256.0; 16], images: vec![] };
    let history = vec![observation; policy.signature().n_obs_steps];
    let noise = Noise::new(1).normal(0, 0, policy.chunk_len());
    policy.infer(&[&history], noise, &policy.solver(None, None).unwrap()).unwrap().actions
}

/// The table would be worthless if it refused everything: unusual and harmless folders load, and
/// answer the same.
#[test]
fn harmless_folders_load() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("policy");
    Base::Flow.copy(&dir);
    let expected = chunk(&dir);
    let again = |name: &str, edit: fn(&Path), to_load: fn(&Path) -> PathBuf| {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("policy");
        Base::Flow.copy(&dir);
        edit(&dir);
        assert_eq!(chunk(&to_load(&dir)), expected, "{name}");
    };
    let itself = |dir: &Path| dir.to_owned();
    again(
        "spaces after the header",
        |dir| raw::edit_text(&dir.join(MODEL), |json| format!("{json}     ")),
        itself,
    );
    again(
        "metadata",
        |dir| {
            raw::edit_header(&dir.join(MODEL), |h| {
                h["__metadata__"] = json!({"format": "pt"});
            })
        },
        itself,
    );
    again("f64", |dir| convert(&dir.join(MODEL), "F64", DType::F64), itself);
    again("shards", shard, itself);
    again("a pickle beside it", |dir| fs::write(dir.join("optimizer.pt"), "x").unwrap(), itself);
    again(
        "a checkpoint of a run",
        |dir| {
            let policy = dir.join("checkpoints/000100/pretrained_model");
            Base::Flow.copy(&policy);
            fs::remove_file(dir.join(CONFIG)).unwrap();
        },
        itself,
    );
    again(
        "links into a Hugging Face cache, with shards",
        |dir| {
            let model = dir.with_file_name("models--a--b");
            let (blobs, snapshot) = (model.join("blobs"), model.join("snapshots/0123"));
            fs::create_dir_all(&blobs).unwrap();
            fs::create_dir_all(&snapshot).unwrap();
            shard(dir);
            for entry in fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name();
                fs::rename(dir.join(&name), blobs.join(&name)).unwrap();
                symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).unwrap();
            }
        },
        |dir| dir.with_file_name("models--a--b"),
    );
    // Halves are other numbers, but near.
    for (name, dtype) in [("F16", DType::F16), ("BF16", DType::BF16)] {
        convert(&dir.join(MODEL), name, dtype);
        let got = chunk(&dir);
        let gap = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap > 0.0 && gap < 5.0, "{name}: {gap}");
        println!("{name}: largest difference {gap}");
        Base::Flow.copy(&dir);
    }
}

/// Time that this thread has run; on a busy machine the clock on the wall says nothing.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// field/reliability.md, 5.3: at most 50 ms and 32 MB for 99 MB of empty tensors. The second file is
/// as long as a header may be, the third is taken.
#[test]
fn a_giant_header_costs_neither_time_nor_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(MODEL);
    for (count, most) in [(1_770_000, 100_000), (270_000, 17_000_000), (65_536, 32_000_000)] {
        let bytes = empty_tensors(count);
        let len = bytes.len();
        fs::write(&path, bytes).unwrap();
        let (mut best, mut held, mut accepted) = (Duration::MAX, 0, false);
        for _ in 0..5 {
            let start = cpu_time();
            let (result, bytes) = meter::peak(|| Header::read(&path));
            (best, held, accepted) = (best.min(cpu_time() - start), bytes, result.is_ok());
        }
        println!("{count} tensors, {len} bytes: accepted {accepted}, {best:.1?}, {held} bytes");
        assert_eq!(accepted, count <= 65_536);
        assert!(held <= most, "{count}: {held} bytes");
        assert!(accepted || best <= Duration::from_millis(50), "{count}: {best:?}");
    }
}

/// Placeholders of 100 GB take nothing; loading takes the weights and one chunk.
#[test]
fn memory_is_what_the_weights_need() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, columns) = (2048, 1024);
    let tensor = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let map = std::collections::HashMap::from([("w".to_owned(), tensor)]);
    pathline::tensors::save(&map, &dir.path().join(MODEL)).unwrap();
    drop(map);
    let weights = Weights::open(dir.path()).unwrap();
    let (error, bytes) = meter::peak(|| {
        weights.load(&Device::Cpu, |vb| Ok(vb.get((100_000, 250_000), "w")?)).unwrap_err()
    });
    assert!(
        error.to_string().contains("w: expected [100000, 250000], got [2048, 1024]"),
        "{error}"
    );
    println!("a placeholder of 100 GB: {bytes} bytes");
    assert!(bytes < 20_000, "{bytes} bytes");
    let size = 4 * rows * columns;
    let (built, bytes) =
        meter::peak(|| weights.load(&Device::Cpu, |vb| Ok(vb.get((rows, columns), "w")?)));
    assert_eq!(built.unwrap().dims(), [rows, columns]);
    println!("weights of {size} bytes: {bytes} bytes");
    assert!(bytes < size + 300_000, "{bytes} bytes for {size}");
}

/// How long a large model takes from files that the system has in memory.
#[test]
#[ignore = "needs 1 GB of disk and memory; for a figure"]
fn a_gigabyte_is_read_at_the_speed_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(MODEL);
    let (count, shape) = (64, [1024, 4096]);
    let part = Part {
        dtype: "F32".into(),
        shape: shape.to_vec(),
        bytes: 0.5f32.to_le_bytes().repeat(shape[0] * shape[1]),
    };
    raw::write(&path, &(0..count).map(|i| (format!("{i:02}"), part.clone())).collect());
    let time = |what: &str, f: &dyn Fn() -> usize| {
        let (cpu, wall) = (cpu_time(), Instant::now());
        let out = f();
        println!("{what}: cpu {:.2?}, wall {:.2?}, {out}", cpu_time() - cpu, wall.elapsed());
    };
    for _ in 0..2 {
        time("read whole", &|| fs::read(&path).unwrap().len());
        time("candle", &|| candle_core::safetensors::load(&path, &Device::Cpu).unwrap().len());
        time("ours", &|| {
            let weights = Weights::open(dir.path()).unwrap();
            let build = |vb: candle_nn::VarBuilder<'_>| -> pathline::Result<Vec<Tensor>> {
                Ok((0..count)
                    .map(|i| vb.get(&shape, &format!("{i:02}")))
                    .collect::<Result<_, _>>()?)
            };
            weights.load(&Device::Cpu, build).unwrap().len()
        });
        time("sha256", &|| pathline::policy::digest::sha256(&path).unwrap().len());
    }
}
