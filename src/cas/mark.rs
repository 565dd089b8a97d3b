//! What the lock file says beside the lock: who has the store open, and whether it was closed.
//!
//! ```text
//!   pid (16)   boot, hexadecimal (16)   " clean\n" | " open \n" | " sweep\n"
//!              └ open, of another boot: the machine stopped, and files may be there that nobody knows of
//! ```
//! Limits: it is a hint. Where it cannot be written, on a full disk, files that nobody knows take room until the same
//! blobs are put again.

use std::fs::File;
use std::os::unix::fs::FileExt;

const PID_BYTES: usize = 16;
const MARK_BYTES: usize = 23;

/// How a store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was closed, and all is known.
    Clean,
    /// A process of this boot had it open.
    Open,
    /// There may be files that nobody knows of.
    Unswept,
}

/// Reads how a store was left, as seen from this boot. One that says nothing was never open.
pub(super) fn read(lock: &File, boot: [u8; 8]) -> Left {
    let mut bytes = [0; MARK_BYTES];
    if lock.read_exact_at(&mut bytes, PID_BYTES as u64).is_err() {
        return Left::Clean;
    }
    let of = |word: &[u8]| bytes[16..] == *word;
    match (of(b" open \n"), of(b" sweep\n")) {
        (true, _) if bytes[..16] == *shown(boot).as_bytes() => Left::Open,
        (true, _) | (_, true) => Left::Unswept,
        _ => Left::Clean,
    }
}

/// Says how it is, on the disk if that can be had.
pub(super) fn write(lock: &File, boot: [u8; 8], left: Left) {
    let word = match left {
        Left::Clean => "clean",
        Left::Open => "open ",
        Left::Unswept => "sweep",
    };
    let text = format!("{} {word}\n", shown(boot));
    // A hint: see the module's documentation.
    let _ = lock.write_all_at(text.as_bytes(), PID_BYTES as u64).and_then(|()| lock.sync_data());
}

/// Says which process has it open.
pub(super) fn write_pid(lock: &File) {
    let pid = format!("{:<15}\n", rustix::process::getpid().as_raw_pid());
    // For people; on a full disk the lock holds without it.
    let _ = lock.write_all_at(pid.as_bytes(), 0);
}

/// Which process has it open, as it said.
pub(super) fn read_pid(lock: &File) -> String {
    let mut pid = [0; PID_BYTES];
    let length = lock.read_at(&mut pid, 0).unwrap_or(0);
    String::from_utf8_lossy(&pid[..length]).trim().to_owned()
}

fn shown(boot: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(boot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_is_an_unclean_end_and_nothing_is_a_clean_one() {
        let lock = tempfile::tempfile().unwrap();
        assert_eq!(read(&lock, [1; 8]), Left::Clean);
        write_pid(&lock);
        assert_eq!((read(&lock, [1; 8]), read_pid(&lock)), (Left::Clean, std::process::id().to_string()));
        for (left, here, elsewhere) in [
            (Left::Open, Left::Open, Left::Unswept),
            (Left::Clean, Left::Clean, Left::Clean),
            (Left::Unswept, Left::Unswept, Left::Unswept),
        ] {
            write(&lock, [1; 8], left);
            assert_eq!((read(&lock, [1; 8]), read(&lock, [2; 8])), (here, elsewhere));
        }
    }
}
