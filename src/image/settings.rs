//! What a picture was made with: enough to make it again.
//!
//! The pipeline fills in what it really used, defaults included; who read the files adds `model` and
//! the sources. Kept in PNG files as JSON under the keyword `pathline`, and as text for other tools
//! (see `parameters`).

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Every choice behind a picture or a batch of pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of Pathline; empty until the picture is written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Folder of the model, as the user named it; empty where the pipeline was not told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What the picture shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What it does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Name of the class, as the model spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Seed of the first picture; picture i has `seed + i`, counted around.
    pub seed: u64,
    /// Pictures in the batch.
    pub batch_count: usize,
    /// Height and width, px.
    pub size: [usize; 2],
    /// Sampler steps from noise to data; with an initial picture only a share of them is walked.
    pub steps: usize,
    /// Name of the sampler.
    pub sampling_method: String,
    /// Name of the schedule, the grid of times.
    pub schedule: String,
    /// Weight s of guidance, `u + s·(c − u)`; 1 is none.
    pub cfg_scale: f64,
    /// Share of rescaled guidance, 0 to 1.
    #[serde(default)]
    pub guidance_rescale: f64,
    /// How much noise of a step is new: 0 is the ODE, 1 ancestral.
    #[serde(default)]
    pub eta: f64,
    /// How much of the initial picture is drawn anew, 0 to 1; only with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Whether latents were decoded in tiles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vae_tiling: bool,
    /// The picture that img2img began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_image: Option<Source>,
    /// What of it was drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Source>,
    /// The map of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Source>,
    /// The file that held the noise; the seed has no say then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<Source>,
}

/// A file that went into a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// As the user named it.
    pub path: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

impl Settings {
    /// The settings of picture `i` alone. With noise from a file they are those of the whole batch,
    /// since no seed makes that picture.
    #[must_use]
    pub fn of_picture(&self, i: usize) -> Self {
        let mut one = self.clone();
        if self.latents.is_none() {
            one.seed = self.seed.wrapping_add(i as u64);
            one.batch_count = 1;
        }
        one
    }

    /// As one line of JSON.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn to_json(&self) -> Result<String> {
        let numbers =
            [self.cfg_scale, self.guidance_rescale, self.eta, self.strength.unwrap_or(0.0)];
        if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
            return Err(Error::range("settings", "finite numbers", *number));
        }
        serde_json::to_string(self).map_err(|e| Error::Invalid(format!("settings: {e}")))
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// When it is another text, or holds a key that this version does not know.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| {
            Error::Invalid(format!("settings: expected the JSON that Pathline stores, got {e}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Settings {
        Settings {
            version: "0.1.0".into(),
            model: "policies/emoji-flow".into(),
            prompt: Some("red apple, \"ripe\"\n".into()),
            seed: u64::MAX,
            batch_count: 4,
            size: [64, 48],
            steps: 20,
            sampling_method: "heun".into(),
            schedule: "karras".into(),
            cfg_scale: 3.1,
            strength: Some(0.75),
            init_image: Some(Source { path: "a b.png".into(), sha256: "00".repeat(32) }),
            ..Settings::default()
        }
    }

    #[test]
    fn json_gives_the_same_settings_back() {
        let text = example().to_json().unwrap();
        assert!(!text.contains("null") && !text.contains('\n'), "{text}");
        assert_eq!(Settings::from_json(&text).unwrap(), example());
        let wrong = text.replace("\"seed\"", "\"sede\"");
        assert!(Settings::from_json(&wrong).unwrap_err().to_string().contains("sede"));
        assert!(Settings { cfg_scale: f64::NAN, ..example() }.to_json().is_err());
    }

    #[test]
    fn a_picture_of_a_batch_has_its_own_seed() {
        let second = example().of_picture(1);
        assert_eq!((second.seed, second.batch_count), (0, 1));
        let drawn = Settings { latents: Some(Source::default()), ..example() };
        assert_eq!(drawn.of_picture(1), drawn);
    }
}
