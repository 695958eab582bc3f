//! The one place that reads the wall clock, and the one that draws random identities.
//!
//! Wall-clock stamps go into headers, attachments and recordings for people and tools.
//! Nothing that decides what a robot does reads them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch, for stamps only.
#[expect(clippy::disallowed_methods, reason = "wire stamps and recordings carry wall-clock time")]
pub(crate) fn wall_nanos() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
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
