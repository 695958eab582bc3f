//! A small random policy in a folder, for tests that need no trained one.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use pathline::device;
use pathline::nn::params::Params;
use pathline::policy::config::{ACTION, ENVIRONMENT_STATE, PolicyConfig, STATE, Signature};
use pathline::policy::processor::{self, FeatureStats, Statistic, Stats};
use pathline::policy::{CONFIG, Net, WEIGHTS};
use pathline::train::recipe::Recipe;

/// The policy of `tests/data/tiny-recipe.toml`, with overrides of the recipe.
pub(crate) fn config(overrides: &[&str]) -> PolicyConfig {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-recipe.toml");
    let overrides: Vec<String> = overrides.iter().map(|&s| s.to_owned()).collect();
    Recipe::load(&recipe, &overrides).unwrap().policy
}

/// Statistics like those of PushT; of the action one row for each row of the chunk.
pub(crate) fn stats(config: &Signature) -> Stats {
    let feature = |shape: &[usize], spread: f32| -> FeatureStats {
        let len = shape.iter().product();
        let ramp = |from: f32| (0..len).map(|i| from + i as f32 * 0.5).collect::<Vec<_>>();
        [("mean", ramp(-4.0)), ("std", ramp(spread))]
            .into_iter()
            .chain([("min", vec![0.0; len]), ("max", vec![512.0; len])])
            .map(|(name, values)| {
                (name.to_owned(), Statistic::new(shape.to_vec(), values).unwrap())
            })
            .collect()
    };
    let mut stats = Stats::new();
    stats.insert(STATE.into(), feature(&[config.state_dim()], 20.0));
    stats.insert(ENVIRONMENT_STATE.into(), feature(&[config.environment_dim()], 20.0));
    stats.insert(ACTION.into(), feature(&[config.horizon, config.action_dim()], 20.0));
    stats
}

/// Writes the policy folder: random weights, large enough that the solver's steps can be told apart.
pub(crate) fn write(dir: &Path, config: &PolicyConfig) {
    std::fs::create_dir_all(dir).unwrap();
    let params = Params::new(7);
    Net::load(config, params.builder(&device::cpu())).unwrap();
    let weights: HashMap<String, Tensor> = params
        .named()
        .into_iter()
        .map(|(name, var)| {
            let gain = if name == "output.weight" { 50.0 } else { 1.0 };
            let tensor = var.as_tensor().affine(gain, 0.0).unwrap();
            (name, tensor)
        })
        .collect();
    candle_core::safetensors::save(&weights, dir.join(WEIGHTS)).unwrap();
    let signature = config.signature();
    processor::save(dir, &signature, &stats(&signature)).unwrap();
    std::fs::write(dir.join(CONFIG), serde_json::to_string_pretty(config).unwrap()).unwrap();
}
