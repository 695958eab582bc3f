//! Which key of a configuration an error is about.
//!
//! serde reads `"type"` first and keeps the rest aside, and what it then says of a wrong value is
//! "expected usize", without key or line. So every key is tried alone: the one with the same error is
//! named.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What `error` says of the JSON object `text`, with the key.
pub(super) fn named<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let Ok(Value::Object(map)) = serde_json::from_str(text) else { return message };
    if let Some((unknown, _)) = message.split_once(", expected")
        && unknown.starts_with("unknown field")
    {
        // The list of all keys would fill the screen.
        let kind = map.get("type").unwrap_or(&Value::Null);
        return format!("{unknown}: expected only keys of the type {kind} that this version knows");
    }
    let fails_alike = |key: &str, value: &Value| {
        let kind = map.get("type").map(|kind| ("type".to_owned(), kind.clone()));
        let one: Map<String, Value> =
            kind.into_iter().chain([(key.to_owned(), value.clone())]).collect();
        T::deserialize(Value::Object(one)).is_err_and(|e| e.to_string() == message)
    };
    match map.iter().find(|(key, value)| *key != "type" && fails_alike(key, value)) {
        Some((key, _)) if !message.contains(key.as_str()) => format!("{key}: {message}"),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::config::PolicyConfig;

    #[test]
    fn the_key_is_named_whatever_its_place() {
        let error = |text: &str| PolicyConfig::parse(text).unwrap_err().to_string();
        for (text, says) in [
            (r#"{"type": "diffusion", "horizon": -16}"#, "horizon: invalid value: integer `-16`"),
            (r#"{"horizon": 16, "crop_shape": [1, 2, 3], "type": "diffusion"}"#, "crop_shape: inv"),
            (
                r#"{"type": "act", "input_features": {"a": {"type": "ENV"}}}"#,
                "input_features: miss",
            ),
            (
                r#"{"type": "act", "feedforward_activation": "x"}"#,
                "feedforward_activation: unknown",
            ),
            (r#"{"type": "pathline_flow", "horizon": "x"}"#, "horizon: invalid type"),
            (r#"{"type": "pathline_flow"}"#, "missing field"),
        ] {
            let error = error(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = error(r#"{"type": "diffusion", "n_obs_stepz": 2}"#);
        assert!(error.contains("`n_obs_stepz`") && error.len() < 120, "{error}");
    }
}
