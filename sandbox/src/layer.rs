//! Overlay mounts over an input tree: what an action sees at /work and where its writes go.
//!
//! ```text
//! lower: the input tree, its owner's ids mapped to the action's     ┐
//! upper: the layer, a private directory owned by the action's id    ├─ overlay, detached ─► init attaches it at /work
//! work:  a directory beside the layer, for overlayfs itself         ┘
//! ```
//! Every option is pinned: redirects and metacopy are neither made nor followed, so that nothing that an action leaves
//! in a layer is ever interpreted. Source: Documentation/filesystems/overlayfs.rst. Layers are volatile: they never
//! outlive the action's own outputs.
use crate::host::Features;
use crate::sys::mount::{self, attr};
use crate::sys::{Errno, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{fsconfig_set_fd, fsconfig_set_string};
use std::ffi::{CStr, CString};

/// The three directories of an overlay.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// The input tree: a directory, or a detached mount of it.
    pub lower: BorrowedFd<'a>,
    /// The layer that takes the writes.
    pub upper: BorrowedFd<'a>,
    /// overlayfs's own directory, on the filesystem of `upper`.
    pub work: BorrowedFd<'a>,
}

/// As [`overlay`], for a lower layer that is a detached mount. Kernels before Linux 6.15 take only attached ones: there
/// it stays attached at `place` below `dir`, a directory of our own, for as long as the overlay is being mounted.
///
/// # Errors
/// As [`overlay`], and those of attaching and detaching.
pub fn overlay_on_detached(
    layers: &Layers<'_>,
    dir: BorrowedFd<'_>,
    place: &CStr,
    features: &Features,
) -> Result<OwnedFd> {
    if features.overlay_detached_layers.is_yes() {
        return overlay(layers, features);
    }
    rustix::fs::mkdirat(dir, place, Mode::from_raw_mode(0o700))?;
    mount::attach_at(layers.lower, dir, place)?;
    let mounted = overlay(layers, features);
    let path = CString::new([descriptor_path(dir)?.as_bytes(), b"/", place.to_bytes()].concat())
        .map_err(|_| Errno::INVAL)?;
    mount::detach(&path)?;
    rustix::fs::unlinkat(dir, place, rustix::fs::AtFlags::REMOVEDIR)?;
    mounted
}

/// Mounts an overlay, detached.
///
/// # Errors
/// The kernel's: `EINVAL` where a layer's filesystem cannot be one (for instance an overlay without xattrs as upper).
pub fn overlay(layers: &Layers<'_>, features: &Features) -> Result<OwnedFd> {
    configured(layers, None, features)
}

/// As [`overlay`], with a layer below all others of which no name is seen: files of `lower` say by their xattrs where
/// below `data` their bytes are. From Linux 6.16 on the kernel follows these from a lower layer into a data layer
/// although redirects and metacopy are off, and nothing in `upper` is ever such a mark.
///
/// # Errors
/// As [`overlay`]; kernels before 6.15 take no detached layers.
pub fn overlay_over_data(layers: &Layers<'_>, data: BorrowedFd<'_>, features: &Features) -> Result<OwnedFd> {
    configured(layers, Some(data), features)
}

fn configured(layers: &Layers<'_>, data: Option<BorrowedFd<'_>>, features: &Features) -> Result<OwnedFd> {
    let context = mount::overlay_context()?;
    set_layer(&context, c"lowerdir+", c"lowerdir", layers.lower, features)?;
    if let Some(data) = data {
        fsconfig_set_fd(context.as_fd(), c"datadir+", data)?;
    }
    set_layer(&context, c"upperdir", c"upperdir", layers.upper, features)?;
    set_layer(&context, c"workdir", c"workdir", layers.work, features)?;
    if features.privileged {
        fsconfig_set_string(context.as_fd(), c"redirect_dir", c"nofollow")?;
        fsconfig_set_string(context.as_fd(), c"metacopy", c"off")?;
    } else {
        // In a user namespace the options above are forced off together with this one.
        mount::set_flag(context.as_fd(), c"userxattr")?;
    }
    fsconfig_set_string(context.as_fd(), c"index", c"off")?;
    fsconfig_set_string(context.as_fd(), c"xino", c"off")?;
    mount::set_flag(context.as_fd(), c"volatile")?;
    mount::finish(context.as_fd(), attr::NO_SUID | attr::NO_DEV)
}

fn set_layer(
    context: &OwnedFd,
    by_fd: &CStr,
    by_path: &CStr,
    layer: BorrowedFd<'_>,
    features: &Features,
) -> Result<()> {
    if features.overlay_detached_layers.is_yes() {
        return fsconfig_set_fd(context.as_fd(), by_fd, layer);
    }
    fsconfig_set_string(context.as_fd(), by_path, &descriptor_path(layer)?)
}

/// The layer alone, as a detached mount: for an action whose inputs lie in it.
///
/// # Errors
/// As open_tree(2) and mount_setattr(2).
pub fn plain(upper: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mounted = mount::clone_mount(upper, c"")?;
    mount::restrict(mounted.as_fd(), attr::NO_SUID | attr::NO_DEV)?;
    Ok(mounted)
}

/// A path that names an open descriptor.
fn descriptor_path(fd: BorrowedFd<'_>) -> Result<CString> {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| Errno::INVAL)
}

/// Opens a directory for use as a layer.
///
/// # Errors
/// As openat(2).
pub fn open_directory(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    rustix::fs::openat(
        dir,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// A detached mount of `tree` in which the files of one host id belong to another, and the other way round.
///
/// # Errors
/// `EINVAL` where the filesystem has no idmapped mounts, `EPERM` outside the host's own user namespace.
pub fn map_owner(tree: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mapped = mount::clone_mount(tree, c"")?;
    mount::map_ids(mapped.as_fd(), user_namespace)?;
    Ok(mapped)
}

/// The id map that exchanges `owner` and `action` and leaves all others, as lines for
/// [`crate::zygote::Zygote::user_namespace`].
#[must_use]
pub fn exchange_map(owner: u32, action: u32) -> String {
    if owner == action {
        return format!("0 0 {}\n", u32::MAX);
    }
    let (low, high) = (owner.min(action), owner.max(action));
    let mut map = String::new();
    let mut line = |inside: u32, outside: u32, count: u32| {
        if count > 0 {
            map.push_str(&format!("{inside} {outside} {count}\n"));
        }
    };
    line(0, 0, low);
    line(low, high, 1);
    line(low + 1, low + 1, high - low - 1);
    line(high, low, 1);
    line(high + 1, high + 1, u32::MAX - high - 1);
    map
}

#[cfg(test)]
mod tests {
    use super::exchange_map;

    #[test]
    fn two_ids_change_places_and_the_others_stay() {
        assert_eq!(exchange_map(0, 5), "0 5 1\n1 1 4\n5 0 1\n6 6 4294967289\n");
        assert_eq!(exchange_map(5, 3), "0 0 3\n3 5 1\n4 4 1\n5 3 1\n6 6 4294967289\n");
        assert_eq!(exchange_map(7, 7), "0 0 4294967295\n");
        assert!(exchange_map(1000, 1_879_048_193).len() < crate::zygote::wire::MAP_BYTES_MAX);
    }
}
