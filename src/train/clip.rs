//! Gradient clipping.

/// What is done to a gradient that is too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Nothing.
    None,
    /// All of it is scaled so that its norm is at most this.
    Norm(f64),
    /// Every element is cut to at most this, either way.
    Value(f64),
}

impl Clip {
    /// Clips the gradient, which lies in several tensors and has `norm` as a whole.
    pub(super) fn apply(self, grads: &mut [Vec<f32>], norm: f64) {
        let elements = grads.iter_mut().flatten();
        match self {
            Self::None => {}
            Self::Norm(largest) => {
                let factor = (largest / norm.max(1e-12)).min(1.0) as f32;
                elements.for_each(|g| *g *= factor);
            }
            Self::Value(largest) => {
                let largest = largest as f32;
                elements.for_each(|g| *g = g.clamp(-largest, largest));
            }
        }
    }
}
