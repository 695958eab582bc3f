//! One file a subcommand.
pub(crate) mod eval;
pub(crate) mod gif;
pub(crate) mod train;
pub(crate) mod demos;
