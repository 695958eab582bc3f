//! Processor pipelines and their state files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::raw::Part;
use crate::*;

/// Files of the processors.
pub(crate) fn processor() -> Vec<Case> {
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

const STATE_3: &str = "policy_preprocessor_step_3_normalizer_processor.safetensors";
const STATE_0: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";

/// Steps of LeRobot's pipelines, and their statistics.
pub(crate) fn steps() -> Vec<Case> {
    let pre = |name: &str, edit: fn(&mut Value), says: &[&str]| {
        json_case(Base::Keypoints, PRE, name, edit, says)
    };
    let post = |name: &str, edit: fn(&mut Value), says: &[&str]| {
        json_case(Base::Keypoints, POST, name, edit, says)
    };
    let stats =
        |name: &str, file: &'static str, edit: fn(&mut BTreeMap<String, Part>), says: &[&str]| {
            let edit = move |dir: &Path| raw::edit_parts(&dir.join(file), edit);
            case(Base::Keypoints, name, edit, &[&[file][..], says].concat())
        };
    fn normalizer(p: &mut Value) -> &mut Value {
        &mut p["steps"][3]
    }
    fn all(p: &mut Value) -> &mut Vec<Value> {
        p["steps"].as_array_mut().unwrap()
    }
    vec![
        pre("steps that are an object", |p| p["steps"] = json!({}), &["\"steps\""]),
        pre("no steps", |p| p["steps"] = json!([]), &["normalizer_processor"]),
        pre(
            "20,000 steps",
            |p| {
                let step = json!({"registry_name": "to_batch_processor", "config": {}});
                p["steps"] = json!(vec![step; 20_000]);
            },
            &["at most"],
        ),
        pre("a step that is a number", |p| all(p).push(json!(7)), &["steps[4]"]),
        pre("a step without a name", |p| all(p).push(json!({})), &["steps[4]", "registry_name"]),
        pre(
            "an unknown step",
            |p| all(p).push(json!({"registry_name": "voodoo_processor", "config": {}})),
            &["voodoo_processor", "unknown step"],
        ),
        pre(
            "a step whose name clears the terminal",
            |p| all(p).push(json!({"registry_name": "\u{1b}[2J", "config": {}})),
            &["unknown step"],
        ),
        pre(
            "a state file whose name clears the terminal",
            |p| normalizer(p)["state_file"] = json!("/\u{1b}[2J"),
            &["state_file"],
        ),
        pre(
            "an unknown class",
            |p| all(p).push(json!({"class": "os.system", "config": {"command": "rm -rf /"}})),
            &["os.system", "unknown class"],
        ),
        pre(
            "an unknown option",
            |p| normalizer(p)["config"]["clip"] = json!(5.0),
            &["normalizer_processor", "clip"],
        ),
        pre("an unknown key of a step", |p| normalizer(p)["enabled"] = json!(false), &["enabled"]),
        pre(
            "another mode",
            |p| normalizer(p)["config"]["norm_map"]["STATE"] = json!("LOG"),
            &["LOG"],
        ),
        pre("a negative eps", |p| normalizer(p)["config"]["eps"] = json!(-1.0), &["eps", "-1"]),
        pre(
            "two normalizers",
            |p| {
                let step = normalizer(p).clone();
                all(p).push(step);
            },
            &["normalizer_processor", "second"],
        ),
        pre("no normalizer", |p| drop(all(p).pop()), &["normalizer_processor"]),
        pre(
            "half precision",
            |p| p["steps"][2]["config"]["float_dtype"] = json!("float16"),
            &["device_processor", "float16"],
        ),
        pre(
            "a task in words",
            |p| all(p).push(json!({"registry_name": "tokenizer_processor", "config": {}})),
            &["tokenizer_processor"],
        ),
        pre(
            "an unnormalizer before the network",
            |p| normalizer(p)["registry_name"] = json!("unnormalizer_processor"),
            &["unnormalizer_processor", "postprocessor"],
        ),
        pre(
            "a state file above",
            |p| normalizer(p)["state_file"] = json!("../policy/config.json"),
            &["state_file", "../policy/config.json"],
        ),
        pre(
            "a state file of the system",
            |p| normalizer(p)["state_file"] = json!("/etc/passwd"),
            &["state_file", "/etc/passwd"],
        ),
        pre(
            "a state file of no name",
            |p| normalizer(p)["state_file"] = json!(""),
            &["state_file"],
        ),
        pre(
            "a state file that is a number",
            |p| normalizer(p)["state_file"] = json!(3),
            &["string"],
        ),
        pre(
            "no state file where statistics are needed",
            |p| drop(normalizer(p).as_object_mut().unwrap().remove("state_file")),
            &["observation.state"],
        ),
        post("no steps", |p| p["steps"] = json!([]), &["unnormalizer_processor"]),
        post(
            "a step of the robot's side",
            |p| {
                all(p).push(json!({
                    "registry_name": "map_tensor_to_delta_action_dict", "config": {},
                }));
            },
            &["map_tensor_to_delta_action_dict"],
        ),
        post(
            "absolute actions of relative ones that are not",
            |p| {
                all(p).insert(
                    1,
                    json!({
                        "registry_name": "absolute_actions_processor", "config": {"enabled": true},
                    }),
                );
            },
            &["absolute_actions_processor"],
        ),
        stats(
            "no statistics of the state",
            STATE_3,
            |t| t.retain(|name, _| !name.starts_with("observation.state.")),
            &["observation.state"],
        ),
        stats(
            "no statistics of the action",
            STATE_0,
            |t| t.retain(|name, _| !name.starts_with("action.")),
            &["action"],
        ),
        stats(
            "no minimum of the action",
            STATE_0,
            |t| drop(t.remove("action.min")),
            &["action.min"],
        ),
        stats(
            "a minimum of another length",
            STATE_0,
            |t| {
                let part = t.get_mut("action.min").unwrap();
                (part.shape, part.bytes) = (vec![3], vec![0; 12]);
            },
            &["action.min", "3"],
        ),
        stats(
            "a minimum that is NaN",
            STATE_0,
            |t| t.get_mut("action.min").unwrap().bytes = [0, 0, 0xc0, 0x7f].repeat(2),
            &["action.min"],
        ),
        stats(
            "a minimum that is infinite",
            STATE_3,
            |t| t.get_mut("observation.state.max").unwrap().bytes = [0, 0, 0x80, 0x7f].repeat(2),
            &["observation.state.max"],
        ),
        stats(
            "a statistic without a feature",
            STATE_3,
            |t| {
                let part = t["action.min"].clone();
                t.insert("min".into(), part);
            },
            &["min", "<feature>.<stat>"],
        ),
        case(
            Base::Keypoints,
            "no processors and no statistics in the weights",
            |dir| {
                for file in [PRE, POST] {
                    fs::remove_file(dir.join(file)).unwrap();
                }
            },
            &[PRE],
        ),
        case(
            Base::Keypoints,
            "a state file that is a link to itself",
            |dir| {
                fs::remove_file(dir.join(STATE_3)).unwrap();
                symlink(STATE_3, dir.join(STATE_3)).unwrap();
            },
            &[STATE_3],
        ),
    ]
}
