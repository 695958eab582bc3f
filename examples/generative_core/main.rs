//! Draws the pictures of `docs/generative-core.md` and prints the numbers that stand in it.
//!
//! ```text
//! cargo run --release --no-default-features --features nn --example generative_core -- docs/core [--json]
//! ```
//!
//! Nothing is trained here but one policy that comes with the project: the data are mixtures of
//! normal distributions, whose fields are known exactly. All noise is seeded; the same machine makes
//! the same files.

mod actions;
mod fields;
mod numbers;
mod paths;
mod samplers;
mod scene;
mod wrappers;

use std::io::Write;
use std::path::Path;

use pathline::{Error, Result};

use numbers::Numbers;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|a| a == "--json");
    let folder = arguments.iter().find(|a| !a.starts_with("--"));
    let out = Path::new(folder.map_or("docs/core", String::as_str));
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.to_owned(), source })?;

    let mut numbers = Numbers::default();
    paths::density(&out.join("path.png"))?;
    paths::clouds(&out.join("clouds.png"))?;
    paths::forward(&out.join("forward.png"))?;
    paths::schedules(&out.join("schedules.png"))?;
    fields::score_and_velocity(&out.join("fields.png"))?;
    fields::targets(&out.join("targets.png"))?;
    fields::conditional(&out.join("conditional.png"), &mut numbers)?;
    fields::crossing(&out.join("crossing.png"))?;
    samplers::trajectories(&out.join("trajectories.png"))?;
    samplers::orders(&out.join("orders.png"), &mut numbers)?;
    samplers::marginals(&mut numbers)?;
    wrappers::guidance(&out.join("guidance.png"), &mut numbers)?;
    wrappers::known(&out.join("known.png"), &mut numbers)?;
    actions::chunks(&out.join("chunks.png"), &mut numbers)?;

    let report = if json { numbers.to_json()? } else { numbers.to_table() };
    writeln!(std::io::stdout(), "{report}")
        .map_err(|source| Error::Io { path: "stdout".into(), source })
}
