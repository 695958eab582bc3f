//! The `pathline` binary: parses, dispatches, and turns an error into one line and exit code 1.
#![expect(clippy::print_stdout, reason = "results go to stdout")]

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A runtime for flow-matching and diffusion robot policies.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "First steps:
  pathline demo                                  simulator and policy over zenoh, nothing to set up
  pathline serve --policy policies/pusht-flow    the policy node; then, in another terminal:
  pathline sim pusht                             the simulator that it drives
  pathline sample -p \"red apple\" -o apple.png    a picture

Results go to stdout, logs to stderr (RUST_LOG=info shows more), --json prints one object.
Exit code 0: done, 1: failed, 2: wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(cli::demo::DemoArgs),
    Serve(cli::serve::ServeArgs),
    Sim(cli::sim::SimArgs),
    Eval(cli::eval::EvalArgs),
    Sample(cli::sample::SampleArgs),
    Train(cli::train::TrainArgs),
    Record(cli::record::RecordArgs),
    Replay(cli::replay::ReplayArgs),
    Bench(cli::bench::BenchArgs),
    Demos(cli::demos::DemosArgs),
    Doctor(cli::doctor::DoctorArgs),
    Infer(cli::infer::InferArgs),
    Inspect(cli::inspect::InspectArgs),
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => cli::demo::run(&args),
        Command::Serve(args) => cli::serve::run(&args),
        Command::Sim(args) => cli::sim::run(&args),
        Command::Eval(args) => cli::eval::run(&args),
        Command::Sample(args) => cli::sample::run(&args),
        Command::Train(args) => cli::train::run(&args),
        Command::Record(args) => cli::record::run(&args),
        Command::Replay(args) => cli::replay::run(&args),
        Command::Bench(args) => cli::bench::run(&args),
        Command::Demos(args) => cli::demos::run(&args),
        Command::Doctor(args) => cli::doctor::run(&args),
        Command::Infer(args) => cli::infer::run(&args),
        Command::Inspect(args) => cli::inspect::run(&args),
    }
}

/// `println!` panics when the reader has gone (`pathline eval | head`); other programs just end.
fn end_quietly_without_reader() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let broken_pipe = info.payload_as_str().is_some_and(|text| {
            text.contains("printing to stdout") && text.contains("os error 32")
        });
        if broken_pipe {
            std::process::exit(141); // 128 + SIGPIPE, as a shell reports it
        }
        default(info);
    }));
}

fn main() -> ExitCode {
    end_quietly_without_reader();
    cli::threads::settle();
    cli::memory::keep();
    // zenoh reports every refused connection as an error of its own; ours say what to do.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,zenoh=off"));
    tracing_subscriber::fmt()
        .without_time()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
