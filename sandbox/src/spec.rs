//! What a sandbox shall be: plain data, compared and hashed as a whole.
//!
//! Two leases may use the same sandbox only if their specs are equal, the tenant included. Limits, inputs, command and
//! environment belong to the action, not to the sandbox, and stand in [`crate::sandbox::Action`].
use crate::harden::HardeningSpec;
use std::path::PathBuf;

/// What the root of the sandbox shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RootView {
    /// The host's toolchain directories, read-only: /usr, /bin, /lib…, /opt and what compilers need of /etc.
    Host,
    /// The top-level directories of this directory instead of the host's.
    Directory(PathBuf),
}

/// What of the network the action sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// A network namespace in which even loopback is down.
    None,
    /// A network namespace with only loopback.
    Loopback,
    /// The host's network.
    Host,
}

/// A host directory or file that is visible inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostMount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// Whether the action may write there, straight to the host.
    pub writable: bool,
}

impl HostMount {
    /// Whether the source is something other than a directory.
    #[must_use]
    pub fn is_file(&self) -> bool {
        std::fs::metadata(&self.source).is_ok_and(|meta| !meta.is_dir())
    }
}

/// Who the action is, inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its user id inside. 0 makes programs believe that they are root; they have no more power for it.
    pub uid: u32,
    /// Its group id inside.
    pub gid: u32,
    /// The name that /etc/passwd gives it.
    pub name: String,
}

/// What one kind of sandbox is like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SandboxSpec {
    /// Sandboxes are never shared between tenants.
    pub tenant: String,
    /// What the root shows.
    pub root: RootView,
    /// More of the host, in order; a later mount may lie below an earlier one.
    pub mounts: Vec<HostMount>,
    /// The network.
    pub network: Network,
    /// Who the action is.
    pub identity: Identity,
    /// The host name inside.
    pub host_name: String,
    /// Size of /tmp in bytes. Charged to the action's memory as well.
    pub tmp_bytes_max: u64,
    /// Inodes in /tmp.
    pub tmp_inodes_max: u64,
    /// Size of /dev/shm in bytes.
    pub shm_bytes_max: u64,
    /// File mode creation mask.
    pub umask: u32,
    /// What is taken away from the action.
    pub hardening: HardeningSpec,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        SandboxSpec {
            tenant: String::new(),
            root: RootView::Host,
            mounts: Vec::new(),
            network: Network::Loopback,
            identity: Identity { uid: 1000, gid: 1000, name: "build".to_owned() },
            host_name: "fulgurite".to_owned(),
            tmp_bytes_max: 4 << 30,
            tmp_inodes_max: 1 << 20,
            shm_bytes_max: 1 << 30,
            umask: 0o022,
            hardening: HardeningSpec::default(),
        }
    }
}
