//! What the robot's side says about joining chunks, against what its policy says.

use crate::action::{Joining, Mode};
use crate::{Error, Result};

/// What is to be other than the policy says; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JoinChoice {
    /// The way of joining.
    pub mode: Option<Mode>,
    /// Rows of a chunk that are played before the next one is asked for.
    pub n_action_steps: Option<usize>,
    /// Ask when the rows left are at most this share of a chunk.
    pub chunk_size_threshold: Option<f64>,
    /// Rate at which newer chunks weigh less in an ensemble.
    pub temporal_ensemble_coeff: Option<f64>,
}

impl JoinChoice {
    /// The policy's joining with what was chosen instead.
    ///
    /// # Errors
    /// A number that makes no sense for chunks of `horizon` rows; a way whose chunks the policy would have
    /// to make, and does not.
    pub(crate) fn apply(self, policy: Joining, horizon: usize) -> Result<Joining> {
        let joining = Joining {
            mode: self.mode.unwrap_or(policy.mode),
            n_action_steps: self.n_action_steps.or(policy.n_action_steps),
            chunk_size_threshold: self.chunk_size_threshold.or(policy.chunk_size_threshold),
            temporal_ensemble_coeff: self
                .temporal_ensemble_coeff
                .unwrap_or(policy.temporal_ensemble_coeff),
        };
        joining.validate(horizon)?;
        let (wanted, made) = (joining.mode.form(), policy.mode.form());
        if wanted.is_some() && wanted != made {
            let name = joining.mode.name();
            return Err(Error::Invalid(format!(
                "joining {name:?} needs a policy that makes its chunks so, this one joins {:?}: start it with \
                 `pathline serve --join {name}`",
                policy.mode.name()
            )));
        }
        Ok(joining)
    }
}

/// Ticks between two chunks while the robot runs: the silence that its heartbeat has to bear.
pub(crate) fn ticks_between(joining: &Joining, horizon: usize, n_action_steps: usize) -> u64 {
    let rows = match (joining.mode, joining.chunk_size_threshold) {
        (Mode::Synchronous, _) => joining.n_action_steps.unwrap_or(n_action_steps),
        (Mode::TemporalEnsemble, _) => 1,
        (Mode::Append, None) => horizon,
        (_, Some(share)) => horizon - ((share * horizon as f64) as usize).min(horizon),
        (_, None) => joining.n_action_steps.unwrap_or(n_action_steps),
    };
    rows.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_says_and_the_robot_may_say_otherwise() {
        let policy =
            Joining { mode: Mode::RtcPrefix, n_action_steps: Some(6), ..Joining::default() };
        assert_eq!(JoinChoice::default().apply(policy, 16).unwrap(), policy);
        let choice = JoinChoice {
            mode: Some(Mode::Average),
            chunk_size_threshold: Some(0.5),
            ..JoinChoice::default()
        };
        let joining = choice.apply(policy, 16).unwrap();
        assert_eq!((joining.mode, joining.n_action_steps), (Mode::Average, Some(6)));
        assert_eq!(joining.chunk_size_threshold, Some(0.5));
        let bad = JoinChoice { n_action_steps: Some(17), ..JoinChoice::default() };
        assert!(bad.apply(policy, 16).is_err());
    }

    #[test]
    fn only_the_policy_can_make_chunks_that_continue() {
        let choice = JoinChoice { mode: Some(Mode::RtcVjp), ..JoinChoice::default() };
        let error = choice.apply(Joining::default(), 16).unwrap_err().to_string();
        assert!(error.contains("serve --join rtc_vjp") && error.contains("replace"), "{error}");
        let policy = Joining { mode: Mode::RtcVjp, ..Joining::default() };
        assert_eq!(choice.apply(policy, 16).unwrap(), policy);
    }

    #[test]
    fn the_silence_between_chunks_is_known() {
        let with =
            |mode, share| Joining { mode, chunk_size_threshold: share, ..Joining::default() };
        assert_eq!(ticks_between(&with(Mode::Replace, None), 16, 8), 8);
        assert_eq!(ticks_between(&with(Mode::Replace, Some(0.5)), 16, 4), 8);
        assert_eq!(ticks_between(&with(Mode::Replace, Some(1.0)), 16, 4), 1);
        assert_eq!(ticks_between(&with(Mode::TemporalEnsemble, None), 16, 8), 1);
        assert_eq!(ticks_between(&with(Mode::Synchronous, Some(0.5)), 16, 8), 8);
    }
}
