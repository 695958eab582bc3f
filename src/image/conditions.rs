//! What a request tells the network: of every picture, under the condition and under the negative one.

use candle_core::Tensor;

use super::pipeline::Pipeline;
use super::request::Request;
use crate::nn::condition::Condition;
use crate::{Error, Result};

/// Conditions of a batch.
pub(super) struct Conditions {
    /// Under the condition alone, `[b, ..]`.
    pub(super) alone: Condition,
    /// The negative condition and then the condition, `[2b, ..]`.
    pub(super) pairs: Option<Condition>,
    /// The end of a prompt that was cut off.
    pub(super) cut: String,
}

/// One value for each picture.
fn each<'a>(
    what: &str,
    one: Option<&'a str>,
    many: &'a [String],
    batch: usize,
) -> Result<Vec<&'a str>> {
    match (one, many) {
        (Some(_), [_, ..]) => {
            Err(Error::Invalid(format!("{what}: expected one for all or one each, got both")))
        }
        (one, []) => {
            Ok(one.into_iter().cycle().take(if one.is_some() { batch } else { 0 }).collect())
        }
        (None, many) if many.len() == batch => Ok(many.iter().map(String::as_str).collect()),
        (None, many) => Err(Error::Invalid(format!(
            "{what}: expected one for each of {batch} pictures, got {}",
            many.len()
        ))),
    }
}

impl Pipeline {
    /// Whether guidance has something to lead away from.
    pub(super) fn can_guide(&self) -> bool {
        self.text().is_some() || (self.classes().any() && self.classes().null().is_some())
    }

    /// Whether the request names anything that is drawn.
    pub(super) fn is_asked(request: &Request) -> bool {
        request.prompt.is_some()
            || request.class.is_some()
            || !request.prompts.is_empty()
            || !request.classes.is_empty()
    }

    /// The class of each picture.
    pub(super) fn class_ids(&self, request: &Request) -> Result<Option<Vec<u32>>> {
        let batch = request.batch_count;
        let names = each("class", request.class.as_deref(), &request.classes, batch)?;
        if !self.classes().any() {
            return match names.first() {
                None => Ok(None),
                Some(name) => Err(Error::Invalid(format!(
                    "class: expected none, since this model has no classes, got {name:?}"
                ))),
            };
        }
        if names.is_empty() {
            return match self.classes().null() {
                Some(null) => Ok(Some(vec![null; batch])),
                None => Err(self.classes().unknown("")),
            };
        }
        names.into_iter().map(|name| self.classes().find(name)).collect::<Result<_>>().map(Some)
    }

    /// The conditions of a request; pairs where it is `guided`. `concat` is what goes behind the latents'
    /// channels, `[b, ..]`.
    pub(super) fn conditions(
        &self,
        request: &Request,
        guided: bool,
        concat: Option<Tensor>,
    ) -> Result<Conditions> {
        let batch = request.batch_count;
        let class = self.class_ids(request)?;
        let (tokens, negative, cut) = self.tokens(request)?;
        let alone = Condition { tokens, mask: None, class, concat };
        let pairs = match guided {
            false => None,
            true => {
                let two = |a: Option<&Tensor>, b: Option<&Tensor>| match (a, b) {
                    (Some(a), Some(b)) => Tensor::cat(&[a, b], 0).map(Some),
                    _ => Ok(None),
                };
                let (tokens, concat) = (alone.tokens.as_ref(), alone.concat.as_ref());
                let class = alone.class.as_ref().map(|class| {
                    // Where there is no empty class the text alone is guided.
                    let other =
                        self.classes().null().map_or_else(|| class.clone(), |n| vec![n; batch]);
                    [other, class.clone()].concat()
                });
                let tokens = two(negative.as_ref(), tokens)?;
                Some(Condition { tokens, mask: None, class, concat: two(concat, concat)? })
            }
        };
        Ok(Conditions { alone, pairs, cut })
    }

    /// Tokens of the prompts and of the negative prompt, each `[b, s, d]`.
    fn tokens(&self, request: &Request) -> Result<(Option<Tensor>, Option<Tensor>, String)> {
        let batch = request.batch_count;
        let mut prompts = each("prompt", request.prompt.as_deref(), &request.prompts, batch)?;
        let Some((encoder, tokenizer)) = self.text() else {
            let given = prompts.first().copied().or(request.negative_prompt.as_deref());
            return match given {
                None => Ok((None, None, String::new())),
                Some(prompt) => {
                    let hint = if self.classes().any() { "; it takes a class" } else { "" };
                    Err(Error::Invalid(format!(
                        "prompt: expected none, since this model has no text encoder{hint}, got {prompt:?}"
                    )))
                }
            };
        };
        if prompts.is_empty() {
            prompts = vec![""; batch];
        }
        // Every text once: most batches show one.
        let mut texts: Vec<&str> = prompts.clone();
        texts.sort_unstable();
        texts.dedup();
        let negative = request.negative_prompt.as_deref().unwrap_or("");
        let mut cut = String::new();
        let mut ids = Vec::with_capacity(texts.len() + 1);
        for text in texts.iter().chain([&negative]) {
            let tokens = tokenizer.tokens(text)?;
            if cut.is_empty() {
                cut = tokens.cut;
            }
            ids.push(tokens.ids);
        }
        let text = encoder.forward(&encoder.ids(&ids, self.device())?)?;
        let states = encoder.skipped(&text, request.clip_skip)?;
        let row = |states: &Tensor, i: usize| states.narrow(0, i, 1);
        let rows = prompts
            .iter()
            .map(|prompt| row(&states, texts.iter().position(|text| text == prompt).unwrap_or(0)));
        let rows = rows.collect::<candle_core::Result<Vec<_>>>()?;
        let negative = row(&text.last_hidden_state, texts.len())?;
        let negative = vec![negative; batch];
        Ok((Some(Tensor::cat(&rows, 0)?), Some(Tensor::cat(&negative, 0)?), cut))
    }
}
