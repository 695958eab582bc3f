//! An autoencoder: pictures to latents and back.
//!
//! ```text
//! L = |x − x̂| + w_p·perceptual + kl·KL/pixels  (KL)  or + codebook loss  (VQ)  + adaptive·(−D(x̂))
//! ```
//!
//! per pixel and channel, so that the weights are those of latent-diffusion, which sums over pixels and
//! divides by the batch: a KL weight of 1e-6 there is one of 1e-6 here. Source:
//! `modules/losses/contperceptual.py`, `vqperceptual.py`. Its trainable log-variance is left out; no
//! optimiser there gets it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::super::optimizer::AdamW;
use super::critic::Critic;
use super::order::{Order, augmented, draw};
use super::recipe::{AutoencoderLoss, AutoencoderModel, Half, PictureRecipe};
use super::{Job, Update, sheet};
use crate::dataset::pictures::Pictures;
use crate::flow::Noise;
use crate::nn::params::Params;
use crate::tensors::{folder, weights::Weights};
use crate::vae::discriminator::{LAST_WEIGHT, join};
use crate::vae::features::FeatureNet;
use crate::vae::loss::perceptual;
use crate::vae::{Autoencoder, AutoencoderConfig, FOLDER};
use crate::{Error, Result};

/// Pictures that the scale of the latents is measured on.
const MEASURED: usize = 256;
/// Pictures of the sheet and of the test.
const SHOWN: usize = 12;
const WATCHED: usize = 64;

pub(super) struct AutoencoderJob<'a> {
    recipe: &'a PictureRecipe,
    config: AutoencoderConfig,
    trained: Half,
    loss: &'a AutoencoderLoss,
    pictures: &'a Pictures,
    order: Order,
    params: Params,
    net: Autoencoder,
    adam: AdamW,
    features: Option<FeatureNet>,
    critic: Option<Critic>,
    device: Device,
}

/// What the network made of a batch.
struct Made {
    /// Before the decoder's last layer.
    hidden: Tensor,
    /// The term of the latents, already weighed.
    latent: Tensor,
    parts: Vec<(&'static str, f64)>,
}

impl<'a> AutoencoderJob<'a> {
    pub(super) fn new(
        recipe: &'a PictureRecipe,
        model: &'a AutoencoderModel,
        pictures: &'a Pictures,
        device: &Device,
    ) -> Result<Self> {
        let AutoencoderModel { network, init_from, trained, loss } = model;
        let (mut config, seed) = (network.clone(), recipe.train.seed);
        let params = Params::new(seed);
        let net = Autoencoder::from_config(&config, params.builder(device))?;
        if let Some(init_from) = init_from {
            let folder = folder::resolve(init_from, &FOLDER)?;
            // Its latents have their scale already.
            config = AutoencoderConfig::open(&folder)?;
            let weights = Weights::open_named(&folder, "diffusion_pytorch_model")?;
            params.assign(&weights.read_all(device)?)?;
        }
        let all = params.named().into_iter();
        let vars = all.filter(|(name, _)| *trained == Half::Both || is_of_decoder(name)).collect();
        let adam = AdamW::new(recipe.optimizer.clone(), vars)?;
        let features = match &loss.perceptual {
            Some(p) => Some(FeatureNet::open(&p.network, device)?),
            None => None,
        };
        let critic = match &loss.adversarial {
            Some(adversarial) => Some(Critic::new(adversarial, seed, device)?),
            None => None,
        };
        Ok(Self {
            order: Order::new(pictures, &recipe.train)?,
            trained: *trained,
            config,
            device: device.clone(),
            recipe,
            loss,
            pictures,
            params,
            net,
            adam,
            features,
            critic,
        })
    }

    /// Through the network with noise between, as it is trained.
    fn made(&self, x: &Tensor, first: u64) -> Result<Made> {
        match &self.net {
            Autoencoder::Kl(net) => {
                let posterior = net.encode(x)?;
                let noise = Noise::new(self.recipe.train.seed);
                let noise = noise.normal_like(first, draw::POSTERIOR, &posterior.mean)?;
                let z = posterior.sample(&noise)?;
                if self.trained == Half::Decoder {
                    let hidden = net.decode_hidden(&z.detach())?;
                    return Ok(Made { hidden, latent: self.nothing()?, parts: vec![] });
                }
                let hidden = net.decode_hidden(&z)?;
                let kl = posterior.kl()?.mean_all()?;
                let weight = self.loss.kl_weight / (x.elem_count() / x.dim(0)?) as f64;
                let latent = kl.affine(weight, 0.0)?;
                Ok(Made { hidden, latent, parts: vec![("kl", scalar(&kl)?)] })
            }
            Autoencoder::Vq(net) => {
                let quantized = net.quantize(&net.encode(x)?)?;
                if self.trained == Half::Decoder {
                    let hidden = net.decode_hidden(&quantized.z_q.detach())?;
                    return Ok(Made { hidden, latent: self.nothing()?, parts: vec![] });
                }
                let hidden = net.decode_hidden(&quantized.z_q)?;
                let latent = quantized.loss.affine(self.loss.codebook_weight, 0.0)?;
                let parts = vec![
                    ("codebook", scalar(&quantized.loss)?),
                    ("perplexity", quantized.perplexity),
                ];
                Ok(Made { hidden, latent, parts })
            }
            Autoencoder::Tiny(net) => {
                let hidden = net.decode(&net.encode(x)?)?;
                Ok(Made { hidden, latent: self.nothing()?, parts: vec![] })
            }
        }
    }

    fn nothing(&self) -> Result<Tensor> {
        Ok(Tensor::zeros((), DType::F32, &self.device)?)
    }

    /// All weights, averaged where they are trained.
    fn weights(&self) -> Result<HashMap<String, Tensor>> {
        let mut weights = self.adam.ema()?;
        for (name, var) in self.params.named() {
            weights.entry(name).or_insert(var.as_tensor().detach());
        }
        Ok(weights)
    }

    /// The decoder's last layer.
    fn last(&self, hidden: &Tensor) -> Result<Tensor> {
        match &self.net {
            Autoencoder::Kl(net) => net.decode_last(hidden),
            Autoencoder::Vq(net) => net.decode_last(hidden),
            Autoencoder::Tiny(_) => Ok(hidden.clone()),
        }
    }

    /// How far `made` is from the pictures `x`, without a critic.
    fn nll(
        &self,
        x: &Tensor,
        made: &Tensor,
        parts: &mut Vec<(&'static str, f64)>,
    ) -> Result<Tensor> {
        let gap = (made - x)?;
        let mut loss = gap.abs()?.mean_all()?;
        parts.push(("l1", scalar(&loss)?));
        if self.loss.squared_weight > 0.0 {
            loss = (loss + gap.sqr()?.mean_all()?.affine(self.loss.squared_weight, 0.0)?)?;
        }
        if let (Some(net), Some(config)) = (&self.features, &self.loss.perceptual) {
            let distance = perceptual(net, x, made)?.mean_all()?;
            parts.push(("perceptual", scalar(&distance)?));
            loss = (loss + distance.affine(config.weight, 0.0)?)?;
        }
        Ok(loss)
    }

    /// The network with averaged weights, its latents scaled to mean 0 and deviation 1.
    fn averaged(&self) -> Result<(AutoencoderConfig, Autoencoder)> {
        let weights = self.weights()?;
        let load = |config: &AutoencoderConfig| {
            let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &self.device);
            Autoencoder::from_config(config, vb)
        };
        let mut config = self.config.clone();
        if self.trained == Half::Decoder {
            return Ok((config.clone(), load(&config)?));
        }
        set_scale(&mut config, 0.0, 1.0);
        let net = load(&config)?;
        let training = self.pictures.training();
        let step = (training.len() / MEASURED).max(1);
        let measured: Vec<usize> = training.into_iter().step_by(step).take(MEASURED).collect();
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        for indices in measured.chunks(16) {
            let x = self.pictures.batch(indices)?.to_device(&self.device)?;
            let mean = net.encode(&x, None)?;
            // What a denoiser will see: drawn, not the mean.
            let noise = Noise::new(self.recipe.train.seed).normal_like(0, draw::NOISE, &mean)?;
            let latents = net.encode(&x, Some(&noise))?;
            let latents = latents.to_dtype(DType::F64)?;
            count += latents.elem_count() as f64;
            sum += latents.sum_all()?.to_scalar::<f64>()?;
            squares += latents.sqr()?.sum_all()?.to_scalar::<f64>()?;
        }
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(1e-12).sqrt();
        set_scale(&mut config, mean, 1.0 / deviation);
        Ok((config.clone(), load(&config)?))
    }

    fn probe(&self, most: usize) -> Vec<usize> {
        let held_out = &self.pictures.held_out;
        let all = if held_out.is_empty() { self.pictures.training() } else { held_out.clone() };
        let step = (all.len() / most).max(1);
        all.into_iter().step_by(step).take(most).collect()
    }
}

impl Job for AutoencoderJob<'_> {
    fn step(&self) -> usize {
        self.adam.step()
    }

    fn parameters(&self) -> usize {
        self.params.count() + self.critic.as_ref().map_or(0, Critic::parameters)
    }

    fn update(&mut self) -> Result<Update> {
        let (step, size) = (self.adam.step(), self.recipe.train.batch_size);
        let indices = self.order.batch(step, size);
        let (noise, first) = (Noise::new(self.recipe.train.seed), (step * size) as u64);
        let x = augmented(
            self.pictures,
            &indices,
            &self.recipe.augment,
            (&noise, first),
            &self.device,
        )?;
        let Made { hidden, latent, mut parts } = self.made(&x, first)?;
        let heard = self.critic.as_ref().filter(|critic| critic.is_on(step));
        let (made, loss, grads) = match heard {
            None => {
                let made = self.last(&hidden)?;
                let loss = (self.nll(&x, &made, &mut parts)? + latent)?;
                (made, scalar(&loss)?, loss.backward()?)
            }
            Some(critic) => {
                let vars = self.params.named();
                let Some((_, last)) = vars.iter().find(|(name, _)| name == LAST_WEIGHT) else {
                    let message =
                        "model.loss.adversarial: expected a network with a decoder.conv_out";
                    return Err(Error::Invalid(message.to_owned()));
                };
                let terms = RefCell::new(Vec::new());
                let nll = |made: &Tensor| self.nll(&x, made, &mut terms.borrow_mut());
                let joined = join(
                    &hidden,
                    (&|hidden: &Tensor| self.last(hidden), last),
                    [&nll, &|made: &Tensor| critic.loss(made)],
                    critic.weight(),
                )?;
                let grads = (joined.pseudo_loss()? + &latent)?.backward()?;
                let loss = joined.nll + scalar(&latent)?;
                parts.append(&mut terms.borrow_mut());
                parts.push(("adversarial", joined.generator));
                parts.push(("adaptive_weight", joined.weight));
                (joined.picture, loss, grads)
            }
        };
        if let Some(critic) = self.critic.as_mut().filter(|critic| critic.is_on(step)) {
            parts.push(("critic", critic.learn(&x, &made, self.recipe.train.steps)?));
        }
        let lr = self.recipe.optimizer.lr_at(step, self.recipe.train.steps);
        let grad_norm = self.adam.update(&grads, lr)?;
        Ok(Update { loss, lr, grad_norm, parts })
    }

    fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = self.adam.save_state()?;
        if let Some(critic) = &self.critic {
            state.extend(critic.state()?);
        }
        Ok(state)
    }

    fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<()> {
        self.adam.load_state(step, state)?;
        match &mut self.critic {
            Some(critic) => critic.restore(step, state),
            None => Ok(()),
        }
    }

    fn write(&mut self, dir: &Path) -> Result<()> {
        self.averaged()?.0.save(dir, &self.weights()?)
    }

    /// Pictures above what became of them.
    fn sheet(&mut self, path: &Path) -> Result<()> {
        let (_, net) = self.averaged()?;
        let x = self.pictures.batch(&self.probe(SHOWN))?.to_device(&self.device)?;
        let made = net.decode(&net.encode(&x, None)?)?;
        sheet::write(path, &[x, made])
    }

    fn watch(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let (_, net) = self.averaged()?;
        let (mut squares, mut count) = (0.0, 0.0);
        for indices in self.probe(WATCHED).chunks(16) {
            let x = self.pictures.batch(indices)?.to_device(&self.device)?;
            let made = net.decode(&net.encode(&x, None)?)?.clamp(-1f32, 1f32)?;
            squares += scalar(&(made - &x)?.sqr()?.sum_all()?)?;
            count += x.elem_count() as f64;
        }
        // The range −1 … 1 is 2 wide.
        Ok(vec![("psnr_db", 10.0 * (4.0 * count / squares.max(1e-12)).log10())])
    }
}

fn is_of_decoder(name: &str) -> bool {
    name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
}

/// Latents are `(z − shift)·scale`; diffusers' VQModel has no shift.
fn set_scale(config: &mut AutoencoderConfig, shift: f64, scale: f64) {
    match config {
        AutoencoderConfig::Kl(config) => {
            (config.shift_factor, config.scaling_factor) = (Some(shift), scale);
        }
        AutoencoderConfig::Vq(config) => config.scaling_factor = scale,
        AutoencoderConfig::Tiny(_) => {}
    }
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar()?)
}
