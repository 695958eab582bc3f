//! PushT episodes as a data set: features, mirror images, and demonstrations by the expert.
//!
//! A frame is the observation before the action (agent position, eight keypoints), the action (absolute
//! target of the agent) and what came of it (reward, done, success), by the keys of LeRobot's own PushT sets.
//!
//! The T and its goal are symmetric about the goal's long axis, the line x + y = 512 px. Reflecting an
//! episode there, (x, y) → (512 − y, 512 − x) and θ → π/2 − θ, gives another possible one: exact as long as
//! no wall is touched (the walls' frame, 5 to 506 px, is off the symmetry by half a pixel).

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_PI_2, TAU};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{self, ExpertConfig, Step};

use super::{DatasetWriter, Episode, Feature, Features, Summary};
use crate::{Error, Result};

/// Frames a second.
pub const FPS: u32 = 10;
/// Name of the robot in `meta/info.json`.
pub const ROBOT_TYPE: &str = "pusht";
/// The task in words, as LeRobot's PushT sets have it.
pub const TASK: &str = "Push the T-shaped block onto the T-shaped target.";

/// The features of a PushT frame.
pub fn features() -> Features {
    Features::new()
        .with("observation.state", Feature::float32(2).named(&["x", "y"]))
        .with("observation.environment_state", Feature::float32(16))
        .with("action", Feature::float32(2).named(&["x", "y"]))
        .with("next.reward", Feature::float32(1))
        .with("next.done", Feature::bool())
        .with("next.success", Feature::bool())
}

/// The steps as an episode; the last one is done.
pub fn episode(steps: &[Step]) -> Episode {
    let last = steps.len().saturating_sub(1);
    let truth = |b: bool| f32::from(u8::from(b));
    Episode::new(TASK)
        .with("observation.state", flat(steps, |s| &s.agent))
        .with("observation.environment_state", flat(steps, |s| &s.keypoints))
        .with("action", flat(steps, |s| &s.action))
        .with("next.reward", steps.iter().map(|s| s.reward as f32).collect())
        .with("next.done", (0..steps.len()).map(|i| truth(i == last)).collect())
        .with("next.success", steps.iter().map(|s| truth(s.success)).collect())
}

fn flat(steps: &[Step], pick: impl Fn(&Step) -> &[f64]) -> Vec<f32> {
    steps.iter().flat_map(pick).map(|v| *v as f32).collect()
}

/// Starts a PushT data set in `dir`, a new or empty folder.
pub fn writer(dir: impl AsRef<Path>) -> Result<DatasetWriter> {
    DatasetWriter::create(dir, &features(), FPS, ROBOT_TYPE)
}

/// Writes a PushT data set from episodes, such as the expert's corrections of a policy.
pub fn write(
    dir: impl AsRef<Path>,
    episodes: impl IntoIterator<Item = Vec<Step>>,
) -> Result<Summary> {
    let mut writer = writer(dir)?;
    for steps in episodes {
        writer.add_episode(&episode(&steps))?;
    }
    writer.finish()
}

/// The same steps reflected about the goal's axis.
pub fn mirror(steps: &[Step]) -> Vec<Step> {
    let partner = partners();
    let image = |s: &Step| {
        let mut keypoints = [0.0; 16];
        for (i, p) in s.keypoints.chunks_exact(2).enumerate() {
            keypoints[2 * partner[i]..][..2].copy_from_slice(&reflect([p[0], p[1]]));
        }
        let [ax, ay, bx, by, angle] = s.state;
        let ([ax, ay], [bx, by]) = (reflect([ax, ay]), reflect([bx, by]));
        let angle = (FRAC_PI_2 - angle).rem_euclid(TAU);
        Step {
            agent: reflect(s.agent),
            keypoints,
            state: [ax, ay, bx, by, angle],
            action: reflect(s.action),
            reward: s.reward,
            success: s.success,
        }
    };
    steps.iter().map(image).collect()
}

fn reflect([x, y]: [f64; 2]) -> [f64; 2] {
    [512.0 - y, 512.0 - x]
}

// Which corner each corner becomes: found on the T at its goal, whose mirror image is itself.
fn partners() -> [usize; 8] {
    let [x, y, angle] = PushT::GOAL_POSE;
    let corners = PushT::at_rest([0.0, 0.0, x, y, angle]).keypoints();
    let corner = |i: usize| [corners[2 * i], corners[2 * i + 1]];
    std::array::from_fn(|i| {
        let image = reflect(corner(i));
        let distance = |j: &usize| (corner(*j)[0] - image[0]).hypot(corner(*j)[1] - image[1]);
        (0..8).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(i)
    })
}

/// Which demonstrations to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Solved episodes to keep; mirror images come on top.
    pub episodes: usize,
    /// Seed of the first episode; the next has the next number.
    pub seed: u64,
    /// Share of the episodes, 0 to 1, that start off the expert's own path ([`expert::perturbed`]), evenly
    /// spread; the others start from the environment's reset.
    pub perturbed: f64,
    /// Write every episode's mirror image after it.
    pub mirror: bool,
    /// Keep episodes that the expert did not solve within [`PushT::MAX_STEPS`], too.
    pub keep_failures: bool,
}

/// How far [`demonstrate`] is, and what it made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Episodes kept, without mirror images.
    pub kept: usize,
    /// Control steps of the kept episodes, without mirror images.
    pub steps: usize,
    /// Seeds of the episodes that were not solved.
    pub failed: Vec<u64>,
}

impl Plan {
    // The n-th of evenly spread perturbed starts begins where n·share passes a whole number.
    fn is_perturbed(&self, number: u64) -> bool {
        let share = self.perturbed;
        ((number + 1) as f64 * share).floor() > (number as f64 * share).floor()
    }

    fn demonstration(&self, number: u64, cfg: &ExpertConfig) -> Vec<Step> {
        let seed = self.seed.wrapping_add(number);
        let start =
            if self.is_perturbed(number) { expert::perturbed(seed) } else { PushT::reset(seed) };
        expert::episode(start, cfg, PushT::MAX_STEPS)
    }
}

/// Makes demonstrations on `threads` threads and writes them to `dir` as a data set.
///
/// Episodes are written in the order of their seeds, so the bytes do not depend on the number of threads.
/// `report` is called after every episode. An error comes where the expert fails in more than half of the
/// episodes, and where the folder cannot be written.
pub fn demonstrate(
    dir: impl AsRef<Path>,
    plan: &Plan,
    cfg: &ExpertConfig,
    threads: usize,
    mut report: impl FnMut(&Progress),
) -> Result<(Summary, Progress)> {
    if plan.episodes == 0 {
        return Err(Error::Invalid("episodes: expected at least 1, got 0".into()));
    }
    if !(0.0..=1.0).contains(&plan.perturbed) {
        let got = plan.perturbed;
        return Err(Error::Invalid(format!("perturbed: expected a share from 0 to 1, got {got}")));
    }
    let mut writer = writer(dir)?;
    let mut progress = Progress::default();
    in_order(
        threads,
        |number| plan.demonstration(number, cfg),
        |number, steps| {
            let solved = steps.last().is_some_and(|s| s.success);
            if !solved {
                progress.failed.push(plan.seed.wrapping_add(number));
            }
            if solved || plan.keep_failures {
                writer.add_episode(&episode(&steps))?;
                if plan.mirror {
                    writer.add_episode(&episode(&mirror(&steps)))?;
                }
                progress.kept += 1;
                progress.steps += steps.len();
            }
            report(&progress);
            let (failed, seen) = (progress.failed.len(), number as usize + 1);
            if !plan.keep_failures && failed > 20 + progress.kept {
                let message = format!(
                    "the expert failed in {failed} of {seen} episodes; nothing was written"
                );
                return Err(Error::Invalid(message));
            }
            Ok(progress.kept < plan.episodes)
        },
    )?;
    Ok((writer.finish()?, progress))
}

/// Lets the expert take over from each of `starts` for at most `max_steps` control steps, on `threads`
/// threads, and writes what it does as one episode each.
///
/// This is the labelling half of DAgger: `starts` are states that a policy visited. `report` gets the number
/// of episodes written. Starts that are already solved give no episode.
pub fn takeovers(
    dir: impl AsRef<Path>,
    starts: &[PushT],
    max_steps: usize,
    cfg: &ExpertConfig,
    threads: usize,
    mut report: impl FnMut(usize),
) -> Result<Summary> {
    let mut writer = writer(dir)?;
    if starts.is_empty() {
        return Err(Error::Invalid("expected at least one state to take over from".into()));
    }
    let make = |number: u64| {
        let start = starts.get(number as usize);
        start.map(|env| expert::takeover(env.clone(), cfg, max_steps)).unwrap_or_default()
    };
    in_order(threads, make, |number, steps| {
        if !steps.is_empty() {
            writer.add_episode(&episode(&steps))?;
        }
        report(number as usize + 1);
        Ok(number as usize + 1 < starts.len())
    })?;
    writer.finish()
}

// Calls `make` with 0, 1, 2 … on several threads and hands the results to `take` in that order, until it
// answers false. Results that came too early wait; at most a few per thread are under way.
fn in_order<T: Send>(
    threads: usize,
    make: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(u64, T) -> Result<bool>,
) -> Result<()> {
    let threads = threads.max(1);
    let next = AtomicU64::new(0);
    let (next, make) = (&next, &make);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(threads);
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(move || {
                // Ends when the receiver is gone.
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if sender.send((number, make(number))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for wanted in 0.. {
            let item = loop {
                if let Some(item) = early.remove(&wanted) {
                    break item;
                }
                match receiver.recv() {
                    Ok((number, item)) => drop(early.insert(number, item)),
                    // Every worker panicked; the scope passes the panic on.
                    Err(mpsc::RecvError) => return Ok(()),
                }
            };
            if !take(wanted, item)? {
                break;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(state: [f64; 5]) -> Step {
        let env = PushT::at_rest(state);
        Step {
            agent: env.agent_pos(),
            keypoints: env.keypoints(),
            state: env.state(),
            action: [100.0, 300.0],
            reward: 0.5,
            success: false,
        }
    }

    #[test]
    fn a_mirror_image_is_the_observation_of_the_mirrored_state() {
        for state in [[50.0, 60.0, 200.0, 300.0, 0.3], [400.0, 90.0, 256.0, 256.0, 5.0]] {
            let before = step(state);
            let image = &mirror(std::slice::from_ref(&before))[0];
            let again = PushT::at_rest(image.state);
            assert_eq!(image.agent, again.agent_pos());
            for (a, b) in image.keypoints.iter().zip(again.keypoints()) {
                assert!((a - b).abs() < 1e-9, "{a} {b}");
            }
            assert!((again.coverage() - PushT::at_rest(state).coverage()).abs() < 1e-9);
            let twice = &mirror(std::slice::from_ref(image))[0];
            assert!((twice.state[4] - before.state[4]).abs() < 1e-12);
            assert_eq!((twice.agent, twice.action), (before.agent, before.action));
            let pairs = twice.keypoints.iter().zip(before.keypoints);
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-9));
        }
        // A broken twin: without the exchange of corners the image is another T.
        let partners = partners();
        assert!(partners.iter().enumerate().all(|(i, j)| *j != i && partners[*j] == i));
    }

    #[test]
    fn mirrored_physics_follows_the_mirrored_episode() {
        let (mut env, mut image) = (
            PushT::at_rest([256.0, 100.0, 230.0, 220.0, 0.4]),
            PushT::at_rest([412.0, 256.0, 292.0, 282.0, FRAC_PI_2 - 0.4]),
        );
        for k in 0..25 {
            let action = [250.0, 100.0 + 12.0 * f64::from(k)];
            let (a, b) = (env.step(action), image.step(reflect(action)));
            assert!((a.reward - b.reward).abs() < 1e-6, "step {k}: {a:?} {b:?}");
        }
        let moved = (env.block_pose()[1] - 220.0).abs();
        assert!(moved > 5.0, "the block must have been pushed, moved {moved}");
        let [x, y, _] = env.block_pose();
        let expected = reflect([x, y]);
        assert!((image.block_pose()[0] - expected[0]).abs() < 1e-6);
        assert!((image.block_pose()[1] - expected[1]).abs() < 1e-6);
    }

    #[test]
    fn perturbed_starts_are_spread_evenly() {
        let plan = |perturbed| Plan {
            episodes: 1,
            seed: 0,
            perturbed,
            mirror: false,
            keep_failures: false,
        };
        for (share, expected) in [(0.0, 0), (0.25, 25), (0.3, 30), (1.0, 100)] {
            let count = (0..100).filter(|n| plan(share).is_perturbed(*n)).count();
            assert!((count as i64 - expected).abs() <= 1, "{share}: {count}");
        }
        let chosen: Vec<u64> = (0..8).filter(|n| plan(0.25).is_perturbed(*n)).collect();
        assert_eq!(chosen, [3, 7]);
    }

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let make = |n: u64| (0..(n * 7919) % 5000).fold(n, |a, b| a.wrapping_mul(31) ^ b);
            in_order(threads, make, |n, value| {
                seen.push((n, value));
                Ok(n < 40)
            })
            .unwrap();
            let expected: Vec<_> = (0..=40).map(|n| (n, make(n))).collect();
            assert_eq!(seen, expected);
        }
        let stopped = in_order(3, |n| n, |_, _| Err(Error::Invalid("stop".into())));
        assert!(stopped.is_err());
    }
}
