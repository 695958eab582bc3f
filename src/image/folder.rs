//! A model in diffusers' layout: model_index.json, and a folder for each component.
//!
//! | class | components |
//! |---|---|
//! | StableDiffusionPipeline, …Img2Img…, …Inpaint… | unet, vae, text_encoder, tokenizer, scheduler |
//! | DiTPipeline | transformer, vae, scheduler; `id2label` |
//! | LDMPipeline | unet, vqvae, scheduler |
//! | DDPMPipeline, DDIMPipeline | unet, scheduler |
//! | PathlinePipeline | unet or transformer, scheduler; and any of vae, text_encoder with tokenizer, segmentation_rescaler, preview |
//!
//! PathlinePipeline is our own name for what diffusers has no class for. Its model_index.json may hold
//! `id2label`, `null_class` (the class of no class), `map_classes`, `image_size` (height and width) and
//! `defaults`; its `preview` is a tiny autoencoder for half-done pictures. A component `[null, null]` is
//! not there. A safety checker is never run. Weights are safetensors, `.fp16` files where only those
//! are there, and shards.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json;
use super::pipeline::{DIFFUSION as WEIGHTS, MODEL};
use super::tokenizer::Tokenizer;
use crate::tensors::folder::{self, Kind};
use crate::tensors::weights::Weights;
use crate::{Error, Result};

/// File of the list of components.
pub(super) const INDEX: &str = "model_index.json";
/// Our own class.
pub(super) const OWN: &str = "PathlinePipeline";
/// What a component may be called, beside the folders of what is never run.
const COMPONENTS: [&str; 10] = [
    "unet",
    "transformer",
    "vae",
    "vqvae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "segmentation_rescaler",
    "preview",
    "safety_checker",
];
/// Components that change nothing here: of the safety checker, and of pictures as prompts.
const UNUSED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
const DIFFUSION: [&str; 5] = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"];
/// The classes, and the components without which they are none.
const CLASSES: [(&str, &[&str]); 9] = [
    ("StableDiffusionPipeline", &DIFFUSION),
    ("StableDiffusionImg2ImgPipeline", &DIFFUSION),
    ("StableDiffusionInpaintPipeline", &DIFFUSION),
    ("StableDiffusionInpaintPipelineLegacy", &DIFFUSION),
    ("DiTPipeline", &["transformer", "vae", "scheduler"]),
    ("LDMPipeline", &["unet", "vqvae", "scheduler"]),
    ("DDPMPipeline", &["unet", "scheduler"]),
    ("DDIMPipeline", &["unet", "scheduler"]),
    (OWN, &["scheduler"]),
];

/// What a request takes that does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Number of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Name of the sampler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_method: Option<String>,
    /// Name of the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Weight of guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cfg_scale: Option<f64>,
}

/// What is looked for where a user names a model.
pub const FOLDER: Kind = Kind {
    name: "model folder in diffusers' layout",
    file: INDEX,
    with: "a folder for each component",
};

/// A folder whose model_index.json is read and checked.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
    class: String,
    /// Library and class of each component that is there.
    components: BTreeMap<String, [String; 2]>,
    options: Map<String, Value>,
}

impl Folder {
    /// Reads `model_index.json` of the folder `dir`, or of the newest checkpoint of the run `dir`, or of a
    /// Hugging Face cache (see [`folder::resolve`]).
    ///
    /// # Errors
    /// When there is none, its class is not supported (the supported ones are listed), or a component is
    /// missing or unknown.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = folder::resolve(dir, &FOLDER)?;
        let path = dir.join(INDEX);
        let mut options = json::object(&path)?;
        let fail = |message: String| Error::config(&path, message);
        let class = match options.remove("_class_name") {
            Some(Value::String(class)) => class,
            _ => return Err(fail("_class_name: expected the name of a pipeline, got none".into())),
        };
        options.retain(|key, _| !key.starts_with('_'));
        let Some((_, needed)) = CLASSES.iter().find(|(name, _)| *name == class) else {
            let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
            return Err(fail(format!(
                "_class_name: expected one of the supported pipelines, {}, got {class:?}",
                names.join(", ")
            )));
        };
        let mut components = BTreeMap::new();
        let names: Vec<String> = options.keys().cloned().collect();
        for name in names {
            let Some(Value::Array(pair)) = options.get(&name) else { continue };
            match pair.as_slice() {
                [Value::Null, Value::Null] => {}
                [Value::String(library), Value::String(class)] => {
                    components.insert(name.clone(), [library.clone(), class.clone()]);
                }
                _ => continue,
            }
            options.remove(&name);
        }
        for name in components.keys() {
            if !COMPONENTS.contains(&name.as_str()) && !UNUSED.contains(&name.as_str()) {
                return Err(fail(format!(
                    "component {name:?}: expected one of {} with {class}",
                    COMPONENTS.join(", ")
                )));
            }
        }
        components.retain(|name, _| !UNUSED.contains(&name.as_str()));
        let folder = Self { dir, class, components, options };
        for name in *needed {
            folder.require(name)?;
        }
        if folder.class == OWN && folder.network().is_none() {
            return Err(fail("expected a component unet or transformer, got neither".into()));
        }
        let has = |name| folder.components.contains_key(name);
        if has("text_encoder") != has("tokenizer") {
            let message = "expected text_encoder and tokenizer together, got one of them";
            return Err(fail(message.into()));
        }
        Ok(folder)
    }

    /// The class of the pipeline.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names and classes of the components that are there.
    pub fn components(&self) -> impl Iterator<Item = (&str, &str)> {
        self.components.iter().map(|(name, [_, class])| (name.as_str(), class.as_str()))
    }

    /// The folder of a component, if it is there.
    pub(super) fn component(&self, name: &str) -> Option<PathBuf> {
        self.components.get(name).map(|_| self.dir.join(name))
    }

    /// The folder of the denoiser.
    pub(super) fn network(&self) -> Option<PathBuf> {
        self.component("unet").or_else(|| self.component("transformer"))
    }

    /// The folder of a component.
    pub(super) fn require(&self, name: &str) -> Result<PathBuf> {
        let missing = |message: String| Error::config(self.dir.join(INDEX), message);
        let Some(dir) = self.component(name) else {
            return Err(missing(format!(
                "expected a component {name:?} with {}, got none",
                self.class
            )));
        };
        if dir.is_dir() {
            return Ok(dir);
        }
        Err(missing(format!("component {name:?}: expected the folder {}, got none", dir.display())))
    }

    /// An option of the index, which must be what it is read as.
    pub(super) fn option<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<T>> {
        match self.options.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|e| Error::config(self.dir.join(INDEX), format!("{key}: {e}"))),
        }
    }
}

/// What a training starts from: the weights of the networks that were trained together, each named
/// `<component>.<name>` with the denoiser as `unet`, and the tokenizer if there is one.
///
/// # Errors
/// When the folder `dir`, or the run, holds no model, or a file cannot be read.
pub fn trained_parts(
    dir: &Path,
    device: &Device,
) -> Result<(HashMap<String, Tensor>, Option<Tokenizer>)> {
    let folder = Folder::open(dir)?;
    let mut all = HashMap::new();
    for (component, stem) in [
        ("unet", WEIGHTS),
        ("transformer", WEIGHTS),
        ("text_encoder", MODEL),
        ("segmentation_rescaler", WEIGHTS),
    ] {
        let Some(dir) = folder.component(component) else { continue };
        let component = if component == "transformer" { "unet" } else { component };
        let read = weights(&dir, stem)?.read_all(device)?.into_iter();
        let wide = read.map(|(name, tensor)| {
            Ok((format!("{component}.{name}"), tensor.to_dtype(DType::F32)?))
        });
        all.extend(wide.collect::<Result<HashMap<_, _>>>()?);
    }
    let tokenizer = folder.component("tokenizer").map(|dir| Tokenizer::open(&dir)).transpose()?;
    Ok((all, tokenizer))
}

/// The weights of a component: in f32, or of the variant `fp16` where only that is there.
pub(super) fn weights(dir: &Path, stem: &str) -> Result<Weights> {
    let half = format!("{stem}.fp16");
    let is_there = |stem: &str| {
        ["safetensors", "safetensors.index.json"]
            .iter()
            .any(|suffix| dir.join(format!("{stem}.{suffix}")).symlink_metadata().is_ok())
    };
    // diffusers' own name of the list of a variant's shards.
    let list = dir.join(format!("{stem}.safetensors.index.fp16.json"));
    match () {
        () if is_there(stem) => Weights::open_named(dir, stem),
        () if is_there(&half) => Weights::open_named(dir, &half),
        () if list.is_file() => Weights::open_index(dir, &list),
        () => Weights::open_named(dir, stem),
    }
}
