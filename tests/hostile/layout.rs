//! Folders, links, devices; and JSON files that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::*;

/// Folders and links.
pub(crate) fn layout() -> Vec<Case> {
    let replace = |file: &'static str, with: fn(&Path)| {
        move |dir: &Path| {
            fs::remove_file(dir.join(file)).unwrap();
            with(&dir.join(file));
        }
    };
    let mut all = vec![
        flow(
            "an empty folder",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir(dir).unwrap();
            },
            &[CONFIG],
        ),
        flow("no folder", |dir| fs::remove_dir_all(dir).unwrap(), &[CONFIG, "no such folder"]),
        flow(
            "a folder that is a link to itself",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                symlink(dir, dir).unwrap();
            },
            &["leads nowhere"],
        ),
        flow(
            "a file instead of a folder",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::write(dir, "x").unwrap();
            },
            &["expected a policy folder"],
        ),
        flow("no config", |dir| fs::remove_file(dir.join(CONFIG)).unwrap(), &[CONFIG]),
        flow("no model", |dir| fs::remove_file(dir.join(MODEL)).unwrap(), &[MODEL, INDEX]),
        flow(
            "two snapshots and no refs/main",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                for name in ["aaaa", "bbbb"] {
                    Base::Flow.copy(&dir.join("snapshots").join(name));
                }
            },
            &["refs/main", "aaaa", "bbbb"],
        ),
        flow(
            "refs/main that leads out of the cache",
            |dir| {
                fs::rename(dir, dir.with_file_name("elsewhere")).unwrap();
                fs::create_dir_all(dir.join("snapshots")).unwrap();
                fs::create_dir_all(dir.join("refs")).unwrap();
                fs::write(dir.join("refs/main"), "../../elsewhere").unwrap();
            },
            &["refs/main", "expected the name of a folder"],
        ),
        flow(
            "a run whose last checkpoint is broken and has no other",
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir_all(dir.join("checkpoints")).unwrap();
                symlink("010000", dir.join("checkpoints/last")).unwrap();
            },
            &[CONFIG],
        ),
    ];
    for file in [CONFIG, MODEL, PRE, POST, STATE] {
        all.push(flow(
            format!("{file} is a folder"),
            replace(file, |path| fs::create_dir(path).unwrap()),
            &[file, "a folder"],
        ));
        all.push(flow(
            format!("{file} is a link to itself"),
            replace(file, |path| symlink(path, path).unwrap()),
            &[file],
        ));
        // A file that another file names may not lead out of the folder at all.
        let says =
            if file.contains("_step_") { "a link to /dev/zero" } else { "neither file nor folder" };
        all.push(flow(
            format!("{file} is a device without end"),
            replace(file, |path| symlink("/dev/zero", path).unwrap()),
            &[file, says],
        ));
    }
    all
}

/// JSON files.
pub(crate) fn text() -> Vec<Case> {
    let mut all = Vec::new();
    for file in [CONFIG, PRE, POST, INDEX] {
        let mut text = |name: &str, bytes: Vec<u8>, says: &str| {
            let write = move |dir: &Path| {
                if file == INDEX {
                    shard(dir);
                }
                fs::write(dir.join(file), &bytes).unwrap();
            };
            all.push(flow(format!("{file} is {name}"), write, &[file, says]));
        };
        text("empty", Vec::new(), "EOF");
        text("not JSON", b"type: act".to_vec(), "expected");
        text("cut", b"{\"type\": \"pathline_flow\", ".to_vec(), "EOF");
        text("not UTF-8", b"{\"type\": \"\xff\xfe\"}".to_vec(), "UTF-8");
        text("deep", b"{\"a\":".repeat(200_000), "");
        text("deep in lists", [b"{\"a\":".to_vec(), b"[".repeat(500_000)].concat(), "");
        text("of 20 MB", vec![b' '; 20_000_000], "at most");
        text("a number", b"17".to_vec(), "");
        text("NUL", vec![0; 64], "expected value");
    }
    all
}
