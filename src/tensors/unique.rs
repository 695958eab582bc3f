//! A JSON object whose keys are all different.
//!
//! serde's own maps keep the last of two equal keys and say nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::header::shown;

/// Reads a map and refuses a key that comes twice.
pub(crate) struct Unique<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Once<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    let name = shown(&key);
                    if out.insert(key, value).is_some() {
                        let message = format!("{name}: expected each key once, got it twice");
                        return Err(A::Error::custom(message));
                    }
                }
                Ok(Unique(out))
            }
        }

        deserializer.deserialize_map(Once(PhantomData))
    }
}
