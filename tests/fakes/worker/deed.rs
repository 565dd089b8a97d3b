//! What a bad worker does to its surroundings: each deed bounds itself in bytes, count and time.
//!
//! Children are this program again, with `--child=KIND` as the first argument.

use super::fault::Fault;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// After this a deed is over, whoever did not end it.
pub const FOREVER: Duration = Duration::from_secs(600);

/// What is written into an output that should be sealed.
const LATE: &[u8] = b"LATE LATE LATE\n";
const LATE_EVERY: Duration = Duration::from_millis(20);
const LATE_TIMES: u32 = 500;

const MIB: usize = 1 << 20;

/// What lives on after its request.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

#[expect(dead_code, reason = "held, never looked at")]
enum Kept {
    File(File),
    Map(memmap2::MmapMut),
    Memory(Vec<u8>),
}

fn keep(kept: Kept) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
}

/// Sleeps for longer than any test.
pub fn hang() -> ! {
    thread::sleep(FOREVER);
    std::process::exit(97)
}

/// A signal to itself, as often as it takes: Rust's own handler swallows the first of some.
pub fn signal(number: u64) -> ! {
    let number = i32::try_from(number).unwrap_or(libc::SIGKILL);
    for _ in 0..100 {
        // SAFETY: two integers; the worst that can come of it is the end of this process, which is wanted.
        unsafe { libc::kill(libc::getpid(), number) };
        thread::sleep(Duration::from_millis(5));
    }
    std::process::exit(98)
}

/// Stops, until somebody lets it go on.
pub fn stop() {
    // To this thread: by kill(2) another one may take it, and this one would go on for a while and reply.
    // SAFETY: an integer; the process stops, which is wanted.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// SIGTERM does nothing any more.
pub fn ignore_term() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

/// Closes standard output, whoever uses it.
pub fn close_stdout() {
    // SAFETY: nothing in this process takes descriptor 1 for its own; a write to it fails from now on.
    unsafe { libc::close(1) };
}

/// Allocates that much, and touches every page of it.
pub fn eat_memory(mebibytes: u64) {
    for _ in 0..mebibytes {
        keep(Kept::Memory(vec![1; MIB]));
    }
}

/// That much text on stderr; who does not read it makes it block.
pub fn flood_stderr(kibibytes: u64, pause: Duration) {
    let line = [b"a line of noise on standard error, as a compiler makes it\n".repeat(18), vec![b'\n'; 16]];
    let block = &line.concat()[..1024];
    for _ in 0..kibibytes {
        if io::stderr().write_all(block).is_err() {
            return;
        }
        thread::sleep(pause);
    }
}

/// Keeps the output open, or mapped, for writing.
pub fn hold(fault: &Fault, path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let writes = fault.value() == Some("write");
    if fault.name() == "hold-mapped" {
        // SAFETY: nobody truncates an output of a test; if somebody did, this process would end by SIGBUS.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }?;
        if !writes {
            keep(Kept::Map(map));
            return Ok(());
        }
        let length = map.len().min(LATE.len());
        thread::spawn(move || late(|| map[..length].copy_from_slice(&LATE[..length])));
    } else if writes {
        thread::spawn(move || {
            late(|| {
                let _ = file.rewind().and_then(|()| file.write_all(LATE));
            });
        });
    } else {
        keep(Kept::File(file));
    }
    Ok(())
}

fn late(mut write: impl FnMut()) {
    for _ in 0..LATE_TIMES {
        thread::sleep(LATE_EVERY);
        write();
    }
}

/// A child in a session of its own that overwrites the file, again and again.
pub fn late_write(fault: &Fault, path: &Path) -> io::Result<u32> {
    let mut command = child("late-write");
    command.arg(fault.number(500).to_string());
    if fault.name() == "late-write-fd" {
        command.stdout(OpenOptions::new().write(true).open(path)?);
    } else {
        command.arg(path).stdout(Stdio::null());
    }
    Ok(command.spawn()?.id())
}

/// Children that sleep, every other one in a session of its own.
pub fn fork_children(count: u64) -> io::Result<Vec<u32>> {
    let kinds = ["sleep", "detached-sleep"].iter().cycle();
    let count = usize::try_from(count.min(256)).unwrap_or(0);
    kinds.take(count).map(|kind| Ok(child(kind).stdout(Stdio::null()).spawn()?.id())).collect()
}

fn child(kind: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(format!("--child={kind}")).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The life of a child.
pub fn be_child(kind: &str, arguments: &[String]) -> ! {
    if kind != "sleep" {
        // SAFETY: it takes nothing; in a fresh child, which leads no group, it can't fail.
        unsafe { libc::setsid() };
    }
    if kind == "late-write" {
        let millis = arguments.first().and_then(|millis| millis.parse().ok()).unwrap_or(500);
        thread::sleep(Duration::from_millis(millis));
        let path = arguments.get(1);
        late(|| match path {
            Some(path) => drop(fs::write(path, LATE)),
            None => drop(io::stdout().rewind_and_write(LATE)),
        });
        std::process::exit(0);
    }
    hang()
}

trait RewindAndWrite {
    fn rewind_and_write(self, bytes: &[u8]) -> io::Result<()>;
}

impl RewindAndWrite for io::Stdout {
    fn rewind_and_write(self, bytes: &[u8]) -> io::Result<()> {
        rustix::io::pwrite(&self, bytes, 0)?;
        Ok(())
    }
}
