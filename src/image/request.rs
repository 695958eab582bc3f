//! What is asked of a pipeline, and what it gives back.

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::Tensor;

use super::pipeline::Pipeline;
use super::settings::Settings;

/// Pictures to be drawn; [`Request::default`] is one picture with everything as the folder has it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What they show.
    pub prompt: Option<String>,
    /// What they do not show; needs guidance.
    pub negative_prompt: Option<String>,
    /// Name or number of their class.
    pub class: Option<String>,
    /// A prompt for each picture instead of `prompt`; as many as `batch_count`, or none.
    pub prompts: Vec<String>,
    /// A class for each picture instead of `class`; as many as `batch_count`, or none.
    pub classes: Vec<String>,
    /// Whether latents are decoded in tiles whatever their size, with less memory.
    pub vae_tiling: bool,
    /// Picture i is drawn from the noise of `seed + i`, in a batch of any size.
    pub seed: u64,
    /// How many.
    pub batch_count: usize,
    /// Height and width, px; the folder's own if absent.
    pub size: Option<[usize; 2]>,
    /// Number of steps.
    pub steps: Option<usize>,
    /// Name of the sampler, see [`super::method_names`].
    pub sampling_method: Option<String>,
    /// Name of the schedule, see [`super::plan::SCHEDULES`].
    pub schedule: Option<String>,
    /// Weight s of guidance, `u + s·(c − u)`; 1 is none.
    pub cfg_scale: Option<f64>,
    /// Share of rescaled guidance, 0 to 1.
    pub guidance_rescale: f64,
    /// How much noise of a step is new, for DDIM and flows.
    pub eta: f64,
    /// Layers of the text encoder that are left out at its end, for the prompt; diffusers leaves the
    /// negative prompt whole, and so does this.
    pub clip_skip: usize,
    /// The picture to begin with, `[1, 3, H, W]` in −1 … 1.
    pub init_image: Option<Tensor>,
    /// Share of the steps that are made on it: 1 begins with noise alone.
    pub strength: f64,
    /// What of it is drawn anew, `[1, 1, H, W]`: 1 anew, 0 kept.
    pub mask: Option<Tensor>,
    /// Map of classes `[1, H, W]` u8.
    pub segmentation: Option<Tensor>,
    /// Initial noise `[batch_count, c, h, w]` of unit variance, instead of the seed's.
    pub latents: Option<Tensor>,
    /// Noise of the steps `[steps, batch_count, c, h, w]`, instead of the seed's.
    pub step_noise: Option<Tensor>,
    /// Noise `[1 or batch_count, c, h, w]` that draws the initial picture's latents from the
    /// autoencoder's posterior, as diffusers does; its mean is taken if absent.
    pub encoder_noise: Option<Tensor>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: None,
            negative_prompt: None,
            class: None,
            prompts: Vec::new(),
            classes: Vec::new(),
            seed: 0,
            batch_count: 1,
            size: None,
            steps: None,
            sampling_method: None,
            schedule: None,
            cfg_scale: None,
            guidance_rescale: 0.0,
            eta: 0.0,
            clip_skip: 0,
            vae_tiling: false,
            init_image: None,
            // stable-diffusion.cpp's.
            strength: 0.75,
            mask: None,
            segmentation: None,
            latents: None,
            step_noise: None,
            encoder_noise: None,
        }
    }
}

/// Where the sampler is, after every step.
pub struct Progress<'a> {
    /// Steps made, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Since the first step began.
    pub elapsed: Duration,
    /// The state `[batch, c, h, w]`, which still has noise in it.
    pub latents: &'a Tensor,
    /// What the network takes the finished latents to be: the better preview.
    pub estimate: &'a Tensor,
    /// For [`Pipeline::preview`].
    pub pipeline: &'a Pipeline,
}

/// Finished pictures.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// What the sampler ended with, `[batch, c, h, w]`.
    pub latents: Tensor,
    /// `[batch, 3, H, W]` in −1 … 1.
    pub image: Tensor,
    /// What was really used.
    pub settings: Settings,
    /// Forward passes of the network for each picture; with guidance two a call.
    pub evaluations: usize,
    /// Seconds of each stage: `encode`, `sample`, `decode`.
    pub seconds: BTreeMap<String, f64>,
    /// The end of a prompt that was cut off; empty if nothing was.
    pub cut: String,
}
