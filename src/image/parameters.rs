//! The text `parameters` in a PNG, as the Stable Diffusion WebUI writes it and many tools read it:
//!
//! ```text
//! red apple
//! Negative prompt: blurry
//! Steps: 20, Sampler: Euler a, CFG scale: 3, Seed: 7, Size: 64x64, Model: emoji-flow
//! ```
//!
//! The last line is `name: value` with commas between; a value with a comma, a colon or a line feed is
//! a JSON string. The form is known from AUTOMATIC1111's `infotext_utils.py` (parse) and
//! `processing.py` (write); stable-diffusion.cpp writes it too. It is ambiguous where a prompt looks like it:
//! [`Settings`] as JSON, kept beside it under [`JSON_KEY`], is not.

use super::png_text::Text;
use super::settings::Settings;
use crate::{Error, Result};

/// Keyword of this text in a PNG.
pub const TEXT_KEY: &str = "parameters";
/// Keyword of the settings as JSON.
pub const JSON_KEY: &str = "pathline";

/// Samplers by our names and by the names that the WebUI shows.
const SAMPLERS: [(&str, &str); 14] = [
    ("euler", "Euler"),
    ("euler_ancestral", "Euler a"),
    ("heun", "Heun"),
    ("dpmpp_2m", "DPM++ 2M"),
    ("dpmpp_2m_sde", "DPM++ 2M SDE"),
    ("ddim", "DDIM"),
    ("ddpm", "DDPM"),
    ("plms", "PLMS"),
    ("lcm", "LCM"),
    // Other names of the same: diffusers' and stable-diffusion.cpp's.
    ("plms", "PNDM"),
    ("euler_ancestral", "euler_a"),
    ("dpmpp_2m", "dpm++2m"),
    ("dpmpp_2m_sde", "dpm++2m_sde"),
    ("ddim", "ddim_trailing"),
];

/// Our name of a sampler that another tool names; any other name as it is.
pub fn sampler_name(name: &str) -> String {
    let known = SAMPLERS.iter().find(|(_, other)| other.eq_ignore_ascii_case(name));
    known.map_or(name, |(ours, _)| ours).to_owned()
}

/// The texts that a picture of these settings carries.
///
/// # Errors
/// When a number is not finite.
pub fn texts(settings: &Settings) -> Result<Vec<Text>> {
    let json = settings.to_json()?;
    Ok(vec![Text::new(TEXT_KEY, write(settings)), Text::new(JSON_KEY, json)])
}

/// The settings among the texts of a PNG that Pathline wrote.
///
/// # Errors
/// When there are some, and they cannot be read.
pub fn settings(texts: &[Text]) -> Result<Option<Settings>> {
    let json = texts.iter().find(|text| text.keyword == JSON_KEY);
    json.map(|text| Settings::from_json(&text.text)).transpose()
}

/// The settings as text for other tools.
pub fn write(settings: &Settings) -> String {
    let s = settings;
    let shown = |name: &str| {
        let known = SAMPLERS.iter().find(|(ours, _)| *ours == name);
        known.map_or(name, |(_, shown)| shown).to_owned()
    };
    let mut fields = vec![
        ("Steps", s.steps.to_string()),
        ("Sampler", shown(&s.sampling_method)),
        ("Schedule type", s.schedule.clone()),
        ("CFG scale", s.cfg_scale.to_string()),
        ("Seed", s.seed.to_string()),
        ("Size", format!("{}x{}", s.size[1], s.size[0])),
        ("Model", last_component(&s.model).to_owned()),
    ];
    let mut more = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    more("Denoising strength", s.strength.map(|x| x.to_string()));
    more("Class", s.class.clone());
    more("Eta", (s.eta > 0.0).then(|| s.eta.to_string()));
    more("Guidance rescale", (s.guidance_rescale > 0.0).then(|| s.guidance_rescale.to_string()));
    more("Batch size", (s.batch_count > 1).then(|| s.batch_count.to_string()));
    more("Version", (!s.version.is_empty()).then(|| format!("pathline {}", s.version)));
    fields.retain(|(_, value)| !value.is_empty());
    let fields = fields.iter().map(|(name, value)| format!("{name}: {}", quoted(value)));
    let mut lines = vec![s.prompt.clone().unwrap_or_default()];
    lines.extend(s.negative_prompt.as_ref().map(|text| format!("Negative prompt: {text}")));
    lines.push(fields.collect::<Vec<_>>().join(", "));
    lines.join("\n")
}

fn last_component(path: &str) -> &str {
    let path = path.trim_end_matches(['/', '\\']);
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn quoted(value: &str) -> String {
    let is_plain = !value.contains([',', ':', '\n', '"']);
    if is_plain { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

/// What such a text says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// What the picture shows; may have several lines.
    pub prompt: String,
    /// What it does not show.
    pub negative_prompt: Option<String>,
    /// Names and values of the last line.
    pub fields: Vec<(String, String)>,
}

/// Reads such a text; what does not look like fields belongs to the prompt.
pub fn parse(text: &str) -> Parameters {
    let mut lines: Vec<&str> = text.trim().lines().collect();
    let mut fields = lines.last().map(|line| fields(line)).unwrap_or_default();
    let is_field =
        |(name, _): &(String, String)| matches!(name.as_str(), "Steps" | "Seed" | "Size");
    if fields.len() >= 3 || fields.iter().any(is_field) {
        lines.pop();
    } else {
        fields.clear();
    }
    let mut all = Parameters { fields, ..Parameters::default() };
    let (mut prompt, mut negative): (Vec<&str>, Option<Vec<&str>>) = (Vec::new(), None);
    for line in lines {
        match (line.trim().strip_prefix("Negative prompt:"), &mut negative) {
            (Some(rest), None) => negative = Some(vec![rest.trim()]),
            (_, Some(negative)) => negative.push(line),
            (None, None) => prompt.push(line),
        }
    }
    all.prompt = prompt.join("\n").trim().to_owned();
    all.negative_prompt = negative.map(|lines| lines.join("\n").trim().to_owned());
    all
}

/// `name: value, name: "va,lue"`; empty where the line is something else.
fn fields(line: &str) -> Vec<(String, String)> {
    let (mut rest, mut found) = (line.trim(), Vec::new());
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once(':') else { break };
        let is_name = |c: char| c.is_alphanumeric() || " _-/+.".contains(c);
        if name.trim().is_empty() || !name.chars().all(is_name) {
            break;
        }
        let after = after.trim_start();
        let mut json = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let (value, used) = match json.next() {
            Some(Ok(value)) if after.starts_with('"') => (value, json.byte_offset()),
            _ => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), end)
            }
        };
        found.push((name.trim().to_owned(), value));
        rest = after[used..].trim_start().trim_start_matches(',').trim_start();
    }
    found
}

impl Parameters {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The number of a field.
    ///
    /// # Errors
    /// When it is there and is no such number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let number = |text: &str| {
            text.parse().map_err(|_| {
                let message = format!("parameters: {name}: expected a number, got {text:?}");
                Error::Invalid(message)
            })
        };
        self.get(name).map(number).transpose()
    }

    /// Height and width.
    ///
    /// # Errors
    /// When they are there and are not `WxH`.
    pub fn size(&self) -> Result<Option<[usize; 2]>> {
        let size = |text: &str| {
            let sides = text.split_once('x').map(|(width, height)| (height.parse(), width.parse()));
            match sides {
                Some((Ok(height), Ok(width))) => Ok([height, width]),
                _ => Err(Error::Invalid(format!("parameters: Size: expected WxH, got {text:?}"))),
            }
        };
        self.get("Size").map(size).transpose()
    }

    /// Our name of the sampler, without a schedule that older tools put behind it.
    pub fn sampler(&self) -> Option<String> {
        let name = self.get("Sampler")?;
        let bare = SCHEDULES.iter().find_map(|schedule| strip_word(name, schedule));
        Some(sampler_name(bare.unwrap_or(name)))
    }

    /// The schedule: a field of its own, or behind the sampler's name.
    pub fn schedule(&self) -> Option<String> {
        let name = self.get("Schedule type").or_else(|| self.get("Scheduler")).or_else(|| {
            let sampler = self.get("Sampler")?;
            SCHEDULES.iter().copied().find(|schedule| strip_word(sampler, schedule).is_some())
        })?;
        (!name.eq_ignore_ascii_case("automatic")).then(|| name.to_lowercase().replace(' ', "_"))
    }
}

/// Schedules that go behind a sampler's name.
const SCHEDULES: [&str; 2] = ["karras", "exponential"];

/// `text` without its last word, where that is `word`.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (rest, last) = text.trim().rsplit_once(' ')?;
    last.eq_ignore_ascii_case(word).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Settings {
        Settings {
            version: "0.1.0".into(),
            model: "policies/emoji-flow/".into(),
            prompt: Some("red apple,\nripe".into()),
            negative_prompt: Some("blurry".into()),
            seed: 7,
            batch_count: 1,
            size: [48, 64],
            steps: 20,
            sampling_method: "euler_ancestral".into(),
            schedule: "karras".into(),
            cfg_scale: 3.5,
            ..Settings::default()
        }
    }

    #[test]
    fn the_text_is_what_other_tools_write() {
        let text = "red apple,\nripe\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, \
                    Schedule type: karras, CFG scale: 3.5, Seed: 7, Size: 64x48, Model: emoji-flow, \
                    Version: pathline 0.1.0";
        assert_eq!(write(&example()), text);
        let texts = texts(&example()).unwrap();
        assert_eq!((texts[0].keyword.as_str(), texts[0].text.as_str()), ("parameters", text));
        assert_eq!(settings(&texts).unwrap(), Some(example()));
        assert_eq!(settings(&texts[..1]).unwrap(), None);
        assert!(settings(&[Text::new("pathline", "{")]).is_err());
    }

    #[test]
    fn what_is_written_is_parsed() {
        let class = Some("T-shirt/top, \"white\": large\n".to_owned());
        let all = parse(&write(&Settings { class: class.clone(), ..example() }));
        assert_eq!(all.prompt, "red apple,\nripe");
        assert_eq!(all.negative_prompt.as_deref(), Some("blurry"));
        assert_eq!(all.get("Class"), class.as_deref());
        assert_eq!(all.number::<usize>("Steps").unwrap(), Some(20));
        assert_eq!(all.number::<f64>("CFG scale").unwrap(), Some(3.5));
        assert_eq!(all.size().unwrap(), Some([48, 64]));
        assert_eq!(all.sampler().as_deref(), Some("euler_ancestral"));
        assert_eq!(all.schedule().as_deref(), Some("karras"));
        assert_eq!(all.number::<usize>("Clip skip").unwrap(), None);
    }

    #[test]
    fn texts_of_other_tools_are_parsed() {
        let text = "masterpiece, cat\nNegative prompt: dog,\nNegative prompt: cow\nSteps: 28, Sampler: DPM++ 2M \
                    Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: ec41bd2a82, \
                    Lora hashes: \"a: b, c: d\", Version: v1.7.0";
        let all = parse(text);
        assert_eq!(all.negative_prompt.as_deref(), Some("dog,\nNegative prompt: cow"));
        assert_eq!(all.sampler().as_deref(), Some("dpmpp_2m"));
        assert_eq!(all.schedule().as_deref(), Some("karras"));
        assert_eq!(all.size().unwrap(), Some([768, 512]));
        assert_eq!(all.get("Lora hashes"), Some("a: b, c: d"));
        assert_eq!(all.get("Version"), Some("v1.7.0"));

        assert_eq!(parse("a cat: white").prompt, "a cat: white");
        assert_eq!(parse("").prompt, "");
        assert_eq!(parse("Steps: 4, Seed: 1").number::<u64>("Seed").unwrap(), Some(1));
        let wrong = parse("x\nSteps: many, Seed: -1, Size: 5");
        assert!(wrong.number::<usize>("Steps").unwrap_err().to_string().contains("many"));
        assert!(wrong.number::<u64>("Seed").is_err() && wrong.size().is_err());
        // Nothing that can be in such a text stops the reading.
        for text in
            ["Steps: \"", "a:\"b\\", ":", "Steps:,:,", "Steps: \"a\"b\", Seed: 1\u{301},Size"]
        {
            parse(text);
        }
    }

    #[test]
    fn names_of_samplers_are_translated() {
        for (other, ours) in [
            ("Euler a", "euler_ancestral"),
            ("euler_a", "euler_ancestral"),
            ("dpm++2m", "dpmpp_2m"),
            ("rk4", "rk4"),
        ] {
            assert_eq!(sampler_name(other), ours);
        }
    }
}
