//! Good files that do not belong to each other, pickles, shards.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::*;

/// Good files that do not belong to each other.
pub(crate) fn network() -> Vec<Case> {
    let parts = |name: &str, edit: fn(&mut BTreeMap<String, Part>), says: &[&str]| {
        let says = [&[MODEL, CONFIG][..], says].concat();
        flow(name, move |dir: &Path| raw::edit_parts(&dir.join(MODEL), edit), &says)
    };
    let config = |name: &str, edit: fn(&mut Value), says: &[&str]| {
        flow(name, move |dir: &Path| edit_json(&dir.join(CONFIG), edit), says)
    };
    vec![
        parts(
            "missing, unexpected and of another shape at once",
            |parts| {
                let part = parts.remove("time.weight").unwrap();
                parts.insert("time.weight_orig".into(), part);
                parts.get_mut("norm.bias").unwrap().shape = vec![1, 448];
            },
            &[
                "1 missing",
                "time.weight [448, 64]",
                "1 unexpected",
                "time.weight_orig [448, 64]",
                "1 of another shape",
                "norm.bias: expected [448], got [1, 448]",
            ],
        ),
        parts(
            "every name with a prefix",
            |parts| {
                let all = std::mem::take(parts);
                parts.extend(all.into_iter().map(|(k, part)| (format!("_orig_mod.{k}"), part)));
            },
            &["missing", "unexpected", "_orig_mod."],
        ),
        parts("no tensor", BTreeMap::clear, &["missing", "blocks.0.down.bias"]),
        parts(
            "60,000 tensors too many",
            |parts| {
                for i in 0..60_000 {
                    let part = Part { dtype: "U8".into(), shape: vec![0], bytes: Vec::new() };
                    parts.insert(format!("spare.{i}"), part);
                }
            },
            &["60000 unexpected", "and 59988 more"],
        ),
        config("fewer blocks", |c| c["network"]["depth"] = json!(3), &[MODEL, "blocks.3.", CONFIG]),
        config("more blocks", |c| c["network"]["depth"] = json!(5), &[MODEL, "blocks.4.", CONFIG]),
        config(
            "a network of 20 GB",
            |c| {
                c["network"]["width"] = json!(8192);
                c["network"]["depth"] = json!(64);
            },
            &[MODEL, "missing", "of another shape", "8192"],
        ),
    ]
}

/// Weights that would run code.
pub(crate) fn pickle() -> Vec<Case> {
    let names =
        ["model.pt", "policy.pth", "pytorch_model.bin", "epoch=100.ckpt", "data.pkl", "MODEL.PT"];
    names
        .into_iter()
        .map(|pickle| {
            let rename = move |dir: &Path| fs::rename(dir.join(MODEL), dir.join(pickle)).unwrap();
            flow(format!("only {pickle}"), rename, &[MODEL, pickle, "pickle", "save_pretrained"])
        })
        .chain([
            flow(
                "a pickle that is called model.safetensors",
                |dir| {
                    fs::write(dir.join(MODEL), b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.")
                        .unwrap();
                },
                &[MODEL, "a pickle or an archive"],
            ),
            flow(
                "a zip that is called model.safetensors",
                |dir| fs::write(dir.join(MODEL), [&b"PK\x03\x04"[..], &[0; 60]].concat()).unwrap(),
                &[MODEL, "a pickle or an archive"],
            ),
        ])
        .collect()
}

/// Shards.
pub(crate) fn index() -> Vec<Case> {
    // The first name, so it lies in the first shard.
    const TWICE: &str = "blocks.0.context.weight";
    let file = |name: &str, break_it: fn(&Path), says: &[&str]| {
        let all = move |dir: &Path| {
            shard(dir);
            break_it(dir);
        };
        flow(name, all, says)
    };
    let index = |name: String, edit: fn(&mut Value), says: &[&str]| {
        let all = move |dir: &Path| {
            shard(dir);
            edit_json(&dir.join(INDEX), edit);
        };
        flow(name, all, &[&[INDEX][..], says].concat())
    };
    let mut all = vec![
        file(
            "a shard that is not there",
            |dir| fs::remove_file(dir.join(SHARDS[1])).unwrap(),
            &[INDEX, SHARDS[1]],
        ),
        file(
            "a shard that is cut",
            |dir| {
                let bytes = fs::read(dir.join(SHARDS[1])).unwrap();
                fs::write(dir.join(SHARDS[1]), &bytes[..bytes.len() - 1]).unwrap();
            },
            &[SHARDS[1], "truncated"],
        ),
        file(
            "a shard that is a folder",
            |dir| {
                fs::remove_file(dir.join(SHARDS[1])).unwrap();
                fs::create_dir(dir.join(SHARDS[1])).unwrap();
            },
            &[SHARDS[1], "a folder"],
        ),
        file(
            "a shard that is a link out of the folder",
            |dir| {
                let out = dir.with_file_name("out.safetensors");
                fs::rename(dir.join(SHARDS[1]), &out).unwrap();
                symlink(&out, dir.join(SHARDS[1])).unwrap();
            },
            &[INDEX, SHARDS[1], "a link to"],
        ),
        file(
            "a shard that is a link to itself",
            |dir| {
                fs::remove_file(dir.join(SHARDS[1])).unwrap();
                symlink(SHARDS[1], dir.join(SHARDS[1])).unwrap();
            },
            &[INDEX, SHARDS[1]],
        ),
        file(
            "a tensor in two shards",
            |dir| {
                let part = raw::read(&dir.join(SHARDS[0]))[TWICE].clone();
                raw::edit_parts(&dir.join(SHARDS[1]), |parts| {
                    parts.insert(TWICE.into(), part.clone());
                });
            },
            &[SHARDS[1], TWICE, INDEX],
        ),
        file(
            "a tensor that the index does not list",
            |dir| {
                let part = Part { dtype: "U8".into(), shape: vec![1], bytes: vec![0] };
                raw::edit_parts(&dir.join(SHARDS[0]), |parts| {
                    parts.insert("stowaway".into(), part.clone());
                });
            },
            &[SHARDS[0], "stowaway", INDEX],
        ),
        file(
            "a tensor twice in the index",
            |dir| {
                let text = fs::read_to_string(dir.join(INDEX)).unwrap();
                let more = format!("\"weight_map\":{{\"time.bias\":\"{}\",", SHARDS[0]);
                fs::write(dir.join(INDEX), text.replacen("\"weight_map\":{", &more, 1)).unwrap();
            },
            &[INDEX, "time.bias: expected each key once"],
        ),
        index(
            "a tensor that no shard has".into(),
            |i| i["weight_map"]["ghost"] = json!(SHARDS[0]),
            &["ghost"],
        ),
        index("no weight_map".into(), |i| *i = json!({}), &["weight_map"]),
        index("a weight_map that is a list".into(), |i| i["weight_map"] = json!([1]), &["object"]),
        index("a shard that is a number".into(), |i| i["weight_map"]["a"] = json!(1), &["string"]),
        index(
            "2,000 shards".into(),
            |i| {
                for n in 0..2000 {
                    i["weight_map"][format!("t{n}")] = json!(format!("{n}.safetensors"));
                }
            },
            &["1000 files"],
        ),
        index("an empty weight_map".into(), |i| i["weight_map"] = json!({}), &["missing"]),
    ];
    macro_rules! shard_named {
        ($($name:literal),*) => {
            $(all.push(index(
                format!("a shard called {:.40?}", $name),
                |i| i["weight_map"]["time.bias"] = json!($name),
                &["weight_map"],
            ));)*
        };
    }
    shard_named!(
        "../policy/model-00001-of-00002.safetensors",
        "/etc/passwd",
        "/etc/x.safetensors",
        "./model-00001-of-00002.safetensors",
        "sub/../x.safetensors",
        "..",
        "",
        "..\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "\u{1b}[2J.safetensors",
        "pytorch_model.bin",
        "config.json"
    );
    all
}
