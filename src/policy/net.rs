//! The network of a policy, whatever its type, with chunks as they lie in a batch.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::act::{ActInputs, ActNet};
use super::config::{
    ActConfig, ENVIRONMENT_STATE, FeatureEncoder, FlowConfig, Network, PolicyConfig, STATE,
};
use super::diffusion::DiffusionNet;
use super::features;
use super::processor::Inputs;
use crate::nn::mlp::FlowMlp;
use crate::nn::unet1d::UNet1d;
use crate::{Error, Result};

/// A loaded network.
pub struct Net {
    body: Body,
    time_scale: f64,
}

enum Body {
    Mlp(Box<FlowMlp>, Encoder),
    Unet(Box<UNet1d>, Encoder),
    Diffusion(Box<DiffusionNet>),
    Act(Box<ActNet>, Box<ActConfig>),
}

/// How a history becomes the features of a flow policy.
struct Encoder {
    encoder: FeatureEncoder,
    n_obs_steps: usize,
    dims: [usize; 2],
}

impl Encoder {
    fn new(config: &FlowConfig) -> Self {
        let signature = config.signature();
        Self {
            encoder: config.feature_encoder.clone(),
            n_obs_steps: config.n_obs_steps,
            dims: [signature.state_dim(), signature.environment_dim()],
        }
    }

    fn features(&self, batch: &[Inputs], device: &Device) -> Result<Tensor> {
        let mut out = Vec::new();
        for inputs in batch {
            let mut flat = Vec::new();
            for step in 0..self.n_obs_steps {
                for (key, dim) in [STATE, ENVIRONMENT_STATE].into_iter().zip(self.dims) {
                    let values = inputs.get(key).map_or(&[][..], |input| &input.data);
                    let row = values.get(step * dim..(step + 1) * dim);
                    flat.extend_from_slice(row.unwrap_or_default());
                }
            }
            features::encode(&self.encoder, &flat, self.n_obs_steps, &mut out);
        }
        let len = out.len() / batch.len().max(1);
        Ok(Tensor::from_vec(out, (batch.len(), len), device)?)
    }
}

impl Net {
    /// Builds the network that `config` describes.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has one of another shape.
    pub fn load(config: &PolicyConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let time_scale = config.process()?.map_or(1.0, |process| process.time_scale);
        let body = match config {
            PolicyConfig::Flow(flow) => Self::flow(flow, vb)?,
            PolicyConfig::Diffusion(config) => {
                Body::Diffusion(Box::new(DiffusionNet::load(config, &vb)?))
            }
            PolicyConfig::Act(config) => {
                Body::Act(Box::new(ActNet::load(config, vb)?), config.clone())
            }
        };
        Ok(Self { body, time_scale })
    }

    fn flow(config: &FlowConfig, vb: VarBuilder<'_>) -> Result<Body> {
        let features = features_of(config);
        let signature = config.signature();
        let action_dim = signature.action_dim();
        let encoder = Encoder::new(config);
        Ok(match &config.network {
            Network::Mlp(mlp) => {
                let shape = [config.horizon, action_dim];
                Body::Mlp(Box::new(FlowMlp::load(mlp, features, shape, vb)?), encoder)
            }
            Network::Unet1d(unet) => {
                if unet.action_dim != action_dim || unet.cond_dim != features {
                    return Err(Error::Invalid(format!(
                        "network unet1d: expected action_dim {action_dim} and cond_dim {features}, \
                         got {} and {}",
                        unet.action_dim, unet.cond_dim
                    )));
                }
                Body::Unet(Box::new(UNet1d::load(unet, vb)?), encoder)
            }
        })
    }

    /// What the network needs of a batch of histories; once per observation. Of a policy without noise
    /// it is the chunk.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn context(&self, batch: &[Inputs], device: &Device) -> Result<Tensor> {
        match &self.body {
            Body::Mlp(_, encoder) | Body::Unet(_, encoder) => {
                self.encode(&encoder.features(batch, device)?)
            }
            Body::Diffusion(net) => net.condition(batch, device),
            Body::Act(net, config) => net.forward(&ActInputs::gather(config, batch, device)?),
        }
    }

    /// The context from features `[b, features]` as training makes them.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn encode(&self, features: &Tensor) -> Result<Tensor> {
        Ok(match &self.body {
            Body::Mlp(mlp, _) => mlp.encode(features)?,
            Body::Unet(..) | Body::Diffusion(_) | Body::Act(..) => features.clone(),
        })
    }

    /// What the network emits for `x_t` `[b, horizon, action_dim]` at the path's own times, one a
    /// sample.
    ///
    /// # Errors
    /// When a shape is another.
    pub fn predict(&self, context: &Tensor, x_t: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.predict_rows(context, x_t, t, None)
    }

    /// Whether each row of a chunk may have a time of its own.
    pub fn takes_row_times(&self) -> bool {
        matches!(&self.body, Body::Mlp(mlp, _) if mlp.takes_token_times())
    }

    /// As [`Net::predict`], with the path's own time of each row, `b·horizon` of them, for a network
    /// that takes such ([`Net::takes_row_times`]).
    ///
    /// # Errors
    /// When the network does not, or a shape is another.
    pub fn predict_rows(
        &self,
        context: &Tensor,
        x_t: &Tensor,
        t: &[f64],
        rows: Option<&[f64]>,
    ) -> Result<Tensor> {
        let scaled = |t: &[f64]| -> Vec<f64> { t.iter().map(|t| t * self.time_scale).collect() };
        let time = scaled(t);
        if let Some(rows) = rows {
            if !self.takes_row_times() {
                return Err(Error::Invalid(
                    "network: expected one with a time for each row (token_embed_dim above 0, trained with \
                     rtc_training_max_delay), got one with a time for the chunk; rtc_identity and \
                     rtc_vjp join the chunks of any network"
                        .into(),
                ));
            }
            let (b, h, _) = x_t.dims3()?;
            if rows.len() != b * h {
                return Err(Error::shape("times of the rows", [b, h], rows.len()));
            }
        }
        match &self.body {
            Body::Mlp(mlp, _) => {
                let x = x_t.flatten_from(1)?;
                let flat = mlp.velocity(context, &x, &time, rows.map(scaled).as_deref())?;
                Ok(flat.reshape(x_t.shape())?)
            }
            Body::Unet(unet, _) => unet_at(unet, context, x_t, &time),
            Body::Diffusion(net) => net.predict(context, x_t, &time),
            Body::Act(..) => Err(Error::Invalid("act: this policy needs no noise".into())),
        }
    }

    /// The network of a DiffusionPolicy, if it is one.
    pub fn diffusion(&self) -> Option<&DiffusionNet> {
        match &self.body {
            Body::Diffusion(net) => Some(net),
            _ => None,
        }
    }

    /// The chunk of a policy that needs no noise.
    ///
    /// # Errors
    /// When the policy needs some.
    pub fn direct(&self, context: &Tensor) -> Result<Tensor> {
        match &self.body {
            Body::Act(..) => Ok(context.clone()),
            _ => Err(Error::Invalid("this policy makes chunks from noise".into())),
        }
    }
}

/// What a UNet emits at network times on the host.
pub(super) fn unet_at(
    unet: &UNet1d,
    context: &Tensor,
    x_t: &Tensor,
    time: &[f64],
) -> Result<Tensor> {
    let time: Vec<f32> = time.iter().map(|&t| t as f32).collect();
    let time = Tensor::from_vec(time, x_t.dim(0)?, x_t.device())?;
    unet.forward(x_t, &time, context)
}

fn features_of(config: &FlowConfig) -> usize {
    let signature = config.signature();
    features::len(
        &config.feature_encoder,
        config.n_obs_steps,
        signature.state_dim(),
        signature.environment_dim(),
    )
}

/// Number of features that training makes for the network of `config`.
pub fn feature_len(config: &PolicyConfig) -> usize {
    match config {
        PolicyConfig::Flow(flow) => features_of(flow),
        PolicyConfig::Diffusion(config) => config.unet().cond_dim,
        PolicyConfig::Act(_) => 0,
    }
}
