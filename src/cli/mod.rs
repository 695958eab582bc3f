//! One file a subcommand; the rest are what several of them share.

pub(crate) mod bench;
pub(crate) mod bus;
pub(crate) mod demo;
pub(crate) mod demos;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod gif;
pub(crate) mod infer;
pub(crate) mod inspect;
mod inspect_picture;
pub(crate) mod interrupt;
mod join;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod pictures;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod sim;
pub(crate) mod study;
pub(crate) mod threads;
pub(crate) mod train;
