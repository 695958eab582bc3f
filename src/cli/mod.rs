//! One file a subcommand; the rest are what several of them share.

pub(crate) mod bench;
pub(crate) mod demos;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod gif;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod machine;
pub(crate) mod train;
