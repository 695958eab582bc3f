//! PushT for people: anti-aliased, any size, with what the policy intends drawn over it.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform,
};

use super::{AGENT_RADIUS, Frame, GOAL, Pose, caption, corners};

/// What is drawn over the world; all positions in world px (0 to 512), y down.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// The agent's present target: a small red cross.
    pub action: Option<[f64; 2]>,
    /// The current action chunk, oldest row first: a line with dots, orange now to violet later.
    pub chunk: Vec<[f64; 2]>,
    /// Paths from noise to action, one a line, noise first: thin and translucent.
    pub trails: Vec<Vec<[f64; 2]>>,
    /// One line at the top left: letters, digits and `. , : % / - + = ( )`.
    pub caption: String,
}

const BACKGROUND: [u8; 3] = [247, 248, 250];
const WALL: [u8; 3] = [203, 209, 218];
const GOAL_FILL: [u8; 3] = [207, 238, 212];
const GOAL_EDGE: [u8; 3] = [134, 201, 150];
const BLOCK_FILL: [u8; 3] = [112, 128, 150];
const BLOCK_EDGE: [u8; 3] = [71, 85, 105];
const AGENT_FILL: [u8; 3] = [59, 111, 224];
const AGENT_EDGE: [u8; 3] = [30, 64, 175];
const NOW: [u8; 3] = [249, 115, 22];
const LATER: [u8; 3] = [147, 51, 234];
const TRAIL: [u8; 3] = [99, 84, 190];
const ACTION: [u8; 3] = [220, 38, 38];
const TEXT: [u8; 3] = [71, 85, 105];
const SUCCESS: [u8; 3] = [22, 163, 74];

/// Coverage above which an episode has succeeded.
const SUCCESS_COVERAGE: f64 = 0.95;

/// A `size`×`size` picture (1 to 4096) of the agent at `agent`, the block's origin at `block`
/// (angle in rad), a bar for `coverage` (0 to 1, with a tick above 0.95), and `overlay`.
pub fn scene_at(
    agent: [f64; 2],
    block: [f64; 3],
    coverage: f64,
    size: u32,
    overlay: &Overlay,
) -> Frame {
    let size = size.clamp(1, 4096);
    let Some(pixmap) = Pixmap::new(size, size) else {
        return Frame { width: 0, height: 0, rgb: Vec::new() };
    };
    let mut canvas = Canvas { pixmap, scale: size as f32 / 512.0 };
    canvas.pixmap.fill(Color::from_rgba8(BACKGROUND[0], BACKGROUND[1], BACKGROUND[2], 255));
    world(&mut canvas, agent, block);
    intent(&mut canvas, overlay);
    status(&mut canvas, coverage, &overlay.caption);
    let rgb = canvas.pixmap.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    Frame { width: size, height: size, rgb }
}

fn world(canvas: &mut Canvas, agent: [f64; 2], block: [f64; 3]) {
    let goal = tee(&GOAL, [0.0, 0.0]);
    canvas.fill(&goal, GOAL_FILL, 1.0);
    canvas.stroke(&goal, 2.5, GOAL_EDGE, 1.0);

    canvas.stroke(&wall(), 5.0, WALL, 1.0);

    let block = Pose::new(block);
    for (offset, opacity) in [([4.0, 6.0], 0.07), ([2.5, 3.5], 0.09)] {
        canvas.fill(&tee(&block, offset), TEXT, opacity);
    }
    let outline = tee(&block, [0.0, 0.0]);
    canvas.fill(&outline, BLOCK_FILL, 1.0);
    canvas.stroke(&outline, 2.5, BLOCK_EDGE, 1.0);

    let [x, y] = agent.map(|v| v as f32);
    let radius = AGENT_RADIUS as f32;
    canvas.fill(&disc(x + 2.0, y + 3.0, radius), TEXT, 0.12);
    canvas.fill(&disc(x, y, radius), AGENT_EDGE, 1.0);
    canvas.fill(&disc(x, y, radius - 2.5), AGENT_FILL, 1.0);
}

fn intent(canvas: &mut Canvas, overlay: &Overlay) {
    for trail in &overlay.trails {
        let pieces = trail.len().saturating_sub(1);
        for (i, pair) in trail.windows(2).enumerate() {
            let share = (i + 1) as f32 / pieces as f32;
            canvas.stroke(&line(pair), canvas.at_least(1.2), TRAIL, 0.10 + 0.30 * share);
        }
    }
    let rows = overlay.chunk.len();
    let color = |row: usize| mix(NOW, LATER, row as f32 / (rows.max(2) - 1) as f32);
    for (i, pair) in overlay.chunk.windows(2).enumerate() {
        canvas.stroke(&line(pair), canvas.at_least(3.0), color(i), 0.9);
    }
    // The rows of now lie on top of those of later.
    for (i, row) in overlay.chunk.iter().enumerate().rev() {
        canvas.fill(&disc(row[0] as f32, row[1] as f32, 4.6), BACKGROUND, 1.0);
        canvas.fill(&disc(row[0] as f32, row[1] as f32, 3.4), color(i), 1.0);
    }
    if let Some([x, y]) = overlay.action {
        for (width, color) in [(6.0, BACKGROUND), (3.0, ACTION)] {
            canvas.stroke(&line(&[[x - 8.0, y], [x + 8.0, y]]), width, color, 1.0);
            canvas.stroke(&line(&[[x, y - 8.0], [x, y + 8.0]]), width, color, 1.0);
        }
    }
}

fn status(canvas: &mut Canvas, coverage: f64, text: &str) {
    let coverage = if coverage.is_finite() { coverage.clamp(0.0, 1.0) } else { 0.0 };
    let done = coverage > SUCCESS_COVERAGE;
    let (left, width, y) = (22.0, 120.0, 488.0);
    let at = |share: f64| left + width * share;
    canvas.stroke(&line(&[[left, y], [at(1.0), y]]), 8.0, WALL, 1.0);
    if coverage > 0.0 {
        let color = if done { SUCCESS } else { GOAL_EDGE };
        canvas.stroke(&line(&[[left, y], [at(coverage), y]]), 8.0, color, 1.0);
    }
    let mark = at(SUCCESS_COVERAGE);
    canvas.stroke(&line(&[[mark, y - 6.0], [mark, y + 6.0]]), canvas.at_least(1.5), TEXT, 1.0);
    if done {
        let x = at(1.0) + 12.0;
        canvas.stroke(&line(&[[x, y], [x + 5.0, y + 5.0], [x + 15.0, y - 7.0]]), 4.0, SUCCESS, 1.0);
    }
    // Whole pixels, so that the dots stay sharp.
    let dot = (canvas.scale * 1.7).round().max(1.0);
    let origin = (canvas.scale * 18.0).round();
    let mut builder = PathBuilder::new();
    for (column, row) in caption::dots(text) {
        let (x, y) = (origin + column as f32 * dot, origin + row as f32 * dot);
        if let Some(rect) = Rect::from_xywh(x, y, dot, dot) {
            builder.push_rect(rect);
        }
    }
    if let Some(path) = builder.finish() {
        canvas.fill_pixels(&path, TEXT);
    }
}

/// The outline of the T as one closed path, moved by `offset`.
fn tee(pose: &Pose, offset: [f64; 2]) -> Option<Path> {
    const BODY: [[f64; 2]; 8] = [
        [-60.0, 0.0],
        [60.0, 0.0],
        [60.0, 30.0],
        [15.0, 30.0],
        [15.0, 120.0],
        [-15.0, 120.0],
        [-15.0, 30.0],
        [-60.0, 30.0],
    ];
    closed(BODY.into_iter().map(|corner| {
        let [x, y] = pose.to_world(corner);
        [x + offset[0], y + offset[1]]
    }))
}

fn wall() -> Option<Path> {
    let frame = corners(&Pose::new([0.0; 3]), [5.0, 5.0, 506.0, 506.0]);
    closed(frame.into_iter())
}

fn closed(points: impl Iterator<Item = [f64; 2]>) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for [x, y] in points {
        append(&mut builder, x, y);
    }
    builder.close();
    builder.finish()
}

fn line(points: &[[f64; 2]]) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for &[x, y] in points {
        append(&mut builder, x, y);
    }
    builder.finish()
}

fn append(builder: &mut PathBuilder, x: f64, y: f64) {
    if builder.is_empty() {
        builder.move_to(x as f32, y as f32);
    } else {
        builder.line_to(x as f32, y as f32);
    }
}

fn disc(x: f32, y: f32, radius: f32) -> Option<Path> {
    PathBuilder::from_circle(x, y, radius)
}

fn mix(a: [u8; 3], b: [u8; 3], share: f32) -> [u8; 3] {
    [0, 1, 2].map(|i| (f32::from(a[i]) * (1.0 - share) + f32::from(b[i]) * share).round() as u8)
}

fn paint([r, g, b]: [u8; 3], opacity: f32) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, (opacity * 255.0).round() as u8);
    paint
}

/// A pixmap on which lengths are world px. A path that is `None` (no extent, not finite) draws
/// nothing.
struct Canvas {
    pixmap: Pixmap,
    scale: f32,
}

impl Canvas {
    /// `width` world px, but never less than one pixel of the picture.
    fn at_least(&self, width: f32) -> f32 {
        width.max(1.0 / self.scale)
    }

    fn world(&self) -> Transform {
        Transform::from_scale(self.scale, self.scale)
    }

    fn fill(&mut self, path: &Option<Path>, color: [u8; 3], opacity: f32) {
        let Some(path) = path else { return };
        let world = self.world();
        self.pixmap.fill_path(path, &paint(color, opacity), FillRule::Winding, world, None);
    }

    fn stroke(&mut self, path: &Option<Path>, width: f32, color: [u8; 3], opacity: f32) {
        let Some(path) = path else { return };
        let (line_cap, line_join) = (LineCap::Round, LineJoin::Round);
        let stroke = Stroke { width, line_cap, line_join, ..Stroke::default() };
        let world = self.world();
        self.pixmap.stroke_path(path, &paint(color, opacity), &stroke, world, None);
    }

    fn fill_pixels(&mut self, path: &Path, color: [u8; 3]) {
        let paint = paint(color, 1.0);
        self.pixmap.fill_path(path, &paint, FillRule::Winding, Transform::identity(), None);
    }
}
