//! A model to a folder in diffusers' layout.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::folder::{Defaults, INDEX, OWN, weights};
use super::json;
use super::pipeline::{DIFFUSION, MODEL};
use super::scheduler::Scheduler;
use super::segmentation::RescalerConfig;
use super::tokenizer::Tokenizer;
use crate::flow::{Objective, Path as FlowPath, Target};
use crate::nn::clip::ClipTextConfig;
use crate::nn::denoiser::DenoiserConfig;
use crate::{Error, Result, tensors};

/// What a folder is written from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The denoiser.
    pub network: (DenoiserConfig, HashMap<String, Tensor>),
    /// Folder of the autoencoder, whose files are copied; none for a model of pixels.
    pub autoencoder: Option<PathBuf>,
    /// The text encoder and its tokenizer.
    pub text: Option<(ClipTextConfig, HashMap<String, Tensor>, Tokenizer)>,
    /// What makes channels of a map, and the names of what its pixels show.
    pub rescaler: Option<(RescalerConfig, HashMap<String, Tensor>, Vec<String>)>,
    /// Names of the classes; none where the network is not told one.
    pub classes: Vec<String>,
    /// The class of no class.
    pub null_class: Option<u32>,
    /// Height and width of the pictures.
    pub image_size: [usize; 2],
    /// What the network was trained for: path and target become the scheduler.
    pub objective: Objective,
    /// What a request takes that does not say otherwise.
    pub defaults: Defaults,
    /// How weights are written.
    pub precision: Precision,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32.
    #[default]
    Single,
    /// f16, in diffusers' `.fp16` files: half the size. Drawing computes in f32 all the same.
    Half,
}

impl Precision {
    fn save(self, dir: &Path, stem: &str, weights: &HashMap<String, Tensor>) -> Result<()> {
        let path = |suffix: &str| dir.join(format!("{stem}{suffix}"));
        match self {
            Self::Single => tensors::save(weights, &path(".safetensors")),
            Self::Half => {
                let half = weights
                    .iter()
                    .map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::F16)?)));
                tensors::save(&half.collect::<Result<_>>()?, &path(".fp16.safetensors"))
            }
        }
    }
}

/// Writes the folder `dir` as a PathlinePipeline.
///
/// # Errors
/// When no scheduler has this path and target, or a file cannot be written.
pub fn save_pipeline(dir: &Path, parts: &Parts) -> Result<()> {
    let mut index = Map::new();
    index.insert("_class_name".into(), OWN.into());
    index.insert("_diffusers_version".into(), "0.42.1".into());
    let scheduler = scheduler(&parts.objective, parts.autoencoder.is_some())?;
    scheduler.save(&dir.join("scheduler"))?;
    index.insert("scheduler".into(), json!(["diffusers", scheduler.class().name()]));

    let (config, network) = &parts.network;
    let value = serde_json::to_value(config).map_err(|e| Error::Invalid(e.to_string()))?;
    let class = value["_class_name"].as_str().unwrap_or_default().to_owned();
    let name = if class.contains("Transformer") { "transformer" } else { "unet" };
    component(&dir.join(name), &value)?;
    parts.precision.save(&dir.join(name), DIFFUSION, network)?;
    index.insert(name.into(), json!(["diffusers", class]));

    if let Some(from) = &parts.autoencoder {
        let to = dir.join("vae");
        std::fs::create_dir_all(&to).map_err(|e| Error::io(&to, e))?;
        let path = from.join("config.json");
        std::fs::copy(&path, to.join("config.json")).map_err(|e| Error::io(path, e))?;
        let weights = weights(from, DIFFUSION)?.read_all(&Device::Cpu)?;
        parts.precision.save(&to, DIFFUSION, &weights)?;
        let class = json::object(&to.join("config.json"))?.remove("_class_name");
        index.insert("vae".into(), json!(["diffusers", class]));
    }
    if let Some((config, weights, tokenizer)) = &parts.text {
        let mut value = serde_json::to_value(config).map_err(|e| Error::Invalid(e.to_string()))?;
        value["architectures"] = json!(["CLIPTextModel"]);
        value["model_type"] = "clip_text_model".into();
        component(&dir.join("text_encoder"), &value)?;
        parts.precision.save(&dir.join("text_encoder"), MODEL, weights)?;
        tokenizer.save(&dir.join("tokenizer"))?;
        index.insert("text_encoder".into(), json!(["transformers", "CLIPTextModel"]));
        index.insert("tokenizer".into(), json!(["transformers", "CLIPTokenizer"]));
    }
    if let Some((config, weights, names)) = &parts.rescaler {
        let to = dir.join("segmentation_rescaler");
        config.write(&to)?;
        parts.precision.save(&to, DIFFUSION, weights)?;
        index.insert("segmentation_rescaler".into(), json!(["pathline", "SegmentationRescaler"]));
        index.insert("map_classes".into(), json!(names));
    }
    if !parts.classes.is_empty() {
        let names: BTreeMap<String, &String> =
            parts.classes.iter().enumerate().map(|(i, name)| (i.to_string(), name)).collect();
        index.insert("id2label".into(), json!(names));
        index.insert("null_class".into(), json!(parts.null_class));
    }
    index.insert("image_size".into(), json!(parts.image_size));
    let defaults = serde_json::to_value(&parts.defaults);
    index.insert("defaults".into(), defaults.map_err(|e| Error::Invalid(e.to_string()))?);
    json::write(&dir.join(INDEX), &index)
}

/// The scheduler that walks the objective's path, over pixels or latents.
fn scheduler(objective: &Objective, latents: bool) -> Result<Scheduler> {
    match (&objective.path, objective.target) {
        (FlowPath::Straight, Target::Velocity) => Scheduler::flow(1.0),
        (FlowPath::Discrete(table), target) => {
            let clip = clip(table.alphas_cumprod(), target, latents);
            Scheduler::table(table.config(), target, clip)
        }
        (path, target) => Err(Error::Invalid(format!(
            "objective: expected a path that diffusers has a scheduler for, straight with velocity or a \
             table (ddpm) with epsilon, sample or v_prediction, got {path:?} with {target:?}"
        ))),
    }
}

/// What data are clipped to: ±1 for pixels, ±3 for latents, whose deviation is 1.
///
/// Where a table leaves next to no signal, a network of noise says nothing about the data: they are
/// `(x_t − √(1 − ᾱ)·ε)/√ᾱ` with ᾱ near 0, and its error would fill the picture. Tables that keep signal
/// to their end, as Stable Diffusion's, and other targets need no bound.
fn clip(alphas_cumprod: &[f64], target: Target, latents: bool) -> Option<f64> {
    let faint = alphas_cumprod.last().is_some_and(|last| *last < 1e-4);
    (faint && target == Target::Noise).then_some(if latents { 3.0 } else { 1.0 })
}

/// Writes `config.json` into a folder.
fn component(dir: &Path, config: &Value) -> Result<()> {
    json::write(&dir.join("config.json"), &config.as_object().cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_clipped_where_noise_alone_is_left() {
        assert_eq!(clip(&[0.9, 4e-5], Target::Noise, false), Some(1.0));
        assert_eq!(clip(&[0.9, 2e-9], Target::Noise, true), Some(3.0));
        assert_eq!(clip(&[0.9, 0.0047], Target::Noise, true), None);
        assert_eq!(clip(&[0.9, 2e-9], Target::V, true), None);
    }
}
