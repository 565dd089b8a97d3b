//! Where a downloaded stream goes: into the store, decompressed if it comes so, and never more than was announced.

use super::cluster::ClusterError;
use super::limits::ZSTD_WINDOW_LOG_MAX;
use crate::action::Digest;
use crate::cas::{BlobWriter, CasError};
use std::io::Write;

/// A blob on its way into the store.
pub(super) struct Sink {
    digest: Digest,
    way: Way,
}

enum Way {
    Plain(Box<Counted>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Counted>>),
}

/// The writer, which notes what the store said.
struct Counted {
    writer: BlobWriter,
    digest: Digest,
    refused: Option<ClusterError>,
}

impl Counted {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ClusterError> {
        let after = self.writer.written_bytes() + bytes.len() as u64;
        if after > self.digest.size_bytes {
            return Err(ClusterError::Corrupt {
                wanted: self.digest,
                got: format!("at least {after} bytes"),
            });
        }
        self.writer.write(bytes).map_err(|error| of_store(self.digest, &error))
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.put(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let told = std::io::Error::other(error.to_string());
                self.refused = Some(error);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn of_store(wanted: Digest, error: &CasError) -> ClusterError {
    match error {
        CasError::Mismatch { .. } => ClusterError::Corrupt { wanted, got: "other bytes".to_owned() },
        error => ClusterError::Store(error.to_string()),
    }
}

impl Sink {
    pub(super) fn new(writer: BlobWriter, digest: Digest, zstd: bool) -> Result<Self, ClusterError> {
        let counted = Counted { writer, digest, refused: None };
        let way = if zstd {
            let failed = |error: std::io::Error| ClusterError::Store(error.to_string());
            let mut decoder = zstd::stream::write::Decoder::new(counted).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
            Way::Zstd(Box::new(decoder))
        } else {
            Way::Plain(Box::new(counted))
        };
        Ok(Sink { digest, way })
    }

    /// Takes what came.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), ClusterError> {
        match &mut self.way {
            Way::Plain(counted) => counted.put(bytes),
            Way::Zstd(decoder) => match decoder.write_all(bytes) {
                Ok(()) => Ok(()),
                Err(error) => Err(decoder.get_mut().refused.take().unwrap_or_else(|| garbled(&error))),
            },
        }
    }

    /// All came: it gets its name if it is what it should be.
    pub(super) fn finish(self) -> Result<(), ClusterError> {
        let digest = self.digest;
        let counted = match self.way {
            Way::Plain(counted) => *counted,
            Way::Zstd(mut decoder) => {
                let flushed = decoder.flush();
                let mut counted = decoder.into_inner();
                if let Err(error) = flushed {
                    return Err(counted.refused.take().unwrap_or_else(|| garbled(&error)));
                }
                counted
            }
        };
        let written = counted.writer.written_bytes();
        if written != digest.size_bytes {
            return Err(ClusterError::Corrupt { wanted: digest, got: format!("{written} bytes") });
        }
        counted.writer.finish().map_err(|error| of_store(digest, &error))
    }
}

fn garbled(error: &std::io::Error) -> ClusterError {
    ClusterError::Malformed { call: "ByteStream.Read", why: format!("the frames are garbled: {error}") }
}
