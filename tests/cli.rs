//! The binary: exit codes, what goes to stdout and stderr, and the files that it writes.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candle_core::{Device, Tensor};
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::{Observation, Policy};
use serde_json::Value;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The error line; nothing may be on stdout.
    fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        self.stderr
    }
}

fn pathline<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_pathline"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn object(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap();
    assert!(value.is_object(), "{text}");
    value
}

/// A folder with a tiny policy in `policy`.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    support::write(&policy, &support::config(&[]));
    (dir, policy)
}

/// Names of the subcommands, from the help text.
fn subcommands() -> Vec<String> {
    let help = pathline(["--help"]).ok();
    let names: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(str::to_owned)
        .collect();
    for expected in ["bench", "demos", "doctor", "eval", "infer", "inspect", "train"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not in {names:?}");
    }
    names
}

#[test]
fn every_subcommand_explains_itself_with_an_example() {
    for name in subcommands() {
        let help = pathline([name.as_str(), "--help"]).ok();
        assert!(help.contains(&format!("pathline {name}")), "{name}: no example\n{help}");
        assert!(help.contains("Examples:"), "{name}\n{help}");
        let first = help.lines().next().unwrap();
        assert!(first.len() > 20, "{name}: says what it does in its first line\n{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{name}\n{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_0() {
    assert!(pathline(["--version"]).ok().starts_with("pathline "));
    for args in [
        vec![],
        vec!["dance"],
        vec!["infer"],
        vec!["infer", "--policy", "p", "--out", "o"],
        vec!["infer", "--policy", "p", "--out", "o", "--example", "--observation", "x"],
        vec!["inspect"],
        vec!["bench", "--jsno"],
        vec!["eval", "--env", "chess"],
        vec!["eval", "--episodes", "-3"],
    ] {
        let error = pathline(&args).failed(2);
        assert!(error.contains("Usage:") || error.contains("For more information"), "{args:?}");
    }
}

#[test]
fn failures_are_exit_code_1_and_one_line_on_stderr() {
    let (dir, policy) = folder();
    let p = policy.to_str().unwrap();
    let missing = dir.path().join("none");
    let missing = missing.to_str().unwrap();
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    let broken = dir.path().join("broken.safetensors");
    fs::write(&broken, "not tensors").unwrap();
    let broken = broken.to_str().unwrap();
    let strange = dir.path().join("strange.xyz");
    fs::write(&strange, "?").unwrap();
    let strange = strange.to_str().unwrap();
    let infer =
        |more: &[&'static str]| [&["infer", "--policy", p, "--out", out][..], more].concat();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["infer", "--policy", missing, "--example", "--out", out], "none"),
        ([&infer(&[])[..], &["--observation", missing]].concat(), "none"),
        ([&infer(&[])[..], &["--observation", broken]].concat(), "broken.safetensors"),
        ([&infer(&["--example"])[..], &["--noise", broken]].concat(), "broken.safetensors"),
        (infer(&["--example", "--solver", "ddpm"]), "heun"),
        (infer(&["--example", "--steps", "0"]), "steps"),
        (infer(&["--example", "--steps", "99999999999"]), "1000"),
        (vec!["infer", "--policy", p, "--example", "--out", "/nowhere/x"], "/nowhere"),
        (vec!["inspect", missing], "none"),
        (vec!["inspect", broken], "broken.safetensors"),
        (vec!["inspect", strange], "strange.xyz"),
        (vec!["inspect", dir.path().to_str().unwrap()], "config.json"),
        (vec!["bench", "--policy", missing], "none"),
        (vec!["eval", "--policy", missing], "none"),
        (vec!["eval", "--policy", p, "--episodes", "0"], "--episodes"),
        (vec!["eval", "--policy", p, "--n-action-steps", "17"], "horizon"),
        (vec!["eval", "--policy", p, "--latency-ms", "1e300"], "--latency-ms"),
        (vec!["eval", "--policy", p, "--latency-ms", "0,100"], "--study"),
        (vec!["eval", "--policy", p, "--join", "merge"], "weighted_average"),
        (vec!["eval", "--policy", p, "--join", "rtc_prefix"], "rtc_training_max_delay"),
        (vec!["eval", "--policy", p, "--latency-ms", "NaN"], "--latency-ms"),
        (vec!["train", missing], "none"),
    ];
    for (args, named) in cases {
        let error = pathline(&args).failed(1);
        assert!(error.starts_with("error: ") && error.contains(named), "{args:?}: {error}");
        assert!(error.trim_end().lines().count() == 1, "{args:?}: {error}");
    }
    assert!(!Path::new(out).exists());
}

#[test]
fn infer_writes_the_same_bytes_twice() {
    let (dir, policy) = folder();
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let args = ["infer", "--policy", policy.to_str().unwrap(), "--example", "--out"];
        let text = pathline([&args[..], &[out.to_str().unwrap()], more].concat()).ok();
        (fs::read(&out).unwrap(), text)
    };
    let (first, text) = run("a.safetensors", &[]);
    assert!(text.contains("a.safetensors") && text.contains("[16, 2]"), "{text}");
    assert_eq!(first, run("b.safetensors", &[]).0);
    assert_ne!(first, run("c.safetensors", &["--seed", "1"]).0);
    assert_ne!(first, run("d.safetensors", &["--steps", "3"]).0);
    let (_, text) = run("e.safetensors", &["--solver", "rk4", "--steps", "3", "--json"]);
    assert_eq!(object(&text)["nfe"], 12);
    let entries: BTreeSet<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries.len(), 6, "no file but those that were asked for: {entries:?}");
}

#[test]
fn infer_answers_files_as_the_library_does() {
    let (dir, folder) = folder();
    let policy = Policy::load(&folder, &device::cpu()).unwrap();
    let state = [100f32, 200.0, 110.0, 210.0];
    let environment: Vec<f32> = (0..32).map(|i| 60.0 + 11.0 * i as f32).collect();
    let noise = Noise::new(9).normal(0, 0, policy.chunk_len());
    let tensor =
        |v: &[f32], shape: [usize; 2]| Tensor::from_slice(v, &shape, &Device::Cpu).unwrap();
    let save = |name: &str, tensors: &[(&str, Tensor)]| {
        let path = dir.path().join(name);
        let map: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
        candle_core::safetensors::save(&map, &path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let observation = |rows: usize| {
        let env = &environment[..16 * rows];
        [
            ("observation.state", tensor(&state[..2 * rows], [rows, 2])),
            ("observation.environment_state", tensor(env, [rows, 16])),
        ]
    };
    let obs = save("obs.safetensors", &observation(2));
    let noise_file = save("noise.safetensors", &[("noise", tensor(&noise, [16, 2]))]);
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    let base = ["infer", "--policy", folder.to_str().unwrap(), "--out", out, "--observation"];
    let run = |more: &[&str]| pathline([&base[..], more].concat());
    run(&[&obs, "--noise", &noise_file]).ok();

    let history: Vec<Observation> = (0..2)
        .map(|i| Observation {
            state: state[2 * i..2 * i + 2].to_vec(),
            environment_state: environment[16 * i..16 * i + 16].to_vec(),
            images: Vec::new(),
        })
        .collect();
    let solver = policy.solver(None, None).unwrap();
    let expected = policy.infer(&[&history], noise, &solver).unwrap();
    let written = candle_core::safetensors::load(out, &Device::Cpu).unwrap();
    for (key, values) in
        [("action", &expected.actions), ("action_normalized", &expected.normalized)]
    {
        assert_eq!(written[key].dims(), [16, 2]);
        let got: Vec<f32> = written[key].flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(&got, values, "{key}");
    }

    let short = save("short.safetensors", &observation(1));
    let error = run(&[&short]).failed(1);
    assert!(error.contains("observation.state: expected f32 [2, 2]"), "{error}");
    let error = run(&[&noise_file]).failed(1);
    assert!(error.contains("observation.state") && error.contains("found [\"noise\"]"), "{error}");
    let mut bad = observation(2);
    bad[0].1 = tensor(&[f32::NAN; 4], [2, 2]);
    let bad = save("bad.safetensors", &bad);
    let error = run(&[&bad]).failed(1);
    assert!(error.contains("bad.safetensors: observation.state: expected finite"), "{error}");
}

#[test]
fn inspect_says_what_a_thing_is() {
    let (dir, policy) = folder();
    let p = |path: &Path| path.to_str().unwrap().to_owned();
    let json = |path: &Path| object(&pathline(["inspect", "--json", &p(path)]).ok());

    let report = json(&policy);
    assert_eq!(report["kind"], "policy");
    assert_eq!(report["inputs"]["observation.environment_state"][0], 16);
    assert!(report["parameters"].as_u64().unwrap() > 1000);
    let text = pathline(["inspect", &p(&policy)]).ok();
    assert!(text.lines().next().unwrap().ends_with("policy"), "{text}");
    assert!(text.contains("n_action_steps") && !text.contains('{'), "{text}");

    // A run and its checkpoints are the policy inside.
    let run = dir.path().join("run/checkpoints/last/pretrained_model");
    support::write(&run, &support::config(&[]));
    assert_eq!(json(&dir.path().join("run"))["kind"], "policy");

    let report = json(&policy.join("model.safetensors"));
    assert_eq!(report["kind"], "safetensors");
    let rows = report["tensors"].as_array().unwrap();
    assert!(rows.iter().any(|row| row.as_str().unwrap().starts_with("blocks.0.up.weight ")));
    assert_eq!(json(&policy.join("config.json"))["kind"], "JSON");

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let report = json(&root.join("tests/golden/lerobot_dataset"));
    assert_eq!((&report["kind"], &report["episodes"]), (&"dataset".into(), &3.into()));
    assert_eq!(json(&root.join("tests/data/tiny-recipe.toml"))["kind"], "recipe");
    let report = json(&root.join("tests/golden/pusht_render.png"));
    assert_eq!(report["kind"], "PNG");
    assert!(report["width"].as_u64().unwrap() > 0);

    let gif = dir.path().join("a.gif");
    fs::write(&gif, b"GIF89a\x40\x01\xf0\x00\x00\x00\x00;").unwrap();
    let report = json(&gif);
    assert_eq!((&report["width"], &report["height"]), (&320.into(), &240.into()));

    let recording = dir.path().join("a.mcap");
    let mut writer = mcap::Writer::new(fs::File::create(&recording).unwrap()).unwrap();
    let schema = writer.add_schema("policy_msgs/msg/Observation", "ros2msg", b"").unwrap();
    let channel = writer.add_channel(schema, "/pusht/obs", "cdr", &Default::default()).unwrap();
    for i in 0..3u64 {
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: i as u32,
            log_time: 500_000_000 * i,
            publish_time: 0,
        };
        writer.write_to_known_channel(&header, &[0; 8]).unwrap();
    }
    writer.finish().unwrap();
    let report = json(&recording);
    assert_eq!((&report["kind"], &report["duration_s"]), (&"MCAP".into(), &1.0.into()));
    assert_eq!(report["topics"][0], "/pusht/obs  policy_msgs/msg/Observation  3");
    let bytes = fs::read(&recording).unwrap();
    fs::write(&recording, &bytes[..bytes.len() / 2]).unwrap();
    let error = pathline(["inspect", &p(&recording)]).failed(1);
    assert!(error.contains("a.mcap"), "{error}");
}

#[test]
fn doctor_is_one_json_object() {
    let ran = pathline(["doctor", "--json"]);
    let report = object(&ran.stdout);
    for key in ["version", "target", "cpu", "threads", "simd"] {
        assert!(report[key].is_string(), "{key}: {report}");
    }
    let checks = report["checks"].as_object().unwrap();
    assert!(checks.len() >= 3, "{report}");
    assert_eq!(checks["tensors"]["ok"], true);
    let failed = checks.values().any(|check| check["ok"] == false);
    assert_eq!((ran.code, report["ok"].as_bool().unwrap()), (i32::from(failed), !failed));
}

#[test]
fn bench_reports_every_row() {
    let (_dir, policy) = folder();
    let policy = policy.to_str().unwrap();
    let args = ["bench", "--chunks", "20", "--policy", policy];
    let report = object(&pathline([&args[..], &["--json"]].concat()).ok());
    let rows = report["chunk_ms"].as_array().unwrap();
    let evaluations: Vec<u64> = rows.iter().map(|row| row["nfe"].as_u64().unwrap()).collect();
    assert_eq!(evaluations, [1, 2, 4, 8, 10]);
    for row in rows {
        let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|k| row[k].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= max, "{row}");
    }
    for key in ["load_ms", "first_action_ms", "simulator_steps_per_s"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let text = pathline(args).ok();
    assert!(text.lines().skip(2).all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn eval_has_lerobots_keys() {
    let (_dir, policy) = folder();
    let args = ["eval", "--json", "--episodes", "2", "--policy", policy.to_str().unwrap()];
    // Near the end of the seeds: counted around, not past.
    let report = object(&pathline([&args[..], &["--seed", &u64::MAX.to_string()]].concat()).ok());
    for key in ["pc_success", "avg_max_reward", "avg_sum_reward", "eval_s", "eval_ep_s"] {
        assert!(report["aggregated"][key].is_number(), "{key}: {report}");
    }
    assert_eq!(report["aggregated"]["n_episodes"], 2);
    assert!(report["latency_ms"]["p99"].is_number());
}

#[test]
fn a_study_writes_table_numbers_and_picture() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/pusht-flow");
    let args = [
        "eval",
        "--policy",
        policy.to_str().unwrap(),
        "--episodes",
        "2",
        "--join",
        "replace,overlap",
        "--latency-ms",
        "0,250",
        "--study",
        folder.to_str().unwrap(),
        "--json",
    ];
    let out = pathline(args).ok();
    let study: serde_json::Value = serde_json::from_str(&out).unwrap();
    let cells = study["cells"].as_array().unwrap();
    let of =
        |i: usize| (cells[i]["mode"].as_str().unwrap(), cells[i]["latency_ms"].as_f64().unwrap());
    let all: Vec<_> = (0..cells.len()).map(of).collect();
    assert_eq!(all, [("replace", 0.0), ("replace", 250.0), ("overlap", 0.0), ("overlap", 250.0)]);
    assert!(cells.iter().all(|cell| cell["mean_step"].as_f64().unwrap() > 1.0));
    // Nothing is there for the first three ticks.
    assert!(cells[1]["held_share"].as_f64().unwrap() > 0.0);
    for file in ["latency.json", "latency.md", "latency.png"] {
        assert!(std::fs::metadata(folder.join(file)).unwrap().len() > 200, "{file}");
    }
}
