//! What the page quotes: names and values, as a table or as one JSON object.

use pathline::{Error, Result};

#[derive(Default)]
pub(crate) struct Numbers(Vec<(String, f64)>);

impl Numbers {
    pub(crate) fn push(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    pub(crate) fn to_table(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, f64)| {
            let small = *value != 0.0 && value.abs() < 1e-3;
            let text = if small { format!("{value:.2e}") } else { format!("{value:.3}") };
            let pad = " ".repeat(width - name.chars().count());
            format!("{name}{pad}  {text:>10}")
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let object: serde_json::Map<String, serde_json::Value> =
            self.0.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
        serde_json::to_string_pretty(&object).map_err(|e| Error::Invalid(e.to_string()))
    }
}
