//! Spec and features to plan: pure, so that tests compare plans without a kernel.
//!
//! What the host looks like (which toolchain directories there are, which are symlinks) comes in as [`HostEntry`]
//! values. The order of steps is fixed: each needs what the later ones take away, and what cannot be undone comes as
//! late as it can.
use super::{Op, Phase, Plan, TREES_MAX, Tree};
use crate::harden::landlock::LandlockPlan;
use crate::harden::seccomp::{Program, SeccompError};
use crate::harden::{Enforcement, Level, rlimits};
use crate::host::{EntryKind, Features, HostEntry};
use crate::spec::{HostMount, Network, RootView, SandboxSpec};
use crate::sys::mount::attr;
use crate::sys::process::clone_flag;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Why a spec cannot become a plan on this host.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A path of the spec cannot be used.
    #[error("cannot mount {path}: {why}")]
    Path {
        /// Which.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// Something that the spec requires is missing here.
    #[error("cannot make the sandbox: {what} is required and missing: {why}")]
    Missing {
        /// What.
        what: &'static str,
        /// Why it is missing.
        why: String,
    },
    /// The filter cannot be built.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// Too many mounts.
    #[error("cannot make the sandbox: {count} host mounts, at most {TREES_MAX} fit")]
    TooManyMounts {
        /// How many.
        count: usize,
    },
}

/// Attributes of everything that shows the host: read-only, no set-id, no devices.
const HOST_TREE: u64 = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
/// Devices that every program may expect, all harmless.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of proc that tell about the host or other sandboxes.
const MASKED_FILES: [&str; 13] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "timer_list",
    "latency_stats",
    "sched_debug",
    "slabinfo",
    "vmallocinfo",
    "iomem",
    "ioports",
    "interrupts",
];
const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "scsi", "bus"];
/// What others than the host's root may write to in proc. What only the host's root may write to needs no mount: no
/// action is the host's root, whatever its id inside.
const READ_ONLY_PROC: [&str; 2] = ["sys", "pressure"];
/// Pseudo terminals in one sandbox.
const TERMINALS_MAX: &std::ffi::CStr = c"64";

/// Makes a C string of bytes that cannot contain NUL, or that were checked not to.
fn c(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Compiles `spec` for a host with these features. The second value says what hardening the plan enforces.
///
/// # Errors
/// [`CompileError`], naming what is wrong with the spec or missing on the host.
pub fn compile(
    spec: &SandboxSpec,
    features: &Features,
    entries: &[HostEntry],
) -> Result<(Plan, Enforcement), CompileError> {
    let mut plan = Plan::default();
    view(&mut plan, spec, entries)?;
    create(&mut plan, spec, features);
    lease(&mut plan, spec);
    let enforcement = action(&mut plan, spec, features)?;
    let count = plan.trees.len().max(plan.own_trees.len());
    if count > TREES_MAX {
        return Err(CompileError::TooManyMounts { count });
    }
    Ok((plan, enforcement))
}

fn view(plan: &mut Plan, spec: &SandboxSpec, entries: &[HostEntry]) -> Result<(), CompileError> {
    let mut push = |op| plan.push(Phase::View, op);
    push(Op::Tmpfs {
        at: c(""),
        size_bytes: 4 << 20,
        inodes: 4096,
        mode: 0o755,
        attributes: attr::NO_SUID | attr::NO_DEV,
    });
    for (at, mode) in
        [("dev", 0o755), ("dev/pts", 0o755), ("dev/shm", 0o1777), ("etc", 0o755), ("proc", 0o555)]
    {
        push(Op::Directory { at: c(at), mode });
    }
    for (at, mode) in [("tmp", 0o1777), ("work", 0o755)] {
        push(Op::Directory { at: c(at), mode });
    }
    let mut made =
        vec!["dev", "etc", "proc", "tmp", "work"].into_iter().map(str::to_owned).collect::<Vec<_>>();
    for entry in entries {
        make_parents(plan, &entry.at, &mut made);
        show(plan, entry);
    }
    if spec.root == RootView::Host {
        generated_files(plan, spec);
    }
    for name in DEVICES {
        let at = format!("dev/{name}");
        plan.push(Phase::View, Op::File { at: c(at.as_str()), content: c(""), mode: 0o666 });
        attach(plan, &format!("/dev/{name}"), &at, attr::NO_SUID | attr::NO_EXEC);
    }
    let links = [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/ptmx", "pts/ptmx"),
    ];
    for (at, target) in links {
        plan.push(Phase::View, Op::Symlink { at: c(at), target: c(target) });
    }
    let mut made =
        vec!["dev", "etc", "proc", "tmp", "work"].into_iter().map(str::to_owned).collect::<Vec<_>>();
    for mount in &spec.mounts {
        host_mount(plan, mount, entries, &mut made)?;
    }
    plan.push(Phase::View, Op::SealView);
    Ok(())
}

/// Makes the directories above `at` that are not there yet, on the view's own tmpfs.
fn make_parents(plan: &mut Plan, at: &str, made: &mut Vec<String>) {
    for (end, _) in at.match_indices('/') {
        let parent = &at[..end];
        if !made.iter().any(|other| other == parent) {
            made.push(parent.to_owned());
            plan.push(Phase::View, Op::Directory { at: c(parent), mode: 0o755 });
        }
    }
}

/// Shows one entry of the host's root or of the given root directory.
fn show(plan: &mut Plan, entry: &HostEntry) {
    let at = c(entry.at.as_bytes());
    match &entry.kind {
        EntryKind::Symlink(target) => {
            plan.push(Phase::View, Op::Symlink { at, target: c(target.as_bytes()) })
        }
        EntryKind::Directory => {
            plan.push(Phase::View, Op::Directory { at, mode: 0o755 });
            attach(plan, &entry.source, &entry.at, HOST_TREE);
        }
        EntryKind::File => {
            plan.push(Phase::View, Op::File { at, content: c(""), mode: 0o644 });
            attach(plan, &entry.source, &entry.at, HOST_TREE);
        }
    }
}

fn attach(plan: &mut Plan, source: &str, at: &str, attributes: u64) {
    let tree = plan.trees.len() as u32;
    let read_only = attributes & attr::READ_ONLY != 0;
    plan.trees.push(Tree { source: c(source), attributes, at: c(at) });
    plan.push(Phase::View, Op::Attach { at: c(at), tree, what: c(source), read_only });
}

fn generated_files(plan: &mut Plan, spec: &SandboxSpec) {
    let who = &spec.identity;
    let root = if who.uid == 0 { "" } else { "root:x:0:0:root:/root:/bin/sh\n" };
    let root_group = if who.gid == 0 { "" } else { "root:x:0:\n" };
    let nobody = "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    let passwd = format!("{root}{0}:x:{1}:{2}:{0}:/tmp:/bin/sh\n{nobody}", who.name, who.uid, who.gid);
    let group = format!("{root_group}{}:x:{}:\nnogroup:x:65534:\n", who.name, who.gid);
    let hosts = format!("127.0.0.1 localhost {0}\n::1 localhost {0}\n", spec.host_name);
    let files = [
        ("etc/passwd", passwd),
        ("etc/group", group),
        ("etc/hosts", hosts),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
    ];
    for (at, content) in files {
        plan.push(Phase::View, Op::File { at: c(at), content: c(content), mode: 0o644 });
    }
}

fn host_mount(
    plan: &mut Plan,
    mount: &HostMount,
    entries: &[HostEntry],
    made: &mut Vec<String>,
) -> Result<(), CompileError> {
    let refuse = |why| CompileError::Path { path: mount.target.display().to_string(), why };
    let target =
        mount.target.strip_prefix("/").map_err(|_| refuse("the place inside must be an absolute path"))?;
    let plain = target.components().all(|part| matches!(part, Component::Normal(_)));
    let Some(text) = target.to_str().filter(|text| !text.is_empty() && plain && !text.contains('\0')) else {
        return Err(refuse("the place inside must be a plain path below /, without . and .."));
    };
    let source = mount.source.as_os_str().as_bytes();
    let Some(source) = std::str::from_utf8(source).ok().filter(|text| text.starts_with('/')) else {
        return Err(refuse("the source must be an absolute path"));
    };
    let first = text.split('/').next().unwrap_or_default();
    if matches!(first, "proc" | "work") || (first == "dev" && text != "dev/shm") {
        return Err(refuse("this place belongs to the sandbox"));
    }
    if text.starts_with("tmp/") || text.starts_with("dev/shm/") {
        return Err(refuse(
            "every action has its own /tmp and /dev/shm; give another place inside, as PATH=DEST",
        ));
    }
    let is_file = mount.is_file();
    // What lies below a host tree must exist there; the rest of the way is made on the view's own tmpfs.
    let below_host_tree =
        entries.iter().any(|entry| text == entry.at || text.starts_with(&format!("{}/", entry.at)));
    if !below_host_tree {
        make_parents(plan, text, made);
        if !made.iter().any(|other| other == text) && text != "dev/shm" {
            made.push(text.to_owned());
            let at = c(text);
            let op = if is_file {
                Op::File { at, content: c(""), mode: 0o644 }
            } else {
                Op::Directory { at, mode: 0o755 }
            };
            plan.push(Phase::View, op);
        }
    }
    // A writable one is attached by each sandbox for itself, with ids of its own.
    if !mount.writable {
        attach(plan, source, text, HOST_TREE);
    }
    Ok(())
}

fn create(plan: &mut Plan, spec: &SandboxSpec, features: &Features) {
    let mut push = |op| plan.push(Phase::Create, op);
    let network = if spec.network == Network::Host { 0 } else { clone_flag::NEW_NET };
    let namespaces =
        clone_flag::NEW_USER | clone_flag::NEW_NS | clone_flag::NEW_PID | clone_flag::NEW_UTS | network;
    push(Op::Clone { namespaces, in_cgroup: features.cgroup_v2 });
    let init = init_id(spec, features);
    push(Op::MapIds { init, action: [spec.identity.uid, spec.identity.gid] });
    push(Op::Settle { uid: init[0], gid: init[1] });
    if spec.network == Network::Loopback {
        push(Op::LoopbackUp);
    }
    push(Op::HostName { name: c(spec.host_name.as_str()) });
    push(Op::OpenProc);
    push(Op::EnterView);
    push(Op::AttachProc { at: c("proc") });
    push(Op::ForbidUserNamespaces);
    for name in MASKED_FILES.iter().filter(|name| features.proc_has(name)) {
        push(Op::MaskFile { at: c(format!("proc/{name}")) });
    }
    for name in MASKED_DIRECTORIES.iter().filter(|name| features.proc_has(name)) {
        push(Op::MaskDirectory { at: c(format!("proc/{name}")) });
    }
    for name in READ_ONLY_PROC.iter().filter(|name| features.proc_has(name)) {
        push(Op::ReadOnly { at: c(format!("proc/{name}")) });
    }
    for mount in spec.mounts.iter().filter(|mount| mount.writable) {
        let (source, target) = (mount.source.as_os_str().as_bytes(), mount.target.as_os_str().as_bytes());
        let (source, at) = (c(source), c(target.strip_prefix(b"/").unwrap_or(target)));
        let tree = plan.own_trees.len() as u32;
        plan.push(Phase::Create, Op::Attach { at: at.clone(), tree, what: source.clone(), read_only: false });
        plan.own_trees.push(Tree { source, attributes: attr::NO_SUID | attr::NO_DEV, at });
    }
    let mut push = |op| plan.push(Phase::Create, op);
    push(Op::Devpts { at: c("dev/pts"), max: TERMINALS_MAX.to_owned() });
    push(Op::NotDumpable);
    // What a child inherits is taken away once, from init, which loses nothing by it.
    for line in rlimits::table(&spec.hardening) {
        push(Op::Rlimit {
            resource: line.resource.number(),
            name: line.resource.name(),
            soft: line.wanted.soft,
            hard: line.wanted.hard,
        });
    }
    push(Op::Umask { mask: spec.umask });
    push(Op::DropBounding);
}

/// User and group of init inside: of its own where two can be mapped, else the action's.
fn init_id(spec: &SandboxSpec, features: &Features) -> [u32; 2] {
    let own = |action: u32| match (features.two_ids, action) {
        (true, 0) => 1,
        (true, _) => 0,
        (false, action) => action,
    };
    [own(spec.identity.uid), own(spec.identity.gid)]
}

fn lease(plan: &mut Plan, spec: &SandboxSpec) {
    let private = |at: &str, size_bytes, inodes| Op::Tmpfs {
        at: c(at),
        size_bytes,
        inodes,
        mode: 0o1777,
        attributes: attr::NO_SUID | attr::NO_DEV,
    };
    let replaced = |at: &str| spec.mounts.iter().any(|mount| mount.target == Path::new("/").join(at));
    if !replaced("tmp") {
        plan.push(Phase::Lease, private("tmp", spec.tmp_bytes_max, spec.tmp_inodes_max));
    }
    if !replaced("dev/shm") {
        plan.push(Phase::Lease, private("dev/shm", spec.shm_bytes_max, spec.tmp_inodes_max));
    }
}

fn action(plan: &mut Plan, spec: &SandboxSpec, features: &Features) -> Result<Enforcement, CompileError> {
    let mut enforcement =
        Enforcement { no_new_privs: true, capabilities: true, rlimits: true, ..Enforcement::default() };
    let mut push = |op| plan.push(Phase::Action, op);
    push(Op::Namespaces { flags: clone_flag::NEW_IPC | clone_flag::NEW_CGROUP });
    push(Op::NewSession);
    push(Op::SetIds { uid: spec.identity.uid, gid: spec.identity.gid });
    push(Op::DropCapabilities);
    push(Op::NoNewPrivileges);
    if spec.hardening.seccomp != Level::Off {
        match (&features.seccomp, spec.hardening.seccomp) {
            (crate::host::Support::Yes, _) => {
                let program = Program::compile(&spec.hardening.seccomp_profile()?)?;
                enforcement.seccomp = Some(program.instructions().len());
                push(Op::Seccomp { program: bytes_of(&program) });
            }
            (no, Level::Required) => {
                return Err(CompileError::Missing { what: "seccomp", why: no.why().to_owned() });
            }
            (no, _) => enforcement.missing.push(format!("seccomp ({})", no.why())),
        }
    }
    push(Op::Await);
    push(Op::Stdio);
    landlock(plan, spec, features, &mut enforcement)?;
    let mut push = |op| plan.push(Phase::Action, op);
    push(Op::ChangeDirectory);
    push(Op::CloseDescriptors);
    push(Op::Exec);
    Ok(enforcement)
}

fn bytes_of(program: &Program) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.instructions().len() * 8);
    for instruction in program.instructions() {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    bytes
}

fn landlock(
    plan: &mut Plan,
    spec: &SandboxSpec,
    features: &Features,
    enforcement: &mut Enforcement,
) -> Result<(), CompileError> {
    if spec.hardening.landlock == Level::Off {
        return Ok(());
    }
    let writable = ["/work", "/tmp", "/dev/shm", "/dev/pts"].map(Path::new);
    let extra = spec.mounts.iter().filter(|mount| mount.writable).map(|mount| mount.target.as_path());
    let made = features.landlock_abi.clone().and_then(|abi| {
        LandlockPlan::new(abi, writable.into_iter().chain(extra), false).map_err(|error| error.to_string())
    });
    let wanted = match (made, spec.hardening.landlock) {
        (Ok(wanted), _) => wanted,
        (Err(why), Level::Required) => return Err(CompileError::Missing { what: "landlock", why }),
        (Err(why), _) => {
            enforcement.missing.push(format!("landlock ({why})"));
            return Ok(());
        }
    };
    enforcement.landlock_abi = Some(wanted.abi);
    let mut push = |op| plan.push(Phase::Action, op);
    let size = match wanted.abi {
        0..=3 => 8,
        4..=5 => 16,
        _ => 24,
    };
    push(Op::LandlockCreate {
        handled_fs: wanted.handled_fs,
        handled_net: wanted.handled_net,
        scoped: wanted.scoped,
        size,
    });
    for rule in wanted.rules {
        push(Op::LandlockAllow { at: c(rule.path.as_os_str().as_bytes()), access: rule.access });
    }
    push(Op::LandlockRestrict);
    Ok(())
}
