//! How a server is to be started: plain data, filled from the configuration.

use super::limits::ServeLimits;
use super::platform::PlatformOffer;
use super::results::Results;
use crate::cas::Cas;
use crate::remote::Elsewhere;
use crate::sched::SchedulerLimits;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything that a server needs to know.
#[derive(Debug)]
pub struct ServeOptions {
    /// Where it listens; at least one place.
    pub listen: Vec<Listen>,
    /// Who may come in.
    pub access: Access,
    /// Which instances there are: each is a tenant.
    pub instances: Vec<InstanceOptions>,
    /// Bounds on what peers may ask for.
    pub limits: ServeLimits,
    /// Bounds on what waits.
    pub scheduler: SchedulerLimits,
    /// How long running actions may go on when the server is told to end.
    pub drain_for: Duration,
    /// Where numbers are told, to anybody; nowhere if empty.
    pub metrics: Vec<SocketAddr>,
    /// The local API, for callers by a Unix socket.
    pub local: Option<super::local::LocalOptions>,
}

/// A place to listen at.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A TCP address.
    Tcp {
        /// Which; port 0 takes any.
        address: SocketAddr,
        /// With TLS.
        tls: Option<TlsOptions>,
    },
    /// A Unix socket.
    Unix {
        /// Where its file lies.
        path: PathBuf,
        /// The file's permissions; 0o600 unless other users shall come.
        mode: u32,
    },
}

/// TLS of a listener; all PEM.
#[derive(Clone)]
pub struct TlsOptions {
    /// The server's certificate, with its chain.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// Clients must show a certificate of one of these authorities.
    pub client_authorities_pem: Option<String>,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mutual = self.client_authorities_pem.is_some();
        f.debug_struct("TlsOptions").field("mutual", &mutual).finish_non_exhaustive()
    }
}

/// Who may come in, and how far.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// If there are any, a peer that comes by TCP must send one of them.
    pub tokens: Vec<Token>,
    /// If there are any, a peer that comes by TCP must show one of them; else all of the listener's authority will do.
    pub certificates: Vec<CertificateGrant>,
    /// Users that may come by Unix sockets, beside the daemon's own and root.
    pub uids: Vec<u32>,
}

/// A bearer token.
#[derive(Clone)]
pub struct Token {
    /// SHA-256 of what follows `Bearer ` in the header `authorization`.
    pub sha256: [u8; 32],
    /// How far it reaches.
    pub reach: Reach,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("reach", &self.reach).finish_non_exhaustive()
    }
}

/// A client's certificate.
#[derive(Clone, Debug)]
pub struct CertificateGrant {
    /// SHA-256 of the certificate in DER.
    pub sha256: [u8; 32],
    /// How far it reaches.
    pub reach: Reach,
}

/// The instances that somebody may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All.
    Every,
    /// These.
    Only(Vec<String>),
}

impl Reach {
    /// Whether an instance is within it.
    #[must_use]
    pub fn covers(&self, instance: &str) -> bool {
        match self {
            Reach::Every => true,
            Reach::Only(names) => names.iter().any(|name| name == instance),
        }
    }
}

/// Who writes an instance's action cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionCacheWriters {
    /// The executor, after its own run: whoever writes it owns every reader.
    Executor,
    /// Clients too: for use as a cache.
    Clients,
}

/// An instance.
#[derive(Clone, Debug)]
pub struct InstanceOptions {
    /// Its name; may be empty, may have slashes.
    pub name: String,
    /// Its blobs. Instances that share a store can see each other's blobs, by digest.
    pub cas: Cas,
    /// Where blobs may be that are not in it.
    pub elsewhere: Option<Elsewhere>,
    /// Its results.
    pub results: Arc<dyn Results>,
    /// Whether it executes actions.
    pub execution: bool,
    /// Who writes its action cache.
    pub writers: ActionCacheWriters,
    /// What it offers as platform.
    pub platform: PlatformOffer,
}
