//! Demonstrations: the same bytes from any number of threads, and what is in them.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(all(feature = "nn", feature = "node"))]

use std::path::Path;

use pathline::dataset::Dataset;
use pathline::dataset::pusht::{self, Plan};
use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{self, ExpertConfig};

fn bytes(dir: &Path) -> Vec<Vec<u8>> {
    [
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    ]
    .map(|name| std::fs::read(dir.join(name)).unwrap())
    .into()
}

#[test]
fn demonstrations_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { episodes: 4, seed: 7, perturbed: 0.5, mirror: true, keep_failures: false };
    let cfg = ExpertConfig::bulk();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    let mut reports = 0;
    let (summary, made) = pusht::demonstrate(&one, &plan, &cfg, 1, |_| reports += 1).unwrap();
    let (_, again) = pusht::demonstrate(&many, &plan, &cfg, 3, |_| ()).unwrap();
    assert_eq!(made, again);
    assert_eq!(bytes(&one), bytes(&many));
    assert_eq!((summary.episodes, made.kept), (8, 4));
    assert_eq!(summary.frames, 2 * made.steps);
    assert_eq!(reports, made.kept + made.failed.len());

    let set = Dataset::open(&one).unwrap();
    assert_eq!(set.tasks, [pusht::TASK]);
    let (state, action) = (set.column("observation.state").unwrap(), set.column("action").unwrap());
    for (number, e) in set.episodes.iter().enumerate() {
        let last = e.to - 1;
        for key in ["next.done", "next.success"] {
            let column = set.column(key).unwrap();
            assert_eq!(column.row(last), [1.0]);
            assert_eq!(column.values[e.from..last].iter().sum::<f32>(), 0.0, "{key}");
        }
        // Every second episode is the one before it, reflected.
        if number % 2 == 1 {
            let original = &set.episodes[number - 1];
            assert_eq!(original.length(), e.length());
            for i in 0..e.length() {
                for column in [state, action] {
                    let (a, b) = (column.row(original.from + i), column.row(e.from + i));
                    assert!(
                        (a[0] + b[1] - 512.0).abs() < 1e-3 && (a[1] + b[0] - 512.0).abs() < 1e-3
                    );
                }
            }
        }
    }
}

#[test]
fn a_frame_is_the_observation_before_its_action() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    // The first seed whose episode is solved.
    let (seed, steps) = (0..)
        .map(|seed| {
            (seed, expert::episode(PushT::reset(seed), &ExpertConfig::bulk(), PushT::MAX_STEPS))
        })
        .find(|(_, steps)| steps.last().unwrap().success)
        .unwrap();
    let summary = pusht::write(&out, [steps.clone()]).unwrap();
    assert_eq!((summary.episodes, summary.frames), (1, steps.len()));
    // Playing the recorded (f32) actions shows what they were answers to.
    let set = Dataset::open(&out).unwrap();
    let mut env = PushT::reset(seed);
    let near = |row: &[f32], values: &[f64], tolerance: f64| {
        row.len() == values.len()
            && row.iter().zip(values).all(|(a, b)| (f64::from(*a) - b).abs() <= tolerance)
    };
    for frame in 0..steps.len() {
        // Contacts amplify the rounding of the actions, so only the first frames are followed closely.
        let tolerance = if frame < 10 { 1e-2 } else { 20.0 };
        let state = set.column("observation.state").unwrap().row(frame);
        assert!(near(state, &env.agent_pos(), tolerance), "frame {frame}");
        let keypoints = set.column("observation.environment_state").unwrap().row(frame);
        assert!(near(keypoints, &env.keypoints(), tolerance), "frame {frame}");
        let action = set.column("action").unwrap().row(frame);
        env.step([f64::from(action[0]), f64::from(action[1])]);
    }
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { episodes: 0, seed: 0, perturbed: 0.0, mirror: false, keep_failures: false };
    let cfg = ExpertConfig::bulk();
    let try_plan = |plan: &Plan| {
        let out = dir.path().join("out");
        pusht::demonstrate(out, plan, &cfg, 1, |_| ()).unwrap_err().to_string()
    };
    assert!(try_plan(&plan).contains("episodes: expected at least 1"));
    let plan = Plan { episodes: 1, perturbed: f64::NAN, ..plan };
    assert!(try_plan(&plan).contains("from 0 to 1, got NaN"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
