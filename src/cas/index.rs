//! The index: every blob that a checkpoint has seen, in an embedded database.
//!
//! ```text
//!   blobs    key (33)                  → size (8) use (4) flags (4)
//!   by-use   use (4, big-endian) key   → nothing           the order of eviction
//!   totals   "generation" "bytes" "blobs" "seconds" "format" → number
//! ```
//! *Use* is a moment of the store's own clock (see [`super::clock`]). Invariants: the two tables have the same rows;
//! the totals are those of the tables; a row is committed only after its blob's bytes are on the disk. Commits carry
//! the allocator's state with them, so that opening after a kill reads a few pages and not the whole. A failed write
//! makes the database unusable until it is opened again, which [`Index::commit`] does. A file that cannot be opened for
//! what is in it is moved to `index.corrupt`, and an empty one takes its place: see [`super::strays`].

use super::CasError;
use super::key::Key;
use super::limits::{INDEX_CACHE_BYTES, charge};
use super::opening::{self, NotOpened};
use crate::failpoint;
use redb::{Database, ReadOnlyTable, ReadableTable, TableDefinition};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

type Blobs = TableDefinition<'static, &'static [u8; 33], &'static [u8; 16]>;
type ByUse = TableDefinition<'static, &'static [u8; 37], ()>;

const BLOBS: Blobs = TableDefinition::new("blobs");
const BY_USE: ByUse = TableDefinition::new("by-use");
const TOTALS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("totals");

/// Of the tables above. Another one is not read.
const FORMAT: u64 = 1;

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub size_bytes: u64,
    pub used: u32,
    /// Hash it before it is used.
    pub is_suspect: bool,
}

/// What becomes of a blob's row: it is written, or removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub key: Key,
    pub row: Option<Row>,
}

/// Sums over all rows, and what else a start must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Last generation of the log that is in here.
    pub generation: u32,
    /// What the blobs are charged for.
    pub bytes: u64,
    pub blobs: u64,
    /// The store's clock.
    pub seconds: u64,
}

/// The database, and a view of its last commit.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    database: Mutex<Option<Database>>,
    /// Taken for microseconds by readers; none only while the database is opened again.
    view: RwLock<Option<View>>,
}

struct View {
    blobs: ReadOnlyTable<&'static [u8; 33], &'static [u8; 16]>,
    by_use: ReadOnlyTable<&'static [u8; 37], ()>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

/// An index that was opened.
pub(super) struct Opened {
    pub index: Index,
    pub totals: Totals,
    /// What was there could not be used, and the index is empty.
    pub is_lost: bool,
}

impl Index {
    /// Opens it; one that is damaged is moved aside.
    pub(super) fn open(path: &Path) -> Result<Opened, CasError> {
        let mut is_lost = false;
        loop {
            let why = match attempt(path) {
                Ok((database, view, totals)) => {
                    let (database, view) = (Mutex::new(Some(database)), RwLock::new(Some(view)));
                    return Ok(Opened {
                        index: Index { path: path.to_owned(), database, view },
                        totals,
                        is_lost,
                    });
                }
                Err(Refusal::Told(error)) => return Err(error),
                Err(Refusal::Damaged(why)) => why,
            };
            let shown = path.display();
            if is_lost {
                return Err(CasError::io(format!("make the index {shown} ({why})"), Errno::UCLEAN));
            }
            let to = opening::move_aside(path)
                .map_err(|error| CasError::from_io(format!("move the index {shown} away"), &error))?;
            tracing::warn!("the index {shown} cannot be used, since {why}: it is moved to {}", to.display());
            is_lost = true;
        }
    }

    /// What the last commit says of a blob.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Row>, CasError> {
        self.read(|view| Ok(view.blobs.get(&key.0)?.map(|row| Row::decode(row.value()))))
    }

    /// The blobs longest unused, at most `count`, those after `after` in that order.
    pub(super) fn oldest(
        &self,
        after: Option<(u32, Key)>,
        count: usize,
    ) -> Result<Vec<(Key, Row)>, CasError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = after.map(|(used, key)| by_use_key(used, &key));
        self.read(|view| {
            let start = after.as_ref().map_or(Unbounded, Excluded);
            let mut found = Vec::new();
            for entry in view.by_use.range::<&[u8; 37]>((start, Unbounded))?.take(count) {
                let (at, _) = entry?;
                let mut key = [0; 33];
                key.copy_from_slice(&at.value()[4..]);
                if let Some(row) = view.blobs.get(&key)? {
                    found.push((Key(key), Row::decode(row.value())));
                }
            }
            Ok(found)
        })
    }

    /// Makes changes and totals durable, all or none. `generation` and `seconds` are what the totals shall say.
    pub(super) fn commit(
        &self,
        changes: &mut [Change],
        generation: u32,
        seconds: u64,
    ) -> Result<Totals, CasError> {
        changes.sort_unstable_by_key(|change| change.key);
        self.revive()?;
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match database.as_ref() {
            Some(database) => write(database, changes, generation, seconds)
                .and_then(|totals| Ok((totals, View::of(database)?)))
                .map_err(|error| failed("commit the index", error)),
            None => Err(CasError::io("commit the index", Errno::IO)),
        };
        match result {
            Ok((totals, view)) => {
                self.set_view(Some(view));
                Ok(totals)
            }
            Err(error) => {
                self.set_view(None);
                *database = None;
                // Best effort: if it fails too, as it does on a full disk, the next lookup or commit tries again.
                *database = self.reopen().ok();
                Err(error)
            }
        }
    }

    /// Opens the database again if a failed commit has closed it.
    fn revive(&self) -> Result<(), CasError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(self.reopen()?);
        }
        Ok(())
    }

    fn reopen(&self) -> Result<Database, CasError> {
        let (database, view, _) = attempt(&self.path).map_err(|refusal| match refusal {
            Refusal::Told(error) => error,
            // The next start moves it aside: here memory still says what it had.
            Refusal::Damaged(why) => {
                CasError::io(format!("reopen the index {} ({why})", self.path.display()), Errno::UCLEAN)
            }
        })?;
        self.set_view(Some(view));
        Ok(database)
    }

    fn set_view(&self, view: Option<View>) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn read<T>(&self, look: impl FnOnce(&View) -> Result<T, redb::StorageError>) -> Result<T, CasError> {
        if self.view.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.revive()?;
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let view = view.as_ref().ok_or_else(|| CasError::io("read the index", Errno::IO))?;
        look(view).map_err(|error| failed("read the index", error.into()))
    }
}

impl View {
    fn of(database: &Database) -> Result<View, Fault> {
        let transaction = database.begin_read()?;
        Ok(View { blobs: transaction.open_table(BLOBS)?, by_use: transaction.open_table(BY_USE)? })
    }
}

impl Row {
    fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.used.to_le_bytes());
        bytes[12] = u8::from(self.is_suspect);
        bytes
    }

    fn decode(bytes: &[u8; 16]) -> Row {
        let [s0, s1, s2, s3, s4, s5, s6, s7, u0, u1, u2, u3, flags, ..] = *bytes;
        Row {
            size_bytes: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            used: u32::from_le_bytes([u0, u1, u2, u3]),
            is_suspect: flags & 1 != 0,
        }
    }
}

fn by_use_key(used: u32, key: &Key) -> [u8; 37] {
    let mut bytes = [0; 37];
    // Big-endian, so that the table's order is that of time.
    bytes[..4].copy_from_slice(&used.to_be_bytes());
    bytes[4..].copy_from_slice(&key.0);
    bytes
}

/// Why an index was not opened.
enum Refusal {
    /// For what is in the file.
    Damaged(String),
    /// For anything else.
    Told(CasError),
}

/// Opens or makes the database, whatever that does.
fn attempt(path: &Path) -> Result<(Database, View, Totals), Refusal> {
    let what = format!("open the index {}", path.display());
    let of = path.to_owned();
    let open = move || -> Result<_, Fault> {
        let database = Database::builder().set_cache_size(INDEX_CACHE_BYTES).create(of)?;
        let totals = prepare(&database)?;
        let view = View::of(&database)?;
        Ok((database, view, totals))
    };
    let opened = opening::guarded(open).map_err(|not_opened| match not_opened {
        NotOpened::Panicked(why) => Refusal::Damaged(why),
        NotOpened::NotTried(why) => Refusal::Told(CasError::io(format!("{what} ({why})"), Errno::AGAIN)),
    })?;
    let (database, view, totals) = opened.map_err(|Fault(error)| match *error {
        redb::Error::Io(ref found) if found.kind() != std::io::ErrorKind::InvalidData => {
            Refusal::Told(failed(&what, Fault(error)))
        }
        redb::Error::DatabaseAlreadyOpen => {
            Refusal::Told(CasError::io(format!("{what}: another process uses it"), Errno::BUSY))
        }
        other => Refusal::Damaged(other.to_string()),
    })?;
    match totals {
        Ok(totals) => Ok((database, view, totals)),
        Err(format) => Err(Refusal::Damaged(format!("its format is {format} and not {FORMAT}"))),
    }
}

/// Makes the tables, and reads the totals; or gives the format that is another.
fn prepare(database: &Database) -> Result<Result<Totals, u64>, Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let read = {
        transaction.open_table(BLOBS)?;
        transaction.open_table(BY_USE)?;
        let mut totals = transaction.open_table(TOTALS)?;
        let format = totals.get("format")?.map(|value| value.value());
        if format.is_none() {
            totals.insert("format", FORMAT)?;
        }
        (format.unwrap_or(FORMAT), read_totals(&totals)?)
    };
    transaction.commit()?;
    let (format, totals) = read;
    Ok(if format == FORMAT { Ok(totals) } else { Err(format) })
}

fn read_totals(table: &impl ReadableTable<&'static str, u64>) -> Result<Totals, Fault> {
    let get = |name| Ok::<u64, Fault>(table.get(name)?.map_or(0, |value| value.value()));
    Ok(Totals {
        generation: u32::try_from(get("generation")?).unwrap_or(u32::MAX),
        bytes: get("bytes")?,
        blobs: get("blobs")?,
        seconds: get("seconds")?,
    })
}

fn write(database: &Database, changes: &[Change], generation: u32, seconds: u64) -> Result<Totals, Fault> {
    let refused = |errno: Errno| redb::Error::Io(errno.into());
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let totals = {
        let mut blobs = transaction.open_table(BLOBS)?;
        let mut by_use = transaction.open_table(BY_USE)?;
        let mut table = transaction.open_table(TOTALS)?;
        let mut totals = Totals { generation, seconds, ..read_totals(&table)? };
        for Change { key, row } in changes {
            let old = match row {
                Some(row) => blobs.insert(&key.0, &row.encode())?.map(|old| Row::decode(old.value())),
                None => blobs.remove(&key.0)?.map(|old| Row::decode(old.value())),
            };
            let is_moved = old.map(|old| old.used) != row.map(|row| row.used);
            if let Some(old) = old {
                totals.bytes = totals.bytes.saturating_sub(charge(old.size_bytes));
                totals.blobs = totals.blobs.saturating_sub(1);
                if is_moved {
                    by_use.remove(&by_use_key(old.used, key))?;
                }
            }
            if let Some(row) = row {
                totals.bytes = totals.bytes.saturating_add(charge(row.size_bytes));
                totals.blobs += 1;
                if is_moved {
                    by_use.insert(&by_use_key(row.used, key), ())?;
                }
            }
        }
        table.insert("generation", u64::from(generation))?;
        table.insert("bytes", totals.bytes)?;
        table.insert("blobs", totals.blobs)?;
        table.insert("seconds", seconds)?;
        totals
    };
    failpoint::hit("cas.checkpoint.commit").map_err(refused)?;
    transaction.commit()?;
    failpoint::hit("cas.checkpoint.committed").map_err(refused)?;
    Ok(totals)
}

/// An error of the database, boxed: it is large.
#[derive(Debug)]
struct Fault(Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Fault(Box::new(error.into()))
    }
}

fn failed(what: &str, Fault(error): Fault) -> CasError {
    match *error {
        redb::Error::Io(error) => CasError::from_io(what, &error),
        redb::Error::PreviousIo => CasError::io(what, Errno::IO),
        // What is wrong with the file itself has no errno of its own.
        other => CasError::io(format!("{what} ({other})"), Errno::UCLEAN),
    }
}
