//! What tests share: the runtime, sandboxes that give their seat back, commands with captured output.
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::runtime::{CgroupUse, Runtime, RuntimeOptions, Template};
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use fulgurite_sandbox::spec::{HostMount, SandboxSpec};
use fulgurite_sandbox::testing::{Census, Scope, is_alive, settles};
use libtest_mimic::Failed;
use rustix::fs::MemfdFlags;
use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What a test gives back.
pub type Checked = Result<(), Failed>;

/// How long things may take that happen soon after; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Sandboxes that a test may have at once without making new seats.
const SEATS: usize = 4;
/// Where the program of [`crate::probe`] is inside.
pub const PROBE: &str = "/it";

/// What tests share.
pub struct Fixture {
    runtime: Result<Arc<Runtime>, String>,
    company: RwLock<()>,
}

impl Fixture {
    /// Without a runtime: to list the tests, and for those that start processes of their own.
    pub fn absent() -> Arc<Fixture> {
        Arc::new(Fixture { runtime: Err("not started".to_owned()), company: RwLock::new(()) })
    }

    /// Starts the runtime.
    pub fn start() -> Arc<Fixture> {
        let runtime = Runtime::start(&options()).map(Arc::new).map_err(|error| error.to_string());
        Arc::new(Fixture { runtime, company: RwLock::new(()) })
    }

    /// The runtime, or why there is none.
    pub fn started(&self) -> &Result<Arc<Runtime>, String> {
        &self.runtime
    }

    /// Sees to it that there are as many spare seats as tests use at once, so that none of them seems to
    /// leave one.
    fn make_seats(&self) -> Checked {
        (0..SEATS).map(|_| self.sandbox()).collect::<Result<Vec<_>, _>>().map(drop)
    }

    /// The runtime. Tests that need none are not given a fixture without one.
    pub fn runtime(&self) -> &Arc<Runtime> {
        match &self.runtime {
            Ok(runtime) => runtime,
            Err(why) => panic!("no runtime: {why}"),
        }
    }

    /// The usual spec, with the probe.
    pub fn spec(&self) -> SandboxSpec {
        SandboxSpec { mounts: vec![probe_mount()], ..SandboxSpec::default() }
    }

    /// A template.
    pub fn template(&self, spec: &SandboxSpec) -> Result<Arc<Template>, Failed> {
        Ok(self.runtime().template(spec)?)
    }

    /// A sandbox of the usual spec.
    pub fn sandbox(&self) -> Result<Held<'_>, Failed> {
        self.sandbox_of(&self.spec())
    }

    /// A sandbox of this spec.
    pub fn sandbox_of(&self, spec: &SandboxSpec) -> Result<Held<'_>, Failed> {
        let template = self.template(spec)?;
        Ok(self.hold(Sandbox::create(self.runtime(), &template)?))
    }

    /// Sees to it that a sandbox gives its seat back.
    pub fn hold(&self, sandbox: Sandbox) -> Held<'_> {
        Held { sandbox: Some(sandbox), runtime: self.runtime() }
    }

    /// What belongs to this process, apart from what templates and id maps keep for good.
    fn scope(&self, runtime: &Runtime) -> Scope {
        Scope::new()
            .without("descriptor memfd:fulgurite-plan")
            .without("descriptor user")
            .without("descriptor mnt")
            .with_zygote(runtime.zygote_pid())
            .without("mount in the zygote")
    }

    /// Runs a test; if it is to be alone, it must leave everything as it was.
    pub fn run(&self, body: fn(&Fixture) -> Checked, is_alone: bool) -> Checked {
        if !is_alone {
            let _together = self.company.read().unwrap_or_else(PoisonError::into_inner);
            return body(self);
        }
        let _alone = self.company.write().unwrap_or_else(PoisonError::into_inner);
        let scope = match &self.runtime {
            Ok(runtime) => {
                self.make_seats()?;
                self.scope(runtime)
            }
            Err(_) => Scope::new(),
        };
        let before = Census::at_rest(&scope, PATIENCE);
        body(self)?;
        nothing(before.settled(&scope, PATIENCE), "left behind")
    }
}

/// How runtimes are started: `FULGURITE_IT_CGROUPS` may be `v2` or `none`.
pub fn options() -> RuntimeOptions {
    let cgroups = match std::env::var("FULGURITE_IT_CGROUPS").as_deref() {
        Ok("v2") => CgroupUse::OnlyV2,
        Ok("none") => CgroupUse::None,
        _ => CgroupUse::All,
    };
    RuntimeOptions { cgroups, once: false }
}

/// The mount that shows the test binary inside.
pub fn probe_mount() -> HostMount {
    let source = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    HostMount { source, target: PathBuf::from(PROBE), writable: false }
}

/// All that this process holds, but for its mounts, which are its own after the start.
fn everything() -> Scope {
    Scope::new().without("mount").without("thread")
}

/// Counts all that this process holds, for the comparison of before the start with after the stop.
pub fn census_of_everything() -> Census {
    Census::of(&everything())
}

/// Stops the runtime and compares with what was before it.
pub fn stop(fixture: Arc<Fixture>, before: &Census) -> Result<(), String> {
    let Some(Fixture { runtime: Ok(runtime), .. }) = Arc::into_inner(fixture) else { return Ok(()) };
    let runtime = Arc::into_inner(runtime).ok_or("the runtime is still in use")?;
    runtime.stop().map_err(|error| error.to_string())?;
    let left = before.settled(&everything(), PATIENCE);
    if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
}

/// A sandbox that gives its seat back when it goes out of scope.
pub struct Held<'a> {
    sandbox: Option<Sandbox>,
    runtime: &'a Arc<Runtime>,
}

impl Held<'_> {
    /// Makes it like new, and waits for it.
    pub fn reset(&mut self) -> Checked {
        self.begin_reset()?;
        Ok(self.finish_reset()?)
    }

    /// Takes the sandbox out.
    pub fn release(mut self) -> Sandbox {
        self.sandbox.take().unwrap_or_else(|| panic!("a held sandbox is there until it is dropped"))
    }
}

impl Deref for Held<'_> {
    type Target = Sandbox;
    fn deref(&self) -> &Sandbox {
        self.sandbox.as_ref().unwrap_or_else(|| panic!("a held sandbox is there until it is dropped"))
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Sandbox {
        self.sandbox.as_mut().unwrap_or_else(|| panic!("a held sandbox is there until it is dropped"))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let destroyed = self.sandbox.take().map(|sandbox| sandbox.destroy(self.runtime));
        if let Some(Err(error)) = destroyed {
            eprintln!("cannot destroy a sandbox: {error}");
        }
    }
}

/// A command to run in a sandbox.
pub struct Command {
    pub arguments: Vec<CString>,
    pub variables: Vec<CString>,
    pub directory: CString,
    pub limits: Limits,
    pub timeout: Option<Duration>,
    pub kill_delay: Duration,
    pub fail_at: u32,
}

impl Command {
    /// A program with its arguments.
    pub fn new<S: AsRef<str>>(arguments: &[S]) -> Self {
        Command {
            arguments: arguments.iter().map(|argument| c(argument.as_ref())).collect(),
            variables: vec![c"PATH=/usr/bin:/bin".to_owned()],
            directory: c"/work".to_owned(),
            limits: Limits::default(),
            timeout: Some(Duration::from_secs(60)),
            kill_delay: Duration::ZERO,
            fail_at: 0,
        }
    }

    /// A shell script.
    pub fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    /// One of the attempts of [`crate::probe`].
    pub fn probe(arguments: &[&str]) -> Self {
        let mut all = vec![PROBE, "probe"];
        all.extend_from_slice(arguments);
        Self::new(&all)
    }

    /// Runs it.
    pub fn run(&self, sandbox: &mut Sandbox) -> Ran {
        self.run_on(sandbox, None)
    }

    /// Runs it with this mount at /work.
    pub fn run_on(&self, sandbox: &mut Sandbox, work: Option<BorrowedFd<'_>>) -> Ran {
        let (mut stdout, mut stderr) = (memory_file("stdout"), memory_file("stderr"));
        let outcome = self.run_with(sandbox, work, stdout.as_fd(), stderr.as_fd());
        Ran { outcome, stdout: contents(&mut stdout), stderr: contents(&mut stderr) }
    }

    /// Runs it with these as output and error.
    pub fn run_with(
        &self,
        sandbox: &mut Sandbox,
        work: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Outcome {
        let stdin = File::open("/dev/null").unwrap_or_else(|error| panic!("cannot open /dev/null: {error}"));
        sandbox.run(&Action {
            arguments: &self.arguments,
            variables: &self.variables,
            directory: &self.directory,
            stdin: stdin.as_fd(),
            stdout,
            stderr,
            work,
            limits: &self.limits,
            timeout: self.timeout,
            kill_delay: self.kill_delay,
            terminal: false,
            fail_at: self.fail_at,
        })
    }
}

/// What a command gave.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Fails unless the command ended like this.
    pub fn ended(self, end: End) -> Result<Ran, Failed> {
        check(self.outcome.end == end, format!("expected {end:?}, got {self:?}"))?;
        Ok(self)
    }

    /// Fails unless the command ended with 0 and all is quiet; gives what it wrote, without the last line
    /// feed.
    pub fn succeeded(self) -> Result<String, Failed> {
        let ran = self.ended(End::Exited(0))?;
        check(ran.outcome.quiet, format!("not quiet: {ran:?}"))?;
        Ok(ran.stdout.trim_end().to_owned())
    }
}

/// A C string of a text without NUL.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| panic!("{text:?} holds a NUL"))
}

/// A file in memory.
pub fn memory_file(name: &str) -> File {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC);
    File::from(file.unwrap_or_else(|errno| panic!("cannot make a memfd: {errno}")))
}

/// All that is in a file.
pub fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.unwrap_or_else(|error| panic!("cannot read back the output: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Fails with a message unless the condition holds.
pub fn check(condition: bool, message: impl Into<String>) -> Checked {
    if condition { Ok(()) } else { Err(Failed::from(message.into())) }
}

/// Fails unless both are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: impl Display) -> Checked {
    check(found == expected, format!("{what}: expected {expected:?}, got {found:?}"))
}

/// Fails unless a text has a part.
pub fn contains(text: &str, part: &str) -> Checked {
    check(text.contains(part), format!("{text:?} lacks {part:?}"))
}

/// Fails unless a list of differences is empty.
pub fn nothing(lines: Vec<String>, what: &str) -> Checked {
    check(lines.is_empty(), format!("{what}:\n{}", lines.join("\n")))
}

/// Fails unless these processes are gone soon.
pub fn gone(pids: &[u32], what: &str) -> Checked {
    settles(PATIENCE, || pids.iter().all(|pid| !is_alive(*pid)));
    let alive: Vec<&u32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    check(alive.is_empty(), format!("{what}: still alive: {alive:?}"))
}
