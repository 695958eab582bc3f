//! That a file of a known data set is the known one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Whether files must have the known SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// Another file is an error: a training on it would not be the one that is described.
    #[default]
    Known,
    /// Another version or an excerpt is welcome.
    Any,
}

/// A file that is known by its content.
pub(super) struct Known {
    /// SHA-256 in hexadecimal.
    pub(super) sha256: &'static str,
    /// Where it comes from: a package and its version.
    pub(super) origin: &'static str,
    /// Bytes; more are not read.
    pub(super) most: u64,
}

impl Known {
    /// The bytes of the file, compared with the sum.
    pub(super) fn read(&self, path: &Path, checksum: Checksum) -> Result<Vec<u8>> {
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::config(
                path,
                format!(
                    "expected a file of {}, got none; install it or name its place",
                    self.origin
                ),
            ),
            _ => Error::io(path, e),
        };
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::config(path, "expected a file"));
        }
        let mut bytes = Vec::new();
        File::open(path).map_err(io)?.take(self.most + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > self.most {
            let most = self.most;
            return Err(Error::config(path, format!("expected at most {most} bytes, got more")));
        }
        self.check(path, &bytes, checksum)?;
        Ok(bytes)
    }

    /// Compares bytes that were read (and unpacked) from the file with the sum.
    pub(super) fn check(&self, path: &Path, bytes: &[u8], checksum: Checksum) -> Result<()> {
        let got: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if checksum == Checksum::Any || got == self.sha256 {
            return Ok(());
        }
        Err(Error::config(
            path,
            format!(
                "expected the file of {} with SHA-256 {}, got {got}; install that version, or accept \
                 any with checksum = \"any\"",
                self.origin, self.sha256
            ),
        ))
    }
}
