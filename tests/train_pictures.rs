//! Training on pictures: every kind learns, resumes to the same bytes, and leaves a folder that loads.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pathline::device;
use pathline::image::{Pipeline, Request};
use pathline::train::pictures::recipe::PictureRecipe;
use pathline::train::pictures::{PictureSummary, train};
use pathline::vae::Autoencoder;
use pathline::vae::features::FeatureNet;

const FOLDER: &str = r#"
[data]
source = "folder"
path = "tests/data/pictures/folder"
size = 16
"#;

const MAPS: &str = r#"
[data]
source = "pusht"
size = 16
count = 6
seed = 3
"#;

const RHYTHM: &str = r#"
[train]
steps = 4
batch_size = 3
seed = 1
log_freq = 1
save_freq = 2
sample_freq = 4
keep_checkpoints = 2

[optimizer]
lr = 1e-3
betas = [0.9, 0.99]
eps = 1e-8
weight_decay = 0.0
grad_clip_norm = 1.0
warmup_steps = 1
final_lr_ratio = 1.0
ema_decay = 0.9
"#;

const CLASSIFIER: &str = r#"
[model]
type = "classifier"
[model.network]
in_channels = 3
channels = [4, 8]
classes = 3
"#;

const AUTOENCODER: &str = r#"
[augment]
flip = true
[model]
type = "autoencoder"
[model.network]
_class_name = "AutoencoderKL"
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [4, 8]
layers_per_block = 1
latent_channels = 2
norm_num_groups = 2
sample_size = 16
"#;

const CRITIC: &str = r#"
[model.loss.adversarial]
weight = 0.5
start = 1
[model.loss.adversarial.network]
channels = 3
layers = 1
ndf = 4
"#;

const UNET: &str = r#"
[model.network]
_class_name = "UNet2DConditionModel"
sample_size = 8
out_channels = 2
down_block_types = ["CrossAttnDownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "CrossAttnUpBlock2D"]
block_out_channels = [4, 8]
layers_per_block = 1
cross_attention_dim = 8
attention_head_dim = 2
norm_num_groups = 2
"#;

const PLAIN_UNET: &str = r#"
[model.network]
_class_name = "UNet2DConditionModel"
sample_size = 8
out_channels = 2
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
mid_block_type = "UNetMidBlock2D"
block_out_channels = [4, 8]
layers_per_block = 1
attention_head_dim = 2
norm_num_groups = 2
"#;

const TEXT: &str = r#"
[model.condition]
by = "text"
dropout = 0.3
vocab_size = 530
[model.condition.encoder]
hidden_size = 8
intermediate_size = 8
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 12
"#;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn recipe(&self, run: &str, parts: &[&str], overrides: &[&str]) -> PictureRecipe {
        let path = self.dir.path().join(format!("{run}.toml"));
        let output = self.dir.path().join(run);
        let text = format!("output_dir = {output:?}\n{}", parts.join("\n"));
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        PictureRecipe::load(&path, &overrides).unwrap()
    }

    fn model(&self, run: &str) -> PathBuf {
        self.dir.path().join(run).join("checkpoints/last/pretrained_model")
    }

    /// Trains in one go and in two, and compares all that both leave behind.
    fn same_when_resumed(&self, run: &str, parts: &[&str], overrides: &[&str]) {
        go(&self.recipe(run, parts, overrides), false, false);
        let split = format!("{run}-split");
        let recipe = self.recipe(&split, parts, overrides);
        let first = go(&recipe, false, true);
        assert!(first.interrupted && first.steps == 1, "{run}: {first:?}");
        let second = go(&recipe, true, false);
        assert_eq!(second.steps, recipe.train.steps);
        for folder in ["pretrained_model", "training_state"] {
            let of = |run: &str| {
                let root = self.dir.path().join(run).join("checkpoints/last").join(folder);
                files(&root)
            };
            let (whole, split) = (of(run), of(&split));
            assert!(!whole.is_empty());
            for ((name, a), (other, b)) in whole.iter().zip(&split) {
                assert_eq!(name, other);
                // The recipe holds the name of the folder.
                assert!(name.ends_with("recipe.toml") || a == b, "{run}: {folder}/{name} differs");
            }
        }
        let samples = self.dir.path().join(run).join("samples");
        let sheets = if parts.contains(&CLASSIFIER) { 0 } else { 1 };
        assert_eq!(std::fs::read_dir(samples).unwrap().count(), sheets, "{run}");
    }
}

fn go(recipe: &PictureRecipe, resume: bool, stop: bool) -> PictureSummary {
    train(recipe, resume, &AtomicBool::new(stop), &device::cpu()).unwrap()
}

/// Names and bytes of all files below `root`.
fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// One after another: each needs what the one before has left.
#[test]
fn every_kind_resumes_to_the_same_bytes_and_loads() {
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    let cpu = device::cpu();
    bench.same_when_resumed("features", &[FOLDER, CLASSIFIER, RHYTHM], &[]);
    FeatureNet::open(&bench.model("features"), &cpu).unwrap();

    let network = format!("network = {:?}", bench.dir.path().join("features"));
    let perceptual = format!("[model.loss.perceptual]\nweight = 0.5\n{network}");
    let parts = [FOLDER, AUTOENCODER, &perceptual, CRITIC, RHYTHM];
    bench.same_when_resumed("ae", &parts, &[]);
    let net = Autoencoder::open(&bench.model("ae"), &cpu).unwrap();
    assert_eq!(net.latent_channels(), 2);

    let autoencoder = format!("model.autoencoder={:?}", bench.dir.path().join("ae"));
    let denoiser = "[model]\ntype = \"denoiser\"";
    let draw = |run: &str, request: &Request| {
        let pipeline = Pipeline::open(&bench.model(run), &cpu).unwrap();
        let pictures = pipeline.sample(request, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
        assert_eq!(pictures.image.dims(), [1, 3, 16, 16], "{run}");
        pictures.image.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };

    let parts = [FOLDER, denoiser, UNET, TEXT, RHYTHM];
    let two = ["model.network.in_channels=2", autoencoder.as_str()];
    bench.same_when_resumed("text", &parts, &two);
    let prompt = Some("red apple".to_owned());
    let request = Request { prompt, cfg_scale: Some(2.0), steps: Some(2), ..Request::default() };
    let drawn = draw("text", &request);

    // Trained on from there: the same weights and words, of which an update at this rate changes nothing.
    let from = format!("model.init_from={:?}", bench.dir.path().join("text"));
    let still = ["train.steps=1", "optimizer.lr=1e-12", "train.seed=9"];
    let gap = |run: &str, overrides: &[&str]| {
        let overrides: Vec<&str> = two.iter().chain(&still).chain(overrides).copied().collect();
        go(&bench.recipe(run, &parts, &overrides), false, false);
        let again = draw(run, &request);
        drawn.iter().zip(again).fold(0f32, |gap, (a, b)| gap.max((a - b).abs()))
    };
    let (on, anew) = (gap("text-on", &[&from]), gap("text-anew", &[]));
    assert!(on < 1e-5 && anew > 1e-2, "{on} {anew}");

    let class = "[model.condition]\nby = \"class\"\ndropout = 0.3";
    let few = "[model.few_step]\nshare = 0.5\nsplit = { dyadic = { levels = 3 } }";
    let parts = [FOLDER, denoiser, PLAIN_UNET, class, few, RHYTHM];
    let three = ["model.network.in_channels=3", "model.network.num_class_embeds=4", &autoencoder];
    bench.same_when_resumed("class", &parts, &three);
    draw("class", &Request { class: Some("fruit".into()), steps: Some(2), ..Request::default() });

    let maps = "[model.condition]\nby = \"segmentation\"\nchannels = 3";
    let parts = [MAPS, denoiser, PLAIN_UNET, maps, RHYTHM];
    let five = ["model.network.in_channels=5", autoencoder.as_str()];
    bench.same_when_resumed("maps", &parts, &five);
}

#[test]
fn the_recipes_of_the_project_can_be_read() {
    let mut seen = 0;
    for folder in std::fs::read_dir("policies").unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let is_toml = path.extension().is_some_and(|end| end == "toml");
            if is_toml && PictureRecipe::is_one(&path).unwrap() {
                PictureRecipe::load(&path, &[]).unwrap();
                seen += 1;
            }
        }
    }
    assert!(seen >= 12, "{seen}");
}

/// One wrong key or number each.
#[test]
fn a_wrong_recipe_says_what_is_wrong() {
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    let error = |parts: &[&str], overrides: &[&str]| {
        let path = bench.dir.path().join("wrong.toml");
        let output = bench.dir.path().join("wrong");
        std::fs::write(&path, format!("output_dir = {output:?}\n{}", parts.join("\n"))).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        let recipe = match PictureRecipe::load(&path, &overrides) {
            Ok(recipe) => recipe,
            Err(error) => return error.to_string(),
        };
        let error = train(&recipe, false, &AtomicBool::new(false), &device::cpu()).unwrap_err();
        error.to_string()
    };
    let classifier = [FOLDER, CLASSIFIER, RHYTHM];
    let cases: [(&[&str], &[&str], &str); 7] = [
        (&classifier, &["train.steps=0"], "train.steps: expected 1 to"),
        (&classifier, &["model.network.classes=4"], "expected 3, the classes of the data, got 4"),
        (&classifier, &["model.netwerk=1"], "netwerk"),
        (&classifier, &["augment.crop=17"], "augment.crop"),
        (&[FOLDER, AUTOENCODER, RHYTHM], &["model.trained=decoder"], "init_from"),
        (&[FOLDER, AUTOENCODER, RHYTHM], &["model.loss.kl_weight=-1.0"], "model.loss.kl_weight"),
        (&[MAPS, CLASSIFIER, RHYTHM], &[], "the classes of the data"),
    ];
    for (parts, overrides, expected) in cases {
        let message = error(parts, overrides);
        assert!(message.contains(expected), "{overrides:?}: {message}");
    }
}
