//! A worker for tests: speaks Bazel's protocol, does what a request says, tells all it sees, and fails as asked for.
//!
//! ```text
//! fulgurite-fake-worker --persistent_worker [--protocol=proto|json] [--pretty] [--fault=NAME[:VALUE][@N]]…
//! fulgurite-fake-worker [ORDER]… [@FILE]…         once: does the orders, replies on stderr, and exits with the code
//! fulgurite-fake-worker --list-faults
//! ```
//!
//! The arguments of a request are orders: `job.rs` has their list; `fault.rs` has that of faults, which stand among the
//! startup arguments (then they hold for every request) or among those of a request. Other startup arguments are
//! reported and mean nothing, so that a test can make as many different workers as it likes.
//!
//! A request with an id runs in a thread of its own, those without one after another. The report is one object:
//!
//! ```text
//! uuid                                        of this process, random
//! counter                                     of requests that it has taken, from 1; no cancels
//! pid, cwd, environment                       now; the environment as name → value
//! argv                                        startup arguments, its own name first
//! arguments, inputs, request_id, verbosity, sandbox_dir      of the request
//! children                                    pids that faults started
//! kept                                        with keep-arguments: the arguments of all requests
//! reads, stats, lists                         what the orders of these names found, by path
//! ```
//! `inputs` is a list of `[path, digest]`, the digest as it came: base64 of the hexadecimal text with JSON.

#![allow(unsafe_code)]

mod cancel;
mod deed;
mod fault;
mod job;
mod reply;
mod wire;

use cancel::Cancel;
use fault::{Faults, Moment};
use job::{Done, Job};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use wire::Wire;

/// More than anybody nests, and an end for a file that names itself.
const FILES_NESTED_MAX: usize = 16;

/// A request off either wire.
#[derive(Clone, Debug, Default)]
pub struct Request {
    arguments: Vec<String>,
    inputs: Vec<(String, String)>,
    id: i32,
    cancel: bool,
    verbosity: i32,
    sandbox_dir: String,
}

/// A reply for either wire.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    exit_code: i32,
    output: String,
    id: i32,
    was_cancelled: bool,
}

/// What lasts for the life of the process.
pub struct Worker {
    wire: Wire,
    uuid: String,
    argv: Vec<String>,
    faults: Faults,
    kept: Mutex<Vec<Vec<String>>>,
    running: Mutex<HashMap<i32, Arc<Cancel>>>,
}

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let rest = &argv[1.min(argv.len())..];
    if let Some(kind) = rest.first().and_then(|word| word.strip_prefix("--child=")) {
        deed::be_child(kind, &rest[1..]);
    }
    if rest.iter().any(|word| word == "--list-faults") {
        print!("{}", fault::list());
        return ExitCode::SUCCESS;
    }
    let persistent = rest.iter().any(|word| word == "--persistent_worker");
    let ended = if persistent { serve(argv) } else { once(argv) };
    ended.unwrap_or_else(|why| {
        eprintln!("fulgurite-fake-worker: {why}");
        ExitCode::from(3)
    })
}

fn once(argv: Vec<String>) -> Result<ExitCode, String> {
    let mut arguments = Vec::new();
    for word in &argv[1.min(argv.len())..] {
        expand(word, 0, &mut arguments)?;
    }
    let worker = Worker::new(argv, Faults::default());
    let request = Request { arguments, ..Request::default() };
    let faults = Faults::parse(&request.arguments)?;
    let children = before(&faults)?;
    let job = Job::new(&request.arguments, "");
    let Ok(done) = job.perform(&Cancel::default()) else { return Ok(ExitCode::FAILURE) };
    let reply = worker.finish(&request, 1, &faults, done, children);
    eprint!("{}", reply.output);
    Ok(ExitCode::from(u8::try_from(reply.exit_code).unwrap_or(1)))
}

fn expand(word: &str, depth: usize, arguments: &mut Vec<String>) -> Result<(), String> {
    let Some(path) = word.strip_prefix('@').filter(|path| !path.starts_with('@')) else {
        arguments.push(word.to_owned());
        return Ok(());
    };
    if depth == FILES_NESTED_MAX {
        return Err(format!("files of arguments are nested deeper than {FILES_NESTED_MAX} at {path}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?;
    text.lines().try_for_each(|line| expand(line, depth + 1, arguments))
}

fn serve(argv: Vec<String>) -> Result<ExitCode, String> {
    let faults = Faults::parse(&argv)?;
    let worker = Arc::new(Worker::new(argv, faults));
    start(&worker.faults)?;
    let mut count = 0;
    let mut last = None;
    for request in worker.wire.requests(BufReader::new(io::stdin())) {
        let request = request.map_err(|error| format!("can't read a request: {error}"))?;
        if request.cancel {
            if let Some(cancel) = worker.running().get(&request.id) {
                cancel.cancel();
            }
            continue;
        }
        count += 1;
        if request.id == 0 {
            // Whoever sends without an id sends the next one after the reply, and it is there soon.
            last.take().map(thread::JoinHandle::join);
        }
        let cancel = Arc::new(Cancel::default());
        if worker.running().insert(request.id, cancel.clone()).is_some() {
            return Err(format!("request {} is still running, and came again", request.id));
        }
        let (worker, is_single) = (worker.clone(), request.id == 0);
        let thread = thread::spawn(move || worker.answer(&request, count, &cancel));
        if is_single {
            last = Some(thread);
        }
    }
    if worker.faults.get("ignore-term").is_some() {
        deed::hang();
    }
    Ok(ExitCode::SUCCESS)
}

fn start(faults: &Faults) -> Result<(), String> {
    for fault in faults.at(Moment::Start) {
        match fault.name() {
            "exit-at-start" => {
                eprintln!("fulgurite-fake-worker: exits at once, as asked for");
                std::process::exit(i32::try_from(fault.number(3)).unwrap_or(3));
            }
            "slow-start" => thread::sleep(Duration::from_millis(fault.number(500))),
            "junk-at-start" => {
                let mut out = io::stdout();
                let junk = b"Welcome to the compiler!\n";
                out.write_all(junk).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
            }
            "deaf" => {
                deed::flood_stderr(deed::FOREVER.as_secs() * 1024, Duration::from_micros(900));
                deed::hang();
            }
            _ => deed::ignore_term(),
        }
    }
    Ok(())
}

/// The faults that show before the work. Gives the children that were started.
fn before(faults: &Faults) -> Result<Vec<u32>, String> {
    let mut children = Vec::new();
    for fault in faults.at(Moment::Request) {
        match fault.name() {
            "exit" => {
                eprintln!("fulgurite-fake-worker: exits in the middle of a request, as asked for");
                std::process::exit(i32::try_from(fault.number(7)).unwrap_or(7));
            }
            "signal" => {
                eprintln!("fulgurite-fake-worker: kills itself, as asked for");
                deed::signal(fault.number(11));
            }
            "hang" => deed::hang(),
            "stop" => deed::stop(),
            "eat-memory" => deed::eat_memory(fault.number(4096)),
            "close-stdout" => {
                deed::close_stdout();
                deed::hang();
            }
            "fork-children" => {
                let started = deed::fork_children(fault.number(4)).map_err(|error| error.to_string())?;
                children.extend(started);
            }
            _ => deed::flood_stderr(fault.number(1024), Duration::ZERO),
        }
    }
    Ok(children)
}

impl Worker {
    fn new(argv: Vec<String>, faults: Faults) -> Self {
        let has = |word: &str| argv.iter().any(|argument| argument == word);
        let wire = if has("--protocol=json") { Wire::Json { pretty: has("--pretty") } } else { Wire::Proto };
        Worker { wire, uuid: uuid(), argv, faults, kept: Mutex::default(), running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i32, Arc<Cancel>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request, count: u64, cancel: &Cancel) {
        let (reply, faults) = match Faults::parse(&request.arguments) {
            Ok(faults) => {
                let faults = self.faults.due(&faults, count);
                (self.reply(request, count, &faults, cancel), faults)
            }
            Err(why) => (Some(Reply { exit_code: 2, output: why, ..Reply::default() }), Faults::default()),
        };
        self.running().remove(&request.id);
        let Some(reply) = reply else { return };
        if let Err(error) = reply::send(self, &faults, Reply { id: request.id, ..reply }) {
            eprintln!("fulgurite-fake-worker: can't reply: {error}");
            std::process::exit(4);
        }
    }

    /// Does the work. Without a reply there is none to send.
    fn reply(&self, request: &Request, count: u64, faults: &Faults, cancel: &Cancel) -> Option<Reply> {
        if faults.get("no-work").is_some() {
            return Some(Reply::default());
        }
        let children = match before(faults) {
            Ok(children) => children,
            Err(output) => return Some(Reply { exit_code: 1, output, ..Reply::default() }),
        };
        let never = Cancel::default();
        let heeded = if faults.get("ignore-cancel").is_some() { &never } else { cancel };
        if let Ok(done) = Job::new(&request.arguments, &request.sandbox_dir).perform(heeded) {
            return Some(self.finish(request, count, faults, done, children));
        }
        if faults.get("no-cancel-reply").is_some() {
            return None;
        }
        if let Some(late) = faults.get("late-cancel") {
            thread::sleep(Duration::from_millis(late.number(300)));
        }
        Some(Reply { was_cancelled: true, ..Reply::default() })
    }

    /// Writes the report, and does to the output what the faults want done.
    fn finish(
        &self,
        request: &Request,
        count: u64,
        faults: &Faults,
        mut done: Done,
        children: Vec<u32>,
    ) -> Reply {
        if faults.get("keep-arguments").is_some() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(request.arguments.clone());
        }
        let complain = |done: &mut Done, what: &str, error: &io::Error| {
            done.exit_code = 1;
            done.said.push_str(&format!("{what}: {error}\n"));
        };
        let report = self.report(request, count, &done, &children).to_string();
        match done.report.clone() {
            Some(path) => {
                if let Err(error) = write_with_parents(&path, &report) {
                    complain(&mut done, &format!("--output={}", path.display()), &error);
                }
            }
            None if done.said.is_empty() => done.said = report,
            None => {}
        }
        if let Some(output) = done.output.clone() {
            for fault in faults.at(Moment::Done) {
                let held = match fault.name() {
                    "hold-open" | "hold-mapped" => deed::hold(fault, &output),
                    _ => deed::late_write(fault, &output).map(drop),
                };
                if let Err(error) = held {
                    complain(&mut done, fault.name(), &error);
                }
            }
        }
        Reply { exit_code: done.exit_code, output: done.said, ..Reply::default() }
    }

    fn report(&self, request: &Request, count: u64, done: &Done, children: &[u32]) -> Value {
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), Value::from(value.to_string_lossy().into_owned()))
        });
        let mut report = json!({
            "uuid": self.uuid, "counter": count, "pid": std::process::id(), "argv": self.argv,
            "cwd": std::env::current_dir().map(|path| path.display().to_string()).ok(),
            "environment": environment.collect::<serde_json::Map<_, _>>(),
            "arguments": request.arguments, "inputs": request.inputs, "request_id": request.id,
            "verbosity": request.verbosity, "sandbox_dir": request.sandbox_dir, "children": children,
            "kept": *self.kept.lock().unwrap_or_else(PoisonError::into_inner),
        });
        for (name, found) in &done.found {
            report[name] = found.clone();
        }
        report
    }
}

fn write_with_parents(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}

/// Random, in the usual form.
fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(bytes.len()) {
        return format!("pid-{}", std::process::id());
    }
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|part| part.concat()).join("-")
}
