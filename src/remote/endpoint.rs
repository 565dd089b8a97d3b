//! How a cluster is reached: address, certificates, tokens.
//!
//! Limits: TLS trusts what the options name, or the bundle of the system.

use super::breaker::BreakerOptions;
use super::cluster::ClusterError;
use super::retry::RetryOptions;
use crate::action::DigestFunction;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Where systems keep the authorities that they trust.
const AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How a cluster is reached, and what it is trusted with.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `grpc://host:port`, `grpcs://host:port`, `host:port`, or `unix:/path`.
    pub address: String,
    /// The instance.
    pub instance: String,
    /// How blobs are named.
    pub function: DigestFunction,
    /// Authorities that the server's certificate must come from (PEM); `None`:
    /// those of the system, or of `SSL_CERT_FILE`.
    pub authorities_pem: Option<Vec<u8>>,
    /// Our certificate and its key (PEM).
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// Sent with every call, as `authorization: Bearer …`.
    pub token: Option<String>,
    /// Sent with every call.
    pub headers: Vec<(String, String)>,
    /// How long connecting may take.
    pub connect_within: Duration,
    /// How long a call that is no stream may take.
    pub call_within: Duration,
    /// When it is taken to be gone.
    pub breaker: BreakerOptions,
    /// When calls are tried again.
    pub retry: RetryOptions,
}

impl ClusterOptions {
    /// The defaults, for an address.
    #[must_use]
    pub fn at(address: &str) -> Self {
        ClusterOptions {
            address: address.to_owned(),
            instance: String::new(),
            function: DigestFunction::Sha256,
            authorities_pem: None,
            identity_pem: None,
            token: None,
            headers: Vec::new(),
            connect_within: Duration::from_secs(5),
            call_within: Duration::from_secs(60),
            breaker: BreakerOptions::default(),
            retry: RetryOptions::default(),
        }
    }
}

pub(super) fn option(what: impl Into<String>) -> impl FnOnce(String) -> ClusterError {
    move |why| ClusterError::Options { what: what.into(), why }
}

pub(super) fn endpoint(options: &ClusterOptions) -> Result<Endpoint, ClusterError> {
    let address = &options.address;
    let bad = |why: String| option(format!("cannot use the remote {address:?}"))(why);
    let (uri, tls) = match address.split_once("://") {
        Some(("grpc" | "http", rest)) => (format!("http://{rest}"), false),
        Some(("grpcs" | "https", rest)) => (format!("https://{rest}"), true),
        Some((scheme, _)) => {
            return Err(bad(format!("there is no scheme {scheme:?}: grpc, grpcs and unix are known")));
        }
        None if address.starts_with("unix:") => (address.clone(), false),
        None => (format!("http://{address}"), false),
    };
    let mut endpoint = Endpoint::from_shared(uri)
        .map_err(|error| bad(error.to_string()))?
        .tcp_nodelay(true)
        .connect_timeout(options.connect_within)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(false);
    let wants_tls = options.authorities_pem.is_some() || options.identity_pem.is_some();
    if !tls && wants_tls {
        return Err(bad("certificates need grpcs://".to_owned()));
    }
    if tls {
        let mut config = ClientTlsConfig::new();
        let authorities = match &options.authorities_pem {
            Some(authorities) => authorities.clone(),
            None => system_authorities().map_err(bad)?,
        };
        config = config.ca_certificate(Certificate::from_pem(authorities));
        if let Some((certificate, key)) = &options.identity_pem {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(config).map_err(|error| bad(error.to_string()))?;
    }
    Ok(endpoint)
}

/// The authorities that this system trusts.
fn system_authorities() -> Result<Vec<u8>, String> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places: Vec<PathBuf> = match named {
        Some(named) => vec![named],
        None => AUTHORITIES.iter().map(PathBuf::from).collect(),
    };
    let found = places.iter().find_map(|place| std::fs::read(place).ok());
    found.ok_or_else(|| format!("there are no authorities to trust: none of {places:?} can be read"))
}
