//! The 33 bytes that rmw_zenoh attaches to every sample: i64 sequence number, i64 source time in
//! Unix nanoseconds, both little-endian, the length 16 as one byte, 16 bytes that name the publisher.

use crate::{Error, Result};

/// Bytes of an attachment.
pub const ATTACHMENT_BYTES: usize = 33;

/// Who sent a sample, when, and as which of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Counts the samples of one publisher, from 1: a gap is a loss.
    pub seq: i64,
    /// When it was sent, Unix nanoseconds; informative.
    pub source_time_ns: i64,
    /// Names the publisher; opaque.
    pub gid: [u8; 16],
}

impl Attachment {
    /// The bytes.
    pub fn encode(&self) -> [u8; ATTACHMENT_BYTES] {
        let mut bytes = [0; ATTACHMENT_BYTES];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.source_time_ns.to_le_bytes());
        bytes[16] = 16;
        bytes[17..].copy_from_slice(&self.gid);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Wire`] unless there are exactly 33 bytes and the 17th is 16.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let parts = bytes.split_first_chunk::<8>().and_then(|(seq, rest)| {
            let (time, rest) = rest.split_first_chunk::<8>()?;
            let (length, gid) = rest.split_first()?;
            Some((seq, time, *length, <[u8; 16]>::try_from(gid).ok()?))
        });
        let Some((seq, time, 16, gid)) = parts else {
            return Err(Error::Wire(format!(
                "attachment: expected 33 bytes with 16 as the 17th, got {} bytes",
                bytes.len()
            )));
        };
        let (seq, source_time_ns) = (i64::from_le_bytes(*seq), i64::from_le_bytes(*time));
        Ok(Self { seq, source_time_ns, gid })
    }
}

/// A publisher's name from its session's zenoh id and its number within the session: distinct for
/// distinct numbers of one session.
pub fn gid(zid: [u8; 16], publisher: u32) -> [u8; 16] {
    let mut gid = zid;
    for (byte, number) in gid.iter_mut().zip(publisher.to_le_bytes()) {
        *byte ^= number;
    }
    gid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_where_rmw_zenoh_puts_them() {
        let gid: [u8; 16] = std::array::from_fn(|i| 0xa0 + i as u8);
        let sent = Attachment { seq: 0x0102, source_time_ns: -2, gid };
        let bytes = sent.encode();
        assert_eq!(bytes[..8], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [0xfe, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!((bytes[16], &bytes[17..]), (0x10, &gid[..]));
        assert_eq!(Attachment::decode(&bytes).unwrap(), sent);
    }

    #[test]
    fn anything_else_is_refused() {
        let bytes = Attachment { seq: 1, source_time_ns: 2, gid: [3; 16] }.encode();
        for n in 0..bytes.len() {
            assert!(Attachment::decode(&bytes[..n]).is_err(), "{n} bytes");
        }
        assert!(Attachment::decode(&[&bytes[..], &[0]].concat()).is_err());
        let mut wrong = bytes;
        wrong[16] = 15;
        assert!(Attachment::decode(&wrong).is_err());
    }

    #[test]
    fn publishers_of_a_session_have_names_of_their_own() {
        let zid = [9; 16];
        assert_ne!(gid(zid, 1), gid(zid, 2));
        assert_ne!(gid(zid, 1), gid([8; 16], 1));
        assert_eq!(gid(zid, 0), zid);
    }
}
