//! PushT's world with exact maps: what is drawn, and what every pixel shows.
//!
//! The starts are gym-pusht's for reset seeds `seed`, `seed + 1`, … A picture is drawn on the
//! simulator's own grid of 512×512 and brought to size by area, so that edges are smooth; the map
//! names the class that covers most of a pixel. Agent lies on block, block on wall, wall on goal, goal
//! on background. The T and the agent have a darker rim, so that a picture holds a little more than its map.

use pathline_sim::pusht::PushT;
use rayon::prelude::*;

use super::resample::Raster;
use super::{Pictures, check_bytes};
use crate::{Error, Result};

/// Names of what pixels show, in the order of the maps' numbers.
const CLASSES: [&str; 5] = ["background", "wall", "goal", "block", "agent"];

/// Edge of the world in px.
const WORLD: usize = 512;

/// Half thickness of a rim.
const RIM: f64 = 5.0;

/// The T in its body frame, as `[x0, y0, x1, y1]`: bar, then stem (gym-pusht 0.1.8).
const RECTANGLES: [[f64; 4]; 2] = [[-60.0, 0.0, 60.0, 30.0], [-15.0, 30.0, 15.0, 120.0]];
const AGENT_RADIUS: f64 = 15.0;

/// The walls' centre lines lie on this square, 2 px to either side.
const WALL: [f64; 2] = [5.0, 506.0];
const WALL_RADIUS: f64 = 2.0;

/// Colours of the classes, and of the rims of block and agent.
const COLORS: [[u8; 3]; 7] = [
    [247, 248, 250],
    [171, 180, 194],
    [150, 220, 165],
    [112, 128, 150],
    [59, 111, 224],
    [60, 72, 92],
    [24, 52, 140],
];

/// `count` pictures with maps at `size`×`size`.
pub(super) fn render(size: usize, count: usize, seed: u64) -> Result<Pictures> {
    if !(16..=WORLD).contains(&size) || !WORLD.is_multiple_of(size) {
        return Err(Error::range("pictures: size", "16, 32, 64, 128, 256 or 512 px", size as f64));
    }
    if count == 0 {
        return Err(Error::range("pictures: count", "1 or more", 0.0));
    }
    check_bytes(count, size * size * 4)?;
    let one = |index: u64| {
        let world = PushT::reset(seed.wrapping_add(index));
        draw(size, world.agent_pos(), world.block_pose())
    };
    let drawn: Vec<(Vec<u8>, Vec<u8>)> = (0..count as u64).into_par_iter().map(one).collect();
    let (pixels, maps): (Vec<_>, Vec<_>) = drawn.into_iter().unzip();
    Ok(Pictures {
        size: [size; 2],
        channels: 3,
        pixels: pixels.concat(),
        maps: maps.concat(),
        map_classes: CLASSES.map(str::to_owned).to_vec(),
        ..Pictures::default()
    })
}

/// The picture `[size, size, 3]` and the map `[size, size]` of one state.
fn draw(size: usize, agent: [f64; 2], block: [f64; 3]) -> (Vec<u8>, Vec<u8>) {
    let block = Tee::new(block);
    let goal = Tee::new(PushT::GOAL_POSE);
    let cell = WORLD / size;
    let mut fine = Vec::with_capacity(WORLD * WORLD * 3);
    let mut votes = vec![[0u32; CLASSES.len()]; size * size];
    for y in 0..WORLD {
        for x in 0..WORLD {
            let point = [x as f64 + 0.5, y as f64 + 0.5];
            let (class, color) = look(point, agent, &block, &goal);
            votes[y / cell * size + x / cell][class] += 1;
            fine.extend_from_slice(&COLORS[color]);
        }
    }
    let fine = Raster { width: WORLD, height: WORLD, channels: 3, pixels: fine };
    let winner = |votes: &[u32; CLASSES.len()]| {
        // Of equal shares the one that lies on top.
        let best = (0..CLASSES.len()).max_by_key(|class| votes[*class]);
        best.unwrap_or_default() as u8
    };
    (fine.resized(size).pixels, votes.iter().map(winner).collect())
}

/// Class and colour at a point of the world.
fn look(point: [f64; 2], agent: [f64; 2], block: &Tee, goal: &Tee) -> (usize, usize) {
    let from_agent = (point[0] - agent[0]).hypot(point[1] - agent[1]);
    if from_agent <= AGENT_RADIUS {
        return (4, if from_agent > AGENT_RADIUS - RIM { 6 } else { 4 });
    }
    if let Some(depth) = block.depth(point) {
        return (3, if depth < RIM { 5 } else { 3 });
    }
    let [low, high] = WALL;
    let outer = point.iter().all(|v| (low - WALL_RADIUS..=high + WALL_RADIUS).contains(v));
    let inner = point.iter().all(|v| (low + WALL_RADIUS..=high - WALL_RADIUS).contains(v));
    if outer && !inner {
        return (1, 1);
    }
    if goal.depth(point).is_some() { (2, 2) } else { (0, 0) }
}

/// A T at a pose.
struct Tee {
    origin: [f64; 2],
    cos: f64,
    sin: f64,
}

impl Tee {
    fn new([x, y, angle_rad]: [f64; 3]) -> Self {
        let (sin, cos) = angle_rad.sin_cos();
        Self { origin: [x, y], cos, sin }
    }

    /// How far inside the T's outline a point lies; none outside.
    fn depth(&self, point: [f64; 2]) -> Option<f64> {
        let (dx, dy) = (point[0] - self.origin[0], point[1] - self.origin[1]);
        let [x, y] = [dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin];
        let inside = |[x0, y0, x1, y1]: [f64; 4]| {
            let least = (x - x0).min(x1 - x).min(y - y0).min(y1 - y);
            (least >= 0.0).then_some(least)
        };
        let depth = RECTANGLES
            .into_iter()
            .filter_map(inside)
            .fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))))?;
        // Where stem and bar meet there is no edge.
        let [_, _, half, _] = RECTANGLES[1];
        let seam = x.abs() < half && (RECTANGLES[0][1]..RECTANGLES[1][1] + RIM).contains(&y);
        Some(if seam { (half - x.abs()).max(depth).min(y - RECTANGLES[0][1]) } else { depth })
    }
}
