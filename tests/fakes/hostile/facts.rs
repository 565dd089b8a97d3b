//! What the harness planted outside and tells the attacker: `key=value` lines.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Separates the elements of a list value.
const UNIT: char = '\u{1f}';

/// The facts file, plus what only the first process of the battery can see.
#[derive(Default)]
pub struct Facts {
    values: BTreeMap<String, String>,
    /// Where the facts were read from; the canary search must not find the facts themselves.
    pub file: Option<PathBuf>,
    /// The process at the start, before the battery opened or forked anything.
    pub start: Start,
}

/// State of the process when `main` began.
#[derive(Default)]
pub struct Start {
    /// Open descriptors and what each one is.
    pub descriptors: Vec<(i32, String)>,
    /// The environment as the kernel holds it.
    pub environment: Vec<OsString>,
    /// Process id of the first process of the battery.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i32,
}

impl Facts {
    /// Reads `key=value` lines; blank lines and lines starting with `#` are skipped.
    pub fn read(path: &Path, start: Start) -> Result<Facts, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("not key=value: {line}"))?;
            values.insert(key.trim().to_string(), value.to_string());
        }
        Ok(Facts { values, file: Some(path.to_path_buf()), start })
    }

    /// No facts but the start state.
    pub fn none(start: Start) -> Facts {
        Facts { start, ..Facts::default() }
    }

    /// One value, if given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// One value as a number: decimal, or hexadecimal after `0x`.
    pub fn number(&self, key: &str) -> Option<u64> {
        let text = self.get(key)?.trim();
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// The digits of a namespace fact: accepts `4026531837` and `user:[4026531837]`.
    pub fn inode(&self, key: &str) -> Option<u64> {
        digits(self.get(key)?)
    }

    /// A list; its elements are separated by U+001F. An empty value is an empty list.
    pub fn list(&self, key: &str) -> Option<Vec<&str>> {
        let text = self.get(key)?;
        Some(if text.is_empty() { Vec::new() } else { text.split(UNIT).collect() })
    }

    /// True for `yes`, `true` and `1`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("yes" | "true" | "1"))
    }

    /// Whether this process shares the host's mount namespace. False when the harness did not say.
    pub fn in_host_mounts(&self) -> bool {
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        let own = own.and_then(|p| digits(&p.to_string_lossy()));
        own.is_some() && own == self.inode("host_ns_mnt")
    }
}

impl Start {
    /// Looks at the process. Call it before anything else is opened.
    pub fn capture() -> Start {
        let raw = std::fs::read("/proc/self/environ").unwrap_or_default();
        let split = raw.split(|b| *b == 0).filter(|v| !v.is_empty());
        Start {
            descriptors: descriptors(),
            environment: split.map(|v| OsString::from_vec(v.to_vec())).collect(),
            pid: std::process::id().cast_signed(),
            parent: std::os::unix::process::parent_id().cast_signed(),
            oom_score_adj: read_number("/proc/self/oom_score_adj").unwrap_or(0),
        }
    }
}

/// The first run of digits in a text.
pub fn digits(text: &str) -> Option<u64> {
    let run: String =
        text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    run.parse().ok()
}

/// Asks for the numbers themselves, before anything is opened, because a listing needs a descriptor of its own and
/// can be hidden.
fn descriptors() -> Vec<(i32, String)> {
    let open = |fd: &i32| crate::sys::call(libc::SYS_fcntl, &[*fd as u64, libc::F_GETFD as u64]).is_ok();
    let numbers: Vec<i32> = (0..65536).filter(open).collect();
    let target = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    numbers.into_iter().map(|fd| (fd, target(fd).to_string_lossy().into_owned())).collect()
}

fn read_number(path: &str) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
