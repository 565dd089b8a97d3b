//! R05 and R06: bytes and inodes.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, End, errname};
use crate::walk;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SECONDS: u64 = 240;
/// Bound of R06 without a fact.
const MOST_INODES: u64 = 200_000;

/// R05.
pub fn bytes(facts: &Facts, report: &mut Report) {
    let Some(limit) = facts.number("disk_limit") else { return report.skip("no fact disk_limit") };
    each(facts, report, "bytes", limit, |directory, count, bound, end| {
        // SAFETY: ignoring a signal has no memory arguments; a file size limit then answers EFBIG.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let mut block = vec![0u8; 1 << 20];
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut number = 0;
        let mut file = File::create(directory.join("0")).map_err(code)?;
        while count.load(SeqCst) < bound && Instant::now() < end {
            // Nothing that a file system could fold or compress.
            for word in block.chunks_exact_mut(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                word.copy_from_slice(&seed.to_le_bytes());
            }
            match file.write_all(&block) {
                Ok(()) => drop(count.fetch_add(block.len() as u64, SeqCst)),
                Err(e) if e.raw_os_error() == Some(libc::EFBIG) && number < 4096 => {
                    number += 1;
                    file = File::create(directory.join(number.to_string())).map_err(code)?;
                }
                Err(e) => return Err(code(e)),
            }
        }
        // Delayed allocation must not hide the refusal.
        if count.load(SeqCst) >= bound { file.sync_data().map_err(code) } else { Err(libc::ETIME) }
    });
}

/// R06.
pub fn inodes(facts: &Facts, report: &mut Report) {
    let limit = facts.number("inode_limit").unwrap_or(MOST_INODES / 2);
    each(facts, report, "inodes", limit, |directory, count, bound, end| {
        while count.load(SeqCst) < bound && Instant::now() < end {
            let number = count.load(SeqCst);
            let path = directory.join(number.to_string());
            match number % 3 {
                0 => fs::create_dir(path),
                1 => File::create(path).map(drop),
                _ => std::os::unix::fs::symlink("/nowhere", path),
            }
            .map_err(code)?;
            count.fetch_add(1, SeqCst);
        }
        if count.load(SeqCst) >= bound { Ok(()) } else { Err(libc::ETIME) }
    });
}

fn code(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Runs a bomb in every writable directory, up to twice the limit, and cleans up after it.
fn each(
    facts: &Facts,
    report: &mut Report,
    what: &str,
    limit: u64,
    bomb: impl Fn(&Path, &AtomicU64, u64, Instant) -> Result<(), i32>,
) {
    report.skip("no writable directory");
    for place in places(facts) {
        let directory = place.join(format!(".hostile-r05-{}", std::process::id()));
        if fs::create_dir(&directory).is_err() {
            continue;
        }
        let Ok(shared) = sys::shared() else { return report.broke("inconclusive: no shared memory") };
        let end = Instant::now() + Duration::from_secs(SECONDS);
        let result = sys::in_child(SECONDS + 15, || {
            let result = bomb(&directory, &shared[0], limit.saturating_mul(2), end);
            i64::from(result.err().unwrap_or(0)).to_le_bytes().to_vec()
        });
        let done = format!("{} {what} in {}, limit {limit}", shared[0].load(SeqCst), place.display());
        judge(report, result, shared[0].load(SeqCst) > limit, &done);
        let _ = fs::remove_dir_all(&directory);
    }
}

fn judge(report: &mut Report, end: End, above: bool, done: &str) {
    let errno = match &end {
        End::Said(bytes) => {
            <[u8; 8]>::try_from(bytes.as_slice()).map_or(libc::EPROTO, |b| i64::from_le_bytes(b) as i32)
        }
        End::Signal(libc::SIGKILL) => {
            report.held();
            return report.note(format!("killed after {done}"));
        }
        End::Signal(s) => return report.broke(format!("inconclusive: signal {s} after {done}")),
        End::Hung => return report.broke(format!("inconclusive: hung after {done}")),
        End::NoFork(e) => return report.broke(format!("inconclusive: fork {}", errname(*e))),
    };
    match errno {
        0 => report.broke(format!("got {done}")),
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => {
            report.check(above, format!("{} only after {done}", errname(errno)));
            report.note(format!("{} after {done}", errname(errno)));
        }
        libc::ETIME => report.broke(format!("inconclusive: {SECONDS} s over after {done}")),
        other => report.broke(format!("inconclusive: {} after {done}", errname(other))),
    }
}

/// The directories of the fact; else writable directories, but only one of several on the same device.
fn places(facts: &Facts) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    if let Some(chosen) = facts.list("disk_places") {
        return chosen.into_iter().map(PathBuf::from).collect();
    }
    let mut places = walk::writable(facts);
    places.extend(["/tmp", "/dev/shm"].map(PathBuf::from));
    let mut seen = std::collections::BTreeSet::new();
    places.retain(|p| fs::metadata(p).is_ok_and(|m| m.is_dir() && seen.insert(m.dev())));
    places
}
