//! What goes over the bus: messages, their bytes, and the keys they travel on. Knows no zenoh.
//!
//! One encoding for zenoh, ROS 2 and MCAP recordings: CDR little-endian (XCDR1) of the `.msg` files
//! in `src/wire/msg`. A reader takes bytes after the last field, so that fields can be appended; any
//! other change of a message gets a new name. Every length is checked before memory is taken for it.
//!
//! ```
//! use pathline::wire::{Keys, Observation};
//! let keys = Keys::new("pusht")?;
//! assert_eq!(keys.observation(), "pathline/pusht/obs");
//! let sent = Observation { seq: 1, state: vec![256.0, 400.0], ..Observation::default() };
//! let bytes = sent.encode()?;
//! assert_eq!(Observation::decode(&bytes)?, sent);
//! # Ok::<(), pathline::Error>(())
//! ```

mod attachment;
mod cdr;
mod chunk;
mod keys;
mod messages;
mod qos;
mod schema;

pub use attachment::{ATTACHMENT_BYTES, Attachment, gid};
pub use chunk::{ActionChunkMsg, Flags, offer};
pub use keys::{Keys, Role};
pub use messages::{Action, Asks, CameraImage, Header, Observation, Time};
pub use qos::{Congestion, Priority, Qos};
pub use schema::{ACTION, ACTION_CHUNK, OBSERVATION, Schema, schema};

/// Most bytes of a message; longer ones are refused before they are looked at.
pub const MAX_FRAME: usize = 64 << 20;
/// Most bytes of one picture.
pub const MAX_IMAGE: usize = 32 << 20;
/// Most pictures of an observation.
pub const MAX_IMAGES: usize = 16;
/// Most bytes of a string.
pub const MAX_STRING: usize = 4096;
