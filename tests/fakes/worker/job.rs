//! The language of requests: what a worker is asked to do, one argument an order, in their order.
//!
//! ```text
//! --output=PATH        write the report there; without, and without --say, the report is the text of the reply
//! --write=PATH=TEXT    create or replace the file
//! --append=PATH=TEXT   add to it
//! --copy=FROM=TO       the file's bytes
//! --symlink=TEXT=PATH  a symbolic link PATH with this text
//! --mkdir=PATH         with its parents
//! --remove=PATH        a file
//! --require=PATH       fail unless it is there
//! --read=PATH          report its text
//! --stat=PATH          report inode, time of change, size, mode
//! --list=PATH          report all names below it
//! --sleep-ms=N         wait
//! --wait-for=PATH      wait until it is there
//! --say=TEXT           a line for the reply
//! --stderr=TEXT        a line for the log
//! --exit-code=N        of the reply
//! --fault=…            see the table of faults
//! ```
//! A relative path is below `sandbox_dir`, if the request has one. Orders that fail make the exit code 1 and say why;
//! `--read`, `--stat` and `--list` report the error instead. Other arguments are reported and mean nothing. A cancel
//! is heeded between the orders and in all waits.

use super::cancel::Cancel;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often `--wait-for` looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One request's orders.
#[derive(Debug)]
pub struct Job<'a> {
    arguments: &'a [String],
    directory: &'a str,
}

/// What came of the orders.
#[derive(Debug, Default)]
pub struct Done {
    /// Of the reply.
    pub exit_code: i32,
    /// Lines for the reply.
    pub said: String,
    /// What `--read`, `--stat` and `--list` found.
    pub found: Map<String, Value>,
    /// The first file that was or shall be written: what faults are played on.
    pub output: Option<PathBuf>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// A wait ended because of a cancel.
pub struct Cancelled;

impl<'a> Job<'a> {
    /// The arguments and the `sandbox_dir` of a request.
    pub fn new(arguments: &'a [String], directory: &'a str) -> Self {
        Job { arguments, directory }
    }

    /// Performs the orders; a report is left to the caller.
    pub fn perform(&self, cancel: &Cancel) -> Result<Done, Cancelled> {
        let mut done = Done::default();
        for argument in self.arguments {
            if cancel.is_cancelled() {
                return Err(Cancelled);
            }
            let Some((name, value)) = argument.strip_prefix("--").and_then(|order| order.split_once('='))
            else {
                continue;
            };
            match name {
                "sleep-ms" if cancel.wait(Duration::from_millis(value.parse().unwrap_or(0))) => {
                    return Err(Cancelled);
                }
                "wait-for" => self.wait_for(value, cancel)?,
                _ => self.order(name, value, &mut done),
            }
        }
        Ok(done)
    }

    fn order(&self, name: &str, value: &str, done: &mut Done) {
        let ended = match name {
            "output" => {
                let path = self.placed(value);
                done.output.get_or_insert_with(|| path.clone());
                done.report = Some(path);
                Ok(())
            }
            "write" | "append" | "copy" | "symlink" => self.two(name, value, done),
            "mkdir" => fs::create_dir_all(self.placed(value)),
            "remove" => fs::remove_file(self.placed(value)),
            "require" => fs::symlink_metadata(self.placed(value)).map(drop),
            "read" | "stat" | "list" => {
                let found = self.find(name, value).unwrap_or_else(|error| failure(&error));
                let finds = done.found.entry(format!("{name}s")).or_insert_with(|| json!({}));
                finds[value] = found;
                Ok(())
            }
            "say" => {
                done.said.push_str(value);
                done.said.push('\n');
                Ok(())
            }
            "stderr" => writeln!(io::stderr(), "{value}"),
            "exit-code" => {
                done.exit_code = value.parse().unwrap_or(1);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = ended {
            done.exit_code = 1;
            done.said.push_str(&format!("--{name}={value}: {error}\n"));
        }
    }

    /// The orders with two operands.
    fn two(&self, name: &str, value: &str, done: &mut Done) -> io::Result<()> {
        let (first, second) = value.split_once('=').unwrap_or((value, ""));
        let (target, written) = match name {
            "copy" => (self.placed(second), fs::read(self.placed(first))?),
            "symlink" => (self.placed(second), first.as_bytes().to_vec()),
            _ => (self.placed(first), second.as_bytes().to_vec()),
        };
        if let Some(parent) = target.parent().filter(|_| name != "append") {
            fs::create_dir_all(parent)?;
        }
        done.output.get_or_insert_with(|| target.clone());
        match name {
            "append" => fs::OpenOptions::new().append(true).create(true).open(target)?.write_all(&written),
            "symlink" => std::os::unix::fs::symlink(first, target),
            _ => fs::write(target, written),
        }
    }

    fn find(&self, name: &str, value: &str) -> io::Result<Value> {
        let path = self.placed(value);
        Ok(match name {
            "read" => json!({"text": String::from_utf8_lossy(&fs::read(path)?)}),
            "stat" => {
                let meta = fs::symlink_metadata(path)?;
                let modified_nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
                json!({"inode": meta.ino(), "device": meta.dev(), "modified_nanos": modified_nanos.to_string(),
                    "bytes": meta.len(), "mode": meta.mode()})
            }
            _ => {
                let mut names = Vec::new();
                list(&path, Path::new(""), &mut names)?;
                names.sort();
                json!(names)
            }
        })
    }

    fn wait_for(&self, value: &str, cancel: &Cancel) -> Result<(), Cancelled> {
        let path = self.placed(value);
        while fs::symlink_metadata(&path).is_err() {
            if cancel.wait(LOOK_EVERY) {
                return Err(Cancelled);
            }
        }
        Ok(())
    }

    fn placed(&self, path: &str) -> PathBuf {
        Path::new(self.directory).join(path)
    }
}

fn failure(error: &io::Error) -> Value {
    json!({"error": format!("{:?}", error.kind()), "errno": error.raw_os_error()})
}

fn list(root: &Path, below: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            names.push(format!("{}/", name.display()));
            list(root, &name, names)?;
        } else {
            names.push(name.display().to_string());
        }
    }
    Ok(())
}
