//! A denoiser of latents or pixels: diffusion and flow matching are the same job under another
//! objective.
//!
//! ```text
//! x_t, target = objective(latent, noise, t),   L = w(t)·‖network(x_t, t, condition) − target‖²
//! ```
//!
//! The text encoder or the rescaler of a map is trained in the same step. With `few_step`, a share of
//! the batch learns that one large step is two small ones (`flow::shortcut`).

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::super::optimizer::AdamW;
use super::conditions::{Conditions, Encoder, RESCALER, TEXT_ENCODER};
use super::latents::Latents;
use super::order::{Order, draw};
use super::recipe::{DenoiserModel, PictureRecipe};
use super::{Job, Update, sheet};
use crate::dataset::pictures::Pictures;
use crate::flow::{Noise, mse};
use crate::image::{self, Parts, Pipeline, Request};
use crate::nn::denoiser::DenoiserNet;
use crate::nn::params::Params;
use crate::{Error, Result};

/// Name of the network in a run's parameters.
const NETWORK: &str = "unet";
/// Pictures of a sheet.
const SHOWN: usize = 10;

pub(super) struct DenoiserJob<'a> {
    recipe: &'a PictureRecipe,
    model: &'a DenoiserModel,
    pictures: &'a Pictures,
    order: Order,
    latents: Latents<'a>,
    conditions: Conditions,
    encoder: Encoder,
    params: Params,
    net: DenoiserNet,
    adam: AdamW,
    noise: Noise,
    device: Device,
}

impl<'a> DenoiserJob<'a> {
    pub(super) fn new(
        recipe: &'a PictureRecipe,
        model: &'a DenoiserModel,
        pictures: &'a Pictures,
        device: &Device,
    ) -> Result<Self> {
        let unknown = model.network.unknown_keys();
        if !unknown.is_empty() {
            let message = format!("model.network: expected diffusers' keys, got {unknown:?}");
            return Err(Error::Invalid(message));
        }
        model.network.validate()?;
        let autoencoder = model.autoencoder.as_deref();
        let latents = Latents::new(pictures, &recipe.augment, autoencoder, device)?;
        let factor = latents.autoencoder().map_or(1, |net| net.downsampling());
        let from = model.init_from.as_deref().map(|dir| image::trained_parts(dir, device));
        let (weights, tokenizer) = from.transpose()?.unzip();
        let conditions = Conditions::new(&model.condition, pictures, factor, tokenizer.flatten())?;
        let params = Params::new(recipe.train.seed);
        let vb = params.builder(device);
        let net = DenoiserNet::load(&model.network, vb.pp(NETWORK))?;
        let encoder = conditions.encoder(&vb)?;
        if let Some(weights) = &weights {
            params.assign(weights)?;
        }
        let adam = AdamW::new(recipe.optimizer.clone(), params.named())?;
        let [channels, ..] = latents.shape();
        if model.network.out_channels() != channels {
            return Err(Error::Invalid(format!(
                "model.network.out_channels: expected {channels}, the channels of the latents, got {}",
                model.network.out_channels()
            )));
        }
        Ok(Self {
            order: Order::new(pictures, &recipe.train)?,
            noise: Noise::new(recipe.train.seed),
            device: device.clone(),
            recipe,
            model,
            pictures,
            latents,
            conditions,
            encoder,
            params,
            net,
            adam,
        })
    }

    fn loss(&mut self, step: usize) -> Result<Tensor> {
        let size = self.recipe.train.batch_size;
        let indices = self.order.batch(step, size);
        let first = (step * size) as u64;
        let data = self.latents.batch(&indices, &self.noise, first)?;
        let noise = self.noise.normal_like(first, draw::NOISE, &data)?;
        let draws = (&self.noise, first);
        let condition =
            self.conditions.batch(&self.encoder, self.pictures, &indices, draws, &self.device)?;
        let objective = &self.model.objective;
        if let Some(few_step) = &self.model.few_step {
            let path = &objective.path;
            let ask = |x: &Tensor, t: &[f64], r: &[f64]| {
                // The consistency rows come first.
                let condition = condition.first(x.dim(0)?)?;
                image::interval_velocity(&self.net, path, x, (t, r), &condition)
            };
            let draws = (&Noise::new(self.recipe.train.seed ^ 0xfe11), step as u64);
            let batch = few_step.batch(path, (&data, &noise), draws, &mut |x, t, r| {
                Ok(ask(&x.detach(), t, r)?.detach())
            })?;
            let output = ask(&batch.x_t, &batch.t, &batch.r)?;
            return mse(&output, &batch.target, None);
        }
        let t = objective.times(&self.noise, first, draw::TIME, size);
        let batch = objective.batch(&data, &noise, None, &t)?;
        let times = image::network_times(&objective.path, &t);
        let output = self.net.forward(&batch.x_t, &times, &condition)?;
        batch.loss(&output, None)
    }

    /// The finished model with averaged weights.
    fn parts(&self) -> Result<Parts> {
        let mut networks: HashMap<&str, HashMap<String, Tensor>> = HashMap::new();
        let all: BTreeMap<String, Tensor> = self.adam.ema()?.into_iter().collect();
        for (name, tensor) in all {
            let Some((part, name)) = name.split_once('.') else { continue };
            let known = [NETWORK, TEXT_ENCODER, RESCALER].into_iter().find(|known| *known == part);
            networks.entry(known.unwrap_or(NETWORK)).or_default().insert(name.to_owned(), tensor);
        }
        let mut take = |part: &str| networks.remove(part).unwrap_or_default();
        let text = match &self.conditions {
            Conditions::Text { tokenizer, config, .. } => {
                Some((config.clone(), take(TEXT_ENCODER), (**tokenizer).clone()))
            }
            _ => None,
        };
        let rescaler = match &self.conditions {
            Conditions::Segmentation { config } => {
                Some((config.clone(), take(RESCALER), self.pictures.map_classes.clone()))
            }
            _ => None,
        };
        let (classes, null_class) = match &self.conditions {
            Conditions::Class { null, .. } => (self.pictures.classes.clone(), Some(*null)),
            _ => (Vec::new(), None),
        };
        Ok(Parts {
            network: (self.model.network.clone(), take(NETWORK)),
            autoencoder: self.latents.folder().map(Path::to_owned),
            text,
            rescaler,
            classes,
            null_class,
            image_size: self.pictures.size,
            objective: self.model.objective.clone(),
            defaults: self.model.defaults.clone(),
            precision: self.model.precision,
        })
    }
}

impl Job for DenoiserJob<'_> {
    fn step(&self) -> usize {
        self.adam.step()
    }

    fn parameters(&self) -> usize {
        self.params.count()
    }

    fn update(&mut self) -> Result<Update> {
        let step = self.adam.step();
        let loss = self.loss(step)?;
        let lr = self.recipe.optimizer.lr_at(step, self.recipe.train.steps);
        let grad_norm = self.adam.update(&loss.backward()?, lr)?;
        Ok(Update { loss: f64::from(loss.to_scalar::<f32>()?), lr, grad_norm, parts: vec![] })
    }

    fn state(&self) -> Result<HashMap<String, Tensor>> {
        self.adam.save_state()
    }

    fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<()> {
        self.adam.load_state(step, state)
    }

    fn write(&mut self, dir: &Path) -> Result<()> {
        image::save_pipeline(dir, &self.parts()?)
    }

    /// Pictures of held-out captions and of others, of all classes, or of maps.
    fn sheet(&mut self, path: &Path) -> Result<()> {
        let folder = self.recipe.output_dir.join(".sheet");
        image::save_pipeline(&folder, &self.parts()?)?;
        let pipeline = Pipeline::open(&folder, &self.device)?;
        let draw = |request: &Request| -> Result<Tensor> {
            let pictures = pipeline.sample(request, &mut |_| Ok(ControlFlow::Continue(())))?;
            Ok(pictures.image)
        };
        let rows = match &self.conditions {
            Conditions::Text { .. } => {
                let captions = |all: &[usize]| -> Vec<String> {
                    let some = (0..SHOWN).map(|i| all[i * all.len() / SHOWN]);
                    some.map(|i| self.pictures.captions[i].clone()).collect()
                };
                let sets = [self.pictures.training(), self.pictures.held_out.clone()];
                let sets = sets.iter().filter(|set| !set.is_empty());
                sets.map(|set| {
                    let prompts = captions(set);
                    draw(&Request { batch_count: prompts.len(), prompts, ..Request::default() })
                })
                .collect::<Result<Vec<_>>>()?
            }
            Conditions::Class { .. } => {
                let classes = self.pictures.classes.iter().take(SHOWN).cloned();
                let classes: Vec<String> = classes.collect();
                let request = |seed| Request {
                    batch_count: classes.len(),
                    classes: classes.clone(),
                    seed,
                    ..Request::default()
                };
                (0..3).map(|seed| draw(&request(1000 * seed))).collect::<Result<Vec<_>>>()?
            }
            Conditions::Segmentation { .. } => {
                let shown: Vec<usize> = self.pictures.training().into_iter().take(SHOWN).collect();
                let made = shown.iter().map(|&i| {
                    let segmentation = Some(self.pictures.map_batch(&[i])?);
                    draw(&Request { segmentation, ..Request::default() })
                });
                let made = Tensor::cat(&made.collect::<Result<Vec<_>>>()?, 0)?;
                vec![self.pictures.batch(&shown)?, made]
            }
            Conditions::None => {
                vec![draw(&Request { batch_count: SHOWN, ..Request::default() })?]
            }
        };
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        sheet::write(path, &rows)
    }

    fn watch(&mut self) -> Result<Vec<(&'static str, f64)>> {
        Ok(vec![])
    }
}
