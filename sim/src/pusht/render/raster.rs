//! A 512×512 RGB surface that fills shapes the way pygame 2.6 does, and OpenCV's bilinear shrink.
//!
//! Every primitive works on whole pixels, because pymunk's debug drawing rounds all coordinates
//! before it hands them to pygame. The rules were found by drawing with pygame and comparing, pixel
//! by pixel: an edge of a polygon crosses row y at floor(x), both ends of a span are painted, and
//! the lowest row belongs to the polygon. The resize is `cv2.resize` with `INTER_LINEAR` on u8:
//! 11-bit weights, no low-pass filter. tests/golden/pusht_render.py holds the comparison.

use super::Frame;

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Half-widths of pygame's filled circle of radius 15, from the topmost row down to the middle.
const DISC_15: [i32; 15] = [3, 6, 8, 9, 10, 11, 12, 13, 13, 14, 14, 14, 15, 15, 15];
/// The same for radius 11.
const DISC_11: [i32; 11] = [3, 5, 6, 8, 8, 9, 10, 10, 11, 11, 11];
/// The same for radius 2.
const DISC_2: [i32; 2] = [1, 2];

/// The radii that the scene needs.
#[derive(Clone, Copy)]
pub(super) enum Disc {
    Agent,
    AgentInner,
    LineEnd,
}

impl Disc {
    fn half_widths(self) -> &'static [i32] {
        match self {
            Self::Agent => &DISC_15,
            Self::AgentInner => &DISC_11,
            Self::LineEnd => &DISC_2,
        }
    }
}

/// The drawing surface, row by row from the top left.
pub(super) struct Surface {
    rgb: Vec<u8>,
}

impl Surface {
    /// Edge length in pixels; one pixel is one unit of the world.
    pub(super) const SIZE: i32 = 512;

    /// A white surface.
    pub(super) fn white() -> Self {
        Self { rgb: vec![255; (Self::SIZE * Self::SIZE * 3) as usize] }
    }

    /// Row `y` from `x0` to `x1`, both included; what lies outside is dropped.
    fn span(&mut self, y: i32, x0: i32, x1: i32, color: Rgb) {
        let (x0, x1) = (x0.max(0), x1.min(Self::SIZE - 1));
        if !(0..Self::SIZE).contains(&y) || x0 > x1 {
            return;
        }
        let start = ((y * Self::SIZE + x0) * 3) as usize;
        let end = ((y * Self::SIZE + x1 + 1) * 3) as usize;
        for pixel in self.rgb[start..end].chunks_exact_mut(3) {
            pixel.copy_from_slice(&color);
        }
    }

    /// A filled convex polygon of at most eight corners.
    pub(super) fn polygon(&mut self, corners: &[[i32; 2]], color: Rgb) {
        let rows = || corners.iter().map(|c| c[1]);
        let (Some(top), Some(bottom)) = (rows().min(), rows().max()) else { return };
        for y in top..=bottom {
            let (mut left, mut right) = (i32::MAX, i32::MIN);
            for (i, &b) in corners.iter().enumerate() {
                let a = corners[(i + corners.len() - 1) % corners.len()];
                let ([x0, y0], [x1, y1]) = if a[1] <= b[1] { (a, b) } else { (b, a) };
                if y0 == y1 {
                    // A flat edge paints itself; inside the outline that changes nothing.
                    if y == y0 {
                        left = left.min(x0.min(x1));
                        right = right.max(x0.max(x1));
                    }
                } else if (y0..y1).contains(&y) || (y == bottom && y1 == bottom) {
                    let x = x0 + ((y - y0) * (x1 - x0)).div_euclid(y1 - y0);
                    left = left.min(x);
                    right = right.max(x);
                }
            }
            self.span(y, left, right, color);
        }
    }

    /// A filled circle whose centre lies on the corner between four pixels, as pygame has it.
    pub(super) fn disc(&mut self, center: [i32; 2], disc: Disc, color: Rgb) {
        let half_widths = disc.half_widths();
        for (i, half) in half_widths.iter().enumerate() {
            let below_top = i as i32;
            let radius = half_widths.len() as i32;
            for y in [center[1] - radius + below_top, center[1] + radius - 1 - below_top] {
                self.span(y, center[0] - half, center[0] + half - 1, color);
            }
        }
    }

    /// A line four pixels thick along its minor axis (one before, two after the Bresenham pixel).
    pub(super) fn thick_line(&mut self, from: [i32; 2], to: [i32; 2], color: Rgb) {
        let [mut x, mut y] = from;
        let (dx, dy) = ((to[0] - x).abs(), (to[1] - y).abs());
        let (step_x, step_y) = ((to[0] - x).signum(), (to[1] - y).signum());
        let mut error = if dx > dy { dx / 2 } else { -dy / 2 };
        loop {
            if dx > dy {
                for row in y - 1..=y + 2 {
                    self.span(row, x, x, color);
                }
            } else {
                self.span(y, x - 1, x + 2, color);
            }
            if [x, y] == to {
                return;
            }
            let before = error;
            if before > -dx {
                error -= dy;
                x += step_x;
            }
            if before < dy {
                error += dx;
                y += step_y;
            }
        }
    }

    /// A hairline, blended with what lies below: the two nearest pixels across share the colour.
    pub(super) fn hairline(&mut self, from: [i32; 2], to: [i32; 2], color: Rgb) {
        let flat = (to[0] - from[0]).abs() >= (to[1] - from[1]).abs();
        let (along, across) = if flat { (0, 1) } else { (1, 0) };
        let (a, b) = if from[along] <= to[along] { (from, to) } else { (to, from) };
        let length = b[along] - a[along];
        // In f32, as pygame has it: whole-numbered mixtures are cut where it cuts them.
        let slope = (b[across] - a[across]) as f32 / length.max(1) as f32;
        for i in 0..=length {
            let rise = slope * i as f32;
            let share = rise - rise.floor();
            for (offset, weight) in [(0, 1.0 - share), (1, share)] {
                let mut point = [0; 2];
                point[along] = a[along] + i;
                point[across] = a[across] + rise.floor() as i32 + offset;
                self.blend(point, color, weight);
            }
        }
    }

    fn blend(&mut self, [x, y]: [i32; 2], color: Rgb, weight: f32) {
        let inside = (0..Self::SIZE).contains(&x) && (0..Self::SIZE).contains(&y);
        if weight <= 0.0 || !inside {
            return;
        }
        let start = ((y * Self::SIZE + x) * 3) as usize;
        for (below, above) in self.rgb[start..start + 3].iter_mut().zip(color) {
            *below = (f32::from(above) * weight + f32::from(*below) * (1.0 - weight)) as u8;
        }
    }

    /// `size`×`size` by bilinear interpolation between the four nearest pixels.
    pub(super) fn shrink(&self, size: u32) -> Frame {
        let taps: Vec<Tap> = (0..size).map(|i| Tap::new(i, size)).collect();
        let mut rgb = Vec::with_capacity((size * size * 3) as usize);
        for vertical in &taps {
            for horizontal in &taps {
                for channel in 0..3 {
                    let row = |y: usize| {
                        let at = |x: usize| {
                            u32::from(self.rgb[(y * Self::SIZE as usize + x) * 3 + channel])
                        };
                        at(horizontal.near) * horizontal.near_weight
                            + at(horizontal.far) * horizontal.far_weight
                    };
                    let near = ((row(vertical.near) >> 4) * vertical.near_weight) >> 16;
                    let far = ((row(vertical.far) >> 4) * vertical.far_weight) >> 16;
                    rgb.push(((near + far + 2) >> 2).min(255) as u8);
                }
            }
        }
        Frame { width: size, height: size, rgb }
    }
}

/// Two source pixels and their weights in 1/2048.
struct Tap {
    near: usize,
    far: usize,
    near_weight: u32,
    far_weight: u32,
}

impl Tap {
    fn new(index: u32, size: u32) -> Self {
        let last = f64::from(Surface::SIZE - 1);
        let scale = f64::from(Surface::SIZE) / f64::from(size);
        let source = ((f64::from(index) + 0.5) * scale - 0.5).clamp(0.0, last);
        let share = source - source.floor();
        Self {
            near: source as usize,
            far: (source as usize + 1).min(Surface::SIZE as usize - 1),
            near_weight: ((1.0 - share) * 2048.0).round_ties_even() as u32,
            far_weight: (share * 2048.0).round_ties_even() as u32,
        }
    }
}
