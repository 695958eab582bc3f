//! `pathline infer`: one chunk from one observation, for scripts and parity.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use pathline::flow::Noise;
use pathline::policy::config::{ENVIRONMENT_STATE, STATE, Signature};
use pathline::policy::{Observation, Policy};
use pathline::train::eval::observation;
use pathline::{device, tensors};
use pathline_sim::pusht::PushT;

/// Computes one action chunk from one observation.
#[derive(clap::Args)]
#[command(after_help = "Files (safetensors):
  OBS    observation.state f32 [n_obs, D], observation.environment_state likewise, oldest first
  NOISE  noise f32 [horizon, action_dim]
  OUT    action f32 [horizon, action_dim] in robot units, row 0 for the newest observation's tick;
         action_normalized f32 [horizon, action_dim]

Examples:
  pathline infer --policy policies/pusht-flow --example --out chunk.safetensors
  pathline infer --policy policies/pusht-flow --observation obs.safetensors --steps 8 \\
    --out chunk.safetensors")]
pub(crate) struct InferArgs {
    /// Policy folder.
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Observation file.
    #[arg(long, value_name = "OBS", required_unless_present = "example")]
    observation: Option<PathBuf>,
    /// Take a valid made-up observation instead.
    #[arg(long, conflicts_with = "observation")]
    example: bool,
    /// Noise file; drawn from --seed if absent.
    #[arg(long, value_name = "NOISE")]
    noise: Option<PathBuf>,
    /// Seed of the noise and of the example.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// euler, midpoint, heun, rk4, dopri5, ddim or dpmpp_2m; the policy's own if absent.
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Solver steps; the policy's own if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// File to write.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let policy = Policy::load(&args.policy, &device::cpu())?;
    let config = policy.signature();
    let solver = policy.solver(args.solver.as_deref(), args.steps)?;
    let history = match &args.observation {
        Some(path) => read_history(path, config)?,
        None => example(config, args.seed),
    };
    let shape = [config.horizon, config.action_dim()];
    let noise = match &args.noise {
        Some(path) => rows(&tensors::load(path, &Device::Cpu)?, path, "noise", &shape)?,
        None => Noise::new(args.seed).normal(0, 0, policy.chunk_len()),
    };
    let chunks = policy.infer(&[&history], noise, &solver)?;
    let tensor = |values: &[f32]| Tensor::from_slice(values, &shape, &Device::Cpu);
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        ensure!(folder.is_dir(), "--out: expected an existing folder, got {}", folder.display());
    }
    let out = HashMap::from([
        ("action".to_owned(), tensor(&chunks.actions)?),
        ("action_normalized".to_owned(), tensor(&chunks.normalized)?),
    ]);
    tensors::save(&out, &args.out)?;
    if args.json {
        let summary = serde_json::json!({
            "out": args.out, "shape": shape, "nfe": chunks.nfe,
            "solver": solver.name, "steps": solver.steps,
        });
        println!("{summary}");
    } else {
        println!(
            "wrote {}: action {:?}, {} {} steps, {} evaluations",
            args.out.display(),
            shape,
            solver.steps,
            solver.name,
            chunks.nfe
        );
    }
    Ok(())
}

/// A valid observation history: PushT after a reset where the policy's features are PushT's, else
/// zeros.
pub(crate) fn example(config: &Signature, seed: u64) -> Vec<Observation> {
    let one = match (config.state_dim(), config.environment_dim()) {
        (2, 16) => observation(&PushT::reset(seed)),
        (state, environment) => {
            let environment_state = vec![0.0; environment];
            Observation { state: vec![0.0; state], environment_state, images: Vec::new() }
        }
    };
    vec![one; config.n_obs_steps]
}

fn rows(
    tensors: &HashMap<String, Tensor>,
    path: &Path,
    key: &str,
    shape: &[usize],
) -> anyhow::Result<Vec<f32>> {
    let mut found: Vec<_> = tensors.keys().cloned().collect();
    found.sort();
    let tensor = tensors.get(key).with_context(|| {
        format!("{}: expected a tensor {key} {shape:?}, found {found:?}", path.display())
    })?;
    ensure!(
        tensor.dims() == shape && tensor.dtype() == DType::F32,
        "{}: {key}: expected f32 {shape:?}, got {:?} {:?}",
        path.display(),
        tensor.dtype(),
        tensor.dims()
    );
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    ensure!(
        values.iter().all(|value| value.is_finite()),
        "{}: {key}: expected finite values, got NaN or infinity",
        path.display()
    );
    Ok(values)
}

fn read_history(path: &Path, config: &Signature) -> anyhow::Result<Vec<Observation>> {
    let tensors = tensors::load(path, &Device::Cpu)?;
    let n = config.n_obs_steps;
    let (s, e) = (config.state_dim(), config.environment_dim());
    let state = rows(&tensors, path, STATE, &[n, s])?;
    let environment = match e {
        0 => Vec::new(),
        e => rows(&tensors, path, ENVIRONMENT_STATE, &[n, e])?,
    };
    Ok((0..n)
        .map(|i| Observation {
            state: state[i * s..(i + 1) * s].to_vec(),
            environment_state: environment[i * e..(i + 1) * e].to_vec(),
            images: Vec::new(),
        })
        .collect())
}
