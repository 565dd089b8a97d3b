//! Bare runs: the floor, and the peers' programs. Children of this process by `posix_spawn`.
//!
//! `std::process` uses posix_spawn(3) as long as no code has to run between fork and exec and the program is given by
//! its path, which is so here.
//!
//! A peer may end before its own children have: they then become ours (this process is a subreaper while it measures),
//! and are waited for, so that their CPU time counts.
use super::error::BenchError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, set_child_subreaper, waitpid};
use rustix::time::Timespec;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// Where programs are looked for, as the environment of every case has it.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long a peer's own children may outlive it before they are left alone.
const ORPHAN_PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The standard streams of a run: nothing, and two files that take what it says.
#[derive(Debug)]
pub struct Streams {
    null: File,
    out: PathBuf,
    err: PathBuf,
}

impl Streams {
    /// Streams whose files lie in `directory`.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn new(directory: &Path, name: &str) -> Result<Self, BenchError> {
        let null = File::open("/dev/null").map_err(BenchError::file("open /dev/null"))?;
        let (out, err) = (directory.join(format!("{name}.out")), directory.join(format!("{name}.err")));
        Ok(Streams { null, out, err })
    }

    /// Standard input.
    #[must_use]
    pub fn null(&self) -> &File {
        &self.null
    }

    /// Makes both files anew.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> io::Result<(File, File)> {
        Ok((File::create(&self.out)?, File::create(&self.err)?))
    }

    /// The line that says what went wrong: the first with an error in it, else the last one; from standard error, or
    /// where that is empty from standard output.
    #[must_use]
    pub fn last_words(&self) -> String {
        let texts = [&self.err, &self.out].into_iter().filter_map(|path| std::fs::read(path).ok());
        texts
            .map(|bytes| telling_line(&String::from_utf8_lossy(&bytes)))
            .find(|line| !line.is_empty())
            .unwrap_or_default()
    }
}

fn telling_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find(|line| line.contains("error:"));
    error.or_else(|| lines.next_back()).unwrap_or_default().to_owned()
}

/// A command line with its surroundings.
#[derive(Clone, Debug)]
pub struct Bare {
    /// The program, by its path, and its arguments.
    pub arguments: Vec<OsString>,
    /// Where it starts.
    pub directory: PathBuf,
    /// Where it may put its own temporary files.
    pub temporary: PathBuf,
}

impl Bare {
    /// Runs it and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, streams: &Streams) -> io::Result<ExitStatus> {
        let (out, err) = streams.open()?;
        let (program, rest) =
            self.arguments.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut command = Command::new(program);
        command.args(rest).current_dir(&self.directory).env_clear().envs(variables(&self.temporary));
        command.stdin(streams.null.try_clone()?).stdout(out).stderr(err).status()
    }
}

/// The environment of every case.
pub fn variables(temporary: &Path) -> [(&'static str, &OsStr); 3] {
    [("PATH", OsStr::new(PATH)), ("LC_ALL", OsStr::new("C")), ("TMPDIR", temporary.as_os_str())]
}

/// Looks for a program.
///
/// # Errors
/// [`BenchError::NoProgram`].
pub fn find_program(name: &str, remedy: &'static str) -> Result<PathBuf, BenchError> {
    installed(name).ok_or_else(|| BenchError::NoProgram { name: name.to_owned(), remedy })
}

/// Looks for a program that may not be there.
#[must_use]
pub fn installed(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}

/// Takes over what peers leave behind, as long as it lives.
#[derive(Debug)]
pub struct Orphans {
    known: BTreeSet<i32>,
}

impl Orphans {
    /// All present children, zygotes above all, are known and left alone.
    #[must_use]
    pub fn adopt() -> Self {
        // Where it is refused, only the CPU time of some peers' helpers is missed.
        let _ = set_child_subreaper(Some(rustix::process::getpid()));
        Orphans { known: children() }
    }

    /// Counts the children of now among the known: call it after sandboxes were made.
    pub fn know(&mut self) {
        self.known.extend(children());
    }

    /// Waits for the end of all children that were not known. Only when no other thread waits for a child.
    pub fn reap(&self) {
        for pid in children().difference(&self.known).filter_map(|pid| Pid::from_raw(*pid)) {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let mut events = [PollFd::new(&pidfd, PollFlags::IN)];
            if matches!(poll(&mut events, Some(&ORPHAN_PATIENCE)), Ok(1..)) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let _ = set_child_subreaper(None);
    }
}

/// The children of all threads.
fn children() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_runs_capture_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let streams = Streams::new(dir.path(), "a").unwrap();
        let words = ["/bin/sh", "-c", "echo $TMPDIR; pwd >&2; exit 3"].map(OsString::from).to_vec();
        let bare = Bare { arguments: words, directory: "/".into(), temporary: "/tmp".into() };
        let status = bare.run(&streams).unwrap();
        assert_eq!((status.code(), streams.last_words().as_str()), (Some(3), "/"));
        assert_eq!(std::fs::read_to_string(dir.path().join("a.out")).unwrap(), "/tmp\n");
    }

    #[test]
    fn the_telling_line_is_the_first_error_or_the_last_line() {
        let compiler = "a.c: In function 'f':\na.c:1:9: error: expected ';'\ncompilation terminated.\n";
        assert_eq!(telling_line(compiler), "a.c:1:9: error: expected ';'");
        assert_eq!(telling_line("first\nlast\n\n"), "last");
        assert_eq!(telling_line("\n"), "");
    }

    #[test]
    fn programs_are_found_or_named() {
        assert!(find_program("sh", "").unwrap().is_absolute());
        let error = find_program("no-such-program", "install it").unwrap_err();
        assert!(error.to_string().contains("no-such-program"));
        assert_eq!(error.hint().as_deref(), Some("install it"));
    }
}
