//! What this kernel and these privileges give: probed once, passed on as a value.
//!
//! Nothing else in the crate asks for a kernel version or tries things out. Each feature is [`Support::Yes`] or
//! [`Support::No`] with the reason and, where there is one, the command or sysctl that would change it; `fulgurite
//! doctor` prints these.
use crate::spec::RootView;
use crate::sys::process;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a feature is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is.
    Yes,
    /// It is not.
    No {
        /// Why.
        why: String,
        /// What would change that, if anything.
        remedy: Option<String>,
    },
}

impl Support {
    /// Whether it is there.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        matches!(self, Support::Yes)
    }

    /// Why it is not there; empty if it is.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Support::Yes => "",
            Support::No { why, .. } => why,
        }
    }

    fn no(why: impl Into<String>, remedy: Option<&str>) -> Self {
        Support::No { why: why.into(), remedy: remedy.map(str::to_owned) }
    }
}

/// What kind of thing a host entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symlink and its target.
    Symlink(String),
}

/// A part of the host that the root view shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// Where it is on the host.
    pub source: String,
    /// Where it appears, relative to the root.
    pub at: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What this kernel and these privileges give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub kernel: String,
    /// Whether the process has the privileges of the host's root, as opposed to those of its own user namespace.
    pub privileged: bool,
    /// User namespaces can be made.
    pub user_namespaces: Support,
    /// Two ids of their own can be mapped into each sandbox.
    pub two_ids: bool,
    /// seccomp filters.
    pub seccomp: Support,
    /// The landlock ABI, or why there is none.
    pub landlock_abi: Result<u32, String>,
    /// A cgroup v2 tree is used, so that processes can be cloned into it and killed by it.
    pub cgroup_v2: bool,
    /// Init and action share one memory cgroup (v1), so that the action must be the first to go.
    pub shares_memory_cgroup: bool,
    /// idmapped mounts: files of the exec root's owner belong to the action inside.
    pub idmapped_mounts: Support,
    /// overlayfs can be mounted.
    pub overlay: Support,
    /// Overlay layers can be given as descriptors of mounts that are not attached (Linux 6.15).
    pub overlay_detached_layers: Support,
    /// Names of proc that this kernel has and that plans mask or make read-only.
    pub proc_entries: Vec<String>,
}

impl Features {
    /// Whether /proc has an entry of this name.
    #[must_use]
    pub fn proc_has(&self, name: &str) -> bool {
        self.proc_entries.iter().any(|entry| entry == name)
    }

    /// A host that has everything; for tests of pure code.
    #[must_use]
    pub fn everything() -> Self {
        Features {
            kernel: "6.18.0".to_owned(),
            privileged: true,
            user_namespaces: Support::Yes,
            two_ids: true,
            seccomp: Support::Yes,
            landlock_abi: Ok(7),
            cgroup_v2: true,
            shares_memory_cgroup: false,
            idmapped_mounts: Support::Yes,
            overlay: Support::Yes,
            overlay_detached_layers: Support::Yes,
            proc_entries: ["kcore", "keys", "kmsg", "acpi", "sys", "bus", "irq", "fs", "sysrq-trigger"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Directories of the host's root that hold toolchains.
const TOOLCHAIN: [&str; 9] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix/store"];
/// What compilers and loaders need of /etc, by name or prefix (ending in `*`). No keys, no users, no mounts.
const ETC: [&str; 16] = [
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "timezone",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates.conf",
    "pki/tls/certs",
    "java*",
    "python*",
    "perl",
    "mime.types",
    "protocols",
    "services",
];

/// What a root view shows of the host, in a stable order. Entries that do not exist are left out.
///
/// # Errors
/// When the given root directory cannot be read.
pub fn entries(root: &RootView) -> std::io::Result<Vec<HostEntry>> {
    match root {
        RootView::Host => {
            let mut found: Vec<HostEntry> =
                TOOLCHAIN.iter().filter_map(|name| entry(Path::new("/"), name)).collect();
            for pattern in ETC {
                match pattern.strip_suffix('*') {
                    None => found.extend(entry(Path::new("/"), &format!("etc/{pattern}"))),
                    Some(prefix) => found.extend(matching(prefix)),
                }
            }
            Ok(found)
        }
        RootView::Directory(directory) => {
            let mut names: Vec<String> = Vec::new();
            for item in std::fs::read_dir(directory)? {
                if let Ok(name) = item?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort();
            let own = ["dev", "proc", "sys", "tmp", "work", "run"];
            let shown = names.iter().filter(|name| !own.contains(&name.as_str()));
            let mut found: Vec<HostEntry> = Vec::new();
            for name in shown {
                // /etc is shown entry by entry, since the view has its own directory of that name.
                if name == "etc" && directory.join("etc").is_dir() {
                    let mut inner: Vec<_> =
                        std::fs::read_dir(directory.join("etc"))?.filter_map(Result::ok).collect();
                    inner.sort_by_key(std::fs::DirEntry::file_name);
                    let names = inner.into_iter().filter_map(|item| item.file_name().into_string().ok());
                    found.extend(names.filter_map(|inner| entry(directory, &format!("etc/{inner}"))));
                } else {
                    found.extend(entry(directory, name));
                }
            }
            Ok(found)
        }
    }
}

fn matching(prefix: &str) -> Vec<HostEntry> {
    let Ok(items) = std::fs::read_dir("/etc") else { return Vec::new() };
    let mut names: Vec<String> = items
        .filter_map(|item| item.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names.iter().filter_map(|name| entry(Path::new("/"), &format!("etc/{name}"))).collect()
}

fn entry(root: &Path, at: &str) -> Option<HostEntry> {
    let path = root.join(at);
    let meta = std::fs::symlink_metadata(&path).ok()?;
    let kind = if meta.is_symlink() {
        EntryKind::Symlink(std::fs::read_link(&path).ok()?.to_str()?.to_owned())
    } else if meta.is_dir() {
        EntryKind::Directory
    } else if meta.is_file() {
        EntryKind::File
    } else {
        return None;
    };
    let source = std::str::from_utf8(path.as_os_str().as_bytes()).ok()?.to_owned();
    Some(HostEntry { source, at: at.to_owned(), kind })
}

/// Whether this process may administer the host's mounts, as root usually may, and use the ids of [`crate::seat`]. Root
/// of a user namespace, as `unshare -r` and rootless containers make, is an ordinary user here.
#[must_use]
pub fn is_administrator() -> bool {
    let has_our_ids = |file: &str| {
        std::fs::read_to_string(file)
            .is_ok_and(|map| map.lines().any(|line| maps_all(line, crate::seat::IDS)))
    };
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false)
        && has_our_ids("/proc/self/uid_map")
        && has_our_ids("/proc/self/gid_map")
}

/// Whether a line of an id map (user_namespaces(7): inside, outside, count) has all of these ids inside.
fn maps_all(line: &str, ids: core::ops::RangeInclusive<u32>) -> bool {
    let mut numbers = line.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next()) else {
        return false;
    };
    (first..first + count).contains(&u64::from(*ids.start()))
        && (first..first + count).contains(&u64::from(*ids.end()))
}

/// Why an ordinary user cannot make user namespaces, as far as the host's settings tell.
#[must_use]
pub fn user_namespaces() -> Support {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Support::no(
            "user.max_user_namespaces is 0",
            Some("sysctl -w user.max_user_namespaces=65536"),
        );
    }
    if is_administrator() {
        return Support::Yes;
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Support::no(
            "kernel.unprivileged_userns_clone is 0",
            Some("sysctl -w kernel.unprivileged_userns_clone=1"),
        );
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Support::no(
            "AppArmor restricts user namespaces of ordinary users",
            Some(
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns",
            ),
        );
    }
    Support::Yes
}

/// seccomp filters: whether the kernel has them.
#[must_use]
pub fn seccomp() -> Support {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(text) if text.contains("kill_process") => Support::Yes,
        Ok(_) => Support::no("the kernel's seccomp has no kill_process (Linux 4.14)", None),
        Err(error) => Support::no(format!("the kernel has no seccomp filters ({error})"), None),
    }
}

/// The landlock ABI.
///
/// # Errors
/// Why there is none, in words.
pub fn landlock_abi() -> Result<u32, String> {
    use crate::sys::Errno;
    process::landlock_abi().map_err(|errno| match errno {
        Errno::NOSYS => "the kernel is built without it".to_owned(),
        Errno::OPNOTSUPP => "it is not in the kernel's lsm= list".to_owned(),
        other => other.to_string(),
    })
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Names below /proc that others than the host's root may use in some way. Actions never are the host's root, whatever
/// their id inside, so that all other names are refused to them by their mode, and need no mask.
#[must_use]
pub fn proc_entries() -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let open_to_others =
        |item: &std::fs::DirEntry| item.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o7 != 0);
    let names = std::fs::read_dir("/proc").map(|items| {
        items
            .filter_map(Result::ok)
            .filter(open_to_others)
            .filter_map(|item| item.file_name().into_string().ok())
            .filter(|name| !name.starts_with(|first: char| first.is_ascii_digit()))
            .collect::<Vec<_>>()
    });
    let mut names = names.unwrap_or_default();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::maps_all;

    #[test]
    fn only_a_map_with_the_whole_range_will_do() {
        let ids = crate::seat::IDS;
        assert!(maps_all("         0          0 4294967295", ids.clone()));
        assert!(maps_all("1879048192 5 268435456", ids.clone()));
        assert!(!maps_all("1879048192 5 268435455", ids.clone()));
        assert!(!maps_all("0 1000 1", ids.clone()));
        assert!(!maps_all("0 100000 65536", ids.clone()));
        assert!(!maps_all("", ids));
    }
}
