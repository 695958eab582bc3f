//! Pictures of PushT: the one that policies see, and one for people.
//!
//! [`observation`] repeats gym-pusht's 96×96 picture. [`scene`] draws the same world anti-aliased at
//! any size, with a policy's chunk and trails over it. Both have a twin that takes plain poses.

mod caption;
mod observation;
mod raster;
mod scene;

pub use observation::observation_at;
pub use scene::{Overlay, scene_at};

use super::PushT;

/// What a PushT policy sees: gym-pusht's picture, 96×96 RGB.
pub fn observation(env: &PushT) -> Frame {
    observation_at(env.agent_pos(), env.block_pose())
}

/// A `size`×`size` picture (1 to 4096) for people, with `overlay` over the world.
pub fn scene(env: &PushT, size: u32, overlay: &Overlay) -> Frame {
    scene_at(env.agent_pos(), env.block_pose(), env.coverage(), size, overlay)
}

/// Radius of the agent in px.
const AGENT_RADIUS: f64 = 15.0;

/// The T in its body frame, as `[x0, y0, x1, y1]` in px: bar, then stem.
const RECTANGLES: [[f64; 4]; 2] = [[-60.0, 0.0, 60.0, 30.0], [-15.0, 30.0, 15.0, 120.0]];

/// Where the block has to go.
const GOAL: Pose = Pose {
    origin: [256.0, 256.0],
    cos: std::f64::consts::FRAC_1_SQRT_2,
    sin: std::f64::consts::FRAC_1_SQRT_2,
};

/// An RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes, row by row from the top left, red first.
    pub rgb: Vec<u8>,
}

/// A pose of the block's origin, with the angle's sine and cosine.
struct Pose {
    origin: [f64; 2],
    cos: f64,
    sin: f64,
}

impl Pose {
    fn new([x, y, angle_rad]: [f64; 3]) -> Self {
        let (sin, cos) = angle_rad.sin_cos();
        Self { origin: [x, y], cos, sin }
    }

    fn to_world(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.origin[0] + x * self.cos - y * self.sin, self.origin[1] + x * self.sin + y * self.cos]
    }

    fn to_body(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (dx, dy) = (x - self.origin[0], y - self.origin[1]);
        [dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin]
    }
}

/// The four corners of a body-frame rectangle in the world, in the order of drawing.
fn corners(pose: &Pose, [x0, y0, x1, y1]: [f64; 4]) -> [[f64; 2]; 4] {
    [[x0, y0], [x1, y0], [x1, y1], [x0, y1]].map(|corner| pose.to_world(corner))
}
