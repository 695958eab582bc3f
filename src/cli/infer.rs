//! `pathline infer`: one chunk from one observation, for scripts and parity.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use pathline::flow::Noise;
use pathline::policy::config::{ENVIRONMENT_STATE, STATE, Signature};
use pathline::policy::{Draws, Observation, Picture, Policy, Solver};
use pathline::train::eval::observation;
use pathline::{device, tensors};
use pathline_sim::pusht::PushT;

use super::dtype::DtypeArgs;

/// Computes one action chunk from one observation.
#[derive(clap::Args)]
#[command(after_help = "Files (safetensors):
  OBS    under the policy's own feature keys, oldest observation first:
         observation.state f32 [n_obs, D], observation.environment_state likewise,
         observation.images.<cam> u8 [n_obs, H, W, 3] RGB
  NOISE  noise f32 [horizon, action_dim]; step_noise f32 [steps, horizon, action_dim] where the
         solver draws noise at every step (ddpm); drawn from --seed if absent
  OUT    action f32 [n, action_dim] in robot units, row 0 for the newest observation's tick: as many
         rows as LeRobot's predict_action_chunk returns (diffusion: n_action_steps; act:
         chunk_size; pathline_flow: horizon);
         action_normalized f32 [horizon, action_dim], all that the network made

Examples:
  pathline infer --policy policies/pusht-flow --example --out chunk.safetensors
  pathline infer --policy outputs/train/diffusion/checkpoints/last/pretrained_model \\
    --observation obs.safetensors --solver ddim --steps 10 --out chunk.safetensors")]
pub(crate) struct InferArgs {
    /// Policy folder: LeRobot's pretrained_model, a run with checkpoints/, or a Hugging Face cache.
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
    /// euler, midpoint, heun, rk4, dopri5, ddim or dpmpp_2m for a flow; ddpm, ddim or dpmpp_2m for a
    /// diffusion; the policy's own if absent.
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Solver steps; the policy's own if absent.
    #[arg(long)]
    steps: Option<usize>,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// File to write.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let policy = args.dtype.load(|| Policy::load(&args.policy, &device::cpu()))?;
    let signature = policy.signature();
    let solver = policy.solver(args.solver.as_deref(), args.steps)?;
    let history = match &args.observation {
        Some(path) => read_history(path, signature)?,
        None => example(signature, args.seed),
    };
    let draws = match &args.noise {
        Some(path) => read_draws(path, &policy, &solver, args.seed)?,
        None => policy.draws(&Noise::new(args.seed), &[0], 0, &solver),
    };
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        ensure!(folder.is_dir(), "--out: expected an existing folder, got {}", folder.display());
    }
    let chunks = policy.infer(&[&history], draws, &solver)?;
    let dim = signature.action_dim();
    let shape = [policy.config().predicted_rows(), dim];
    let tensor =
        |values: &[f32], rows: usize| Tensor::from_slice(values, (rows, dim), &Device::Cpu);
    let out = HashMap::from([
        ("action".to_owned(), tensor(&chunks.actions[..shape[0] * dim], shape[0])?),
        ("action_normalized".to_owned(), tensor(&chunks.normalized, signature.horizon)?),
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
/// zeros; pictures are grey.
pub(crate) fn example(signature: &Signature, seed: u64) -> Vec<Observation> {
    let pusht = observation(&PushT::reset(seed));
    let vector = |values: Vec<f32>, len: usize| {
        if values.len() == len { values } else { vec![0.0; len] }
    };
    let pictures = signature.cameras().map(|(key, [_, height, width])| Picture {
        name: Picture::name_of(key).to_owned(),
        height,
        width,
        data: vec![128; height * width * 3],
    });
    let images = pictures.collect();
    let state = vector(pusht.state, signature.state_dim());
    let environment_state = vector(pusht.environment_state, signature.environment_dim());
    vec![Observation { state, environment_state, images }; signature.n_obs_steps]
}

/// The tensor `key` of a file, checked.
fn find<'a>(
    tensors: &'a HashMap<String, Tensor>,
    path: &Path,
    key: &str,
    shape: &[usize],
    dtype: DType,
) -> anyhow::Result<&'a Tensor> {
    let mut found: Vec<_> = tensors.keys().collect();
    found.sort();
    let expected = format!("{} {shape:?}", dtype.as_str());
    let tensor = tensors.get(key).with_context(|| {
        format!("{}: expected a tensor {key} {expected}, found {found:?}", path.display())
    })?;
    ensure!(
        tensor.dims() == shape && tensor.dtype() == dtype,
        "{}: {key}: expected {expected}, got {} {:?}",
        path.display(),
        tensor.dtype().as_str(),
        tensor.dims()
    );
    Ok(tensor)
}

fn rows(
    tensors: &HashMap<String, Tensor>,
    path: &Path,
    key: &str,
    shape: &[usize],
) -> anyhow::Result<Vec<f32>> {
    let tensor = find(tensors, path, key, shape, DType::F32)?;
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    ensure!(
        values.iter().all(|value| value.is_finite()),
        "{}: {key}: expected finite values, got NaN or infinity",
        path.display()
    );
    Ok(values)
}

fn read_draws(path: &Path, policy: &Policy, solver: &Solver, seed: u64) -> anyhow::Result<Draws> {
    let tensors = tensors::load(path, &Device::Cpu)?;
    let mut draws = policy.draws(&Noise::new(seed), &[0], 0, solver);
    if solver.sampler.is_none() {
        return Ok(draws);
    }
    let (horizon, dim) = (policy.signature().horizon, policy.signature().action_dim());
    draws.noise = rows(&tensors, path, "noise", &[horizon, dim])?;
    // Without step noise in the file, that of the seed is taken.
    if solver.is_stochastic() && tensors.contains_key("step_noise") {
        draws.step_noise = rows(&tensors, path, "step_noise", &[solver.steps, horizon, dim])?;
    }
    Ok(draws)
}

fn read_history(path: &Path, signature: &Signature) -> anyhow::Result<Vec<Observation>> {
    let tensors = tensors::load(path, &Device::Cpu)?;
    let n = signature.n_obs_steps;
    let mut history = vec![Observation::default(); n];
    for (key, dim) in
        [(STATE, signature.state_dim()), (ENVIRONMENT_STATE, signature.environment_dim())]
    {
        if dim == 0 {
            continue;
        }
        let values = rows(&tensors, path, key, &[n, dim])?;
        for (observation, row) in history.iter_mut().zip(values.chunks_exact(dim)) {
            match key {
                STATE => observation.state = row.to_vec(),
                _ => observation.environment_state = row.to_vec(),
            }
        }
    }
    for (key, [_, height, width]) in signature.cameras() {
        let tensor = find(&tensors, path, key, &[n, height, width, 3], DType::U8)?;
        let bytes: Vec<u8> = tensor.flatten_all()?.to_vec1()?;
        for (observation, data) in history.iter_mut().zip(bytes.chunks_exact(height * width * 3)) {
            let name = Picture::name_of(key).to_owned();
            observation.images.push(Picture { name, height, width, data: data.to_vec() });
        }
    }
    Ok(history)
}
