//! Where `fulgurite serve` listens, who may connect, and how it tells.
use super::serve::{directory, failed};
use crate::config::{Config, Tokens};
use crate::failure::Failure;
use crate::serve::{Access, Listen, Reach, Server, TlsOptions, Token};
use std::net::ToSocketAddrs;
use std::path::Path;

/// The addresses of a place.
///
/// # Errors
/// A name that means nothing, a directory or a certificate that cannot be had.
pub(super) fn places(place: &crate::config::Listen, config: &Config) -> Result<Vec<Listen>, Failure> {
    match place {
        crate::config::Listen::Unix(path) => {
            if let Some(parent) = path.parent() {
                directory(parent)?;
            }
            Ok(vec![Listen::Unix { path: path.clone(), mode: 0o600 }])
        }
        crate::config::Listen::Tcp { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs();
            let found = found.map_err(|error| Failure::new(format!("cannot listen at {place}: {error}")))?;
            let tls = tls(config)?;
            Ok(found.map(|address| Listen::Tcp { address, tls: tls.clone() }).collect())
        }
    }
}

fn tls(config: &Config) -> Result<Option<TlsOptions>, Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
    };
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) else { return Ok(None) };
    Ok(Some(TlsOptions {
        certificate_pem: read(certificate)?,
        key_pem: read(key)?,
        client_authorities_pem: config.tls.client_ca.as_deref().map(read).transpose()?,
    }))
}

/// Who may connect: everybody, or who has a token.
///
/// # Errors
/// When the file cannot be used, or has no token.
pub(super) fn access(config: &Config) -> Result<Access, Failure> {
    let Some(path) = &config.tokens_file else { return Ok(Access::default()) };
    let tokens = Tokens::load(path).map_err(|error| failed(&error).hint(error.hint()))?;
    if tokens.is_empty() {
        let shown = path.display();
        return Err(Failure::new(format!("nobody could connect: {shown} has no token")));
    }
    let tokens = tokens.hashes().map(|sha256| Token { sha256, reach: Reach::Every });
    Ok(Access { tokens: tokens.collect(), ..Access::default() })
}

/// A line for each address, as clients take it.
pub(super) fn listening(config: &Config, server: &Server) -> String {
    let mut lines = String::new();
    for place in &config.listen {
        if let crate::config::Listen::Unix(_) = place {
            lines.push_str(&format!("listening on {place}\n"));
        }
    }
    for address in server.addresses() {
        lines.push_str(&format!("listening on {address}\n"));
    }
    for address in server.metrics_addresses() {
        lines.push_str(&format!("metrics at http://{address}/metrics\n"));
    }
    lines
}
