//! How chunks are joined, on the command line; LeRobot's names where it has them.

use pathline::action::Mode;
use pathline::node::JoinChoice;

/// What is to be other than the policy says.
#[derive(clap::Args)]
#[command(next_help_heading = "Joining chunks")]
pub(crate) struct JoinArgs {
    /// synchronous, append, replace, weighted_average, latest_only, average, conservative or
    /// temporal_ensemble; overlap, rtc_identity, rtc_vjp or rtc_prefix if the policy is served so. The
    /// policy's own if absent.
    #[arg(long, value_name = "NAME", value_parser = mode)]
    join: Option<Mode>,
    /// Rows of a chunk that are played before the next one is asked for; the policy's own if absent.
    #[arg(long, value_name = "N")]
    n_action_steps: Option<usize>,
    /// Ask when the rows left are at most this share of a chunk, instead of after so many rows.
    #[arg(long, value_name = "SHARE")]
    chunk_size_threshold: Option<f64>,
}

impl JoinArgs {
    /// As the node's choice.
    pub(crate) fn to_choice(&self) -> JoinChoice {
        JoinChoice {
            mode: self.join,
            n_action_steps: self.n_action_steps,
            chunk_size_threshold: self.chunk_size_threshold,
        }
    }

    /// The way of joining that was named.
    pub(crate) fn mode(&self) -> Option<Mode> {
        self.join
    }
}

/// A way of joining by its name.
pub(crate) fn mode(name: &str) -> Result<Mode, String> {
    Mode::by_name(name).map_err(|error| error.to_string())
}
