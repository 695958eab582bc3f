//! One file a subcommand.
pub(crate) mod train;
pub(crate) mod eval;
