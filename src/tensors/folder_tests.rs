//! Layouts that users name, and names that must not be followed.

use std::os::unix::fs::symlink;

use super::*;
use crate::tensors::files::inside;

const CONFIG: &str = "config.json";
const POLICY: Kind = Kind { name: "policy folder", file: CONFIG, with: "model.safetensors" };

/// Makes a file and the folders above it.
fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "{}").unwrap();
}

fn checkpoint(run: &Path, step: &str) {
    touch(&run.join(CHECKPOINTS).join(step).join(PRETRAINED_MODEL).join(CONFIG));
}

fn snapshot_of(model: &Path, hash: &str) -> PathBuf {
    let folder = model.join(SNAPSHOTS).join(hash);
    touch(&model.join("blobs").join(hash));
    fs::create_dir_all(&folder).unwrap();
    symlink(format!("../../blobs/{hash}"), folder.join(CONFIG)).unwrap();
    folder
}

fn error(dir: &Path, caches: &[PathBuf]) -> String {
    resolve_in(dir, &POLICY, caches).unwrap_err().to_string()
}

#[test]
fn a_policy_a_checkpoint_and_a_run_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    for step in ["000999", "001000", "20000", "not-a-number"] {
        checkpoint(&run, step);
    }
    let model = |step: &str| run.join(CHECKPOINTS).join(step).join(PRETRAINED_MODEL);
    let found = |path: &Path| resolve_in(path, &POLICY, &[]).unwrap();
    assert_eq!(found(&model("000999")), model("000999"));
    assert_eq!(found(model("000999").parent().unwrap()), model("000999"));
    assert_eq!(found(&run), model("20000"), "the newest by number, not by text");
    assert_eq!(found(&run.join(CHECKPOINTS)), model("20000"));
    let last = run.join(CHECKPOINTS).join(LAST);
    symlink("001000", &last).unwrap();
    assert_eq!(found(&run), last.join(PRETRAINED_MODEL));
    fs::remove_file(&last).unwrap();
    symlink("gone", &last).unwrap();
    assert_eq!(found(&run), model("20000"), "a link that leads nowhere");
    // The newest may be unfinished.
    fs::create_dir_all(run.join(CHECKPOINTS).join("30000")).unwrap();
    assert_eq!(found(&run), model("20000"));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let error = error(&empty, &[]);
    assert!(error.contains("no config.json in") && error.contains("empty"), "{error}");
}

#[test]
fn a_hugging_face_cache_is_found_by_folder_and_by_name() {
    let home = tempfile::tempdir().unwrap();
    let hub = home.path().join("hub");
    let model = hub.join("models--lerobot--diffusion_pusht");
    let first = snapshot_of(&model, "aaaa");
    let caches = [home.path().join("nothing"), hub.clone()];
    for named in [&model, &model.join(SNAPSHOTS), &first] {
        assert_eq!(resolve_in(named, &POLICY, &[]).unwrap(), first);
    }
    let name = Path::new("lerobot/diffusion_pusht");
    assert_eq!(resolve_in(name, &POLICY, &caches).unwrap(), first);

    let second = snapshot_of(&model, "bbbb");
    let text = error(name, &caches);
    assert!(text.contains("refs/main") && text.contains("aaaa") && text.contains("bbbb"), "{text}");
    fs::create_dir(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "bbbb\n").unwrap();
    assert_eq!(resolve_in(name, &POLICY, &caches).unwrap(), second);
    for bad in ["cccc", "../snapshots/aaaa", "/etc", "", "."] {
        fs::write(model.join("refs/main"), bad).unwrap();
        let text = error(name, &caches);
        assert!(text.contains("refs/main") && text.contains("expected the name"), "{bad}: {text}");
    }

    let text = error(Path::new("lerobot/act_aloha"), &caches);
    assert!(text.contains("lerobot/act_aloha") && text.contains("config.json"), "{text}");
    assert!(
        text.contains("hub/models--lerobot--act_aloha") && text.contains("nothing is"),
        "{text}"
    );
    // Only a name is looked up, never a path.
    for path in ["/lerobot/diffusion_pusht", "./lerobot/diffusion_pusht/x", "a/../b", "..", "a"] {
        assert!(!error(Path::new(path), &caches).contains("models--"), "{path}");
    }
}

#[test]
fn the_caches_are_those_of_the_environment() {
    let caches = |pairs: &[(&str, &str)]| {
        hub_caches(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| v.into()))
    };
    assert_eq!(caches(&[]), [""; 0].map(PathBuf::from));
    let all = [("HOME", "/h"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")];
    let expected = ["/c", "/hf/hub", "/h/.cache/huggingface/hub"].map(PathBuf::from);
    assert_eq!(caches(&all), expected);
    assert_eq!(caches(&[("HF_HOME", "relative")]), [""; 0].map(PathBuf::from));
}

#[test]
fn something_that_is_no_folder_is_told_from_a_pickle() {
    let dir = tempfile::tempdir().unwrap();
    for (name, says) in [
        ("policy.ckpt", "save_pretrained"),
        ("policy.PT", "save_pretrained"),
        ("policy.zip", "unpack"),
        ("policy.tar.gz", "unpack"),
        ("policy.txt", "config.json"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, "x").unwrap();
        let text = error(&path, &[]);
        assert!(text.contains(name) && text.contains(says), "{text}");
    }
    touch(&dir.path().join(CONFIG));
    let text = error(&dir.path().join(CONFIG), &[]);
    assert!(text.contains("name its folder"), "{text}");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    symlink(&a, &b).unwrap();
    symlink(&b, &a).unwrap();
    assert!(error(&a, &[]).contains("leads nowhere"));
}

#[test]
fn names_from_files_stay_in_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    touch(&outside.path().join("secret"));
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("policy");
    touch(&dir.join("good"));
    touch(&root.path().join("above"));
    symlink("good", dir.join("link")).unwrap();
    symlink("../above", dir.join("up")).unwrap();
    symlink(outside.path().join("secret"), dir.join("out")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink(outside.path(), dir.join("folder")).unwrap();
    for name in ["good", "link"] {
        assert_eq!(inside(&dir, name).unwrap(), dir.join(name));
    }
    let long = "x".repeat(256);
    for name in [
        "",
        ".",
        "..",
        "../above",
        "/etc/passwd",
        "./good",
        "good/",
        "folder/secret",
        "a\\b",
        "C:x",
        "up",
        "out",
        "loop",
        "missing",
        "go\0od",
        "a\nb",
        "//",
        "...//good",
        "~/x/",
        &long,
    ] {
        let error = inside(&dir, name).unwrap_err();
        assert!(error.contains("expected"), "{name:?}: {error}");
    }
    // A link into blobs is one only where the folder is a snapshot.
    let hub = root.path().join("models--a--b");
    let snapshot = snapshot_of(&hub, "aaaa");
    inside(&snapshot, CONFIG).unwrap();
    let other = hub.join("elsewhere/aaaa");
    fs::create_dir_all(&other).unwrap();
    symlink("../../blobs/aaaa", other.join(CONFIG)).unwrap();
    assert!(inside(&other, CONFIG).is_err());
}
