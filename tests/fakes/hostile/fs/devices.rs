//! F08 and F09: device nodes.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};
use crate::walk;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Name, major and minor of what may be there. The name alone proves nothing.
const ALLOWED: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("ptmx", 5, 2),
];

/// F08.
pub fn enumerate(_facts: &Facts, report: &mut Report) {
    walk::everything(&mut |_| true, &mut |path, kind| {
        if kind.is_char_device() || kind.is_block_device() {
            judge(path, kind.is_block_device(), report);
        } else if kind.is_socket() && path.starts_with("/dev") {
            report.broke(format!("{} is a socket", path.display()));
        }
    });
    // Masks in /proc are the null device or nothing.
    for pid in ["self", "1"] {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if let Ok(meta) = std::fs::metadata(entry.path())
                && (meta.file_type().is_char_device() || meta.file_type().is_block_device())
            {
                let null = meta.rdev() == libc::makedev(1, 3);
                let place = entry.path();
                report.check(!null && pid == "1", format!("{} is an open device", place.display()));
            }
        }
    }
}

fn judge(path: &Path, block: bool, report: &mut Report) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    let name = path.strip_prefix("/dev").map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let listed = ALLOWED.contains(&(name.as_str(), major, minor));
    let pts = name.strip_prefix("pts/").is_some_and(|n| {
        (n == "ptmx" && (major, minor) == (5, 2)) || (n.parse::<u32>().is_ok() && (136..144).contains(&major))
    });
    if !block && (listed || pts) {
        return report.held();
    }
    let opens = sys::open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY).is_ok();
    let kind = if block { "block" } else { "char" };
    let word = if opens { ", and opens" } else { "" };
    report.broke(format!("{} is {kind} {major}:{minor}{word}", path.display()));
}

/// What to make: name, is it a block device, major, minor.
const WANTED: &[(&str, bool, u32, u32)] = &[
    ("mem", false, 1, 1),
    ("null", false, 1, 3),
    ("console", false, 5, 1),
    ("loop-control", false, 10, 237),
    ("fuse", false, 10, 229),
    ("kvm", false, 10, 232),
    ("whiteout", false, 0, 0),
    ("sda", true, 8, 0),
    ("vda", true, 254, 0),
    ("loop0", true, 7, 0),
];

/// F09.
pub fn make(facts: &Facts, report: &mut Report) {
    let mut directories = walk::writable(facts);
    directories.extend(["/dev", "/", "/dev/shm", "/run"].map(Into::into));
    directories.sort();
    directories.dedup();
    for directory in directories {
        for &(name, block, major, minor) in WANTED {
            let path = directory.join(format!(".hostile-f09-{name}"));
            let kind = if block { libc::S_IFBLK } else { libc::S_IFCHR };
            let what = format!("node {name} {major}:{minor} in {}", directory.display());
            let made = attempt(|| {
                let device = libc::makedev(major, minor);
                let name = sys::cpath(&path);
                let at = libc::AT_FDCWD as u64;
                sys::call(libc::SYS_mknodat, &[at, name.as_ptr() as u64, u64::from(kind | 0o666), device])
            });
            if !matches!(made, Attempt::Did(_)) {
                report.held();
                continue;
            }
            let opened =
                attempt(|| sys::open(&path, libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY).map(|_| 0));
            match opened {
                // Only nodev answers so; ENXIO would mean that the kernel looked for a driver.
                Attempt::Errno(libc::EACCES) => {
                    report.held();
                    report.note(format!("made {what}, stopped by nodev"));
                }
                other => report.broke(format!("made {what}, open {}", other.text())),
            }
            let _ = std::fs::remove_file(&path);
        }
        whiteout(report, &directory);
        fifo(report, &directory);
    }
}

/// renameat2 makes the 0:0 node of an overlay without any mknod.
fn whiteout(report: &mut Report, directory: &Path) {
    let from = directory.join(".hostile-f09-from");
    let to = directory.join(".hostile-f09-to");
    if std::fs::write(&from, b"").is_err() {
        return;
    }
    let (a, b) = (sys::cpath(&from), sys::cpath(&to));
    let at = libc::AT_FDCWD as u64;
    let flags = u64::from(libc::RENAME_WHITEOUT);
    let made =
        attempt(|| sys::call(libc::SYS_renameat2, &[at, a.as_ptr() as u64, at, b.as_ptr() as u64, flags]));
    if matches!(made, Attempt::Did(_)) {
        report.note(format!("RENAME_WHITEOUT makes a 0:0 node in {}", directory.display()));
    }
    let _ = std::fs::remove_file(from);
    let _ = std::fs::remove_file(to);
}

/// Builds need FIFOs, so a refusal is worth a note.
fn fifo(report: &mut Report, directory: &Path) {
    let path = directory.join(".hostile-f09-fifo");
    let name = sys::cpath(&path);
    let mode = u64::from(libc::S_IFIFO | 0o600);
    let made =
        attempt(|| sys::call(libc::SYS_mknodat, &[libc::AT_FDCWD as u64, name.as_ptr() as u64, mode, 0]));
    if matches!(made, Attempt::Errno(libc::EPERM)) {
        report.note(format!("even a FIFO is refused in {}", directory.display()));
    }
    let _ = std::fs::remove_file(path);
}
