//! Names of the classes that a network can be told.

use std::collections::BTreeMap;

use super::folder::Folder;
use crate::{Error, Result};

/// So many names are listed in an error.
const LISTED: usize = 40;

/// The classes of a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    /// Rows of the network's table; 0 where it has none.
    count: usize,
    /// Names by number; a class may have several.
    names: BTreeMap<u32, Vec<String>>,
    /// The class of no class.
    null: Option<u32>,
}

impl Classes {
    /// `count` is the number of classes that the network knows, the empty one included.
    pub(super) fn read(folder: &Folder, count: Option<usize>) -> Result<Self> {
        let labels: Option<BTreeMap<String, String>> = folder.option("id2label")?;
        let invalid =
            |message: String| Error::config(folder.dir().join("model_index.json"), message);
        let count = count.unwrap_or(0);
        let mut names = BTreeMap::new();
        for (number, label) in labels.unwrap_or_default() {
            let id = number.parse::<u32>().ok().filter(|id| (*id as usize) < count);
            let Some(id) = id else {
                return Err(invalid(format!(
                    "id2label: expected numbers below {count}, the network's classes, got {number:?}"
                )));
            };
            let synonyms = label.split(',').map(|name| name.trim().to_owned());
            names.insert(id, synonyms.filter(|name| !name.is_empty()).collect());
        }
        let null: Option<u32> = folder.option("null_class")?;
        let null = match null {
            Some(null) if (null as usize) < count => Some(null),
            Some(null) => {
                let message = format!("null_class: expected a number below {count}, got {null}");
                return Err(invalid(message));
            }
            // A DiT's last class.
            None if folder.class() == "DiTPipeline" && count > 0 => Some(count as u32 - 1),
            None => None,
        };
        Ok(Self { count, names, null })
    }

    /// Whether the network is told a class.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    /// The class of no class.
    pub(super) fn null(&self) -> Option<u32> {
        self.null
    }

    /// First names, in the order of numbers; a number where there is no name.
    pub(super) fn list(&self) -> Vec<String> {
        let ids = (0..self.count as u32).filter(|id| Some(*id) != self.null);
        ids.map(|id| self.name(id)).collect()
    }

    pub(super) fn name(&self, id: u32) -> String {
        let name = self.names.get(&id).and_then(|names| names.first());
        name.cloned().unwrap_or_else(|| id.to_string())
    }

    /// The class called `name`: exactly, else whatever the case, else by its number.
    pub(super) fn find(&self, name: &str) -> Result<u32> {
        let find = |is: &dyn Fn(&String) -> bool| {
            self.names.iter().find(|(_, names)| names.iter().any(is)).map(|(id, _)| *id)
        };
        let lower = name.to_lowercase();
        let number = || name.parse::<u32>().ok().filter(|id| (*id as usize) < self.count);
        let found = find(&|known| known == name)
            .or_else(|| find(&|known| known.to_lowercase() == lower))
            .or_else(number);
        found.ok_or_else(|| self.unknown(name))
    }

    /// What is said of a name that no class has: the classes with names, or all numbers if none has one.
    pub(super) fn unknown(&self, name: &str) -> Error {
        let named: Vec<String> = self.names.keys().map(|id| self.name(*id)).collect();
        let mut expected = named[..named.len().min(LISTED)].join(", ");
        if named.len() > LISTED {
            expected += &format!(" and {} more", named.len() - LISTED);
        }
        let numbers = format!("the numbers from 0 to {}", self.count.saturating_sub(1));
        expected = if named.is_empty() { numbers } else { format!("{expected}, or {numbers}") };
        Error::Unknown { what: "class".into(), expected, got: name.into() }
    }
}
