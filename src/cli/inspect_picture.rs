//! What `pathline inspect` says of pictures and of the folders that they are drawn from.

use std::path::Path;

use anyhow::{Context, bail};
use pathline::image::parameters::{self, JSON_KEY, TEXT_KEY};
use pathline::image::png_text;
use pathline::tensors::files::{MAX_TEXT, read_text};
use pathline::tensors::weights::Weights;
use serde_json::{Map, Value, json};

use super::inspect::Report;

/// The file that says what a folder of components is.
const INDEX: &str = "model_index.json";
/// Names under which a component keeps its weights.
const STEMS: [&str; 4] =
    ["diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16"];
/// Keys of a component's config.json that say how large it is and what it is for.
const TELLING: [&str; 30] = [
    "sample_size",
    "in_channels",
    "out_channels",
    "latent_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "cross_attention_dim",
    "attention_head_dim",
    "num_attention_heads",
    "num_class_embeds",
    "class_embed_type",
    "num_embeds_ada_norm",
    "patch_size",
    "num_layers",
    "use_linear_projection",
    "norm_num_groups",
    "scaling_factor",
    "shift_factor",
    "num_vq_embeddings",
    "vq_embed_dim",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
    "classes",
    "factor",
    "channels",
];

/// A PNG: its size, the settings that Pathline stored, and the texts of other tools.
pub(crate) fn png(path: &Path, size: [u32; 2], bytes: u64) -> anyhow::Result<Report> {
    let mut report = vec![
        ("kind", json!("PNG")),
        ("bytes", json!(bytes)),
        ("width", json!(size[0])),
        ("height", json!(size[1])),
    ];
    let texts = png_text::texts(path)?;
    let settings = parameters::settings(&texts);
    match settings {
        Ok(Some(settings)) => report.push(("settings", serde_json::to_value(settings)?)),
        Ok(None) => {
            if let Some(text) = texts.iter().find(|text| text.keyword == TEXT_KEY) {
                let all = parameters::parse(&text.text);
                let mut map = Map::from_iter([("prompt".to_owned(), json!(all.prompt))]);
                map.extend(all.negative_prompt.map(|text| ("negative prompt".into(), json!(text))));
                map.extend(all.fields.into_iter().map(|(key, value)| (key, json!(value))));
                report.push((TEXT_KEY, Value::Object(map)));
            }
        }
        Err(error) => report.push(("settings", json!(format!("cannot be read: {error}")))),
    }
    let known = |keyword: &str| [TEXT_KEY, JSON_KEY].contains(&keyword);
    let others = texts.into_iter().filter(|text| !known(&text.keyword));
    let others: Map<_, _> = others.map(|text| (text.keyword, json!(text.text))).collect();
    if !others.is_empty() {
        report.push(("texts", Value::Object(others)));
    }
    Ok(report)
}

/// A folder in diffusers' layout: a pipeline, or one component; none if it is something else.
pub(crate) fn component(path: &Path) -> anyhow::Result<Option<Report>> {
    let config = path.join("config.json");
    if !config.is_file() {
        return Ok(None);
    }
    let Ok(Value::Object(config)) = read_json(&config) else { return Ok(None) };
    let Some(class) = config.get("_class_name") else { return Ok(None) };
    let is_autoencoder =
        class.as_str().is_some_and(|name| name.contains("utoencoder") || name == "VQModel");
    let mut report = vec![
        ("kind", json!(if is_autoencoder { "autoencoder" } else { "component" })),
        ("folder", json!(path)),
        ("class", class.clone()),
    ];
    if is_autoencoder {
        let levels = config.get("block_out_channels").and_then(Value::as_array).map_or(1, Vec::len);
        report.push(("downsampling", json!(downsampling(levels))));
    }
    let weights = weights(path)?.with_context(|| no_weights(path))?;
    report.extend([
        ("parameters", json!(weights.parameters())),
        ("model_bytes", json!(weights.bytes())),
        ("config", Value::Object(without_private(config))),
    ]);
    Ok(Some(report))
}

/// A folder of components.
pub(crate) fn pipeline(path: &Path) -> anyhow::Result<Report> {
    let index = path.join(INDEX);
    let Value::Object(index) = read_json(&index)? else {
        bail!("{}: expected a JSON object", index.display());
    };
    let mut components = Map::new();
    let (mut parameters, mut bytes) = (0, 0);
    let mut settings = Map::new();
    for (name, value) in &index {
        match value.as_array().map(Vec::as_slice) {
            _ if name.starts_with('_') => {}
            Some([_, Value::String(class)]) => {
                let (about, size, length) = part(&path.join(name), class)?;
                components.insert(name.clone(), Value::Object(about));
                parameters += size;
                bytes += length;
            }
            // `[null, null]`: a component that the pipeline could have.
            Some([Value::Null, Value::Null]) => {}
            _ => drop(settings.insert(name.clone(), short(value))),
        }
    }
    let class = index.get("_class_name").cloned().unwrap_or(Value::Null);
    let mut report = vec![("kind", json!("pipeline")), ("folder", json!(path)), ("class", class)];
    report.extend(picture_size(&components).map(|size| ("picture_size", size)));
    report.extend([
        ("parameters", json!(parameters)),
        ("model_bytes", json!(bytes)),
        ("components", Value::Object(components)),
    ]);
    if !settings.is_empty() {
        report.push(("settings", Value::Object(settings)));
    }
    Ok(report)
}

/// Side of the pictures, or height and width: the denoiser's size, enlarged by the autoencoder.
fn picture_size(components: &Map<String, Value>) -> Option<Value> {
    let denoiser = components.get("unet").or_else(|| components.get("transformer"))?;
    let vae = components.get("vae").and_then(|vae| vae.get("block_out_channels"));
    let factor = vae.and_then(Value::as_array).map_or(1, |levels| downsampling(levels.len()));
    let enlarged = |side: &Value| side.as_u64().map(|side| side.saturating_mul(factor));
    match denoiser.get("sample_size")? {
        Value::Array(sides) => Some(json!(sides.iter().map(enlarged).collect::<Option<Vec<_>>>()?)),
        side => enlarged(side).map(|side| json!([side, side])),
    }
}

/// Every level but the last halves.
fn downsampling(levels: usize) -> u64 {
    1 << levels.saturating_sub(1).min(32)
}

/// What a component is, its parameters and its bytes.
fn part(path: &Path, class: &str) -> anyhow::Result<(Map<String, Value>, usize, u64)> {
    let mut about = Map::from_iter([("class".to_owned(), json!(class))]);
    if !path.is_dir() {
        about.insert("missing".into(), json!(path));
        return Ok((about, 0, 0));
    }
    let scheduler = path.join("scheduler_config.json");
    if scheduler.is_file() {
        if let Value::Object(config) = read_json(&scheduler)? {
            about.extend(without_private(config));
        }
        return Ok((about, 0, 0));
    }
    let Some(weights) = weights(path)? else {
        // A tokenizer has none.
        let words = path.join("vocab.json");
        if words.is_file() {
            let words = read_text(&words, 16 * MAX_TEXT)?;
            let words: Map<String, Value> = serde_json::from_str(&words).unwrap_or_default();
            about.insert("words".into(), json!(words.len()));
        }
        return Ok((about, 0, 0));
    };
    about.insert("parameters".into(), json!(weights.parameters()));
    let config = path.join("config.json");
    if config.is_file()
        && let Value::Object(config) = read_json(&config)?
    {
        let telling = config.into_iter().filter(|(key, _)| TELLING.contains(&key.as_str()));
        about.extend(telling.filter(|(_, value)| !value.is_null()));
    }
    Ok((about, weights.parameters(), weights.bytes()))
}

/// The weights of a component, whatever they are called.
fn weights(path: &Path) -> pathline::Result<Option<Weights>> {
    let is_there = |stem: &str, end: &str| path.join(format!("{stem}.safetensors{end}")).is_file();
    let found = STEMS.iter().find(|stem| is_there(stem, "") || is_there(stem, ".index.json"));
    found.map(|stem| Weights::open_named(path, stem)).transpose()
}

fn no_weights(path: &Path) -> String {
    format!("{}: expected {}.safetensors", path.display(), STEMS[0])
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = read_text(path, MAX_TEXT)?;
    serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))
}

/// diffusers' notes to itself begin with `_`.
fn without_private(config: Map<String, Value>) -> Map<String, Value> {
    config.into_iter().filter(|(key, _)| !key.starts_with('_')).collect()
}

/// Long maps (a thousand names of classes) by their length and first names.
fn short(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.len() > 12 => {
            let first: Vec<_> = map.values().take(6).map(|v| v.as_str().unwrap_or("?")).collect();
            json!(format!("{} entries: {}, …", map.len(), first.join(", ")))
        }
        _ => value.clone(),
    }
}
