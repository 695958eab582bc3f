//! Safetensors files as bytes, so that a test can write what no library would.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// One tensor: type, shape, bytes.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Header and data of a file.
pub(crate) fn split(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

/// Writes a file of any header and any data.
pub(crate) fn join(path: &Path, header: &[u8], data: &[u8]) {
    let parts = [&(header.len() as u64).to_le_bytes()[..], header, data];
    fs::write(path, parts.concat()).unwrap();
}

/// Changes the header alone.
pub(crate) fn edit_header(path: &Path, edit: impl Fn(&mut Value)) {
    let (mut header, data) = split(path);
    edit(&mut header);
    join(path, header.to_string().as_bytes(), &data);
}

/// Changes the header's text alone.
pub(crate) fn edit_text(path: &Path, edit: impl Fn(&str) -> String) {
    let (header, data) = split(path);
    join(path, edit(&header.to_string()).as_bytes(), &data);
}

/// The tensors of a file.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Part> {
    let (header, data) = split(path);
    let parts = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    parts
        .map(|(name, entry)| {
            let offset = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let shape = entry["shape"].as_array().unwrap();
            let part = Part {
                dtype: entry["dtype"].as_str().unwrap().to_owned(),
                shape: shape.iter().map(|dim| dim.as_u64().unwrap() as usize).collect(),
                bytes: data[offset(0)..offset(1)].to_vec(),
            };
            (name.clone(), part)
        })
        .collect()
}

/// Writes a good file.
pub(crate) fn write(path: &Path, parts: &BTreeMap<String, Part>) {
    let (mut header, mut data) = (json!({}), Vec::new());
    for (name, part) in parts {
        let start = data.len();
        data.extend_from_slice(&part.bytes);
        header[name] = json!({
            "dtype": part.dtype, "shape": part.shape, "data_offsets": [start, data.len()],
        });
    }
    join(path, header.to_string().as_bytes(), &data);
}

/// Changes the tensors; the file stays a good one.
pub(crate) fn edit_parts(path: &Path, edit: impl Fn(&mut BTreeMap<String, Part>)) {
    let mut parts = read(path);
    edit(&mut parts);
    write(path, &parts);
}
