//! `pathline train`: a recipe to a folder of checkpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use pathline::device;
use pathline::train::pictures::{self, recipe::PictureRecipe};
use pathline::train::recipe::Recipe;
use pathline::train::run::train;

/// Trains a policy, or a model of pictures; writes checkpoints that load as they are.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pathline train policies/pusht-flow/recipe.toml
  pathline train recipe.toml --set train.steps=1000 --set output_dir=runs/short
  pathline train recipe.toml --resume
  pathline train policies/emoji-flow/recipe-ae.toml     an autoencoder of pictures
  pathline train policies/emoji-flow/recipe-flow.toml   a flow on its latents")]
pub(crate) struct TrainArgs {
    /// Recipe, TOML.
    recipe: PathBuf,
    /// Go on from the newest checkpoint of the recipe's output_dir.
    #[arg(long)]
    resume: bool,
    /// Override a key of the recipe; may be given more than once.
    #[arg(long = "set", value_name = "A.B=VALUE")]
    overrides: Vec<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130); // asked twice
        }
    })
    .context("signal handler")?;
    if PictureRecipe::is_one(&args.recipe)? {
        return of_pictures(args, &stop);
    }
    let recipe = Recipe::load(&args.recipe, &args.overrides)?;
    let summary = train(&recipe, args.resume, &stop, &device::cpu())?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} steps in {:.0} s, loss {:.4}; policy in {}",
            summary.steps,
            summary.train_s,
            summary.loss,
            summary.policy.display()
        );
    }
    if summary.interrupted {
        anyhow::bail!("stopped at step {}; go on with --resume", summary.steps);
    }
    Ok(())
}

fn of_pictures(args: &TrainArgs, stop: &AtomicBool) -> anyhow::Result<()> {
    let recipe = PictureRecipe::load(&args.recipe, &args.overrides)?;
    let summary = pictures::train(&recipe, args.resume, stop, &device::cpu())?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} steps in {:.0} s, loss {:.4}; model in {}",
            summary.steps,
            summary.train_s,
            summary.loss,
            summary.model.display()
        );
    }
    if summary.interrupted {
        anyhow::bail!("stopped at step {}; go on with --resume", summary.steps);
    }
    Ok(())
}
