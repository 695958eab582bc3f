//! Flags that say how chunks are joined; LeRobot's names where it has the thing.

use pathline::action::{Joining, Mode};
use pathline::flow::Prefix;
use pathline::policy::{Policy, RtcConfig};

/// How chunks are joined.
#[derive(clap::Args)]
#[command(next_help_heading = "Joining")]
pub(crate) struct JoinArgs {
    /// synchronous, append, replace, weighted_average, latest_only, average, conservative,
    /// temporal_ensemble, overlap, rtc_identity, rtc_vjp or rtc_prefix; the policy's own if absent.
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    join: Vec<String>,
    /// Rows of a chunk that are played before the next one is asked for; the policy's own if absent.
    #[arg(long)]
    n_action_steps: Option<usize>,
    /// Ask as soon as the rows left are at most this share of a chunk, instead of after n_action_steps.
    #[arg(long, value_name = "SHARE")]
    chunk_size_threshold: Option<f64>,
    /// Rate at which newer predictions weigh less, for temporal_ensemble.
    #[arg(long, value_name = "M")]
    temporal_ensemble_coeff: Option<f64>,
}

/// How a policy continues a chunk.
#[derive(clap::Args)]
#[command(next_help_heading = "Real-time chunking")]
pub(crate) struct RtcArgs {
    /// Rows of the new chunk that are held to the old one at all; 10 if absent.
    #[arg(long, value_name = "ROWS")]
    execution_horizon: Option<usize>,
    /// Largest weight of the guidance; the number of solver steps if absent.
    #[arg(long, value_name = "BETA")]
    max_guidance_weight: Option<f64>,
    /// LINEAR, EXP, ONES or ZEROS.
    #[arg(long, value_name = "NAME")]
    prefix_attention_schedule: Option<String>,
}

impl JoinArgs {
    /// `own` with what the user said; checked for chunks of `horizon` rows.
    pub(crate) fn over(&self, own: Joining, horizon: usize) -> anyhow::Result<Joining> {
        let mode = match self.join.as_slice() {
            [] => own.mode,
            [name] => Mode::by_name(name)?,
            several => anyhow::bail!("--join: expected one way, got {}", several.join(", ")),
        };
        self.with_mode(mode, own, horizon)
    }

    /// The policy's own with each way that the user named; `all` names all but `latest_only`, which is
    /// `replace`, and those that the policy cannot do.
    pub(crate) fn all_over(&self, policy: &Policy) -> anyhow::Result<Vec<Joining>> {
        let own = policy.joining();
        let modes = match self.join.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => vec![own.mode],
            ["all"] => Mode::ALL
                .into_iter()
                .filter(|mode| *mode != Mode::LatestOnly && policy.can_join(*mode))
                .collect(),
            names => names.iter().map(|name| Mode::by_name(name)).collect::<Result<_, _>>()?,
        };
        let horizon = policy.signature().rows();
        modes.into_iter().map(|mode| self.with_mode(mode, own, horizon)).collect()
    }

    fn with_mode(&self, mode: Mode, own: Joining, horizon: usize) -> anyhow::Result<Joining> {
        let joining = Joining {
            mode,
            n_action_steps: self.n_action_steps.or(own.n_action_steps),
            chunk_size_threshold: self.chunk_size_threshold.or(own.chunk_size_threshold),
            temporal_ensemble_coeff: self
                .temporal_ensemble_coeff
                .unwrap_or(own.temporal_ensemble_coeff),
        };
        joining.validate(horizon)?;
        Ok(joining)
    }
}

impl RtcArgs {
    /// The policy's own with what the user said.
    pub(crate) fn over(&self, policy: &Policy) -> anyhow::Result<RtcConfig> {
        let own = policy.rtc_config();
        let schedule = match &self.prefix_attention_schedule {
            None => own.prefix_attention_schedule,
            Some(name) => {
                serde_json::from_value::<Prefix>(name.to_uppercase().into()).map_err(|_| {
                    anyhow::anyhow!(
                        "--prefix-attention-schedule: expected LINEAR, EXP, ONES or ZEROS, got {name:?}"
                    )
                })?
            }
        };
        let config = RtcConfig {
            prefix_attention_schedule: schedule,
            max_guidance_weight: self.max_guidance_weight.or(own.max_guidance_weight),
            execution_horizon: self.execution_horizon.unwrap_or(own.execution_horizon),
        };
        config.validate()?;
        Ok(config)
    }
}
