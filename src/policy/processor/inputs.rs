//! Observations as the network sees them: checked, renamed, normalised.
//!
//! A picture becomes f32 `[3, height, width]`, value/255 (LeRobot `policies/utils.py`,
//! `prepare_observation_for_inference`), and is normalised a channel at a time. Keys of raw
//! observations are `observation.state`, `observation.environment_state` and for a picture called
//! `top` `observation.images.top` or `observation.top`; `rename_map` is about them.

use super::Processor;
use crate::action::{Picture, PolicyObs};
use crate::policy::config::{ENVIRONMENT_STATE, Feature, FeatureType, STATE};
use crate::{Error, Result};

/// One input feature of a whole history, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The policy's key.
    pub key: String,
    /// What it is.
    pub kind: FeatureType,
    /// `[n_obs, D]`, or `[n_obs, 3, height, width]` for a camera.
    pub shape: Vec<usize>,
    /// Row by row, oldest observation first.
    pub data: Vec<f32>,
}

/// Every input feature, in the order of config.json.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(pub Vec<Input>);

impl Inputs {
    /// The input `key`.
    pub fn get(&self, key: &str) -> Option<&Input> {
        self.0.iter().find(|input| input.key == key)
    }

    /// The cameras, in order.
    pub fn cameras(&self) -> impl Iterator<Item = &Input> {
        self.0.iter().filter(|input| input.kind == FeatureType::Visual)
    }
}

impl Processor {
    /// One observation, as a history of one.
    ///
    /// # Errors
    /// As [`Processor::inputs`].
    pub fn observation(&self, observation: &PolicyObs) -> Result<Inputs> {
        self.inputs(std::slice::from_ref(observation))
    }

    /// A history of observations, oldest first. Features of a task in words are left out.
    ///
    /// # Errors
    /// When an observation lacks a feature, has another shape, or a number that is not finite. The
    /// error names the feature. What no feature is for is not looked at: a robot says what it has.
    pub fn inputs(&self, history: &[PolicyObs]) -> Result<Inputs> {
        let wanted = self.features.iter().filter(|(_, f)| f.kind != FeatureType::Language);
        let mut inputs = Vec::with_capacity(self.features.len());
        for (key, feature) in wanted {
            // Grows as observations turn out to fit: nothing is taken for a shape alone.
            let mut data = Vec::new();
            for observation in history {
                match feature.kind {
                    FeatureType::Visual => self.picture(key, feature, observation, &mut data)?,
                    _ => self.vector(key, feature, observation, &mut data)?,
                }
            }
            if let Some(map) = self.inputs.get(key) {
                map.normalize(&mut data);
            }
            if !data.iter().all(|value| value.is_finite()) {
                let reason = format!("{key}: not finite after normalising; check its statistics");
                return Err(Error::Rejected { reason });
            }
            let shape = [&[history.len()], feature.shape.as_slice()].concat();
            inputs.push(Input { key: key.clone(), kind: feature.kind, shape, data });
        }
        Ok(Inputs(inputs))
    }

    /// The policy's key of a raw key.
    fn renamed<'a>(&'a self, raw: &'a str) -> &'a str {
        self.rename.get(raw).map_or(raw, String::as_str)
    }

    /// Whether `picture` is of the feature `key`.
    fn is_of(&self, picture: &Picture, key: &str) -> bool {
        ["observation.images.", "observation."]
            .iter()
            .any(|prefix| self.renamed(&format!("{prefix}{}", picture.name)) == key)
    }

    /// The vector of the feature `key`, checked, after what is in `out`.
    fn vector(
        &self,
        key: &str,
        feature: &Feature,
        observation: &PolicyObs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let values = if self.renamed(STATE) == key {
            &observation.state[..]
        } else if self.renamed(ENVIRONMENT_STATE) == key {
            &observation.environment_state[..]
        } else {
            &[]
        };
        let expected: usize = feature.shape.iter().product();
        if values.len() != expected {
            let reason = format!("{key}: expected {expected} values, got {}", values.len());
            return Err(Error::Rejected { reason });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::Rejected { reason: format!("{key}: not finite") });
        }
        out.extend_from_slice(values);
        Ok(())
    }

    fn picture(
        &self,
        key: &str,
        feature: &Feature,
        observation: &PolicyObs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let reject = |reason: String| Err(Error::Rejected { reason });
        let &[_, height, width] = feature.shape.as_slice() else {
            return reject(format!("{key}: expected a picture, got shape {:?}", feature.shape));
        };
        let mut found = observation.images.iter().filter(|picture| self.is_of(picture, key));
        let Some(picture) = found.next() else {
            let names: Vec<_> = observation.images.iter().map(|p| p.name.as_str()).collect();
            let got = if names.is_empty() { "no picture".into() } else { names.join(", ") };
            return reject(format!("{key}: expected a picture {height} x {width}, got {got}"));
        };
        if let Some(second) = found.next() {
            let (a, b) = (&picture.name, &second.name);
            return reject(format!("{key}: expected one picture, got two, {a} and {b}"));
        }
        if (picture.height, picture.width) != (height, width) {
            let (h, w) = (picture.height, picture.width);
            return reject(format!(
                "{key}: expected a picture {height} x {width} (rows x columns), got {h} x {w}"
            ));
        }
        let pixels = height * width;
        if picture.data.len() != 3 * pixels {
            let (expected, got) = (3 * pixels, picture.data.len());
            return reject(format!("{key}: expected {expected} bytes of RGB, got {got}"));
        }
        for channel in 0..3 {
            out.extend(picture.data.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 255.0));
        }
        Ok(())
    }
}
