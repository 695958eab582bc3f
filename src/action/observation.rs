//! What a policy sees of one tick; the message that carries it is [`crate::wire::Observation`].

/// One observation in raw units, in LeRobot's order of features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyObs {
    /// `observation.state`.
    pub state: Vec<f32>,
    /// `observation.environment_state`; empty if the policy has none.
    pub environment_state: Vec<f32>,
    /// One picture a camera, in any order.
    pub images: Vec<Picture>,
}

/// One camera's picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// `top` of `observation.images.top`; `image` of `observation.image`.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// RGB, row by row: `height·width·3` bytes.
    pub data: Vec<u8>,
}

impl Picture {
    /// The name of the camera of LeRobot's feature `key`.
    pub fn name_of(key: &str) -> &str {
        let rest = key.strip_prefix("observation.").unwrap_or(key);
        rest.strip_prefix("images.").unwrap_or(rest)
    }
}
