//! A policy folder behind the node's seam, and the figures that its card promises.

use std::path::Path;
use std::thread;

use anyhow::Context;
use pathline::device;
use pathline::flow::Noise;
use pathline::node::testing::ServoPolicy;
use pathline::node::{Camera, ChunkPolicy, Picture, PolicyInfo, Request, Timings};
use pathline::policy::{Continuing, Draws, FOLDER, Policy, RtcConfig, Solver, Trace, digest};
use pathline::tensors::{folder, weights::Weights};
use serde::Deserialize;

use super::dtype::DtypeArgs;
use super::join::{JoinArgs, RtcArgs};

/// Control rate of a policy that does not say one, Hz: PushT's.
const DEFAULT_RATE: f64 = 10.0;

/// A loaded policy with the solver that the user or its configuration chose.
struct Loaded {
    policy: Policy,
    solver: Solver,
    info: PolicyInfo,
    rtc: RtcConfig,
    timings: Timings,
}

impl ChunkPolicy for Loaded {
    fn info(&self) -> PolicyInfo {
        self.info.clone()
    }

    fn infer(
        &mut self,
        requests: &[Request],
        trace: Option<&mut Vec<Vec<f32>>>,
    ) -> pathline::Result<Vec<Vec<f32>>> {
        let windows: Vec<_> = requests.iter().map(|request| &request.window[..]).collect();
        let draws = self.draws(requests);
        let len = self.info.horizon * self.info.action_dim;
        let mut record = |states: &mut Vec<Vec<f32>>, x: &[f32]| {
            states.extend(x.chunks(len).next().map(<[f32]>::to_vec));
        };
        let chunks = match (self.info.joining.mode.form(), trace) {
            (None, None) => self.policy.infer(&windows, draws, &self.solver)?,
            (None, Some(states)) => {
                let mut trace = |_t: f64, x: &[f32]| record(states, x);
                self.policy.infer_traced(&windows, draws, &self.solver, &mut trace)?
            }
            (Some(form), states) => {
                let chunks: Vec<_> = requests.iter().map(|r| r.continuation.as_ref()).collect();
                let continuing = Continuing {
                    form,
                    config: &self.rtc,
                    chunks: &chunks,
                    max_delay: self.policy.config().rtc_training_max_delay(),
                };
                let mut trace = states.map(|states| {
                    let record = &mut record;
                    move |_t: f64, x: &[f32]| record(states, x)
                });
                let trace = trace.as_mut().map(|trace| trace as &mut Trace<'_>);
                self.policy.infer_continued(&windows, draws, &self.solver, continuing, trace)?
            }
        };
        self.timings = Timings { encode: chunks.encode };
        Ok(chunks.actions.chunks(len).map(<[f32]>::to_vec).collect())
    }

    fn timings(&self) -> Timings {
        self.timings
    }
}

impl Loaded {
    /// The noise of a batch: each request's is what it has alone.
    fn draws(&self, requests: &[Request]) -> Draws {
        let alone: Vec<_> = requests
            .iter()
            .map(|r| self.policy.draws(&Noise::new(r.seed), &[0], 0, &self.solver))
            .collect();
        let steps = if self.solver.is_stochastic() { self.solver.steps } else { 0 };
        let len = self.policy.chunk_len();
        let step_noise = (0..steps)
            .flat_map(|step| alone.iter().map(move |d| &d.step_noise[step * len..(step + 1) * len]))
            .collect::<Vec<_>>()
            .concat();
        Draws { noise: alone.into_iter().flat_map(|d| d.noise).collect(), step_noise }
    }
}

/// Which policy, and what of it shall be other than its folder says.
pub(crate) struct Wish<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) solver: Option<&'a str>,
    pub(crate) steps: Option<usize>,
    /// Control rate, Hz.
    pub(crate) fps: Option<f64>,
    /// How weights are kept.
    pub(crate) dtype: DtypeArgs,
    pub(crate) join: &'a JoinArgs,
    pub(crate) rtc: &'a RtcArgs,
}

/// Loads a policy folder for the node; `servo` is a policy without a network, to try the wiring.
pub(crate) fn chunk_policy(wish: &Wish<'_>) -> anyhow::Result<Box<dyn ChunkPolicy>> {
    let folder = wish.folder;
    if folder == Path::new("servo") {
        return Ok(Box::new(ServoPolicy::pusht().with_joining(wish.join.or_default())));
    }
    // A large file takes as long to digest as to read: beside the loading it costs no start-up.
    let (policy, sha256) = thread::scope(|scope| {
        let digest = scope.spawn(|| model_digest(folder));
        (wish.dtype.load(|| Policy::load(folder, &device::cpu())), digest.join())
    });
    let policy = policy?;
    let sha256 = sha256.map_err(|_| anyhow::anyhow!("the digest's thread panicked"))??;
    let solver = policy.solver(wish.solver, wish.steps)?;
    let (joining, rtc) = (wish.join.over(&policy)?, wish.rtc.over(&policy)?);
    let config = policy.signature();
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    let rate = wish.fps.or(config.fps).unwrap_or_else(|| {
        tracing::warn!(
            "{}: the folder does not say its control rate; {DEFAULT_RATE} Hz is assumed, --fps \
             names another",
            folder.display()
        );
        DEFAULT_RATE
    });
    let info = PolicyInfo {
        name: name.to_string_lossy().into_owned(),
        n_obs_steps: config.n_obs_steps,
        horizon: config.rows(),
        n_action_steps: config.n_action_steps,
        action_dim: config.action_dim(),
        state_dim: config.state_dim(),
        environment_state_dim: config.environment_dim(),
        cameras: config
            .cameras()
            .map(|(key, [_, height, width])| Camera {
                name: Picture::name_of(key).to_owned(),
                height,
                width,
            })
            .collect(),
        nfe: solver.evaluations(),
        solver: solver.name.clone(),
        fps: rate,
        sha256,
        joining,
    };
    Ok(Box::new(Loaded { policy, solver, info, rtc, timings: Timings::default() }))
}

/// SHA-256 of the model, where it is one file.
fn model_digest(folder: &Path) -> pathline::Result<Option<String>> {
    let model = Weights::open(&folder::resolve(folder, &FOLDER)?)?;
    match model.files().collect::<Vec<_>>().as_slice() {
        [one] => digest::sha256(one).map(Some),
        _ => Ok(None),
    }
}

/// What the policy's card says it reaches: `eval.json` in its folder.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Card {
    /// Success rate in percent.
    pub(crate) pc_success: f64,
    /// Episodes behind it.
    pub(crate) n_episodes: u64,
}

impl Card {
    /// Reads `eval.json`; none if the folder has none.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join("eval.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let card: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        anyhow::ensure!(
            (0.0..=100.0).contains(&card.pc_success),
            "{}: expected pc_success in 0..=100, got {}",
            path.display(),
            card.pc_success
        );
        Ok(Some(card))
    }

    /// Fewest successes in `n` episodes that are still this policy and not something broken: fewer
    /// have a chance below 0.00135, the tail beyond three standard deviations.
    pub(crate) fn fewest(&self, n: u64) -> u64 {
        let p = self.pc_success / 100.0;
        if p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            // The card counted no failure in its episodes; one in as many again is no surprise.
            let p = 1.0 - 1.0 / (self.n_episodes as f64 + 2.0);
            return fewest_at(p, n);
        }
        fewest_at(p, n)
    }
}

/// Smallest k with P(X ≤ k) ≥ 0.00135 for X binomial (n, p), 0 < p < 1.
fn fewest_at(p: f64, n: u64) -> u64 {
    let odds = p / (1.0 - p);
    let mut term = (1.0 - p).powf(n as f64);
    let mut sum = term;
    let mut k = 0;
    while sum < 0.00135 && k < n {
        term *= odds * (n - k) as f64 / (k + 1) as f64;
        k += 1;
        sum += term;
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_three_sigma_of_the_binomial() {
        let card = |pc_success| Card { pc_success, n_episodes: 500 };
        assert_eq!(card(99.5).fewest(10), 9);
        assert_eq!(card(95.0).fewest(10), 7);
        assert_eq!(card(100.0).fewest(10), 9);
        assert_eq!(card(0.0).fewest(10), 0);
        // Normal approximation for a large n: 50 - 3·5 = 35.
        let k = card(50.0).fewest(100);
        assert!((35..=36).contains(&k), "{k}");
    }
}
