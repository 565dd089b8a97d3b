//! Opening the file of the action cache whatever state it is in.
//!
//! ```text
//!   header cannot be ours ─────────────────────────┐
//!   marker: OPENINGS_MAX openings did not come back ┤
//!   redb: corrupt, cannot be repaired, not ours ───┼─► moved to action-cache.redb.corrupt, a new one is made
//!   tables of another format ──────────────────────┘
//!   locked ─► refused: another process uses it
//!   any other failure (no room, no permission) ─► told, nothing is moved
//! ```
//! Redb checks every page of a file that was not closed, so that a kill or a loss of power leaves the last whole
//! commit. Some damage makes it panic instead, which [`opening`] makes an answer; the look at the header before says
//! better what is wrong. The marker is a byte for each opening that has not come back: what ends one start after
//! another in any other way is moved away. A single one may have been killed for another reason.
//!
//! Limits: damage to the inner pages of a file that *was* closed is noticed when they are read, and may then end the
//! process; the file counts as not closed from then on, so that the next opening finds the damage.

use super::error::CacheError;
use super::limits::{OPENINGS_MAX, PAGE_CACHE_BYTES};
use crate::cas::opening::{self, NotOpened};
use redb::{Builder, Database, DatabaseError, StorageError};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The pages that redb 2 has on this kind of machine, and the only ones that it opens.
const PAGE_BYTES: u64 = 4096;

/// Opens or makes the file; `prepare` gives `None` for one that is of no use.
pub(super) fn open<T>(
    path: &Path,
    prepare: impl Fn(&Database) -> Result<Option<T>, redb::Error> + Copy + Send + 'static,
) -> Result<(Database, T), CacheError>
where
    T: Send + 'static,
{
    let failed = |why: String| CacheError::Store { what: "open", path: path.to_owned(), why };
    // The lock first: what another process has open is nobody's to move.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    match lock {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(CacheError::InUse { path: path.to_owned() }),
        Err(errno) => return Err(failed(errno.to_string())),
    }
    let marker = beside(path, "opening");
    let lost = std::fs::metadata(&marker).map_or(0, |marker| marker.len());
    let damage = if lost >= OPENINGS_MAX {
        Some(format!("{lost} openings of it did not come back"))
    } else {
        damage_of(&file).map_err(|error| failed(error.to_string()))?
    };
    if let Some(why) = damage {
        move_aside(path, &why)?;
    }
    drop(file);
    let marked = OpenOptions::new().append(true).create(true).open(&marker);
    marked.and_then(|mut marker| marker.write_all(b".")).map_err(|error| failed(error.to_string()))?;
    let opened = open_or_start_anew(path, prepare);
    // A refusal is an opening that came back, too.
    std::fs::remove_file(&marker).map_err(|error| failed(error.to_string()))?;
    opened
}

fn open_or_start_anew<T>(
    path: &Path,
    prepare: impl Fn(&Database) -> Result<Option<T>, redb::Error> + Copy + Send + 'static,
) -> Result<(Database, T), CacheError>
where
    T: Send + 'static,
{
    let why = match attempt(path, prepare) {
        Ok(opened) => return Ok(opened),
        Err(Refusal::Useless(why)) => why,
        Err(Refusal::Told(error)) => return Err(error),
    };
    move_aside(path, &why)?;
    attempt(path, prepare).map_err(|refusal| match refusal {
        Refusal::Told(error) => error,
        Refusal::Useless(why) => CacheError::Store { what: "make", path: path.to_owned(), why },
    })
}

enum Refusal {
    /// The file can be replaced.
    Useless(String),
    Told(CacheError),
}

fn attempt<T>(
    path: &Path,
    prepare: impl Fn(&Database) -> Result<Option<T>, redb::Error> + Send + 'static,
) -> Result<(Database, T), Refusal>
where
    T: Send + 'static,
{
    let of = path.to_owned();
    opening::guarded(move || attempt_here(&of, prepare)).unwrap_or_else(|not_opened| match not_opened {
        NotOpened::Panicked(why) => Err(Refusal::Useless(why)),
        NotOpened::NotTried(why) => {
            Err(Refusal::Told(CacheError::Store { what: "open", path: path.to_owned(), why }))
        }
    })
}

fn attempt_here<T>(
    path: &Path,
    prepare: impl Fn(&Database) -> Result<Option<T>, redb::Error>,
) -> Result<(Database, T), Refusal> {
    let told = |why: String| Refusal::Told(CacheError::Store { what: "open", path: path.to_owned(), why });
    let database = match Builder::new().set_cache_size(PAGE_CACHE_BYTES).create(path) {
        Ok(database) => database,
        Err(DatabaseError::DatabaseAlreadyOpen) => {
            return Err(Refusal::Told(CacheError::InUse { path: path.to_owned() }));
        }
        Err(DatabaseError::Storage(StorageError::Io(error))) if error.kind() != ErrorKind::InvalidData => {
            return Err(told(error.to_string()));
        }
        Err(error) => return Err(Refusal::Useless(error.to_string())),
    };
    match prepare(&database) {
        Ok(Some(prepared)) => Ok((database, prepared)),
        Ok(None) => Err(Refusal::Useless("it is of another format".to_owned())),
        Err(redb::Error::Io(error)) if error.kind() != ErrorKind::InvalidData => Err(told(error.to_string())),
        Err(error) => Err(Refusal::Useless(error.to_string())),
    }
}

/// What redb would panic at: a file that is shorter than its header says, or a header that cannot be.
fn damage_of(mut file: &File) -> std::io::Result<Option<String>> {
    const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
    const HEADER_BYTES: usize = 320;
    let file_bytes = file.metadata()?.len();
    if file_bytes == 0 {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    if let Err(error) = file.read_exact(&mut header) {
        let short = error.kind() == ErrorKind::UnexpectedEof;
        return if short { Ok(Some("it is cut short".to_owned())) } else { Err(error) };
    }
    if header[..MAGIC.len()] != *MAGIC {
        return Ok(Some("it has another header".to_owned()));
    }
    let number = |at: usize| {
        u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    // Page size, pages of a region's header and data, full regions, data pages of the last one.
    let [page, region_header, region_data, regions, last_data] = [12, 16, 20, 24, 28].map(number);
    let of_last = if last_data > 0 { region_header + last_data } else { 0 };
    let pages = u128::from(regions) * u128::from(region_header + region_data) + u128::from(of_last) + 1;
    let possible = page == PAGE_BYTES && region_data > 0 && last_data <= region_data && pages > 1;
    Ok((!possible || pages * u128::from(page) > u128::from(file_bytes))
        .then(|| "its header does not fit its size".to_owned()))
}

/// Moves the file out of the way, over one that was moved earlier.
fn move_aside(path: &Path, why: &str) -> Result<(), CacheError> {
    let to = opening::move_aside(path).map_err(|error| CacheError::Store {
        what: "move away",
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    tracing::warn!(
        "the action cache {} cannot be used, since {why}: it is moved to {} and a new one begun",
        path.display(),
        to.display()
    );
    Ok(())
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}
