//! IDX: the format of MNIST and its successors, packed with gzip.
//!
//! Two zero bytes, the type (8: unsigned bytes), the number of dimensions, the dimensions as u32 with
//! the highest byte first, then the values. Source: yann.lecun.com/exdb/mnist, "The IDX file format".

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::checksum::{Checksum, Known};
use crate::{Error, Result};

/// Edge of MNIST's pictures.
pub(super) const SIZE: usize = 28;

/// Unpacks a file, compares it with its sum, and returns the values behind a header that must say
/// `[n, shape…]`.
pub(super) fn read(
    path: &Path,
    known: &Known,
    checksum: Checksum,
    shape: &[usize],
) -> Result<Vec<u8>> {
    let bytes = unpack(path, known)?;
    known.check(path, &bytes, checksum)?;
    values(&bytes, shape).map_err(|message| Error::config(path, message))
}

fn unpack(path: &Path, known: &Known) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::config(
            path,
            format!("expected a file of {}, got none; install it or name its folder", known.origin),
        ),
        _ => Error::io(path, e),
    };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::config(path, "expected a file"));
    }
    let mut bytes = Vec::new();
    MultiGzDecoder::new(File::open(path).map_err(io)?)
        .take(known.most + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::config(path, format!("expected gzip data: {e}")))?;
    if bytes.len() as u64 > known.most {
        let most = known.most;
        return Err(Error::config(
            path,
            format!("expected at most {most} bytes unpacked, got more"),
        ));
    }
    Ok(bytes)
}

fn values(bytes: &[u8], shape: &[usize]) -> Result<Vec<u8>, String> {
    let rank = shape.len() + 1;
    let header = bytes.get(..4 + 4 * rank).ok_or("expected an IDX header, got too few bytes")?;
    if header[..4] != [0, 0, 8, rank as u8] {
        let got = &header[..4];
        return Err(format!("expected the IDX magic [0, 0, 8, {rank}], got {got:?}"));
    }
    let dims: Vec<usize> = header[4..]
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    if dims[1..] != *shape {
        return Err(format!("expected [n, {shape:?}], got {dims:?}"));
    }
    let expected = dims.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim));
    let values = &bytes[header.len()..];
    if expected != Some(values.len()) {
        return Err(format!("expected as many bytes as {dims:?} says, got {}", values.len()));
    }
    Ok(values.to_vec())
}

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn the_header_is_checked_against_the_length() {
        let mut file = vec![0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6];
        assert_eq!(values(&file, &[2]).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert!(values(&file, &[3]).unwrap_err().contains("[3, 2]"));
        assert!(values(&file, &[]).unwrap_err().contains("magic"));
        assert!(values(&file[..17], &[2]).unwrap_err().contains("got 5"));
        assert!(values(&file[..9], &[2]).unwrap_err().contains("header"));
        file[4..8].fill(255);
        assert!(values(&file, &[2]).is_err());
        file[2] = 9;
        assert!(values(&file, &[2]).unwrap_err().contains("magic"));
    }
}
