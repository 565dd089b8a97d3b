//! What an action's platform properties ask of its sandbox.
//!
//! | property | values | meaning |
//! |---|---|---|
//! | `network`, `dockerNetwork` | `off`, `none`, `loopback` | only loopback |
//! | the same | `nothing` | not even loopback |
//! | the same | `standard`, `host`, `bridge` | the host's network, where that is allowed |
//! | `fulgurite-memory-bytes`, `fulgurite-cpu-milli`, `fulgurite-pids` | numbers | limits, at most the server's |
//! | `OSFamily`, `ISA`, and others that a door has let pass | | nothing here |
//!
//! Pure: properties and what the host allows in, what to do out. Invariant: a property never gives more than the host's
//! configuration does.

use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::spec::Network;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The network that the sandbox sees.
    pub network: Network,
    /// Limits of the action.
    pub limits: Limits,
}

/// A property that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("platform property {name}={value:?} cannot be had here: {why}")]
pub struct PlatformError {
    /// Its name.
    pub name: String,
    /// Its value, cut to 80 characters.
    pub value: String,
    /// What can be had instead.
    pub why: String,
}

/// What the host allows.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The network of actions that do not ask for one.
    pub network: Network,
    /// Whether an action may ask for the host's network.
    pub host_network: bool,
    /// The limits of every action; an action can only ask for less, but for memory.
    pub limits: Limits,
    /// The memory that an action may ask for; `None`: any.
    pub memory_bytes_max: Option<u64>,
}

/// Reads the properties.
///
/// # Errors
/// [`PlatformError`], naming the first that cannot be had.
pub fn platform(properties: &[(String, String)], offer: &Offer) -> Result<Platform, PlatformError> {
    let mut asked = Platform { network: offer.network, limits: offer.limits.clone() };
    for (name, value) in properties {
        let refuse =
            |why: String| PlatformError { name: name.clone(), value: value.chars().take(80).collect(), why };
        match name.as_str() {
            "network" | "dockerNetwork" => match value.to_ascii_lowercase().as_str() {
                "off" | "none" | "loopback" => asked.network = Network::Loopback,
                "nothing" => asked.network = Network::None,
                "standard" | "host" | "bridge" if offer.host_network => asked.network = Network::Host,
                "standard" | "host" | "bridge" => {
                    return Err(refuse(
                        "this server gives actions no network; loopback can be had".to_owned(),
                    ));
                }
                _ => return Err(refuse("`off`, `nothing` and `standard` are known".to_owned())),
            },
            "fulgurite-memory-bytes" => {
                asked.limits.memory_bytes_max = Some(less(value, offer.memory_bytes_max).map_err(refuse)?);
            }
            "fulgurite-cpu-milli" => {
                let max = &mut asked.limits.cpu_milli_max;
                *max = Some(less(value, *max).map_err(refuse)?);
            }
            "fulgurite-pids" => {
                let max = &mut asked.limits.pids_max;
                *max = Some(less(value, *max).map_err(refuse)?);
            }
            _ => {}
        }
    }
    Ok(asked)
}

/// A number that is above nothing and not above `max`.
fn less<T>(value: &str, max: Option<T>) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + Copy + std::fmt::Display + From<u8>,
{
    let number: T = value.parse().map_err(|_| "it is no number".to_owned())?;
    match max {
        _ if number < T::from(1) => Err("at least 1 is needed".to_owned()),
        Some(max) if number > max => Err(format!("at most {max} can be had")),
        _ => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(properties: &[(&str, &str)], host_network: bool) -> Result<Platform, PlatformError> {
        let owned: Vec<(String, String)> =
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let limits = Limits { memory_bytes_max: Some(1 << 30), ..Limits::default() };
        platform(
            &owned,
            &Offer { network: Network::Loopback, host_network, limits, memory_bytes_max: Some(1 << 30) },
        )
    }

    #[test]
    fn the_network_is_the_hosts_only_where_that_is_allowed() {
        assert_eq!(ask(&[], true).unwrap().network, Network::Loopback);
        assert_eq!(ask(&[("dockerNetwork", "standard")], true).unwrap().network, Network::Host);
        assert!(ask(&[("network", "host")], false).unwrap_err().to_string().contains("no network"));
        assert_eq!(ask(&[("network", "OFF")], false).unwrap().network, Network::Loopback);
        assert_eq!(ask(&[("network", "nothing")], true).unwrap().network, Network::None);
        assert!(ask(&[("network", "wifi")], true).is_err());
    }

    #[test]
    fn limits_can_only_be_lowered() {
        let limits =
            ask(&[("fulgurite-memory-bytes", "1000000"), ("fulgurite-pids", "7")], false).unwrap().limits;
        assert_eq!((limits.memory_bytes_max, limits.pids_max), (Some(1_000_000), Some(7)));
        for bad in ["0", "-1", "much", "2000000000"] {
            assert!(ask(&[("fulgurite-memory-bytes", bad)], false).is_err(), "{bad}");
        }
    }
}
