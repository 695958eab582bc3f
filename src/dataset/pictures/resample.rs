//! Pictures at another size.
//!
//! Smaller: every new pixel is the mean of the area that it covers, edge pixels in part ("box").
//! Larger: linear between the nearest two. Both as two passes, rows first. The means are of the stored
//! bytes, not of light (no gamma); captions and classes do not mind, and a training that resamples in
//! the same way sees the same pictures.

/// A picture in bytes, `height·width·channels`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raster {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) pixels: Vec<u8>,
}

impl Raster {
    /// The middle square, as large as the shorter edge.
    pub(super) fn middle_square(&self) -> Self {
        let edge = self.width.min(self.height);
        let (left, top) = ((self.width - edge) / 2, (self.height - edge) / 2);
        let mut pixels = Vec::with_capacity(edge * edge * self.channels);
        for y in top..top + edge {
            let start = (y * self.width + left) * self.channels;
            pixels.extend_from_slice(&self.pixels[start..start + edge * self.channels]);
        }
        Self { width: edge, height: edge, channels: self.channels, pixels }
    }

    /// The whole picture in the middle of a square of the longer edge, `paper` around it.
    pub(super) fn on_square(&self, edge: usize, paper: u8) -> Self {
        let edge = edge.max(self.width).max(self.height);
        let (left, top) = ((edge - self.width) / 2, (edge - self.height) / 2);
        let mut pixels = vec![paper; edge * edge * self.channels];
        let row_bytes = self.width * self.channels;
        for (y, row) in self.pixels.chunks_exact(row_bytes.max(1)).enumerate() {
            let start = ((top + y) * edge + left) * self.channels;
            pixels[start..start + row_bytes].copy_from_slice(row);
        }
        Self { width: edge, height: edge, channels: self.channels, pixels }
    }

    /// The picture at `size`×`size`.
    pub(super) fn resized(&self, size: usize) -> Self {
        let c = self.channels;
        let across = taps(self.width, size);
        let mut rows = vec![0f32; self.height * size * c];
        for (row, out) in
            self.pixels.chunks_exact(self.width * c).zip(rows.chunks_exact_mut(size * c))
        {
            for (tap, out) in across.iter().zip(out.chunks_exact_mut(c)) {
                for (pixel, weight) in row[tap.first * c..].chunks_exact(c).zip(&tap.weights) {
                    for (out, value) in out.iter_mut().zip(pixel) {
                        *out += weight * f32::from(*value);
                    }
                }
            }
        }
        let mut pixels = Vec::with_capacity(size * size * c);
        let mut sum = vec![0f32; size * c];
        for tap in taps(self.height, size) {
            sum.fill(0.0);
            let used = rows[tap.first * size * c..].chunks_exact(size * c);
            for (row, weight) in used.zip(&tap.weights) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            pixels.extend(sum.iter().map(|v| (v + 0.5).clamp(0.0, 255.0) as u8));
        }
        Self { width: size, height: size, channels: c, pixels }
    }

    /// One channel out of three: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); or grey repeated.
    pub(super) fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (3, 1) => {
                let grey = |p: &[u8]| {
                    let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
                    ((299 * r + 587 * g + 114 * b + 500) / 1000) as u8
                };
                self.pixels.chunks_exact(3).map(grey).collect()
            }
            (1, 3) => self.pixels.iter().flat_map(|v| [*v; 3]).collect(),
            _ => return self,
        };
        Self { channels, pixels, ..self }
    }
}

/// What one new pixel is made of: old pixels from `first` on.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

/// The weights of every new pixel along one axis; each sums to 1.
fn taps(old: usize, new: usize) -> Vec<Tap> {
    if new > old {
        return (0..new).map(|i| linear(old, new, i)).collect();
    }
    // In units of 1/new of an old pixel, so that all edges are whole numbers.
    (0..new)
        .map(|i| {
            let (from, to) = (i * old, (i + 1) * old);
            let (first, end) = (from / new, to.div_ceil(new));
            let share = |pixel: usize| {
                let overlap = to.min((pixel + 1) * new) - from.max(pixel * new);
                overlap as f32 / old as f32
            };
            Tap { first, weights: (first..end).map(share).collect() }
        })
        .collect()
}

fn linear(old: usize, new: usize, index: usize) -> Tap {
    let last = (old - 1) as f64;
    let at = ((index as f64 + 0.5) * old as f64 / new as f64 - 0.5).clamp(0.0, last);
    let share = (at - at.floor()) as f32;
    let weights = if share > 0.0 { vec![1.0 - share, share] } else { vec![1.0] };
    Tap { first: at as usize, weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(width: usize, height: usize, pixels: Vec<u8>) -> Raster {
        Raster { width, height, channels: 1, pixels }
    }

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (old, new) in [(136, 64), (136, 32), (5, 5), (7, 3), (3, 7), (1, 4), (4, 1)] {
            for tap in taps(old, new) {
                let sum: f32 = tap.weights.iter().sum();
                assert!((sum - 1.0).abs() < 1e-6, "{old} to {new}: {sum}");
                assert!(tap.first + tap.weights.len() <= old, "{old} to {new}");
            }
        }
    }

    #[test]
    fn areas_are_means_and_the_same_size_is_the_same_picture() {
        let four = raster(4, 4, (0..16).map(|i| i * 10).collect());
        // Means of the four quarters: (0+10+40+50)/4 and so on.
        assert_eq!(four.resized(2).pixels, [25, 45, 105, 125]);
        assert_eq!(four.resized(4), four);
        // Three to two: one and a half pixels each.
        assert_eq!(raster(3, 3, [[0, 90, 30]; 3].concat()).resized(2).pixels, [30, 50, 30, 50]);
        let flat = raster(9, 5, vec![77; 45]);
        assert!(flat.resized(6).pixels.iter().all(|v| *v == 77));
        assert_eq!(raster(2, 1, vec![0, 100]).resized(4).pixels[..4], [0, 25, 75, 100]);
    }

    #[test]
    fn squares_are_cut_from_the_middle_and_padded_around_it() {
        let wide = raster(4, 2, vec![1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(wide.middle_square().pixels, [2, 3, 6, 7]);
        let padded = wide.on_square(4, 9);
        assert_eq!(padded.pixels[..4], [9; 4]);
        assert_eq!(padded.pixels[4..8], [1, 2, 3, 4]);
        let white = Raster { channels: 3, pixels: vec![255; 24], ..wide };
        assert_eq!(white.with_channels(1).pixels, [255; 8]);
    }
}
