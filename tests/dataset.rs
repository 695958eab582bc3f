//! LeRobotDataset v3.0: round trips, LeRobot's own folder, and folders that must be refused.
#![cfg(feature = "nn")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::fs;
use std::path::{Path, PathBuf};

use pathline::dataset::{DType, Dataset, DatasetWriter, Episode, Feature, Features};

fn features() -> Features {
    Features::new()
        .with("observation.state", Feature::float32(2).named(&["x", "y"]))
        .with("observation.environment_state", Feature::float32(16))
        .with("action", Feature::float32(2).named(&["x", "y"]))
        .with("next.reward", Feature::float32(1))
        .with("next.done", Feature::bool())
        .with("next.success", Feature::bool())
}

// The formula of tests/golden/lerobot_dataset.py; every value is exact in f32.
fn value(episode: usize, frame: usize, element: usize, offset: f32) -> f32 {
    episode as f32 * 100.0 + frame as f32 * 1.5 + element as f32 * 0.25 + offset
}

fn rows(episode: usize, length: usize, dim: usize, offset: f32) -> Vec<f32> {
    (0..length).flat_map(|frame| (0..dim).map(move |j| value(episode, frame, j, offset))).collect()
}

fn last(length: usize, value: bool) -> Vec<f32> {
    (0..length).map(|i| f32::from(u8::from(value && i + 1 == length))).collect()
}

fn episode(number: usize, length: usize) -> Episode {
    Episode::new(["Push the T.", "Pull the T."][number % 2])
        .with("observation.state", rows(number, length, 2, 0.0))
        .with("observation.environment_state", rows(number, length, 16, 10.0))
        .with("action", rows(number, length, 2, -7.0))
        .with("next.reward", (0..length).map(|i| i as f32 / 8.0).collect())
        .with("next.done", last(length, true))
        .with("next.success", last(length, number != 1))
}

fn write(dir: &Path, lengths: &[usize]) {
    let mut writer = DatasetWriter::create(dir, &features(), 10, "pusht").unwrap();
    for (number, length) in lengths.iter().enumerate() {
        writer.add_episode(&episode(number, *length)).unwrap();
    }
    let summary = writer.finish().unwrap();
    assert_eq!((summary.episodes, summary.frames), (lengths.len(), lengths.iter().sum()));
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lerobot_dataset")
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                out.push((path.strip_prefix(dir).unwrap().to_owned(), bytes));
            }
        }
    }
    out.sort();
    out
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        fs::create_dir_all(to.join(&path).parent().unwrap()).unwrap();
        fs::write(to.join(path), bytes).unwrap();
    }
}

fn error(dir: &Path) -> String {
    Dataset::open(dir).expect_err("this folder must be refused").to_string()
}

fn assert_frames(set: &Dataset, lengths: &[usize]) {
    let mut frame = 0;
    for (number, length) in lengths.iter().enumerate() {
        let e = &set.episodes[number];
        assert_eq!((e.episode_index, e.from, e.length()), (number, frame, *length));
        assert_eq!(e.tasks, [["Push the T.", "Pull the T."][number % 2]]);
        for i in 0..*length {
            assert_eq!((set.episode_index[frame], set.frame_index[frame]), (number, i));
            assert_eq!(set.tasks[set.task_index[frame]], e.tasks[0]);
            assert!((set.timestamp[frame] - i as f32 / 10.0).abs() < 1e-6);
            for (key, dim, offset) in [
                ("observation.state", 2, 0.0),
                ("observation.environment_state", 16, 10.0),
                ("action", 2, -7.0),
            ] {
                let expected: Vec<f32> = (0..dim).map(|j| value(number, i, j, offset)).collect();
                assert_eq!(set.column(key).unwrap().row(frame), expected, "{key}, frame {frame}");
            }
            assert_eq!(set.column("next.reward").unwrap().row(frame), [i as f32 / 8.0]);
            let done = f32::from(u8::from(i + 1 == *length));
            assert_eq!(set.column("next.done").unwrap().row(frame), [done]);
            let success = if number == 1 { 0.0 } else { done };
            assert_eq!(set.column("next.success").unwrap().row(frame), [success]);
            frame += 1;
        }
    }
    assert_eq!(set.n_frames(), frame);
}

#[test]
fn what_lerobot_wrote_is_read() {
    let set = Dataset::open(golden()).unwrap();
    assert_frames(&set, &[5, 3, 7]);
    assert_eq!(set.info.robot_type.as_deref(), Some("pusht"));
    assert_eq!(set.info.fps, 10.0);
    assert_eq!(set.features.get("observation.image").unwrap().dtype, DType::Image);
    assert!(set.column("observation.image").is_err(), "pictures are listed, not loaded");
    // The picture statistics are nested lists of shape (3, 1, 1).
    assert_eq!(set.stats["observation.image"].mean.len(), 3);
    assert_eq!((set.stats["next.done"].min[0], set.stats["next.done"].max[0]), (0.0, 1.0));
}

#[test]
fn our_statistics_are_those_that_lerobot_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    write(&out, &[5, 3, 7]);
    let (ours, theirs) = (Dataset::open(&out).unwrap(), Dataset::open(golden()).unwrap());
    assert_frames(&ours, &[5, 3, 7]);
    let mut compared = 0;
    for (key, a) in &ours.stats {
        let b = &theirs.stats[key];
        assert_eq!(a.count, b.count, "{key}");
        for i in 0..a.mean.len() {
            // LeRobot takes the times' statistics before it rounds them to f32.
            let bounds = [(a.min[i], b.min[i]), (a.max[i], b.max[i])];
            assert!(bounds.iter().all(|(a, b)| *a as f32 == *b as f32), "{key} {bounds:?}");
            let range = a.max[i] - a.min[i];
            // LeRobot computes f32 features in f32: E[x²] − E[x]² loses half of the digits.
            assert!((a.mean[i] - b.mean[i]).abs() <= 1e-6 * (1.0 + b.mean[i].abs()), "{key} mean");
            assert!(
                (a.std[i] - b.std[i]).abs() <= 1e-4 * (1.0 + b.std[i]),
                "{key} std {a:?} {b:?}"
            );
            for (name, values) in &b.quantiles {
                let error = (a.quantiles[name][i] - values[i]).abs();
                assert!(error <= range / 5000.0 + 1e-6, "{key} {name}: off by {error}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} quantiles compared");
}

#[test]
fn the_same_episodes_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, &[4, 9, 2]);
    write(&b, &[4, 9, 2]);
    assert_eq!(files(&a), files(&b));
    let names: Vec<_> = files(&a).into_iter().map(|(p, _)| p.display().to_string()).collect();
    assert_eq!(
        names,
        [
            "data/chunk-000/file-000.parquet",
            "meta/episodes/chunk-000/file-000.parquet",
            "meta/info.json",
            "meta/stats.json",
            "meta/tasks.parquet"
        ]
    );
}

#[test]
fn large_data_sets_go_on_in_more_files_and_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let lengths = [7000, 6000, 5000, 9000, 1];
    let mut writer =
        DatasetWriter::create(&out, &features(), 10, "pusht").unwrap().with_limits(1, 2);
    for (number, length) in lengths.iter().enumerate() {
        writer.add_episode(&episode(number, *length)).unwrap();
    }
    writer.finish().unwrap();
    let set = Dataset::open(&out).unwrap();
    assert_frames(&set, &lengths);
    assert!(out.join("data/chunk-001/file-000.parquet").is_file());
    assert!(!out.join("data/chunk-000/file-002.parquet").exists());
    assert_eq!(set.stats["action"].count, 27001);
}

#[test]
fn several_folders_are_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, &[4, 2]);
    let mut writer = DatasetWriter::create(&b, &features(), 10, "pusht").unwrap();
    writer.add_episode(&episode(3, 5)).unwrap();
    let mut other = episode(0, 3);
    other.task = "Turn the T.".into();
    writer.add_episode(&other).unwrap();
    writer.finish().unwrap();
    let set = Dataset::open_all(&[&a, &b]).unwrap();
    assert_eq!(set.tasks, ["Push the T.", "Pull the T.", "Turn the T."]);
    assert_eq!(set.task_index, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
    assert_eq!(set.episode_index, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]);
    let spans: Vec<_> = set.episodes.iter().map(|e| (e.episode_index, e.from, e.to)).collect();
    assert_eq!(spans, [(0, 0, 4), (1, 4, 6), (2, 6, 11), (3, 11, 14)]);
    assert_eq!(set.column("action").unwrap().row(7), [294.5, 294.75]);
    assert_eq!(set.info.total_frames, 14);
    // Pooled statistics are those of all frames.
    let values: Vec<f64> =
        set.column("action").unwrap().values.iter().step_by(2).map(|v| f64::from(*v)).collect();
    let mean = values.iter().sum::<f64>() / 14.0;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 14.0).sqrt();
    assert!((set.stats["action"].mean[0] - mean).abs() < 1e-9);
    assert!((set.stats["action"].std[0] - std).abs() < 1e-9);
    let mut slow = DatasetWriter::create(dir.path().join("c"), &features(), 20, "pusht").unwrap();
    slow.add_episode(&episode(0, 3)).unwrap();
    slow.finish().unwrap();
    let error = Dataset::open_all(&[a, dir.path().join("c")]).unwrap_err().to_string();
    assert!(error.contains("expected 10 fps"), "{error}");
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let mut writer = DatasetWriter::create(&out, &features(), 10, "").unwrap();
    writer.add_episode(&episode(0, 3)).unwrap();
    assert!(!out.exists());
    let busy = DatasetWriter::create(&out, &features(), 10, "").err().unwrap().to_string();
    assert!(busy.contains("another process"), "{busy}");
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a dropped writer leaves nothing");

    // What a killed run left does not get into the next one.
    fs::create_dir_all(dir.path().join(".set.partial/data")).unwrap();
    fs::write(dir.path().join(".set.partial/data/rest.parquet"), b"rest").unwrap();
    fs::create_dir(&out).unwrap();
    write(&out, &[3]);
    assert!(!out.join("data/rest.parquet").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let error = DatasetWriter::create(&out, &features(), 10, "").err().unwrap().to_string();
    assert!(error.contains("expected a new or an empty folder"), "{error}");
    let empty = DatasetWriter::create(dir.path().join("none"), &features(), 10, "").unwrap();
    assert!(empty.finish().unwrap_err().to_string().contains("at least one episode"));
}

#[test]
fn episodes_that_do_not_fit_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let mut writer = DatasetWriter::create(&out, &features(), 10, "pusht").unwrap();
    writer.add_episode(&episode(0, 3)).unwrap();
    let mut nan = rows(1, 3, 2, 0.0);
    nan[5] = f32::NAN;
    let mut missing = episode(1, 3);
    missing.columns.remove("action");
    let cases = [
        (episode(1, 3).with("action", nan), "action: frame 2, element 1: expected a finite"),
        (episode(1, 3).with("action", rows(1, 4, 2, 0.0)), "expected 4 rows as observation.state"),
        (episode(1, 3).with("next.done", vec![0.0, 0.5, 1.0]), "next.done: frame 1"),
        (episode(1, 3).with("other", vec![0.0; 3]), "`other` is not a feature"),
        (episode(1, 3).with("observation.state", vec![0.0; 5]), "multiple of 2"),
        (missing, "expected values for `action`"),
    ];
    for (episode, expected) in cases {
        let error = writer.add_episode(&episode).unwrap_err().to_string();
        // Order of the features decides which of two unequal columns is named.
        let named = error.contains(expected) || error.contains("expected 3 rows");
        assert!(named, "expected `{expected}` in: {error}");
    }
    writer.add_episode(&episode(1, 2)).unwrap();
    writer.finish().unwrap();
    assert_frames(&Dataset::open(&out).unwrap(), &[3, 2]);
}

#[test]
fn broken_folders_are_refused_with_the_file_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    write(&whole, &[5, 3]);
    let mut number = 0;
    let mut broken = |change: &dyn Fn(&Path)| {
        number += 1;
        let folder = dir.path().join(format!("broken{number}"));
        copy(&whole, &folder);
        change(&folder);
        error(&folder)
    };
    let edit = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("meta/info.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "nothing to edit");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let data = "data/chunk-000/file-000.parquet";
    let cases: [(&str, String); 11] = [
        ("data set is v2.1", broken(&|f| edit(f, "v3.0", "v2.1"))),
        ("says 9 episodes", broken(&|f| edit(f, "\"total_episodes\": 2", "\"total_episodes\": 9"))),
        ("expected JSON", broken(&|f| edit(f, "\"fps\"", "\"fps"))),
        ("fps: expected > 0", broken(&|f| edit(f, "\"fps\": 10", "\"fps\": 0"))),
        ("no such column", broken(&|f| edit(f, "\"action\"", "\"actions\""))),
        ("frames 0 to 7", broken(&|f| fs::remove_file(f.join(data)).unwrap())),
        ("meta/info.json", broken(&|f| fs::remove_file(f.join("meta/info.json")).unwrap())),
        ("meta/stats.json", broken(&|f| fs::remove_file(f.join("meta/stats.json")).unwrap())),
        ("meta/tasks.parquet", broken(&|f| fs::remove_file(f.join("meta/tasks.parquet")).unwrap())),
        ("meta/episodes", broken(&|f| fs::remove_dir_all(f.join("meta/episodes")).unwrap())),
        (
            data,
            broken(&|f| {
                let bytes = fs::read(f.join(data)).unwrap();
                fs::write(f.join(data), &bytes[..bytes.len() / 2]).unwrap();
            }),
        ),
    ];
    for (expected, error) in cases {
        assert!(error.contains(expected), "expected `{expected}` in: {error}");
    }
    // A value that is not finite: the writer refuses those, so the bytes of a rare one are exchanged.
    let odd = dir.path().join("odd");
    let mut writer = DatasetWriter::create(&odd, &features(), 10, "pusht").unwrap();
    let mut action = rows(0, 5, 2, -7.0);
    action[7] = 1.234_567_8e30;
    writer.add_episode(&episode(0, 5).with("action", action.clone())).unwrap();
    writer.finish().unwrap();
    assert_eq!(Dataset::open(&odd).unwrap().column("action").unwrap().values, action);
    let mut bytes = fs::read(odd.join(data)).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - 3).filter(|i| bytes[*i..i + 4] == action[7].to_le_bytes()).collect();
    assert!(!places.is_empty(), "the value must lie in the file as it is");
    for i in places {
        bytes[i..i + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(odd.join(data), bytes).unwrap();
    let not_finite = error(&odd);
    assert!(
        not_finite.contains("action: row 3, element 1: expected a finite number"),
        "{not_finite}"
    );
    // A file of another data set: right columns, other frames.
    let other = dir.path().join("other");
    write(&other, &[4, 4]);
    let error = broken(&|f| {
        fs::copy(other.join(data), f.join(data)).unwrap();
    });
    assert!(
        error.contains("row 4: expected (index, episode_index, frame_index) (4, 0, 4)"),
        "{error}"
    );
    // A shape in info.json that the file does not have.
    let wrong = broken(&|f| {
        for name in ["meta/info.json", "meta/stats.json"] {
            let text = fs::read_to_string(f.join(name)).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            match json.get_mut("features") {
                Some(features) => features["action"]["shape"] = serde_json::json!([3]),
                None => drop(json.as_object_mut().unwrap().remove("action")),
            }
            fs::write(f.join(name), json.to_string()).unwrap();
        }
    });
    assert!(wrong.contains("action: row 0: expected 3 values without nulls, got 2"), "{wrong}");
    assert!(error_of_missing().contains("no such folder"));
}

fn error_of_missing() -> String {
    error(Path::new("/nowhere/at/all"))
}
