//! Chunks that continue what is being played: real-time chunking inside the policy.
//!
//! The robot says what is still to be played and how many rows of it will be played before the answer is
//! there ([`Continuation`]). These rows are brought into the network's units, anew against the newest
//! state where actions are relative, and lie in the new chunk at their own ticks. How firmly each is
//! held is [`Prefix::weights`]; how it is held is [`crate::flow::Known`]:
//!
//! | form | mask | how |
//! |---|---|---|
//! | `identity` | 1 for the first `delay` rows, falling to 0 at `execution_horizon` | guided, LeRobot's derivative |
//! | `vjp` | the same | guided, the true derivative: a backward pass an evaluation |
//! | `prefix` | 1 for the first `delay` rows, else 0 | clean rows with time 0, for a network trained so |
//! | `overlap` | the same as identity | the chunk begins at them; the velocity is 0 on the frozen rows and ramped after |
//!
//! Rows that nothing is left for have weight 0: nothing is padded with a pose that was never meant.
//! Sources: Black et al. 2025 (arXiv 2506.07339, 2512.05964); LeRobot 0.4.4
//! `policies/rtc/{modeling_rtc,configuration_rtc}.py`; GR00T N1.7 `groot_n1_7.py` for `overlap`.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::Observation;
use super::config::Signature;
use super::process::Steer;
use super::processor::Processor;
use crate::action::{Continuation, Form};
use crate::flow::known::{Derivative, Hold, Mode};
use crate::flow::{Known, Prefix};
use crate::{Error, Result};

/// LeRobot's `rtc_config`, with its names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtcConfig {
    /// How the weight falls after the rows that will be played.
    pub prefix_attention_schedule: Prefix,
    /// Largest weight of the guidance. The number of solver steps if absent: a step of length 1/n with a
    /// larger weight overshoots the rows it is guided to. LeRobot's 10 goes with its 10 steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_guidance_weight: Option<f64>,
    /// Rows of the new chunk that are held to the old one at all.
    pub execution_horizon: usize,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self {
            prefix_attention_schedule: Prefix::Linear,
            max_guidance_weight: None,
            execution_horizon: 10,
        }
    }
}

impl RtcConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the first that makes no sense.
    pub fn validate(&self) -> Result<()> {
        if let Some(weight) = self.max_guidance_weight
            && !(weight.is_finite() && weight > 0.0)
        {
            let expected = "a finite number above 0";
            return Err(Error::range("rtc_config.max_guidance_weight", expected, weight));
        }
        if !(1..=1024).contains(&self.execution_horizon) {
            let got = self.execution_horizon as f64;
            return Err(Error::range("rtc_config.execution_horizon", "1 to 1024", got));
        }
        Ok(())
    }
}

/// What the chunks of a batch continue.
#[derive(Clone, Copy, Debug)]
pub struct Continuing<'a> {
    /// How.
    pub form: Form,
    /// Schedule, weight and length.
    pub config: &'a RtcConfig,
    /// One for each history; `None` for a chunk that stands alone.
    pub chunks: &'a [Option<&'a Continuation>],
    /// Most rows that the network was trained to be given ([`Form::Prefix`]).
    pub max_delay: usize,
}

/// Speed of the ramp of [`Form::Overlap`]: GR00T's.
const RAMP_RATE: f64 = 6.0;

impl Continuing<'_> {
    /// Rows of chunk `i` that are held fast: those that will be played before it is there.
    pub fn frozen(&self, i: usize, action_dim: usize) -> usize {
        let Some(Some(chunk)) = self.chunks.get(i) else { return 0 };
        let rows = chunk.left_over.len() / action_dim.max(1);
        let rows = if self.form == Form::Prefix { rows.min(self.max_delay) } else { rows };
        chunk.delay.min(rows)
    }

    /// What holds the chunks of `histories`, all of which continue something, in a sampler of `steps`
    /// steps.
    pub(super) fn steer(
        &self,
        histories: &[&[Observation]],
        signature: &Signature,
        processor: &Processor,
        steps: usize,
        device: &Device,
    ) -> Result<Steer> {
        let (h, d) = (signature.horizon, signature.action_dim());
        let (mut values, mut weights) = (Vec::new(), Vec::new());
        for (i, history) in histories.iter().enumerate() {
            let Some(Some(chunk)) = self.chunks.get(i) else {
                return Err(Error::Invalid(
                    "continuation: expected one a history, got none".into(),
                ));
            };
            let rows = check(chunk, d, signature.rows())?;
            let start = values.len();
            // Rows without a value have no weight; a value in range keeps the numbers tame.
            for row in 0..h {
                let at = row.saturating_sub(signature.first_row).min(rows - 1);
                values.extend_from_slice(&chunk.left_over[at * d..(at + 1) * d]);
            }
            let state = history.last().map_or(&[][..], |newest| &newest.state);
            processor.normalize_actions(state, &mut values[start..]);
            weights.extend(vec![0.0; signature.first_row]);
            weights.extend(self.weights(i, rows, d, signature.rows()));
        }
        let b = histories.len();
        let weights: Vec<f32> = weights.into_iter().map(|w| w as f32).collect();
        let mask = Tensor::from_vec(weights, (b, h, 1), device)?;
        let value = Tensor::from_vec(values, (b, h, d), device)?;
        let mode = match self.form {
            Form::Overlap => return Steer::ramp(&mask, value),
            Form::Prefix => Mode::Clamp(Hold::Clean),
            Form::Identity | Form::Vjp => Mode::Guided {
                derivative: match self.form {
                    Form::Vjp => Derivative::Vjp,
                    _ => Derivative::Identity,
                },
                max_guidance_weight: self.config.max_guidance_weight.unwrap_or(steps as f64),
            },
        };
        Known::new(mask, value, mode).map(Steer::Known)
    }

    /// How firmly each of `horizon` rows is held, for `rows` rows that are left over.
    fn weights(&self, i: usize, rows: usize, action_dim: usize, horizon: usize) -> Vec<f64> {
        let frozen = self.frozen(i, action_dim);
        let end = self.config.execution_horizon.min(rows);
        match self.form {
            Form::Identity | Form::Vjp => {
                self.config.prefix_attention_schedule.weights(frozen, end, horizon)
            }
            Form::Prefix => Prefix::Zeros.weights(frozen, frozen, horizon),
            Form::Overlap => {
                let end = end.max(frozen);
                let ramp = |row: usize| {
                    let place = (row + 1 - frozen) as f64 / (end - frozen + 1) as f64;
                    1.0 - (-RAMP_RATE * place).exp_m1() / (-RAMP_RATE).exp_m1()
                };
                let weight = |row: usize| match row {
                    row if row < frozen => 1.0,
                    row if row < end => ramp(row),
                    _ => 0.0,
                };
                (0..horizon).map(weight).collect()
            }
        }
    }
}

/// Number of rows that are left over; an error unless they are whole, finite and not too many.
fn check(chunk: &Continuation, dim: usize, horizon: usize) -> Result<usize> {
    let len = chunk.left_over.len();
    let whole = dim > 0 && len.is_multiple_of(dim);
    if !whole || !(1..=horizon).contains(&(len / dim)) {
        let expected = format!("[1 to {horizon}, {dim}]");
        return Err(Error::shape("continuation: left_over", expected, format!("{len} values")));
    }
    if chunk.left_over.iter().all(|value| value.is_finite()) {
        return Ok(len / dim);
    }
    Err(Error::Invalid(
        "continuation: left_over: expected finite values, got NaN or infinity".into(),
    ))
}
