//! How each type of value is read from TOML or text, and written as TOML. Pure.
//!
//! Invariants: what [`Field::show`] writes, [`Field::read`] reads as the same value; every value can be given as a
//! text, so that variables and flags can give what files can.

use super::limits::SHOWN_CHARACTERS_MAX;
use super::quantity;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use toml::Value;

/// A type of value.
pub(super) trait Field: Sized {
    /// What may be written, for people.
    const FORM: &'static str;
    fn read(value: &Value) -> Result<Self, String>;
    /// As TOML.
    fn show(&self) -> String;
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MilliCores(pub u32);

/// Which events are logged, as `tracing` has it: `info`, `warn,fulgurite::serve=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(pub String);

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address; the host is resolved when it is bound.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port; 0 for any that is free.
        port: u16,
    },
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // "unix:///path" is what clients of gRPC write.
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
            return PathBuf::read(&Value::String(path.to_owned())).map(Listen::Unix);
        }
        let wrong = || format!("{} is neither `unix:/path` nor `host:port`", quoted(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains('/') {
            return Err(wrong());
        }
        Ok(Listen::Tcp { host: host.to_owned(), port })
    }
}

/// What this host says of itself to clients: values by property.
pub type Properties = BTreeMap<String, Vec<String>>;

/// A text as TOML has it, cut where it is too long to be shown.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    Value::String(cut).to_string()
}

fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        other => Err(format!("a {} stands where a value should", other.type_str())),
    }
}

impl Field for Bytes {
    const FORM: &'static str = "bytes: a number, or \"512MiB\", \"10GiB\"";
    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of(value)?;
        quantity::bytes(&text).map(Bytes).map_err(|why| format!("{}: {why}", quoted(&text)))
    }
    fn show(&self) -> String {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.into_iter().find(|(bits, _)| self.0 > 0 && self.0.trailing_zeros() >= *bits);
        match unit {
            Some((bits, name)) => format!("\"{}{name}\"", self.0 >> bits),
            None => self.0.to_string(),
        }
    }
}

impl Field for Duration {
    const FORM: &'static str = "time: seconds, or \"500ms\", \"30s\", \"10m\", \"1h\"";
    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of(value)?;
        quantity::timeout(&text).map_err(|why| format!("{}: {why}", quoted(&text)))
    }
    fn show(&self) -> String {
        let millis = self.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let unit = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
        match unit {
            Some((unit, name)) => format!("\"{}{name}\"", millis / unit),
            None => format!("\"{millis}ms\""),
        }
    }
}

impl Field for MilliCores {
    const FORM: &'static str = "cores: 0.5, 2";
    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of(value)?;
        quantity::cores(&text).map(MilliCores).map_err(|why| format!("{}: {why}", quoted(&text)))
    }
    fn show(&self) -> String {
        (f64::from(self.0) / 1000.0).to_string()
    }
}

/// Zero of anything that is counted here would mean that nothing works.
fn count<T: TryFrom<u64>>(value: &Value) -> Result<T, String> {
    let text = text_of(value)?;
    let number = text.parse::<u64>().ok().filter(|number| *number > 0);
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{} is no count: give a whole number above zero, in range", quoted(&text)))
}

impl Field for u32 {
    const FORM: &'static str = "count";
    fn read(value: &Value) -> Result<Self, String> {
        count(value)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Field for u64 {
    const FORM: &'static str = "count";
    fn read(value: &Value) -> Result<Self, String> {
        count(value)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Field for bool {
    const FORM: &'static str = "true or false";
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(value) => Ok(*value),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            _ => Err("neither true nor false".to_owned()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Field for PathBuf {
    const FORM: &'static str = "absolute path";
    fn read(value: &Value) -> Result<Self, String> {
        let Value::String(text) = value else {
            return Err(format!("a {} stands where a path should", value.type_str()));
        };
        let path = PathBuf::from(text);
        if path.is_absolute() && !text.contains('\0') {
            Ok(path)
        } else {
            Err(format!("{} is no absolute path", quoted(text)))
        }
    }
    fn show(&self) -> String {
        Value::String(self.to_string_lossy().into_owned()).to_string()
    }
}

impl Field for LogFilter {
    const FORM: &'static str = "level, or levels by module: \"info\", \"warn,fulgurite::serve=debug\"";
    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of(value)?;
        // The library takes a misspelled level for the name of a module, and logs nothing.
        let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        for part in text.split(',').map(str::trim).filter(|part| !part.contains(['[', ':'])) {
            let (module, level) =
                part.split_once('=').map_or((None, part), |(module, level)| (Some(module), level));
            if !is_level(level) && (module.is_some() || level != "fulgurite") {
                return Err(format!("{} is no level: off, error, warn, info, debug, trace", quoted(level)));
            }
        }
        match tracing_subscriber::EnvFilter::try_new(&text) {
            Ok(_) => Ok(LogFilter(text)),
            Err(error) => Err(format!("{} is no filter: {error}", quoted(&text))),
        }
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// `"none"` is how nothing is written.
impl<T: Field> Field for Option<T> {
    const FORM: &'static str = T::FORM;
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if text == "none" => Ok(None),
            value => T::read(value).map(Some),
        }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "\"none\"".to_owned(), Field::show)
    }
}

impl Field for Vec<Listen> {
    const FORM: &'static str =
        "list of \"unix:/path\" and \"host:port\"; in a text, with commas between them";
    fn read(value: &Value) -> Result<Self, String> {
        let listen: Vec<Listen> =
            texts(value)?.iter().map(|text| text.parse()).collect::<Result<_, String>>()?;
        if listen.is_empty() { Err("the server has to listen somewhere".to_owned()) } else { Ok(listen) }
    }
    fn show(&self) -> String {
        let texts: Vec<String> = self.iter().map(|listen| quoted(&listen.to_string())).collect();
        format!("[{}]", texts.join(", "))
    }
}

impl Field for Properties {
    const FORM: &'static str =
        "table of lists: { OSFamily = [\"linux\"] }; as a text \"OSFamily=linux,ISA=x86-64\"";
    fn read(value: &Value) -> Result<Self, String> {
        let mut properties = Properties::new();
        match value {
            Value::Table(table) => {
                for (name, values) in table {
                    properties.insert(name.clone(), texts(values)?);
                }
            }
            Value::String(text) => {
                for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
                    let (name, value) =
                        pair.split_once('=').ok_or_else(|| format!("{} is no NAME=VALUE", quoted(pair)))?;
                    properties.entry(name.trim().to_owned()).or_default().push(value.trim().to_owned());
                }
            }
            other => return Err(format!("a {} stands where a table should", other.type_str())),
        }
        Ok(properties)
    }
    fn show(&self) -> String {
        let pairs: Vec<String> = self
            .iter()
            .map(|(name, values)| {
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                format!("{} = [{}]", quoted(name), values.join(", "))
            })
            .collect();
        if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
    }
}

/// Any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Field for Text {
    const FORM: &'static str = "text";
    fn read(value: &Value) -> Result<Self, String> {
        text_of(value).map(Text)
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl Field for Texts {
    const FORM: &'static str = "list of texts";
    fn read(value: &Value) -> Result<Self, String> {
        texts(value).map(Texts)
    }
    fn show(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|text| quoted(text)).collect();
        format!("[{}]", all.join(", "))
    }
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.iter().map(text_of).collect(),
        Value::String(text) => {
            Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
        }
        other => Err(format!("a {} stands where a list should", other.type_str())),
    }
}

/// An enum whose variants are words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident, $form:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// As it is written.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl Field for $name {
            const FORM: &'static str = $form;
            fn read(value: &Value) -> Result<Self, String> {
                let text = text_of(value)?;
                match text.as_str() {
                    $($word => Ok($name::$variant),)*
                    _ => Err(format!("{} is none of {}", quoted(&text), $form)),
                }
            }
            fn show(&self) -> String {
                format!("\"{}\"", self.word())
            }
        }
    };
}

words! {
    /// When the store has what it was given.
    Durability, "\"process\", \"power\"" {
        /// After the daemon's death at any instruction.
        Process = "process",
        /// After a loss of power, too.
        Power = "power",
    }
}

words! {
    /// How input roots become visible.
    StageMode, "\"auto\", \"composefs\", \"directory-cache\", \"copy\"" {
        /// The best that the host gives.
        Auto = "auto",
        /// Images over the store.
        Composefs = "composefs",
        /// Directories that are built once.
        DirectoryCache = "directory-cache",
        /// Copies.
        Copy = "copy",
    }
}

words! {
    /// How outputs go to a second place.
    HandoffMode, "\"auto\", \"reflink\", \"hardlink\", \"copy\"" {
        /// By reflink where there are any, else by copy.
        Auto = "auto",
        /// By reflink, or not at all.
        Reflink = "reflink",
        /// By read-only hard link.
        Hardlink = "hardlink",
        /// By copy.
        Copy = "copy",
    }
}

words! {
    /// What of the network an action sees.
    NetworkPolicy, "\"none\", \"loopback\", \"host\"" {
        /// Nothing, not even loopback.
        None = "none",
        /// Loopback only, private to the sandbox.
        Loopback = "loopback",
        /// The host's network.
        Host = "host",
    }
}

words! {
    /// Who may write results into the action cache.
    CacheWriters, "\"executor\", \"clients\"" {
        /// The executor, after it ran the action.
        Executor = "executor",
        /// Clients too: whoever may connect is believed.
        Clients = "clients",
    }
}

words! {
    /// What becomes of a request whose worker crashed.
    OnCrash, "\"fail\", \"retry\", \"one-shot\"" {
        /// It fails.
        Fail = "fail",
        /// It runs once more, on a fresh worker, and fails if that crashes as well.
        Retry = "retry",
        /// The same, but then it runs without a worker.
        OneShot = "one-shot",
    }
}

words! {
    /// Which results of workers are cached.
    WorkerCache, "\"all\", \"keyed\", \"none\"" {
        /// As those of others.
        All = "all",
        /// Those of workers whose tools are known: marked, or declared by the client.
        Keyed = "keyed",
        /// None.
        None = "none",
    }
}

words! {
    /// What workers see of their requests.
    WorkerView, "\"own\", \"shared\"" {
        /// A view for each request, which replaces the one before.
        Own = "own",
        /// One directory, which is changed for each request.
        Shared = "shared",
    }
}

words! {
    /// By what workers are talked to.
    IpcChoice, "\"auto\", \"uring\", \"epoll\"" {
        /// io_uring where it can be had.
        Auto = "auto",
        /// io_uring or not at all.
        Uring = "uring",
        /// epoll.
        Epoll = "epoll",
    }
}

words! {
    /// What a cluster is used for.
    RemoteMode, "\"execute\", \"cache\"" {
        /// It executes actions, and has a cache.
        Execute = "execute",
        /// It is a cache alone.
        Cache = "cache",
    }
}

words! {
    /// What of a cluster's results is fetched at once.
    RemoteOutputs, "\"all\", \"lazy\"" {
        /// All of it.
        All = "all",
        /// Where only the cluster can have made it: names, and bytes when somebody needs them.
        Lazy = "lazy",
    }
}

words! {
    /// Where actions run that do not say.
    Strategy, "\"racing\", \"local\", \"remote\", \"remote_local_fallback\"" {
        /// Here and on the cluster: the first result counts.
        Racing = "racing",
        /// Here.
        Local = "local",
        /// On the cluster.
        Remote = "remote",
        /// On the cluster, and here if that cannot be had.
        RemoteLocalFallback = "remote_local_fallback",
    }
}
