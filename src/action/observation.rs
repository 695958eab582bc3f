//! What a policy sees of one tick; the message that carries it is [`crate::wire::Observation`].

/// One observation in raw units, in LeRobot's order of features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyObs {
    /// `observation.state`.
    pub state: Vec<f32>,
    /// `observation.environment_state`; empty if the policy has none.
    pub environment_state: Vec<f32>,
}
