//! `fulgurite-fake-buck2-worker` over its socket, all three calls.

use fulgurite_proto::buck2::execute_command::EnvironmentEntry;
use fulgurite_proto::buck2::execute_event::Data;
use fulgurite_proto::buck2::worker_client::WorkerClient;
use fulgurite_proto::buck2::worker_streaming_client::WorkerStreamingClient;
use fulgurite_proto::buck2::{ExecuteCancel, ExecuteCommand, ExecuteCommandStream, ExecuteEvent};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

const WORKER: &str = env!("CARGO_BIN_EXE_fulgurite-fake-buck2-worker");

/// Killed when it goes.
struct Served {
    child: Child,
    place: TempDir,
}

impl Served {
    fn start(faults: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(WORKER);
        command.args(faults.iter().map(|fault| format!("--fault={fault}"))).current_dir(place.path());
        let child = command.env("WORKER_SOCKET", place.path().join("socket")).spawn().unwrap();
        Served { child, place }
    }

    async fn channel(&mut self) -> Channel {
        let socket = self.place.path().join("socket");
        loop {
            match connect(socket.clone()).await {
                Ok(channel) => return channel,
                Err(_) if self.child.try_wait().unwrap().is_none() => tokio::task::yield_now().await,
                Err(error) => panic!("it ended: {error}"),
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(&socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://worker.invalid").connect_with_connector(connector).await
}

fn command(orders: &[&str]) -> ExecuteCommand {
    let entry = EnvironmentEntry { key: b"KEY".to_vec(), value: b"v\xff".to_vec() };
    let argv = orders.iter().map(|order| order.as_bytes().to_vec()).collect();
    ExecuteCommand { argv, env: vec![entry], timeout_s: None }
}

fn event(data: Data) -> ExecuteEvent {
    ExecuteEvent { data: Some(data) }
}

#[tokio::test]
async fn execute_answers_times_out_and_fails() {
    let mut worker = Served::start(&[]);
    let mut client = WorkerClient::new(worker.channel().await);
    let mut uuids = Vec::new();
    for count in 1..=2 {
        let answer = client.execute(command(&["--list=.", "x"])).await.unwrap().into_inner();
        let report: Value = serde_json::from_str(&answer.stderr).unwrap();
        assert_eq!(
            (answer.exit_code, &report["via"], &report["counter"]),
            (0, &json!("Execute"), &json!(count))
        );
        assert_eq!(report["variables"], json!({"KEY": "v\u{fffd}"}));
        assert_eq!(report["arguments"][1], "x");
        uuids.push(report["uuid"].clone());
    }
    assert_eq!(uuids[0], uuids[1]);
    let late = ExecuteCommand { timeout_s: Some(0), ..command(&["--wait-for=never"]) };
    assert_eq!(client.execute(late).await.unwrap().into_inner().timed_out_after_s, Some(0));
    let status = client.execute(command(&["--fault=unavailable"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(client.execute(command(&["--fault=signal"])).await.is_err());
}

#[tokio::test]
async fn exec_can_be_cancelled_or_is_unimplemented() {
    let mut worker = Served::start(&[]);
    let mut client = WorkerClient::new(worker.channel().await);
    let events =
        [event(Data::Command(command(&["--wait-for=never"]))), event(Data::Cancel(ExecuteCancel::default()))];
    let answer = client.exec(tokio_stream::iter(events.clone())).await.unwrap().into_inner();
    assert_eq!((answer.exit_code, answer.stderr.as_str()), (130, "cancelled\n"));
    let whole = [event(Data::Command(command(&["--say=x", "--exit-code=2"])))];
    let answer = client.exec(tokio_stream::iter(whole)).await.unwrap().into_inner();
    assert_eq!((answer.exit_code, answer.stderr.as_str()), (2, "x\n"));

    let mut worker = Served::start(&["no-exec"]);
    let mut client = WorkerClient::new(worker.channel().await);
    let status = client.exec(tokio_stream::iter(events)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_stream_answers_in_any_order_and_with_faults() {
    let mut worker = Served::start(&[]);
    let place = worker.place.path().to_path_buf();
    let mut client = WorkerStreamingClient::new(worker.channel().await);
    let (sender, commands) = tokio::sync::mpsc::channel(8);
    let send = async |id: u64, orders: &[&str]| {
        sender.send(ExecuteCommandStream { request: Some(command(orders)), id }).await.unwrap();
    };
    send(1, &["--wait-for=go", "--say=one"]).await;
    send(2, &["--say=two"]).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(commands);
    let mut answers = client.execute_stream(stream).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 2);
    std::fs::write(place.join("go"), "").unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    send(3, &["--fault=no-response"]).await;
    let bare = answers.message().await.unwrap().unwrap();
    assert_eq!((bare.id, bare.response), (3, None));
    send(4, &["--fault=double-reply"]).await;
    for _ in 0..2 {
        assert_eq!(answers.message().await.unwrap().unwrap().id, 4);
    }
    send(5, &["--fault=unknown-id"]).await;
    assert_eq!(answers.message().await.unwrap().unwrap().id, 7_000_001);
    send(6, &["--fault=close-stream"]).await;
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Aborted);
}

#[test]
fn it_can_end_before_it_listens() {
    let mut worker = Served::start(&["exit-at-start:5"]);
    assert_eq!(worker.child.wait().unwrap().code(), Some(5));
}
