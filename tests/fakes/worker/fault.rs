//! What can go wrong with a worker, by name.
//!
//! `--fault=NAME[:VALUE][@N]`: with `@N` only at the Nth request that this process takes, counted from one.

use std::fmt::Write as _;

/// When a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before anything is read.
    Start,
    /// When a request has come, before any of its work is done.
    Request,
    /// When its work is done, beside the reply.
    Done,
    /// In place of the reply, or around it.
    Reply,
    /// When a cancel comes.
    Cancel,
}

/// One kind of fault. Of `TABLE` alone.
pub struct Kind {
    /// What the flag calls it.
    pub name: &'static str,
    /// When it shows.
    pub moment: Moment,
    /// What it does, its value in capitals with the default.
    pub about: &'static str,
}

const fn kind(name: &'static str, moment: Moment, about: &'static str) -> Kind {
    Kind { name, moment, about }
}

/// All of them. What hangs or floods ends by itself after ten minutes, so that a missing limit fails the test and not
/// the machine.
pub const TABLE: &[Kind] = &[
    kind(
        "exit-at-start",
        Moment::Start,
        "exits with CODE (3) before it reads anything, with a line on stderr",
    ),
    kind("slow-start", Moment::Start, "waits MS (500) before it reads anything"),
    kind(
        "junk-at-start",
        Moment::Start,
        "prints lines of text on stdout before it reads anything, and then works",
    ),
    kind("deaf", Moment::Start, "never reads stdin, and floods stderr with 1 MiB/s"),
    kind("ignore-term", Moment::Start, "ignores SIGTERM, and lives on when stdin ends"),
    kind("exit", Moment::Request, "exits with CODE (7) in the middle of the request, with a line on stderr"),
    kind("signal", Moment::Request, "kills itself with signal NUMBER (11)"),
    kind("hang", Moment::Request, "never answers"),
    kind("stop", Moment::Request, "stops itself with SIGSTOP, and goes on if it is let"),
    kind("eat-memory", Moment::Request, "allocates and touches MIB (4096), keeps them, and goes on"),
    kind("close-stdout", Moment::Request, "closes stdout and lives on"),
    kind(
        "fork-children",
        Moment::Request,
        "starts N (4) sleeping children, every other one in a session of its own",
    ),
    kind("flood-stderr", Moment::Request, "writes KIB (1024) to stderr, and goes on"),
    kind(
        "hold-open",
        Moment::Done,
        "keeps its output open for writing; with VALUE `write`, writes into it later too",
    ),
    kind("hold-mapped", Moment::Done, "the same with a shared writable mapping, the file closed"),
    kind("late-write", Moment::Done, "a detached child overwrites the output MS (500) later, by its path"),
    kind("late-write-fd", Moment::Done, "the same through a descriptor that was open before the reply"),
    kind("mute", Moment::Reply, "does all of the work, and never replies"),
    kind("junk", Moment::Reply, "lines of text on stdout in place of the reply, then sleeps"),
    kind("hex-junk", Moment::Reply, "bytes that are no UTF-8 in place of the reply, then sleeps"),
    kind("flood-stdout", Moment::Reply, "zeros on stdout in place of the reply, up to 4 GiB"),
    kind(
        "huge-length",
        Moment::Reply,
        "claims almost 2^63 bytes, then sleeps (json: an endless string, up to 1 GiB)",
    ),
    kind(
        "endless-varint",
        Moment::Reply,
        "a length that never ends, then sleeps (json: a million open brackets)",
    ),
    kind(
        "truncated",
        Moment::Reply,
        "announces 1000 bytes, sends two that parse as success, and exits with 0",
    ),
    kind("half", Moment::Reply, "sends half of the reply, then sleeps"),
    kind("dribble", Moment::Reply, "sends the reply byte by byte: slow, and right"),
    kind("unknown-id", Moment::Reply, "replies with an id that nobody sent, then sleeps"),
    kind("zero-id", Moment::Reply, "replies with the id 0, then sleeps"),
    kind("id-range", Moment::Reply, "success for 1000 ids around its own, but not for that one; then sleeps"),
    kind("double-reply", Moment::Reply, "replies a second time, with a failure"),
    kind("bad-utf8", Moment::Reply, "the text of the reply is not UTF-8"),
    kind(
        "bad-field",
        Moment::Reply,
        "a field goes on past the end of the message (json: has the wrong type)",
    ),
    kind("false-cancel", Moment::Reply, "says that it was cancelled, which it was not"),
    kind("junk-after", Moment::Reply, "a line of text on stdout after the right reply"),
    kind("exit-after", Moment::Reply, "exits with 0 after the right reply"),
    kind("no-work", Moment::Reply, "says success without any work done: the outputs are missing"),
    kind("big-output", Moment::Reply, "BYTES (67108864) of text in the reply"),
    kind(
        "keep-arguments",
        Moment::Reply,
        "keeps the arguments of all requests, and reports them all each time",
    ),
    kind("ignore-cancel", Moment::Cancel, "works on to its end, and replies as if nothing had come"),
    kind("late-cancel", Moment::Cancel, "answers a cancel only MS (300) later"),
    kind("no-cancel-reply", Moment::Cancel, "stops working and never replies"),
];

/// One fault that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    name: &'static str,
    moment: Moment,
    value: Option<String>,
    at: Option<u64>,
}

impl Fault {
    /// Reads `NAME[:VALUE][@N]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, at) = match text.rsplit_once('@') {
            Some((rest, at)) => {
                (rest, Some(at.parse().map_err(|_| format!("fault '{text}': no number after @"))?))
            }
            None => (text, None),
        };
        let (name, value) = match rest.split_once(':') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (rest, None),
        };
        let known = TABLE.iter().find(|kind| kind.name == name);
        let kind = known.ok_or_else(|| format!("fault '{name}' is unknown: see --list-faults"))?;
        Ok(Fault { name: kind.name, moment: kind.moment, value, at })
    }

    /// What the flag calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// When it shows.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Its value as text.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Its value as a number.
    pub fn number(&self, otherwise: u64) -> u64 {
        self.value.as_deref().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }
}

/// Those that were asked for at the start and by a request.
#[derive(Clone, Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Of these arguments, the `--fault=` ones.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let wanted = arguments.iter().filter_map(|argument| argument.strip_prefix("--fault="));
        Ok(Faults(wanted.map(Fault::parse).collect::<Result<_, _>>()?))
    }

    /// Those that show at the Nth request, of both.
    pub fn due(&self, of_request: &Faults, count: u64) -> Faults {
        let both = self.0.iter().chain(&of_request.0);
        Faults(both.filter(|fault| fault.at.is_none_or(|at| at == count)).cloned().collect())
    }

    /// Those of one moment.
    pub fn at(&self, moment: Moment) -> impl Iterator<Item = &Fault> {
        self.0.iter().filter(move |fault| fault.moment() == moment)
    }

    /// The fault of this name.
    pub fn get(&self, name: &str) -> Option<&Fault> {
        debug_assert!(TABLE.iter().any(|kind| kind.name == name), "{name} is not in the table");
        self.0.iter().find(|fault| fault.name == name)
    }
}

/// The table as text.
pub fn list() -> String {
    TABLE.iter().fold(String::new(), |mut text, kind| {
        let _ = writeln!(text, "{:<16} {:<8} {}", kind.name, format!("{:?}", kind.moment), kind.about);
        text
    })
}
