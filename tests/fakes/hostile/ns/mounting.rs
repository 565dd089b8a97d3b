//! N02: changing the mounts.

use crate::facts::Facts;
use crate::fs::{mount, mounts};
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};
use crate::walk;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const AT: u64 = libc::AT_FDCWD as u64;
const RECURSIVE: u64 = 0x8000;

/// N02.
pub fn change(facts: &Facts, report: &mut Report) {
    let points: Vec<PathBuf> = mounts("self").into_iter().map(|m| m.point).collect();
    let scratch = walk::scratch(facts).unwrap_or_else(|| PathBuf::from("/tmp"));
    let user = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    for (place, flags) in [("", 0), (" in new namespaces", user)] {
        let enter = || if flags == 0 { Ok(0) } else { sys::call(libc::SYS_unshare, &[flags as u64]) };
        for point in &points {
            remount(report, point, place, &enter);
        }
        fresh(report, &scratch, place, &enter);
        new_calls(report, &scratch, place, &enter);
    }
}

type Enter<'a> = &'a dyn Fn() -> Result<i64, i32>;

fn remount(report: &mut Report, point: &Path, place: &str, enter: Enter) {
    let name = point.display();
    for (what, flags) in [("bind", libc::MS_REMOUNT | libc::MS_BIND), ("superblock", libc::MS_REMOUNT)] {
        let result = attempt(|| {
            enter()?;
            mount("none", point, "none", flags, "")
        });
        // In an own copy of the tree locked flags must hold; a mount without any lock may be remounted there.
        report.fails(&format!("remount {name} ({what}){place}"), &result);
    }
    let path = sys::cpath(point);
    let place_of = path.as_ptr() as u64;
    // MNT_EXPIRE only marks at the first call: EAGAIN and EBUSY come after the permission check. Within an own copy
    // of the tree the real thing is tried.
    let flags = if place.is_empty() { libc::MNT_EXPIRE } else { libc::MNT_DETACH };
    let result = attempt(|| {
        enter()?;
        sys::call(libc::SYS_umount2, &[place_of, flags as u64])
    });
    let through = matches!(result, Attempt::Did(_) | Attempt::Errno(libc::EAGAIN | libc::EBUSY));
    report.check(through, format!("unmount {name}{place}: {}", result.text()));
    // attr_set, attr_clr = RDONLY|NOSUID|NODEV|NOEXEC, propagation, userns_fd.
    let attributes = [0u64, 0xf, 0, 0];
    let result = attempt(|| {
        enter()?;
        sys::raw(libc::SYS_mount_setattr, [AT, place_of, 0, attributes.as_ptr() as u64, 32, 0])
    });
    report.fails(&format!("mount_setattr {name}{place}"), &result);
}

fn fresh(report: &mut Report, scratch: &Path, place: &str, enter: Enter) {
    let point = scratch.join(".hostile-n02");
    let _ = std::fs::create_dir(&point);
    let kinds =
        ["tmpfs", "proc", "sysfs", "devpts", "mqueue", "ramfs", "overlay", "binfmt_misc", "fuse", "ext4"];
    for kind in kinds {
        let result = attempt(|| {
            enter()?;
            mount("none", &point, kind, 0, "")
        });
        report.fails(&format!("mount {kind}{place}"), &result);
    }
    let flags = [
        ("bind /", "/", libc::MS_BIND | libc::MS_REC),
        ("bind /proc", "/proc", libc::MS_BIND | libc::MS_REC),
        ("move /proc", "/proc", libc::MS_MOVE),
        ("shared", "none", libc::MS_SHARED),
        ("unbindable", "none", libc::MS_UNBINDABLE),
    ];
    for (what, source, flags) in flags {
        let target = if source == "none" { Path::new("/") } else { &point };
        let result = attempt(|| {
            enter()?;
            mount(source, target, "none", flags, "")
        });
        report.fails(&format!("{what}{place}"), &result);
    }
    let path = sys::cpath(&point);
    let result = attempt(|| {
        enter()?;
        sys::call(libc::SYS_pivot_root, &[path.as_ptr() as u64, path.as_ptr() as u64])
    });
    report.fails(&format!("pivot_root{place}"), &result);
    let _ = std::fs::remove_dir(&point);
}

fn new_calls(report: &mut Report, scratch: &Path, place: &str, enter: Enter) {
    let (root, tmpfs, target) = (c"/", c"tmpfs", sys::cpath(scratch));
    let root = root.as_ptr() as u64;
    let result = attempt(|| {
        enter()?;
        let context = sys::own(sys::call(libc::SYS_fsopen, &[tmpfs.as_ptr() as u64, 1])?)?;
        sys::call(libc::SYS_fsconfig, &[context.as_raw_fd() as u64, 6, 0, 0, 0])?;
        let mounted = sys::own(sys::call(libc::SYS_fsmount, &[context.as_raw_fd() as u64, 1, 0])?)?;
        let empty = c"";
        let from = [mounted.as_raw_fd() as u64, empty.as_ptr() as u64];
        sys::raw(libc::SYS_move_mount, [from[0], from[1], AT, target.as_ptr() as u64, 4, 0])
    });
    report.fails(&format!("fsopen tmpfs and move_mount{place}"), &result);
    let clone_tree = 1 | RECURSIVE;
    let calls: [(&str, i64, [u64; 5]); 4] = [
        ("fspick /", libc::SYS_fspick, [AT, root, 0, 0, 0]),
        ("open_tree clone", libc::SYS_open_tree, [AT, root, clone_tree, 0, 0]),
        ("open_tree_attr clone", 467, [AT, root, clone_tree, 0, 0]),
        ("move_mount / over scratch", libc::SYS_move_mount, [AT, root, AT, target.as_ptr() as u64, 0]),
    ];
    for (what, number, args) in calls {
        let result = attempt(|| {
            enter()?;
            sys::call(number, &args)
        });
        report.fails(&format!("{what}{place}"), &result);
    }
}
