//! The picture that gym-pusht gives its policies.
//!
//! gym-pusht 0.1.8 draws the goal, then lets pymunk 6.11.1 draw its space: block (bar, stem), agent,
//! walls, and a red hairline at every contact. All corners are rounded to whole pixels first. The
//! order and the colours (a body's colour for outlines, 1.2 times it inside) are pymunk's.

use super::raster::{Disc, Rgb, Surface};
use super::{AGENT_RADIUS, Frame, GOAL, Pose, RECTANGLES, corners};

const LIGHT_GREEN: Rgb = [144, 238, 144];
const ROYAL_BLUE: Rgb = [65, 105, 225];
const ROYAL_BLUE_LIT: Rgb = [78, 126, 255];
const SLATE: Rgb = [119, 136, 153];
const SLATE_LIT: Rgb = [143, 163, 184];
const LIGHT_GRAY: Rgb = [211, 211, 211];
const CONTACT_RED: Rgb = [231, 76, 60];

/// The walls' centre lines; their radius is 2.
const WALLS: [[[f64; 2]; 2]; 4] = [
    [[5.0, 506.0], [5.0, 5.0]],
    [[5.0, 5.0], [506.0, 5.0]],
    [[506.0, 5.0], [506.0, 506.0]],
    [[5.0, 506.0], [506.0, 506.0]],
];
const WALL_RADIUS: f64 = 2.0;

/// What a PushT policy sees: 96×96 RGB, of the agent at `agent` and the block's origin at `block`.
pub fn observation_at(agent: [f64; 2], block: [f64; 3]) -> Frame {
    let block = Pose::new(block);
    let mut surface = Surface::white();
    for rectangle in RECTANGLES {
        surface.polygon(&corners(&GOAL, rectangle).map(whole), LIGHT_GREEN);
    }
    for rectangle in RECTANGLES {
        let outline = corners(&block, rectangle).map(whole);
        surface.polygon(&outline, SLATE_LIT);
        for (i, &a) in outline.iter().enumerate() {
            bar(&mut surface, a, outline[(i + 1) % 4], SLATE);
        }
    }
    surface.disc(whole(agent), Disc::Agent, ROYAL_BLUE);
    surface.disc(whole(agent), Disc::AgentInner, ROYAL_BLUE_LIT);
    for [a, b] in WALLS {
        bar(&mut surface, whole(a), whole(b), LIGHT_GRAY);
    }
    for [a, b] in contacts(agent, &block) {
        surface.hairline(whole(a), whole(b), CONTACT_RED);
    }
    surface.shrink(96)
}

/// The nearest pixel; what is far outside stays outside, so that no product overflows.
fn whole(point: [f64; 2]) -> [i32; 2] {
    point.map(|v| v.round_ties_even().clamp(-4096.0, 4096.0) as i32)
}

/// pymunk's "fat segment" of radius 2: a line, a rectangle over it, and a disc at both ends.
///
/// The rectangle's offset takes absolute values of both coordinates, so that along a falling
/// diagonal it is a sheared one; policies have been trained on that.
fn bar(surface: &mut Surface, a: [i32; 2], b: [i32; 2], color: Rgb) {
    surface.thick_line(a, b, color);
    let across = [f64::from((b[1] - a[1]).abs()), f64::from((b[0] - a[0]).abs())];
    let length = across[0].hypot(across[1]);
    if length == 0.0 {
        return;
    }
    let [ox, oy] = across.map(|v| (v * (2.0 / length)).round_ties_even() as i32);
    let rectangle = [
        [a[0] - ox, a[1] - oy],
        [a[0] + ox, a[1] + oy],
        [b[0] + ox, b[1] + oy],
        [b[0] - ox, b[1] - oy],
    ];
    surface.polygon(&rectangle, color);
    surface.disc(a, Disc::LineEnd, color);
    surface.disc(b, Disc::LineEnd, color);
}

/// The hairlines at contacts, in world coordinates: from 2 px behind one surface to 2 px behind the
/// other along the normal. Chipmunk finds contacts before it moves velocities, so they follow from
/// the poses alone.
fn contacts(agent: [f64; 2], block: &Pose) -> Vec<[[f64; 2]; 2]> {
    let mut lines = Vec::new();
    for rectangle in RECTANGLES {
        lines.extend(agent_contact(agent, block, rectangle));
    }
    for wall in WALLS {
        for rectangle in RECTANGLES {
            wall_contacts(wall, &corners(block, rectangle), &mut lines);
        }
    }
    lines
}

fn agent_contact(
    agent: [f64; 2],
    block: &Pose,
    [x0, y0, x1, y1]: [f64; 4],
) -> Option<[[f64; 2]; 2]> {
    let [x, y] = block.to_body(agent);
    let nearest = [x.clamp(x0, x1), y.clamp(y0, y1)];
    let away = [nearest[0] - x, nearest[1] - y];
    let distance = away[0].hypot(away[1]);
    if distance > AGENT_RADIUS {
        return None;
    }
    let (surface_point, normal) = if distance > 0.0 {
        (nearest, away.map(|v| v / distance))
    } else {
        // The centre is inside: the nearest side counts, and the normal still points into the T.
        let sides = [
            (x - x0, [x0, y], [1.0, 0.0]),
            (x1 - x, [x1, y], [-1.0, 0.0]),
            (y - y0, [x, y0], [0.0, 1.0]),
            (y1 - y, [x, y1], [0.0, -1.0]),
        ];
        let side = sides.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        (side.1, side.2)
    };
    let from = [0, 1].map(|i| [x, y][i] + normal[i] * (AGENT_RADIUS - 2.0));
    let to = [0, 1].map(|i| surface_point[i] + normal[i] * 2.0);
    Some([block.to_world(from), block.to_world(to)])
}

/// The corners of the side that faces a wall touch it one by one. A rectangle that is pushed through
/// by more than half is held from the other side, as Chipmunk does.
fn wall_contacts([a, b]: [[f64; 2]; 2], corners: &[[f64; 2]; 4], lines: &mut Vec<[[f64; 2]; 2]>) {
    let axis = usize::from(a[0] != b[0]);
    let beyond = |side: f64| corners.iter().map(|c| (a[axis] - c[axis]) * side).fold(0.0, f64::max);
    let centre = if a[axis] < 256.0 { 1.0 } else { -1.0 };
    let inwards = if beyond(-centre) < beyond(centre) { -centre } else { centre };
    let depth = |corner: [f64; 2]| (corner[axis] - a[axis]) * inwards - WALL_RADIUS;
    let mut order: [usize; 4] = [0, 1, 2, 3];
    order.sort_by(|&i, &j| depth(corners[i]).total_cmp(&depth(corners[j])));
    for &corner in &order[..2] {
        let [from, to] =
            [a[axis] + inwards * (WALL_RADIUS - 2.0), corners[corner][axis] + inwards * 2.0];
        if depth(corners[corner]) <= 0.0 {
            let mut line = [corners[corner]; 2];
            line[0][axis] = from;
            line[1][axis] = to;
            lines.push(line);
        }
    }
}
