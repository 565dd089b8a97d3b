//! What an action's platform properties say of workers, in every dialect that clients speak.
//!
//! | property | from | meaning |
//! |---|---|---|
//! | `persistentWorkerKey` | Bazel, Buck2, BuildBuddy, … | a worker is wanted; a part of its key |
//! | `persistent-workers=true` | BuildBuddy | it is wanted |
//! | `supports-workers=1`, `supports-multiplex-workers=1` | NativeLink, Bazel | it is wanted |
//! | `persistentWorkerProtocol`, `requires-worker-protocol` | both | `proto` or none, `json`, `buck2` |
//! | `supports-multiplex-sandboxing=1`, with multiplex | Bazel | several at a time, each in a directory of its own |
//! | `supports-worker-cancellation=1` | Bazel | it answers cancels; a `buck2` worker is asked, unless this is `0` |
//! | `fulgurite-worker-startup=N` | ours | `buck2`: the first N arguments start the worker, the rest is the request's |
//! | `fulgurite-worker-view=shared` or `own` | ours | whether it keeps one view for all requests |
//! | the others of [`NAMES`] | | accepted, without effect |
//!
//! No client speaks of Buck2's own protocol to a cluster: Buck2 as a client of REAPI asks for Bazel's, by
//! `persistentWorkerKey` alone. So the word `buck2` is ours.
//!
//! Pure. A worker that takes several requests but has no directories for them gets one at a time: each sees its own
//! inputs and no others.

use super::wire::Protocol;

/// All of these speak of workers, and of nothing that a machine has or has not: they are not matched with its offer.
pub const NAMES: [&str; 19] = [
    "fulgurite-worker-view",
    "fulgurite-worker-startup",
    "persistentWorkerKey",
    "persistentWorkerProtocol",
    "persistentWorkerTool",
    "persistentWorkerCommand",
    "persistent-worker-key",
    "persistent-worker-protocol",
    "persistent-workers",
    "supports-workers",
    "supports-multiplex-workers",
    "supports-multiplex-sandboxing",
    "supports-worker-cancellation",
    "requires-worker-protocol",
    "recycle-runner",
    "preserve-workspace",
    "clean-workspace-inputs",
    "nonroot-workspace",
    "worker-key-mnemonic",
];

/// The worker that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How it is spoken with.
    pub protocol: Protocol,
    /// The client's own key.
    pub declared: Option<String>,
    /// Whether it takes several requests, each in a directory of its own.
    pub multiplex: bool,
    /// Whether it answers cancels; on Buck2's wire: whether it is asked if it does.
    pub cancels: bool,
    /// How many of the arguments start the worker, if the client says so; Buck2's wire only.
    pub startup: Option<usize>,
    /// Whether it keeps one view for all requests, if the client says so.
    pub shares: Option<bool>,
    /// Its kind, if the client says so.
    pub mnemonic: Option<String>,
}

/// Reads the properties; `None`: no worker is asked for.
///
/// # Errors
/// Why the one that is asked for cannot be had.
pub fn wanted(properties: &[(String, String)]) -> Result<Option<Wanted>, String> {
    let find = |names: &[&str]| {
        let named =
            properties.iter().find(|(name, _)| names.iter().any(|known| name.eq_ignore_ascii_case(known)));
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let is_on = |name: &str| find(&[name]) == Some("1");
    let declared = find(&["persistentWorkerKey", "persistent-worker-key"]).map(str::to_owned);
    let asked = declared.is_some()
        || find(&["persistent-workers"]).is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || is_on("supports-workers")
        || is_on("supports-multiplex-workers");
    if !asked {
        return Ok(None);
    }
    let protocol =
        find(&["persistentWorkerProtocol", "persistent-worker-protocol", "requires-worker-protocol"]);
    let protocol = match protocol {
        None | Some("proto") => Protocol::Proto,
        Some("json") => Protocol::Json,
        Some("buck2") => Protocol::Buck2,
        Some(other) => {
            let other: String = other.chars().take(80).collect();
            return Err(format!(
                "worker protocol {other:?} is unknown: `proto`, `json` and `buck2` can be had"
            ));
        }
    };
    let is_buck2 = protocol == Protocol::Buck2;
    let startup =
        match find(&["fulgurite-worker-startup"]).filter(|_| is_buck2).map(|count| (count, count.parse())) {
            None => None,
            Some((_, Ok(count))) if count > 0 => Some(count),
            Some((text, _)) => {
                let text: String = text.chars().take(80).collect();
                return Err(format!(
                    "fulgurite-worker-startup={text:?} is no number of arguments that start a worker"
                ));
            }
        };
    let cancels = match find(&["supports-worker-cancellation"]) {
        Some(value) => value == "1",
        // The protocol lets a worker say so by itself.
        None => is_buck2,
    };
    Ok(Some(Wanted {
        protocol,
        declared,
        // Buck2's requests have no directory.
        multiplex: !is_buck2 && is_on("supports-multiplex-workers") && is_on("supports-multiplex-sandboxing"),
        cancels,
        startup,
        shares: find(&["fulgurite-worker-view"]).map(|view| view == "shared"),
        mnemonic: find(&["worker-key-mnemonic"]).map(|name| name.chars().take(80).collect()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(&str, &str)]) -> Result<Option<Wanted>, String> {
        let owned: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        wanted(&owned)
    }

    #[test]
    fn every_dialect_asks_for_a_worker() {
        for pair in [
            ("persistentWorkerKey", "abc"),
            ("PERSISTENTWORKERKEY", "abc"),
            ("persistent-workers", "true"),
            ("supports-workers", "1"),
            ("supports-multiplex-workers", "1"),
        ] {
            let wanted = ask(&[pair]).unwrap().unwrap();
            assert_eq!((wanted.protocol, wanted.multiplex, wanted.cancels), (Protocol::Proto, false, false));
        }
        for pair in [
            ("supports-workers", "0"),
            ("supports-workers", "true"),
            ("persistent-workers", "false"),
            ("persistentWorkerKey", ""),
            ("persistentWorkerProtocol", "json"),
            ("recycle-runner", "true"),
        ] {
            assert_eq!(ask(&[pair]), Ok(None), "{pair:?}");
        }
    }

    #[test]
    fn protocols_and_modes() {
        let key = ("persistentWorkerKey", "k");
        let json = ask(&[key, ("persistentWorkerProtocol", "json")]).unwrap().unwrap();
        assert_eq!((json.protocol, json.declared.as_deref()), (Protocol::Json, Some("k")));
        assert!(ask(&[key, ("requires-worker-protocol", "smoke")]).unwrap_err().contains("\"smoke\""));
        let multiplex = ("supports-multiplex-workers", "1");
        assert!(!ask(&[key, multiplex]).unwrap().unwrap().multiplex, "there is no directory for each");
        let both = ask(&[key, multiplex, ("supports-multiplex-sandboxing", "1")]).unwrap().unwrap();
        assert!(both.multiplex);
        assert!(ask(&[key, ("supports-worker-cancellation", "1")]).unwrap().unwrap().cancels);
    }

    #[test]
    fn the_protocol_of_buck2() {
        let buck2 = [("persistent-workers", "true"), ("persistentWorkerProtocol", "buck2")];
        let with = |more: &[(&str, &str)]| ask(&[&buck2, more].concat());
        let plain = with(&[]).unwrap().unwrap();
        assert_eq!((plain.protocol, plain.cancels, plain.startup), (Protocol::Buck2, true, None));
        assert!(!with(&[("supports-worker-cancellation", "0")]).unwrap().unwrap().cancels);
        let many = [("supports-multiplex-workers", "1"), ("supports-multiplex-sandboxing", "1")];
        assert!(!with(&many).unwrap().unwrap().multiplex, "its requests have no directory");
        assert_eq!(with(&[("fulgurite-worker-startup", "2")]).unwrap().unwrap().startup, Some(2));
        for bad in ["0", "-1", "all"] {
            assert!(with(&[("fulgurite-worker-startup", bad)]).unwrap_err().contains(bad), "{bad}");
        }
        let json = [("supports-workers", "1"), ("fulgurite-worker-startup", "x")];
        assert_eq!(ask(&json).unwrap().unwrap().startup, None, "nothing to other wires");
    }
}
