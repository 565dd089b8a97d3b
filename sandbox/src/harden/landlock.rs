//! Landlock (landlock(7)): the second wall around the file system, planned from the version of its ABI.
//!
//! ```text
//!   abi  Linux   adds
//!    1   5.13    file system rights
//!    2   5.19    REFER: renaming and linking between directories becomes possible at all
//!    3   6.2     TRUNCATE
//!    4   6.7     TCP bind and connect
//!    5   6.10    IOCTL_DEV
//!    6   6.12    scopes: abstract Unix sockets, signals
//!    7   6.15    audit flags only
//!    8   7.0     a flag for all threads only
//!    9   7.1     RESOLVE_UNIX: connecting to a socket in the file system
//! ```
//!
//! What the plan says: everything may be read and executed, devices and `/proc/self` may be written, the rest
//! only below the writable paths; no device node is made anywhere; signals and sockets end at the sandbox.
//!
//! Invariants: a plan asks only for what its ABI knows (the kernel answers EINVAL otherwise); each rule's
//! access is a part of what is handled. Versions newer than [`ABI_NEWEST`] are used as that one.
//!
//! Limits: ABI 1 forbids every rename between directories, which builds need, so there the plan is refused.
//! Descriptors opened before are not restricted. stat, chmod, chown, utime, setxattr and fcntl are not
//! covered. TCP is left to the network namespace unless the caller wants it denied: with a loopback of its
//! own, a test may well use it.
//!
//! Source of the constants: linux/landlock.h.

use std::path::{Path, PathBuf};

/// The newest version that is planned for.
pub const ABI_NEWEST: u32 = 9;
/// The oldest version that is usable.
pub const ABI_OLDEST: u32 = 2;

/// `LANDLOCK_ACCESS_FS_*`: rights on files and directories.
pub mod fs {
    /// Execute a file.
    pub const EXECUTE: u64 = 1 << 0;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// Open or list a directory.
    pub const READ_DIR: u64 = 1 << 3;
    /// Remove or rename a directory.
    pub const REMOVE_DIR: u64 = 1 << 4;
    /// Unlink or rename a file.
    pub const REMOVE_FILE: u64 = 1 << 5;
    /// Make a character device.
    pub const MAKE_CHAR: u64 = 1 << 6;
    /// Make a directory.
    pub const MAKE_DIR: u64 = 1 << 7;
    /// Make a regular file.
    pub const MAKE_REG: u64 = 1 << 8;
    /// Make a socket.
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// Make a FIFO.
    pub const MAKE_FIFO: u64 = 1 << 10;
    /// Make a block device.
    pub const MAKE_BLOCK: u64 = 1 << 11;
    /// Make a symbolic link.
    pub const MAKE_SYM: u64 = 1 << 12;
    /// Rename or link between directories (ABI 2).
    pub const REFER: u64 = 1 << 13;
    /// Truncate a file (ABI 3).
    pub const TRUNCATE: u64 = 1 << 14;
    /// ioctl on a device (ABI 5).
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// Connect to a Unix socket by path, made outside the domain (ABI 9).
    pub const RESOLVE_UNIX: u64 = 1 << 16;

    /// Looking at everything.
    pub const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
    /// All that is done to a tree of one's own, without making devices.
    pub const WRITE: u64 = WRITE_FILE
        | REMOVE_DIR
        | REMOVE_FILE
        | MAKE_DIR
        | MAKE_REG
        | MAKE_SOCK
        | MAKE_FIFO
        | MAKE_SYM
        | REFER
        | TRUNCATE;
    /// The rights that a rule on a file, not a directory, may have; the kernel answers EINVAL to others.
    pub const OF_A_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX;
}

/// `LANDLOCK_ACCESS_NET_*`: rights on TCP ports (ABI 4).
pub mod net {
    /// Bind a TCP socket.
    pub const BIND_TCP: u64 = 1 << 0;
    /// Connect a TCP socket.
    pub const CONNECT_TCP: u64 = 1 << 1;
}

/// `LANDLOCK_SCOPE_*`: what ends at the domain's border (ABI 6).
pub mod scope {
    /// Abstract Unix sockets.
    pub const ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
    /// Signals.
    pub const SIGNAL: u64 = 1 << 1;
}

/// Written by libraries: devices, the terminal, `/proc/self/comm` and the like. What is there is the
/// sandbox's own minimal /dev, and /proc guards itself.
const WRITABLE_FILES: [&str; 2] = ["/dev", "/proc"];

/// All file system rights that a version knows.
pub const fn known_fs(abi: u32) -> u64 {
    let bits = match abi {
        0 => 0,
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        5..=8 => 16,
        _ => 17,
    };
    (1 << bits) - 1
}

/// All network rights that a version knows, as of [`ABI_NEWEST`].
pub const fn known_net(abi: u32) -> u64 {
    if abi >= 4 { net::BIND_TCP | net::CONNECT_TCP } else { 0 }
}

/// All scopes that a version knows.
pub const fn known_scopes(abi: u32) -> u64 {
    if abi >= 6 { scope::ABSTRACT_UNIX_SOCKET | scope::SIGNAL } else { 0 }
}

/// A path, and what may be done at and below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandlockRule {
    /// As seen inside the sandbox.
    pub path: PathBuf,
    /// `LANDLOCK_ACCESS_FS_*`. For a path that is no directory take [`LandlockRule::access_of_a_file`].
    pub access: u64,
}

impl LandlockRule {
    /// The part of the access that a rule on a file may have.
    pub const fn access_of_a_file(&self) -> u64 {
        self.access & fs::OF_A_FILE
    }
}

/// A ruleset to be made: `struct landlock_ruleset_attr`, and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandlockPlan {
    /// The version that it is made for.
    pub abi: u32,
    /// `handled_access_fs`: denied unless a rule allows it.
    pub handled_fs: u64,
    /// `handled_access_net` (ABI 4; zero before).
    pub handled_net: u64,
    /// `scoped` (ABI 6; zero before).
    pub scoped: u64,
    /// What is allowed, the widest path first.
    pub rules: Vec<LandlockRule>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LandlockError {
    /// The kernel's version would break builds, or there is none.
    #[error("cannot use landlock: abi {0} forbids renames between directories, {ABI_OLDEST} is needed")]
    TooOld(u32),
    /// A rule needs an absolute path.
    #[error("cannot use landlock: {0:?} is not an absolute path")]
    NotAbsolute(PathBuf),
}

impl LandlockPlan {
    /// The plan for a version of the ABI, as `landlock_create_ruleset(NULL, 0,
    /// LANDLOCK_CREATE_RULESET_VERSION)` gives it. `deny_tcp` refuses TCP altogether, where the version can.
    pub fn new<'p>(
        abi: u32,
        writable: impl IntoIterator<Item = &'p Path>,
        deny_tcp: bool,
    ) -> Result<LandlockPlan, LandlockError> {
        if abi < ABI_OLDEST {
            return Err(LandlockError::TooOld(abi));
        }
        let abi = abi.min(ABI_NEWEST);
        let handled_fs = known_fs(abi);
        let rule =
            |path: &Path, access: u64| LandlockRule { path: path.to_owned(), access: access & handled_fs };
        let mut rules = vec![rule(Path::new("/"), fs::READ)];
        rules.extend(
            WRITABLE_FILES
                .iter()
                .map(|path| rule(Path::new(path), fs::READ | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV)),
        );
        for path in writable {
            if !path.is_absolute() {
                return Err(LandlockError::NotAbsolute(path.to_owned()));
            }
            rules.push(rule(path, fs::READ | fs::WRITE));
        }
        let handled_net = if deny_tcp { known_net(abi) } else { 0 };
        Ok(LandlockPlan { abi, handled_fs, handled_net, scoped: known_scopes(abi), rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(abi: u32) -> LandlockPlan {
        LandlockPlan::new(abi, [Path::new("/work"), Path::new("/tmp")], true).unwrap()
    }

    #[test]
    fn masks_grow_with_the_version() {
        let check = |abi, fs, net, scoped| {
            assert_eq!((known_fs(abi), known_net(abi), known_scopes(abi)), (fs, net, scoped), "abi {abi}");
        };
        check(0, 0, 0, 0);
        check(1, 0x1fff, 0, 0);
        check(2, 0x3fff, 0, 0);
        check(3, 0x7fff, 0, 0);
        check(4, 0x7fff, 3, 0);
        check(5, 0xffff, 3, 0);
        check(6, 0xffff, 3, 3);
        check(7, 0xffff, 3, 3);
        check(8, 0xffff, 3, 3);
        check(9, 0x1_ffff, 3, 3);
        check(10, 0x1_ffff, 3, 3);
    }

    #[test]
    fn a_plan_asks_only_for_what_its_version_knows() {
        for abi in ABI_OLDEST..=ABI_NEWEST + 3 {
            let plan = plan(abi);
            assert_eq!(plan.abi, abi.min(ABI_NEWEST));
            assert_eq!(plan.handled_fs & !known_fs(abi), 0);
            assert_eq!(plan.handled_net, known_net(abi));
            assert_eq!(plan.scoped, known_scopes(abi));
            for rule in &plan.rules {
                assert_ne!(rule.access, 0);
                assert_eq!(rule.access & !plan.handled_fs, 0, "abi {abi} {:?}", rule.path);
                assert_eq!(rule.access & (fs::MAKE_CHAR | fs::MAKE_BLOCK | fs::RESOLVE_UNIX), 0);
            }
        }
    }

    #[test]
    fn only_the_given_paths_are_writable() {
        let plan = plan(7);
        let access =
            |path: &str| plan.rules.iter().find(|rule| rule.path == Path::new(path)).map(|rule| rule.access);
        assert_eq!(access("/"), Some(fs::READ));
        assert_eq!(access("/dev"), Some(fs::READ | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV));
        assert_eq!(access("/work"), Some(fs::READ | fs::WRITE));
        assert_eq!(access("/tmp"), access("/work"), "a rename between them needs equal rights");
        assert_eq!(access("/usr"), None);
        assert_eq!(plan.rules.len(), 5);
        let work = &plan.rules[3];
        assert_eq!(work.access_of_a_file(), fs::EXECUTE | fs::READ_FILE | fs::WRITE_FILE | fs::TRUNCATE);
    }

    #[test]
    fn tcp_is_left_alone_unless_denied() {
        let plan = LandlockPlan::new(7, [], false).unwrap();
        assert_eq!(plan.handled_net, 0);
    }

    #[test]
    fn unusable_versions_and_relative_paths_are_refused() {
        assert_eq!(LandlockPlan::new(0, [], false), Err(LandlockError::TooOld(0)));
        assert_eq!(LandlockPlan::new(1, [], false), Err(LandlockError::TooOld(1)));
        let relative = LandlockPlan::new(7, [Path::new("work")], false);
        assert_eq!(relative, Err(LandlockError::NotAbsolute("work".into())));
    }
}
