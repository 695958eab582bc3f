//! The `pathline` binary.
#![expect(clippy::print_stdout, reason = "results go to stdout")]

mod cli;

use clap::Parser;

#[derive(Parser)]
#[command(version, about)]
enum Command {
    Demos(cli::demos::DemosArgs),
    Train(cli::train::TrainArgs),
    Eval(cli::eval::EvalArgs),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Demos(args) => cli::demos::run(args),
        Command::Train(args) => cli::train::run(args),
        Command::Eval(args) => cli::eval::run(&args),
    }
}
