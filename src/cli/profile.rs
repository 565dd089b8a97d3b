//! `fulgurite run --profile`: the trace of one command, written when it is over.
//!
//! Limits: its phases are laid one after the other, as they were; what lies between two of them is not told apart.

use super::stats::PhaseStats;
use crate::failure::Failure;
use crate::observe::now_us;
use crate::observe::trace::{self, Group, Record, Row};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

/// A part of the run: what, and how many microseconds.
type Part<'a> = (&'a str, u64);

/// What was run, from when on.
pub(super) struct Profiled<'a> {
    pub(super) command: &'a OsStr,
    pub(super) mnemonic: &'a str,
    pub(super) began: Instant,
    pub(super) code: u8,
}

impl PhaseStats {
    /// In the order in which they were.
    fn parts(&self) -> [Part<'static>; 8] {
        [
            ("runtime", self.runtime_us),
            ("sandbox", self.sandbox_us),
            ("stage", self.stage_us),
            ("start", self.start_us),
            ("run", self.run_us),
            ("quiet", self.quiet_us),
            ("collect", self.collect_us),
            ("publish", self.publish_us),
        ]
    }
}

impl Profiled<'_> {
    /// Writes the trace of a command that ran in this process.
    pub(super) fn write(&self, file: &Path, phases: &PhaseStats) -> Result<(), Failure> {
        self.write_parts(file, &phases.parts())
    }

    /// Writes the trace of a run with these parts.
    pub(super) fn write_parts(&self, file: &Path, parts: &[Part<'_>]) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot write a trace to {}: {error}", file.display()))
        };
        let whole_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let began_us = now_us().saturating_sub(whole_us);
        let written = trace::begin_at(file, began_us).map_err(failed)?;
        let name = Path::new(self.command).file_name().unwrap_or(self.command).to_string_lossy().into_owned();
        let mnemonic = if self.mnemonic.is_empty() { name.as_str() } else { self.mnemonic };
        let work_us =
            parts.iter().filter(|(part, _)| !matches!(*part, "runtime" | "publish")).map(|(_, us)| us).sum();
        let args = json!({ "mnemonic": mnemonic, "exit_code": self.code, "work_us": u64::max(work_us, 1) });
        span(&name, "action", (began_us, began_us.saturating_add(whole_us)), args);
        let mut from_us = began_us;
        for (part, took_us) in parts {
            let until_us = from_us.saturating_add(*took_us);
            span(part, "phase", (from_us, until_us), Value::Null);
            from_us = until_us;
        }
        written.finish().map_err(failed)
    }
}

fn span(name: &str, category: &'static str, (from_us, until_us): (u64, u64), args: Value) {
    let row = Row { group: Group::Slots, number: 0, title: "run".to_owned() };
    trace::record(|| Record::Span { row, name: name.to_owned(), category, from_us, until_us, args });
}
