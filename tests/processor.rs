//! Parity of the processors with LeRobot's: `tests/golden/processor.py` made the numbers, and the
//! folders in `tests/golden/processor`.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use pathline::action::{Picture, PolicyObs};
use pathline::policy::config::{
    Feature, FeatureType, Features, NormalizationMapping, NormalizationMode, Signature,
};
use pathline::policy::processor::{
    self, Affine, Edge, POSTPROCESSOR, PREPROCESSOR, Processor, Rule, Statistic, Stats, legacy,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    folders: Vec<Folder>,
    legacy: Vec<Legacy>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    mode: NormalizationMode,
    eps: f64,
    shape: Vec<usize>,
    stats: BTreeMap<String, Shaped>,
    raw: Vec<f32>,
    normalized: Vec<f32>,
    input: Vec<f32>,
    back: Vec<f32>,
}

#[derive(Deserialize)]
struct Shaped {
    shape: Vec<usize>,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Folder {
    name: String,
    config: Config,
    vectors: BTreeMap<String, Vec<f32>>,
    pictures: BTreeMap<String, RawPicture>,
    inputs: IndexMap<String, Expected>,
    normalized: Vec<f32>,
    actions: Vec<f32>,
}

#[derive(Deserialize)]
struct Config {
    kind: String,
    input_features: Features,
    output_features: Features,
    normalization_mapping: NormalizationMapping,
}

#[derive(Deserialize)]
struct RawPicture {
    shape: [usize; 3],
    data: Vec<u8>,
}

#[derive(Deserialize)]
struct Expected {
    shape: Vec<usize>,
    data: Vec<f32>,
}

#[derive(Deserialize)]
struct Legacy {
    key: String,
    mode: NormalizationMode,
    #[serde(rename = "type")]
    kind: FeatureType,
    shape: Vec<usize>,
    raw: Vec<f32>,
    normalized: Vec<f32>,
    input: Vec<f32>,
    back: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/processor.json")).unwrap()
}

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/processor").join(name)
}

impl Config {
    fn signature(self) -> Signature {
        Signature {
            kind: if self.kind == "act" { "act" } else { "diffusion" },
            n_obs_steps: 1,
            horizon: 4,
            first_row: 0,
            n_action_steps: 4,
            fps: None,
            input_features: self.input_features,
            output_features: self.output_features,
            normalization_mapping: self.normalization_mapping,
            use_relative_actions: false,
        }
    }
}

/// Number of values that are not the same bits, and the largest error, absolute below 1 and relative
/// above.
fn compare(what: &str, got: &[f32], want: &[f32]) -> usize {
    assert_eq!(got.len(), want.len(), "{what}");
    let gap = |(a, b): (&f32, &f32)| (a - b).abs() / b.abs().max(1.0);
    let error = got.iter().zip(want).map(gap).fold(0.0, f32::max);
    let other = got.iter().zip(want).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    eprintln!("{what}: {other} of {} not the same bits, largest error {error:e}", got.len());
    other
}

#[test]
fn every_mode_is_lerobots_to_the_bit() {
    let cases = golden().cases;
    assert_eq!(cases.len(), 17);
    let mut other = 0;
    for case in cases {
        let stats: BTreeMap<String, Statistic> = case
            .stats
            .into_iter()
            .map(|(name, s)| (name, Statistic::new(s.shape, s.values).unwrap()))
            .collect();
        let stats = Stats::from([("x".to_owned(), stats)]);
        let rule = Rule { eps: case.eps, ..Rule::new(case.mode) };
        let map = Affine::new("x", &rule, &stats, &case.shape).unwrap();
        let (mut forward, mut back) = (case.raw.clone(), case.input.clone());
        map.normalize(&mut forward);
        map.unnormalize(&mut back);
        other += compare(&case.name, &forward, &case.normalized);
        other += compare(&case.name, &back, &case.back);
        if case.mode != NormalizationMode::Identity {
            assert_ne!(case.raw, case.normalized, "{}: nothing to do", case.name);
        }
    }
    assert_eq!(other, 0);
}

/// The broken twin: the edge rule of another version is seen.
#[test]
fn the_edge_rule_of_another_version_is_another_number() {
    let case = golden().cases.into_iter().find(|c| c.name == "min_max, constant, another epsilon");
    let case = case.unwrap();
    let stats: BTreeMap<String, Statistic> = case
        .stats
        .into_iter()
        .map(|(name, s)| (name, Statistic::new(s.shape, s.values).unwrap()))
        .collect();
    let rule = Rule { mode: case.mode, eps: case.eps, edge: Edge::Add };
    let map = Affine::new("x", &rule, &Stats::from([("x".into(), stats)]), &case.shape).unwrap();
    let mut forward = case.raw.clone();
    map.normalize(&mut forward);
    assert!(compare("added epsilon", &forward, &case.normalized) > 0);
}

#[test]
fn pipelines_that_lerobot_wrote_do_what_they_do_there() {
    let folders = golden().folders;
    assert_eq!(folders.len(), 3);
    for folder in folders {
        let name = &folder.name;
        let want = folder.config.signature();
        let processor = Processor::load(&dir(name), &want, None).unwrap();
        let of = |key: &str| folder.vectors.get(key).cloned().unwrap_or_default();
        let images = folder.pictures.iter().map(|(key, picture)| {
            let key = key.strip_prefix("observation.").unwrap();
            Picture {
                name: key.strip_prefix("images.").unwrap_or(key).to_owned(),
                height: picture.shape[0],
                width: picture.shape[1],
                data: picture.data.clone(),
            }
        });
        let observation = PolicyObs {
            state: of("observation.state"),
            environment_state: of("observation.environment_state"),
            images: images.collect(),
        };
        let inputs = processor.observation(&observation).unwrap();
        let keys: Vec<&String> = want.input_features.keys().collect();
        assert_eq!(inputs.0.iter().map(|i| &i.key).collect::<Vec<_>>(), keys, "{name}");
        let mut other = 0;
        for (key, expected) in &folder.inputs {
            let input = inputs.get(key).unwrap();
            assert_eq!(input.shape, expected.shape, "{name} {key}");
            other += compare(&format!("{name} {key}"), &input.data, &expected.data);
        }
        let mut actions = folder.normalized.clone();
        processor.unnormalize_actions(&observation.state, &mut actions);
        other += compare(&format!("{name} action"), &actions, &folder.actions);
        assert_eq!(other, 0, "{name}");
        assert_ne!(folder.normalized, folder.actions, "{name}: nothing to do");

        // A history is its observations one after the other.
        let two = processor.inputs(&[observation.clone(), observation]).unwrap();
        for (two, one) in two.0.iter().zip(&inputs.0) {
            assert_eq!(two.data, [&one.data[..], &one.data].concat());
        }
    }
}

/// What is written is what LeRobot wrote from the same statistics: steps, keys, names of files and
/// tensors, shapes, values.
#[test]
fn what_is_written_is_lerobots() {
    for folder in golden().folders.into_iter().filter(|f| f.name != "disagreement") {
        let theirs = dir(&folder.name);
        let want = folder.config.signature();
        let read = |path: &Path| candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let mut stats = Stats::new();
        let state = "policy_preprocessor_step_3_normalizer_processor.safetensors";
        let tensors: BTreeMap<String, Tensor> = read(&theirs.join(state)).into_iter().collect();
        for (name, tensor) in &tensors {
            let (key, stat) = name.rsplit_once('.').unwrap();
            // Pictures' statistics as training measures them: a value a channel.
            let statistic: Statistic = match tensor.dims() {
                [_, 1, 1] => tensor.flatten_all().unwrap().to_vec1().unwrap().into(),
                _ => Statistic::from_tensor(tensor).unwrap(),
            };
            stats.entry(key.into()).or_default().insert(stat.into(), statistic);
        }
        let ours = tempfile::tempdir().unwrap();
        processor::save(ours.path(), &want, &stats).unwrap();
        let list = |dir: &Path| -> Vec<String> {
            let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
            let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(list(ours.path()), list(&theirs));
        for name in list(&theirs) {
            let (ours, theirs) = (ours.path().join(&name), theirs.join(&name));
            if Path::new(&name).extension().is_some_and(|e| e == "json") {
                let json = |path: &Path| -> Value {
                    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
                };
                assert_eq!(json(&ours), json(&theirs), "{name}");
                continue;
            }
            let (ours, theirs) = (read(&ours), read(&theirs));
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for (tensor, expected) in theirs.iter().collect::<BTreeMap<_, _>>() {
                let (a, b) = (&ours[tensor], expected);
                assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{name} {tensor}");
                let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(flat(a), flat(b), "{name} {tensor}");
            }
        }
        let again = Processor::load(ours.path(), &want, None).unwrap();
        assert_eq!(again, Processor::load(&theirs, &want, None).unwrap());
    }
}

fn legacy_want(cases: &[Legacy]) -> Signature {
    let mut want = Config {
        kind: "diffusion".into(),
        input_features: Features::new(),
        output_features: Features::new(),
        normalization_mapping: NormalizationMapping::new(),
    };
    for case in cases {
        let feature = Feature { kind: case.kind, shape: case.shape.clone() };
        want.normalization_mapping.insert(case.kind, case.mode);
        let output = case.kind == FeatureType::Action;
        let features = if output { &mut want.output_features } else { &mut want.input_features };
        features.insert(case.key.clone(), feature);
    }
    want.signature()
}

fn model() -> BTreeMap<String, Tensor> {
    let path = dir("legacy").join("model.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}

fn statistics(model: &BTreeMap<String, Tensor>, want: &Signature) -> pathline::Result<Stats> {
    legacy::statistics(model.iter().map(|(name, tensor)| (name.as_str(), tensor)), want)
}

#[test]
fn statistics_inside_an_old_model_file_are_found() {
    let cases = golden().legacy;
    let want = legacy_want(&cases);
    let model = model();
    let rest: Vec<_> = model.keys().filter(|name| !legacy::is_statistic(name)).collect();
    assert_eq!(rest, ["diffusion.unet.final_conv.1.bias"]);
    let stats = statistics(&model, &want).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let processor = Processor::load(empty.path(), &want, Some(&stats)).unwrap();
    let mut other = 0;
    for case in &cases {
        let map = processor.inputs.get(&case.key).unwrap_or(&processor.action);
        let (mut forward, mut back) = (case.raw.clone(), case.input.clone());
        map.normalize(&mut forward);
        map.unnormalize(&mut back);
        other += compare(&case.key, &forward, &case.normalized);
        other += compare(&case.key, &back, &case.back);
    }
    assert_eq!(other, 0);

    // Pipelines win over statistics in the model file; half a pair of pipelines is none.
    fs::copy(dir("diffusion").join(PREPROCESSOR), empty.path().join(PREPROCESSOR)).unwrap();
    let error = Processor::load(empty.path(), &want, Some(&stats)).unwrap_err().to_string();
    assert!(error.contains(POSTPROCESSOR), "{error}");
    for stats in [None, Some(&Stats::new())] {
        let nothing = tempfile::tempdir().unwrap();
        let error = Processor::load(nothing.path(), &want, stats).unwrap_err().to_string();
        assert!(error.contains(PREPROCESSOR), "{error}");
    }
    fs::remove_file(empty.path().join(PREPROCESSOR)).unwrap();
    fs::copy(dir("diffusion").join(POSTPROCESSOR), empty.path().join(POSTPROCESSOR)).unwrap();
    let error = Processor::load(empty.path(), &want, Some(&stats)).unwrap_err().to_string();
    assert!(error.contains(PREPROCESSOR), "{error}");
}

#[test]
fn a_damaged_old_model_file_is_one_error_that_names_the_tensor() {
    type Damage = fn(&mut BTreeMap<String, Tensor>, &mut Signature);
    const MIN: &str = "normalize_inputs.buffer_observation_state.min";
    fn set(model: &mut BTreeMap<String, Tensor>, name: &str, values: &[f32]) {
        model.insert(name.into(), Tensor::new(values, &Device::Cpu).unwrap());
    }
    let damages: [(&[&str], Damage); 7] = [
        (&[MIN, "before its statistics"], |m, _| set(m, MIN, &[f32::INFINITY; 3])),
        (&[MIN, "NaN"], |m, _| set(m, MIN, &[0.0, f32::NAN, 0.0])),
        (&["observation.state.min", "[3]", "[2]"], |m, _| set(m, MIN, &[0.0; 2])),
        (&["observation.state.min", "MinMax"], |m, _| drop(m.remove(MIN))),
        (&["buffer_observation_touch.min", "feature"], |m, _| {
            set(m, "normalize_inputs.buffer_observation_touch.min", &[0.0]);
        }),
        (&["action", "the same max"], |m, _| {
            set(m, "unnormalize_outputs.buffer_action.max", &[9.0; 2]);
        }),
        (&["buffer_observation_state.max", "observation_state"], |_, want| {
            let feature = Feature { kind: FeatureType::State, shape: vec![3] };
            want.input_features.insert("observation_state".into(), feature);
        }),
    ];
    for (named, damage) in damages {
        let (mut model, mut want) = (model(), legacy_want(&golden().legacy));
        damage(&mut model, &mut want);
        let loaded = statistics(&model, &want).and_then(|s| Processor::legacy(&want, &s));
        let error = loaded.map(|_| ()).unwrap_err().to_string();
        assert!(named.iter().all(|name| error.contains(name)), "{named:?}: {error}");
    }
}

/// The shipped policy's pipelines, which `pathline train` wrote before: the same numbers as ever.
#[test]
fn the_shipped_policy_is_normalised_as_ever() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow");
    let config = pathline::policy::config::PolicyConfig::load(&dir.join("config.json")).unwrap();
    let want = config.signature();
    let processor = Processor::load(&dir, &want, None).unwrap();
    assert!(processor.is_relative());
    let state_file = dir.join("policy_postprocessor_step_0_unnormalizer_processor.safetensors");
    let stats = candle_core::safetensors::load(state_file, &Device::Cpu).unwrap();
    let of = |name: &str| stats[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (mean, std) = (of("action.mean"), of("action.std"));
    let state = [211.25f32, 300.5];
    let normalized: Vec<f32> = (0..mean.len()).map(|i| (i as f32 * 0.37).sin() * 2.0).collect();
    let mut actions = normalized.clone();
    processor.unnormalize_actions(&state, &mut actions);
    let expected: Vec<f32> =
        (0..mean.len()).map(|i| normalized[i] * std[i] + mean[i] + state[i % 2]).collect();
    assert_eq!(compare("pusht-flow action", &actions, &expected), 0);
    processor.normalize_actions(&state, &mut actions);
    let error = actions.iter().zip(&normalized).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-3, "{error}");
}
