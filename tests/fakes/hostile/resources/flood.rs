//! R09: more output than anyone wants.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, End, errname};
use std::sync::atomic::Ordering::SeqCst;

const SECONDS: u64 = 120;
const MOST: u64 = 256 << 20;

/// Terminal control, a title, an answer-back request, invalid UTF-8, NULs, and no newline.
const PATTERN: &[u8] =
    b"\0\x1b[2J\x1b]0;hostile\x07\x1b[6n\xff\xfe\xc0\x80\r\x08\x9b31m{\"verdict\":\"held\"}\0";

/// R09.
pub fn stdout(facts: &Facts, report: &mut Report) {
    flood(facts, report, 1);
}

/// R09-stderr.
pub fn stderr(facts: &Facts, report: &mut Report) {
    flood(facts, report, 2);
}

fn flood(facts: &Facts, report: &mut Report, fd: u64) {
    let Ok(shared) = sys::shared() else { return report.broke("inconclusive: no shared memory") };
    let most = facts.number("flood_bytes").unwrap_or(MOST);
    let end = sys::in_child(SECONDS, || {
        let block = PATTERN.repeat((64 << 10) / PATTERN.len());
        while shared[0].load(SeqCst) < most {
            let want = (most - shared[0].load(SeqCst)).min(block.len() as u64);
            match sys::call(libc::SYS_write, &[fd, block.as_ptr() as u64, want]) {
                Ok(n) => drop(shared[0].fetch_add(n.unsigned_abs(), SeqCst)),
                Err(e) => return errname(e).into_bytes(),
            }
        }
        // So that a verdict on the same stream, if both are one, begins a line.
        let _ = sys::call(libc::SYS_write, &[fd, b"\n".as_ptr() as u64, 1]);
        b"all".to_vec()
    });
    let how = match end {
        End::Said(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        End::Signal(s) => format!("signal {s}"),
        End::Hung => "blocked".to_string(),
        End::NoFork(e) => return report.broke(format!("inconclusive: fork {}", errname(e))),
    };
    report.held();
    report.note(format!(
        "wrote {} bytes of {most} to descriptor {fd}: {how}; only the harness can judge",
        shared[0].load(SeqCst)
    ));
}
