//! The file of the action cache: tables, and what a commit does to them.
//!
//! ```text
//!   entries   key → value (see `entry`)
//!   uses      key → number of its last use
//!   by_use    number of a use → key        the first is the next to be evicted
//!   totals    "format" → FORMAT, "bytes" → bytes of all values
//! ```
//! One commit takes all changes of an interval, evicts what is then too much, and waits for the disk.
//!
//! Invariants: every key of `entries` stands in `uses` and in `by_use`, once; a commit is whole or did not happen; a
//! use has a number that no other use has. Limits: after a failed write the file is opened again, since its state in
//! memory is not trusted; while that fails too, the cache lives in memory.
#![expect(clippy::result_large_err, reason = "redb's own error, on paths that wait for a disk")]

use super::changes::{Change, Changes};
use super::entry::{Entry, KEY_BYTES, Key, stamp_of};
use super::error::CacheError;
use super::heal;
use crate::action::DigestFunction;
use redb::{Database, Durability, ReadableTable, ReadableTableMetadata, Table, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

type KeyBytes = [u8; KEY_BYTES];

const ENTRIES: TableDefinition<'static, &KeyBytes, &[u8]> = TableDefinition::new("entries");
const USES: TableDefinition<'static, &KeyBytes, u64> = TableDefinition::new("uses");
const BY_USE: TableDefinition<'static, u64, &KeyBytes> = TableDefinition::new("by_use");
const TOTALS: TableDefinition<'static, &str, u64> = TableDefinition::new("totals");

/// Changes whenever a table or a value does; a file of another format is started anew.
const FORMAT: u64 = 1;

/// How much the file may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries_max: u64,
    pub(super) size_bytes_max: u64,
}

/// The file.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    bounds: Bounds,
    /// `None` after a failure, until it can be opened again.
    database: RwLock<Option<Database>>,
}

impl Disk {
    /// Opens the file, or makes it, and says which number the next use has.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<(Disk, u64), CacheError> {
        let (database, next) = heal::open(path, prepare)?;
        Ok((Disk { path: path.to_owned(), bounds, database: RwLock::new(Some(database)) }, next))
    }

    /// Reads an entry. A damaged one is none.
    pub(super) fn read(&self, key: &Key, function: DigestFunction) -> Result<Option<Entry>, CacheError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else { return Ok(None) };
        let read = || -> Result<Option<Entry>, redb::Error> {
            let table = database.begin_read()?.open_table(ENTRIES)?;
            Ok(table.get(&key.0)?.and_then(|value| Entry::from_bytes(key, function, value.value())))
        };
        read().map_err(|error| self.failed("read", &error))
    }

    /// Performs all changes and waits for the disk. Gives the keys that were evicted.
    pub(super) fn apply(&self, changes: &Changes) -> Result<Vec<Key>, CacheError> {
        let result = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            database.as_ref().map(|database| commit(database, changes, self.bounds))
        };
        match result {
            Some(Ok(evicted)) => return Ok(evicted),
            Some(Err(error)) => {
                self.reopen()?;
                return Err(self.failed("write", &error));
            }
            None => self.reopen()?,
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match database.as_ref().map(|database| commit(database, changes, self.bounds)) {
            Some(Ok(evicted)) => Ok(evicted),
            Some(Err(error)) => Err(self.failed("write", &error)),
            None => Ok(Vec::new()),
        }
    }

    /// Closes the file and opens it again, which repairs it.
    fn reopen(&self) -> Result<(), CacheError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The lock on the file goes with the old handle.
        *database = None;
        *database = Some(heal::open(&self.path, prepare)?.0);
        Ok(())
    }

    /// Closes the file for good, as a clean one.
    pub(super) fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many entries and bytes of values are on disk.
    pub(super) fn totals(&self) -> Result<(u64, u64), CacheError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else { return Ok((0, 0)) };
        let read = || -> Result<(u64, u64), redb::Error> {
            let transaction = database.begin_read()?;
            let entries = transaction.open_table(ENTRIES)?.len()?;
            let bytes = transaction.open_table(TOTALS)?.get("bytes")?.map_or(0, |bytes| bytes.value());
            Ok((entries, bytes))
        };
        read().map_err(|error| self.failed("read", &error))
    }

    fn failed(&self, what: &'static str, error: &redb::Error) -> CacheError {
        CacheError::Store { what, path: self.path.clone(), why: error.to_string() }
    }
}

/// Makes the tables, and says which number the next use has. `None`: the file is of another format.
fn prepare(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_write()?;
    let next = {
        let mut totals = transaction.open_table(TOTALS)?;
        let format = totals.get("format")?.map(|format| format.value());
        if format.is_some_and(|format| format != FORMAT) {
            return Ok(None);
        }
        totals.insert("format", FORMAT)?;
        let entries = transaction.open_table(ENTRIES)?.len()?;
        let uses = transaction.open_table(USES)?.len()?;
        let by_use = transaction.open_table(BY_USE)?;
        if (entries, uses) != (by_use.len()?, by_use.len()?) {
            return Ok(None);
        }
        by_use.last()?.map_or(0, |(number, _)| number.value().saturating_add(1))
    };
    transaction.commit()?;
    Ok(Some(next))
}

fn commit(database: &Database, changes: &Changes, bounds: Bounds) -> Result<Vec<Key>, redb::Error> {
    let mut transaction = database.begin_write()?;
    // On Linux this waits for the disk too: without it pages would never be freed. We are on a thread of our own, and
    // many changes share it.
    transaction.set_durability(Durability::Eventual);
    let evicted = {
        let mut tables = Tables {
            entries: transaction.open_table(ENTRIES)?,
            uses: transaction.open_table(USES)?,
            by_use: transaction.open_table(BY_USE)?,
            bytes: 0,
        };
        let mut totals = transaction.open_table(TOTALS)?;
        tables.bytes = totals.get("bytes")?.map_or(0, |bytes| bytes.value());
        for (key, change) in changes.iter() {
            tables.change(key, change)?;
        }
        let evicted = tables.evict(bounds)?;
        totals.insert("bytes", tables.bytes)?;
        evicted
    };
    transaction.commit()?;
    Ok(evicted)
}

/// The tables of one write transaction.
struct Tables<'t> {
    entries: Table<'t, &'static KeyBytes, &'static [u8]>,
    uses: Table<'t, &'static KeyBytes, u64>,
    by_use: Table<'t, u64, &'static KeyBytes>,
    /// Of all values together.
    bytes: u64,
}

impl Tables<'_> {
    fn change(&mut self, key: &Key, change: &Change) -> Result<(), redb::Error> {
        match change {
            Change::Put { entry, used } => {
                let value = entry.to_bytes(key);
                let before = self.entries.insert(&key.0, value.as_slice())?;
                let before_bytes = before.map_or(0, |value| value.value().len() as u64);
                self.bytes = (self.bytes + value.len() as u64).saturating_sub(before_bytes);
                self.used(key, *used)
            }
            Change::Remove { stamp } => {
                let found = self.entries.get(&key.0)?.and_then(|value| stamp_of(value.value()));
                if found == Some(*stamp) { self.remove(key) } else { Ok(()) }
            }
            Change::Use { used } => {
                let there = self.uses.get(&key.0)?.is_some();
                if there { self.used(key, *used) } else { Ok(()) }
            }
        }
    }

    fn used(&mut self, key: &Key, used: u64) -> Result<(), redb::Error> {
        let before = self.uses.insert(&key.0, used)?.map(|number| number.value());
        if let Some(before) = before {
            self.by_use.remove(before)?;
        }
        self.by_use.insert(used, &key.0)?;
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), redb::Error> {
        let value_bytes = self.entries.remove(&key.0)?.map_or(0, |value| value.value().len() as u64);
        self.bytes = self.bytes.saturating_sub(value_bytes);
        let used = self.uses.remove(&key.0)?.map(|number| number.value());
        if let Some(used) = used {
            self.by_use.remove(used)?;
        }
        Ok(())
    }

    fn evict(&mut self, bounds: Bounds) -> Result<Vec<Key>, redb::Error> {
        let mut evicted = Vec::new();
        while self.entries.len()? > bounds.entries_max || self.bytes > bounds.size_bytes_max {
            let oldest = self.by_use.first()?.map(|(_, key)| Key(*key.value()));
            let Some(oldest) = oldest else { break };
            self.remove(&oldest)?;
            evicted.push(oldest);
        }
        Ok(evicted)
    }
}
