//! Measured durations, kept across restarts: one table in redb, a row a mnemonic or family.
//!
//! Invariants: what cannot be read is forgotten, since it only makes the first plans worse; nothing here is on the path
//! of an action: rows are written in one transaction when the owner says so.
//!
//! Limits: without durability to a power failure; what was measured since the last `save` is lost with the process.

#![expect(clippy::result_large_err, reason = "redb's own error, on paths that wait for a disk")]

use super::forecast::{Key, Memory, Record};
use redb::{Database, Durability, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("race_history");

/// Why the history cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the history of races in {}: {why}", path.display())]
pub struct HistoryError {
    what: &'static str,
    path: PathBuf,
    why: String,
}

/// The file.
#[derive(Debug)]
pub struct History {
    database: Database,
    path: PathBuf,
}

impl History {
    /// Opens or makes the file. One that is damaged is put aside under `….damaged`, and a new one begins.
    ///
    /// # Errors
    /// The file can neither be opened nor made.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let database = match Database::create(path) {
            Ok(database) => database,
            // Somebody else's lock is no damage.
            Err(error @ redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(failed("open", path, &error));
            }
            Err(_) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".damaged");
                std::fs::rename(path, &aside).map_err(|error| failed("put aside", path, &error))?;
                Database::create(path).map_err(|error| failed("make", path, &error))?
            }
        };
        Ok(History { database, path: path.to_owned() })
    }

    /// What was measured in earlier lives. Rows that cannot be read are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&self) -> Result<Memory, HistoryError> {
        let read = || -> Result<Memory, redb::Error> {
            let mut memory = Memory::default();
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(memory),
                table => table?,
            };
            for row in table.iter()? {
                let (key, record) = row?;
                if let Some(key) = Key::from_text(key.value())
                    && let Some(record) = Record::from_bytes(record.value(), &key)
                {
                    memory.put(key, record);
                }
            }
            Ok(memory)
        };
        read().map_err(|error| failed("read", &self.path, &error))
    }

    /// Writes what has changed, as [`Memory::changes`] gives it; the lock of the memory need not be held.
    ///
    /// # Errors
    /// The file cannot be written; the changes are lost, and nothing else.
    pub fn save(&self, changes: &[(Key, Option<Vec<u8>>)]) -> Result<(), HistoryError> {
        if changes.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Eventual);
            {
                let mut table = transaction.open_table(TABLE)?;
                for (key, record) in changes {
                    match record {
                        Some(record) => table.insert(key.to_text().as_str(), record.as_slice())?,
                        None => table.remove(key.to_text().as_str())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| failed("write", &self.path, &error))
    }
}

fn failed(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> HistoryError {
    HistoryError { what, path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::forecast::Measure;
    use std::time::Duration;

    #[test]
    fn what_was_measured_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.redb");
        let key = Key::new("Javac", Some(3));
        let expected = {
            let history = History::open(&path).unwrap();
            let mut memory = history.load().unwrap();
            assert!(memory.is_empty());
            for millis in 0..10 {
                memory.add(&key, Measure::Remote, Duration::from_millis(millis * 7));
            }
            history.save(&memory.changes()).unwrap();
            assert!(History::open(&path).is_err());
            memory.forecast(&key)
        };
        let mut again = History::open(&path).unwrap().load().unwrap();
        assert_eq!((again.forecast(&key), again.len()), (expected, 2));
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.redb");
        std::fs::write(&path, b"this is no database, and never was one").unwrap();
        assert!(History::open(&path).unwrap().load().unwrap().is_empty());
        assert!(dir.path().join("history.redb.damaged").exists());
    }
}
