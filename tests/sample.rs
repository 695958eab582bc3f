//! `pathline sample` from end to end, on the tiny Stable Diffusion folder of the golden files.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

#[path = "support/meter.rs"]
mod meter;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use pathline::flow::Noise;
use pathline::image::png::{self, MAX_PIXELS, Picture};
use pathline::image::png_text::{self, Text};
use pathline::image::{Settings, grid, parameters};
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pictures/sd1");

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
    fn failed(self) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (1, ""), "{}", self.stderr);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{}", self.stderr);
        self.stderr
    }
}

/// An empty folder in which the binary runs.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pathline"));
        command.args(args).current_dir(self.0.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let output = self.command(args).output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Three steps of the tiny model.
    fn sample(&self, more: &[&str]) -> Ran {
        let usual = [["--model", MODEL], ["--prompt", "red apple"], ["--steps", "3"]];
        let absent = usual.iter().filter(|[flag, _]| !more.contains(flag)).flatten().copied();
        self.run(["sample"].into_iter().chain(absent).chain(more.iter().copied()))
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn picture(&self, name: &str) -> Picture {
        png::read(&self.path(name), MAX_PIXELS).unwrap()
    }

    fn settings(&self, name: &str) -> Settings {
        let texts = png_text::texts(&self.path(name)).unwrap();
        parameters::settings(&texts).unwrap().unwrap()
    }

    fn put(&self, name: &str, size: [usize; 2], pixel: impl Fn(usize, usize) -> [u8; 3]) {
        let [height, width] = size;
        let at = |i: usize| pixel(i % width, i / width);
        let rgb = (0..height * width).flat_map(at).collect();
        png::write(&self.path(name), &Picture { width, height, rgb }, &[]).unwrap();
    }

    /// What is in the folder.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        entries
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

#[test]
fn a_seed_gives_its_picture_in_any_batch() {
    let folder = Folder::new();
    folder.sample(&["-s", "7", "-b", "3", "-o", "each-%d.png"]).ok();
    folder.sample(&["-s", "7", "-b", "3", "-o", "all.png"]).ok();
    folder.sample(&["-s", "7", "-b", "3", "-o", "folder/"]).ok();
    let names = ["each-0.png", "each-1.png", "each-2.png"];
    for (i, name) in names.iter().enumerate() {
        let seed = (7 + i).to_string();
        folder.sample(&["-s", &seed, "-o", "one.png"]).ok();
        // The whole file, settings too.
        assert!(folder.read("one.png") == folder.read(name), "{name}");
        assert!(folder.read("one.png") == folder.read(&format!("folder/{seed}.png")), "{name}");
    }
    let pictures = names.map(|name| folder.picture(name));
    assert!(pictures[0] != pictures[1]);
    assert!(folder.picture("all.png") == grid::grid(&pictures, 2).unwrap());
    // The broken twin: another prompt is another picture.
    folder.sample(&["--prompt", "blue heart", "-s", "7", "-o", "one.png"]).ok();
    assert!(folder.picture("one.png") != pictures[0]);
}

#[test]
fn a_run_stands_for_its_newest_checkpoint() {
    let folder = Folder::new();
    folder.sample(&["-o", "one.png"]).ok();
    let checkpoint = folder.path("run/checkpoints/000010");
    fs::create_dir_all(&checkpoint).unwrap();
    std::os::unix::fs::symlink(MODEL, checkpoint.join("pretrained_model")).unwrap();
    for named in ["run", "run/checkpoints/000010"] {
        folder.sample(&["--model", named, "-o", "two.png"]).ok();
        assert!(folder.picture("one.png") == folder.picture("two.png"), "{named}");
        let report = folder.run(["inspect", named]).ok();
        assert!(report.contains("StableDiffusionPipeline"), "{report}");
    }
    fs::remove_file(checkpoint.join("pretrained_model")).unwrap();
    let error = folder.sample(&["--model", "run", "-o", "two.png"]).failed();
    assert!(
        error.contains("model_index.json") && error.contains("run/pretrained_model"),
        "{error}"
    );
    let error = folder.sample(&["--model", "nobody/nothing", "-o", "two.png"]).failed();
    assert!(error.contains("nobody/nothing") && error.contains("nothing is downloaded"), "{error}");
}

#[test]
fn threads_change_no_picture() {
    let folder = Folder::new();
    folder.sample(&["-o", "one.png", "--threads", "1"]).ok();
    folder.sample(&["-o", "four.png", "--threads", "4"]).ok();
    assert!(folder.read("one.png") == folder.read("four.png"));
}

#[test]
fn a_picture_can_be_made_again_from_itself() {
    let folder = Folder::new();
    folder.put("start.png", [16, 16], |x, y| [x as u8 * 16, y as u8 * 16, 99]);
    folder.put("mask.png", [16, 16], |x, _| [if x < 8 { 255 } else { 0 }; 3]);
    let image = ["--init-img", "start.png", "--strength", "0.6", "--mask", "mask.png"];
    let cases: [&[&str]; 6] = [
        &[],
        &["-s", "9", "-b", "3"],
        &["-n", "blue circle", "--cfg-scale", "5.5", "--guidance-rescale", "0.7"],
        &["--sampling-method", "ddim", "--eta", "0.5", "--steps", "4"],
        &["--sampling-method", "dpm++2m", "--scheduler", "karras", "-H", "24", "-W", "32"],
        &image,
    ];
    for case in cases {
        folder.sample(&[case, &["-o", "a.png"]].concat()).ok();
        folder.run(["sample", "--from-image", "a.png", "-o", "b.png"]).ok();
        assert!(folder.read("a.png") == folder.read("b.png"), "{case:?}");
        // Flags go over what is stored.
        folder.run(["sample", "--from-image", "a.png", "-s", "77", "-o", "b.png"]).ok();
        let (a, b) = (folder.settings("a.png"), folder.settings("b.png"));
        assert_eq!(Settings { seed: 77, ..a }, b, "{case:?}");
        assert!(folder.picture("a.png") != folder.picture("b.png"), "{case:?}");
    }
    let settings = folder.settings("a.png");
    assert_eq!((settings.strength, settings.steps), (Some(0.6), 3));
    // Another picture under the same name is noticed, and may be named.
    folder.put("start.png", [16, 16], |_, _| [0; 3]);
    let error = folder.run(["sample", "--from-image", "a.png", "-o", "b.png"]).failed();
    assert!(error.contains("start.png as it was") && error.contains("--init-img"), "{error}");
    folder.put("other.png", [16, 16], |_, _| [0; 3]);
    let other = ["sample", "--from-image", "a.png", "-i", "other.png", "-o", "b.png"];
    folder.run(other).ok();
}

#[test]
fn settings_are_in_the_picture_for_us_and_for_others() {
    let folder = Folder::new();
    folder.sample(&["-n", "blue", "--cfg-scale", "3", "-s", "5", "-o", "a.png"]).ok();
    let texts = png_text::texts(&folder.path("a.png")).unwrap();
    let keywords: Vec<&str> = texts.iter().map(|text| text.keyword.as_str()).collect();
    assert_eq!(keywords, ["parameters", "pathline"]);
    let lines: Vec<&str> = texts[0].text.lines().collect();
    assert_eq!(lines[..2], ["red apple", "Negative prompt: blue"]);
    let fields = ["Steps: 3, Sampler: PLMS, ", "CFG scale: 3, Seed: 5, Size: 16x16, Model: sd1"];
    assert!(fields.iter().all(|field| lines[2].contains(field)), "{}", lines[2]);

    let report: Value = {
        let text = folder.run(["inspect", "--json", "a.png"]).ok();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(report["settings"]["prompt"], "red apple");
    assert_eq!((&report["width"], &report["settings"]["seed"]), (&16.into(), &5.into()));
    let text = folder.run(["inspect", "a.png"]).ok();
    assert!(text.contains("negative_prompt    blue"), "{text}");

    folder
        .sample(&[
            "-n",
            "blue",
            "--cfg-scale",
            "3",
            "-s",
            "5",
            "--disable-image-metadata",
            "-o",
            "b.png",
        ])
        .ok();
    assert_eq!(png_text::texts(&folder.path("b.png")).unwrap(), []);
    assert!(folder.picture("a.png") == folder.picture("b.png"));
    let error = folder.run(["sample", "--from-image", "b.png", "-o", "c.png"]).failed();
    assert!(error.contains("expected settings in the PNG"), "{error}");
}

#[test]
fn inspect_says_what_a_model_is() {
    let folder = Folder::new();
    let inspect = |path: &str| -> Value {
        serde_json::from_str(&folder.run(["inspect", "--json", path]).ok()).unwrap()
    };
    let report = inspect(MODEL);
    assert_eq!(
        (&report["kind"], &report["class"]),
        (&"pipeline".into(), &"StableDiffusionPipeline".into())
    );
    assert_eq!(report["picture_size"], serde_json::json!([16, 16]));
    let components = &report["components"];
    assert_eq!(components["scheduler"]["class"], "PNDMScheduler");
    assert_eq!(components["text_encoder"]["hidden_act"], "quick_gelu");
    let parts = ["unet", "vae", "text_encoder"]
        .map(|name| components[name]["parameters"].as_u64().unwrap());
    assert_eq!(report["parameters"], parts.iter().sum::<u64>());
    let report = inspect(&format!("{MODEL}/vae"));
    assert_eq!((&report["kind"], &report["downsampling"]), (&"autoencoder".into(), &2.into()));
    assert_eq!(report["parameters"], parts[1]);
    assert_eq!(inspect(&format!("{MODEL}/unet"))["kind"], "component");

    let texts = [
        Text::new(
            "parameters",
            "cat \u{1b}[2J\nNegative prompt: dog\nSteps: 4, Sampler: Euler a, Seed: 1",
        ),
        Text::new("workflow", "{\n}"),
    ];
    let picture = Picture { width: 1, height: 1, rgb: vec![0; 3] };
    png::write(&folder.path("a.png"), &picture, &texts).unwrap();
    let report = inspect("a.png");
    assert_eq!(
        (&report["parameters"]["Steps"], &report["texts"]["workflow"]),
        (&"4".into(), &"{\n}".into())
    );
    // A terminal is not obeyed.
    let text = folder.run(["inspect", "a.png"]).ok();
    assert!(text.contains("cat \\u{1b}[2J") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn settings_of_another_tool_are_repeated() {
    let folder = Folder::new();
    let text = "red apple\nNegative prompt: blue\nSteps: 3, Sampler: Euler a, CFG scale: 4, Seed: 12, \
                Size: 32x16, Model: some-checkpoint, Version: v1.10.1";
    let picture = Picture { width: 1, height: 1, rgb: vec![0; 3] };
    png::write(&folder.path("a.png"), &picture, &[Text::new("parameters", text)]).unwrap();
    folder.run(["sample", "--from-image", "a.png", "-m", MODEL, "-o", "b.png"]).ok();
    let settings = folder.settings("b.png");
    assert_eq!((settings.size, settings.seed, settings.steps), ([16, 32], 12, 3));
    assert_eq!((settings.sampling_method.as_str(), settings.cfg_scale), ("euler_ancestral", 4.0));
    assert_eq!(settings.negative_prompt.as_deref(), Some("blue"));
}

#[test]
fn json_is_one_object_and_previews_are_pictures() {
    let folder = Folder::new();
    let ran = folder.sample(&[
        "--json",
        "--preview",
        "now-{}.png",
        "--steps",
        "4",
        "-b",
        "2",
        "-o",
        "a.png",
    ]);
    let report: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_eq!(report["files"], serde_json::json!(["a.png"]));
    assert_eq!(report["settings"]["prompt"], "red apple");
    assert!(report["evaluations"].as_u64().unwrap() >= 4, "{report}");
    for key in ["load_s", "sample_s", "step_s"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
    let all: Vec<_> = folder.files().into_keys().collect();
    let previews = all.iter().filter(|name| name.starts_with("now-")).count();
    assert!((3..=5).contains(&previews) && all.len() == previews + 1, "{all:?}");
    let size = |picture: Picture| (picture.width, picture.height);
    assert_eq!(size(folder.picture("now-1.png")), size(folder.picture("a.png")));
    // One file, and fewer of them.
    folder.sample(&["--preview", "now.png", "--preview-interval", "2", "-o", "b.png"]).ok();
    folder.picture("now.png");
}

#[test]
fn latents_go_in_and_out() {
    let folder = Folder::new();
    let noise = |seeds: [u64; 2]| {
        let one =
            |seed| Tensor::from_vec(Noise::new(seed).normal(0, 0, 256), (1, 4, 8, 8), &Device::Cpu);
        Tensor::cat(&seeds.map(|seed| one(seed).unwrap()), 0).unwrap()
    };
    let save = |name: &str, key: &str, tensor: Tensor| {
        candle_core::safetensors::save(&HashMap::from([(key, tensor)]), folder.path(name)).unwrap();
    };
    save("noise.safetensors", "latents", noise([7, 8]));
    folder
        .sample(&[
            "--latents",
            "noise.safetensors",
            "--save-latents",
            "a.safetensors",
            "-o",
            "a.png",
        ])
        .ok();
    folder.sample(&["-s", "7", "-b", "2", "--save-latents", "b.safetensors", "-o", "b.png"]).ok();
    assert!(folder.read("a.safetensors") == folder.read("b.safetensors"));
    assert!(folder.picture("a.png") == folder.picture("b.png"));
    let saved = candle_core::safetensors::load(folder.path("a.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(saved["latents"].dims(), [2, 4, 8, 8]);
    assert_eq!(saved["image"].dims(), [2, 3, 16, 16]);
    // The file is named in the picture, and taken again.
    folder.run(["sample", "--from-image", "a.png", "-o", "c.png"]).ok();
    assert!(folder.read("a.png") == folder.read("c.png"));

    let error = |args: &[&str]| folder.sample(&[args, &["-o", "x.png"]].concat()).failed();
    assert!(error(&["--latents", "noise.safetensors", "-b", "3"]).contains("--batch-count 3"));
    save(
        "odd.safetensors",
        "latents",
        noise([1, 2]).narrow(3, 0, 7).unwrap().contiguous().unwrap(),
    );
    assert!(error(&["--latents", "odd.safetensors"]).contains("latents"));
    save("flat.safetensors", "latents", noise([1, 2]).flatten_all().unwrap());
    assert!(error(&["--latents", "flat.safetensors"]).contains("[batch, c, h, w]"));
    save("nan.safetensors", "latents", (noise([1, 2]) * f64::NAN).unwrap());
    assert!(error(&["--latents", "nan.safetensors"]).contains("finite"));
    save("other.safetensors", "noise", noise([1, 2]));
    assert!(error(&["--latents", "other.safetensors"]).contains("found [\"noise\"]"));
    assert!(!folder.path("x.png").exists());
}

#[test]
fn inputs_of_another_size_are_resized_with_a_note() {
    let folder = Folder::new();
    folder.put("large.png", [40, 80], |x, y| [x as u8, y as u8, 0]);
    folder.put("mask.png", [40, 80], |x, _| [if x < 40 { 255 } else { 0 }; 3]);
    let ran = folder.sample(&["-i", "large.png", "--mask", "mask.png", "-o", "a.png"]);
    assert!(
        ran.stderr.contains("large.png is 80×40, resized to 16×16, stretched"),
        "{}",
        ran.stderr
    );
    ran.ok();
    let picture = folder.picture("a.png");
    assert_eq!((picture.width, picture.height), (16, 16));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_half_done() {
    let folder = Folder::new();
    fs::write(folder.path("a.png"), "old").unwrap();
    let mut child = folder
        .command([
            "sample",
            "--model",
            MODEL,
            "-p",
            "x",
            "--steps",
            "900",
            "--preview",
            "now.png",
            "-o",
            "a.png",
        ])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The first preview says that it is at work.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.path("now.png").exists() {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "no preview came"
        );
        std::thread::yield_now();
    }
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{stderr}");
    assert!(
        stderr.contains("interrupted after ") && stderr.contains("nothing was written"),
        "{stderr}"
    );
    let files = folder.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a.png", "now.png"]);
    assert_eq!(files["a.png"], b"old");
    folder.picture("now.png");
}

#[test]
fn bad_wishes_are_one_error_and_touch_nothing() {
    let folder = Folder::new();
    folder.put("start.png", [16, 16], |x, y| [x as u8, y as u8, 0]);
    folder.put("wide.png", [16, 32], |_, _| [255; 3]);
    fs::write(folder.path("old.png"), "old").unwrap();
    fs::write(folder.path("broken.png"), &folder.read("start.png")[..60]).unwrap();
    fs::write(folder.path("text.png"), "no picture").unwrap();
    fs::write(folder.path("bomb.png"), bomb(1 << 24, 1 << 24, 1 << 20)).unwrap();
    let other = folder.path("flux");
    fs::create_dir(&other).unwrap();
    let index =
        r#"{"_class_name":"FluxPipeline","transformer":["diffusers","FluxTransformer2DModel"]}"#;
    fs::write(other.join("model_index.json"), index).unwrap();
    let before = folder.files();
    let cases: Vec<(&[&str], &str)> = vec![
        (&["--steps", "0"], "--steps: expected 1 to"),
        (&["--steps", "1000000000"], "--steps: expected 1 to"),
        (&["--sampling-method", "eular"], "euler_ancestral"),
        (&["--scheduler", "karas"], "karras"),
        (&["--class", "sneaker"], "class"),
        (&["--batch-count", "0"], "--batch-count"),
        (&["--cfg-scale", "inf"], "--cfg-scale"),
        (&["--eta", "-0.5"], "--eta"),
        (&["--eta", "NaN"], "--eta"),
        (&["-H", "1000000000"], "--height"),
        (&["-W", "17"], "17"),
        (&["--preview-interval", "0"], "--preview-interval"),
        (&["--threads", "0"], "--threads"),
        (&["--model", "none"], "none"),
        (&["--model", "flux"], "StableDiffusionPipeline"),
        (&["--model", "start.png"], "start.png"),
        (&["--init-img", "none.png"], "none.png"),
        (&["--init-img", "broken.png"], "broken.png: damaged PNG"),
        (&["--init-img", "text.png"], "text.png: expected a PNG file"),
        (&["--init-img", "bomb.png"], "bomb.png: expected a picture of at most"),
        (&["--mask", "start.png"], "--init-img"),
        (&["--strength", "0.5"], "--init-img"),
        (&["--init-img", "start.png", "--strength", "1.5"], "--strength"),
        (&["--init-img", "start.png", "--mask", "wide.png"], "16×16, got 32×16"),
        (&["--segmentation", "start.png"], "palette or grey"),
        (&["--from-image", "start.png"], "settings"),
        (&["--from-image", "broken.png"], "broken.png"),
        (&["--preview", "none/now.png"], "--preview"),
        (&["--preview", "old.png"], "--preview"),
        (&["--save-latents", "none/a.safetensors"], "--save-latents"),
    ];
    for (args, says) in cases {
        let error = folder.sample(&[&["-o", "old.png"], args].concat()).failed();
        assert!(error.contains(says), "{args:?}: {error}");
        assert!(folder.files() == before, "{args:?}");
    }
    for (output, says) in [
        ("none/a.png", "existing folder"),
        ("a.jpg", ".png"),
        ("a", ".png"),
        ("text.png/a.png", "existing folder"),
    ] {
        let error = folder.sample(&["-o", output]).failed();
        assert!(error.contains(says), "{output}: {error}");
        assert!(folder.files() == before, "{output}");
    }
    // A folder in the way of a picture.
    fs::create_dir_all(folder.path("many/0.png")).unwrap();
    let error = folder.sample(&["-o", "many/"]).failed();
    assert!(error.contains("a folder"), "{error}");
}

/// A PNG that claims any size; it holds `len` zeros, well packed.
fn bomb(width: u32, height: u32, len: usize) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        let len = (data.len() as u32).to_be_bytes();
        [&len[..], kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![0; len]).unwrap();
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let chunks =
        [chunk(b"IHDR", &head), chunk(b"IDAT", &packed.finish().unwrap()), chunk(b"IEND", &[])];
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.concat()].concat()
}

#[test]
fn hostile_pictures_take_little_memory() {
    let folder = Folder::new();
    let path = folder.path("bomb.png");
    let peak = |bytes: &[u8], most_pixels: u64, says: &str| {
        fs::write(&path, bytes).unwrap();
        let (result, held) = meter::peak(|| png::read(&path, most_pixels));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        println!("{held} bytes: {error}");
        assert!(held < 200_000, "{held} bytes for {error}");
    };
    peak(&bomb(1 << 30, 1 << 30, 1 << 20), MAX_PIXELS, "at most");
    peak(&bomb(u32::MAX, 1, 1 << 20), MAX_PIXELS, "at most");
    // As many pixels as may be, which the bytes cannot hold.
    peak(&bomb(1 << 25, 1, 1 << 20), MAX_PIXELS, "cannot be in");
    let whole = bomb(5000, 5000, 75_005_000);
    let cut = &whole[..whole.len() - 100];
    // What is believable takes the pixels, once.
    fs::write(&path, cut).unwrap();
    let (result, held) = meter::peak(|| png::read(&path, MAX_PIXELS));
    let error = result.unwrap_err().to_string();
    println!("{held} bytes: {error}");
    assert!(error.contains("too early") && held < 76_000_000, "{held} bytes: {error}");
}
