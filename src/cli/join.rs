//! How chunks are joined, on the command line; LeRobot's names where it has them.

use pathline::action::{Joining, Mode};
use pathline::flow::Prefix;
use pathline::node::JoinChoice;
use pathline::policy::{Policy, RtcConfig};

/// What is to be other than the policy says.
#[derive(clap::Args)]
#[command(next_help_heading = "Joining chunks")]
pub(crate) struct JoinArgs {
    /// synchronous, append, replace, weighted_average, latest_only, average, conservative or
    /// temporal_ensemble; overlap, rtc_identity, rtc_vjp or rtc_prefix if the policy makes its chunks so. The
    /// policy's own if absent.
    #[arg(long, value_name = "NAME", value_parser = mode)]
    join: Option<Mode>,
    #[command(flatten)]
    ask: AskArgs,
}

/// When a chunk is asked for.
#[derive(clap::Args)]
#[command(next_help_heading = "Joining chunks")]
pub(crate) struct AskArgs {
    /// Rows of a chunk that are played before the next one is asked for; the policy's own if absent.
    #[arg(long, value_name = "N")]
    n_action_steps: Option<usize>,
    /// Ask when the rows left are at most this share of a chunk, instead of after so many rows.
    #[arg(long, value_name = "SHARE")]
    chunk_size_threshold: Option<f64>,
    /// Rate at which newer chunks weigh less in temporal_ensemble; the policy's own if absent.
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    temporal_ensemble_coeff: Option<f64>,
}

/// How a policy continues a chunk; LeRobot's `rtc_config`.
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
    #[arg(long, value_name = "NAME", value_parser = schedule)]
    prefix_attention_schedule: Option<Prefix>,
}

impl JoinArgs {
    /// As the robot's choice.
    pub(crate) fn to_choice(&self) -> JoinChoice {
        self.ask.to_choice(self.join)
    }

    /// `own` with what the user said; checked for the policy.
    pub(crate) fn over(&self, policy: &Policy) -> anyhow::Result<Joining> {
        self.ask.with_mode(self.join.unwrap_or(policy.joining().mode), policy)
    }

    /// The same for a policy without a folder.
    pub(crate) fn or_default(&self) -> Joining {
        Joining { mode: self.join.unwrap_or_default(), ..Joining::default() }
    }
}

impl AskArgs {
    fn to_choice(&self, mode: Option<Mode>) -> JoinChoice {
        JoinChoice {
            mode,
            n_action_steps: self.n_action_steps,
            chunk_size_threshold: self.chunk_size_threshold,
            temporal_ensemble_coeff: self.temporal_ensemble_coeff,
        }
    }

    /// The policy's own, joined by `mode`, with what the user said.
    pub(crate) fn with_mode(&self, mode: Mode, policy: &Policy) -> anyhow::Result<Joining> {
        anyhow::ensure!(
            policy.can_join(mode),
            "{}: this policy cannot make chunks so; rtc_prefix needs one that was trained with \
             rtc_training_max_delay (policies/pusht-rtc), the other forms one that makes chunks from noise",
            mode.name()
        );
        let own = policy.joining();
        let joining = Joining {
            mode,
            n_action_steps: self.n_action_steps.or(own.n_action_steps),
            chunk_size_threshold: self.chunk_size_threshold.or(own.chunk_size_threshold),
            temporal_ensemble_coeff: self
                .temporal_ensemble_coeff
                .unwrap_or(own.temporal_ensemble_coeff),
        };
        joining.validate(policy.signature().rows())?;
        Ok(joining)
    }
}

impl RtcArgs {
    /// The policy's own with what the user said.
    pub(crate) fn over(&self, policy: &Policy) -> anyhow::Result<RtcConfig> {
        let own = policy.rtc_config();
        let config = RtcConfig {
            prefix_attention_schedule: self
                .prefix_attention_schedule
                .unwrap_or(own.prefix_attention_schedule),
            max_guidance_weight: self.max_guidance_weight.or(own.max_guidance_weight),
            execution_horizon: self.execution_horizon.unwrap_or(own.execution_horizon),
        };
        config.validate()?;
        Ok(config)
    }
}

/// The ways that `names` name: none, the policy's own; `all`, every way that the policy can do but
/// `latest_only`, which is `replace`.
pub(crate) fn modes(names: &[String], policy: &Policy) -> anyhow::Result<Vec<Mode>> {
    Ok(match names {
        [] => vec![policy.joining().mode],
        [all] if all == "all" => Mode::ALL
            .into_iter()
            .filter(|mode| *mode != Mode::LatestOnly && policy.can_join(*mode))
            .collect(),
        names => names.iter().map(|name| Mode::by_name(name)).collect::<Result<_, _>>()?,
    })
}

/// A way of joining by its name.
fn mode(name: &str) -> Result<Mode, String> {
    Mode::by_name(name).map_err(|error| error.to_string())
}

fn schedule(name: &str) -> Result<Prefix, String> {
    serde_json::from_value(name.to_uppercase().into())
        .map_err(|_| format!("expected LINEAR, EXP, ONES or ZEROS, got {name:?}"))
}
