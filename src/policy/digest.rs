//! SHA-256 of a file (FIPS 180-4), as `sha256sum` and the Hugging Face hub give it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// So many bytes are read at once.
const CHUNK: usize = 1 << 18;

/// The digest of the file `path` as 64 hexadecimal digits. Takes 256 KiB, however long the file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        let million = vec![b'a'; 1_000_000];
        // FIPS 180-4's examples: "abc", nothing, a million times a.
        for (text, expected) in [
            (&b"abc"[..], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(sha256(&path).unwrap(), expected);
        }
        let missing = sha256(&dir.path().join("nothing")).unwrap_err().to_string();
        assert!(missing.contains("nothing"), "{missing}");
    }
}
