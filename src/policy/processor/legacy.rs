//! Statistics inside the model file, as LeRobot before 0.4 kept them.
//!
//! Normalisation was a part of the network there: `normalize_inputs`, `normalize_targets` and
//! `unnormalize_outputs` held `buffer_<feature>.<stat>`, the dots of the feature's key written as
//! underscores (LeRobot `processor/migrate_policy_normalization.py`, which also knows the rarer
//! prefixes). The underscores cannot be turned back, so the keys of config.json are looked for.
//! A buffer that was never set is +∞. The mode comes from config.json's `normalization_mapping`.
//! Folders older still, with `input_normalization_modes` and without `"type"`, are not read.

use candle_core::Tensor;

use super::stats::{Statistic, Stats};
use crate::policy::config::Signature;
use crate::{Error, Result};

/// Prefixes of the tensors.
const PREFIXES: [&str; 8] = [
    "normalize_targets.",
    "unnormalize_targets.",
    "normalize_inputs.",
    "normalize.",
    "input_normalizer.",
    "output_normalizer.",
    "unnormalize.",
    "unnormalize_outputs.",
];

/// Whether a tensor of the model file is a statistic and not of the network.
pub fn is_statistic(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The statistics among `tensors`, by the keys of `want`. Tensors that [`is_statistic`] does not
/// know are left alone.
///
/// # Errors
/// When a statistic is of no feature, was never set or is not finite, or is there twice with
/// different values.
pub fn statistics<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    want: &Signature,
) -> Result<Stats> {
    let mut stats = Stats::new();
    for (name, tensor) in tensors {
        let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
            continue;
        };
        let Some((feature, stat)) = rest.rsplit_once('.') else {
            return Err(Error::checkpoint(name, "a name <feature>.<stat>", rest));
        };
        let feature = feature.strip_prefix("buffer_").unwrap_or(feature);
        let keys = want.input_features.keys().chain(want.output_features.keys());
        let mut found = keys.filter(|key| *key == feature || key.replace('.', "_") == feature);
        let key = match (found.next(), found.next()) {
            (Some(key), None) => key,
            (Some(a), Some(b)) => {
                let got = format!("{a} and {b}, whose names are the same here");
                return Err(Error::checkpoint(name, "a statistic of one feature", got));
            }
            (None, _) => {
                let expected = "a statistic of a feature of config.json";
                return Err(Error::checkpoint(name, expected, feature));
            }
        };
        let statistic = Statistic::from_tensor(tensor)?;
        if let Some(bad) = statistic.values().iter().find(|value| !value.is_finite()) {
            let got = format!("{bad}: the policy was saved before its statistics were set");
            return Err(Error::checkpoint(name, "finite values", got));
        }
        let feature = stats.entry(key.clone()).or_default();
        match feature.get(stat) {
            Some(other) if *other != statistic => {
                let expected = format!("the same {stat} of {key} wherever the file has it");
                return Err(Error::checkpoint(name, expected, "other values"));
            }
            _ => drop(feature.insert(stat.to_owned(), statistic)),
        }
    }
    Ok(stats)
}
