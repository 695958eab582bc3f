//! Passes over a set: every element once an epoch, in an order that seed and epoch give.

use crate::flow::Noise;

/// The order of one run.
pub(super) struct Epochs {
    noise: Noise,
    /// Draw number of the first epoch's order; the epochs follow.
    first: u64,
    size: usize,
    current: Option<(u64, Vec<u32>)>,
}

impl Epochs {
    /// Over `size` elements, of which there must be one.
    pub(super) fn new(noise: Noise, first: u64, size: usize) -> Self {
        Self { noise, first, size, current: None }
    }

    /// The element that is number `global` of the run; cheap within an epoch.
    pub(super) fn at(&mut self, global: u64) -> usize {
        let (epoch, position) = (global / self.size as u64, (global % self.size as u64) as usize);
        match &self.current {
            Some((current, order)) if *current == epoch => order[position] as usize,
            _ => {
                let order = self.noise.permutation(self.first + epoch, self.size);
                let element = order[position] as usize;
                self.current = Some((epoch, order));
                element
            }
        }
    }
}
