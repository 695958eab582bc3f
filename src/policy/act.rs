//! LeRobot's ACT: one forward pass from an observation to a chunk of actions.
//!
//! ```text
//! latent 0 ─┐
//! state ────┤ one token each                           queries: chunk_size learned positions
//! environment                                                     │
//! cameras ─ ResNet ─ 1×1, one token a pixel ─► encoder ─ memory ─► decoder ─ action_head ─► chunk
//! ```
//!
//! Positions are added to queries and keys in every layer, never to values: learned ones for the single
//! tokens and the rows of the chunk, sines for pixels. In a batch every sample has the bits that it has
//! alone. A checkpoint trained with `use_vae` also holds the encoder that made the latent in training:
//! its tensors have to be there and are not kept.
//!
//! Tensor names are those below `model.` in a LeRobot checkpoint. Sources: Zhao et al. 2023, section IV;
//! LeRobot `policies/act/modeling_act.py` (0.4.4).

#![allow(
    clippy::needless_pass_by_value,
    reason = "a VarBuilder is a cheap handle and goes by value, as everywhere in candle"
)]

mod position;
mod transformer;

use candle_core::{Device, Tensor};
use candle_nn::{Init, VarBuilder};

use super::config::act::ActConfig;
use super::config::{ENVIRONMENT_STATE, STATE};
use super::processor::Inputs;
use crate::nn::linear::Linear;
use crate::nn::resnet::ResNet;
use crate::{Error, Result};
use transformer::{Decoder, Encoder, EncoderLayer};

/// Normalised observations of a batch.
#[derive(Clone, Debug, Default)]
pub struct ActInputs {
    /// `observation.state` `[b, state_dim]`, if the network sees it.
    pub state: Option<Tensor>,
    /// `observation.environment_state` `[b, environment_dim]`, if the network sees it.
    pub environment_state: Option<Tensor>,
    /// One `[b, 3, height, width]` a camera, in the configuration's order; sizes may differ.
    pub images: Vec<Tensor>,
}

impl ActInputs {
    /// What the network of `config` sees of a batch of normalised observations, one each.
    ///
    /// # Errors
    /// When a feature is missing or has another length.
    pub fn gather(config: &ActConfig, batch: &[Inputs], device: &Device) -> Result<Self> {
        let stack = |key: &str, shape: &[usize]| -> Result<Tensor> {
            let len = shape.iter().product::<usize>();
            let mut all = Vec::with_capacity(batch.len() * len);
            for inputs in batch {
                match inputs.get(key) {
                    Some(input) if input.data.len() == len => all.extend_from_slice(&input.data),
                    values => {
                        let got = values.map_or(0, |input| input.data.len());
                        return Err(Error::shape(key, shape, format!("{got} numbers")));
                    }
                }
            }
            let shape = [&[batch.len()], shape].concat();
            Ok(Tensor::from_vec(all, shape, device)?)
        };
        let vector = |key: &str, dim: usize| (dim > 0).then(|| stack(key, &[dim])).transpose();
        Ok(Self {
            state: vector(STATE, config.state_dim())?,
            environment_state: vector(ENVIRONMENT_STATE, config.environment_dim())?,
            images: config
                .cameras()
                .map(|(key, shape)| stack(key, &shape))
                .collect::<Result<_>>()?,
        })
    }
}

/// Tokens `[b, s, dim_model]` and their positions `[s, dim_model]`.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// What the tokens say.
    pub values: Tensor,
    /// Where they are.
    pub positions: Tensor,
}

/// The network.
#[derive(Clone, Debug)]
pub struct ActNet {
    latent: Linear,
    state: Option<Linear>,
    environment: Option<Linear>,
    cameras: Option<Cameras>,
    /// `[single tokens, dim_model]`.
    token_positions: Tensor,
    encoder: Encoder,
    decoder: Decoder,
    /// `[chunk_size, dim_model]`.
    row_positions: Tensor,
    action_head: Linear,
    latent_dim: usize,
}

/// What turns pictures into tokens.
#[derive(Clone, Debug)]
struct Cameras {
    count: usize,
    backbone: ResNet,
    project: Linear,
    dim_model: usize,
}

impl ActNet {
    /// Loads the network of a LeRobot checkpoint, names from its root: `vb.pp("model")` holds it.
    ///
    /// # Errors
    /// When the configuration cannot be built, or a tensor is missing or has another shape.
    pub fn load(config: &ActConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let vb = vb.pp("model");
        let width = config.dim_model;
        let table = |rows: usize, name: &str| {
            let init = Init::Randn { mean: 0.0, stdev: 1.0 };
            vb.pp(name).get_with_hints((rows, width), "weight", init)
        };
        let from = |inputs: usize, name: &str| -> Result<Option<Linear>> {
            let load = || Linear::load(inputs, width, vb.pp(name));
            Ok((inputs > 0).then(load).transpose()?)
        };
        if config.use_vae {
            expect_vae(config, &vb)?;
        }
        let state = from(config.state_dim(), "encoder_robot_state_input_proj")?;
        let environment = from(config.environment_dim(), "encoder_env_state_input_proj")?;
        let singles = 1 + usize::from(state.is_some()) + usize::from(environment.is_some());
        Ok(Self {
            latent: Linear::load(config.latent_dim, width, vb.pp("encoder_latent_input_proj"))?,
            state,
            environment,
            cameras: Cameras::load(config, &vb)?,
            token_positions: table(singles, "encoder_1d_feature_pos_embed")?,
            encoder: Encoder::load(config, vb.pp("encoder"))?,
            decoder: Decoder::load(config, vb.pp("decoder"))?,
            row_positions: table(config.chunk_size, "decoder_pos_embed")?,
            action_head: Linear::load(width, config.action_dim(), vb.pp("action_head"))?,
            latent_dim: config.latent_dim,
        })
    }

    /// Normalised actions `[b, chunk_size, action_dim]`.
    ///
    /// # Errors
    /// When an input is missing, too many, or has another shape.
    pub fn forward(&self, inputs: &ActInputs) -> Result<Tensor> {
        let tokens = self.tokens(inputs)?;
        let memory = self.encode(&tokens)?;
        self.decode(&memory, &tokens.positions)
    }

    /// The encoder's input: latent, state, environment, then the pixels camera by camera, row by row.
    ///
    /// # Errors
    /// As [`ActNet::forward`].
    pub fn tokens(&self, inputs: &ActInputs) -> Result<Tokens> {
        let batch = match (&inputs.state, &inputs.environment_state, inputs.images.first()) {
            (Some(x), _, _) | (_, Some(x), _) | (_, _, Some(x)) => x.dim(0)?,
            (None, None, None) => {
                return Err(Error::Invalid("act: expected an observation, got none".to_owned()));
            }
        };
        let (dtype, device) = (self.token_positions.dtype(), self.token_positions.device());
        let latent = Tensor::zeros((batch, self.latent_dim), dtype, device)?;
        let mut values = vec![self.latent.forward(&latent)?.unsqueeze(1)?];
        for (project, input, key) in [
            (&self.state, &inputs.state, STATE),
            (&self.environment, &inputs.environment_state, ENVIRONMENT_STATE),
        ] {
            match (project, input) {
                (Some(project), Some(input)) => {
                    check_batch(key, input, batch, 2)?;
                    values.push(project.forward(input)?.unsqueeze(1)?);
                }
                (None, None) => {}
                (Some(_), None) => {
                    return Err(Error::Invalid(format!(
                        "{key}: expected by the network, got none"
                    )));
                }
                (None, Some(_)) => {
                    return Err(Error::Invalid(format!("{key}: the network does not see it")));
                }
            }
        }
        let mut positions = vec![self.token_positions.clone()];
        let count = self.cameras.as_ref().map_or(0, |cameras| cameras.count);
        if inputs.images.len() != count {
            let got = inputs.images.len();
            return Err(Error::Invalid(format!("act: expected {count} cameras, got {got}")));
        }
        for image in &inputs.images {
            check_batch("act: camera", image, batch, 4)?;
            if let Some(cameras) = &self.cameras {
                let tokens = cameras.tokens(image)?;
                values.push(tokens.values);
                positions.push(tokens.positions.to_dtype(dtype)?);
            }
        }
        Ok(Tokens { values: Tensor::cat(&values, 1)?, positions: Tensor::cat(&positions, 0)? })
    }

    /// The encoder's output `[b, s, dim_model]`.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn encode(&self, tokens: &Tokens) -> Result<Tensor> {
        self.encoder.forward(&tokens.values, &tokens.positions)
    }

    /// Normalised actions from the encoder's output and the positions of its tokens.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn decode(&self, memory: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (batch, _, width) = memory.dims3()?;
        let rows = self.row_positions.dim(0)?;
        let queries = Tensor::zeros((batch, rows, width), memory.dtype(), memory.device())?;
        let rows = self.decoder.forward(&queries, &self.row_positions, memory, positions)?;
        Ok(self.action_head.forward(&rows)?)
    }
}

impl Cameras {
    fn load(config: &ActConfig, vb: &VarBuilder<'_>) -> Result<Option<Self>> {
        let count = config.cameras().count();
        if count == 0 {
            return Ok(None);
        }
        let resnet = config.resnet()?;
        let backbone = ResNet::load(&resnet, vb.pp("backbone"))?;
        let (channels, dim_model) = (resnet.channels(), config.dim_model);
        let vb = vb.pp("encoder_img_feat_input_proj");
        let init = candle_nn::init::DEFAULT_KAIMING_NORMAL;
        let weight = vb.get_with_hints((dim_model, channels, 1, 1), "weight", init)?;
        let bias = vb.get_with_hints(dim_model, "bias", candle_nn::init::ZERO)?;
        let project = Linear::new(weight.squeeze(3)?.squeeze(2)?, Some(bias))?;
        Ok(Some(Self { count, backbone, project, dim_model }))
    }

    /// `[b, 3, height, width]` to one token a pixel of the feature map.
    fn tokens(&self, image: &Tensor) -> Result<Tokens> {
        let features = self.backbone.forward(image)?;
        let (_, _, height, width) = features.dims4()?;
        let pixels = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let positions = position::sinusoidal_2d([height, width], self.dim_model);
        let positions =
            Tensor::from_vec(positions, (height * width, self.dim_model), image.device())?;
        Ok(Tokens { values: self.project.forward(&pixels)?, positions })
    }
}

/// Asks for the tensors of the encoder that only training runs, one layer at a time.
fn expect_vae(config: &ActConfig, vb: &VarBuilder<'_>) -> Result<()> {
    let width = config.dim_model;
    let encoder = vb.pp("vae_encoder");
    for i in 0..config.n_vae_encoder_layers {
        EncoderLayer::load(config, encoder.pp(format!("layers.{i}")))?;
    }
    if config.pre_norm {
        transformer::norm(config, encoder.pp("norm"))?;
    }
    vb.get((1, width), "vae_encoder_cls_embed.weight")?;
    let mut tokens = 1 + config.chunk_size;
    if config.state_dim() > 0 {
        tokens += 1;
        Linear::load(config.state_dim(), width, vb.pp("vae_encoder_robot_state_input_proj"))?;
    }
    Linear::load(config.action_dim(), width, vb.pp("vae_encoder_action_input_proj"))?;
    Linear::load(width, 2 * config.latent_dim, vb.pp("vae_encoder_latent_output_proj"))?;
    vb.get((1, tokens, width), "vae_encoder_pos_enc")?;
    Ok(())
}

fn check_batch(what: &str, x: &Tensor, batch: usize, rank: usize) -> Result<()> {
    if x.rank() == rank && x.dim(0)? == batch {
        return Ok(());
    }
    let expected = format!("{rank} dimensions, the first {batch}");
    Err(Error::shape(what, expected, x.dims()))
}
