//! Noise schedules over a table of N training steps, as DDPM and its descendants train.
//!
//! `ᾱ_t = Π_{s ≤ t} (1 − β_s)`, and the path is `α = √ᾱ_t`, `σ = √(1 − ᾱ_t)` at whole t from 0 to
//! N − 1. Between whole times `σ̂ = σ/α` is interpolated; t = −1 is the data (`ᾱ = 1`), which is
//! where diffusers' `set_alpha_to_one` and a final sigma of zero lead.
//!
//! Names and values are diffusers' (`beta_schedule`, `trained_betas`, `rescale_betas_zero_snr`,
//! `interpolation_type`). Tables are f64 here and f32 there; `float32` makes ours as diffusers has
//! them, for checkpoints that were trained and judged with its numbers: where β is near 1e-4, the
//! coefficients of a DDPM step lose four digits in f32 (`1 − ᾱ_t/ᾱ_s`), and a chunk of 100 steps moves
//! by 3e-4. Latent diffusion's own "linear" is diffusers' `scaled_linear`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::path::Coef;
use crate::{Error, Result};

/// How β runs from the first training step to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// From `beta_start` to `beta_end` in equal steps. Ho et al. 2020.
    #[default]
    Linear,
    /// `√β` in equal steps: Stable Diffusion.
    ScaledLinear,
    /// `ᾱ(u) = cos²((u + 0.008)/1.008·π/2)`, β at most 0.999. Nichol and Dhariwal 2021.
    SquaredcosCapV2,
    /// A sigmoid between −6 and 6, scaled to `beta_start … beta_end`.
    Sigmoid,
}

impl BetaSchedule {
    /// The schedule that diffusers calls `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none.
    pub fn by_name(name: &str) -> Result<Self> {
        serde_json::from_value(serde_json::Value::from(name)).map_err(|_| Error::Unknown {
            what: "beta_schedule".into(),
            expected: "linear, scaled_linear, squaredcos_cap_v2, sigmoid".into(),
            got: name.into(),
        })
    }
}

/// What lies between two whole times of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// ln σ̂ is linear in t, so λ is.
    #[default]
    LogLinear,
    /// σ̂ is linear in t.
    Linear,
}

/// What a table is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscreteConfig {
    /// Number N of training steps.
    pub num_train_timesteps: usize,
    /// First β of the linear, scaled_linear and sigmoid schedules.
    pub beta_start: f64,
    /// Last β of these.
    pub beta_end: f64,
    /// Shape of the schedule.
    pub beta_schedule: BetaSchedule,
    /// All N values of β, instead of a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_betas: Option<Vec<f64>>,
    /// Stretch `√ᾱ` so that the last step is pure noise. Lin et al. 2024, algorithm 1.
    pub rescale_betas_zero_snr: bool,
    /// What lies between whole times.
    pub interpolation_type: Interpolation,
    /// Whether the table and the coefficients of a DDPM step are rounded to f32, as in diffusers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub float32: bool,
}

impl Default for DiscreteConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            interpolation_type: Interpolation::LogLinear,
            float32: false,
        }
    }
}

/// A table of `ᾱ`, and the path that goes through it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DiscreteConfig", into = "DiscreteConfig")]
pub struct Discrete {
    config: DiscreteConfig,
    alphas_cumprod: Arc<[f64]>,
}

/// What the table was made from, not its thousand numbers.
impl std::fmt::Debug for Discrete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let trained = self.config.trained_betas.as_ref().map(Vec::len);
        f.debug_struct("Discrete")
            .field("steps", &self.steps())
            .field("beta_start", &self.config.beta_start)
            .field("beta_end", &self.config.beta_end)
            .field("beta_schedule", &self.config.beta_schedule)
            .field("trained_betas", &trained)
            .field("rescale_betas_zero_snr", &self.config.rescale_betas_zero_snr)
            .finish_non_exhaustive()
    }
}

impl TryFrom<DiscreteConfig> for Discrete {
    type Error = Error;

    fn try_from(config: DiscreteConfig) -> Result<Self> {
        Self::new(config)
    }
}

impl From<Discrete> for DiscreteConfig {
    fn from(table: Discrete) -> Self {
        table.config
    }
}

impl Discrete {
    /// The table of `config`.
    ///
    /// # Errors
    /// [`Error::Range`] when N is 0, or a β is not between 0 and 1; [`Error::Shape`] when
    /// `trained_betas` are not N.
    pub fn new(config: DiscreteConfig) -> Result<Self> {
        let n = config.num_train_timesteps;
        if !(1..=1_000_000).contains(&n) {
            return Err(Error::range("num_train_timesteps", "1 to 1000000", n as f64));
        }
        let betas = match &config.trained_betas {
            Some(betas) if betas.len() != n => {
                return Err(Error::shape("trained_betas", [n], [betas.len()]));
            }
            Some(betas) => betas.clone(),
            None if config.float32 => scheduled_f32(&config),
            None => scheduled(&config),
        };
        if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return Err(Error::range("beta", "0 up to 1", *beta));
        }
        let mut product = 1.0;
        let mut table: Vec<f64> = betas
            .iter()
            .map(|beta| {
                if config.float32 {
                    // torch's cumprod of f32 multiplies in f64 and rounds what it writes.
                    product *= f64::from(1.0 - *beta as f32);
                    return f64::from(product as f32);
                }
                product *= 1.0 - beta;
                product
            })
            .collect();
        if config.rescale_betas_zero_snr {
            let (first, last) = (table[0].sqrt(), table[n - 1].sqrt());
            if n < 2 || first <= last {
                return Err(Error::range("rescale_betas_zero_snr: steps", "2 or more", n as f64));
            }
            for value in &mut table {
                *value = ((value.sqrt() - last) * first / (first - last)).powi(2);
            }
        }
        if table[0] >= 1.0 || table.windows(2).any(|w| w[1] >= w[0]) {
            let expected = "betas above 0, so that alphas_cumprod falls from step to step";
            return Err(Error::range("beta", expected, 0.0));
        }
        Ok(Self { config, alphas_cumprod: table.into() })
    }

    /// diffusers' coefficients of a DDPM step between two whole times, every operation in f32: of the
    /// data, of the state and of fresh noise. None where the table is not `float32`, or between times.
    ///
    /// Source: diffusers `schedulers/scheduling_ddpm.py`, `step` and `_get_variance` (`fixed_small`).
    pub fn ddpm_step(&self, from: f64, to: f64) -> Option<[f64; 3]> {
        let whole = |t: f64| (t >= 0.0 && t.fract() == 0.0).then_some(t as usize);
        let here = *self.alphas_cumprod.get(whole(from)?).filter(|_| self.config.float32)? as f32;
        let there = if to < 0.0 { 1.0 } else { *self.alphas_cumprod.get(whole(to)?)? as f32 };
        let alpha = here / there;
        let (beta, noise, noise_there) = (1.0 - alpha, 1.0 - here, 1.0 - there);
        let data = there.sqrt() * beta / noise;
        let state = alpha.sqrt() * noise_there / noise;
        let variance = (noise_there / noise * beta).max(1e-20);
        let fresh = if from > 0.0 { variance.sqrt() } else { 0.0 };
        Some([data, state, fresh].map(f64::from))
    }

    /// The table's `ᾱ`, one per training step.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Number N of training steps.
    pub fn steps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// What the table was made from.
    pub fn config(&self) -> &DiscreteConfig {
        &self.config
    }

    /// `σ̂ = √((1 − ᾱ)/ᾱ)` at index `i` − 1: 0 for the data, at i = 0.
    fn node(&self, i: usize) -> f64 {
        match i.checked_sub(1) {
            None => 0.0,
            Some(i) => ((1.0 - self.alphas_cumprod[i]) / self.alphas_cumprod[i]).sqrt(),
        }
    }

    pub(super) fn at(&self, t: f64) -> Coef {
        let position = (t + 1.0).clamp(0.0, self.steps() as f64);
        let low = (position.floor() as usize).min(self.steps() - 1);
        let (fraction, a, b) = (position - low as f64, self.node(low), self.node(low + 1));
        // dθ/dt of the angle θ = atan σ̂; alpha and sigma are its cosine and sine.
        let (sigma_hat, d_sigma_hat) = match self.rule(a, b) {
            Rule::Linear => (a + (b - a) * fraction, b - a),
            Rule::Log => {
                let value = a * (b / a).powf(fraction);
                (value, value * (b / a).ln())
            }
            Rule::Angle => {
                let (from, to) = (a.atan(), b.atan());
                let (sin, cos) = match fraction {
                    1.0 if b.is_infinite() => (1.0, 0.0),
                    _ => (from + (to - from) * fraction).sin_cos(),
                };
                let rate = to - from;
                return Coef { alpha: cos, sigma: sin, d_alpha: -rate * sin, d_sigma: rate * cos };
            }
        };
        // Whole times are exact: no detour over σ̂.
        let variance = match fraction {
            0.0 => low.checked_sub(1).map_or(1.0, |i| self.alphas_cumprod[i]),
            1.0 => self.alphas_cumprod[low],
            _ => 1.0 / (1.0 + sigma_hat * sigma_hat),
        };
        let alpha = variance.sqrt();
        let cube = alpha * variance;
        Coef {
            alpha,
            sigma: (1.0 - variance).sqrt(),
            d_alpha: -sigma_hat * cube * d_sigma_hat,
            d_sigma: cube * d_sigma_hat,
        }
    }

    pub(super) fn t_of_sigma_hat(&self, sigma_hat: f64) -> f64 {
        // The first node that is at least σ̂.
        let n = self.steps();
        let (mut low, mut high) = (0, n);
        while low < high {
            let middle = (low + high) / 2;
            if self.node(middle) < sigma_hat { low = middle + 1 } else { high = middle }
        }
        if low == 0 {
            return -1.0;
        }
        let (a, b) = (self.node(low - 1), self.node(low));
        let fraction = match self.rule(a, b) {
            Rule::Linear => (sigma_hat - a) / (b - a),
            Rule::Log => (sigma_hat / a).ln() / (b / a).ln(),
            Rule::Angle => (sigma_hat.atan() - a.atan()) / (b.atan() - a.atan()),
        };
        (low as f64 - 2.0 + fraction).min(n as f64 - 1.0)
    }

    /// A logarithm has no zero, and neither rule has an infinity.
    fn rule(&self, a: f64, b: f64) -> Rule {
        match self.config.interpolation_type {
            _ if b.is_infinite() => Rule::Angle,
            Interpolation::LogLinear if a > 0.0 => Rule::Log,
            _ => Rule::Linear,
        }
    }
}

enum Rule {
    Linear,
    Log,
    Angle,
}

/// As `scheduled`, with torch's f32 arithmetic.
fn scheduled_f32(config: &DiscreteConfig) -> Vec<f64> {
    let n = config.num_train_timesteps;
    // torch.linspace counts from both ends.
    let linspace = |from: f32, to: f32| -> Vec<f32> {
        let step = (to - from) / (n.max(2) - 1) as f32;
        let at = |i: usize| {
            if i < n / 2 {
                step.mul_add(i as f32, from)
            } else {
                (-step).mul_add((n - i - 1) as f32, to)
            }
        };
        (0..n).map(at).collect()
    };
    let (from, to) = (config.beta_start as f32, config.beta_end as f32);
    let betas: Vec<f32> = match config.beta_schedule {
        BetaSchedule::Linear => linspace(from, to),
        BetaSchedule::ScaledLinear => {
            let root = |beta: f64| beta.sqrt() as f32;
            let roots = linspace(root(config.beta_start), root(config.beta_end));
            roots.into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::Sigmoid => {
            let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
            let width = (config.beta_end - config.beta_start) as f32;
            linspace(-6.0, 6.0).into_iter().map(|x| sigmoid(x) * width + from).collect()
        }
        // Python's own floats, rounded at the end.
        BetaSchedule::SquaredcosCapV2 => scheduled(config).into_iter().map(|b| b as f32).collect(),
    };
    betas.into_iter().map(f64::from).collect()
}

fn scheduled(config: &DiscreteConfig) -> Vec<f64> {
    let DiscreteConfig { num_train_timesteps: n, beta_start, beta_end, .. } = *config;
    let linspace = |from: f64, to: f64, i: usize| {
        if n == 1 { from } else { from + (to - from) * i as f64 / (n - 1) as f64 }
    };
    let beta = |i: usize| match config.beta_schedule {
        BetaSchedule::Linear => linspace(beta_start, beta_end, i),
        BetaSchedule::ScaledLinear => linspace(beta_start.sqrt(), beta_end.sqrt(), i).powi(2),
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |u: f64| ((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            (1.0 - bar((i + 1) as f64 / n as f64) / bar(i as f64 / n as f64)).min(0.999)
        }
        BetaSchedule::Sigmoid => {
            let sigmoid = 1.0 / (1.0 + (-linspace(-6.0, 6.0, i)).exp());
            sigmoid * (beta_end - beta_start) + beta_start
        }
    };
    (0..n).map(beta).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(beta_schedule: BetaSchedule, rescale_betas_zero_snr: bool) -> Discrete {
        let config = DiscreteConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule,
            rescale_betas_zero_snr,
            ..Default::default()
        };
        Discrete::new(config).unwrap()
    }

    #[test]
    fn stable_diffusion_s_table_has_the_published_values() {
        // diffusers 0.42.1, f32.
        let table = table(BetaSchedule::ScaledLinear, false);
        let bar = table.alphas_cumprod();
        for (i, want) in
            [(0, 0.999_149_98), (1, 0.998_296_02), (499, 0.277_669_52), (999, 0.004_660_09)]
        {
            assert!((bar[i] - want).abs() < 1e-6, "{i}: {}", bar[i]);
        }
        assert!((table.at(999.0).sigma_hat() - 14.614_655).abs() < 1e-4);
        assert!((table.at(0.0).sigma_hat() - 0.029_167_5).abs() < 1e-6);
        let end = table.at(-1.0);
        assert_eq!((end.alpha, end.sigma), (1.0, 0.0));
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise() {
        for schedule in [BetaSchedule::ScaledLinear, BetaSchedule::Sigmoid, BetaSchedule::Linear] {
            let (plain, table) = (table(schedule, false), table(schedule, true));
            let end = table.at(999.0);
            assert_eq!((end.alpha, end.sigma), (0.0, 1.0));
            assert!(end.d_alpha < 0.0 && end.d_alpha.is_finite());
            // The first step stays, within the rounding of the product of two square roots.
            let first = table.alphas_cumprod()[0];
            assert!((first - plain.alphas_cumprod()[0]).abs() < 1e-15);
            assert_eq!(table.t_of_sigma_hat(f64::INFINITY), 999.0);
            let t = table.t_of_sigma_hat(table.at(998.4).sigma_hat());
            assert!((t - 998.4).abs() < 1e-9, "{t}");
        }
    }

    #[test]
    fn whole_times_are_the_table_and_between_them_sigma_hat_is_interpolated() {
        for interpolation_type in [Interpolation::LogLinear, Interpolation::Linear] {
            let config = DiscreteConfig { interpolation_type, ..Default::default() };
            let table = Discrete::new(config).unwrap();
            for i in [0usize, 1, 500, 999] {
                assert_eq!(table.at(i as f64).alpha, table.alphas_cumprod()[i].sqrt());
            }
            let (a, b, mid) = (table.at(7.0), table.at(8.0), table.at(7.5).sigma_hat());
            let want = match interpolation_type {
                Interpolation::LogLinear => (a.sigma_hat() * b.sigma_hat()).sqrt(),
                Interpolation::Linear => 0.5 * (a.sigma_hat() + b.sigma_hat()),
            };
            assert!((mid - want).abs() < 1e-12);
            assert!((table.t_of_sigma_hat(mid) - 7.5).abs() < 1e-9);
            assert_eq!(table.t_of_sigma_hat(0.0), -1.0);
            assert_eq!(table.t_of_sigma_hat(1e9), 999.0);
        }
    }

    #[test]
    fn configurations_are_read_and_nonsense_is_refused() {
        let read = serde_json::from_str::<Discrete>;
        let path = read(r#"{"beta_schedule":"squaredcos_cap_v2","num_train_timesteps":100}"#);
        let path = path.unwrap();
        assert_eq!(path.steps(), 100);
        let written = serde_json::to_string(&path).unwrap();
        assert_eq!(read(&written).unwrap(), path);
        for (text, named) in [
            (r#"{"beta_schedule":"cosine"}"#, "squaredcos_cap_v2"),
            (r#"{"num_train_timesteps":0}"#, "num_train_timesteps"),
            (r#"{"beta_end":1.5}"#, "beta"),
            (r#"{"trained_betas":[0.1,0.2]}"#, "[1000]"),
            (r#"{"num_train_timesteps":2,"trained_betas":[0.0,0.2]}"#, "above 0"),
            (r#"{"beta_stop":0.02}"#, "beta_stop"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let error = BetaSchedule::by_name("cosine").unwrap_err().to_string();
        assert!(error.contains("squaredcos_cap_v2") && error.contains("cosine"), "{error}");
    }
}
