//! `[remote]` and `[race]`: a cluster, and how this machine races against it.

use super::value::{RemoteMode, RemoteOutputs, Strategy, Text, Texts};
use std::path::PathBuf;
use std::time::Duration;

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// Where it is; `None`: there is none.
    pub address: Option<Text>,
    /// Its instance.
    pub instance: Text,
    /// What it is used for.
    pub mode: RemoteMode,
    /// What of its results is fetched at once.
    pub outputs: RemoteOutputs,
    /// How long it is trusted to keep what was not fetched.
    pub outputs_kept_for: Duration,
    /// Authorities of its certificate.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate.
    pub tls_certificate: Option<PathBuf>,
    /// The key of that.
    pub tls_key: Option<PathBuf>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// Headers of every call.
    pub headers: Texts,
    /// Actions on their way.
    pub jobs: u32,
    /// A local win fills its cache.
    pub upload_local_results: bool,
    /// For connecting.
    pub connect_timeout: Duration,
    /// For a call.
    pub call_timeout: Duration,
}

impl Default for RemoteCluster {
    fn default() -> Self {
        RemoteCluster {
            address: None,
            instance: Text(String::new()),
            mode: RemoteMode::Execute,
            outputs: RemoteOutputs::All,
            // As Bazel's --experimental_remote_cache_ttl.
            outputs_kept_for: Duration::from_secs(3 * 60 * 60),
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
            token_file: None,
            headers: Texts(Vec::new()),
            jobs: 64,
            upload_local_results: true,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(60),
        }
    }
}

/// How actions race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaceSettings {
    /// Of actions that do not say.
    pub strategy: Strategy,
    /// `name=value` or `name=Mnemonic=value`, in order.
    pub options: Texts,
}

impl Default for RaceSettings {
    fn default() -> Self {
        RaceSettings { strategy: Strategy::Racing, options: Texts(Vec::new()) }
    }
}
