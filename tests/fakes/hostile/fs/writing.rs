//! F02: writing where nothing may be written.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys;
use crate::walk;
use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// F02.
pub fn outside(facts: &Facts, report: &mut Report) {
    let writable = walk::writable(facts);
    // When the harness names the writable set, nothing else may be written; else a private file system excuses it.
    let strict = facts.get("writable").is_some() || facts.in_host_mounts();
    let declared = |p: &Path| writable.iter().any(|w| p.starts_with(w));
    let report = RefCell::new(report);
    let judge = |path: &Path, what: &str| {
        let private = walk::is_private_kind(path);
        if private && !strict {
            report.borrow_mut().note(format!("{what} {}, which is private", path.display()));
            report.borrow_mut().held();
        } else {
            report.borrow_mut().broke(format!("{what} {}", path.display()));
        }
    };
    let mut directories = vec![PathBuf::from("/"), PathBuf::from("/proc"), PathBuf::from("/proc/self")];
    directories.extend(walk::roots().into_iter().filter(|r| !declared(r)));
    let complete = walk::everything(&mut |p| !declared(p), &mut |path, kind| {
        if declared(path) {
        } else if kind.is_dir() {
            directories.push(path.to_path_buf());
        } else if kind.is_file() {
            match sys::open(path, libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW) {
                Ok(_) => judge(path, "opened for writing"),
                Err(_) => report.borrow_mut().held(),
            }
        }
    });
    for directory in &directories {
        for what in make_in(directory) {
            judge(directory, what);
        }
        report.borrow_mut().held();
    }
    report.borrow_mut().note(format!(
        "{} directories{}",
        directories.len(),
        if complete { "" } else { ", cut short" }
    ));
    for (what, path) in metadata() {
        judge(path, what);
    }
}

/// Tries to make things in a directory; removes what it made.
fn make_in(directory: &Path) -> Vec<&'static str> {
    let mut made = Vec::new();
    let name = directory.join(format!(".hostile-f02-{}", std::process::id()));
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    if sys::open_mode(&name, flags, 0o600).is_ok() {
        made.push("created a file in");
        let _ = std::fs::remove_file(&name);
    }
    if std::fs::create_dir(&name).is_ok() {
        made.push("created a directory in");
        let _ = std::fs::remove_dir(&name);
    }
    if std::os::unix::fs::symlink("/", &name).is_ok() {
        made.push("created a link in");
        let _ = std::fs::remove_file(&name);
    }
    if sys::open_mode(directory, libc::O_WRONLY | libc::O_TMPFILE, 0o600).is_ok() {
        made.push("created a nameless file in");
    }
    made
}

/// Metadata of the root and of the toolchain; values are set to what they are, so that success changes nothing.
fn metadata() -> Vec<(&'static str, &'static Path)> {
    let mut done = Vec::new();
    use std::os::unix::fs::MetadataExt;
    for path in ["/", "/usr", "/bin/sh", "/etc/passwd", "/etc", "/lib", "/proc/self/exe", "/dev/null", "/dev"]
    {
        let Ok(meta) = std::fs::metadata(path) else { continue };
        let name = sys::cpath(path);
        let at = libc::AT_FDCWD as u64;
        let mode = u64::from(meta.mode() & 0o7777);
        let calls = [
            ("chmod", sys::call(libc::SYS_fchmodat, &[at, name.as_ptr() as u64, mode])),
            ("utimensat", touch(path, &meta)),
            ("setxattr", xattr(&name)),
        ];
        for (what, result) in calls {
            if result.is_ok() {
                done.push((what, Path::new(path)));
            }
        }
        if let Ok(fd) = sys::open(path, libc::O_RDONLY | libc::O_NONBLOCK) {
            let result = sys::call(libc::SYS_fchmod, &[fd.as_raw_fd() as u64, mode]);
            if result.is_ok() {
                done.push(("fchmod", Path::new(path)));
            }
        }
    }
    done
}

fn touch(path: &str, meta: &std::fs::Metadata) -> Result<i64, i32> {
    use std::os::unix::fs::MetadataExt;
    let times = [meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()];
    let name = sys::cpath(path);
    sys::call(libc::SYS_utimensat, &[libc::AT_FDCWD as u64, name.as_ptr() as u64, times.as_ptr() as u64, 0])
}

fn xattr(name: &std::ffi::CStr) -> Result<i64, i32> {
    let key = c"user.hostile";
    let r = sys::call(
        libc::SYS_setxattr,
        &[name.as_ptr() as u64, key.as_ptr() as u64, key.as_ptr() as u64, 1, 0],
    );
    let _ = sys::call(libc::SYS_removexattr, &[name.as_ptr() as u64, key.as_ptr() as u64]);
    r
}
