//! The client against servers on real sockets: some that keep to the protocol, and some that do not.

use super::connect::pause;
use super::*;
use crate::worker::limits::{
    BUCK2_ANSWER_BYTES_MAX, BUCK2_CONNECT_WITHIN, BUCK2_IN_FLIGHT_MAX, OUTPUT_KEPT_BYTES_MAX,
};
use fulgurite_proto::buck2::execute_event::Data;
use fulgurite_proto::buck2::worker_server::{Worker, WorkerServer};
use fulgurite_proto::buck2::worker_streaming_server::{WorkerStreaming, WorkerStreamingServer};
use fulgurite_proto::buck2::{
    ExecuteCommand, ExecuteCommandStream, ExecuteEvent, ExecuteResponse, ExecuteResponseStream,
};
use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// How the server takes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Answers three at a time, the last one first.
    Backwards,
    /// Answers one and ends the stream.
    OneAlone,
    /// Answers each twice.
    Twice,
    /// Answers ids that it was not sent.
    Others,
    /// Answers without an answer.
    Empty,
    /// Waits to be released before each.
    Slowly,
}

/// A worker that answers with its arguments, its environment and its time.
#[derive(Clone)]
struct Echo {
    can_exec: bool,
    manner: Manner,
    /// A command, or in `exec` all but its cancel, has come.
    came: Arc<Notify>,
    release: Arc<Notify>,
    stderr_bytes: usize,
}

impl Echo {
    fn new() -> Self {
        let (came, release) = Default::default();
        Echo { can_exec: true, manner: Manner::Backwards, came, release, stderr_bytes: 0 }
    }

    fn answer(&self, command: &ExecuteCommand) -> ExecuteResponse {
        let mut stderr = format!("{:?} {:?}", command.argv, command.env.len());
        if self.stderr_bytes > 0 {
            stderr = "é".repeat(self.stderr_bytes / 2);
        }
        ExecuteResponse { exit_code: command.argv.len() as i32, stderr, timed_out_after_s: command.timeout_s }
    }
}

#[tonic::async_trait]
impl Worker for Echo {
    async fn execute(&self, request: Request<ExecuteCommand>) -> Result<Response<ExecuteResponse>, Status> {
        Ok(Response::new(self.answer(request.get_ref())))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecuteEvent>>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        if !self.can_exec {
            return Err(Status::unimplemented("no"));
        }
        let mut events = request.into_inner();
        let Some(Data::Command(command)) = events.message().await?.and_then(|event| event.data) else {
            return Err(Status::invalid_argument("no command"));
        };
        self.came.notify_one();
        // With an argument it works until it is canceled.
        if !command.argv.is_empty() {
            let event = events.message().await?.and_then(|event| event.data);
            assert!(matches!(event, Some(Data::Cancel(_))));
            return Ok(Response::new(ExecuteResponse { exit_code: -1, ..ExecuteResponse::default() }));
        }
        Ok(Response::new(self.answer(&command)))
    }
}

impl Echo {
    async fn take(
        &self,
        commands: &mut Streaming<ExecuteCommandStream>,
        count: usize,
    ) -> Vec<ExecuteResponseStream> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let Ok(Some(ExecuteCommandStream { request: Some(command), id })) = commands.message().await
            else {
                break;
            };
            self.came.notify_one();
            answers.push(ExecuteResponseStream { response: Some(self.answer(&command)), id });
        }
        answers
    }

    /// The next answers, and whether more will come.
    async fn next(
        &self,
        commands: &mut Streaming<ExecuteCommandStream>,
    ) -> (Vec<ExecuteResponseStream>, bool) {
        let count = if self.manner == Manner::Backwards { 3 } else { 1 };
        let mut answers = self.take(commands, count).await;
        let goes_on = !answers.is_empty() && self.manner != Manner::OneAlone;
        match self.manner {
            Manner::Backwards => answers.reverse(),
            Manner::Twice => answers.extend(answers.clone()),
            Manner::Others => answers.iter_mut().for_each(|answer| answer.id += 1),
            Manner::Empty => answers.iter_mut().for_each(|answer| answer.response = None),
            Manner::Slowly if answers.is_empty() => {}
            Manner::Slowly => self.release.notified().await,
            Manner::OneAlone => {}
        }
        (answers, goes_on)
    }
}

#[tonic::async_trait]
impl WorkerStreaming for Echo {
    type ExecuteStreamStream = ReceiverStream<Result<ExecuteResponseStream, Status>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteCommandStream>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let (echo, mut commands) = (self.clone(), request.into_inner());
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            loop {
                let (answers, goes_on) = echo.next(&mut commands).await;
                for answer in answers {
                    let _ = sender.send(Ok(answer)).await;
                }
                if !goes_on {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Scene {
    client: Client,
    _dir: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve(listener: UnixListener, echo: Echo) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder()
            .add_service(WorkerServer::new(echo.clone()))
            .add_service(WorkerStreamingServer::new(echo));
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
    })
}

async fn scene(echo: Echo) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = serve(UnixListener::bind(&path).unwrap(), echo);
    let socket = Socket::at(&path).unwrap();
    let client = Client::connect(&socket, BUCK2_CONNECT_WITHIN, pending()).await.unwrap();
    Scene { client, _dir: dir, server }
}

fn command(arguments: &[&[u8]]) -> Command {
    Command { arguments: arguments.iter().map(|argument| argument.to_vec()).collect(), ..Command::default() }
}

#[tokio::test]
async fn executes_bytes_that_are_no_text() {
    let scene = scene(Echo::new()).await;
    let command = Command {
        environment: vec![(b"A".to_vec(), b"\xff".to_vec())],
        timeout_s: Some(7),
        ..command(&[b"\xff\0", b"b"])
    };
    let answer = scene.client.execute(command).await.unwrap();
    let expected =
        Answer { exit_code: 2, stderr: "[[255, 0], [98]] 1".to_owned(), timed_out_after_s: Some(7) };
    assert_eq!(answer, expected);
    assert_eq!(scene.client.execute(Command::default()).await.unwrap().timed_out_after_s, None);
}

#[tokio::test]
async fn a_command_is_canceled_or_runs_to_its_end() {
    let echo = Echo::new();
    let came = echo.came.clone();
    let scene = scene(echo).await;
    let answer = scene.client.exec(command(&[b"long"]), came.notified()).await.unwrap();
    assert_eq!(answer.exit_code, -1);
    let answer = scene.client.exec(command(&[]), pending()).await.unwrap();
    assert_eq!(answer.exit_code, 0);
}

#[tokio::test]
async fn a_worker_without_exec_can_not_cancel() {
    let scene = scene(Echo { can_exec: false, ..Echo::new() }).await;
    let error = scene.client.exec(command(&[b"a"]), ready(())).await.unwrap_err();
    assert_eq!(error, Buck2Error::NotImplemented { call: "Exec" });
    assert_eq!(scene.client.execute(command(&[b"a"])).await.unwrap().exit_code, 1);
}

#[tokio::test]
async fn answers_come_in_any_order() {
    let scene = scene(Echo::new()).await;
    let (stream, talking) = scene.client.stream();
    let all = async {
        let (none, one, two) = tokio::join!(
            stream.execute(command(&[])),
            stream.execute(command(&[b"a"])),
            stream.execute(command(&[b"a", b"b"])),
        );
        [none, one, two].map(|answer| answer.unwrap().exit_code)
    };
    tokio::select! {
        codes = all => assert_eq!(codes, [0, 1, 2]),
        end = talking => panic!("{end}"),
    }
    assert_eq!(stream.in_flight(), 0);
}

/// What two commands get, and why the stream ended.
async fn two(manner: Manner) -> ([Result<Answer, Buck2Error>; 2], Buck2Error) {
    let scene = scene(Echo { manner, ..Echo::new() }).await;
    let (stream, talking) = scene.client.stream();
    let (first, second, end) =
        tokio::join!(stream.execute(command(&[])), stream.execute(command(&[b"a"])), talking);
    assert_eq!(stream.in_flight(), 0);
    assert_eq!(stream.execute(command(&[])).await.unwrap_err(), end);
    ([first, second], end)
}

#[tokio::test]
async fn commands_without_an_answer_fail_with_the_stream() {
    let ([first, second], end) = two(Manner::OneAlone).await;
    assert_eq!(first.unwrap().exit_code, 0);
    assert_eq!(second.unwrap_err(), end);
    assert!(matches!(end, Buck2Error::Gone { .. }), "{end}");
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_ends_the_stream() {
    let ([first, second], end) = two(Manner::Twice).await;
    assert_eq!(first.unwrap().exit_code, 0);
    assert_eq!(second.unwrap_err(), end);
    assert!(end.to_string().contains("answers command 1, which does not wait"), "{end}");
    // Its answer to the first is taken for the second: both are the worker's own, and the next one is unknown.
    let (_, end) = two(Manner::Others).await;
    assert!(end.to_string().contains("answers command 3, which does not wait"), "{end}");
    let ([first, second], end) = two(Manner::Empty).await;
    assert_eq!((first.unwrap_err(), second.unwrap_err()), (end.clone(), end.clone()));
    assert!(end.to_string().contains("the answer to command 1 is empty"), "{end}");
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nothing_with_it() {
    let echo = Echo { manner: Manner::Slowly, ..Echo::new() };
    let (came, release) = (echo.came.clone(), echo.release.clone());
    let scene = scene(echo).await;
    let (stream, talking) = scene.client.stream();
    let talking = tokio::spawn(talking);
    tokio::select! {
        answer = stream.execute(command(&[])) => panic!("{answer:?}"),
        () = came.notified() => {}
    }
    assert_eq!(stream.in_flight(), 1);
    release.notify_one();
    let next = async {
        came.notified().await;
        release.notify_one();
    };
    let one = command(&[b"a"]);
    let (answer, ()) = tokio::join!(stream.execute(one), next);
    assert_eq!(answer.unwrap().exit_code, 1);
    assert_eq!(stream.in_flight(), 0);
    drop(stream);
    assert!(matches!(talking.await.unwrap(), Buck2Error::Gone { .. }));
}

#[tokio::test]
async fn a_stream_holds_so_many_commands_and_no_more() {
    let scene = scene(Echo::new()).await;
    let (stream, talking) = scene.client.stream();
    for _ in 0..BUCK2_IN_FLIGHT_MAX {
        // Polled once, and left.
        tokio::select! {
            biased;
            answer = stream.execute(command(&[])) => panic!("{answer:?}"),
            () = ready(()) => {}
        }
    }
    let full = stream.execute(command(&[])).await.unwrap_err();
    assert_eq!(full, Buck2Error::Full { in_flight: BUCK2_IN_FLIGHT_MAX });
    drop(talking);
    assert_eq!(stream.in_flight(), 0);
    assert!(matches!(stream.execute(command(&[])).await, Err(Buck2Error::Gone { .. })));
}

#[tokio::test]
async fn a_long_text_is_cut_and_a_longer_answer_refused() {
    let cut = scene(Echo { stderr_bytes: OUTPUT_KEPT_BYTES_MAX + 4, ..Echo::new() }).await;
    let answer = cut.client.execute(command(&[])).await.unwrap();
    let (kept, note) = answer.stderr.rsplit_once('\n').unwrap();
    assert_eq!(kept.len(), OUTPUT_KEPT_BYTES_MAX);
    assert_eq!(note, "[the worker wrote more: output cut after 4 MiB]");
    let refused = scene(Echo { stderr_bytes: BUCK2_ANSWER_BYTES_MAX, ..Echo::new() }).await;
    let error = refused.client.execute(command(&[])).await.unwrap_err();
    assert!(matches!(&error, Buck2Error::Failed { code, .. } if code == "OutOfRange"), "{error}");
}

#[test]
fn pauses_double_up_to_half_a_second() {
    let pauses: Vec<_> = (0..6).map(|tries| pause(tries).as_millis()).collect();
    assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
    assert_eq!(pause(u32::MAX).as_millis(), 500);
}

#[tokio::test]
async fn waits_for_the_worker_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    // Longer than an address of a socket may be.
    let deep = dir.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let socket = Socket::at(&deep.join("socket")).unwrap();
    let short = dir.path().join("socket");
    let echo = Echo::new();
    let later = async {
        // The first try has found nothing by now: it is made when the other future is polled first.
        let server = serve(UnixListener::bind(&short).unwrap(), echo);
        std::fs::rename(&short, deep.join("socket")).unwrap();
        [server]
    };
    let (client, [server]) = tokio::join!(Client::connect(&socket, BUCK2_CONNECT_WITHIN, pending()), later);
    assert_eq!(client.unwrap().execute(command(&[])).await.unwrap().exit_code, 0);
    server.abort();
}

#[tokio::test]
async fn gives_up_when_the_worker_ends_or_the_time_does() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Socket::at(&dir.path().join("socket")).unwrap();
    let ended = Client::connect(&socket, BUCK2_CONNECT_WITHIN, ready("signal 9".to_owned())).await;
    assert_eq!(ended.unwrap_err().to_string(), "Worker exited before connecting: signal 9");
    let within = Duration::from_millis(1);
    let late = Client::connect(&socket, within, pending()).await.unwrap_err();
    assert!(late.to_string().starts_with("Worker failed to connect within `0` seconds: "), "{late}");
    assert!(late.to_string().contains("No such file"), "{late}");
}

#[tokio::test]
async fn follows_no_link_and_opens_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(UnixListener::bind(dir.path().join("real")).unwrap(), Echo::new());
    let check = async |why: &str| {
        let socket = Socket::at(&dir.path().join("socket")).unwrap();
        let error = Client::connect(&socket, Duration::from_millis(1), pending()).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        std::fs::remove_file(dir.path().join("socket")).unwrap();
    };
    std::os::unix::fs::symlink("real", dir.path().join("socket")).unwrap();
    check("it is no socket").await;
    std::fs::write(dir.path().join("socket"), "").unwrap();
    check("it is no socket").await;
    server.abort();
}

/// What a call gets from a peer that accepts, reads something, writes this and closes.
async fn peer(bytes: &'static [u8]) -> Buck2Error {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
            let _ = stream.write_all(bytes).await;
        }
    };
    let call = async {
        let client = Client::connect(&Socket::at(&path).unwrap(), BUCK2_CONNECT_WITHIN, pending()).await?;
        client.execute(command(&[])).await
    };
    tokio::select! {
        answer = call => answer.unwrap_err(),
        () = peer => unreachable!(),
    }
}

#[tokio::test]
async fn a_peer_that_dies_or_speaks_something_else_ends_the_call() {
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n", &[0xff; 100]] {
        let error = peer(bytes).await;
        assert!(matches!(error, Buck2Error::Gone { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_fails_what_it_was_asked() {
    let echo = Echo { manner: Manner::Slowly, ..Echo::new() };
    let came = echo.came.clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    // On a runtime of its own, so that its end closes connections as a process's does.
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = theirs.enter();
    serve(UnixListener::bind(&path).unwrap(), echo);
    drop(guard);
    let client = Client::connect(&Socket::at(&path).unwrap(), BUCK2_CONNECT_WITHIN, pending()).await.unwrap();
    let (stream, talking) = client.stream();
    let kill = async {
        came.notified().await;
        theirs.shutdown_background();
    };
    let (answer, end, ()) = tokio::join!(stream.execute(command(&[])), talking, kill);
    assert_eq!(answer.unwrap_err(), end);
    assert!(matches!(end, Buck2Error::Gone { .. }), "{end:?}");
}
