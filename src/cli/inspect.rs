//! `pathline inspect`: what a file or folder is.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pathline::dataset::Dataset;
use pathline::device;
use pathline::policy::{CONFIG, Policy, WEIGHTS};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Says what a file or folder is: policy, dataset, checkpoint, safetensors, MCAP, recipe, GIF.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pathline inspect policies/pusht-flow
  pathline inspect runs/demo/rollout.mcap
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
        println!("{report}");
    } else if let Some(map) = report.as_object() {
        for (key, value) in map {
            print_entry(key, value);
        }
    }
    Ok(())
}

fn print_entry(key: &str, value: &Value) {
    match value {
        Value::Array(rows) => {
            println!("{key}");
            for row in rows {
                println!("  {}", plain(row));
            }
        }
        other => println!("{key:16} {}", plain(other)),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn folder(path: &Path) -> anyhow::Result<Value> {
    if path.join("checkpoints").is_dir() {
        return folder(&path.join("checkpoints/last/pretrained_model"));
    }
    if path.join("pretrained_model").is_dir() {
        return folder(&path.join("pretrained_model"));
    }
    if path.join(CONFIG).is_file() {
        let policy = Policy::load(path, &device::cpu())?;
        let config = policy.config();
        let weights = std::fs::read(path.join(WEIGHTS))?;
        let tensors = SafeTensors::deserialize(&weights)?;
        let parameters: usize =
            tensors.iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum();
        return Ok(json!({
            "kind": "policy", "type": config.kind, "parameters": parameters,
            "model_bytes": weights.len(),
            "inputs": serde_json::to_value(&config.input_features)?,
            "outputs": serde_json::to_value(&config.output_features)?,
            "n_obs_steps": config.n_obs_steps, "horizon": config.horizon,
            "n_action_steps": config.n_action_steps, "fps": config.fps,
            "network": serde_json::to_value(&config.network)?,
            "path": serde_json::to_value(&config.path)?,
            "solver": config.solver, "num_inference_steps": config.num_inference_steps,
        }));
    }
    if path.join("meta/info.json").is_file() {
        let dataset = Dataset::open(path)?;
        return Ok(json!({
            "kind": "LeRobotDataset v3", "episodes": dataset.episodes.len(),
            "frames": dataset.n_frames(),
            "info": serde_json::from_str::<Value>(&std::fs::read_to_string(path.join("meta/info.json"))?)?,
        }));
    }
    bail!(
        "{}: expected a policy folder (config.json), a run (checkpoints/) or a dataset \
         (meta/info.json), found none of them",
        path.display()
    )
}

fn file(path: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => {
            let tensors = SafeTensors::deserialize(&bytes)
                .with_context(|| format!("{}: not a safetensors file", path.display()))?;
            let mut rows: Vec<String> = tensors
                .iter()
                .map(|(name, view)| format!("{name}  {:?} {:?}", view.dtype(), view.shape()))
                .collect();
            rows.sort();
            Ok(json!({"kind": "safetensors", "bytes": bytes.len(), "tensors": rows}))
        }
        Some("mcap") => mcap_summary(path, &bytes),
        Some("toml") => {
            let recipe = pathline::train::recipe::Recipe::load(path, &[])?;
            Ok(json!({"kind": "recipe", "recipe": serde_json::to_value(recipe)?}))
        }
        Some("json") => {
            let value: Value = serde_json::from_slice(&bytes)
                .with_context(|| format!("{}: not JSON", path.display()))?;
            Ok(json!({"kind": "json", "value": value}))
        }
        _ if bytes.starts_with(b"GIF8") => {
            let size =
                |at: usize| bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            Ok(json!({"kind": "GIF", "bytes": bytes.len(), "width": size(6), "height": size(8)}))
        }
        _ => bail!(
            "{}: expected a policy, run or dataset folder, or a .safetensors, .mcap, .toml, .json or \
             GIF file",
            path.display()
        ),
    }
}

fn mcap_summary(path: &Path, bytes: &[u8]) -> anyhow::Result<Value> {
    let mut topics = std::collections::BTreeMap::<String, (String, u64)>::new();
    let (mut first, mut last) = (u64::MAX, 0);
    for message in mcap::MessageStream::new(bytes)? {
        let message = message.with_context(|| format!("{}: damaged", path.display()))?;
        first = first.min(message.log_time);
        last = last.max(message.log_time);
        let schema = message.channel.schema.as_ref().map_or("", |s| s.name.as_str()).to_owned();
        topics.entry(message.channel.topic.clone()).or_insert((schema, 0)).1 += 1;
    }
    let rows: Vec<String> = topics
        .into_iter()
        .map(|(topic, (schema, count))| format!("{topic}  {schema}  {count}"))
        .collect();
    let duration_s = last.saturating_sub(first) as f64 * 1e-9;
    Ok(json!({"kind": "MCAP", "bytes": bytes.len(), "duration_s": duration_s, "topics": rows}))
}
