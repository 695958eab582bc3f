//! CDR little-endian (XCDR1), the few types that the messages need, bounded.
//!
//! A message is the four bytes `00 01 00 00` and a body. A number of n bytes starts at a multiple of
//! n, counted from the start of the body. A string is a u32 length that counts its closing NUL, the
//! bytes, the NUL; a sequence is a u32 length and its elements (OMG DDSI-RTPS 10, DDS-XTypes 7.4).
//! The reader has no panic path and takes no memory: it hands out slices of its input.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::{MAX_FRAME, MAX_STRING};
use crate::Error;

/// Representation identifier CDR_LE and no options.
const HEADER: [u8; 4] = [0, 1, 0, 0];

/// Why bytes are not a message, without memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CdrError {
    /// The field, as the .msg file calls it.
    pub(crate) field: &'static str,
    /// What was wrong with it.
    pub(crate) fault: Fault,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The frame is longer than [`MAX_FRAME`].
    FrameTooLong(usize),
    /// The first bytes are not those of CDR little-endian.
    NotCdrLe,
    /// Bytes needed, bytes left.
    Truncated(usize, usize),
    /// Length declared, most allowed.
    TooLong(usize, usize),
    /// A string without its NUL.
    NoNul,
    NotUtf8,
    NotFinite,
    /// Length or number expected, got.
    Mismatch(usize, usize),
    /// A number that has no meaning here.
    OutOfRange,
}

impl From<CdrError> for Error {
    fn from(e: CdrError) -> Self {
        let field = e.field;
        Self::Wire(match e.fault {
            Fault::FrameTooLong(n) => {
                format!("{field}: expected at most {MAX_FRAME} bytes, got {n}")
            }
            Fault::NotCdrLe => {
                format!(
                    "{field}: expected CDR little-endian, first bytes 00 01; got something else"
                )
            }
            Fault::Truncated(need, left) => {
                format!(
                    "{field}: expected {need} more bytes, got {left}; the message was cut short"
                )
            }
            Fault::TooLong(n, cap) => {
                format!("{field}: expected a length of at most {cap}, got {n}")
            }
            Fault::NoNul => format!("{field}: expected a string that ends with NUL"),
            Fault::NotUtf8 => format!("{field}: expected UTF-8"),
            // Well-formed, but not to be used: whoever counts inputs tells the two apart.
            Fault::NotFinite => {
                let reason = format!("{field}: expected finite values, got NaN or infinity");
                return Self::Rejected { reason };
            }
            Fault::Mismatch(want, got) => format!("{field}: expected {want}, got {got}"),
            Fault::OutOfRange => format!("{field}: the value is out of range"),
        })
    }
}

pub(crate) type CdrResult<T> = Result<T, CdrError>;

fn err<T>(field: &'static str, fault: Fault) -> CdrResult<T> {
    Err(CdrError { field, fault })
}

/// Error of a field whose value does not fit another's.
pub(crate) fn mismatch<T>(field: &'static str, want: usize, got: usize) -> CdrResult<T> {
    err(field, Fault::Mismatch(want, got))
}

/// Error of a field with NaN or infinity in it.
pub(crate) fn not_finite<T>(field: &'static str) -> CdrResult<T> {
    err(field, Fault::NotFinite)
}

/// Error of a field whose value has no meaning.
pub(crate) fn out_of_range<T>(field: &'static str) -> CdrResult<T> {
    err(field, Fault::OutOfRange)
}

/// Reads a message from front to back.
pub(crate) struct Reader<'a> {
    body: &'a [u8],
    /// Next byte, from the start of the body.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> CdrResult<Self> {
        if bytes.len() > MAX_FRAME {
            return err("frame", Fault::FrameTooLong(bytes.len()));
        }
        // The two option bytes are for the sender's padding; the specification has readers skip them.
        match bytes.split_first_chunk::<4>() {
            Some(([0, 1, _, _], body)) => Ok(Self { body, at: 0 }),
            _ => err("header", Fault::NotCdrLe),
        }
    }

    fn take(&mut self, field: &'static str, align: usize, len: usize) -> CdrResult<&'a [u8]> {
        let left = self.body.len().saturating_sub(self.at);
        let start = self.at.checked_next_multiple_of(align);
        let end = start.and_then(|s| s.checked_add(len));
        let range = start.zip(end).and_then(|(s, e)| self.body.get(s..e).map(|b| (b, e)));
        let Some((bytes, end)) = range else { return err(field, Fault::Truncated(len, left)) };
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> CdrResult<[u8; N]> {
        let left = self.body.len().saturating_sub(self.at);
        let bytes = self.take(field, N, N)?;
        <[u8; N]>::try_from(bytes).or(err(field, Fault::Truncated(N, left)))
    }

    /// Whether nothing is left: a message of a writer that knows fewer fields.
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.body.len()
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> CdrResult<u8> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> CdrResult<u16> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> CdrResult<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> CdrResult<i32> {
        self.array(field).map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> CdrResult<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self, field: &'static str) -> CdrResult<f32> {
        self.array(field).map(f32::from_le_bytes)
    }

    /// A sequence's length, refused above `cap`.
    pub(crate) fn len(&mut self, field: &'static str, cap: usize) -> CdrResult<usize> {
        match usize::try_from(self.u32(field)?) {
            Ok(len) if len <= cap => Ok(len),
            Ok(len) => err(field, Fault::TooLong(len, cap)),
            Err(_) => err(field, Fault::TooLong(usize::MAX, cap)),
        }
    }

    /// A `uint8[]` of at most `cap` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, cap: usize) -> CdrResult<&'a [u8]> {
        let len = self.len(field, cap)?;
        self.take(field, 1, len)
    }

    /// A `string`. Some writers give an empty one the length 0 and no NUL.
    pub(crate) fn string(&mut self, field: &'static str) -> CdrResult<&'a str> {
        let bytes = self.bytes(field, MAX_STRING.saturating_add(1))?;
        match bytes.split_last() {
            None => Ok(""),
            Some((0, text)) => std::str::from_utf8(text).or(err(field, Fault::NotUtf8)),
            Some(_) => err(field, Fault::NoNul),
        }
    }

    /// The bytes of a `float32[]` of at most `cap` values, finite or not.
    pub(crate) fn raw_f32s(&mut self, field: &'static str, cap: usize) -> CdrResult<&'a [u8]> {
        let len = self.len(field, cap)?;
        self.take(field, 4, len.saturating_mul(4))
    }

    /// A `float32[]` of at most `cap` finite values.
    pub(crate) fn f32s(&mut self, field: &'static str, cap: usize) -> CdrResult<Vec<f32>> {
        let (words, _) = self.raw_f32s(field, cap)?.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { err(field, Fault::NotFinite) }
    }
}

/// Writes a message from front to back, under the same caps as the reader.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// `capacity`: expected bytes of the body.
    pub(crate) fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.saturating_add(HEADER.len()));
        bytes.extend_from_slice(&HEADER);
        Self { bytes }
    }

    pub(crate) fn finish(self) -> CdrResult<Vec<u8>> {
        let len = self.bytes.len();
        if len > MAX_FRAME { err("frame", Fault::FrameTooLong(len)) } else { Ok(self.bytes) }
    }

    fn put<const N: usize>(&mut self, value: [u8; N]) {
        // The header is four bytes long: alignment counts from behind it.
        let at = self.bytes.len().saturating_sub(HEADER.len());
        let start = at.checked_next_multiple_of(N).unwrap_or(at);
        self.bytes.resize(start.saturating_add(HEADER.len()), 0);
        self.bytes.extend_from_slice(&value);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.put(value.to_le_bytes());
    }

    pub(crate) fn len(&mut self, field: &'static str, len: usize, cap: usize) -> CdrResult<()> {
        match u32::try_from(len) {
            Ok(short) if len <= cap => self.u32(short),
            _ => return err(field, Fault::TooLong(len, cap)),
        }
        Ok(())
    }

    pub(crate) fn bytes(&mut self, field: &'static str, value: &[u8], cap: usize) -> CdrResult<()> {
        self.len(field, value.len(), cap)?;
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    pub(crate) fn string(&mut self, field: &'static str, value: &str) -> CdrResult<()> {
        self.len(field, value.len().saturating_add(1), MAX_STRING.saturating_add(1))?;
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        Ok(())
    }

    pub(crate) fn f32s(
        &mut self,
        field: &'static str,
        values: &[f32],
        cap: usize,
    ) -> CdrResult<()> {
        if !values.iter().all(|v| v.is_finite()) {
            return err(field, Fault::NotFinite);
        }
        self.len(field, values.len(), cap)?;
        values.iter().for_each(|v| self.f32(*v));
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic: that is how it fails"
)]
mod tests {
    use super::*;

    #[test]
    fn alignment_counts_from_the_body() {
        let mut w = Writer::new(0);
        w.u16(0x0201);
        w.u64(3);
        w.string("s", "ab").unwrap();
        w.f32s("f", &[1.0], 4).unwrap();
        w.i32(-2);
        let bytes = w.finish().unwrap();
        #[rustfmt::skip]
        let want = [
            0, 1, 0, 0,
            1, 2, 0, 0, 0, 0, 0, 0,   3, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, b'a', b'b', 0, 0,   1, 0, 0, 0,   0, 0, 0x80, 0x3f,
            0xfe, 0xff, 0xff, 0xff,
        ];
        assert_eq!(bytes, want);
        let mut r = Reader::new(&bytes).unwrap();
        assert_eq!(r.u16("a"), Ok(0x0201));
        assert_eq!(r.u64("b"), Ok(3));
        assert_eq!(r.string("s"), Ok("ab"));
        assert_eq!(r.f32s("f", 4), Ok(vec![1.0]));
        assert_eq!(r.i32("i"), Ok(-2));
        assert_eq!(r.u16("x").unwrap_err().fault, Fault::Truncated(2, 0));
    }

    #[test]
    fn lengths_are_refused_before_anything_is_read() {
        let message = |body: &[u8]| [&HEADER[..], body].concat();
        let fault = |body: &[u8], read: fn(&mut Reader<'_>) -> Option<CdrError>| {
            let bytes = message(body);
            let mut r = Reader::new(&bytes).unwrap();
            read(&mut r).map(|e| e.fault)
        };
        let huge = [0xff; 4];
        let n = u32::MAX as usize;
        assert_eq!(fault(&huge, |r| r.f32s("f", 256).err()), Some(Fault::TooLong(n, 256)));
        assert_eq!(fault(&huge, |r| r.string("s").err()), Some(Fault::TooLong(n, 4097)));
        assert_eq!(fault(&[4, 0, 0, 0], |r| r.f32s("f", 9).err()), Some(Fault::Truncated(16, 0)));
        assert_eq!(fault(&[1, 0, 0, 0, b'a'], |r| r.string("s").err()), Some(Fault::NoNul));
        assert_eq!(fault(&[2, 0, 0, 0, 0xc3, 0], |r| r.string("s").err()), Some(Fault::NotUtf8));
        assert_eq!(fault(&[0, 0, 0, 0], |r| r.string("s").err()), None);
        let nan = [1, 0, 0, 0, 0, 0, 0xc0, 0x7f];
        assert_eq!(fault(&nan, |r| r.f32s("f", 9).err()), Some(Fault::NotFinite));
        for header in [&[0, 0, 0, 0][..], &[0, 3, 0, 0], &[1, 1, 0, 0], &[0, 1, 0], &[]] {
            assert_eq!(Reader::new(header).err().map(|e| e.fault), Some(Fault::NotCdrLe));
        }
    }
}
