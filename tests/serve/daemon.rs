//! A `fulgurite serve` as a child, its state directory, and what is left of it.
//!
//! ```text
//!   Home (directory, word of its own) ─ start ─► Daemon ─ end: SIGTERM, exit 0, census zero
//!                                          │           └ kill: SIGKILL; the next start cleans up
//!                                          └ client: a connection to its socket
//! ```
//! The word stands in the environment of every process of the daemon, and in the arguments of actions that are looked
//! for.

use crate::client::Client;
use fulgurite::action::{Digest, DigestFunction};
use fulgurite_sandbox::testing::{groups_of, is_alive, settles};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long anything may take before a test gives up. No test measures time by it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The variable that marks every process of a daemon.
const MARK: &str = "FULGURITE_TEST_SERVE";

/// A directory for daemons, one after the other. Clones are the same one; it is removed with the last.
#[derive(Clone)]
pub struct Home {
    dir: Arc<tempfile::TempDir>,
    /// A word that nobody else has.
    mark: String,
    /// The daemons that ran here.
    pids: Arc<Mutex<Vec<u32>>>,
}

/// A daemon that runs.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

/// What a daemon that ended said.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Home {
        Home::within(&std::env::temp_dir())
    }

    /// In a directory of the caller's choosing.
    pub fn within(parent: &Path) -> Home {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("serve-{}-{}-end", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("fulgurite-serve-").tempdir_in(parent).unwrap();
        Home { dir: Arc::new(dir), mark, pids: Arc::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.arg("serve").arg("--state-dir").arg(self.state());
        command.args(["--config", "/dev/null"]).args(arguments).env(MARK, &self.mark).stdin(Stdio::null());
        command
    }

    /// Starts a daemon that listens at the socket of this home.
    pub fn start(&self, arguments: &[&str]) -> Daemon {
        self.start_with(arguments, &[])
    }

    /// The same with variables.
    pub fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let started = self.try_start(arguments, variables);
        started.unwrap_or_else(|status| panic!("the daemon ended at its start: {status:?}: {}", self.said()))
    }

    /// The same; gives how it ended if it did not come up.
    pub fn try_start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Daemon, ExitStatus> {
        let socket = self.path("socket");
        let mut command = self.command(arguments);
        command.arg("--unix").arg(&socket).envs(variables.iter().copied());
        command.stdout(File::create(self.path("stdout")).unwrap());
        command.stderr(File::create(self.path("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        self.pids.lock().unwrap().push(child.id());
        let mut ended = None;
        let listens = settles(PATIENCE, || {
            ended = child.try_wait().unwrap();
            ended.is_some() || self.read("stdout").ends_with('\n')
        });
        if let Some(status) = ended {
            return Err(status);
        }
        assert!(listens, "the daemon does not listen: {}", self.said());
        let said = format!("listening on unix:{}\n", socket.display());
        assert!(self.read("stdout").starts_with(&said), "{}", self.read("stdout"));
        Ok(Daemon { child, socket })
    }

    /// Runs a daemon that shall not come up.
    pub fn refused(&self, arguments: &[&str]) -> Ended {
        let out = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { status: out.status, stdout: text(out.stdout), stderr: text(out.stderr) }
    }

    /// The pid of the last daemon.
    pub fn last_pid(&self) -> u32 {
        *self.pids.lock().unwrap().last().unwrap()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// What the last daemon logged.
    pub fn said(&self) -> String {
        self.read("stderr")
    }

    /// Checks that nothing runs or is mounted any more, and that no cgroup of any daemon of this home is there.
    pub fn check_quiet(&self) {
        let mut left = Vec::new();
        settles(PATIENCE, || {
            left = marked(&self.mark);
            for pid in self.pids.lock().unwrap().iter().filter(|pid| !is_alive(**pid)) {
                left.extend(groups_of(*pid).iter().map(|path| format!("cgroup {}", path.display())));
            }
            left.extend(self.mounts());
            left.is_empty()
        });
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// As [`Home::check_quiet`], and that no layer, spool or draft is there.
    pub fn check_clean(&self) {
        self.check_quiet();
        for part in ["layers", "spools", "store/temporary", "store/quarantine"] {
            let mut names = Vec::new();
            let is_empty = settles(Duration::from_secs(5), || {
                names = list(&self.state().join(part));
                names.is_empty()
            });
            let said = self.said();
            assert!(is_empty, "left in {part}: {names:?}; it said:\n{said}");
        }
    }

    /// The names of all that lies below a part of the state directory.
    pub fn state_names(&self, part: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut open = vec![self.state().join(part)];
        while let Some(dir) = open.pop() {
            for path in list(&dir) {
                names.push(path.file_name().unwrap().to_string_lossy().into_owned());
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                }
            }
        }
        names
    }

    fn mounts(&self) -> Vec<String> {
        let name = self.dir.path().file_name().unwrap().to_str().unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")).collect()
    }

    /// Hashes every blob: each must be what its name says, and readable only.
    pub fn check_blobs(&self) -> usize {
        let mut count = 0;
        for function in DigestFunction::ALL {
            for shard in list(&self.state().join("store/objects").join(function.name())) {
                for path in list(&shard) {
                    let digest = Digest::of(function, &std::fs::read(&path).unwrap());
                    assert_eq!(
                        path.file_name().unwrap().to_str().unwrap(),
                        digest.hex(),
                        "a blob that is not whole"
                    );
                    let mode = path.metadata().unwrap().permissions().mode();
                    assert_eq!(mode & 0o7777 & !0o111, 0o444, "{}", path.display());
                    count += 1;
                }
            }
        }
        count
    }
}

impl Daemon {
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        settles(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.expect("the daemon does not end")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a service manager does, and checks that nothing is left.
    pub fn end(self, home: &Home) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{}", home.said());
        home.check_clean();
    }

    /// Kills it, as the kernel does when memory is short.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // What a failed test leaves must not run on.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The pids of living processes that have a word in their environment or their arguments.
pub fn pids_with(word: &str) -> Vec<u32> {
    let own = std::process::id();
    let pids = list(Path::new("/proc")).into_iter();
    let pids = pids.filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let has = |pid: u32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    };
    pids.filter(|pid| *pid != own && (has(*pid, "environ") || has(*pid, "cmdline")) && is_alive(*pid))
        .collect()
}

fn marked(word: &str) -> Vec<String> {
    let shown = |pid: &u32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
        format!("process {pid} {}: {}", text(read("comm")).trim(), text(read("cmdline")))
    };
    pids_with(word).iter().map(shown).collect()
}
