//! Probes that need a mount: tried once on a small detached tmpfs, which disappears with its descriptor.
use crate::host::{Features, Support};
use crate::layer::{self, Layers};
use crate::sys::mount::{self, attr};
use crate::sys::{Errno, Result};
use crate::zygote::Zygote;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Mode;
use std::ffi::CStr;

/// Fills in what this kernel gives for mounts.
pub fn mounts(features: &mut Features, zygote: &Zygote) {
    features.idmapped_mounts = match idmapped(features, zygote) {
        Ok(()) => Support::Yes,
        Err(why) => Support::No { why, remedy: None },
    };
    features.overlay_detached_layers = match detached_overlay(features) {
        Ok(()) => Support::Yes,
        Err(errno) => Support::No {
            why: format!("overlay layers cannot be detached mounts before Linux 6.15 ({errno})"),
            remedy: None,
        },
    };
    let listed = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = listed.lines().any(|line| line.split_whitespace().next_back() == Some("overlay"));
    if !features.overlay_detached_layers.is_yes() && !known && mount::overlay_context().is_err() {
        features.overlay = Support::No {
            why: "the kernel has no overlay filesystem".to_owned(),
            remedy: Some("modprobe overlay".to_owned()),
        };
    }
}

fn idmapped(features: &Features, zygote: &Zygote) -> core::result::Result<(), String> {
    if !features.privileged {
        return Err("only the host's root can make them".to_owned());
    }
    let namespace = zygote.user_namespace(&layer::exchange_map(0, 1)).map_err(|error| error.to_string())?;
    let tree = mount::tmpfs(c"4096", c"4", c"0755", 0).map_err(|errno| errno.to_string())?;
    match mount::map_ids(tree.as_fd(), namespace.as_fd()) {
        // tmpfs has them only from Linux 6.3 on; disk filesystems had them before, and are asked when used.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.to_string()),
    }
}

fn detached_overlay(features: &Features) -> Result<()> {
    let tree = mount::tmpfs(c"65536", c"32", c"0755", attr::NO_SUID)?;
    let open = |name: &CStr| -> Result<OwnedFd> {
        rustix::fs::mkdirat(tree.as_fd(), name, Mode::from_raw_mode(0o755))?;
        layer::open_directory(tree.as_fd(), name)
    };
    let (lower, upper, work) = (open(c"lower")?, open(c"upper")?, open(c"work")?);
    // A lower layer is a detached mount of its own when its ids are mapped.
    let lower = mount::clone_mount(lower.as_fd(), c"")?;
    let layers = Layers { lower: lower.as_fd(), upper: upper.as_fd(), work: work.as_fd() };
    layer::overlay(&layers, features).map(drop)
}
