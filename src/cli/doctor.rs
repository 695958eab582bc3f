//! `pathline doctor`: what this build and machine can do.

use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;
use pathline::device;
use pathline::flow::Noise;
use pathline::policy::Policy;
use pathline::train::eval::observation;
use pathline_sim::pusht::PushT;
use serde_json::json;

/// Checks this build and machine; the report is what a bug report needs.
#[derive(clap::Args)]
#[command(after_help = "Exit code 1 when a check fails.

Examples:
  pathline doctor
  pathline doctor --json")]
pub(crate) struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let checks =
        [("tensors", tensors()), ("zenoh loopback", bus()), ("shipped policy", shipped_policy())];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let about = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ("threads", threads.to_string()),
        ("simd", simd()),
        ("devices", "cpu (this build has no GPU backend)".to_owned()),
    ];
    let failed = checks.iter().filter(|(_, result)| result.is_err()).count();
    if args.json {
        let mut out = serde_json::Map::new();
        out.extend(about.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
        for (name, result) in &checks {
            let entry = match result {
                Ok(text) => json!({"ok": true, "detail": text}),
                Err(e) => json!({"ok": false, "detail": format!("{e:#}")}),
            };
            out.insert((*name).to_owned(), entry);
        }
        println!("{}", serde_json::Value::Object(out));
    } else {
        for (key, value) in &about {
            println!("{key:16} {value}");
        }
        for (name, result) in &checks {
            match result {
                Ok(text) => println!("{name:16} ok    {text}"),
                Err(e) => println!("{name:16} FAIL  {e:#}"),
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
    Ok(())
}

fn simd() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ];
        found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }
    #[cfg(not(target_arch = "x86_64"))]
    "baseline".to_owned()
}

fn tensors() -> anyhow::Result<String> {
    let n = 512;
    let a = Tensor::from_vec(Noise::new(1).normal(0, 0, n * n), (n, n), &device::cpu())?;
    a.matmul(&a)?;
    let start = Instant::now();
    let repeats = 10;
    for _ in 0..repeats {
        a.matmul(&a)?;
    }
    let rate = (2 * n * n * n * repeats) as f64 / start.elapsed().as_secs_f64() / 1e9;
    Ok(format!("matmul 512: {rate:.0} GFLOP/s"))
}

fn bus() -> anyhow::Result<String> {
    pathline::node::self_test().map_err(Into::into)
}

fn shipped_policy() -> anyhow::Result<String> {
    let path = Path::new("policies/pusht-flow");
    let start = Instant::now();
    let policy = Policy::load(path, &device::cpu())?;
    let loaded = start.elapsed();
    let history = vec![observation(&PushT::reset(0)); policy.config().n_obs_steps];
    let noise = Noise::new(0).normal(0, 0, policy.chunk_len());
    let solver = policy.solver(None, None)?;
    policy.infer(&[&history], noise.clone(), &solver)?;
    let start = Instant::now();
    policy.infer(&[&history], noise, &solver)?;
    Ok(format!(
        "{}: loaded in {:.0} ms, chunk in {:.2} ms",
        path.display(),
        loaded.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    ))
}
