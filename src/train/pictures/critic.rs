//! The adversarial half of an autoencoder's training: a critic that tells real patches from made ones.
//!
//! Hinge loss, a late start, and the adaptive weight of VQGAN: what the critic says moves the last layer
//! as much as the reconstruction does. Sources: Esser, Rombach, Ommer 2021, equation 7;
//! latent-diffusion `modules/losses/contperceptual.py`.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::super::optimizer::AdamW;
use super::recipe::Adversarial;
use crate::Result;
use crate::nn::params::Params;
use crate::vae::discriminator::{Discriminator, discriminator_loss, generator_loss};

/// Before the names of its state.
const PREFIX: &str = "critic/";

pub(super) struct Critic {
    config: Adversarial,
    params: Params,
    net: Discriminator,
    adam: AdamW,
}

impl Critic {
    pub(super) fn new(config: &Adversarial, seed: u64, device: &Device) -> Result<Self> {
        let params = Params::new(seed ^ 0x5eed);
        let net = Discriminator::load(&config.network, params.builder(device))?;
        let adam = AdamW::new(config.optimizer.clone(), params.named())?;
        Ok(Self { config: config.clone(), params, net, adam })
    }

    pub(super) fn parameters(&self) -> usize {
        self.params.count()
    }

    /// Whether it is heard at update `step`.
    pub(super) fn is_on(&self, step: usize) -> bool {
        step >= self.config.start
    }

    /// Factor of the adaptive weight.
    pub(super) fn weight(&self) -> f64 {
        self.config.weight
    }

    /// What the autoencoder is to lower: `−mean D(made)`.
    pub(super) fn loss(&self, made: &Tensor) -> Result<Tensor> {
        generator_loss(&self.net.forward(made)?)
    }

    /// One update on `real` and `made` pictures. Returns the hinge loss.
    pub(super) fn learn(&mut self, real: &Tensor, made: &Tensor, total: usize) -> Result<f64> {
        let real = self.net.forward(&real.detach())?;
        let made = self.net.forward(&made.detach())?;
        let loss = discriminator_loss(&real, &made)?;
        let left = total.saturating_sub(self.config.start);
        let lr = self.config.optimizer.lr_at(self.adam.step(), left);
        self.adam.update(&loss.backward()?, lr)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    /// Nothing before the first update.
    pub(super) fn state(&self) -> Result<HashMap<String, Tensor>> {
        if self.adam.step() == 0 {
            return Ok(HashMap::new());
        }
        let state = self.adam.save_state()?.into_iter();
        Ok(state.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect())
    }

    /// `step` is that of the whole run.
    pub(super) fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<()> {
        if step <= self.config.start {
            return Ok(());
        }
        let own = state.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(PREFIX)?.to_owned(), tensor.clone()))
        });
        let own: HashMap<String, Tensor> = own.collect();
        self.adam.load_state(step.saturating_sub(self.config.start), &own)
    }
}
