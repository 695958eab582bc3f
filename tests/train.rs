//! Training: resume is exact, `kill -9` loses nothing, bad recipes are refused.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use pathline::action::Mode;
use pathline::device;
use pathline::nn::params::Params;
use pathline::policy::processor::Processor;
use pathline::policy::{Net, Policy};
use pathline::tensors::header::Header;
use pathline::train::checkpoint;
use pathline::train::recipe::Recipe;
use pathline::train::run::{batch_loss, train};
use pathline::train::samples::{Batch, Demonstrations, Sampler};
use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{self, ExpertConfig};

/// The beginnings of three expert episodes, as a dataset: made once for all tests.
fn demos() -> &'static Path {
    static DEMOS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DEMOS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let config = ExpertConfig::bulk();
        let episodes = (0..3).map(|seed| expert::episode(PushT::reset(seed), &config, 20));
        pathline::dataset::pusht::write(dir.path().join("demos"), episodes).unwrap();
        dir
    });
    dir.path()
}

/// A recipe for a tiny network, in a file.
fn prepare(dir: &Path) -> PathBuf {
    let recipe = dir.join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    recipe
}

const RECIPE: &str = include_str!("data/tiny-recipe.toml");

fn load(dir: &Path, recipe: &Path, run: &str, more: &[&str]) -> Recipe {
    let mut overrides = vec![
        format!("output_dir=\"{}\"", dir.join(run).display()),
        format!("dataset.paths=[\"{}\"]", demos().join("demos").display()),
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
        format!("dataset.paths=[\"{}\"]", demos().join("demos").display()),
        "train.save_freq=1".to_owned(),
        "train.steps=100000".to_owned(),
    ];
    let mut last = 0;
    for round in 0..8u32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pathline"));
        command.arg("train").arg(&recipe);
        for entry in &set {
            command.args(["--set", entry]);
        }
        if round > 0 {
            command.arg("--resume");
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It writes a checkpoint every few milliseconds: kill it somewhere in the second one.
        let deadline = Instant::now() + Duration::from_secs(60);
        while checkpoint::list(&root).unwrap().last().is_none_or(|(step, _)| *step <= last) {
            assert!(Instant::now() < deadline, "no checkpoint within a minute");
            assert!(child.try_wait().unwrap().is_none(), "training ended by itself");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let moment = Instant::now() + Duration::from_micros(1700) * round;
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();

        let whole = checkpoint::list(&root).unwrap();
        for (step, folder) in &whole {
            assert_eq!(checkpoint::load_state(folder).unwrap().0, *step);
            Policy::load(&folder.join("pretrained_model"), &device::cpu()).unwrap();
        }
        let newest = whole.last().unwrap().0;
        assert!(newest > last);
        last = newest;
    }
    // What the next start does: no litter, and the link names the newest.
    checkpoint::clean(&root).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.pop().unwrap(), "last");
    assert!(names.iter().all(|name| name.parse::<usize>().is_ok()), "{names:?}");
    assert_eq!(checkpoint::load_state(&root.join("last")).unwrap().0, last);

    // A checkpoint that was written in place and cut short does not pass for a whole one.
    let newest = root.join("last");
    for file in ["pretrained_model/model.safetensors", "training_state/optimizer_state.safetensors"]
    {
        let bytes = std::fs::read(newest.join(file)).unwrap();
        std::fs::write(newest.join(file), &bytes[..bytes.len() - 1]).unwrap();
    }
    assert!(checkpoint::load_state(&newest).is_err());
    assert!(Policy::load(&newest.join("pretrained_model"), &device::cpu()).is_err());
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
        ("train.batch_size=100000000", "train.batch_size"),
        ("policy.n_action_steps=99", "n_action_steps"),
        ("policy.network.width=0", "width"),
        ("policy.network.time_embed_dim=7", "time_embed_dim"),
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

/// LeRobot's DiffusionPolicy from the same trainer, as a diffusion and as a flow: the folder holds what
/// LeRobot writes, and the same network.
#[test]
fn a_diffusion_policy_is_trained_for_either_objective() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe.toml");
    std::fs::write(&recipe, include_str!("data/tiny-diffusion.toml")).unwrap();
    let mut names = Vec::new();
    for (objective, solver, nfe) in [("diffusion", "ddpm", 10), ("flow", "euler", 10)] {
        let more = format!("policy.objective={objective}");
        let recipe = load(dir.path(), &recipe, objective, &[&more]);
        train(&recipe, false, &AtomicBool::new(false), &device::cpu()).unwrap();
        let folder = dir.path().join(objective).join("checkpoints/last/pretrained_model");
        let policy = Policy::load(&folder, &device::cpu()).unwrap();
        let signature = policy.signature();
        assert_eq!((signature.kind, signature.first_row, signature.rows()), ("diffusion", 1, 7));
        let own = policy.solver(None, None).unwrap();
        assert_eq!((own.name.as_str(), own.evaluations()), (solver, nfe));
        let history = vec![pathline::train::eval::observation(&PushT::reset(0)); 2];
        let draws = policy.draws(&pathline::flow::Noise::new(0), &[0], 0, &own);
        let chunks = policy.infer(&[&history], draws, &own).unwrap();
        assert_eq!((chunks.actions.len(), chunks.normalized.len()), (14, 16));
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        // LeRobot refuses a field that it does not know, and so a flow; a diffusion has none.
        assert_eq!(config.contains("objective"), objective == "flow");
        let mut files: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "config.json",
                "model.safetensors",
                "policy_postprocessor.json",
                "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
                "policy_preprocessor.json",
                "policy_preprocessor_step_3_normalizer_processor.safetensors",
                "recipe.toml",
            ]
        );
        let header = Header::read(&folder.join("model.safetensors")).unwrap();
        let shapes: Vec<_> = header.entries.into_iter().map(|e| (e.name, e.shape)).collect();
        assert!(shapes.iter().all(|(name, _)| name.starts_with("diffusion.unet.")));
        names.push(shapes);
    }
    assert_eq!(names[0], names[1], "one network for both");
}

/// Training-time real-time chunking: 0 to `max_delay` rows are given, as often each; they are no part of the
/// loss; and a policy without times of rows can be trained on.
#[test]
fn a_policy_is_trained_to_continue_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let plain = prepare(dir.path());
    let first = load(dir.path(), &plain, "plain", &[]);
    let go = AtomicBool::new(false);
    train(&first, false, &go, &device::cpu()).unwrap();
    let from = format!("init_from=\"{}\"", dir.path().join("plain").display());
    let continued = ["policy.network.token_embed_dim=4", "policy.rtc_training_max_delay=3", &from];
    let recipe = load(dir.path(), &plain, "rtc", &continued);

    let objective = pathline::train::run::objective(&recipe).unwrap();
    let signature = recipe.policy.signature();
    let dataset = pathline::dataset::Dataset::open_all(&recipe.dataset.paths).unwrap();
    let demos = Demonstrations::new(&dataset, &signature).unwrap();
    let stats = demos.stats(&signature, recipe.dataset.observation_bounds).unwrap();
    let processor = Processor::new(&signature, &stats).unwrap();
    let mut sampler = Sampler::new(&demos, &recipe.policy, &processor, None, &objective, 3);
    let mut counts = [0usize; 4];
    for step in 0..50 {
        for delay in sampler.batch(step, 16, &device::cpu()).unwrap().delay {
            counts[delay] += 1;
        }
    }
    // 200 expected of each; the deviation of a binomial is 12.
    assert!(counts.iter().all(|n| (150..250).contains(n)), "{counts:?}");

    let params = Params::new(9);
    let net = Net::load(&recipe.policy, params.builder(&device::cpu())).unwrap();
    let mut batch = sampler.batch(0, 16, &device::cpu()).unwrap();
    batch.delay = vec![2; 16];
    let loss = |batch: &Batch| -> f32 {
        batch_loss(&net, &objective, batch).unwrap().to_scalar().unwrap()
    };
    let before = loss(&batch);
    let noise_of = |row: usize| {
        let mut noise: Vec<f32> = batch.noise.flatten_all().unwrap().to_vec1().unwrap();
        noise.chunks_mut(32).for_each(|chunk| chunk[2 * row] += 1.0);
        candle_core::Tensor::from_vec(noise, (16, 16, 2), &device::cpu()).unwrap()
    };
    let with = |row| {
        let noise = noise_of(row);
        loss(&Batch { noise, ..batch.clone() })
    };
    assert_eq!(with(1), before, "a given row has no noise and no loss");
    assert_ne!(with(2), before, "the next one has");
    assert_ne!(loss(&Batch { delay: vec![0; 16], ..batch.clone() }), before);

    let summary = train(&recipe, false, &go, &device::cpu()).unwrap();
    let policy = Policy::load(&summary.policy, &device::cpu()).unwrap();
    assert!(policy.net().takes_row_times() && policy.can_join(Mode::RtcPrefix));
    let other = Policy::load(&dir.path().join("plain"), &device::cpu()).unwrap();
    assert!(!other.can_join(Mode::RtcPrefix) && other.can_join(Mode::RtcVjp));
    for (entry, expected) in [
        ("policy.rtc_training_max_delay=3", "rtc_training_max_delay"),
        ("policy.network.token_embed_dim=4", "rtc_training_max_delay"),
        ("policy.network.token_embed_dim=3", "token_embed_dim"),
        ("policy.joining.mode=rtc_prefix", "rtc_identity"),
        ("policy.joining.mode=merge", "merge"),
        ("policy.joining.n_action_steps=17", "n_action_steps"),
        ("policy.rtc_config.execution_horizon=0", "execution_horizon"),
    ] {
        let error = Recipe::load(&plain, &[entry.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(expected), "{entry}: {error}");
    }
}
