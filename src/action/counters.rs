//! What became of every input of the gate: one counter for each ending, so that the sum is the
//! number of inputs.

/// Why the gate refused an input. The order is the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The gate is latched; only an operator's reset reopens it.
    Latched,
    /// The sample's encoding does not name this message.
    WrongSchema,
    /// The bytes are not the message that they claim to be.
    Malformed,
    /// `dim` is not the robot's.
    WrongDim,
    /// No rows, more rows than the robot takes, or values that are not `horizon * dim`.
    WrongShape,
    /// The nonce belongs to another run of the robot, or to a stranger.
    WrongSession,
    /// An earlier life of the publisher.
    StaleEpoch,
    /// Not newer than the last chunk taken: a duplicate, or overtaken on the way.
    OldSequence,
    /// An observation that the robot has not made yet.
    FutureObservation,
    /// An observation that this episode does not know, or no longer.
    UnknownObservation,
    /// The chunk claims another tick for the observation than the robot noted.
    WrongTick,
    /// The observation is older than `max_obs_age`.
    StaleObservation,
    /// Answers an observation before the one that the current chunk answers.
    OlderObservation,
    /// No row is left to play: all were played, or belong behind what is planned.
    Expired,
    /// A value is NaN or infinite.
    NonFinite,
    /// A value lies further outside its limits than may be clamped.
    OutOfLimits,
    /// The row of now is further from the last command than may be jumped.
    Discontinuous,
}

impl Reason {
    /// All reasons, in the order of the checks.
    pub const ALL: [Self; 17] = [
        Self::Latched,
        Self::WrongSchema,
        Self::Malformed,
        Self::WrongDim,
        Self::WrongShape,
        Self::WrongSession,
        Self::StaleEpoch,
        Self::OldSequence,
        Self::FutureObservation,
        Self::UnknownObservation,
        Self::WrongTick,
        Self::StaleObservation,
        Self::OlderObservation,
        Self::Expired,
        Self::NonFinite,
        Self::OutOfLimits,
        Self::Discontinuous,
    ];

    /// The counter's name in status reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latched => "latched",
            Self::WrongSchema => "wrong_schema",
            Self::Malformed => "malformed",
            Self::WrongDim => "wrong_dim",
            Self::WrongShape => "wrong_shape",
            Self::WrongSession => "wrong_session",
            Self::StaleEpoch => "stale_epoch",
            Self::OldSequence => "old_sequence",
            Self::FutureObservation => "future_observation",
            Self::UnknownObservation => "unknown_observation",
            Self::WrongTick => "wrong_tick",
            Self::StaleObservation => "stale_observation",
            Self::OlderObservation => "older_observation",
            Self::Expired => "expired",
            Self::NonFinite => "non_finite",
            Self::OutOfLimits => "out_of_limits",
            Self::Discontinuous => "discontinuous",
        }
    }
}

/// What the gate did with one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The chunk is the plan now.
    Accepted {
        /// How many of its values were moved onto a limit.
        clamped: u32,
    },
    /// The chunk was dropped whole; nothing but a counter changed.
    Rejected(Reason),
}

impl Verdict {
    /// True for [`Verdict::Accepted`].
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// One counter for each way an input can end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks taken.
    pub accepted: u64,
    rejected: [u64; Reason::ALL.len()],
}

impl Counters {
    /// How often `reason` ended an input.
    pub fn rejected(&self, reason: Reason) -> u64 {
        self.rejected.get(reason as usize).copied().unwrap_or(0)
    }

    /// Inputs refused, for any reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// All inputs: the sum of all counters.
    pub fn total(&self) -> u64 {
        self.accepted.saturating_add(self.rejected_total())
    }

    /// Name and count of every reason, in the order of the checks.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Reason::ALL.iter().map(|r| (r.name(), self.rejected(*r)))
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Accepted { .. } => Some(&mut self.accepted),
            Verdict::Rejected(reason) => self.rejected.get_mut(reason as usize),
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut counters = Counters::default();
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i, "{reason:?} stands at its own place");
            for _ in 0..=i {
                counters.count(Verdict::Rejected(reason));
            }
        }
        counters.count(Verdict::Accepted { clamped: 3 });
        for (i, (name, n)) in counters.iter().enumerate() {
            assert_eq!(n, i as u64 + 1, "{name}");
        }
        assert_eq!(counters.total(), 1 + 17 * 18 / 2);
        let mut names: Vec<_> = counters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
