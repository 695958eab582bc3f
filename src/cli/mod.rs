//! One file a subcommand.

pub(crate) mod demos;
pub(crate) mod eval;
pub(crate) mod gif;
pub(crate) mod train;
