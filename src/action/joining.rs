//! How a new chunk is joined to the one that is being played, and when to ask for one: plain data.
//!
//! The names are LeRobot's where LeRobot has the thing: the queue's `append` and `replace`, the async
//! client's `aggregate_fn_name` and `chunk_size_threshold`, ACT's `temporal_ensemble_coeff`. A mode has two
//! halves. The robot's ([`Mode::join`]) says what happens where two chunks have a row for the same tick.
//! The policy's ([`Mode::form`]) says whether the new chunk is *made* to continue the old one, from what
//! the robot says is still to be played ([`Continuation`]).
//!
//! | mode | robot | policy |
//! |---|---|---|
//! | `synchronous` | plays `n_action_steps` rows, then holds and waits | alone |
//! | `append` | the old chunk to its end, then the new one | alone |
//! | `replace`, `latest_only` | the new chunk | alone |
//! | `weighted_average`, `average`, `conservative` | 0.3, 0.5, 0.7 of the old row | alone |
//! | `temporal_ensemble` | mean of all chunks' rows, weight e^(−coefficient·i), i = 0 the oldest | alone |
//! | `overlap` | the new chunk | begins at the old rows, frozen, then ramped (GR00T) |
//! | `rtc_identity`, `rtc_vjp` | the new chunk | guided to the old rows (LeRobot's form, the paper's) |
//! | `rtc_prefix` | the new chunk | clamped to the rows played meanwhile (training-time RTC) |
//!
//! Sources: LeRobot 0.4.4 `async_inference/{configs,robot_client}.py`, `policies/rtc/action_queue.py`;
//! Zhao et al. 2023 (ACT); Black et al. 2025 (arXiv 2506.07339, 2512.05964); GR00T N1.7.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How chunks are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Stop, ask, wait, go on: what LeRobot's `select_action` does.
    Synchronous,
    /// The old chunk to its end.
    Append,
    /// The newest chunk at once.
    #[default]
    Replace,
    /// 0.3 of the old row and 0.7 of the new one.
    WeightedAverage,
    /// The new row: the same as [`Mode::Replace`].
    LatestOnly,
    /// Half of each.
    Average,
    /// 0.7 of the old row and 0.3 of the new one.
    Conservative,
    /// The weighted mean of every chunk's row for this tick (ACT).
    TemporalEnsemble,
    /// The new chunk begins at the old rows, frozen and then ramped (GR00T).
    Overlap,
    /// Real-time chunking as LeRobot runs it.
    RtcIdentity,
    /// Real-time chunking as the paper has it: a backward pass an evaluation.
    RtcVjp,
    /// Training-time real-time chunking: needs a network with a time for each row.
    RtcPrefix,
}

/// What the robot does where an old and a new chunk both have a row for a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Join {
    /// Only so many rows of a chunk are played, then the robot holds until the next one.
    Stop {
        /// Rows of a chunk that are played.
        rows: usize,
    },
    /// The old row stays.
    Keep,
    /// The new row counts.
    Replace,
    /// `old·row + (1 − old)·new row`.
    Blend {
        /// Weight of the old row.
        old: f32,
    },
    /// The mean over all chunks of weight `e^(−coefficient·i)`, i = 0 the oldest.
    Ensemble {
        /// Rate at which newer predictions weigh less.
        coefficient: f64,
    },
}

/// How a policy makes a chunk that continues another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Guided, with the identity for the derivative of the estimate.
    Identity,
    /// Guided, with the true derivative.
    Vjp,
    /// Clamped to the clean rows, with their time told to the network.
    Prefix,
    /// Begun at the old rows; the velocity is 0 on the frozen ones and ramped on the others.
    Overlap,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 12] = [
        Self::Synchronous,
        Self::Append,
        Self::Replace,
        Self::WeightedAverage,
        Self::LatestOnly,
        Self::Average,
        Self::Conservative,
        Self::TemporalEnsemble,
        Self::Overlap,
        Self::RtcIdentity,
        Self::RtcVjp,
        Self::RtcPrefix,
    ];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Synchronous => "synchronous",
            Self::Append => "append",
            Self::Replace => "replace",
            Self::WeightedAverage => "weighted_average",
            Self::LatestOnly => "latest_only",
            Self::Average => "average",
            Self::Conservative => "conservative",
            Self::TemporalEnsemble => "temporal_ensemble",
            Self::Overlap => "overlap",
            Self::RtcIdentity => "rtc_identity",
            Self::RtcVjp => "rtc_vjp",
            Self::RtcPrefix => "rtc_prefix",
        }
    }

    /// The mode called `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`] with all names.
    pub fn by_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| Error::Unknown {
            what: "way of joining chunks".into(),
            expected: Self::ALL.map(Self::name).join(", "),
            got: name.into(),
        })
    }

    /// The policy's half; `None` if it makes chunks alone.
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Overlap => Some(Form::Overlap),
            Self::RtcIdentity => Some(Form::Identity),
            Self::RtcVjp => Some(Form::Vjp),
            Self::RtcPrefix => Some(Form::Prefix),
            _ => None,
        }
    }
}

/// How chunks are joined and when one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Joining {
    /// The way of joining.
    pub mode: Mode,
    /// Rows of a chunk that are played before the next one is asked for; the policy's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_action_steps: Option<usize>,
    /// Ask as soon as the rows left are at most this share of a chunk (LeRobot's async client: 0.5), instead
    /// of after `n_action_steps` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size_threshold: Option<f64>,
    /// Rate of the temporal ensemble.
    pub temporal_ensemble_coeff: f64,
}

impl Default for Joining {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            n_action_steps: None,
            chunk_size_threshold: None,
            temporal_ensemble_coeff: 0.01,
        }
    }
}

impl Joining {
    /// Checks the numbers for chunks of `horizon` rows.
    ///
    /// # Errors
    /// Names the first that makes no sense.
    pub fn validate(&self, horizon: usize) -> Result<()> {
        if let Some(n) = self.n_action_steps
            && !(1..=horizon).contains(&n)
        {
            let expected = format!("1 to the horizon ({horizon})");
            return Err(Error::range("joining: n_action_steps", expected, n as f64));
        }
        if let Some(share) = self.chunk_size_threshold
            && !(0.0..=1.0).contains(&share)
        {
            return Err(Error::range("joining: chunk_size_threshold", "0 to 1", share));
        }
        let rate = self.temporal_ensemble_coeff;
        if !rate.is_finite() || !((-rate as f32) * horizon as f32).exp().is_finite() {
            let expected = "a number whose weights e^(−coefficient·i) are finite";
            return Err(Error::range("joining: temporal_ensemble_coeff", expected, rate));
        }
        Ok(())
    }

    /// The robot's half. `n_action_steps` is the policy's.
    pub fn join(&self, n_action_steps: usize) -> Join {
        match self.mode {
            Mode::Synchronous => Join::Stop { rows: self.n_action_steps.unwrap_or(n_action_steps) },
            Mode::Append => Join::Keep,
            Mode::WeightedAverage => Join::Blend { old: 0.3 },
            Mode::Average => Join::Blend { old: 0.5 },
            Mode::Conservative => Join::Blend { old: 0.7 },
            Mode::TemporalEnsemble => Join::Ensemble { coefficient: self.temporal_ensemble_coeff },
            Mode::Replace
            | Mode::LatestOnly
            | Mode::Overlap
            | Mode::RtcIdentity
            | Mode::RtcVjp
            | Mode::RtcPrefix => Join::Replace,
        }
    }
}

/// What a new chunk has to continue: what the robot says beside its observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continuation {
    /// What is still to be played, row-major `[n, dim]` in robot units; row 0 belongs to the
    /// observation's own tick.
    pub left_over: Vec<f32>,
    /// Rows that will be played before the answer is there.
    pub delay: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_are_those_of_serde() {
        for mode in Mode::ALL {
            assert_eq!(Mode::by_name(mode.name()).unwrap(), mode);
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        let error = Mode::by_name("merge").unwrap_err().to_string();
        assert!(error.contains("weighted_average") && error.contains("merge"), "{error}");
    }

    #[test]
    fn numbers_are_checked() {
        let bad = |change: fn(&mut Joining)| {
            let mut joining = Joining::default();
            joining.validate(16).unwrap();
            change(&mut joining);
            joining.validate(16).unwrap_err().to_string()
        };
        assert!(bad(|j| j.n_action_steps = Some(17)).contains("n_action_steps"));
        assert!(bad(|j| j.chunk_size_threshold = Some(1.5)).contains("chunk_size_threshold"));
        assert!(bad(|j| j.temporal_ensemble_coeff = -100.0).contains("temporal_ensemble_coeff"));
        assert!(serde_json::from_str::<Joining>(r#"{"mode": "append", "speed": 1}"#).is_err());
    }
}
