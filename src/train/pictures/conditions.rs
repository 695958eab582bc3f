//! What a denoiser is told about a picture while it is trained: class, caption or map.
//!
//! A share of classes and captions is hidden, so that the same network also knows the plain
//! distribution, which guidance needs (Ho and Salimans 2022). A hidden class is one of its own, behind
//! the others; a hidden caption is the empty one.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::order::draw;
use super::recipe::ConditionConfig;
use crate::dataset::pictures::Pictures;
use crate::flow::Noise;
use crate::image::Tokenizer;
use crate::image::segmentation::{Rescaler, RescalerConfig};
use crate::nn::clip::{ClipTextConfig, ClipTextEncoder};
use crate::nn::condition::Condition;
use crate::{Error, Result};

/// Names of the parts in a run's parameters, as in a diffusers folder.
pub(super) const TEXT_ENCODER: &str = "text_encoder";
pub(super) const RESCALER: &str = "segmentation_rescaler";

/// What does not change during a run.
pub(super) enum Conditions {
    None,
    Class {
        dropout: f64,
        /// The hidden class.
        null: u32,
    },
    Text {
        dropout: f64,
        tokenizer: Box<Tokenizer>,
        config: ClipTextConfig,
        /// Tokens of every caption.
        captions: Vec<Vec<u32>>,
        /// Tokens of the empty one.
        empty: Vec<u32>,
    },
    Segmentation {
        config: RescalerConfig,
    },
}

/// The networks that make the condition, trained with the denoiser.
pub(super) enum Encoder {
    None,
    Text(Box<ClipTextEncoder>),
    Map(Rescaler),
}

impl Conditions {
    /// `factor` is that of the pictures' sides to the latents'; a `tokenizer` that is given is not trained.
    pub(super) fn new(
        config: &ConditionConfig,
        pictures: &Pictures,
        factor: usize,
        tokenizer: Option<Tokenizer>,
    ) -> Result<Self> {
        let missing = |what: &str| {
            Error::Invalid(format!("model.condition: expected pictures with {what}, got none"))
        };
        match config {
            ConditionConfig::None {} => Ok(Self::None),
            ConditionConfig::Class { dropout } => {
                if pictures.labels.is_empty() {
                    return Err(missing("classes"));
                }
                Ok(Self::Class { dropout: *dropout, null: pictures.classes.len() as u32 })
            }
            ConditionConfig::Text { dropout, encoder, vocab_size } => {
                if pictures.captions.is_empty() {
                    return Err(missing("captions"));
                }
                // The vocabulary may know the words of captions that are held out: they are parts of
                // others.
                let length = encoder.max_position_embeddings;
                let texts = pictures.captions.iter().map(String::as_str);
                let train = || Tokenizer::train(texts, *vocab_size, length);
                let tokenizer = tokenizer.map_or_else(train, Ok)?;
                let config = ClipTextConfig {
                    vocab_size: tokenizer.vocab_size(),
                    eos_token_id: tokenizer.eos(),
                    bos_token_id: tokenizer.bos(),
                    pad_token_id: tokenizer.pad(),
                    ..encoder.clone()
                };
                let captions = pictures.captions.iter().map(|caption| tokenizer.encode(caption));
                Ok(Self::Text {
                    dropout: *dropout,
                    captions: captions.collect::<Result<_>>()?,
                    empty: tokenizer.encode("")?,
                    tokenizer: Box::new(tokenizer),
                    config,
                })
            }
            ConditionConfig::Segmentation { channels } => {
                if pictures.maps.is_empty() {
                    return Err(missing("maps"));
                }
                let classes = pictures.map_classes.len();
                let config = RescalerConfig { classes, factor, channels: *channels };
                Ok(Self::Segmentation { config })
            }
        }
    }

    /// The trained part, from `vb` of the whole run.
    pub(super) fn encoder(&self, vb: &VarBuilder<'_>) -> Result<Encoder> {
        Ok(match self {
            Self::None | Self::Class { .. } => Encoder::None,
            Self::Text { config, .. } => {
                Encoder::Text(Box::new(ClipTextEncoder::load(config, vb.pp(TEXT_ENCODER))?))
            }
            Self::Segmentation { config } => Encoder::Map(Rescaler::load(config, vb.pp(RESCALER))?),
        })
    }

    /// The condition of the pictures `indices`; `first` is the number of the first sample in the run.
    pub(super) fn batch(
        &self,
        encoder: &Encoder,
        pictures: &Pictures,
        indices: &[usize],
        (noise, first): (&Noise, u64),
        device: &Device,
    ) -> Result<Condition> {
        let hidden =
            |i: usize, dropout: f64| noise.uniform(first + i as u64, draw::DROPOUT) < dropout;
        let mut condition = Condition::default();
        match (self, encoder) {
            (Self::Class { dropout, null }, _) => {
                let class = |(i, &index): (usize, &usize)| {
                    if hidden(i, *dropout) { *null } else { pictures.labels[index] }
                };
                condition.class = Some(indices.iter().enumerate().map(class).collect());
            }
            (Self::Text { dropout, captions, empty, .. }, Encoder::Text(encoder)) => {
                let ids = indices.iter().enumerate().flat_map(|(i, &index)| {
                    if hidden(i, *dropout) { empty } else { &captions[index] }
                });
                let ids: Vec<u32> = ids.copied().collect();
                let ids = Tensor::from_vec(ids, (indices.len(), empty.len()), device)?;
                condition.tokens = Some(encoder.forward(&ids)?.last_hidden_state);
            }
            (Self::Segmentation { .. }, Encoder::Map(rescaler)) => {
                let maps = pictures.map_batch(indices)?.to_device(device)?;
                condition.concat = Some(rescaler.forward(&maps)?);
            }
            _ => {}
        }
        Ok(condition)
    }
}
