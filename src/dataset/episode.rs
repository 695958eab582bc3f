//! One episode in memory, before it is written.

use std::collections::BTreeMap;

use super::{DType, Features};
use crate::{Error, Result};

/// The frames of one episode, feature by feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// What was to be done, in words.
    pub task: String,
    /// Per feature key its values, row-major `[length, dim]`; truth values are 0 and 1.
    pub columns: BTreeMap<String, Vec<f32>>,
}

impl Episode {
    /// An episode of this task, without frames.
    pub fn new(task: impl Into<String>) -> Self {
        Self { task: task.into(), columns: BTreeMap::new() }
    }

    /// The same episode with the values of one more feature, row-major `[length, dim]`.
    #[must_use]
    pub fn with(mut self, key: &str, values: Vec<f32>) -> Self {
        self.columns.insert(key.to_owned(), values);
        self
    }

    /// Number of frames, or what is wrong: a key that is missing or too many, unequal lengths, a value that
    /// is not finite or does not fit the feature's type.
    pub(crate) fn check(&self, features: &Features, number: usize) -> Result<usize> {
        let wrong = |message: String| Err(Error::Invalid(format!("episode {number}: {message}")));
        if let Some(key) = self.columns.keys().find(|k| !features.own().any(|(own, _)| own == *k)) {
            let keys: Vec<_> = features.own().map(|(k, _)| k).collect();
            return wrong(format!(
                "`{key}` is not a feature of this data set ({})",
                keys.join(", ")
            ));
        }
        let mut length = None;
        for (key, feature) in features.own() {
            let Some(values) = self.columns.get(key) else {
                return wrong(format!("expected values for `{key}`, got none"));
            };
            let dim = feature.dim();
            if values.is_empty() || values.len() % dim != 0 {
                let n = values.len();
                return wrong(format!(
                    "{key}: expected a multiple of {dim} values, at least one row, got {n}"
                ));
            }
            let rows = values.len() / dim;
            let (first, expected) = *length.get_or_insert((key, rows));
            if rows != expected {
                return wrong(format!(
                    "{key}: expected {expected} rows as {first} has, got {rows}"
                ));
            }
            if let Some(i) = values.iter().position(|v| !fits(*v, &feature.dtype)) {
                let (frame, element, value) = (i / dim, i % dim, values[i]);
                let dtype = &feature.dtype;
                return wrong(format!(
                    "{key}: frame {frame}, element {element}: expected a finite {dtype:?}, got {value}"
                ));
            }
        }
        match length {
            Some((_, rows)) => Ok(rows),
            None => wrong("the data set has no features".into()),
        }
    }
}

fn fits(value: f32, dtype: &DType) -> bool {
    match dtype {
        DType::Bool => value == 0.0 || value == 1.0,
        DType::Int64 => value.is_finite() && value.fract() == 0.0,
        _ => value.is_finite(),
    }
}
