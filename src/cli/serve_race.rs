//! The part of `fulgurite serve` that races: a cluster and its secrets, from the configuration.

use crate::cas::Cas;
use crate::config::{Config, RemoteMode, RemoteOutputs, Strategy};
use crate::exec::Executor;
use crate::failure::Failure;
use crate::race::executor::{Place, Racing, RacingOptions, RemoteUse};
use crate::race::knobs::Knobs;
use crate::remote::{Cluster, ClusterOptions, Elsewhere};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Threads that talk to the cluster.
const THREADS: usize = 2;
/// Where a machine keeps the authorities that it trusts, by distribution.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// `local` itself, or with a cluster to race against.
pub(super) fn racing(
    config: &Config,
    local: Arc<dyn Executor>,
    cas: &Cas,
) -> Result<(Arc<dyn Executor>, Option<Elsewhere>), Failure> {
    let knobs = knobs(config)?;
    let Some(address) = config.remote.address.as_ref().filter(|address| !address.0.is_empty()) else {
        return Ok((local, None));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("fulgurite-remote")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let options = cluster(config, &address.0)?;
    let context = runtime.enter();
    let cluster = Cluster::new(options).map_err(|error| Failure::new(error.to_string()))?;
    drop(context);
    let kept_for = config.remote.outputs_kept_for;
    let lazily = match config.remote.outputs {
        RemoteOutputs::All => None,
        RemoteOutputs::Lazy => Some(Elsewhere::new(cluster.clone(), cas.clone(), kept_for)),
    };
    let options = RacingOptions {
        lazily: lazily.clone(),
        place: match config.race.strategy {
            Strategy::Racing => Place::Racing,
            Strategy::Local => Place::Local,
            Strategy::Remote => Place::Remote,
            Strategy::RemoteLocalFallback => Place::RemoteLocalFallback,
        },
        remote: match config.remote.mode {
            RemoteMode::Execute => RemoteUse::Execute,
            RemoteMode::Cache => RemoteUse::CacheOnly,
        },
        jobs: usize::try_from(config.remote.jobs).unwrap_or(usize::MAX).max(1),
        upload_local_results: config.remote.upload_local_results,
        knobs,
        history: Some(config.state_dir.join("race-history.redb")),
    };
    // Later than any of an earlier process.
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let epoch = u64::try_from(epoch).unwrap_or(0);
    let racing = Racing::new(local, cluster, cas.clone(), Arc::new(runtime), options, epoch);
    Ok((Arc::new(racing.map_err(|error| Failure::new(error.to_string()))?), lazily))
}

pub(super) fn knobs(config: &Config) -> Result<Knobs, Failure> {
    let mut knobs = Knobs::default();
    for option in &config.race.options.0 {
        let pair = option.split_once('=');
        let (name, value) = pair.ok_or_else(|| {
            Failure::new(format!("the option {option:?} of races is no NAME=VALUE"))
                .hint(Some("such as local_execution_delay=auto, or local_strategy=Javac=worker"))
        })?;
        knobs.set(name, value).map_err(|error| Failure::new(error.to_string()))?;
    }
    Ok(knobs)
}

/// Whether what is configured can be understood; files are not looked at.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    knobs(config)?;
    let address = config.remote.address.as_ref().filter(|address| !address.0.is_empty());
    address.map_or(Ok(()), |address| check_address(&address.0))?;
    config.remote.headers.0.iter().try_for_each(|header| pair(header).map(drop))
}

/// A header and its value.
fn pair(header: &String) -> Result<(String, String), Failure> {
    let pair = header.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pair.ok_or_else(|| Failure::new(format!("the header {header:?} of remote.headers is no NAME=VALUE")))
}

/// What the transport would find out with the first call only.
fn check_address(address: &str) -> Result<(), Failure> {
    let is_good = if let Some(path) = address.strip_prefix("unix:") {
        !path.trim_matches('/').is_empty()
    } else {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let has_port_of_its_own = matches!(scheme, "grpcs" | "https");
        let authority = rest.split('/').next().unwrap_or_default();
        match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => {
                matches!(scheme, "" | "grpc" | "grpcs" | "http" | "https")
                    && !host.is_empty()
                    && port.parse::<u16>().is_ok_and(|port| port != 0)
            }
            _ => has_port_of_its_own && !authority.is_empty(),
        }
    };
    let wrong = || {
        let hint = "such as grpc://host:8980, grpcs://host:443, or unix:/path";
        Failure::new(format!("cannot use the remote {address:?}: it is no address")).hint(Some(hint))
    };
    is_good.then_some(()).ok_or_else(wrong)
}

pub(super) fn cluster(config: &Config, address: &str) -> Result<ClusterOptions, Failure> {
    check_address(address)?;
    let remote = &config.remote;
    let mut authorities_pem = remote.tls_ca.as_deref().map(read).transpose()?;
    if authorities_pem.is_none() && address.starts_with("grpcs://") {
        let found = AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
        let none = || {
            Failure::new(
                "cannot check the certificate of the remote: this machine has no list of authorities",
            )
            .hint(Some("name one with --set remote.tls_ca=FILE, or install ca-certificates"))
        };
        authorities_pem = Some(read(&found.ok_or_else(none)?)?);
    }
    let identity_pem = match (&remote.tls_certificate, &remote.tls_key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    Ok(ClusterOptions {
        instance: remote.instance.0.clone(),
        authorities_pem,
        identity_pem,
        token: remote.token_file.as_deref().map(token).transpose()?,
        headers: remote.headers.0.iter().map(pair).collect::<Result<_, _>>()?,
        connect_within: remote.connect_timeout,
        call_within: remote.call_timeout,
        ..ClusterOptions::at(address)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

/// A token that others can read is none.
fn token(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let bytes = read(path)?;
    let failed = |error: std::io::Error| Failure::new(format!("cannot read {shown}: {error}"));
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(format!("cannot use the token in {shown}: others can read it"))
            .hint(Some(format!("chmod 0600 {shown}"))));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Failure::new(format!("the token in {shown} is not UTF-8")))?;
    Ok(text.trim().to_owned())
}
