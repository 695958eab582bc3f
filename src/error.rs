//! The one error of the library: what was expected, what came, where, and what to do next.

use std::path::PathBuf;

/// Everything that can go wrong in the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration file, recipe or flag holds a value that cannot be used.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file, or the flag's name.
        path: PathBuf,
        /// Which key, what was expected, what came.
        message: String,
    },
    /// A checkpoint does not fit the network that its config.json describes.
    #[error("checkpoint: {key}: expected {expected}, got {got}")]
    Checkpoint {
        /// Name of the tensor or file.
        key: String,
        /// What the configuration asks for.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// Bytes from the wire are not the message that they claim to be.
    #[error("wire: {0}")]
    Wire(String),
    /// A well-formed input that must not be used: not finite, out of limits, stale, from a stranger.
    #[error("rejected: {reason}")]
    Rejected {
        /// Why.
        reason: String,
    },
    /// An argument that no computation can be done with.
    #[error("{0}")]
    Invalid(String),
    /// The zenoh session failed.
    #[error("zenoh: {0}")]
    Bus(String),
    /// A tensor operation failed.
    #[cfg(feature = "nn")]
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An I/O error that names its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A configuration error that names its file.
    pub fn config(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Config { path: path.into(), message: message.into() }
    }

    /// A checkpoint error that names the tensor.
    pub fn checkpoint(
        key: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Checkpoint { key: key.into(), expected: expected.into(), got: got.into() }
    }
}

/// `std::result::Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
