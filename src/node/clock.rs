//! Wall-clock stamps and random names. Nothing that decides what a robot does reads them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::wire::Time;

/// Nanoseconds since the Unix epoch, for stamps only.
pub(crate) fn wall_nanos() -> i64 {
    Time::now().as_ns()
}

/// A random non-zero number that names one run; two runs never share it in practice.
///
/// The standard library seeds its hasher from the operating system; that is all the randomness
/// a name needs.
pub(crate) fn draw_nonce() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i64(wall_nanos());
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}
