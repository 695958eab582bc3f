//! Training: resume is exact, `kill -9` loses nothing, bad recipes are refused.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use pathline::device;
use pathline::policy::Policy;
use pathline::train::checkpoint;
use pathline::train::recipe::Recipe;
use pathline::train::run::train;
use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{self, ExpertConfig};

/// A folder with a few expert episodes and a recipe for a tiny network.
fn prepare(dir: &Path) -> PathBuf {
    let config = ExpertConfig::bulk();
    let episodes = (0..3).map(|seed| expert::episode(PushT::reset(seed), &config, 300));
    pathline::dataset::pusht::write(&dir.join("demos"), episodes).unwrap();
    let recipe = dir.join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    recipe
}

const RECIPE: &str = include_str!("data/tiny-recipe.toml");

fn load(dir: &Path, recipe: &Path, run: &str, more: &[&str]) -> Recipe {
    let mut overrides = vec![
        format!("output_dir=\"{}\"", dir.join(run).display()),
        format!("dataset.paths=[\"{}\"]", dir.join("demos").display()),
    ];
    overrides.extend(more.iter().map(|&s| s.to_owned()));
    Recipe::load(recipe, &overrides).unwrap()
}

fn bytes(run: &Path) -> Vec<Vec<u8>> {
    let last = run.join("checkpoints/last");
    ["pretrained_model/model.safetensors", "training_state/optimizer_state.safetensors"]
        .map(|file| std::fs::read(last.join(file)).unwrap())
        .to_vec()
}

#[test]
fn a_resumed_run_writes_the_bytes_of_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = prepare(dir.path());
    let go = |recipe: &Recipe, resume| {
        train(recipe, resume, &AtomicBool::new(false), &device::cpu()).unwrap()
    };
    go(&load(dir.path(), &recipe, "whole", &[]), false);

    // Stopped after its first update, and resumed.
    let split = load(dir.path(), &recipe, "split", &[]);
    let first = train(&split, false, &AtomicBool::new(true), &device::cpu()).unwrap();
    assert!(first.interrupted && first.steps == 1);
    let second = go(&split, true);
    assert_eq!(second.steps, split.train.steps);

    let whole = bytes(&dir.path().join("whole"));
    assert_eq!(whole, bytes(&dir.path().join("split")));

    // The comparison can fail: another seed gives other bytes.
    go(&load(dir.path(), &recipe, "other", &["train.seed=2"]), false);
    assert_ne!(whole, bytes(&dir.path().join("other")));

    let policy = dir.path().join("whole/checkpoints/last/pretrained_model");
    Policy::load(&policy, &device::cpu()).unwrap();
    assert!(dir.path().join("whole/loss.png").is_file());

    let again = train(&split, false, &AtomicBool::new(false), &device::cpu()).unwrap_err();
    assert!(again.to_string().contains("--resume"), "{again}");
}

#[test]
fn killed_at_any_moment_the_newest_checkpoint_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = prepare(dir.path());
    let run = dir.path().join("killed");
    let root = run.join("checkpoints");
    let set = [
        format!("output_dir=\"{}\"", run.display()),
        format!("dataset.paths=[\"{}\"]", dir.path().join("demos").display()),
        "train.save_freq=1".to_owned(),
        "train.steps=100000".to_owned(),
    ];
    let mut last = 0;
    for round in 0..6u64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pathline"));
        command.arg("train").arg(&recipe);
        set.iter().for_each(|entry| drop(command.args(["--set", entry])));
        if round > 0 {
            command.arg("--resume");
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Wait for a checkpoint that this process wrote, then a little more, different each time.
        let deadline = Instant::now() + Duration::from_secs(60);
        while checkpoint::list(&root).unwrap().last().is_none_or(|(step, _)| *step <= last) {
            assert!(Instant::now() < deadline, "no checkpoint within a minute");
            std::thread::yield_now();
        }
        let moment = Instant::now() + Duration::from_micros(700 * round);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();

        let whole = checkpoint::list(&root).unwrap();
        let (step, newest) = whole.last().unwrap();
        assert!(*step > last);
        last = *step;
        assert_eq!(checkpoint::load_state(newest).unwrap().0, *step);
        Policy::load(&newest.join("pretrained_model"), &device::cpu()).unwrap();
    }
    checkpoint::clean(&root).unwrap();
    let names: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.starts_with(".partial")), "{names:?}");
}

#[test]
fn impossible_recipes_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, RECIPE).unwrap();
    for (entry, expected) in [
        ("train.stepz=3", "stepz"),
        ("train.steps=0", "train.steps"),
        ("optimizer.lr=-1.0", "optimizer.lr"),
        ("policy.n_action_steps=99", "n_action_steps"),
        ("policy.solver=dopri", "heun"),
        ("policy.network.kind=dit", "dit"),
        ("train.time_law.law=cauchy", "cauchy"),
        ("dataset.paths=[]", "dataset.paths"),
        ("dataset.observation_bounds=[1.0, 0.0]", "observation_bounds"),
    ] {
        let error = Recipe::load(&path, &[entry.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(expected), "{entry}: {error}");
    }
    let missing = Recipe::load(&dir.path().join("none.toml"), &[]).unwrap_err().to_string();
    assert!(missing.contains("none.toml"), "{missing}");
}
