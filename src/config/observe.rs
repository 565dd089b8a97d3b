//! `[observe]`: what the daemon tells of itself.

use super::value::{Field, Listen, quoted};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Value;

/// What is told, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// Where numbers are told; `None`: nowhere.
    pub metrics: Option<TcpPlace>,
    /// The file of a trace; `None`: none is written.
    pub profile: Option<PathBuf>,
}

/// A TCP address; the host is resolved when it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPlace {
    /// A name or an address.
    pub host: String,
    /// The port; 0 for any that is free.
    pub port: u16,
}

impl TcpPlace {
    /// Whether nobody but this machine can come there.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Display for TcpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Listen::Tcp { host: self.host.clone(), port: self.port }.fmt(f)
    }
}

impl Field for TcpPlace {
    const FORM: &'static str = "\"host:port\"";
    fn read(value: &Value) -> Result<Self, String> {
        let Value::String(text) = value else {
            return Err(format!("a {} stands where an address should", value.type_str()));
        };
        match text.parse() {
            Ok(Listen::Tcp { host, port }) => Ok(TcpPlace { host, port }),
            _ => Err(format!("{} is no `host:port`", quoted(text))),
        }
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}
