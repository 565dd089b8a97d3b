//! F01: secrets of the host and the canary of the harness.

use crate::facts::Facts;
use crate::report::Report;
use crate::{sys, walk};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that are nobody's business but the host's. Only a successful read of at least one byte counts.
const FILES: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
    "/etc/machine-id",
    "/etc/kubernetes/admin.conf",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "/run/secrets/kubernetes.io/serviceaccount/token",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/proc/1/environ",
];

/// What sits in a home directory.
const IN_HOME: &[&str] = &[
    ".ssh/id_rsa",
    ".ssh/id_ed25519",
    ".ssh/known_hosts",
    ".ssh/authorized_keys",
    ".aws/credentials",
    ".config/gcloud/credentials.db",
    ".docker/config.json",
    ".kube/config",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".cargo/credentials.toml",
    ".bash_history",
    ".gnupg/private-keys-v1.d",
];

/// Directories that must not show the host's content.
const DIRECTORIES: &[&str] = &[
    "/root",
    "/home",
    "/run",
    "/var/run",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/srv",
    "/mnt",
    "/media",
    "/boot",
];

/// The canary may sit in a file up to this size.
const SMALL: u64 = 64 << 10;

/// F01.
pub fn read(facts: &Facts, report: &mut Report) {
    for file in FILES {
        report.check(readable(Path::new(file)), format!("read {file}"));
    }
    for home in homes() {
        for name in IN_HOME {
            let path = home.join(name);
            report.check(readable(&path), format!("read {}", path.display()));
        }
    }
    for directory in DIRECTORIES {
        list(report, Path::new(directory), facts);
    }
    by_path(facts, report);
    by_content(facts, report);
}

fn readable(path: &Path) -> bool {
    let Ok(fd) = sys::open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY) else { return false };
    let file = File::from(fd);
    match file.metadata() {
        Ok(m) if m.is_dir() => std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()),
        _ => (&file).read(&mut [0u8; 16]).is_ok_and(|n| n > 0),
    }
}

fn homes() -> Vec<PathBuf> {
    let mut homes = vec![PathBuf::from("/root")];
    homes.extend(std::fs::read_dir("/home").into_iter().flatten().flatten().map(|e| e.path()));
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    homes.extend(passwd.lines().filter_map(|l| l.split(':').nth(5)).map(PathBuf::from));
    homes.retain(|h| h.is_absolute() && h != Path::new("/"));
    homes.sort();
    homes.dedup();
    homes
}

/// Names are information too, but the mount point of a declared writable directory is none.
fn list(report: &mut Report, directory: &Path, facts: &Facts) {
    let Ok(entries) = std::fs::read_dir(directory) else { return report.held() };
    let writable = walk::writable(facts);
    let names: Vec<String> = entries
        .flatten()
        .filter(|e| !writable.iter().any(|w| w.starts_with(e.path())) && !empty(&e.path()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let some = names.iter().take(4).cloned().collect::<Vec<_>>().join(" ");
    report.check(!names.is_empty(), format!("{} lists {} names: {some}", directory.display(), names.len()));
}

fn empty(path: &Path) -> bool {
    path.is_dir() && std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_none())
}

fn by_path(facts: &Facts, report: &mut Report) {
    let Some(canary) = facts.get("canary_path") else { return report.note("no fact canary_path") };
    let relative = canary.trim_start_matches('/');
    let up = "../".repeat(40);
    let mut paths = vec![
        canary.to_string(),
        format!("{up}{relative}"),
        format!("/proc/self/root/{relative}"),
        format!("/proc/self/cwd/{up}{relative}"),
        format!("/proc/self/root/{up}{relative}"),
        format!("/proc/thread-self/root/{relative}"),
    ];
    for pid in sys::pids() {
        paths.push(format!("/proc/{pid}/root/{relative}"));
        paths.push(format!("/proc/{pid}/cwd/{up}{relative}"));
    }
    for fd in 0..64 {
        paths.push(format!("/proc/self/fd/{fd}/{up}{relative}"));
        paths.push(format!("/proc/1/fd/{fd}/{up}{relative}"));
    }
    for path in paths {
        let there = std::fs::symlink_metadata(&path).is_ok();
        let read = readable(Path::new(&path));
        let short = path.replace(&up, "(../)");
        report.check(there || read, format!("canary {} at {short}", if read { "read" } else { "seen" }));
    }
}

fn by_content(facts: &Facts, report: &mut Report) {
    let Some(text) = facts.get("canary_text").filter(|t| t.len() >= 8) else {
        return report.note("no fact canary_text of 8 bytes or more");
    };
    let own = facts.file.as_ref().and_then(|f| sys::identity(f).ok());
    let mut files = 0usize;
    let mut found = Vec::new();
    let complete = walk::everything(&mut |_| true, &mut |path, kind| {
        if kind.is_file() && holds(path, text.as_bytes(), own) {
            found.push(path.display().to_string());
        }
        files += usize::from(kind.is_file());
    });
    for pid in sys::pids() {
        for name in ["environ", "cmdline"] {
            let path = format!("/proc/{pid}/{name}");
            if std::fs::read(&path).is_ok_and(|b| contains(&b, text.as_bytes())) {
                found.push(path);
            }
        }
    }
    report.note(format!("searched {files} files{}", if complete { "" } else { ", cut short" }));
    report.held();
    for path in found {
        report.broke(format!("canary text in {path}"));
    }
}

fn holds(path: &Path, text: &[u8], facts_file: Option<(u64, u64)>) -> bool {
    let Ok(m) = std::fs::symlink_metadata(path) else { return false };
    if m.len() < text.len() as u64 || m.len() > SMALL || Some((m.dev(), m.ino())) == facts_file {
        return false;
    }
    std::fs::read(path).is_ok_and(|b| contains(&b, text))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
