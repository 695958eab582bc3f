//! Which module may import which: the arrows of the design, read from the sources.
//!
//! error → action → wire need no tensors; flow and solver know no network; image and policy are
//! siblings; zenoh is known to node and the command line; sim knows nothing of pathline.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

/// A module of the root crate, the modules that it may import, and the crates that only some may.
struct Layer {
    name: &'static str,
    imports: &'static [&'static str],
    crates: &'static [&'static str],
}

const fn layer(
    name: &'static str,
    imports: &'static [&'static str],
    crates: &'static [&'static str],
) -> Layer {
    Layer { name, imports, crates }
}

/// Crates that not every module may know.
const HEAVY: [&str; 8] =
    ["candle_core", "candle_nn", "clap", "gif", "parquet", "pathline_sim", "plotters", "zenoh"];

const CANDLE: &[&str] = &["candle_core", "candle_nn"];

const LAYERS: &[Layer] = &[
    // Only for `From<candle_core::Error>`, behind the feature.
    layer("error", &[], CANDLE),
    layer("action", &["error"], &[]),
    layer("wire", &["error", "action"], &[]),
    layer("device", &["error"], CANDLE),
    layer("tensors", &["error"], CANDLE),
    layer("plot", &["error"], &["plotters"]),
    layer("flow", &["error"], CANDLE),
    layer("solver", &["error", "flow"], CANDLE),
    // Of flow it needs the seeded noise, for initial weights.
    layer("nn", &["error", "device", "flow"], CANDLE),
    layer("vae", &["error", "device", "tensors", "flow", "nn"], CANDLE),
    layer("dataset", &["error"], &["candle_core", "parquet", "pathline_sim"]),
    layer(
        "policy",
        &["error", "action", "device", "tensors", "flow", "solver", "nn", "vae"],
        CANDLE,
    ),
    layer("image", &["error", "device", "tensors", "flow", "solver", "nn", "vae"], CANDLE),
    layer(
        "train",
        &[
            "error", "action", "device", "tensors", "plot", "flow", "solver", "nn", "vae",
            "dataset", "policy", "image",
        ],
        &["candle_core", "candle_nn", "pathline_sim"],
    ),
    layer(
        "node",
        &["error", "action", "wire", "device", "flow", "solver", "policy", "image", "dataset"],
        &["pathline_sim", "zenoh"],
    ),
    layer(
        "cli",
        &[
            "error", "action", "wire", "device", "tensors", "plot", "flow", "solver", "nn", "vae",
            "dataset", "policy", "image", "train", "node",
        ],
        &["candle_core", "candle_nn", "clap", "gif", "pathline_sim", "zenoh"],
    ),
];

#[test]
fn imports_follow_the_arrows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let vocabulary = vocabulary(&lib);
    let mut problems = Vec::new();
    let files = rust_files(&root.join("src"));
    assert!(files.len() > 10, "the sources are elsewhere");
    for file in files {
        let name = file.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        problems.extend(violations(&name, &text, &vocabulary));
    }
    for file in rust_files(&root.join("sim/src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        problems.extend(sim_violations(&file.display().to_string(), &text));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    for line in lib.lines() {
        let rest = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
        let Some(name) = rest.and_then(|rest| rest.strip_suffix(';')) else { continue };
        assert!(LAYERS.iter().any(|l| l.name == name), "add `{name}` to LAYERS in tests/layers.rs");
    }
    // The table is in order: a module imports only what stands above it.
    for (i, layer) in LAYERS.iter().enumerate() {
        for import in layer.imports {
            assert!(LAYERS[..i].iter().any(|l| l.name == *import), "{} → {import}", layer.name);
        }
    }
}

#[test]
fn a_wrong_arrow_is_caught() {
    let vocabulary = vec![("Policy".to_owned(), "policy".to_owned())];
    let caught = |file: &str, text: &str| violations(file, text, &vocabulary);
    for (file, text) in [
        ("flow/path.rs", "use crate::nn::Linear;"),
        ("solver/mod.rs", "use crate::{\n    Error,\n    policy::{Policy, Config},\n};"),
        ("solver/grid.rs", "fn f() { crate::nn::params::count() }"),
        ("image/mod.rs", "pub use crate::policy::Policy;"),
        ("image/mod.rs", "use crate::Policy;"),
        ("policy/load.rs", "use super::super::image::Sampler;"),
        ("action/gate.rs", "use candle_core::Tensor;"),
        ("wire/keys.rs", "use zenoh::key_expr::KeyExpr;"),
        ("policy/flow.rs", "use pathline_sim::pusht::PushT;"),
        ("train/run.rs", "let session = zenoh::open(config);"),
        ("made_up.rs", "use crate::Error;"),
    ] {
        assert_eq!(caught(file, text).len(), 1, "{file}: {text}");
    }
    for (file, text) in [
        (
            "flow/path.rs",
            "// unlike crate::nn, this\n/// see [`crate::nn`]\nuse crate::{Error, Result};",
        ),
        ("node/serve.rs", "use crate::policy::Policy;\nuse zenoh::Wait;"),
        ("policy/load.rs", "use super::features::Features;\nuse crate::solver::{Grid, Tableau};"),
        ("wire/keys.rs", "pub(crate) fn zenoh_key() {}\nlet a_zenoh = 1;"),
    ] {
        assert_eq!(caught(file, text), [""; 0], "{file}: {text}");
    }
    assert_eq!(sim_violations("a.rs", "use pathline::Error;").len(), 1);
    assert_eq!(sim_violations("a.rs", "use candle_core::Tensor;").len(), 1);
    assert_eq!(sim_violations("a.rs", "use pathline_sim::pusht::PushT;"), [""; 0]);
}

/// What `src/lib.rs` re-exports, as name and module.
fn vocabulary(lib: &str) -> Vec<(String, String)> {
    let code = without_comments(lib);
    let mut names = Vec::new();
    for statement in code.split(';') {
        let Some(path) = statement.trim().strip_prefix("pub use ") else { continue };
        let (module, items) = path.split_once("::").unwrap();
        for item in first_segments(items) {
            names.push((item, module.trim_start_matches("crate::").to_owned()));
        }
    }
    names
}

/// The imports of `text`, which lies at `file` below src/, that its layer does not allow.
fn violations(file: &str, text: &str, vocabulary: &[(String, String)]) -> Vec<String> {
    let segments: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let module = if segments[0] == "main" { "cli" } else { segments[0] };
    if module == "lib" {
        return Vec::new();
    }
    let Some(layer) = LAYERS.iter().find(|l| l.name == module) else {
        return vec![format!("src/{file}: `{module}` is not in LAYERS of tests/layers.rs")];
    };
    let depth = segments.iter().filter(|s| **s != "mod").count();
    let code = without_comments(text);
    let to_root = "super::".repeat(depth);
    let mut problems = Vec::new();
    for root in ["crate::", "pathline::", &to_root] {
        for name in occurrences(&code, root).flat_map(first_segments) {
            let known = vocabulary.iter().find(|(item, _)| *item == name);
            let target = known.map_or(name.as_str(), |(_, module)| module);
            let is_module = LAYERS.iter().any(|l| l.name == target);
            if is_module && target != module && !layer.imports.contains(&target) {
                problems.push(format!("src/{file}: {module} may not import {target} ({name})"));
            }
        }
    }
    for heavy in HEAVY.iter().filter(|heavy| !layer.crates.contains(heavy)) {
        if occurrences(&code, &format!("{heavy}::")).next().is_some() {
            problems.push(format!("src/{file}: {module} may not know the crate {heavy}"));
        }
    }
    problems
}

fn sim_violations(file: &str, text: &str) -> Vec<String> {
    let code = without_comments(text);
    ["pathline", "candle_core", "candle_nn", "zenoh"]
        .iter()
        .filter(|name| occurrences(&code, &format!("{name}::")).next().is_some())
        .map(|name| format!("{file}: sim may not know {name}"))
        .collect()
}

/// What follows each `root` that starts a path in `code`.
fn occurrences<'a>(code: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(root).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let starts = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        starts.then(|| &code[at + root.len()..])
    })
}

/// `a::b` gives a; `{A, b::{c, d}}` gives A and b.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Everything before `//` on each line; strings that hold `//` lose their end, which does no harm.
fn without_comments(text: &str) -> String {
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
