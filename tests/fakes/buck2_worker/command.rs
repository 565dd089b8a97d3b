//! One command, whichever way it came: its orders, its faults, its end.

use super::cancel::Cancel;
use super::job::Job;
use fulgurite_proto::buck2::{ExecuteCommand, ExecuteResponse};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Status;

/// What lasts for the life of the process.
pub struct Worker {
    argv: Vec<String>,
    uuid: String,
    counter: AtomicU64,
    held: Mutex<Vec<File>>,
}

/// The value of `--fault=NAME[:VALUE]` among these, empty if it has none.
pub fn fault<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let wanted = arguments.iter().filter_map(|argument| argument.strip_prefix("--fault="));
    wanted.map(|fault| fault.split_once(':').unwrap_or((fault, ""))).find(|it| it.0 == name).map(|it| it.1)
}

/// Sleeps for longer than any test.
pub fn hang() -> ! {
    std::thread::sleep(Duration::from_secs(600));
    std::process::exit(97)
}

/// The arguments of a command as text.
pub fn texts(command: &ExecuteCommand) -> Vec<String> {
    command.argv.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

impl Worker {
    /// With these startup arguments.
    pub fn new(argv: Vec<String>) -> Self {
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|text| text.trim().to_owned());
        let uuid = uuid.unwrap_or_else(|_| format!("pid-{}", std::process::id()));
        Worker { argv, uuid, counter: AtomicU64::new(0), held: Mutex::default() }
    }

    /// A fault among the startup arguments.
    pub fn fault(&self, name: &str) -> Option<&str> {
        fault(&self.argv, name)
    }

    /// Runs it to its end, its timeout or its cancel. Blocks, so it wants a thread of its own.
    pub fn execute(
        &self,
        command: &ExecuteCommand,
        via: &str,
        cancel: &Arc<Cancel>,
    ) -> Result<ExecuteResponse, Status> {
        let arguments = texts(command);
        let count = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let asked = |name: &str| fault(&arguments, name).or_else(|| self.fault(name));
        self.write_late();
        fall(asked);
        if asked("unavailable").is_some() {
            return Err(Status::unavailable("as asked for"));
        }
        if asked("unlink").is_some()
            && let Some(socket) = std::env::var_os("WORKER_SOCKET")
        {
            let _ = std::fs::remove_file(socket);
        }
        let is_over = Arc::new(Cancel::default());
        let timed_out = timeout(command, cancel, &is_over);
        let never = Cancel::default();
        let heeded = if asked("ignore-cancel").is_some() { &never } else { &**cancel };
        let ended = Job::new(&arguments, "").perform(heeded);
        is_over.cancel();
        let mut done = match ended {
            Ok(done) => done,
            Err(_) if timed_out.is_some_and(|timer| timer.join().unwrap_or(false)) => {
                let timed_out_after_s = command.timeout_s;
                return Ok(ExecuteResponse {
                    exit_code: 124,
                    stderr: "timed out\n".to_owned(),
                    timed_out_after_s,
                });
            }
            Err(_) => return Ok(response(130, "cancelled\n".to_owned())),
        };
        if asked("hold-open").is_some() {
            self.hold(done.output.as_deref());
        }
        let report = self.report(command, &arguments, via, count, &done.found).to_string();
        match &done.report {
            Some(path) => {
                if let Err(error) = std::fs::write(path, report) {
                    done.exit_code = 1;
                    done.said.push_str(&format!("--output={}: {error}\n", path.display()));
                }
            }
            None if done.said.is_empty() => done.said = report,
            None => {}
        }
        if let Some(bytes) = asked("big-stderr") {
            done.said = "x".repeat(bytes.parse().unwrap_or(64 << 20));
        }
        Ok(response(done.exit_code, done.said))
    }

    fn hold(&self, written: Option<&Path>) {
        let file = written.and_then(|path| File::options().append(true).open(path).ok());
        self.held.lock().unwrap_or_else(PoisonError::into_inner).extend(file);
    }

    fn write_late(&self) {
        for file in self.held.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            // What comes of it is for the test to see.
            let _ = file.write_all(b" and late");
        }
    }

    fn report(
        &self,
        command: &ExecuteCommand,
        arguments: &[String],
        via: &str,
        count: u64,
        found: &serde_json::Map<String, Value>,
    ) -> Value {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let variables = command.env.iter().map(|entry| (lossy(&entry.key), lossy(&entry.value).into()));
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), Value::from(value.to_string_lossy().into_owned()))
        });
        let mut report = json!({
            "uuid": self.uuid, "counter": count, "pid": std::process::id(), "argv": self.argv, "via": via,
            "cwd": std::env::current_dir().map(|path| path.display().to_string()).ok(),
            "environment": environment.collect::<serde_json::Map<_, _>>(), "arguments": arguments,
            "variables": variables.collect::<serde_json::Map<_, _>>(), "timeout_s": command.timeout_s,
        });
        for (name, value) in found {
            report[name] = value.clone();
        }
        report
    }
}

/// Ends the process, or hangs for ever, if that is asked for.
fn fall<'a>(asked: impl Fn(&str) -> Option<&'a str>) {
    if let Some(code) = asked("exit") {
        eprintln!("fulgurite-fake-buck2-worker: exits in the middle of a command, as asked for");
        std::process::exit(code.parse().unwrap_or(7));
    }
    if let Some(number) = asked("signal") {
        // SAFETY: two integers; the worst that can come of it is the end of this process, which is wanted.
        unsafe { libc::kill(libc::getpid(), number.parse().unwrap_or(libc::SIGKILL)) };
        hang();
    }
    if asked("hang").is_some() {
        hang();
    }
}

/// A thread that cancels when the command's time is up, and then says so.
fn timeout(
    command: &ExecuteCommand,
    cancel: &Arc<Cancel>,
    is_over: &Arc<Cancel>,
) -> Option<std::thread::JoinHandle<bool>> {
    let time = Duration::from_secs(command.timeout_s?);
    let (cancel, is_over) = (cancel.clone(), is_over.clone());
    Some(std::thread::spawn(move || {
        let late = !is_over.wait(time);
        if late {
            cancel.cancel();
        }
        late
    }))
}

fn response(exit_code: i32, stderr: String) -> ExecuteResponse {
    ExecuteResponse { exit_code, stderr, timed_out_after_s: None }
}
