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
    /// A time grid that no sampler can walk: empty, not finite, or not in one direction.
    #[error("time grid: expected {expected}, got {got}")]
    Grid {
        /// What a grid must be here.
        expected: String,
        /// The grid, or the points of it that are wrong.
        got: String,
    },
    /// A time outside the path.
    #[error("time: expected a time of the path, from {from} to {to}, got {got}")]
    Time {
        /// The time.
        got: f64,
        /// The earlier end of the path.
        from: f64,
        /// The later end of the path.
        to: f64,
    },
    /// A number that is outside its range.
    #[error("{what}: expected {expected}, got {got}")]
    Range {
        /// Name of the number.
        what: String,
        /// Its range, in words.
        expected: String,
        /// The number.
        got: f64,
    },
    /// Tensors whose shapes do not fit each other.
    #[error("{what}: expected shape {expected}, got {got}")]
    Shape {
        /// Name of the tensor.
        what: String,
        /// What fits.
        expected: String,
        /// What came.
        got: String,
    },
    /// A name that stands for nothing.
    #[error("{what}: expected one of {expected}, got {got:?}")]
    Unknown {
        /// What the name is of: a schedule, a solver.
        what: String,
        /// The known names.
        expected: String,
        /// The name.
        got: String,
    },
    /// The network returned a number that is not finite.
    #[error(
        "sampling: expected finite numbers from the network, got {got} at step {step}, t = {t}; \
         check the input and the checkpoint for values that are not finite"
    )]
    NotFinite {
        /// The sum of the tensor: NaN or an infinity.
        got: f64,
        /// Index of the step, from 0.
        step: usize,
        /// The path's own time of the evaluation.
        t: f64,
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

    /// A configuration error that names its file. The message may quote the file: control characters
    /// other than line feeds are escaped, since a terminal would obey them.
    pub fn config(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        let obeyed = |c: char| c.is_control() && c != '\n';
        let mut message = message.into();
        if message.contains(obeyed) {
            let escaped = message.chars().map(|c| match c {
                c if obeyed(c) => c.escape_default().to_string(),
                c => c.to_string(),
            });
            message = escaped.collect();
        }
        Self::Config { path: path.into(), message }
    }

    /// A number outside its range.
    pub fn range(what: impl Into<String>, expected: impl Into<String>, got: f64) -> Self {
        Self::Range { what: what.into(), expected: expected.into(), got }
    }

    /// A tensor of a shape that does not fit.
    pub fn shape(
        what: impl Into<String>,
        expected: impl std::fmt::Debug,
        got: impl std::fmt::Debug,
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: format!("{expected:?}"),
            got: format!("{got:?}"),
        }
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
