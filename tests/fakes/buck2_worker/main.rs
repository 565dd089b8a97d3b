//! A worker of Buck2's protocol for tests: serves gRPC on the Unix socket that `WORKER_SOCKET` names.
//!
//! `argv` of a command holds the orders of `../worker/job.rs`, relative to the working directory. The report, on
//! stderr of the response unless `--output=` says where it goes, has of the worker `uuid`, `counter`, `pid`, `cwd`,
//! `argv`, `environment`, of the command `arguments`, `variables`, `timeout_s`; and `via`: `Execute`, `Exec` or
//! `ExecuteStream`.
//!
//! A command's timeout is kept: the response then has `timed_out_after_s`. A cancel over `Exec` is answered with exit
//! code 130 and `cancelled` on stderr. Commands run at the same time, each in a thread.
//!
//! Startup arguments, `--fault=NAME[:VALUE]`; those marked * may stand in a command's argv instead:
//!
//! ```text
//! never-listen            lives on, and no socket comes
//! exit-at-start[:CODE]    exits (3) before it listens
//! slow-start:MS           listens only then
//! ignore-term             lives on after SIGTERM
//! symlink                 serves beside the socket, which is a link to there
//! garbage                 writes what is no HTTP/2 to whoever connects
//! drop                    accepts and closes
//! mute                    accepts and says nothing
//! no-exec                 Exec is UNIMPLEMENTED
//! no-execute              Execute is UNIMPLEMENTED
//! no-stream               ExecuteStream is UNIMPLEMENTED
//! exit[:CODE]             * exits (7) in the middle of a command
//! signal[:NUMBER]         * kills itself with the signal (9)
//! hang                    * never answers
//! ignore-cancel           * works on, and answers as if nothing had come
//! unavailable             * the status UNAVAILABLE
//! hold-open               * keeps the first file that it wrote, and writes to it with each later command
//! big-stderr[:BYTES]      * so much of it (67108864)
//! unlink                  * removes the socket, and answers
//! close-stream            * ends ExecuteStream without an answer
//! unknown-id              * answers in a stream with a foreign id, then never
//! double-reply            * answers twice in a stream
//! no-response             * answers in a stream with an id alone
//! ```
#![allow(unsafe_code)]

#[path = "../worker/cancel.rs"]
mod cancel;
mod command;
#[path = "../worker/job.rs"]
mod job;
mod service;

use command::Worker;
use fulgurite_proto::buck2::worker_server::WorkerServer;
use fulgurite_proto::buck2::worker_streaming_server::WorkerStreamingServer;
use service::Service;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// Commands have no bound of their own in Buck2.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

fn main() -> ExitCode {
    let argv = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    match run(Arc::new(Worker::new(argv))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("fulgurite-fake-buck2-worker: {why}");
            ExitCode::from(3)
        }
    }
}

fn run(worker: Arc<Worker>) -> Result<(), String> {
    let socket = std::env::var_os("WORKER_SOCKET").map(PathBuf::from).ok_or("WORKER_SOCKET is not set")?;
    start(&worker);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("can't start a runtime: {error}"))?;
    runtime.block_on(async {
        let beside = socket.with_extension("beside");
        let is_linked = worker.fault("symlink").is_some();
        let bound = if is_linked { &beside } else { &socket };
        let listener = UnixListener::bind(bound)
            .map_err(|error| format!("can't listen on {}: {error}", bound.display()))?;
        if is_linked {
            std::os::unix::fs::symlink(&beside, &socket).map_err(|error| format!("no link: {error}"))?;
        }
        let is_rude = ["garbage", "drop", "mute"].iter().any(|fault| worker.fault(fault).is_some());
        if is_rude {
            return rude(&worker, &listener).await;
        }
        let single = WorkerServer::new(Service(worker.clone()));
        let stream = WorkerStreamingServer::new(Service(worker));
        tonic::transport::Server::builder()
            .add_service(single.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(stream.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .map_err(|error| format!("can't serve: {error}"))
    })
}

/// Takes connections, and speaks no HTTP/2 on any.
async fn rude(worker: &Worker, listener: &UnixListener) -> Result<(), String> {
    let mut mute = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        if worker.fault("garbage").is_some() {
            // Whoever is gone already hears nothing.
            let _ = stream.write_all(&[0xa5; 4096]).await;
        }
        if worker.fault("mute").is_some() {
            mute.push(stream);
        }
    }
}

fn start(worker: &Worker) {
    if let Some(code) = worker.fault("exit-at-start") {
        eprintln!("fulgurite-fake-buck2-worker: exits at once, as asked for");
        std::process::exit(code.parse().unwrap_or(3));
    }
    if worker.fault("ignore-term").is_some() {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    }
    if worker.fault("never-listen").is_some() {
        command::hang();
    }
    if let Some(millis) = worker.fault("slow-start") {
        std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or(500)));
    }
}
