//! The `pathline` binary: parses, dispatches, and turns an error into one line and exit code 1.
#![expect(clippy::print_stdout, reason = "results go to stdout")]

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A runtime for flow-matching and diffusion robot policies.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Eval(cli::eval::EvalArgs),
    Train(cli::train::TrainArgs),
    Bench(cli::bench::BenchArgs),
    Demos(cli::demos::DemosArgs),
    Doctor(cli::doctor::DoctorArgs),
    Infer(cli::infer::InferArgs),
    Inspect(cli::inspect::InspectArgs),
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Eval(args) => cli::eval::run(&args),
        Command::Train(args) => cli::train::run(args),
        Command::Bench(args) => cli::bench::run(&args),
        Command::Demos(args) => cli::demos::run(args),
        Command::Doctor(args) => cli::doctor::run(&args),
        Command::Infer(args) => cli::infer::run(&args),
        Command::Inspect(args) => cli::inspect::run(&args),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
