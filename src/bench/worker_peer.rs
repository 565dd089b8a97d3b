//! What others' workers need for the same files.
//!
//! Bazel is measured by a script of the checkout, which drives a real Bazel with its own sandboxed worker strategy on
//! the same files, by the same worker with the same flags. Its figures come after ours, in the same run.
use super::command::installed;
use super::worker_java::JavaShop;
use crate::demo::java_worker::JAVA_FLAGS;
use serde::Deserialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// Files of a round that Bazel compiles one-shot.
const ONESHOT_FILES: &str = "10";

/// What the script prints, as far as it is used: milliseconds a compile.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct BazelFigures {
    /// A JVM in Bazel's sandbox for each.
    pub oneshot_ms_per_compile: f64,
    /// A new sandboxed worker, its start included.
    pub worker_cold_ms: f64,
    /// The same worker, all files again.
    pub worker_warm_ms: f64,
}

/// Measures Bazel, one action at a time.
///
/// # Errors
/// Why it cannot be measured here, in one line.
pub fn bazel(script: &Path, shop: &JavaShop<'_>) -> Result<BazelFigures, String> {
    if installed("bazel").is_none() {
        return Err("bazel is not installed: scripts/setup bench installs it".to_owned());
    }
    if !script.is_file() {
        return Err(format!("{} is not here: run it in a checkout, or see --bazel-peer", script.display()));
    }
    let units = shop.write_units().map_err(|error| error.to_string())?;
    let scratch = units.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut command = Command::new("bash");
    command.arg(script).arg(&shop.archive).arg(&units).stdin(Stdio::null());
    command.env("JAVA_FLAGS", JAVA_FLAGS.join(" ")).env("JOBS", "1").env("ROUNDS", "1");
    command.env("ONESHOT_FILES", ONESHOT_FILES).env("TMPDIR", scratch);
    let output = command.output().map_err(|error| format!("cannot run {}: {error}", script.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| line.starts_with("SKIP") || line.starts_with("bazel-peer"));
        return Err(format!("{}: {}", output.status, line.or(said.lines().last()).unwrap_or_default()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("its figures cannot be read: {error}"))
}
