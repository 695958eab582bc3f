//! Policy folders made to do harm: each is one error that names the file and what is wrong with it.
//! Never a panic, never a wait, never more memory than the good folder takes.
//!
//! A case copies a good folder, breaks one thing and says which words the error must have.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

#[path = "../support/formula.rs"]
mod formula;
#[path = "../support/golden_folder.rs"]
#[allow(dead_code, reason = "the names of all folders are for another test")]
mod golden_folder;
#[path = "../support/meter.rs"]
mod meter;
#[path = "../support/raw.rs"]
mod raw;

mod bytes;
mod good;
mod layout;
mod lerobot;
mod steps;
mod weights;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use pathline::device;
use pathline::policy::Policy;
use serde_json::{Value, json};

use raw::Part;

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
    /// LeRobot's DiffusionPolicy over keypoints.
    Keypoints,
    /// The same over one camera.
    Camera,
    /// LeRobot's ACT over keypoints.
    Act,
}

impl Base {
    fn folder(self) -> PathBuf {
        static CAMERA: OnceLock<PathBuf> = OnceLock::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        match self {
            Self::Flow => root.join("policies/pusht-flow"),
            Self::Keypoints => root.join("tests/golden/lerobot/keypoints_ddpm"),
            Self::Act => root.join("tests/golden/act/keypoints"),
            // Its 45 MB are made by a formula, once.
            Self::Camera => CAMERA
                .get_or_init(|| {
                    let made = golden_folder::copy("camera_group");
                    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-camera");
                    copy(made.path(), &kept);
                    kept
                })
                .clone(),
        }
    }

    /// Copies what inference reads.
    fn copy(self, to: &Path) {
        copy(&self.folder(), to);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if [CONFIG, MODEL].contains(&name) || name.starts_with("policy_") {
            fs::copy(&path, to.join(name)).unwrap();
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

/// What is done to a good folder, and words that the error must have beside the folder's path.
fn case(
    base: Base,
    name: impl Into<String>,
    break_it: impl Fn(&Path) + 'static,
    says: &[&str],
) -> Case {
    Case {
        name: name.into(),
        base,
        break_it: Box::new(break_it),
        says: says.iter().map(|&word| word.to_owned()).collect(),
    }
}

/// A case of the shipped policy.
fn flow(name: impl Into<String>, break_it: impl Fn(&Path) + 'static, says: &[&str]) -> Case {
    case(Base::Flow, name, break_it, says)
}

/// A case whose JSON file `file` is changed; the error must name the file.
fn json_case(
    base: Base,
    file: &'static str,
    name: &str,
    edit: fn(&mut Value),
    says: &[&str],
) -> Case {
    let edit = move |dir: &Path| edit_json(&dir.join(file), edit);
    case(base, format!("{base:?}: {name}"), edit, &[&[file][..], says].concat())
}

fn load(dir: &Path) -> pathline::Result<Policy> {
    Policy::load(dir, &device::cpu())
}

#[test]
fn every_hostile_folder_is_one_error() {
    let cases: Vec<Case> = [
        layout::layout(),
        layout::text(),
        bytes::length(),
        bytes::header(),
        bytes::value(),
        weights::network(),
        weights::pickle(),
        weights::index(),
        steps::processor(),
        steps::steps(),
        lerobot::diffusion(),
        lerobot::cameras(),
        lerobot::act(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 200, "{} cases", cases.len());
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

pub(crate) fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Turns every tensor of a file into another type.
pub(crate) fn convert(path: &Path, name: &str, dtype: DType) {
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

/// Splits the model into two shards with an index.
pub(crate) fn shard(dir: &Path) {
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

pub(crate) const SHARDS: [&str; 2] =
    ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// A file of `count` tensors without an element.
pub(crate) fn empty_tensors(count: usize) -> Vec<u8> {
    let mut json = String::from("{");
    for i in 0..count {
        let comma = if i == 0 { "" } else { "," };
        write!(json, r#"{comma}"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#).unwrap();
    }
    json.push('}');
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}
