//! Pathline: a runtime for flow-matching and diffusion robot policies.
//!
//! A learned velocity field carries noise to an action chunk, and the same core carries noise to a picture:
//!
//! ```text
//!                       observation ─ features ─ encode ─► context ┐
//!   zenoh ◄── gate ◄── timeline ◄── action chunk ◄── integrate(velocity(context, x_t, t), noise, grid, solver)
//!     │                                                    │
//!   robot / simulator            picture ◄── decode ◄── latents ◄── context ◄ encode ◄ text, class, map, picture
//! ```
//!
//! | module | what it is | needs |
//! |---|---|---|
//! | [`action`] | chunks, the timeline that plays them by tick, the gate that checks them | nothing |
//! | [`wire`] | CDR messages, keys, the rmw_zenoh attachment | nothing |
//! | `flow` | paths, targets, objectives, couplings, guidance, noise: what is learned | tensors |
//! | `solver` | grids, samplers, adaptive integration, likelihood: how it is walked | tensors |
//! | `nn`, `policy` | networks; a policy folder as a function from observations to a chunk | tensors |
//! | `vae`, `image` | pictures to latents and back; a diffusers folder as a function from a request to pictures | tensors |
//! | `dataset`, `train` | LeRobotDataset v3 folders, pictures; recipes, optimiser, checkpoints, evaluation | tensors, simulator |
//! | `node` | the policy server, the simulator node, the recorder | zenoh, simulator |
//!
//! **Time.** t = 1 is noise and t = 0 is data: `x_t = α(t)·data + σ(t)·noise`, on the straight path
//! α = 1 − t and σ = t, the velocity is noise − data, and sampling integrates from 1 to 0. A
//! checkpoint that runs the other way is loaded with another `flow::Path`.
//!
//! **Ticks.** A chunk carries the tick of the observation it answers, and is entered behind the rows that
//! were played since. The robot's own counter decides what runs; no estimate of a latency does.
#![cfg_attr(
    feature = "nn",
    doc = r#"
One chunk from one observation:

```no_run
use pathline::{device, flow::Noise, policy::{Observation, Policy}};

# fn main() -> pathline::Result<()> {
let policy = Policy::load("policies/pusht-flow".as_ref(), &device::cpu())?;
let observation = Observation { state: vec![256.0; 2], environment_state: vec![256.0; 16], images: vec![] };
let history = vec![observation; policy.signature().n_obs_steps];
let noise = Noise::new(0).normal(0, 0, policy.chunk_len());
let chunks = policy.infer(&[&history], noise, &policy.solver(None, None)?)?;
assert_eq!(chunks.actions.len(), policy.chunk_len()); // [horizon, action_dim], robot units
# Ok(())
# }
```
"#
)]

mod error;
pub use error::{Error, Result};

pub mod action;
pub mod wire;

#[cfg(feature = "nn")]
pub mod dataset;
#[cfg(feature = "nn")]
pub mod device;
#[cfg(feature = "nn")]
pub mod flow;
#[cfg(feature = "nn")]
pub mod image;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "nn")]
pub mod plot;
#[cfg(feature = "nn")]
pub mod policy;
#[cfg(feature = "nn")]
pub mod solver;
#[cfg(feature = "nn")]
pub mod tensors;
#[cfg(feature = "nn")]
pub mod train;
#[cfg(feature = "nn")]
pub mod vae;

#[cfg(feature = "node")]
pub mod node;
