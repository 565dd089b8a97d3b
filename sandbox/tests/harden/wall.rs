//! The Landlock plan in the kernel: it is accepted, and it holds.
#![allow(unsafe_code)]

use fulgurite_sandbox::harden::landlock::LandlockPlan;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `struct landlock_ruleset_attr` up to ABI 6.
#[repr(C)]
struct RulesetAttr {
    handled_fs: u64,
    handled_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    access: u64,
    parent: i32,
}

/// The version of the kernel's ABI, if it has one.
fn abi() -> Option<u32> {
    // SAFETY: with a null pointer, size 0 and the flag VERSION, the call only reports a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Puts the calling thread behind the plan's wall. What is not on this machine is left out.
fn enforce(plan: &LandlockPlan) -> std::io::Result<()> {
    let attr =
        RulesetAttr { handled_fs: plan.handled_fs, handled_net: plan.handled_net, scoped: plan.scoped };
    // A kernel older than a field wants the shorter structure.
    let size = if plan.abi >= 6 { 24 } else { 8 * (1 + usize::from(plan.abi >= 4)) };
    // SAFETY: the kernel reads `size` bytes, at most the whole of `attr`.
    let ruleset = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size, 0) };
    if ruleset < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
    for rule in &plan.rules {
        let Ok(parent) = std::fs::File::open(&rule.path) else { continue };
        let directory = parent.metadata()?.is_dir();
        let access = if directory { rule.access } else { rule.access_of_a_file() };
        let attr = PathBeneathAttr { access, parent: parent.as_raw_fd() };
        // SAFETY: the kernel reads the packed structure; both descriptors are open.
        let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 1, &attr, 0) };
        if added != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    // SAFETY: integers only.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn only_the_writable_paths_can_be_written() {
    let Some(abi) = abi() else {
        eprintln!("SKIP landlock: not in this kernel");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    for name in ["work", "tmp", "else"] {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("there"), "text").unwrap();
    }
    let (work, tmp, elsewhere) = (root.join("work"), root.join("tmp"), root.join("else"));
    let plan = LandlockPlan::new(abi, [work.as_path(), tmp.as_path()], false).unwrap();
    let thread = std::thread::spawn(move || {
        enforce(&plan).unwrap();
        std::fs::write(work.join("file"), "new").unwrap();
        std::fs::rename(work.join("file"), tmp.join("file")).unwrap();
        std::os::unix::fs::symlink("file", tmp.join("symlink")).unwrap();
        std::os::unix::net::UnixListener::bind(tmp.join("socket")).unwrap();
        std::fs::write("/dev/null", "gone").unwrap();
        assert_eq!(std::fs::read_to_string(elsewhere.join("there")).unwrap(), "text");
        assert!(std::process::Command::new("true").status().unwrap().success());

        let refused = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
        };
        refused(std::fs::write(elsewhere.join("there"), "overwritten"));
        refused(std::fs::write(elsewhere.join("file"), "new"));
        refused(std::fs::remove_file(elsewhere.join("there")));
        refused(std::fs::create_dir(elsewhere.join("directory")));
        refused(std::fs::rename(elsewhere.join("there"), work.join("moved")));
        refused(std::fs::write(Path::new("/fulgurite-landlock-test"), "new"));
    });
    thread.join().unwrap();
}
