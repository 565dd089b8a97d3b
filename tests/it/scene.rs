//! A stage for one test: directories, an identity, and runs of `fulgurite` that are watched for what they leave.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::census::{self, Owner};

/// The variable that marks every process of a scene.
pub const MARK: &str = "FULGURITE_TEST_SCENE";
/// The ordinary user that root plays.
const NOBODY: u32 = 65534;

/// As whom `fulgurite` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    User,
}

/// The directories and the identity of one test.
#[derive(Debug)]
pub struct Scene {
    pub who: Who,
    /// A word that no other scene has.
    pub mark: String,
    dir: tempfile::TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// The name of the running test, for skips.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Says that the running test, or a part of it, does not run here.
pub fn skip(part: &str, why: &str) {
    let part = if part.is_empty() { String::new() } else { format!("::{part}") };
    eprintln!("SKIP {}{part}: {why}", test_name());
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Plays a case as `who`, then looks for what is left.
pub fn play(who: Who, case: fn(&Scene)) {
    if who == Who::Root && !is_root() {
        return skip("", "only root can run as root");
    }
    let scene = Scene::new(who);
    case(&scene);
    scene.census();
}

impl Scene {
    fn new(who: Who) -> Scene {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("scene-{}-{number}-end", std::process::id());
        let dir = tempfile::Builder::new().prefix("fulgurite-it-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let scene = Scene { who, mark, dir };
        for path in [scene.root(), scene.state()] {
            std::fs::create_dir(&path).unwrap();
            scene.own(&path);
        }
        scene.own(scene.dir.path());
        scene
    }

    /// The directory of the scene.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The exec root.
    pub fn root(&self) -> PathBuf {
        self.dir().join("exec")
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The user id of `fulgurite` here.
    pub fn uid(&self) -> u32 {
        match self.who {
            Who::Root => 0,
            Who::User if is_root() => NOBODY,
            Who::User => rustix::process::geteuid().as_raw(),
        }
    }

    /// Gives a file to the identity of the scene.
    pub fn own(&self, path: &Path) {
        if is_root() {
            chown(path, Some(self.uid()), Some(self.uid())).unwrap();
        }
    }

    /// A path below the exec root, its parent directories made.
    pub fn path(&self, name: &str) -> PathBuf {
        let mut here = self.root();
        let parts: Vec<&str> = name.split('/').collect();
        for part in &parts[..parts.len() - 1] {
            here.push(part);
            if !here.exists() {
                self.make_dir_at(&here);
            }
        }
        self.root().join(name)
    }

    fn make_dir_at(&self, path: &Path) {
        std::fs::create_dir(path).unwrap();
        self.own(path);
    }

    /// Makes a directory below the exec root.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.make_dir_at(&path);
        path
    }

    /// Writes a file below the exec root.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        self.own(&path);
        path
    }

    /// Reads a file below the exec root.
    pub fn read(&self, name: &str) -> String {
        let path = self.root().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The names in a directory below the exec root, sorted.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The program, where the identity of the scene can execute it.
    pub fn program(&self) -> PathBuf {
        let built = Path::new(env!("CARGO_BIN_EXE_fulgurite"));
        if self.who == Who::Root || !is_root() || built.ancestors().all(others_may_enter) {
            return built.to_owned();
        }
        let copy = self.dir().join("fulgurite");
        if !copy.exists() {
            std::fs::copy(built, &copy).unwrap();
        }
        copy
    }

    /// `program` as the identity of the scene, in the exec root, with an environment of three variables.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("FULGURITE_STATE_DIR", self.state())
            .env(MARK, &self.mark)
            .current_dir(self.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.who == Who::User && is_root() {
            // The standard library drops the supplementary groups as well.
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// `fulgurite` with these arguments.
    pub fn fulgurite(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.program());
        command.args(arguments);
        command
    }

    /// `fulgurite run`, with the mark in the environment of what it runs.
    pub fn run_command(&self, options: &[&str], action: &[&str]) -> Command {
        let mut command = self.fulgurite(&["run", "--env", &format!("{MARK}={}", self.mark)]);
        command.args(options).arg("--").args(action);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, options: &[&str], action: &[&str]) -> Finished {
        self.finish(self.run_command(options, action).spawn().unwrap())
    }

    /// Runs a shell script.
    pub fn sh(&self, options: &[&str], script: &str) -> Finished {
        self.run(options, &["/bin/sh", "-c", script])
    }

    /// Runs with this on standard input.
    pub fn run_with_input(&self, mut command: Command, input: &[u8]) -> Finished {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that does not read what it is given is no failure of the test.
        let _ = stdin.write_all(input);
        drop(stdin);
        self.finish(child)
    }

    /// Waits for the end of a child, and takes the census of what it left.
    pub fn finish(&self, child: Child) -> Finished {
        let owner = Owner::of(&child);
        let finished = Finished::of(child);
        let left = census::of(self, Some(owner));
        assert!(left.is_empty(), "left behind: {left:#?}\nafter {finished:#?}");
        finished
    }

    /// Fails if anything of this scene is left.
    pub fn census(&self) {
        let left = census::of(self, None);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Whether this identity can limit `what`: memory, cpu, pids.
    pub fn can_limit(&self, what: &str) -> bool {
        let doctor = Finished::of(self.fulgurite(&["doctor", "--json"]).spawn().unwrap());
        let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let name = format!("limit: {what}");
        let finding = findings.as_array().unwrap().iter().find(|finding| finding["name"] == *name);
        finding.unwrap_or_else(|| panic!("doctor says nothing of {name}"))["ok"] == true
    }
}

impl Drop for Scene {
    /// After a failure there may be processes left; they are this test's own, by their mark.
    fn drop(&mut self) {
        if std::thread::panicking() {
            census::kill(&self.mark);
        }
    }
}

fn others_may_enter(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0)
}

impl Finished {
    /// Waits for the end of a child.
    pub fn of(child: Child) -> Finished {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Finished { status: output.status, stdout: output.stdout, stderr }
    }

    /// The exit code, or a signal as the shell shows it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 1000 + self.status.signal().unwrap_or(0))
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// It ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code(), code, "{}\n{}", self.stderr, String::from_utf8_lossy(&self.stdout));
        self
    }

    /// It succeeded, and Fulgurite said nothing.
    #[track_caller]
    pub fn silent(self) -> Finished {
        assert_eq!(self.stderr, "");
        self.expect(0)
    }

    /// It ended with this code and one line that has all of these parts.
    #[track_caller]
    pub fn one_line(self, code: i32, parts: &[&str]) -> Finished {
        let finished = self.expect(code);
        let line = finished.stderr.strip_suffix('\n').unwrap_or("no newline at the end\n");
        assert!(line.starts_with("fulgurite: ") && !line.contains('\n'), "{}", finished.stderr);
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        finished
    }
}
