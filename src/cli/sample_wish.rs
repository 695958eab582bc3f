//! What pictures are asked for: flags, over the settings that a PNG holds.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pathline::image::parameters::{self, TEXT_KEY};
use pathline::image::{Settings, Source, png_text};

/// The model where none is named.
const MODEL: &str = "policies/emoji-flow";
/// How much of an initial picture is drawn anew, where nothing is said.
const STRENGTH: f64 = 0.75;

/// Everything that has a say in what is drawn. What is absent is the model's own default.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Picture")]
pub(crate) struct Wish {
    /// Model folder in diffusers' layout, a run of `train`, or a model in the Hugging Face cache, as
    /// a folder or as org/name [default: policies/emoji-flow].
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// What the picture shows.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// What it does not show; needs a --cfg-scale other than 1.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    /// Class, by name or number, of a model that knows classes.
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
    /// Seed of the first picture; picture i has seed + i, in any batch. -1 draws one [default: 0].
    #[arg(short, long, value_name = "S", allow_negative_numbers = true, value_parser = seed)]
    pub(crate) seed: Option<u64>,
    /// Pictures to draw [default: 1].
    #[arg(short, long, value_name = "N")]
    pub(crate) batch_count: Option<usize>,
    /// Height in px; the model's own if absent.
    #[arg(short = 'H', long, value_name = "PX")]
    pub(crate) height: Option<usize>,
    /// Width in px; the model's own if absent.
    #[arg(short = 'W', long, value_name = "PX")]
    pub(crate) width: Option<usize>,
    /// Sampler steps; the model's own if absent.
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) steps: Option<usize>,
    /// euler, euler_ancestral, heun, ddim, ddpm, dpmpp_2m, …; the model's own if absent. A name
    /// that does not exist lists all.
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    pub(crate) sampling_method: Option<String>,
    /// Schedule, the grid of times: karras, exponential, …; the model's own if absent.
    #[arg(long, visible_alias = "schedule", value_name = "NAME", help_heading = "Sampling")]
    pub(crate) scheduler: Option<String>,
    /// How strongly the prompt or class is followed; 1 is as learned.
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    pub(crate) cfg_scale: Option<f64>,
    /// How much of guidance's extra contrast is taken back, 0 to 1 [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    pub(crate) guidance_rescale: Option<f64>,
    /// New noise in each step, 0 to 1, of a sampler that has a choice.
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    pub(crate) eta: Option<f64>,
    /// Decode in tiles, for little memory; large pictures are anyway.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) vae_tiling: bool,
    /// Picture to begin with, PNG.
    #[arg(short, long, value_name = "F", help_heading = "Input files")]
    pub(crate) init_img: Option<PathBuf>,
    /// How much of it is drawn anew, 0 to 1 [default: 0.75].
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Input files")]
    pub(crate) strength: Option<f64>,
    /// Where it is drawn anew: white in a PNG of its size; black stays.
    #[arg(long, value_name = "F", help_heading = "Input files")]
    pub(crate) mask: Option<PathBuf>,
    /// Map of class numbers, for a model that draws from one: a palette or grey PNG.
    #[arg(long, value_name = "F", help_heading = "Input files")]
    pub(crate) segmentation: Option<PathBuf>,
    /// Noise instead of the seed's, safetensors: latents f32 [batch, c, h, w] and, for samplers that
    /// draw in each step, step_noise f32 [steps, batch, c, h, w].
    #[arg(long, value_name = "F", help_heading = "Input files")]
    pub(crate) latents: Option<PathBuf>,
    /// Digests that files named in a PNG must have.
    #[arg(skip)]
    pub(crate) sources: Vec<Source>,
}

fn seed(text: &str) -> Result<u64, String> {
    match text.parse() {
        // Seeds of a fresh hasher come from the system.
        Err(_) if text == "-1" => Ok(RandomState::new().build_hasher().finish() >> 32),
        Ok(seed) => Ok(seed),
        Err(_) => Err("expected 0 to 18446744073709551615, or -1 for any".into()),
    }
}

impl Wish {
    /// What is stored in a PNG: Pathline's own settings, or another tool's `parameters`.
    pub(crate) fn stored(path: &Path) -> anyhow::Result<Self> {
        let texts = png_text::texts(path)?;
        let of_file = || format!("--from-image {}", path.display());
        if let Some(settings) = parameters::settings(&texts).with_context(of_file)? {
            return Ok(Self::from(settings));
        }
        let text = texts.iter().find(|text| text.keyword == TEXT_KEY).with_context(|| {
            let found: Vec<_> = texts.iter().map(|text| text.keyword.as_str()).collect();
            format!("{}: expected settings in the PNG, found the texts {found:?}", of_file())
        })?;
        Self::of_another_tool(&text.text).with_context(of_file)
    }

    /// Its model is not taken: it is a name, and names no folder.
    fn of_another_tool(text: &str) -> pathline::Result<Self> {
        let all = parameters::parse(text);
        let size = all.size()?;
        Ok(Self {
            prompt: Some(all.prompt.clone()).filter(|text| !text.is_empty()),
            negative_prompt: all.negative_prompt.clone(),
            seed: all.number("Seed")?,
            height: size.map(|[height, _]| height),
            width: size.map(|[_, width]| width),
            steps: all.number("Steps")?,
            sampling_method: all.sampler(),
            scheduler: all.schedule(),
            cfg_scale: all.number("CFG scale")?,
            ..Self::default()
        })
    }

    /// This, and from `stored` what is absent.
    pub(crate) fn over(self, stored: Self) -> Self {
        Self {
            model: self.model.or(stored.model),
            prompt: self.prompt.or(stored.prompt),
            negative_prompt: self.negative_prompt.or(stored.negative_prompt),
            class: self.class.or(stored.class),
            seed: self.seed.or(stored.seed),
            batch_count: self.batch_count.or(stored.batch_count),
            height: self.height.or(stored.height),
            width: self.width.or(stored.width),
            steps: self.steps.or(stored.steps),
            sampling_method: self.sampling_method.or(stored.sampling_method),
            scheduler: self.scheduler.or(stored.scheduler),
            cfg_scale: self.cfg_scale.or(stored.cfg_scale),
            guidance_rescale: self.guidance_rescale.or(stored.guidance_rescale),
            eta: self.eta.or(stored.eta),
            vae_tiling: self.vae_tiling || stored.vae_tiling,
            // A file that is named anew may be another one.
            sources: stored.sources,
            init_img: self.init_img.or(stored.init_img),
            strength: self.strength.or(stored.strength),
            mask: self.mask.or(stored.mask),
            segmentation: self.segmentation.or(stored.segmentation),
            latents: self.latents.or(stored.latents),
        }
    }

    /// Refuses what no model can do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let counts = [
            ("--batch-count", self.batch_count, 1000),
            ("--steps", self.steps, 10_000),
            ("--height", self.height, 16_384),
            ("--width", self.width, 16_384),
        ];
        for (flag, value, most) in counts {
            if let Some(value) = value {
                ensure!((1..=most).contains(&value), "{flag}: expected 1 to {most}, got {value}");
            }
        }
        let numbers = [
            ("--cfg-scale", self.cfg_scale, [-1000.0, 1000.0]),
            ("--guidance-rescale", self.guidance_rescale, [0.0, 1.0]),
            ("--eta", self.eta, [0.0, 1.0]),
            ("--strength", self.strength, [0.0, 1.0]),
        ];
        for (flag, value, [from, to]) in numbers {
            if let Some(value) = value {
                ensure!(
                    (from..=to).contains(&value),
                    "{flag}: expected {from} to {to}, got {value}"
                );
            }
        }
        let on_picture = [("--mask", self.mask.is_some()), ("--strength", self.strength.is_some())];
        for (flag, given) in on_picture {
            ensure!(!given || self.init_img.is_some(), "{flag}: expected --init-img beside it");
        }
        Ok(())
    }

    pub(crate) fn model(&self) -> &Path {
        self.model.as_deref().unwrap_or(Path::new(MODEL))
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    pub(crate) fn strength(&self) -> f64 {
        self.strength.unwrap_or(STRENGTH)
    }
}

impl From<Settings> for Wish {
    fn from(settings: Settings) -> Self {
        let path =
            |source: &Option<Source>| source.as_ref().map(|source| PathBuf::from(&source.path));
        let [height, width] = settings.size;
        let files =
            [&settings.init_image, &settings.mask, &settings.segmentation, &settings.latents];
        Self {
            model: Some(PathBuf::from(&settings.model))
                .filter(|model| !model.as_os_str().is_empty()),
            seed: Some(settings.seed),
            batch_count: Some(settings.batch_count),
            height: Some(height),
            width: Some(width),
            steps: Some(settings.steps),
            cfg_scale: Some(settings.cfg_scale),
            guidance_rescale: Some(settings.guidance_rescale),
            eta: Some(settings.eta),
            vae_tiling: settings.vae_tiling,
            strength: settings.strength,
            init_img: path(&settings.init_image),
            mask: path(&settings.mask),
            segmentation: path(&settings.segmentation),
            latents: path(&settings.latents),
            sources: files.into_iter().flatten().cloned().collect(),
            prompt: settings.prompt,
            negative_prompt: settings.negative_prompt,
            class: settings.class,
            sampling_method: Some(settings.sampling_method),
            scheduler: Some(settings.schedule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_over_what_is_stored() {
        let settings = Settings {
            model: "m".into(),
            prompt: Some("apple".into()),
            seed: 7,
            batch_count: 2,
            size: [4, 6],
            steps: 3,
            cfg_scale: 2.5,
            ..Settings::default()
        };
        let stored = Wish::from(settings);
        let flags = Wish { seed: Some(9), width: Some(8), ..Wish::default() };
        let all = flags.over(stored.clone());
        assert_eq!((all.seed(), all.height, all.width), (9, Some(4), Some(8)));
        assert_eq!(Wish::default().over(stored.clone()), stored);
        assert_eq!((all.model(), Wish::default().model()), (Path::new("m"), Path::new(MODEL)));
    }

    #[test]
    fn impossible_wishes_are_refused() {
        let error = |wish: Wish| wish.check().unwrap_err().to_string();
        let wish = Wish::default();
        wish.check().unwrap();
        assert!(error(Wish { steps: Some(0), ..wish.clone() }).contains("--steps: expected 1 to"));
        assert!(error(Wish { steps: Some(1_000_000_000), ..wish.clone() }).contains("--steps"));
        assert!(error(Wish { cfg_scale: Some(f64::NAN), ..wish.clone() }).contains("--cfg-scale"));
        assert!(error(Wish { strength: Some(1.5), ..wish.clone() }).contains("--strength"));
        assert!(error(Wish { strength: Some(0.5), ..wish.clone() }).contains("--init-img"));
        assert!(error(Wish { mask: Some("m".into()), ..wish }).contains("--init-img"));
    }

    #[test]
    fn seeds_are_numbers_or_any() {
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").unwrap() < 1 << 32);
        assert_ne!(seed("-1"), seed("-1"));
        for wrong in ["-2", "", "1.5", "18446744073709551616"] {
            assert!(seed(wrong).is_err(), "{wrong}");
        }
    }
}
