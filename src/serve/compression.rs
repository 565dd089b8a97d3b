//! zstd, in pieces of bounded size.

use super::limits::ZSTD_WINDOW_LOG_MAX;
use std::io;
use zstd::stream::raw::{DParameter, Decoder, Operation};

/// Output of one step: what a decoder likes to write at once.
const STEP_BYTES: usize = 128 << 10;

/// Why compressed bytes did not become others.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecompressError<E> {
    /// They are no zstd, or need more memory than we give.
    #[error("not zstd: {0}")]
    Malformed(io::Error),
    /// The taker of the bytes refused.
    #[error(transparent)]
    Sink(E),
}

/// Takes zstd frames in pieces and gives what is in them.
pub(super) struct Decompressor {
    decoder: Decoder<'static>,
    buffer: Vec<u8>,
    /// Whether the last frame has ended.
    complete: bool,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("complete", &self.complete).finish_non_exhaustive()
    }
}

impl Decompressor {
    pub(super) fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
        Ok(Decompressor { decoder, buffer: vec![0; STEP_BYTES], complete: true })
    }

    /// Takes more, and hands what comes of it to `sink`, which ends a bomb by refusing.
    pub(super) fn feed<E>(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), DecompressError<E>> {
        loop {
            if input.is_empty() && self.complete {
                return Ok(());
            }
            let step =
                self.decoder.run_on_buffers(input, &mut self.buffer).map_err(DecompressError::Malformed)?;
            input = &input[step.bytes_read..];
            if step.bytes_read > 0 || step.bytes_written > 0 {
                self.complete = step.remaining == 0;
            }
            sink(&self.buffer[..step.bytes_written]).map_err(DecompressError::Sink)?;
            // The buffer was not filled: nothing is left inside.
            if input.is_empty() && step.bytes_written < self.buffer.len() {
                return Ok(());
            }
            if step.bytes_read == 0 && step.bytes_written == 0 {
                let stuck = io::Error::new(io::ErrorKind::InvalidData, "the decoder makes no progress");
                return Err(DecompressError::Malformed(stuck));
            }
        }
    }

    /// Whether what was taken ends with a whole frame.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(compressed: &[u8], piece: usize, bytes_max: usize) -> Result<(Vec<u8>, bool), String> {
        let mut decompressor = Decompressor::new().unwrap();
        let mut plain = Vec::new();
        for piece in compressed.chunks(piece.max(1)) {
            let taken = decompressor.feed(piece, |bytes| {
                plain.extend_from_slice(bytes);
                if plain.len() > bytes_max { Err("too much") } else { Ok(()) }
            });
            taken.map_err(|error| error.to_string())?;
        }
        Ok((plain, decompressor.is_complete()))
    }

    proptest! {
        #[test]
        fn pieces_and_frames_do_not_matter(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..4),
            piece in 1usize..3000,
        ) {
            let mut compressed = Vec::new();
            for frame in &frames {
                compressed.extend(zstd::bulk::compress(frame, 1).unwrap());
            }
            let (plain, complete) = through(&compressed, piece, usize::MAX).unwrap();
            prop_assert_eq!(plain, frames.concat());
            prop_assert!(complete);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in any::<Vec<u8>>(), piece in 1usize..100) {
            let _ = through(&bytes, piece, 1 << 20);
        }
    }

    #[test]
    fn a_cut_frame_is_not_complete() {
        let compressed = zstd::bulk::compress(&[7; 100_000], 1).unwrap();
        assert!(!through(&compressed[..compressed.len() - 1], 1000, usize::MAX).unwrap().1);
    }

    #[test]
    fn a_bomb_is_stopped_by_its_taker() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert_eq!(through(&bomb, bomb.len(), 1000).unwrap_err(), "too much");
    }
}
