//! A worker as a child process, spoken with over either of Bazel's wires, by hand: no code of Fulgurite's is between.

use fulgurite_proto::bazel::{Input, WorkRequest, WorkResponse};
use prost::Message;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Proto,
    Json,
}

pub const WIRES: [Wire; 2] = [Wire::Proto, Wire::Json];

/// Killed when it goes.
pub struct Spoken {
    wire: Wire,
    child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: BufReader<ChildStdout>,
}

impl Spoken {
    /// Starts `words` with `--persistent_worker` and the flag of the wire, in `directory`.
    pub fn start(wire: Wire, directory: &Path, words: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--persistent_worker").current_dir(directory);
        if wire == Wire::Json {
            command.arg("--protocol=json");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Spoken { wire, child, stdin, stdout: BufReader::new(stdout) }
    }

    pub fn send(&mut self, request: &WorkRequest) {
        let bytes = match self.wire {
            Wire::Proto => request.encode_length_delimited_to_vec(),
            Wire::Json => format!("{}\n", as_json(request)).into_bytes(),
        };
        self.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    }

    /// The next reply; `None` is the end.
    pub fn reply(&mut self) -> Option<WorkResponse> {
        if self.wire == Wire::Json {
            let mut values = serde_json::Deserializer::from_reader(&mut self.stdout).into_iter::<Value>();
            return values.next().map(|value| of_json(&value.unwrap()));
        }
        let (mut length, mut shift, mut byte) = (0_u64, 0, [0]);
        loop {
            if self.stdout.read(&mut byte).unwrap() == 0 {
                return None;
            }
            length |= u64::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stdout.read_exact(&mut body).unwrap();
        Some(WorkResponse::decode(&*body).unwrap())
    }

    pub fn ask(&mut self, request: &WorkRequest) -> WorkResponse {
        self.send(request);
        self.reply().expect("a reply")
    }

    /// The report in the reply to these orders.
    pub fn report(&mut self, request: &WorkRequest) -> Value {
        let reply = self.ask(request);
        assert_eq!(reply.exit_code, 0, "{}", reply.output);
        serde_json::from_str(&reply.output).expect("a report")
    }

    /// The first `count` bytes of stdout, or fewer at its end.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stdout.by_ref().take(count as u64).read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Waits until it has stopped itself, and lets it go on.
    pub fn continue_when_stopped(&self) {
        use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
        kill_process(pid, Signal::CONT).unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends stdin, reads stdout to its end, and waits.
    pub fn end(mut self) -> ExitStatus {
        self.stdin = None;
        self.wait()
    }

    /// Reads stdout to its end, and waits.
    pub fn wait(&mut self) -> ExitStatus {
        std::io::copy(&mut self.stdout, &mut std::io::sink()).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request with an id, 0 for none, and orders.
pub fn request(id: i32, orders: &[&str]) -> WorkRequest {
    let arguments = orders.iter().map(|order| (*order).to_owned()).collect();
    let inputs = vec![Input { path: "in/a".to_owned(), digest: b"00ff".to_vec() }];
    WorkRequest { arguments, inputs, request_id: id, ..WorkRequest::default() }
}

pub fn cancel(id: i32) -> WorkRequest {
    WorkRequest { request_id: id, cancel: true, ..WorkRequest::default() }
}

/// As Bazel prints it: without what has its default, and bytes as base64. The one digest here is `00ff`.
fn as_json(request: &WorkRequest) -> Value {
    let mut value = json!({});
    if !request.arguments.is_empty() {
        value["arguments"] = json!(request.arguments);
    }
    let inputs = request.inputs.iter().map(|input| json!({"path": input.path, "digest": "MDBmZg=="}));
    if !request.inputs.is_empty() {
        value["inputs"] = inputs.collect();
    }
    for (name, number) in [("requestId", request.request_id), ("verbosity", request.verbosity)] {
        if number != 0 {
            value[name] = number.into();
        }
    }
    if request.cancel {
        value["cancel"] = true.into();
    }
    if !request.sandbox_dir.is_empty() {
        value["sandboxDir"] = request.sandbox_dir.clone().into();
    }
    value
}

fn of_json(value: &Value) -> WorkResponse {
    let number = |name: &str| i32::try_from(value[name].as_i64().unwrap()).unwrap();
    WorkResponse {
        exit_code: number("exitCode"),
        output: value["output"].as_str().unwrap().to_owned(),
        request_id: number("requestId"),
        was_cancelled: value["wasCancelled"].as_bool().unwrap(),
    }
}
