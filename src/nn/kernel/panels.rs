//! A weight in the order in which the product reads it, in one of three precisions.
//!
//! `[block of k][panel of outputs][k][16]`: a thread that walks over the panels of a block reads memory
//! from front to back. Outputs beyond the last are zeros. `bf16` keeps the upper half of each number,
//! rounded to even; `int8` keeps round(127·w/max) with one scale per output, max taken over its inputs
//! (symmetric, per channel: Jacob et al. 2018). Both are widened to f32, a panel at a time, and computed
//! with in f32; the scale comes to the sums.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::tile::Ahead;

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;
/// Most of k in a block: with six rows it leaves most of a first-level cache free.
const BLOCK: usize = 128;

/// How a weight is kept in memory; computation is f32 with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As in the checkpoint.
    #[default]
    F32,
    /// The upper half: 8 bits of fraction.
    Bf16,
    /// 8 bits and a scale per output.
    Int8,
}

/// Where in a slice number (output, tap, channel) of a weight lies.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct Layout {
    pub(in crate::nn) outputs: usize,
    pub(in crate::nn) taps: usize,
    pub(in crate::nn) channels: usize,
    /// Of the first number.
    pub(in crate::nn) start: usize,
    /// From one output, tap and channel to the next.
    pub(in crate::nn) strides: [isize; 3],
}

impl Layout {
    /// `[outputs, inputs]` as a checkpoint has it.
    pub(in crate::nn) fn matrix(outputs: usize, inputs: usize) -> Self {
        let strides = [inputs as isize, 0, 1];
        Self { outputs, taps: 1, channels: inputs, start: 0, strides }
    }

    /// `[inputs, outputs]`, with `stride` numbers from one input to the next.
    pub(in crate::nn) fn transposed(inputs: usize, outputs: usize, stride: usize) -> Self {
        Self { outputs, taps: 1, channels: inputs, start: 0, strides: [1, 0, stride as isize] }
    }

    /// `[outputs, channels, taps]`: a convolution.
    pub(in crate::nn) fn convolution(outputs: usize, channels: usize, taps: usize) -> Self {
        let strides = [(channels * taps) as isize, 1, taps as isize];
        Self { outputs, taps, channels, start: 0, strides }
    }

    /// The same weight on the way back, for its gradient: its outputs come in, its taps in reverse.
    pub(in crate::nn) fn reversed(outputs: usize, channels: usize, taps: usize) -> Self {
        let strides = [taps as isize, -1, (channels * taps) as isize];
        Self { outputs: channels, taps, channels: outputs, start: taps.saturating_sub(1), strides }
    }

    fn at(&self, output: usize, tap: usize, channel: usize) -> usize {
        let [per_output, per_tap, per_channel] = self.strides;
        let moved =
            output as isize * per_output + tap as isize * per_tap + channel as isize * per_channel;
        self.start.wrapping_add_signed(moved)
    }

    fn inputs(&self) -> usize {
        self.taps * self.channels
    }

    /// First numbers of the blocks of k, counted tap by tap, and the end: parts of one tap, or whole taps.
    fn blocks(&self) -> Vec<usize> {
        let (taps, channels) = (self.taps, self.channels);
        let mut starts: Vec<usize> = if channels > BLOCK {
            let parts = channels.div_ceil(BLOCK);
            let within =
                move |tap: usize| (0..parts).map(move |i| tap * channels + i * channels / parts);
            (0..taps).flat_map(within).collect()
        } else {
            let together = BLOCK / channels.max(1);
            (0..taps).step_by(together.max(1)).map(|tap| tap * channels).collect()
        };
        starts.push(self.inputs());
        starts
    }
}

#[derive(Clone, Debug)]
enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Int8(Vec<i8>, Vec<f32>),
}

/// A packed weight.
#[derive(Clone, Debug)]
pub(in crate::nn) struct Panels {
    numbers: Numbers,
    blocks: Vec<usize>,
    outputs: usize,
    channels: usize,
}

impl Panels {
    /// Packs the weight that lies in `from` as `layout` says.
    pub(in crate::nn) fn pack(from: &[f32], layout: Layout, storage: Storage) -> Self {
        let blocks = layout.blocks();
        let panels = layout.outputs.div_ceil(PANEL);
        let total = panels * PANEL * layout.inputs();
        let numbers = match storage {
            Storage::F32 => {
                let mut to = vec![0f32; total];
                fill(&mut to, from, layout, &blocks, |w, _| w);
                Numbers::F32(to)
            }
            Storage::Bf16 => {
                let mut to = vec![0u16; total];
                fill(&mut to, from, layout, &blocks, |w, _| bf16(w));
                Numbers::Bf16(to)
            }
            Storage::Int8 => {
                let mut largest = largest(from, layout);
                largest.resize(panels * PANEL, 0.0);
                let mut to = vec![0i8; total];
                fill(&mut to, from, layout, &blocks, |w, output| match largest[output] {
                    0.0 => 0,
                    max => (w / max * 127.0).round() as i8,
                });
                Numbers::Int8(to, largest.into_iter().map(|max| max / 127.0).collect())
            }
        };
        Self { numbers, blocks, outputs: layout.outputs, channels: layout.channels }
    }

    pub(in crate::nn) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(in crate::nn) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    pub(in crate::nn) fn inputs(&self) -> usize {
        self.blocks.last().copied().unwrap_or(0)
    }

    /// Inputs of each tap.
    pub(in crate::nn) fn channels(&self) -> usize {
        self.channels
    }

    /// Bytes of the numbers, which a product reads once.
    pub(in crate::nn) fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::F32(all) => 4 * all.len(),
            Numbers::Bf16(all) => 2 * all.len(),
            Numbers::Int8(all, scales) => all.len() + 4 * scales.len(),
        }
    }

    /// The ranges of k of the blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.blocks.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// The panels `panels` of the block `k`, and what follows in memory (to be fetched ahead); in f32, with
    /// `buffer` where that has to be made.
    #[inline(always)]
    pub(super) fn part<'a>(
        &'a self,
        k: &std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        buffer: &'a mut Vec<f32>,
    ) -> (&'a [f32], Ahead) {
        let at = |panel: usize| k.start * self.panels() * PANEL + panel * k.len() * PANEL;
        let range = at(panels.start)..at(panels.end);
        match &self.numbers {
            Numbers::F32(all) => {
                let after = &all[range.end..];
                (&all[range.clone()], Ahead::of(&after[..after.len().min(range.len())]))
            }
            Numbers::Bf16(all) => {
                buffer.resize(range.len(), 0.0);
                widen(&all[range.clone()], buffer, |half| f32::from_bits(u32::from(half) << 16));
                let after = &all[range.end..];
                (buffer, Ahead::of(&after[..after.len().min(range.len())]))
            }
            Numbers::Int8(all, _) => {
                buffer.resize(range.len(), 0.0);
                widen(&all[range.clone()], buffer, f32::from);
                let after = &all[range.end..];
                (buffer, Ahead::of(&after[..after.len().min(range.len())]))
            }
        }
    }

    /// What the sums of a panel's outputs must be multiplied by, if that is not 1.
    #[inline(always)]
    pub(super) fn scales(&self, panel: usize) -> Option<&[f32; PANEL]> {
        match &self.numbers {
            Numbers::Int8(_, scales) => scales.as_chunks().0.get(panel),
            _ => None,
        }
    }

    /// The weight `[outputs, inputs]`, its inputs tap by tap, as it is computed with.
    pub(in crate::nn) fn unpacked(&self) -> Vec<f32> {
        let (n, inputs) = (self.outputs, self.inputs());
        let mut out = vec![0f32; n * inputs];
        let mut buffer = Vec::new();
        for k in self.blocks() {
            for panel in 0..self.panels() {
                let (part, _) = self.part(&k, panel..panel + 1, &mut buffer);
                let scales = self.scales(panel).unwrap_or(&[1.0; PANEL]);
                for (i, line) in k.clone().zip(part.chunks_exact(PANEL)) {
                    for ((output, w), scale) in (panel * PANEL..n).zip(line).zip(scales) {
                        out[output * inputs + i] = w * scale;
                    }
                }
            }
        }
        out
    }
}

/// One flat loop: of that the compiler makes whole vectors, of lines of sixteen single numbers.
#[inline(always)]
fn widen<T: Copy>(from: &[T], to: &mut [f32], number: impl Fn(T) -> f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = number(*from);
    }
}

/// Rounded to the nearest, halves to even; not a number stays so.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The largest magnitude of each output.
fn largest(from: &[f32], layout: Layout) -> Vec<f32> {
    let of = |output: usize| {
        let inputs = (0..layout.taps).flat_map(|tap| (0..layout.channels).map(move |c| (tap, c)));
        inputs.map(|(tap, c)| from[layout.at(output, tap, c)].abs()).fold(0.0, f32::max)
    };
    (0..layout.outputs).into_par_iter().map(of).collect()
}

/// Puts every number to its place; `store(number, output)` is what is kept of it.
fn fill<T: Send>(
    to: &mut [T],
    from: &[f32],
    layout: Layout,
    blocks: &[usize],
    store: impl Fn(f32, usize) -> T + Sync,
) {
    let per_output = layout.strides[0];
    let panels = layout.outputs.div_ceil(PANEL);
    let one = |(k, first, to): (std::ops::Range<usize>, usize, &mut [T])| {
        // Some panels of one block.
        for (panel, to) in (first..).zip(to.chunks_exact_mut(k.len() * PANEL)) {
            let outputs = panel * PANEL..layout.outputs.min((panel + 1) * PANEL);
            let (mut tap, mut channel) = (k.start / layout.channels, k.start % layout.channels);
            for to in to.chunks_exact_mut(PANEL) {
                let first = layout.at(outputs.start, tap, channel);
                if per_output == 1 {
                    let from = &from[first..first + outputs.len()];
                    for ((to, w), output) in to.iter_mut().zip(from).zip(outputs.clone()) {
                        *to = store(*w, output);
                    }
                } else {
                    for (i, to) in to.iter_mut().take(outputs.len()).enumerate() {
                        let at = first.wrapping_add_signed(i as isize * per_output);
                        *to = store(from[at], outputs.start + i);
                    }
                }
                channel += 1;
                if channel == layout.channels {
                    (tap, channel) = (tap + 1, 0);
                }
            }
        }
    };
    if to.is_empty() {
        return;
    }
    let mut pieces = Vec::new();
    let mut rest = to;
    for ends in blocks.windows(2) {
        let k = ends[0]..ends[1];
        let (mut block, after) = rest.split_at_mut(panels * PANEL * k.len());
        rest = after;
        let mut first = 0;
        // Pieces of some 100 thousand numbers.
        let each = (1 << 17) / (k.len() * PANEL).max(1) + 1;
        while !block.is_empty() {
            let count = each.min(panels - first);
            let (piece, after) = block.split_at_mut(count * PANEL * k.len());
            pieces.push((k.clone(), first, piece));
            (block, first) = (after, first + count);
        }
    }
    if from.len() < 1 << 16 || rayon::current_num_threads() == 1 {
        pieces.into_iter().for_each(one);
    } else {
        pieces.into_par_iter().for_each(one);
    }
}
