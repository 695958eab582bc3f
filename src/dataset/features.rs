//! What a data set holds: feature key → dtype, shape, names, in the order of `meta/info.json`.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Element type of a feature, by LeRobot's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit float.
    Float32,
    /// 64-bit float.
    Float64,
    /// 64-bit integer.
    Int64,
    /// True or false; 1 or 0 in memory.
    Bool,
    /// Text.
    String,
    /// A picture, stored in the data file.
    Image,
    /// A video, stored in a file of its own.
    Video,
    /// Another numpy type, such as `uint8`.
    #[serde(untagged)]
    Other(String),
}

impl DType {
    /// True where the frames are numbers that a [`crate::dataset::Dataset`] loads.
    pub fn is_numeric(&self) -> bool {
        !matches!(self, Self::String | Self::Image | Self::Video)
    }
}

/// One feature of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Element type.
    pub dtype: DType,
    /// Shape of one frame's value; `[1]` is a scalar.
    pub shape: Vec<usize>,
    /// Names of the dimensions: null, a list or LeRobot's nested form.
    #[serde(default)]
    pub names: serde_json::Value,
    /// Codec facts of a video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<serde_json::Value>,
}

impl Feature {
    /// A vector of `dim` floats a frame.
    pub fn float32(dim: usize) -> Self {
        Self::new(DType::Float32, dim)
    }

    /// One truth value a frame.
    pub fn bool() -> Self {
        Self::new(DType::Bool, 1)
    }

    /// One 64-bit integer a frame.
    pub fn int64() -> Self {
        Self::new(DType::Int64, 1)
    }

    fn new(dtype: DType, dim: usize) -> Self {
        Self { dtype, shape: vec![dim], names: serde_json::Value::Null, info: None }
    }

    /// The same feature with names for its dimensions.
    #[must_use]
    pub fn named(mut self, names: &[&str]) -> Self {
        self.names = names.iter().copied().collect();
        self
    }

    /// Elements of one frame's value.
    pub fn dim(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Features by key, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features(Vec<(String, Feature)>);

impl Features {
    /// No features yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same features and one more; a key that is there already is replaced in its place.
    #[must_use]
    pub fn with(mut self, key: &str, feature: Feature) -> Self {
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some(slot) => slot.1 = feature,
            None => self.0.push((key.to_owned(), feature)),
        }
        self
    }

    /// The feature of this key.
    pub fn get(&self, key: &str) -> Option<&Feature> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, f)| f)
    }

    /// Keys and features, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Feature)> {
        self.0.iter().map(|(k, f)| (k.as_str(), f))
    }

    /// The features without the five columns that every data set has.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&str, &Feature)> {
        self.iter().filter(|(k, _)| !super::DEFAULT_KEYS.contains(k))
    }

    /// The features with the five columns that every data set has.
    pub(crate) fn with_defaults(&self) -> Self {
        super::DEFAULT_KEYS.into_iter().fold(self.clone(), |all, key| {
            all.with(key, if key == "timestamp" { Feature::float32(1) } else { Feature::int64() })
        })
    }
}

// A map that keeps its order: LeRobot's column order is the order of this map.
impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, feature) in &self.0 {
            map.serialize_entry(key, feature)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Features;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map of feature key to {dtype, shape, names}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Features, A::Error> {
                let mut features = Features::new();
                while let Some((key, feature)) = map.next_entry::<String, Feature>()? {
                    features = features.with(&key, feature);
                }
                Ok(features)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_keep_their_order_and_unknown_types_through_json() {
        let text = r#"{"z":{"dtype":"float32","shape":[2],"names":["x","y"]},
            "a":{"dtype":"uint8","shape":[3,4],"names":null},"m":{"dtype":"video","shape":[1]}}"#;
        let features: Features = serde_json::from_str(text).unwrap();
        let keys: Vec<_> = features.iter().map(|(k, _)| k).collect();
        assert_eq!(keys, ["z", "a", "m"]);
        assert_eq!(features.get("a").unwrap().dtype, DType::Other("uint8".into()));
        assert_eq!(features.get("a").unwrap().dim(), 12);
        let again: Features =
            serde_json::from_str(&serde_json::to_string(&features).unwrap()).unwrap();
        assert_eq!(again, features);
    }
}
