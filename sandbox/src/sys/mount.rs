//! Detached mounts: made on descriptors, attached last.
//!
//! Source: fsopen(2), fsmount(2), open_tree(2), move_mount(2) (Linux 5.2), mount_setattr(2) (Linux 5.12; idmapped
//! mounts likewise). A mount that is never attached disappears with its last descriptor, so that a failure half
//! way leaves nothing behind.
use super::{Result, check};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::ffi::CStr;

/// `MOUNT_ATTR_*` bits that this crate sets. Values from `linux/mount.h`.
pub mod attr {
    /// `MOUNT_ATTR_RDONLY`
    pub const READ_ONLY: u64 = 0x1;
    /// `MOUNT_ATTR_NOSUID`
    pub const NO_SUID: u64 = 0x2;
    /// `MOUNT_ATTR_NODEV`
    pub const NO_DEV: u64 = 0x4;
    /// `MOUNT_ATTR_NOEXEC`
    pub const NO_EXEC: u64 = 0x8;
    /// `MOUNT_ATTR_IDMAP`
    pub const ID_MAP: u64 = 0x0010_0000;
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attr(mount: BorrowedFd<'_>, flags: libc::c_uint, attr: &MountAttr) -> Result<()> {
    // SAFETY: the descriptor is open for the call, the path is a constant empty C string (AT_EMPTY_PATH), and the
    // attribute block outlives the call and is passed with its own size.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH as libc::c_uint,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    check(ret).map(drop)
}

/// Sets attribute bits on one mount.
pub fn restrict(mount: BorrowedFd<'_>, attr_set: u64) -> Result<()> {
    set_attr(mount, 0, &MountAttr { attr_set, ..MountAttr::default() })
}

/// Sets attribute bits on a mount and on all below it, in one call.
pub fn restrict_recursive(mount: BorrowedFd<'_>, attr_set: u64) -> Result<()> {
    set_attr(mount, libc::AT_RECURSIVE as libc::c_uint, &MountAttr { attr_set, ..MountAttr::default() })
}

/// Makes a mount and all below it private, so that nothing propagates in or out.
pub fn make_private_recursive(mount: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    set_attr(mount, libc::AT_RECURSIVE as libc::c_uint, &attr)
}

/// Makes a mount and all below it slaves: host mounts still come in, nothing goes out.
pub fn make_slave_recursive(mount: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    set_attr(mount, libc::AT_RECURSIVE as libc::c_uint, &attr)
}

/// Maps the ids of a detached mount through `user_namespace`. Needs CAP_SYS_ADMIN where the filesystem was mounted.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).map_err(|_| super::Errno::BADF)?;
    set_attr(mount, 0, &MountAttr { attr_set: attr::ID_MAP, userns_fd, ..MountAttr::default() })
}

/// A detached copy of the mount at `path` and of all mounts below it.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(dir, path, flags)
}

/// A detached copy of the one mount at `path`, without what is mounted below.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(dir, path, flags)
}

/// Attaches a detached mount on the file or directory that `target` refers to.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Opens `path` below `dir` as a place to mount on: no symlink and no magic link is followed, wherever it stands.
pub fn mount_point(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Attaches a detached mount at `path` below `dir`, following no symlink.
pub fn attach_at(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let target = mount_point(dir, path)?;
    attach(mount, target.as_fd())
}

/// A new tmpfs, detached. `size` and `nr_inodes` are decimal strings; empty means the kernel's default.
pub fn tmpfs(size: &CStr, nr_inodes: &CStr, mode: &CStr, attributes: u64) -> Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !size.is_empty() {
        fsconfig_set_string(context.as_fd(), c"size", size)?;
    }
    if !nr_inodes.is_empty() {
        fsconfig_set_string(context.as_fd(), c"nr_inodes", nr_inodes)?;
    }
    fsconfig_set_string(context.as_fd(), c"mode", mode)?;
    finish(context.as_fd(), attributes)
}

/// A new instance of proc for the caller's pid namespace, detached.
pub fn proc() -> Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    finish(context.as_fd(), attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)
}

/// A new instance of devpts, detached, in which everyone may open `ptmx`.
pub fn devpts(max: &CStr) -> Result<OwnedFd> {
    let context = fsopen(c"devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"ptmxmode", c"0666")?;
    fsconfig_set_string(context.as_fd(), c"mode", c"0620")?;
    fsconfig_set_string(context.as_fd(), c"max", max)?;
    finish(context.as_fd(), attr::NO_SUID | attr::NO_EXEC)
}

/// The EROFS image in a file, detached and read-only. The file is read by the kernel itself (Linux 6.12), and must
/// lie on a filesystem with a page cache of its own: not on tmpfs.
pub fn erofs(image: BorrowedFd<'_>) -> Result<OwnedFd> {
    let context = fsopen(c"erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let source = format!("/proc/self/fd/{}", image.as_raw_fd());
    fsconfig_set_string(context.as_fd(), c"source", source.as_str())?;
    fsconfig_set_flag(context.as_fd(), c"ro")?;
    // Images have none, so that nobody needs to look for them in every file.
    fsconfig_set_flag(context.as_fd(), c"noacl")?;
    finish(context.as_fd(), attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV)
}

/// Creates the superblock of a configured context and mounts it, detached.
pub fn finish(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    fsconfig_create(context)?;
    let bits = u32::try_from(attributes).map_err(|_| super::Errno::INVAL)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(bits))
}

/// Makes the current directory the root of this mount namespace and lets the old root go.
///
/// Source: pivot_root(2), "pivot_root(".", ".")": the old root ends up mounted over the new one and is detached
/// from there, so that no directory for it is needed.
pub fn pivot_to_current_directory() -> Result<()> {
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Detaches what is mounted at `path`; what still uses it keeps it until it ends.
pub fn detach(path: &CStr) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Opens a directory `path` below `dir` as a place to mount on: never outside of `dir`, and through no symlink.
pub fn directory_below(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)
}

/// Puts `new`, which is mounted on the root of `old`, into the place of `old`, and `old` on top of `new`. The working
/// directory of every process that stands at the root of `old` becomes the root of `new`: pivot_root(2) moves them,
/// when the caller's root is `old`. The caller's root and working directory are `new` afterwards, or anything after a
/// failure; [`return_to`] puts them right.
pub fn exchange(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(old)?;
    rustix::process::chroot(c".")?;
    rustix::process::fchdir(new)?;
    rustix::process::pivot_root(c".", c".")
}

/// Makes `root` the caller's root and working directory.
pub fn return_to(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")
}

/// Detaches the mount whose root `mount` refers to, which no path has to lead to. Changes the working directory.
pub fn detach_mount(mount: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(mount)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
}

/// Makes a mount and all below it read-only if nobody can write through any of them: `false`, and no change, while a
/// file is open for writing or mapped writable and shared, by whomever. After `true` nobody can write through these
/// mounts any more, whatever descriptors of them they hold. They must be attached in the caller's mount namespace, or
/// never have been attached anywhere.
///
/// Source: mount_setattr(2), `EBUSY`. That a mapping without a descriptor counts was seen on overlays of Linux 6.18;
/// where an overlay maps the file of its layer alone, a read lease on that file ([`super::lease`]) tells.
pub fn seal(mount: BorrowedFd<'_>) -> Result<bool> {
    match restrict_recursive(mount, attr::READ_ONLY) {
        Ok(()) => Ok(true),
        Err(super::Errno::BUSY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A new overlay context on which layers can be configured; see `overlay` for the whole mount.
pub fn overlay_context() -> Result<OwnedFd> {
    fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)
}

/// Sets a flag option such as `userxattr` or `volatile`.
pub fn set_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig_set_flag(context, key)
}

/// A path that names an open descriptor through /proc, for interfaces that take only paths.
pub fn opath(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    rustix::fs::openat(dir, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// The current working directory as a descriptor stand-in.
pub fn here() -> BorrowedFd<'static> {
    CWD
}
