//! How each key is published. Plain data: the node turns it into zenoh's own types.
//!
//! `Block` stalls the caller for seconds and then closes the transport, so only the simulator's
//! clock uses it, and only in lockstep.

/// Order among messages that wait; zenoh's names and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// First.
    RealTime = 1,
    /// Interactive, high.
    InteractiveHigh = 2,
    /// Interactive, low.
    InteractiveLow = 3,
    /// Data, high.
    DataHigh = 4,
    /// zenoh's default.
    Data = 5,
    /// Data, low.
    DataLow = 6,
    /// Last.
    Background = 7,
}

/// What happens to a message when the link is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// It is lost.
    Drop,
    /// The publisher waits.
    Block,
}

/// How a key is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qos {
    /// Order among messages that wait.
    pub priority: Priority,
    /// When the link is full.
    pub congestion: Congestion,
    /// True: sent at once, without waiting for others to share a batch.
    pub express: bool,
}

const fn dropped(priority: Priority, express: bool) -> Qos {
    Qos { priority, congestion: Congestion::Drop, express }
}

impl Qos {
    /// `…/obs/image/<cam>`.
    pub const IMAGE: Self = dropped(Priority::Data, false);
    /// `…/cmd/chunk`.
    pub const CHUNK: Self = dropped(Priority::InteractiveHigh, true);
    /// `…/cmd/action`.
    pub const ACTION: Self = dropped(Priority::RealTime, true);
    /// `…/estop`: repeated until seen, never blocked.
    pub const ESTOP: Self = dropped(Priority::RealTime, true);
    /// `…/policy/status`.
    pub const STATUS: Self = dropped(Priority::Background, false);
    /// `…/sim/state`.
    pub const SIM_STATE: Self = dropped(Priority::DataLow, false);
    /// `…/sim/clock` in lockstep.
    pub const LOCKSTEP: Self =
        Self { priority: Priority::DataHigh, congestion: Congestion::Block, express: true };

    /// `…/obs` with a payload of `len` bytes: at once if it fits one batch (64 KiB).
    pub const fn observation(len: usize) -> Self {
        dropped(Priority::DataHigh, len < 1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lockstep_blocks_and_only_small_observations_are_express() {
        let periodic = [Qos::IMAGE, Qos::CHUNK, Qos::ACTION, Qos::ESTOP, Qos::STATUS];
        assert!(periodic.iter().all(|q| q.congestion == Congestion::Drop));
        assert!(Qos::observation(65_535).express && !Qos::observation(65_536).express);
        assert!(Qos::ESTOP.priority < Qos::CHUNK.priority);
        assert!(Qos::CHUNK.priority < Qos::observation(0).priority);
    }
}
