//! `pathline doctor`: what this build and machine can do.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use candle_core::Tensor;
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::{Policy, WEIGHTS};
use serde_json::{Map, Value, json};

use super::{infer, machine};

/// Checks this build and machine; the report is what a bug report needs.
#[derive(clap::Args)]
#[command(after_help = "Exit code 1 when a check fails. The shipped policy is looked for in \
policies/pusht-flow.

Examples:
  pathline doctor
  pathline doctor --json")]
pub(crate) struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How a check went.
enum Outcome {
    Ok(String),
    /// There was nothing to check.
    Skipped(String),
}

type Check = (&'static str, anyhow::Result<Outcome>);

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let about = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ("cpu", machine::cpu()),
        ("threads", machine::threads().to_string()),
        ("simd", machine::simd()),
        ("devices", "cpu (this build has no GPU backend)".to_owned()),
    ];
    let checks: [Check; 3] = [("tensors", tensors()), ("zenoh", bus()), ("policy", policy())];
    let failed = checks.iter().filter(|(_, result)| result.is_err()).count();
    if args.json {
        let mut out: Map<String, Value> =
            about.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        let entries: Map<String, Value> =
            checks.iter().map(|(name, result)| ((*name).to_owned(), entry(result))).collect();
        out.insert("checks".to_owned(), Value::Object(entries));
        out.insert("ok".to_owned(), json!(failed == 0));
        println!("{}", Value::Object(out));
    } else {
        for (key, value) in &about {
            println!("{key:9} {value}");
        }
        for (name, result) in &checks {
            match result {
                Ok(Outcome::Ok(text)) => println!("{name:9} ok    {text}"),
                Ok(Outcome::Skipped(text)) => println!("{name:9} none  {text}"),
                Err(e) => println!("{name:9} FAIL  {e:#}"),
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
    Ok(())
}

/// `ok` is null where there was nothing to check.
fn entry(result: &anyhow::Result<Outcome>) -> Value {
    match result {
        Ok(Outcome::Ok(text)) => json!({"ok": true, "detail": text}),
        Ok(Outcome::Skipped(text)) => json!({"ok": null, "detail": text}),
        Err(e) => json!({"ok": false, "detail": format!("{e:#}")}),
    }
}

/// A product with a known result, and the rate of large ones.
fn tensors() -> anyhow::Result<Outcome> {
    let n = 512;
    let ones = Tensor::ones((n, n), candle_core::DType::F32, &device::cpu())?;
    let sum = ones.matmul(&ones)?.sum_all()?.to_scalar::<f32>()?;
    let expected = (n * n * n) as f32;
    ensure!(sum == expected, "matmul of ones: expected a sum of {expected}, got {sum}");
    let start = Instant::now();
    let repeats = 10;
    for _ in 0..repeats {
        ones.matmul(&ones)?;
    }
    let rate = (2 * n * n * n * repeats) as f64 / start.elapsed().as_secs_f64() / 1e9;
    Ok(Outcome::Ok(format!("matmul 512: {rate:.0} GFLOP/s")))
}

/// Two sessions on loopback, and the whole loop between them.
fn bus() -> anyhow::Result<Outcome> {
    Ok(Outcome::Ok(pathline::node::self_test()?))
}

/// Loads the shipped policy and asks it for a chunk.
fn policy() -> anyhow::Result<Outcome> {
    let path = Path::new("policies/pusht-flow");
    if !path.join(WEIGHTS).is_file() {
        let message = "no policies/pusht-flow here; start in the folder of the repository";
        return Ok(Outcome::Skipped(message.to_owned()));
    }
    let start = Instant::now();
    let policy = Policy::load(path, &device::cpu())?;
    let loaded = start.elapsed();
    let history = infer::example(policy.signature(), 0);
    let solver = policy.solver(None, None)?;
    let noise = policy.draws(&Noise::new(0), &[0], 0, &solver);
    policy.infer(&[&history], noise.clone(), &solver)?;
    let start = Instant::now();
    policy.infer(&[&history], noise, &solver)?;
    Ok(Outcome::Ok(format!(
        "{}: loaded in {:.0} ms, chunk in {:.2} ms",
        path.display(),
        loaded.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    )))
}
