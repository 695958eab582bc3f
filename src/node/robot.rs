//! What a robot is, to the gate and to the bus.

use std::path::Path;
use std::time::Duration;

use super::choice::JoinChoice;
use crate::Result;
use crate::action::{RobotFile, Source};
use crate::wire::{Congestion, Role};

/// Keys, limits, ways.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotConfig {
    /// Robot id, the second chunk of every key.
    pub robot: String,
    /// `Sim` or `Executor`.
    pub role: Role,
    /// Rates, deadlines and limits; PushT's agent's if absent (sim/robots/pusht.toml).
    pub file: Option<RobotFile>,
    /// How chunks are joined where it is not as the policy says.
    pub joining: JoinChoice,
    /// Time that a chunk is held back after it came, to see what a slow policy does.
    pub delay: Delay,
    /// What happens to an observation when the link is full. `Drop` for a robot: nothing may stall
    /// its loop. `Block` for a simulator in lockstep: nothing may be lost, and it has time.
    pub congestion: Congestion,
    /// The task in words; may be empty.
    pub task: String,
}

impl RobotConfig {
    /// PushT's agent.
    pub fn pusht() -> Self {
        Self {
            robot: "pusht".to_owned(),
            role: Role::Sim,
            file: None,
            joining: JoinChoice::default(),
            delay: Delay::None,
            congestion: Congestion::Drop,
            task: "push the T onto the goal".to_owned(),
        }
    }
}

/// The robot file of PushT's agent.
///
/// # Errors
/// Never: it is part of the program, and a test reads it.
pub(crate) fn pusht_file() -> Result<RobotFile> {
    let text = include_str!("../../sim/robots/pusht.toml");
    RobotFile::parse(text, Path::new("sim/robots/pusht.toml"))
}

/// A delay of chunks, on top of what the policy takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delay {
    /// None.
    #[default]
    None,
    /// So many ticks after the observation, at least: for a simulator that waits for its policy.
    Ticks(u64),
    /// So long after it came.
    Wall(Duration),
}

/// What the robot did at one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Commanded {
    /// The tick.
    pub tick: u64,
    /// `[dim]`, robot units.
    pub action: Vec<f32>,
    /// Row of a chunk, or hold.
    pub source: Source,
}

impl Commanded {
    /// Whether the robot held its last command for want of a valid chunk.
    pub fn is_hold(&self) -> bool {
        matches!(self.source, Source::Hold)
    }
}
