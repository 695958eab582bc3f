//! Sines that say where a pixel of a feature map is.
//!
//! Row y = 1..=H and column x = 1..=W become `2π·y/(H + 1e-6)` and `2π·x/(W + 1e-6)`. Each is divided by
//! `10000^(2⌊j/2⌋/D)` for j < D, half of the channels; even j give a sine, odd ones a cosine. Rows fill
//! the first half of the channels. Every step is rounded to f32, as in LeRobot
//! `policies/act/modeling_act.py`, `ACTSinusoidalPositionEmbedding2d` (0.4.4).

/// Embeddings `[h·w, dim]` of a map `[h, w]`, row-major; `dim` is a multiple of 4.
pub(super) fn sinusoidal_2d([height, width]: [usize; 2], dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let periods: Vec<f32> = (0..half)
        .map(|j| {
            let exponent = (2 * (j / 2)) as f32 / half as f32;
            10_000f64.powf(f64::from(exponent)) as f32
        })
        .collect();
    let axis = |count: usize| -> Vec<f32> {
        let last = count as f32 + 1e-6;
        (1..=count)
            .flat_map(|i| {
                let angle = i as f32 / last * std::f32::consts::TAU;
                periods.iter().enumerate().map(move |(j, period)| {
                    let angle = f64::from(angle / period);
                    (if j % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
                })
            })
            .collect()
    };
    let (rows, columns) = (axis(height), axis(width));
    let mut out = Vec::with_capacity(height * width * dim);
    for row in rows.chunks_exact(half.max(1)) {
        for column in columns.chunks_exact(half.max(1)) {
            out.extend_from_slice(row);
            out.extend_from_slice(column);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_first_half_and_end_at_a_full_turn() {
        let (dim, height, width) = (8, 3, 2);
        let all = sinusoidal_2d([height, width], dim);
        assert_eq!(all.len(), height * width * dim);
        let pixel = |y: usize, x: usize| &all[(y * width + x) * dim..][..dim];
        // Channels 0 and 1 of each half have period 1: sine and cosine of the angle itself.
        let angle = std::f32::consts::TAU / 3.0;
        assert!((pixel(0, 1)[0] - angle.sin()).abs() < 1e-6);
        assert!((pixel(0, 1)[1] - angle.cos()).abs() < 1e-6);
        assert!(pixel(2, 0)[0].abs() < 1e-5 && (pixel(2, 0)[1] - 1.0).abs() < 1e-6);
        assert!(pixel(0, 0)[4].abs() < 1e-5 && (pixel(0, 0)[5] + 1.0).abs() < 1e-6);
        assert_eq!(pixel(1, 0)[..4], pixel(1, 1)[..4]);
        assert_eq!(pixel(0, 1)[4..], pixel(2, 1)[4..]);
    }
}
