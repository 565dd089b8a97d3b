//! Layers into one configuration, and where each value came from.

use super::error::ConfigError;
use super::file::{self, Setting};
use super::keys::{INSTANCE_KEYS, INSTANCES, KEYS, Key, instance_key, nearest, variable};
use super::limits::FILE_BYTES_MAX;
use super::origin::Origin;
use super::{Config, Host, Listen};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use toml::Value;

/// A value from the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct FlagSetting {
    /// The option, with its dashes.
    pub flag: String,
    /// The key that it gives: `store.durability`, `instances.main.execution`.
    pub key: String,
    /// The value: a text, or a list of texts.
    pub value: Value,
}

/// Everything that says something.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// What defaults depend on.
    pub host: Host,
    /// Files that are read if they are there, later ones over earlier ones.
    pub files: Vec<PathBuf>,
    /// A file that must be there, in place of `files`.
    pub file: Option<PathBuf>,
    /// The environment; only what begins with `FULGURITE_` is looked at.
    pub environment: Vec<(String, String)>,
    /// Options of the command line.
    pub flags: Vec<FlagSetting>,
}

/// A configuration that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// What is allowed and should not be, for the log.
    pub warnings: Vec<String>,
    origins: BTreeMap<String, Origin>,
}

/// One value, to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Its key.
    pub key: String,
    /// As TOML.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// Reads all sources, later ones over earlier ones, and checks what comes of it.
    ///
    /// # Errors
    /// [`ConfigError`], for the first mistake.
    pub fn load(sources: &Sources) -> Result<Resolved, ConfigError> {
        let config = Config::defaults(&sources.host);
        let mut resolved = Resolved { config, warnings: Vec::new(), origins: BTreeMap::new() };
        match &sources.file {
            Some(path) => resolved.add_file(path, true)?,
            None => sources.files.iter().try_for_each(|path| resolved.add_file(path, false))?,
        }
        for setting in of_environment(&sources.environment)? {
            resolved.add(setting)?;
        }
        for flag in &sources.flags {
            let origin = Origin::Flag { name: flag.flag.clone() };
            let value = Some(flag.value.clone());
            resolved.add(Setting { path: segments(&flag.key), value, origin })?;
        }
        resolved.check()?;
        resolved.warn();
        Ok(resolved)
    }
}

/// `instances."a.b".execution` has three.
fn segments(key: &str) -> Vec<String> {
    if let Some(rest) = key.strip_prefix("instances.")
        && let Some((name, last)) = rest.rsplit_once('.')
    {
        let unquoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        return vec![INSTANCES.to_owned(), unquoted.unwrap_or(name).to_owned(), last.to_owned()];
    }
    match key.split_once('.') {
        Some((section, rest)) => vec![section.to_owned(), rest.to_owned()],
        None => vec![key.to_owned()],
    }
}

/// Variables of keys. One that begins like a section, and is none of its keys, is a mistake; others are not ours.
fn of_environment(environment: &[(String, String)]) -> Result<Vec<Setting>, ConfigError> {
    let known: Vec<(String, &str)> = KEYS.iter().map(|key| (variable(key.name), key.name)).collect();
    let sections: Vec<String> = KEYS
        .iter()
        .filter_map(|key| key.name.split_once('.'))
        .map(|(section, _)| format!("{}_", variable(section)))
        .chain([format!("{}_", variable(INSTANCES))])
        .collect();
    let mut settings = Vec::new();
    for (name, text) in environment {
        let origin = Origin::Environment { name: name.clone() };
        if let Some((_, key)) = known.iter().find(|(variable, _)| variable == name) {
            let value = Some(Value::String(text.clone()));
            settings.push(Setting { path: segments(key), value, origin });
        } else if sections.iter().any(|section| name.starts_with(section)) {
            let nearest = nearest(name, known.iter().map(|(variable, _)| variable.as_str()));
            return Err(ConfigError::Unknown {
                origin,
                key: name.clone(),
                nearest: nearest.map(str::to_owned),
            });
        }
    }
    Ok(settings)
}

impl Resolved {
    fn add_file(&mut self, path: &Path, must_exist: bool) -> Result<(), ConfigError> {
        let failed = |why: String| ConfigError::Read { path: path.to_owned(), why };
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
                return Err(failed(format!("it is larger than {FILE_BYTES_MAX} bytes")));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(error) => return Err(failed(error.to_string())),
        }
        file::settings(path, &text)?.into_iter().try_for_each(|setting| self.add(setting))
    }

    fn add(&mut self, setting: Setting) -> Result<(), ConfigError> {
        let Setting { path, value, origin } = setting;
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if let [INSTANCES, name, key] = parts.as_slice() {
            let Some(key) = INSTANCE_KEYS.iter().find(|known| known.name == *key) else {
                return Err(unknown(instance_key(name, key), Some((name, key)), origin));
            };
            let full = instance_key(name, key.name);
            let instance = self.config.instances.entry((*name).to_owned()).or_default();
            return set(key, instance, full, value.as_ref(), origin, &mut self.origins);
        }
        if let ([INSTANCES, name], None) = (parts.as_slice(), &value) {
            self.config.instances.entry((*name).to_owned()).or_default();
            return Ok(());
        }
        let full = path.join(".");
        match KEYS.iter().find(|key| key.name == full) {
            Some(key) => set(key, &mut self.config, full, value.as_ref(), origin, &mut self.origins),
            None => Err(unknown(full, None, origin)),
        }
    }

    /// Where a value came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    /// Every value with its origin, in the order of the documentation.
    #[must_use]
    pub fn printed(&self) -> Vec<Printed> {
        let print = |key: String, value: String| Printed { origin: self.origin(&key), key, value };
        let of_all = KEYS.iter().map(|key| print(key.name.to_owned(), (key.show)(&self.config)));
        let of_instances = self.config.instances.iter().flat_map(|(name, instance)| {
            INSTANCE_KEYS.iter().map(move |key| print(instance_key(name, key.name), (key.show)(instance)))
        });
        of_all.chain(of_instances).collect()
    }

    /// Values that do not fit each other.
    fn check(&self) -> Result<(), ConfigError> {
        let Config { tls, execution, instances, .. } = &self.config;
        let conflict = |wrong: bool, key: &str, other: &str, why: &'static str| {
            let conflict = || ConfigError::Conflict {
                origin: self.origin(key),
                key: key.to_owned(),
                why,
                other: format!("`{other}` is from: {}", self.origin(other)),
            };
            if wrong { Err(conflict()) } else { Ok(()) }
        };
        const MORE: &str = "it is more than the most that is allowed";
        let [certificate, key, ca] = [&tls.certificate, &tls.key, &tls.client_ca].map(Option::is_some);
        conflict(certificate && !key, "tls.certificate", "tls.key", "a certificate needs its key")?;
        conflict(key && !certificate, "tls.key", "tls.certificate", "a key needs its certificate")?;
        let why = "clients cannot be asked for certificates without one of our own";
        conflict(ca && !certificate, "tls.client_ca", "tls.certificate", why)?;
        let remote = &self.config.remote;
        let [certificate, key] = [&remote.tls_certificate, &remote.tls_key].map(Option::is_some);
        let [certificate_key, key_key] = ["remote.tls_certificate", "remote.tls_key"];
        conflict(certificate && !key, certificate_key, key_key, "a certificate needs its key")?;
        conflict(key && !certificate, key_key, certificate_key, "a key needs its certificate")?;
        let [default, max] = ["execution.timeout_default", "execution.timeout_max"];
        conflict(execution.timeout_default > execution.timeout_max, default, max, MORE)?;
        let exceeds =
            |default: Option<_>, max: Option<_>| default.zip(max).is_some_and(|(default, max)| default > max);
        let [default, max] = ["execution.memory_default", "execution.memory_max"];
        conflict(exceeds(execution.memory_default, execution.memory_max), default, max, MORE)?;
        for (name, of) in instances {
            let key = |key: &str| instance_key(name, key);
            let wrong = of.timeout_default > Some(of.timeout_max.unwrap_or(execution.timeout_max));
            conflict(wrong, &key("timeout_default"), &key("timeout_max"), MORE)?;
            let wrong = exceeds(of.memory_default, of.memory_max.or(execution.memory_max));
            conflict(wrong, &key("memory_default"), &key("memory_max"), MORE)?;
        }
        Ok(())
    }

    /// Whoever may connect may run commands: what lets everybody is told.
    fn warn(&mut self) {
        let Config { listen, tls, tokens_file, observe, .. } = &self.config;
        if let Some(place) = observe.metrics.as_ref().filter(|place| !place.is_local()) {
            self.warnings.push(format!(
                "the metrics at {place} are open to the network, with the names of what is built \
                 (hint: set observe.metrics to an address of loopback)"
            ));
        }
        let guarded = tokens_file.is_some() || tls.client_ca.is_some();
        for listen in listen {
            let Listen::Tcp { host, .. } = listen else { continue };
            let local = host == "localhost"
                || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
            if !guarded && !local {
                self.warnings.push(format!(
                    "{listen} is open to the network: whoever reaches it can run commands \
                     (hint: set tokens_file, or tls.client_ca)"
                ));
            } else if tokens_file.is_some() && tls.certificate.is_none() && !local {
                self.warnings.push(format!(
                    "{listen} is not encrypted: tokens can be read on their way \
                     (hint: set tls.certificate and tls.key)"
                ));
            }
        }
    }
}

fn set<T>(
    key: &Key<T>,
    of: &mut T,
    full: String,
    value: Option<&Value>,
    origin: Origin,
    origins: &mut BTreeMap<String, Origin>,
) -> Result<(), ConfigError> {
    let result = match value {
        Some(value) => (key.set)(of, value),
        None => Err("there is no value".to_owned()),
    };
    match result {
        Ok(()) => {
            origins.insert(full, origin);
            Ok(())
        }
        Err(why) => Err(ConfigError::Value { origin, key: full, why }),
    }
}

fn unknown(key: String, of_instance: Option<(&str, &str)>, origin: Origin) -> ConfigError {
    let nearest = match of_instance {
        Some((name, last)) => {
            nearest(last, INSTANCE_KEYS.iter().map(|key| key.name)).map(|nearest| instance_key(name, nearest))
        }
        None => nearest(&key, KEYS.iter().map(|key| key.name).chain([INSTANCES])).map(str::to_owned),
    };
    ConfigError::Unknown { origin, key, nearest }
}
