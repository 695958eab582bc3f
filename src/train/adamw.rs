//! The update rule AdamW.
//!
//! `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
//! `w ← (1 − lr·decay)·w − lr·m̂/(√v̂ + eps)` with `m̂ = m/(1 − β₁ⁿ)` and `v̂ = v/(1 − β₂ⁿ)`.
//! Source: Loshchilov, Hutter 2019, algorithm 2.

/// The two moments of one parameter.
#[derive(Clone)]
pub(super) struct Moments {
    pub(super) m: Vec<f32>,
    pub(super) v: Vec<f32>,
}

impl Moments {
    pub(super) fn zeros(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n] }
    }
}

/// The constants of one update.
pub(super) struct Rule {
    b1: f32,
    b2: f32,
    step_size: f32,
    root: f32,
    eps: f32,
}

impl Rule {
    /// Update `n`, the first of which is 1, with learning rate `lr`.
    pub(super) fn new(n: usize, lr: f64, [b1, b2]: [f64; 2], eps: f64) -> Self {
        let n = n as f64;
        let (c1, c2) = (1.0 - b1.powf(n), 1.0 - b2.powf(n));
        Self {
            b1: b1 as f32,
            b2: b2 as f32,
            step_size: (lr / c1) as f32,
            root: (1.0 / c2.sqrt()) as f32,
            eps: eps as f32,
        }
    }

    /// Moves `weights` against `grad`, after multiplying them by `keep` (1 − lr·decay).
    pub(super) fn apply(
        &self,
        weights: &mut [f32],
        grad: &[f32],
        moments: &mut Moments,
        keep: f32,
    ) {
        let moments = moments.m.iter_mut().zip(&mut moments.v);
        for ((w, &g), (m, v)) in weights.iter_mut().zip(grad).zip(moments) {
            *m = self.b1 * *m + (1.0 - self.b1) * g;
            *v = self.b2 * *v + (1.0 - self.b2) * g * g;
            *w = keep * *w - self.step_size * *m / (v.sqrt() * self.root + self.eps);
        }
    }
}
