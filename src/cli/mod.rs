//! The command line's parts.

pub mod gif;
