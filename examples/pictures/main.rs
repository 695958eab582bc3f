//! Makes the pictures and tables of `docs/pictures.md` from trained folders.
//!
//! ```text
//! cargo run --release --no-default-features --features nn --example pictures -- COMMAND OUT PLAN.toml
//!   data          what is trained on: some of every source, and what is held out
//!   reconstruct   what autoencoders keep of a picture; their errors as a table
//!   steps         one noise under several methods and numbers of steps
//!   gallery       one picture for each prompt or class
//!   held-out      captions that were not trained on, beside the nearest training pictures
//!   quality       distance and accuracy against the number of evaluations: table, JSON and plot
//!   segments      maps of classes to pictures
//! ```
//! A plan says which folders and how many pictures; each module shows its own. Files go to the folder OUT
//! and are named after the command, or after the plan's `name`. All noise is seeded.

mod common;
mod data;
mod gallery;
mod held_out;
mod plan;
mod quality;
mod reconstruct;
mod sampling;
mod segments;
mod steps;

use std::path::Path;

use pathline::{Error, Result};

const COMMANDS: [&str; 7] =
    ["data", "reconstruct", "steps", "gallery", "held-out", "quality", "segments"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [command, out, plan] = words[..] else {
        return Err(Error::Invalid(format!(
            "expected COMMAND OUT PLAN.toml, got {words:?}; COMMAND is one of {}",
            COMMANDS.join(", ")
        )));
    };
    let (out, plan) = (Path::new(out), Path::new(plan));
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    match command {
        "data" => data::run(out, &plan::read(plan)?),
        "reconstruct" => reconstruct::run(out, &plan::read(plan)?),
        "steps" => steps::run(out, &plan::read(plan)?),
        "gallery" => gallery::run(out, &plan::read(plan)?),
        "held-out" => held_out::run(out, &plan::read(plan)?),
        "quality" => quality::run(out, &plan::read(plan)?),
        "segments" => segments::run(out, &plan::read(plan)?),
        _ => Err(Error::Unknown {
            what: "command".into(),
            expected: COMMANDS.join(", "),
            got: command.into(),
        }),
    }
}
