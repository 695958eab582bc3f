//! `pathline inspect`: what a file or folder is.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pathline::dataset::Dataset;
use pathline::device;
use pathline::image;
use pathline::policy::config::Features;
use pathline::policy::{self, Policy, digest};
use pathline::tensors::{folder, weights::Weights};
use pathline::train::recipe::Recipe;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::inspect_picture;

/// Says what a file or folder is: policy, run, dataset, picture model, recipe, safetensors, PNG, ….
#[derive(clap::Args)]
#[command(after_help = "A policy folder is loaded, so that whatever is wrong with it is said here.
Of a picture it prints the settings that made it, whether Pathline wrote them or another tool.

Examples:
  pathline inspect policies/pusht-flow
  pathline inspect runs/demo/rollout.mcap
  pathline inspect apple.png
  pathline inspect policies/emoji-flow
  pathline inspect policies/pusht-flow/model.safetensors --json")]
pub(crate) struct InspectArgs {
    /// What to look at.
    path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let path = &args.path;
    let report = if path.is_dir() { folder(path)? } else { file(path)? };
    if args.json {
        let map = report.into_iter().map(|(key, value)| (key.to_owned(), value));
        println!("{}", Value::Object(map.collect()));
    } else {
        report.iter().for_each(|(key, value)| print_entry(key, value, 0, KEY_WIDTH));
    }
    Ok(())
}

/// Columns of the keys.
const KEY_WIDTH: usize = 20;

/// Entries in the order in which people read them.
pub(crate) type Report = Vec<(&'static str, Value)>;

/// One line an entry; what an object or a list of objects holds is indented below its key.
fn print_entry(key: &str, value: &Value, depth: usize, width: usize) {
    let indent = 2 * depth;
    match value {
        Value::Object(map) if !map.is_empty() => {
            println!("{:indent$}{}", "", visible(key));
            let width = map.keys().map(String::len).fold(KEY_WIDTH - 2, usize::max);
            map.iter().for_each(|(key, value)| print_entry(key, value, depth + 1, width));
        }
        Value::Array(rows) if rows.iter().any(|row| row.is_object() || row.is_string()) => {
            println!("{:indent$}{}", "", visible(key));
            rows.iter().for_each(|row| println!("{:indent$}  {}", "", row_text(row)));
        }
        Value::String(text) if text.contains('\n') => {
            println!("{:indent$}{}", "", visible(key));
            text.lines().for_each(|line| println!("{:indent$}  {}", "", visible(line)));
        }
        _ => println!("{:indent$}{:width$} {}", "", visible(key), plain(value)),
    }
}

fn row_text(row: &Value) -> String {
    match row.as_object() {
        Some(map) => map.values().map(plain).collect::<Vec<_>>().join("  "),
        None => plain(row),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), visible)
}

/// A terminal would obey what a file of others has in its texts.
fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(shown).collect()
}

fn folder(path: &Path) -> anyhow::Result<Report> {
    if path.join("meta/info.json").is_file() {
        return dataset(path);
    }
    if let Ok(found) = folder::resolve(path, &image::FOLDER) {
        return inspect_picture::pipeline(&found);
    }
    let found = folder::resolve(path, &policy::FOLDER)?;
    match inspect_picture::component(&found)? {
        Some(report) => Ok(report),
        None => policy(&found),
    }
}

fn policy(path: &Path) -> anyhow::Result<Report> {
    let policy = Policy::load(path, &device::cpu())?;
    let signature = policy.signature();
    let weights = Weights::open(path)?;
    let mut report = vec![
        ("kind", json!("policy")),
        ("folder", json!(path)),
        ("type", json!(signature.kind)),
        ("parameters", json!(parameters(&weights, signature.kind))),
        ("model_bytes", json!(weights.bytes())),
    ];
    let digests = weights.files().map(digest::sha256).collect::<pathline::Result<Vec<_>>>()?;
    report.push(match digests.as_slice() {
        [one] => ("sha256", json!(one)),
        shards => ("sha256", json!(shards)),
    });
    let shapes = |features: &Features| {
        features.iter().map(|(key, f)| (key.clone(), json!(f.shape))).collect::<Map<_, _>>()
    };
    let keys = signature.input_features.keys().chain(signature.output_features.keys());
    let modes = keys.map(|key| (key.clone(), json!(policy.processor().mode(key)))).collect();
    let newest = signature.first_row;
    report.extend([
        ("inputs", Value::Object(shapes(&signature.input_features))),
        ("outputs", Value::Object(shapes(&signature.output_features))),
        ("normalization", Value::Object(modes)),
        ("n_obs_steps", json!(signature.n_obs_steps)),
        ("horizon", json!(signature.horizon)),
        ("newest_row", json!(newest)),
        ("n_action_steps", json!(signature.n_action_steps)),
    ]);
    if let Some(fps) = signature.fps {
        report.push(("fps", json!(fps)));
    }
    if let Some(coefficient) = policy.config().temporal_ensemble_coeff() {
        report.push(("temporal_ensemble_coeff", json!(coefficient)));
    }
    let solver = policy.solver(None, None)?;
    report.extend([
        ("use_relative_actions", json!(policy.processor().is_relative())),
        ("solver", json!(solver.name)),
        ("num_inference_steps", json!(solver.steps)),
        ("evaluations", json!(solver.evaluations())),
    ]);
    if let Some(process) = policy.config().process()? {
        report.push(("predicts", json!(process.target)));
        report.push(("path", json!(process.path)));
    }
    report.push(("network", policy.config().network()));
    Ok(report)
}

/// What LeRobot counts: tensors that are learned, without grids, running statistics and the frozen
/// normalisation of ACT's backbone.
fn parameters(weights: &Weights, kind: &str) -> usize {
    const BUFFERS: [&str; 5] =
        ["pos_grid", "running_mean", "running_var", "num_batches_tracked", "vae_encoder_pos_enc"];
    let is_buffer = |name: &str| {
        let frozen = [".bn", ".downsample.1."].iter().any(|part| name.contains(part));
        let last = name.rsplit('.').next().unwrap_or(name);
        BUFFERS.contains(&last) || (kind == "act" && name.starts_with("model.backbone") && frozen)
    };
    let learned = weights.names().filter(|(name, _)| !is_buffer(name));
    learned.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

fn dataset(path: &Path) -> anyhow::Result<Report> {
    let dataset = Dataset::open(path)?;
    let features: Map<String, Value> = dataset
        .features
        .iter()
        .map(|(key, feature)| (key.to_owned(), json!(feature.shape)))
        .collect();
    Ok(vec![
        ("kind", json!("dataset")),
        ("codebase_version", json!(dataset.info.codebase_version)),
        ("robot_type", json!(dataset.info.robot_type)),
        ("fps", json!(dataset.info.fps)),
        ("episodes", json!(dataset.episodes.len())),
        ("frames", json!(dataset.n_frames())),
        ("features", Value::Object(features)),
        ("tasks", json!(dataset.tasks)),
    ])
}

fn file(path: &Path) -> anyhow::Result<Report> {
    let unreadable = || format!("{}: could not be read", path.display());
    let mut start = Vec::new();
    let opened = std::fs::File::open(path).with_context(unreadable)?;
    opened.take(24).read_to_end(&mut start).with_context(unreadable)?;
    if let Some(("PNG", size)) = picture(&start) {
        let bytes = std::fs::metadata(path).with_context(unreadable)?.len();
        return inspect_picture::png(path, size, bytes);
    }
    let bytes = std::fs::read(path).with_context(unreadable)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => tensors(path, &bytes),
        Some("mcap") => recording(path, &bytes),
        Some("toml") => {
            let recipe = Recipe::load(path, &[])?;
            Ok(vec![("kind", json!("recipe")), ("recipe", serde_json::to_value(recipe)?)])
        }
        Some("json") => {
            let value: Value = serde_json::from_slice(&bytes)
                .with_context(|| format!("{}: not JSON", path.display()))?;
            Ok(vec![("kind", json!("JSON")), ("value", value)])
        }
        _ => match picture(&bytes) {
            Some((kind, [width, height])) => Ok(vec![
                ("kind", json!(kind)),
                ("bytes", json!(bytes.len())),
                ("width", json!(width)),
                ("height", json!(height)),
            ]),
            None => bail!(
                "{}: expected the folder of a policy, run, dataset or picture model, or a \
                 .safetensors, .mcap, .toml, .json, GIF or PNG file",
                path.display()
            ),
        },
    }
}

/// Kind, width and height of a GIF or PNG file, from its header.
fn picture(bytes: &[u8]) -> Option<(&'static str, [u32; 2])> {
    let (gif, png) = (bytes.starts_with(b"GIF8"), bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    match *bytes {
        [_, _, _, _, _, _, w0, w1, h0, h1, ..] if gif => {
            Some(("GIF", [[w0, w1], [h0, h1]].map(|two| u16::from_le_bytes(two).into())))
        }
        _ if png => {
            let four = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
            Some(("PNG", [four(16)?, four(20)?]))
        }
        _ => None,
    }
}

fn tensors(path: &Path, bytes: &[u8]) -> anyhow::Result<Report> {
    let not_safetensors = || format!("{}: not a safetensors file", path.display());
    let tensors = SafeTensors::deserialize(bytes).with_context(not_safetensors)?;
    let (_, header) = SafeTensors::read_metadata(bytes).with_context(not_safetensors)?;
    let mut views: Vec<_> = tensors.iter().collect();
    views.sort_by_key(|(name, _)| *name);
    let width = views.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let elements: usize =
        views.iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum();
    let rows: Vec<String> = views
        .iter()
        .map(|(name, view)| format!("{name:width$}  {:?} {:?}", view.dtype(), view.shape()))
        .collect();
    let metadata: BTreeMap<_, _> = header.metadata().iter().flatten().collect();
    Ok(vec![
        ("kind", json!("safetensors")),
        ("bytes", json!(bytes.len())),
        ("elements", json!(elements)),
        ("metadata", json!(metadata)),
        ("tensors", json!(rows)),
    ])
}

fn recording(path: &Path, bytes: &[u8]) -> anyhow::Result<Report> {
    let damaged = || format!("{}: not an MCAP file, or damaged", path.display());
    let mut topics = BTreeMap::<String, (String, u64)>::new();
    let mut span: Option<(u64, u64)> = None;
    for message in mcap::MessageStream::new(bytes).with_context(damaged)? {
        let message = message.with_context(damaged)?;
        let (first, last) = span.unwrap_or((message.log_time, message.log_time));
        span = Some((first.min(message.log_time), last.max(message.log_time)));
        let schema = message.channel.schema.as_ref().map_or("", |s| s.name.as_str()).to_owned();
        topics.entry(message.channel.topic.clone()).or_insert((schema, 0)).1 += 1;
    }
    let rows: Vec<String> = topics
        .into_iter()
        .map(|(topic, (schema, count))| format!("{topic}  {schema}  {count}"))
        .collect();
    let duration_s = span.map_or(0.0, |(first, last)| (last - first) as f64 * 1e-9);
    Ok(vec![
        ("kind", json!("MCAP")),
        ("bytes", json!(bytes.len())),
        ("duration_s", json!(duration_s)),
        ("topics", json!(rows)),
    ])
}
