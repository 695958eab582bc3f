//! A classifier of pictures, for its features: how alike two pictures look, and how far two sets of
//! pictures are apart. Cross-entropy, as everywhere.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::super::optimizer::AdamW;
use super::order::{Order, augmented};
use super::recipe::PictureRecipe;
use super::{Job, Update};
use crate::dataset::pictures::Pictures;
use crate::flow::Noise;
use crate::nn::params::Params;
use crate::vae::features::{FeatureNet, FeatureNetConfig};
use crate::{Error, Result, tensors};

/// Pictures of the test, at most.
const WATCHED: usize = 1024;

pub(super) struct ClassifierJob<'a> {
    recipe: &'a PictureRecipe,
    config: FeatureNetConfig,
    pictures: &'a Pictures,
    order: Order,
    params: Params,
    net: FeatureNet,
    adam: AdamW,
    device: Device,
}

impl<'a> ClassifierJob<'a> {
    pub(super) fn new(
        recipe: &'a PictureRecipe,
        config: &FeatureNetConfig,
        pictures: &'a Pictures,
        device: &Device,
    ) -> Result<Self> {
        let classes = pictures.classes.len();
        if pictures.labels.is_empty() || config.classes != classes {
            return Err(Error::Invalid(format!(
                "model.network.classes: expected {classes}, the classes of the data, got {}",
                config.classes
            )));
        }
        let params = Params::new(recipe.train.seed);
        let net = FeatureNet::load(config, params.builder(device))?;
        let adam = AdamW::new(recipe.optimizer.clone(), params.named())?;
        let order = Order::new(pictures, &recipe.train)?;
        let (config, device) = (config.clone(), device.clone());
        Ok(Self { recipe, config, pictures, order, params, net, adam, device })
    }

    fn averaged(&self) -> Result<FeatureNet> {
        let vb = VarBuilder::from_tensors(self.adam.ema()?, DType::F32, &self.device);
        FeatureNet::load(&self.config, vb)
    }

    fn labels(&self, indices: &[usize]) -> Result<Tensor> {
        let labels: Vec<u32> = indices.iter().map(|&i| self.pictures.labels[i]).collect();
        Ok(Tensor::from_vec(labels, indices.len(), &self.device)?)
    }
}

impl Job for ClassifierJob<'_> {
    fn step(&self) -> usize {
        self.adam.step()
    }

    fn parameters(&self) -> usize {
        self.params.count()
    }

    fn update(&mut self) -> Result<Update> {
        let (step, size) = (self.adam.step(), self.recipe.train.batch_size);
        let indices = self.order.batch(step, size);
        let noise = Noise::new(self.recipe.train.seed);
        let first = (step * size) as u64;
        let x = augmented(
            self.pictures,
            &indices,
            &self.recipe.augment,
            (&noise, first),
            &self.device,
        )?;
        let loss = cross_entropy(&self.net.logits(&x)?, &self.labels(&indices)?)?;
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
        self.config.write(dir)?;
        tensors::save(&self.adam.ema()?, &dir.join("model.safetensors"))?;
        let text = serde_json::to_string_pretty(&self.pictures.classes);
        let text = text.map_err(|e| Error::Invalid(e.to_string()))?;
        let path = dir.join("classes.json");
        std::fs::write(&path, text + "\n").map_err(|e| Error::io(path, e))
    }

    fn sheet(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn watch(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let held_out = &self.pictures.held_out;
        if held_out.is_empty() {
            return Ok(vec![]);
        }
        let net = self.averaged()?;
        let mut right = 0;
        let seen = held_out.len().min(WATCHED);
        for indices in held_out[..seen].chunks(64) {
            let logits = net.logits(&self.pictures.batch(indices)?.to_device(&self.device)?)?;
            let said = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            let wanted = indices.iter().map(|&i| self.pictures.labels[i]);
            right += said.iter().zip(wanted).filter(|(said, wanted)| *said == wanted).count();
        }
        Ok(vec![("held_out_accuracy", right as f64 / seen as f64)])
    }
}

/// The mean of `−ln softmax(logits)[label]`: `logits` `[b, n]`, `labels` `[b]` u32.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let own = shifted.gather(&labels.unsqueeze(1)?, 1)?;
    Ok((log_sum - own)?.mean_all()?)
}
