//! An action chunk: the next `horizon` actions that a policy answers to one observation.

use std::time::Duration;

/// An action chunk in memory of its own: `actions` is row-major f32 `[horizon, dim]` in robot units.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionChunk {
    /// The robot's run nonce, echoed from the observation.
    pub session: u64,
    /// Which life of the publisher this is: larger for a later start (Unix nanoseconds at start).
    pub epoch: u64,
    /// Counts the chunks of one epoch, from 1; 0 stands for "no chunk".
    pub seq: u64,
    /// Sequence number of the observation that this chunk answers.
    pub obs_seq: u64,
    /// The robot's tick of that observation; row i is the action of tick `obs_tick + i`.
    pub obs_tick: u64,
    /// Time from one row to the next, as the policy was trained; informative.
    pub dt: Duration,
    /// Values per action.
    pub dim: usize,
    /// Row-major f32 `[horizon, dim]`, robot units, increasing time.
    pub actions: Vec<f32>,
}

impl ActionChunk {
    /// Number of whole rows.
    pub fn horizon(&self) -> usize {
        self.actions.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Action of row `i` (`[dim]`), if the chunk has it.
    pub fn row(&self, i: usize) -> Option<&[f32]> {
        let start = i.checked_mul(self.dim)?;
        self.actions.get(start..start.checked_add(self.dim)?).filter(|row| !row.is_empty())
    }

    /// The borrowed form that [`Gate::offer`](super::Gate::offer) takes.
    pub fn view(&self) -> ChunkView<'_> {
        ChunkView {
            session: self.session,
            epoch: self.epoch,
            seq: self.seq,
            obs_seq: self.obs_seq,
            obs_tick: self.obs_tick,
            horizon: self.horizon(),
            dim: self.dim,
            values: Values::Host(&self.actions),
        }
    }
}

/// A chunk whose values lie in memory of somebody else: a slice of f32, or bytes just received.
#[derive(Clone, Copy, Debug)]
pub struct ChunkView<'a> {
    /// See [`ActionChunk::session`].
    pub session: u64,
    /// See [`ActionChunk::epoch`].
    pub epoch: u64,
    /// See [`ActionChunk::seq`].
    pub seq: u64,
    /// See [`ActionChunk::obs_seq`].
    pub obs_seq: u64,
    /// See [`ActionChunk::obs_tick`].
    pub obs_tick: u64,
    /// Declared number of rows.
    pub horizon: usize,
    /// Declared values per row.
    pub dim: usize,
    /// The values, row-major; the gate checks that there are `horizon * dim` of them.
    pub values: Values<'a>,
}

/// Borrowed f32 values.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// In this machine's own layout.
    Host(&'a [f32]),
    /// Little-endian bytes, four a value, as they came off the wire.
    LittleEndian(&'a [u8]),
}

impl<'a> Values<'a> {
    /// Number of whole values.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::LittleEndian(bytes) => bytes.as_chunks::<4>().0.len(),
        }
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in order; takes no memory.
    pub fn iter(&self) -> impl Iterator<Item = f32> + use<'a> {
        let (host, wire): (&[f32], &[[u8; 4]]) = match *self {
            Self::Host(values) => (values, &[]),
            Self::LittleEndian(bytes) => (&[], bytes.as_chunks::<4>().0),
        };
        host.iter().copied().chain(wire.iter().map(|b| f32::from_le_bytes(*b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_views_agree() {
        let actions: Vec<f32> = (0..6).map(|i| i as f32 - 2.5).collect();
        let wire: Vec<u8> = actions.iter().flat_map(|v| v.to_le_bytes()).collect();
        let chunk = ActionChunk {
            session: 1,
            epoch: 2,
            seq: 3,
            obs_seq: 4,
            obs_tick: 5,
            dt: Duration::from_millis(100),
            dim: 2,
            actions: actions.clone(),
        };
        assert_eq!(chunk.horizon(), 3);
        assert_eq!(chunk.row(2), Some(&actions[4..6]));
        assert_eq!(chunk.row(3), None);
        assert_eq!(chunk.row(usize::MAX), None);
        assert_eq!(chunk.view().values.iter().collect::<Vec<_>>(), actions);
        assert_eq!(Values::LittleEndian(&wire).iter().collect::<Vec<_>>(), actions);
        assert_eq!(Values::LittleEndian(&wire[..23]).len(), 5, "a cut value is no value");
    }

    #[test]
    fn a_chunk_without_dimensions_has_no_rows() {
        let chunk = ActionChunk {
            session: 0,
            epoch: 0,
            seq: 0,
            obs_seq: 0,
            obs_tick: 0,
            dt: Duration::ZERO,
            dim: 0,
            actions: vec![1.0],
        };
        assert_eq!((chunk.horizon(), chunk.row(0)), (0, None));
    }
}
