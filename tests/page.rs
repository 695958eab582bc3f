//! docs/generative-core.md names functions and shows pictures: all of them exist.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::path::{Path, PathBuf};

const PAGE: &str = "generative-core.md";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The links `[text](target)` of a page, pictures among them.
fn links(page: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(middle) = rest.find("](") {
        let (before, after) = (&rest[..middle], &rest[middle + 2..]);
        let end = after.find(')').unwrap_or(after.len());
        let start = before.rfind('[').map_or(0, |at| at + 1);
        found.push((&before[start..], &after[..end]));
        rest = &after[end..];
    }
    found
}

/// Whether a source defines `name`: as an item, or as a variant of an enumeration.
fn defines(source: &str, name: &str) -> bool {
    let whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    source.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(|line| {
        let items = ["fn ", "struct ", "enum ", "const ", "type ", "trait ", "mod "];
        let item = line.strip_prefix("pub ").unwrap_or(line);
        let named = items.iter().find_map(|kind| item.strip_prefix(kind)).unwrap_or(line);
        let end =
            |rest: &str| rest.is_empty() || rest.starts_with(['(', '{', ',', ' ', '<', ':', ';']);
        named.strip_prefix(name).is_some_and(|rest| whole(rest) && end(rest))
    })
}

/// What is wrong with a page in `folder`.
fn faults(page: &str, folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (text, target) in links(page) {
        if target.starts_with("http") || target.starts_with('#') {
            continue;
        }
        let file = folder.join(target);
        if !file.exists() {
            out.push(format!("{target}: no such file"));
        } else if let (Some(name), true) =
            (text.strip_prefix('`').and_then(|t| t.strip_suffix('`')), target.ends_with(".rs"))
        {
            let source = std::fs::read_to_string(&file).unwrap();
            let last = name.rsplit("::").next().unwrap_or(name);
            if !defines(&source, last) {
                out.push(format!("{name}: not in {target}"));
            }
        }
    }
    out
}

#[test]
fn every_function_and_picture_of_the_page_exists() {
    let page = std::fs::read_to_string(docs().join(PAGE)).unwrap();
    let found = faults(&page, &docs());
    assert!(found.is_empty(), "{PAGE}:\n{}", found.join("\n"));
    let functions = links(&page).iter().filter(|(text, _)| text.starts_with('`')).count();
    assert!(functions >= 30, "only {functions} functions are named");
}

#[test]
fn every_picture_is_shown_and_small() {
    let page = std::fs::read_to_string(docs().join(PAGE)).unwrap();
    let mut total = 0;
    for entry in std::fs::read_dir(docs().join("core")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = entry.metadata().unwrap().len();
        total += bytes;
        assert!(page.contains(&format!("](core/{name})")), "core/{name} is not on the page");
        assert!(bytes < 150_000, "core/{name} has {bytes} bytes");
    }
    assert!((1..1_200_000).contains(&total), "{total} bytes of pictures");
}

/// The broken twin: pages with a name, a file or a picture that is not there.
#[test]
fn a_wrong_link_is_found() {
    let good = "[`Path::at`](../src/flow/path.rs) [`Straight`](../src/flow/path.rs) [x](http://a)";
    assert_eq!(faults(good, &docs()), Vec::<String>::new());
    for bad in [
        "[`Path::att`](../src/flow/path.rs)",
        "[`Path::a`](../src/flow/path.rs)",
        "[`Crooked`](../src/flow/path.rs)",
        "[`at`](../src/flow/paths.rs)",
        "![picture](core/none.png)",
    ] {
        assert_eq!(faults(bad, &docs()).len(), 1, "{bad}");
    }
}
