//! Tests of the whole layer: `layouts` on trees of plain files, the rest on the real hierarchies of this
//! machine.
//!
//! Real tests make one tree each below our own groups, run one at a time, and remove it on failure too;
//! they kill only what they started. Where privileges are missing they say SKIP and why.

mod layouts;
mod running;
mod slots;
mod sweeping;

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Pid;

use super::{Availability, CgroupHost, CgroupTree, Slot};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// One real test's own tree. The lock keeps the tests apart: where our own process must make room there is
/// one tree at a time.
struct Bench {
    tree: Option<CgroupTree>,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// `None`, loudly, where a feature that the test needs is missing.
    fn new(test: &str, needs: fn(&CgroupHost) -> Vec<&Availability>) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let host = CgroupHost::probe();
        if let Some(missing) = needs(&host).into_iter().find(|availability| !availability.is_yes()) {
            eprintln!("SKIP {test}: {missing}");
            return None;
        }
        if host.v2.is_none() && host.v1.is_empty() {
            eprintln!("SKIP {test}: no hierarchy is writable ({})", host.kill);
            return None;
        }
        let tree = CgroupTree::create(&host, &test[..test.len().min(32)]).unwrap();
        Some(Self { tree: Some(tree), _turn: turn })
    }

    fn tree(&self) -> &CgroupTree {
        self.tree.as_ref().unwrap()
    }

    /// Ends the test: nothing of the tree may be left.
    fn finish(mut self) {
        let tree = self.tree.take().unwrap();
        let paths = tree.paths();
        tree.destroy().unwrap();
        for path in paths {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

/// A shell that waits for a line before it runs its script, so that it can be moved first.
struct Script {
    child: Child,
    gate: Option<ChildStdin>,
}

impl Script {
    fn new(script: &str) -> Self {
        Self::with(script, |_| {})
    }

    fn with(script: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("read gate; {script}"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let gate = child.stdin.take();
        Self { child, gate }
    }

    /// Moves the shell into the slot as an action.
    fn join(self, slot: &Slot) -> Self {
        if let Some(leaf) = slot.action_leaf() {
            leaf.attach(self.pid()).unwrap();
        }
        slot.attach_v1(self.pid()).unwrap();
        self
    }

    fn go(mut self) -> Self {
        self.gate.take().unwrap().write_all(b"go\n").unwrap();
        self
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited too long for: {what}");
        std::thread::yield_now();
    }
}
