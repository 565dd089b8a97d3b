//! F04, F12 and F13: control groups, the mount table, and ways out of the root.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, Attempt, attempt, place};
use crate::walk;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// One line of mountinfo.
pub struct Mount {
    /// The directory of the file system that is mounted.
    pub root: String,
    /// Where.
    pub point: PathBuf,
    /// Per-mount options.
    pub options: String,
    /// `shared:N`, `master:N` and such.
    pub propagation: String,
    /// File system type.
    pub kind: String,
    /// Options of the file system.
    pub super_options: String,
}

/// The mount table of a process.
pub fn mounts(pid: &str) -> Vec<Mount> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    Some(Mount {
        root: unescape(left.get(3)?),
        point: PathBuf::from(unescape(left.get(4)?)),
        options: left.get(5)?.to_string(),
        propagation: left.get(6..)?.join(" "),
        kind: right.first()?.to_string(),
        super_options: right.get(2).copied().unwrap_or_default().to_string(),
    })
}

/// The four octal escapes that mountinfo uses.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

const CGROUP_KINDS: [&str; 2] = ["cgroup", "cgroup2"];
const REFUSALS: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOSPC];

/// F04.
pub fn control_groups(facts: &Facts, report: &mut Report) {
    for mount in mounts("self").iter().filter(|m| CGROUP_KINDS.contains(&m.kind.as_str())) {
        report.broke(format!("{} is mounted at {}", mount.kind, mount.point.display()));
        for name in [
            "release_agent",
            "notify_on_release",
            "cgroup.procs",
            "memory.max",
            "cgroup.kill",
            "devices.allow",
        ] {
            let path = mount.point.join(name);
            let opened = sys::open(&path, libc::O_WRONLY).is_ok();
            report.check(opened, format!("opened {}", path.display()));
        }
    }
    report.check(Path::new("/sys/fs/cgroup/cgroup.procs").exists(), "/sys/fs/cgroup has content");
    let Some(scratch) = walk::scratch(facts) else { return report.note("no directory to mount on") };
    let point = scratch.join(".hostile-f04");
    let _ = std::fs::create_dir(&point);
    let new = [
        ("here", 0),
        (
            "in new user, mount and cgroup namespaces",
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP,
        ),
        ("in new user and mount namespaces", libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        ("in new mount and cgroup namespaces", libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP),
    ];
    for (kind, data) in
        [("cgroup", "memory"), ("cgroup", "rdma"), ("cgroup", "none,name=hostile"), ("cgroup2", "")]
    {
        for (where_, flags) in new {
            let result = attempt(|| {
                if flags != 0 {
                    sys::call(libc::SYS_unshare, &[flags as u64])?;
                }
                mount(kind, &point, kind, 0, data)
            });
            report.refused(&format!("mount {kind} {data} {where_}"), &result, &REFUSALS);
        }
    }
    let _ = std::fs::remove_dir(&point);
}

/// mount(2).
pub fn mount(source: &str, point: &Path, kind: &str, flags: u64, data: &str) -> Result<i64, i32> {
    let (source, point, kind, data) =
        (sys::cpath(source), sys::cpath(point), sys::cpath(kind), sys::cpath(data));
    let args =
        [source.as_ptr() as u64, point.as_ptr() as u64, kind.as_ptr() as u64, flags, data.as_ptr() as u64];
    sys::call(libc::SYS_mount, &args)
}

/// F12.
pub fn table(_facts: &Facts, report: &mut Report) {
    let own = mounts("self");
    report.check(own.is_empty(), "mountinfo cannot be read");
    let known: Vec<&PathBuf> = own.iter().map(|m| &m.point).collect();
    let others: Vec<Mount> = mounts("1").into_iter().filter(|m| !known.contains(&&m.point)).collect();
    for m in &others {
        report.broke(format!("{} is mounted for pid 1 only", m.point.display()));
    }
    for m in own.iter().chain(&others) {
        let at = m.point.display();
        let linked = ["shared:", "master:"].iter().any(|p| m.propagation.contains(p));
        report.check(linked, format!("{at} propagates: {}", m.propagation));
        let has = |option: &str| m.options.split(',').any(|o| o == option);
        report.check(!has("nosuid"), format!("{at} ({}) lacks nosuid", m.kind));
        // Below /dev a device file may be what is mounted.
        let device = m.point.starts_with("/dev") && !m.point.is_dir() || m.kind == "devpts";
        let mask = m.point.starts_with("/proc") && !m.point.is_dir();
        report.check(!has("nodev") && !device && !mask, format!("{at} ({}) lacks nodev", m.kind));
        layers(report, m);
    }
    let sources: Vec<&str> = own.iter().map(|m| m.root.as_str()).filter(|r| *r != "/").take(3).collect();
    if !sources.is_empty() {
        report.note(format!("mountinfo names paths of the host, such as {}", sources.join(" ")));
    }
    let extra = own.iter().filter(|m| ["sysfs", "fuse", "nfs", "9p", "autofs"].contains(&m.kind.as_str()));
    for m in extra {
        report.note(format!("{} at {}", m.kind, m.point.display()));
    }
}

/// The directories of an overlay are the daemon's; a path that leads there is a way around the overlay.
fn layers(report: &mut Report, mount: &Mount) {
    if mount.kind != "overlay" {
        return;
    }
    for option in mount.super_options.split(',') {
        let Some((key, value)) = option.split_once('=') else { continue };
        if !["lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+"].contains(&key) {
            continue;
        }
        for path in value.split(':').filter(|p| !p.is_empty()) {
            let path = unescape(path);
            // So the kernel shows the root of a detached mount, which has no path at all.
            if path == "/" {
                report.note(format!("{key} is a detached mount"));
                continue;
            }
            let reached = path.starts_with('/') && Path::new(&path).exists();
            report.check(reached, format!("{key} {path} can be reached"));
        }
    }
}

/// F13.
pub fn escape(facts: &Facts, report: &mut Report) {
    let Ok(own) = place("/") else { return report.broke("cannot look at /") };
    let mut bases: Vec<PathBuf> = mounts("self").into_iter().map(|m| m.point).collect();
    bases.extend(
        ["/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root", "/dev/fd"].map(PathBuf::from),
    );
    bases.extend(std::env::current_dir());
    for base in bases.iter().filter(|b| b.is_dir()) {
        let top = place(base.join("../".repeat(64)));
        report.check(top.is_ok_and(|t| t != own), format!("`..` from {} leaves the root", base.display()));
    }
    if let Some(scratch) = walk::scratch(facts) {
        let jail = scratch.join(".hostile-f13");
        let _ = std::fs::create_dir(&jail);
        for (name, flags) in [("chroot", 0), ("chroot in a user namespace", libc::CLONE_NEWUSER)] {
            let result = attempt(|| chroot_walk(&jail, flags, own));
            // Did(0): it could change the root, and still came out at the same one.
            report.check(matches!(result, Attempt::Did(1)), format!("{name} and fchdir left the root"));
            if !matches!(result, Attempt::Errno(_) | Attempt::Signal(libc::SIGSYS)) {
                report.note(format!("{name} {}", result.text()));
            }
        }
        let _ = std::fs::remove_dir(&jail);
    } else {
        report.note("no directory for a chroot");
    }
    for point in &bases {
        handles(report, point);
    }
}

/// The classic: keep a descriptor outside a nested root, change into it, and go up.
fn chroot_walk(jail: &Path, flags: i32, own: (u64, u64, u64)) -> Result<i64, i32> {
    if flags != 0 {
        sys::call(libc::SYS_unshare, &[flags as u64])?;
    }
    let outside = sys::open("/", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let name = sys::cpath(jail);
    sys::call(libc::SYS_chroot, &[name.as_ptr() as u64])?;
    sys::call(libc::SYS_fchdir, &[outside.as_raw_fd() as u64])?;
    for _ in 0..64 {
        std::env::set_current_dir("..").map_err(|e| e.raw_os_error().unwrap_or(0))?;
    }
    let here = sys::cpath(".");
    let _ = sys::call(libc::SYS_chroot, &[here.as_ptr() as u64]);
    place(".").map(|there| i64::from(there != own)).map_err(|e| e.raw_os_error().unwrap_or(0))
}

/// The "shocker": open the root inode of a bind mount's file system by its well-known handle.
fn handles(report: &mut Report, point: &Path) {
    let Ok(anchor) = sys::open(point, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK) else { return };
    for inode in [2u32, 128, 256, 1] {
        // handle_bytes 8, handle_type FILEID_INO32_GEN, inode, generation.
        let handle = [8u32, 1, inode, 0];
        let args = [anchor.as_raw_fd() as u64, handle.as_ptr() as u64, libc::O_RDONLY as u64];
        let result = attempt(|| sys::call(libc::SYS_open_by_handle_at, &args));
        report.fails(&format!("opened inode {inode} by handle at {}", point.display()), &result);
    }
}
