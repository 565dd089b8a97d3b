//! Where the cgroup hierarchies are mounted, and where in them this process lives.
//!
//! Two texts are read: `/proc/self/mountinfo` (which hierarchies are mounted, and which part of each: the
//! *root* field) and `/proc/self/cgroup` (our path in each). In a container the mounted root may be our own
//! cgroup, or one above it; our directory is `mount point + (our path - root)`. If our path is not below
//! the mounted root, there is none.

use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// `None`: version 2. `Some`: the v1 controllers or `name=…` of this hierarchy.
    pub v1_names: Option<Vec<String>>,
    /// The cgroup that is visible at the mount point.
    pub root: String,
    /// Where it is mounted, unescaped.
    pub mount_point: PathBuf,
    /// Options of mount and superblock together.
    pub options: Vec<String>,
}

/// A line of `/proc/self/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Empty for version 2; else the v1 controllers or `name=…`.
    pub names: Vec<String>,
    /// The path of our cgroup, relative to the root of our cgroup namespace.
    pub path: String,
}

impl CgroupMount {
    /// Our directory in this hierarchy, if it is visible here.
    pub fn own_dir(&self, memberships: &[Membership]) -> Option<PathBuf> {
        let membership = memberships.iter().find(|membership| match &self.v1_names {
            None => membership.names.is_empty(),
            Some(names) => {
                !membership.names.is_empty() && membership.names.iter().all(|name| names.contains(name))
            }
        })?;
        let below = Path::new(&membership.path).strip_prefix(&self.root).ok()?;
        let upward = below.components().any(|part| part == std::path::Component::ParentDir);
        if upward || self.root.contains("/..") {
            return None;
        }
        Some(if below.as_os_str().is_empty() {
            self.mount_point.clone()
        } else {
            self.mount_point.join(below)
        })
    }

    /// Whether the mount or its superblock has this option.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }
}

/// The cgroup mounts of `/proc/self/mountinfo`, in its order; other lines and malformed ones are skipped.
pub fn mountinfo(text: &str) -> Vec<CgroupMount> {
    text.lines().filter_map(mountinfo_line).collect()
}

fn mountinfo_line(line: &str) -> Option<CgroupMount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount_point, mount_options) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, _source, super_options) = (right.next()?, right.next()?, right.next()?);
    let options: Vec<String> =
        mount_options.split(',').chain(super_options.split(',')).map(String::from).collect();
    let v1_names = match kind {
        "cgroup2" => None,
        "cgroup" => Some(super_options.split(',').filter(|name| !is_flag(name)).map(String::from).collect()),
        _ => return None,
    };
    Some(CgroupMount { v1_names, root: unescape(root), mount_point: unescape(mount_point).into(), options })
}

/// Superblock options of v1 that are not controllers.
fn is_flag(option: &str) -> bool {
    const FLAGS: [&str; 6] = ["rw", "ro", "xattr", "noprefix", "clone_children", "favordynmods"];
    FLAGS.contains(&option) || option.starts_with("release_agent=") || option.starts_with("cpuset_")
}

/// The lines of `/proc/self/cgroup`; malformed ones are skipped.
pub fn self_cgroup(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let names = names.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
            path.starts_with('/').then(|| Membership { names, path: path.to_string() })
        })
        .collect()
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        let octal =
            rest.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            bytes = &rest[3..];
        } else {
            out.push(byte);
            bytes = rest;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directories() {
        let check = |mount: &str, own: &str, expected: Option<&str>| {
            let found = mountinfo(mount).first().and_then(|mount| mount.own_dir(&self_cgroup(own)));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{mount:?} {own:?}");
        };
        let v2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        check(v2, "0::/\n", Some("/sys/fs/cgroup"));
        check(v2, "1:cpu:/x\n0::/user.slice/a b\n", Some("/sys/fs/cgroup/user.slice/a b"));
        check(v2, "0::/../outside\n", None);
        check(v2, "1:cpu:/x\n", None);
        check(v2, "garbage\n0:\n0::relative\n", None);
        let bound = "41 31 0:38 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw";
        check(bound, "0::/docker/ab/child\n", Some("/sys/fs/cgroup/child"));
        check(bound, "0::/docker/abc\n", None);
        let above = "41 31 0:38 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw";
        check(above, "0::/\n", None);
        let v1 = "33 31 0:30 / /sys/fs/cgroup/cpu\\040x rw - cgroup cgroup rw,xattr,cpu,cpuacct";
        check(v1, "0::/a\n2:cpu,cpuacct:/b\n", Some("/sys/fs/cgroup/cpu x/b"));
        check(v1, "2:memory:/b\n", None);
    }

    #[test]
    fn mount_lines() {
        let found = mountinfo(
            "33 31 0:30 / /c rw,relatime - cgroup cgroup rw,cpu\n\
             40 31 0:37 / /s rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
             41 31 0:38 / /u rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n\
             22 1 0:21 / /proc rw - proc proc rw\n\
             broken - cgroup2\n\n - \n",
        );
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].v1_names.as_deref(), Some(&["cpu".to_string()][..]));
        assert_eq!(found[1].v1_names.as_deref(), Some(&["name=systemd".to_string()][..]));
        assert_eq!(found[2].v1_names, None);
        assert!(found[2].has_option("favordynmods") && found[2].has_option("nosuid"));
        assert_eq!(unescape("a\\04\\1340\\"), "a\\04\\0\\");
    }
}
