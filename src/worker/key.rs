//! Which requests one worker may serve: all whose keys are equal, and no others.
//!
//! ```text
//!   family = hash(tenant, startup command, environment, directory, protocol, modes, sandbox, limits, declared key)
//!   key    = family + hash(tools)            same family, other tools: the worker is out of date
//! ```
//! Invariants: every field goes into the hash with its length, so that no two sets of parts run together; the key that
//! a client declares is only one of the parts: clients leave flags and environment out of theirs.
//!
//! Limits: a key compares digests. What the tools read beside their declared files is not in it.

use super::wire::Protocol;
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::spec::SandboxSpec;
use std::collections::BTreeMap;
use std::fmt;

/// Lines that say which tool has changed; more are counted.
const CHANGES_SHOWN_MAX: usize = 20;

/// What stands for the tools of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyQuality {
    /// The client marked every file of the tool: a changed one means another worker.
    Marked,
    /// The client gave a key of its own, and marked nothing: it is believed.
    Declared,
    /// Only the program and those of its arguments that name inputs: a changed library goes unnoticed.
    Weak,
}

impl KeyQuality {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KeyQuality::Marked => "marked",
            KeyQuality::Declared => "declared",
            KeyQuality::Weak => "weak",
        }
    }
}

impl fmt::Display for KeyQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that makes a worker what it is.
#[derive(Clone, Debug)]
pub struct KeyParts {
    /// Whose it is; never shared.
    pub tenant: String,
    /// The command that starts it, all arguments.
    pub startup: Vec<String>,
    /// Its whole environment, in any order.
    pub environment: Vec<(String, String)>,
    /// Where it starts, below the input root; empty: the root itself.
    pub directory: String,
    /// How it is spoken with.
    pub protocol: Protocol,
    /// Requests that it may have at the same time, whether each has a directory of its own, whether it can cancel, and
    /// whether its view is replaced for each request.
    pub modes: [bool; 4],
    /// Its sandbox, the network included.
    pub sandbox: SandboxSpec,
    /// Its limits.
    pub limits: Limits,
    /// What the client declares as key, if it does.
    pub declared: Option<String>,
    /// The build that it serves, if it serves no other.
    pub build: Option<String>,
    /// Its files: path and digest.
    pub tools: Vec<(String, String)>,
    /// What the tools stand for.
    pub quality: KeyQuality,
}

/// Two workers of equal keys are the same to every request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey {
    family: [u8; 32],
    tools: [u8; 32],
}

impl WorkerKey {
    /// The key of these parts.
    #[must_use]
    pub fn of(parts: &KeyParts) -> Self {
        let mut family = Fields::new("fulgurite worker family");
        family.text(&parts.tenant).list(parts.startup.iter());
        family.pairs(&parts.environment).text(&parts.directory);
        family.text(match parts.protocol {
            Protocol::Proto => "proto",
            Protocol::Json => "json",
            Protocol::Buck2 => "buck2",
        });
        family.bytes(&parts.modes.map(u8::from));
        // Plain data without addresses: what it prints is what it is.
        family.text(&format!("{:?}", parts.sandbox)).text(&format!("{:?}", parts.limits));
        family.list(parts.declared.iter()).list(parts.build.iter());
        let mut tools = Fields::new("fulgurite worker tools");
        tools.text(parts.quality.name()).pairs(&parts.tools);
        WorkerKey { family: family.finish(), tools: tools.finish() }
    }

    /// Whether the two differ in their tools alone.
    #[must_use]
    pub fn is_out_of_date_for(&self, wanted: &WorkerKey) -> bool {
        self.family == wanted.family && self.tools != wanted.tools
    }

    /// Any key, for tests of those who only compare.
    #[cfg(test)]
    pub(super) fn for_test(family: u8, tools: u8) -> Self {
        WorkerKey { family: [family; 32], tools: [tools; 32] }
    }
}

/// Short, for logs and results.
impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.family[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.tools[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerKey({self})")
    }
}

/// What differs between the tools of two workers, a line a file: `path: old -> new`.
#[must_use]
pub fn changed_tools(old: &[(String, String)], new: &[(String, String)]) -> Vec<String> {
    let of = |tools: &[(String, String)]| -> BTreeMap<String, String> { tools.iter().cloned().collect() };
    let (old, new) = (of(old), of(new));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let shown = |digest: Option<&String>| digest.map_or("<none>", String::as_str).to_owned();
    let mut lines: Vec<String> = paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .map(|path| format!("{path}: {} -> {}", shown(old.get(path)), shown(new.get(path))))
        .collect();
    let more = lines.len().saturating_sub(CHANGES_SHOWN_MAX);
    if more > 0 {
        lines.truncate(CHANGES_SHOWN_MAX);
        lines.push(format!("and {more} more files"));
    }
    lines
}

/// A hash over fields that know their lengths.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(purpose: &str) -> Self {
        let mut fields = Fields(blake3::Hasher::new());
        fields.text(purpose);
        fields
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn list<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a String>) -> &mut Self {
        self.0.update(&(texts.len() as u64).to_le_bytes());
        texts.for_each(|text| {
            self.text(text);
        });
        self
    }

    fn pairs(&mut self, pairs: &[(String, String)]) -> &mut Self {
        let mut sorted: Vec<_> = pairs.iter().collect();
        sorted.sort_unstable();
        self.0.update(&(sorted.len() as u64).to_le_bytes());
        for (name, value) in sorted {
            self.text(name).text(value);
        }
        self
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulgurite_sandbox::spec::Network;

    fn parts() -> KeyParts {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        KeyParts {
            tenant: "main".to_owned(),
            startup: vec!["javac".to_owned(), "-J-Xmx1g".to_owned(), "--persistent_worker".to_owned()],
            environment: vec![pair("LANG", "C"), pair("PATH", "/bin")],
            directory: String::new(),
            protocol: Protocol::Proto,
            modes: [false; 4],
            sandbox: SandboxSpec::default(),
            limits: Limits::default(),
            declared: Some("k".to_owned()),
            build: None,
            tools: vec![pair("tools/javac", "aa"), pair("tools/lib.jar", "bb")],
            quality: KeyQuality::Marked,
        }
    }

    type Change = fn(&mut KeyParts);

    #[test]
    fn every_part_makes_another_worker() {
        let key = WorkerKey::of(&parts());
        let changes: [(&str, Change); 15] = [
            ("tenant", |parts| parts.tenant = "other".to_owned()),
            ("flag", |parts| parts.startup[1] = "-J-Xmx2g".to_owned()),
            ("split of arguments", |parts| {
                parts.startup[0] = "javac-J-Xmx1g".to_owned();
                parts.startup.remove(1);
            }),
            ("environment", |parts| parts.environment[0].1 = "de".to_owned()),
            ("split of a variable", |parts| parts.environment[0] = ("LAN".to_owned(), "GC".to_owned())),
            ("directory", |parts| parts.directory = "a".to_owned()),
            ("protocol", |parts| parts.protocol = Protocol::Json),
            ("multiplex", |parts| parts.modes[0] = true),
            ("view", |parts| parts.modes[3] = true),
            ("network", |parts| parts.sandbox.network = Network::Host),
            ("limits", |parts| parts.limits.memory_bytes_max = Some(1)),
            ("declared key", |parts| parts.declared = None),
            ("build", |parts| parts.build = Some(String::new())),
            ("tool", |parts| parts.tools[1].1 = "cc".to_owned()),
            ("no tool", |parts| parts.tools.clear()),
        ];
        for (what, change) in changes {
            let mut other = parts();
            change(&mut other);
            let other = WorkerKey::of(&other);
            assert_ne!(key, other, "{what}");
            assert_eq!(key.is_out_of_date_for(&other), what.ends_with("tool"), "{what}");
        }
    }

    #[test]
    fn the_order_of_variables_and_tools_does_not_count() {
        let mut other = parts();
        other.environment.reverse();
        other.tools.reverse();
        assert_eq!(WorkerKey::of(&parts()), WorkerKey::of(&other));
    }

    #[test]
    fn changed_tools_are_named() {
        let tools = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned())).collect()
        };
        let old = tools(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let new = tools(&[("a", "1"), ("b", "4"), ("d", "5")]);
        assert_eq!(changed_tools(&old, &new), ["b: 2 -> 4", "c: 3 -> <none>", "d: <none> -> 5"]);
        assert!(changed_tools(&old, &old).is_empty());
        let many: Vec<_> = (0..30).map(|number| (format!("f{number}"), "1".to_owned())).collect();
        let lines = changed_tools(&many, &[]);
        assert_eq!((lines.len(), lines[20].as_str()), (21, "and 10 more files"));
    }
}
