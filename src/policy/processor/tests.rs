//! Hostile pipelines and observations: one error that names what is wrong.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::action::{Picture, PolicyObs};
use crate::policy::config::{Feature, NormalizationMode};

const TOP: &str = "observation.images.top";

fn want() -> Signature {
    let feature = |kind, shape: &[usize]| Feature { kind, shape: shape.to_vec() };
    Signature {
        kind: "diffusion",
        n_obs_steps: 2,
        horizon: 8,
        first_row: 1,
        n_action_steps: 4,
        fps: None,
        input_features: [
            (TOP.to_owned(), feature(FeatureType::Visual, &[3, 2, 4])),
            (STATE.to_owned(), feature(FeatureType::State, &[2])),
        ]
        .into_iter()
        .collect(),
        output_features: [(ACTION.to_owned(), feature(FeatureType::Action, &[2]))]
            .into_iter()
            .collect(),
        normalization_mapping: [
            (FeatureType::Visual, NormalizationMode::MeanStd),
            (FeatureType::State, NormalizationMode::MinMax),
            (FeatureType::Action, NormalizationMode::MinMax),
        ]
        .into(),
        use_relative_actions: false,
    }
}

fn stats() -> Stats {
    let feature = |n: usize| -> FeatureStats {
        [("mean", 0.5), ("std", 0.25), ("min", -1.0), ("max", 3.0)]
            .map(|(name, value)| (name.to_owned(), vec![value; n].into()))
            .into()
    };
    Stats::from([
        (TOP.to_owned(), feature(3)),
        (STATE.to_owned(), feature(2)),
        (ACTION.to_owned(), feature(2)),
    ])
}

/// A good folder.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &want(), &stats()).unwrap();
    dir
}

fn edit(dir: &Path, file: &str, edit: impl Fn(&mut Value)) {
    let path = dir.join(file);
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn observation() -> PolicyObs {
    let picture = Picture { name: "top".into(), height: 2, width: 4, data: vec![51; 24] };
    PolicyObs { state: vec![1.0, 3.0], environment_state: Vec::new(), images: vec![picture] }
}

#[test]
fn what_is_written_is_read_back() {
    let dir = folder();
    let processor = Processor::load(dir.path(), &want(), None).unwrap();
    assert_eq!(processor, Processor::new(&want(), &stats()).unwrap());
    let inputs = processor.inputs(&[observation(), observation()]).unwrap();
    assert_eq!(inputs.0.len(), 2);
    let picture = inputs.cameras().next().unwrap();
    assert_eq!((picture.key.as_str(), &picture.shape[..]), (TOP, &[2, 3, 2, 4][..]));
    assert!(picture.data.iter().all(|v| (v + 1.2).abs() < 1e-6), "{:?}", picture.data);
    let state = inputs.get(STATE).unwrap();
    assert_eq!((&state.shape[..], &state.data[..]), (&[2, 2][..], &[0.0, 1.0, 0.0, 1.0][..]));
}

#[test]
fn relative_actions_leave_excluded_joints_alone() {
    let mut want = want();
    want.use_relative_actions = true;
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &want, &stats()).unwrap();
    let chunk = [1.0, 2.0, 3.0, -4.0];
    let moved = |dir: &Path| {
        let processor = Processor::load(dir, &want, None).unwrap();
        let mut actions = chunk;
        processor.normalize_actions(&[0.5, 0.25], &mut actions);
        processor.unnormalize_actions(&[0.5, 1.25], &mut actions);
        actions
    };
    assert_eq!(moved(dir.path()), [1.0, 3.0, 3.0, -3.0]);
    edit(dir.path(), PREPROCESSOR, |p| {
        p["steps"][2]["config"]["exclude_joints"] = json!(["Grip"]);
        p["steps"][2]["config"]["action_names"] = json!(["shoulder", "left_gripper.pos"]);
    });
    assert_eq!(moved(dir.path()), [1.0, 2.0, 3.0, -4.0]);
}

#[test]
fn a_hostile_pipeline_is_one_error_that_names_file_and_step() {
    type Damage = fn(&Path);
    fn pre(dir: &Path, change: fn(&mut Vec<Value>)) {
        edit(dir, PREPROCESSOR, |p| change(p["steps"].as_array_mut().unwrap()));
    }
    fn post(dir: &Path, change: fn(&mut Vec<Value>)) {
        edit(dir, POSTPROCESSOR, |p| change(p["steps"].as_array_mut().unwrap()));
    }
    const STATE_FILE: &str = "policy_preprocessor_step_3_normalizer_processor.safetensors";
    fn statistic(dir: &Path, name: &str, values: &[f32]) {
        let path = dir.join(STATE_FILE);
        let device = candle_core::Device::Cpu;
        let mut tensors = crate::tensors::load(&path, &device).unwrap();
        tensors.insert(name.into(), candle_core::Tensor::new(values, &device).unwrap());
        crate::tensors::save(&tensors, &path).unwrap();
    }
    #[expect(clippy::needless_pass_by_value, reason = "callers write the value in place")]
    fn push(steps: &mut Vec<Value>, name: &str, config: Value) {
        steps.push(json!({"registry_name": name, "config": config}));
    }
    let damages: Vec<(&[&str], Damage)> = vec![
        (&[PREPROCESSOR, "not JSON"], |d| {
            fs::write(d.join(PREPROCESSOR), "{\"steps\": [").unwrap();
        }),
        (&[PREPROCESSOR, "steps"], |d| fs::write(d.join(PREPROCESSOR), "[]").unwrap()),
        (&[PREPROCESSOR, "steps"], |d| fs::write(d.join(PREPROCESSOR), "{}").unwrap()),
        (&[POSTPROCESSOR, "steps"], |d| edit(d, POSTPROCESSOR, |p| p["steps"] = json!({"0": 1}))),
        (&[POSTPROCESSOR, "steps[0]", "integer"], |d| post(d, |s| s[0] = json!(7))),
        (&[POSTPROCESSOR, "steps[0]", "registry_nam"], |d| {
            post(d, |s| s[0] = json!({"registry_nam": "device_processor"}));
        }),
        (&[PREPROCESSOR, "64", "10004"], |d| {
            pre(d, |s| {
                s.extend((0..10_000).map(|_| json!({"registry_name": "to_batch_processor"})));
            });
        }),
        (&[PREPROCESSOR, "1000000", "4194304"], |d| {
            fs::write(d.join(PREPROCESSOR), " ".repeat(1 << 22)).unwrap();
        }),
        (&[PREPROCESSOR, "not JSON", "recursion"], |d| {
            fs::write(d.join(PREPROCESSOR), "[".repeat(100_000)).unwrap();
        }),
        (&[PREPROCESSOR, "steps[4] sarm_encoding_processor", "unknown"], |d| {
            pre(d, |s| push(s, "sarm_encoding_processor", json!({})));
        }),
        (&[PREPROCESSOR, "steps[4] os.path.Join", "class"], |d| {
            pre(d, |s| s.push(json!({"class": "os.path.Join"})));
        }),
        (&[PREPROCESSOR, "steps[1] to_batch_processor", "axis"], |d| {
            pre(d, |s| s[1]["config"]["axis"] = json!(1));
        }),
        (&[PREPROCESSOR, "normalizer_processor", "clip"], |d| {
            pre(d, |s| s[3]["config"]["clip"] = json!(true));
        }),
        (&[PREPROCESSOR, "normalizer_processor", "norm_map"], |d| {
            pre(d, |s| drop(s[3]["config"].as_object_mut().unwrap().remove("norm_map")));
        }),
        (&[PREPROCESSOR, "normalizer_processor", "TOUCH"], |d| {
            pre(d, |s| s[3]["config"]["features"][STATE]["type"] = json!("TOUCH"));
        }),
        (&["observation.state.min", "normalizer_processor", STATE_FILE, "[3]"], |d| {
            statistic(d, "observation.state.min", &[0.0; 3]);
        }),
        (&["observation.state.max", STATE_FILE, "NaN"], |d| {
            statistic(d, "observation.state.max", &[f32::NAN, 1.0]);
        }),
        (&[STATE_FILE, "mean", "<feature>.<stat>"], |d| statistic(d, "mean", &[0.0])),
        (&[STATE_FILE, "observation.", "<feature>.<stat>"], |d| {
            statistic(d, "observation.", &[0.0]);
        }),
        (&[STATE_FILE], |d| fs::remove_file(d.join(STATE_FILE)).unwrap()),
        (&[PREPROCESSOR, "state_file", "a/b.safetensors"], |d| {
            pre(d, |s| s[3]["state_file"] = json!("a/b.safetensors"));
        }),
        (&[PREPROCESSOR, "state_file", "..\\\\b"], |d| {
            pre(d, |s| s[3]["state_file"] = json!("..\\\\b"));
        }),
        (&[PREPROCESSOR, "state_file"], |d| pre(d, |s| s[3]["state_file"] = json!(""))),
        (&[PREPROCESSOR, "steps[3]", "integer"], |d| pre(d, |s| s[3]["state_file"] = json!(3))),
        (&[PREPROCESSOR, "state_file", TOP, "MeanStd"], |d| {
            pre(d, |s| s[3]["state_file"] = Value::Null);
        }),
        (&[PREPROCESSOR, "steps[1] to_batch_processor", "state_file"], |d| {
            pre(d, |s| s[1]["state_file"] = json!("x.safetensors"));
        }),
        (&[PREPROCESSOR, "normalizer_processor", "MeanStd"], |d| pre(d, |s| drop(s.remove(3)))),
        (&[POSTPROCESSOR, "unnormalizer_processor", "MinMax"], |d| post(d, |s| drop(s.remove(0)))),
        (&[PREPROCESSOR, "steps[4] normalizer_processor", "second"], |d| {
            pre(d, |s| s.push(s[3].clone()));
        }),
        (&[PREPROCESSOR, "steps[2] device_processor", "float16"], |d| {
            pre(d, |s| s[2]["config"]["float_dtype"] = json!("float16"));
        }),
        (&[PREPROCESSOR, "steps[4] rename_observations_processor", "before"], |d| {
            pre(d, |s| push(s, "rename_observations_processor", json!({"rename_map": {"a": "b"}})));
        }),
        (&[PREPROCESSOR, "steps[4] relative_actions_processor", "raw units"], |d| {
            pre(d, |s| push(s, "relative_actions_processor", json!({"enabled": true})));
        }),
        (&[POSTPROCESSOR, "absolute_actions_processor", "relative_actions_processor"], |d| {
            post(d, |s| push(s, "absolute_actions_processor", json!({"enabled": true})));
        }),
        (&[PREPROCESSOR, "steps[4] unnormalizer_processor", "postprocessor"], |d| {
            pre(d, |s| push(s, "unnormalizer_processor", json!({"features": {}, "norm_map": {}})));
        }),
        (&[POSTPROCESSOR, "steps[2] normalizer_processor", "preprocessor"], |d| {
            post(d, |s| push(s, "normalizer_processor", json!({"features": {}, "norm_map": {}})));
        }),
        (&[PREPROCESSOR, "steps[4] tokenizer_processor", "diffusion", "task"], |d| {
            pre(d, |s| push(s, "tokenizer_processor", json!({"tokenizer_name": "a/b"})));
        }),
        (&[PREPROCESSOR, "steps[4] smolvla_new_line_processor", "task"], |d| {
            pre(d, |s| push(s, "smolvla_new_line_processor", json!({})));
        }),
        (&[POSTPROCESSOR, "steps[2] map_tensor_to_delta_action_dict", "delta_x"], |d| {
            post(d, |s| push(s, "map_tensor_to_delta_action_dict", json!({"use_gripper": false})));
        }),
        (&[POSTPROCESSOR, "steps[2] map_delta_action_to_robot_action", "delta_x"], |d| {
            post(d, |s| {
                push(s, "map_delta_action_to_robot_action", json!({"position_scale": 2.0}));
            });
        }),
        (&[PREPROCESSOR, "steps[4] libero_processor", "upside down"], |d| {
            pre(d, |s| push(s, "libero_processor", json!({})));
        }),
    ];
    let mut failures = Vec::new();
    for (named, damage) in damages {
        let dir = folder();
        damage(dir.path());
        match Processor::load(dir.path(), &want(), None) {
            Ok(_) => failures.push(format!("{named:?}: loaded")),
            Err(error) => {
                let error = error.to_string();
                if named.iter().any(|name| !error.contains(name)) || error.len() > 700 {
                    failures.push(format!("{named:?}: {error}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn steps_for_words_are_kept_for_a_policy_that_has_them() {
    let dir = folder();
    edit(dir.path(), PREPROCESSOR, |p| {
        let steps = p["steps"].as_array_mut().unwrap();
        steps.insert(2, json!({"registry_name": "smolvla_new_line_processor", "config": {}}));
        let options = json!({"tokenizer_name": "a/b", "max_length": 48, "padding": "longest"});
        steps.insert(3, json!({"registry_name": "tokenizer_processor", "config": options}));
    });
    let want = Signature { kind: "smolvla", ..want() };
    let processor = Processor::load(dir.path(), &want, None).unwrap();
    let [Step::NewLine, Step::Tokenizer(tokenizer)] = &processor.language[..] else {
        panic!("{:?}", processor.language);
    };
    assert_eq!((tokenizer.max_length, tokenizer.padding.as_str()), (48, "longest"));
    assert_eq!((tokenizer.task_key.as_str(), tokenizer.truncation), ("task", true));
}

#[test]
fn an_observation_that_does_not_fit_is_one_error_that_names_the_feature() {
    type Damage = fn(&mut PolicyObs);
    let damages: [(&[&str], Damage); 10] = [
        (&[STATE, "2 values", "got 3"], |o| o.state.push(0.0)),
        (&[STATE, "2 values", "got 0"], |o| o.state.clear()),
        (&[STATE, "not finite"], |o| o.state[0] = f32::NAN),
        (&[STATE, "after normalising"], |o| o.state[0] = f32::MAX),
        (&[TOP, "2 x 4", "no picture"], |o| o.images.clear()),
        (&[TOP, "2 x 4", "got side"], |o| o.images[0].name = "side".into()),
        (&[TOP, "got two"], |o| o.images.push(o.images[0].clone())),
        (&[TOP, "2 x 4", "4 x 2"], |o| (o.images[0].height, o.images[0].width) = (4, 2)),
        (&[TOP, "24 bytes", "got 23"], |o| o.images[0].data.truncate(23)),
        (&[TOP, "2 x 4", "got 18446744073709551615"], |o| o.images[0].height = usize::MAX),
    ];
    let processor = Processor::new(&want(), &stats()).unwrap();
    let inputs = processor.observation(&observation()).unwrap();
    // What the policy does not look at changes nothing.
    let mut more = observation();
    more.environment_state.push(1.0);
    more.images.push(Picture { name: "side".into(), height: 1, width: 1, data: vec![0; 3] });
    assert_eq!(processor.observation(&more).unwrap(), inputs);
    for (named, damage) in damages {
        let mut damaged = observation();
        damage(&mut damaged);
        let error = processor.inputs(&[observation(), damaged]).unwrap_err().to_string();
        assert!(named.iter().all(|name| error.contains(name)), "{named:?}: {error}");
    }
}

#[test]
fn a_camera_that_is_none_is_an_error() {
    for shape in [vec![1, 2, 4], vec![3, 2], vec![3, 0, 4], vec![3, usize::MAX, 4]] {
        let mut want = want();
        want.input_features[TOP].shape = shape;
        let error = Processor::new(&want, &stats()).unwrap_err().to_string();
        assert!(error.contains(TOP) && error.contains("height"), "{error}");
    }
}
