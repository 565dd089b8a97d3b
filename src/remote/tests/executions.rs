//! Operations whose streams break, that are forgotten, that end without an end, or lack their blobs.

use super::liar::{Script, Step};
use super::*;
use fulgurite_proto::google::longrunning::{Operation, operation};
use fulgurite_proto::google::rpc;
use prost_types::Any;
use tonic::{Code, Status};

const NAME: &str = "operations/7";

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// A message of an operation that goes on.
pub(super) fn going(stage: reapi::execution_stage::Value) -> Step {
    let metadata =
        reapi::ExecuteOperationMetadata { stage: stage.into(), ..reapi::ExecuteOperationMetadata::default() };
    let metadata = Some(any("build.bazel.remote.execution.v2.ExecuteOperationMetadata", &metadata));
    Step::Say(Operation { name: NAME.to_owned(), metadata, ..Operation::default() })
}

fn queued() -> Step {
    going(reapi::execution_stage::Value::Queued)
}

fn executing() -> Step {
    going(reapi::execution_stage::Value::Executing)
}

fn ended(result: Option<operation::Result>) -> Step {
    Step::Say(Operation { name: NAME.to_owned(), done: true, result, ..Operation::default() })
}

pub(super) fn response(response: &reapi::ExecuteResponse) -> Step {
    let any = any("build.bazel.remote.execution.v2.ExecuteResponse", response);
    ended(Some(operation::Result::Response(any)))
}

pub(super) fn done(result: reapi::ActionResult) -> Step {
    response(&reapi::ExecuteResponse { result: Some(result), ..reapi::ExecuteResponse::default() })
}

fn exit(exit_code: i32) -> Step {
    done(reapi::ActionResult { exit_code, ..reapi::ActionResult::default() })
}

fn failed_with(code: Code, details: Vec<Any>) -> Step {
    let status = rpc::Status { code: code.into(), message: "it says so".to_owned(), details };
    response(&reapi::ExecuteResponse { status: Some(status), ..reapi::ExecuteResponse::default() })
}

fn missing(digests: &[Digest]) -> Any {
    let violation = |digest: &Digest| rpc::precondition_failure::Violation {
        r#type: "MISSING".to_owned(),
        subject: format!("blobs/{}/{}", digest.hex(), digest.size_bytes),
        description: String::new(),
    };
    let failure = rpc::PreconditionFailure { violations: digests.iter().map(violation).collect() };
    any("google.rpc.PreconditionFailure", &failure)
}

fn with_details(code: Code, details: Vec<Any>) -> Status {
    let status = rpc::Status { code: code.into(), message: "it says so".to_owned(), details };
    Status::with_details(code, "it says so", status.encode_to_vec().into())
}

fn delay(pause: Duration) -> Any {
    let delay = prost_types::Duration { seconds: 0, nanos: i32::try_from(pause.as_nanos()).unwrap() };
    any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay: Some(delay) })
}

/// A refusal that says when to come again.
pub(super) fn retry_info(code: Code, pause: Duration) -> Status {
    with_details(code, vec![delay(pause)])
}

async fn execute(scene: &Scene, executes: Vec<Script>, waits: Vec<Script>) -> Result<Ended, ClusterError> {
    scene.liar().lie(|lies| (lies.executes, lies.waits) = (executes.into(), waits.into()));
    soon(scene.cluster.execute(&digest(b"action"), false, |_| ())).await
}

fn exit_code(ended: Result<Ended, ClusterError>) -> i32 {
    match ended {
        Ok(Ended::Result { result, .. }) => result.result.exit_code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn stages_are_told_in_order() {
    let scene = Scene::new().await;
    scene.liar().lie(|lies| lies.executes.push_back(Ok(vec![queued(), executing(), queued(), exit(3)])));
    let mut stages = Vec::new();
    let ended = soon(scene.cluster.execute(&digest(b"action"), false, |stage| stages.push(stage))).await;
    assert_eq!(exit_code(ended), 3);
    assert_eq!(stages, [Stage::Queued, Stage::Executing, Stage::Queued]);
    assert_eq!(scene.liar().state().canceled, Vec::<String>::new());
}

#[tokio::test]
async fn a_stream_may_break_after_every_message() {
    let codes = [Code::Unavailable, Code::Internal, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded];
    for code in codes {
        let scene = Scene::new().await;
        let broken = || Step::Break(Status::new(code, "it breaks"));
        // After none: it is begun again. After one: it is waited for.
        let executes = vec![Ok(vec![broken()]), Ok(vec![queued(), broken()])];
        let waits = vec![
            Ok(vec![queued(), broken()]),
            Ok(vec![broken()]),
            Ok(vec![executing(), broken()]),
            Ok(vec![]),
            Ok(vec![executing(), exit(4)]),
        ];
        assert_eq!(exit_code(execute(&scene, executes, waits).await), 4, "{code:?}");
        assert_eq!((scene.liar().calls("Execute"), scene.liar().calls("WaitExecution")), (2, 5));
        assert_eq!(scene.liar().state().canceled, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_stream_that_always_breaks_is_given_up() {
    for steps in [vec![], vec![Step::Break(Status::unavailable("again"))]] {
        let scene = Scene::new().await;
        let error = execute(&scene, vec![Ok(steps)], vec![]).await.unwrap_err();
        assert!(error.is_outage(), "{error}");
        assert!(scene.liar().calls("Execute") <= limits::STREAMS_MAX as usize + 1);
    }
    // Even one that says something each time, though that takes longer: what all may spend on it has an end.
    let scene = Scene::new().await;
    let error = execute(&scene, vec![Ok(vec![queued()])], vec![Ok(vec![executing()])]).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    scene.liar().until(|state| state.canceled == [NAME]).await;
}

#[tokio::test]
async fn a_forgotten_operation_is_begun_again() {
    for in_the_stream in [false, true] {
        let scene = Scene::new().await;
        let executes = vec![Ok(vec![queued()]), Ok(vec![queued(), exit(5)])];
        let gone = Status::not_found("no such operation");
        let gone = if in_the_stream { Ok(vec![Step::Break(gone)]) } else { Err(gone) };
        assert_eq!(exit_code(execute(&scene, executes, vec![gone]).await), 5);
        assert_eq!((scene.liar().calls("Execute"), scene.liar().calls("WaitExecution")), (2, 1));
    }
    // One that forgets always.
    let scene = Scene::new().await;
    let gone = Err(Status::not_found("no such operation"));
    let error = execute(&scene, vec![Ok(vec![queued()])], vec![gone]).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
}

#[tokio::test]
async fn silence_is_not_waited_out() {
    let scene = Scene::with(|options| options.call_within = SOON).await;
    // Silent twice, and alive: it answers when it is asked.
    let waits = vec![Ok(vec![executing(), Step::Hang]), Ok(vec![executing(), exit(6)])];
    assert_eq!(exit_code(execute(&scene, vec![Ok(vec![queued(), Step::Hang])], waits).await), 6);
    // Silent from the beginning, for ever.
    let error = execute(&scene, vec![Ok(vec![Step::Hang])], vec![]).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    for call in ["Execute", "WaitExecution"] {
        let scene = Scene::with(|options| options.call_within = SOON).await;
        scene.liar().hang(call);
        let error = execute(&scene, vec![Ok(vec![queued()])], vec![]).await.unwrap_err();
        assert!(error.is_outage(), "{error}");
    }
}

#[tokio::test]
async fn an_end_that_is_none() {
    let scene = Scene::new().await;
    let garbage = Any { type_url: String::new(), value: vec![0xff; 7] };
    let empty = reapi::ExecuteResponse::default();
    let ends = [ended(None), ended(Some(operation::Result::Response(garbage))), response(&empty)];
    for end in ends {
        let error = execute(&scene, vec![Ok(vec![end])], vec![]).await.unwrap_err();
        assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
    }
    let status = rpc::Status { code: Code::Internal.into(), ..rpc::Status::default() };
    let end = ended(Some(operation::Result::Error(status)));
    let error = execute(&scene, vec![Ok(vec![end])], vec![]).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: Code::Internal, .. }), "{error}");
    // OK is no error, whoever says so.
    let end = ended(Some(operation::Result::Error(rpc::Status::default())));
    let error = execute(&scene, vec![Ok(vec![end])], vec![]).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { .. } | ClusterError::Malformed { .. }), "{error}");
    // Digests that are none.
    let bad = reapi::Digest { hash: "../../etc/passwd".to_owned(), size_bytes: -1 };
    for result in [
        reapi::ActionResult { stdout_digest: Some(bad.clone()), ..reapi::ActionResult::default() },
        reapi::ActionResult {
            output_files: vec![reapi::OutputFile { path: "a".to_owned(), ..reapi::OutputFile::default() }],
            ..reapi::ActionResult::default()
        },
    ] {
        let error = execute(&scene, vec![Ok(vec![done(result)])], vec![]).await.unwrap_err();
        assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_execution_that_could_not_be_ended_is_begun_again() {
    let scene = Scene::new().await;
    let executes = vec![
        Ok(vec![failed_with(Code::Unavailable, vec![])]),
        Ok(vec![failed_with(Code::Internal, vec![delay(Duration::from_millis(1))])]),
        Ok(vec![exit(7)]),
    ];
    assert_eq!(exit_code(execute(&scene, executes, vec![]).await), 7);
    for code in [Code::Internal, Code::Unavailable, Code::Cancelled] {
        let always = vec![Ok(vec![failed_with(code, vec![])])];
        match execute(&scene, always, vec![]).await {
            Err(ClusterError::Status { code: told, .. }) => assert_eq!(told, code),
            other => panic!("{other:?}"),
        }
    }
    for code in [Code::DeadlineExceeded, Code::InvalidArgument, Code::FailedPrecondition] {
        let always = vec![Ok(vec![failed_with(code, vec![])])];
        let ended = execute(&scene, always, vec![]).await;
        assert!(matches!(ended, Ok(Ended::Action { code: told, .. }) if told == code), "{ended:?}");
    }
    let busy = retry_info(Code::ResourceExhausted, Duration::from_millis(5));
    let executes = vec![Err(busy.clone()), Err(busy), Ok(vec![exit(8)])];
    assert_eq!(exit_code(execute(&scene, executes, vec![]).await), 8);
}

#[tokio::test]
async fn missing_blobs_are_told_by_name() {
    let scene = Scene::new().await;
    let gone = [digest(b"one"), digest(b"two")];
    let twice = [gone[0], gone[1], gone[0]];
    let precondition = || with_details(Code::FailedPrecondition, vec![missing(&twice)]);
    let ways: [Script; 3] = [
        Err(precondition()),
        Ok(vec![queued(), Step::Break(precondition())]),
        Ok(vec![failed_with(Code::FailedPrecondition, vec![missing(&twice)])]),
    ];
    for way in ways {
        match execute(&scene, vec![way], vec![]).await {
            Ok(Ended::Missing(digests)) => assert_eq!(digests, gone),
            other => panic!("{other:?}"),
        }
    }
    // Details that are none: by the text, all may be missing.
    let text = Status::with_details(Code::FailedPrecondition, "a blob is missing", vec![0xff; 9].into());
    let ended = execute(&scene, vec![Err(text)], vec![]).await;
    assert!(matches!(&ended, Ok(Ended::Missing(digests)) if digests.is_empty()), "{ended:?}");
}

#[tokio::test]
async fn who_leaves_cancels_the_operation() {
    let scene = Scene::new().await;
    scene.liar().lie(|lies| lies.executes.push_back(Ok(vec![queued(), Step::Hang])));
    let (told, mut stages) = tokio::sync::mpsc::channel(8);
    let running = {
        let cluster = scene.cluster.clone();
        let on = move |stage| told.try_send(stage).unwrap();
        tokio::spawn(async move { cluster.execute(&digest(b"action"), false, on).await.map(drop) })
    };
    soon(stages.recv()).await.unwrap();
    running.abort();
    scene.liar().until(|state| state.canceled == [NAME]).await;
}

/// Nobody can cancel what has no name yet, so that it is waited for, for a moment.
#[tokio::test]
async fn who_leaves_before_the_operation_has_a_name_cancels_it_too() {
    let scene = Scene::new().await;
    scene.liar().lie(|lies| {
        lies.hold.insert("Execute");
        lies.executes.push_back(Ok(vec![queued(), Step::Hang]));
    });
    let running = {
        let cluster = scene.cluster.clone();
        tokio::spawn(async move { cluster.execute(&digest(b"action"), false, |_| {}).await.map(drop) })
    };
    scene.liar().until(|state| state.calls.get("Execute") == Some(&1)).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    scene.liar().let_go("Execute");
    scene.liar().until(|state| state.canceled == [NAME]).await;
}

#[test]
fn who_leaves_after_the_runtime_does_no_harm() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scene = runtime.block_on(Scene::new());
    scene.liar().lie(|lies| lies.executes.push_back(Ok(vec![queued(), Step::Hang])));
    let cluster = scene.cluster.clone();
    let action = digest(b"action");
    let (told, mut stages) = tokio::sync::mpsc::channel(8);
    let mut running = Box::pin(cluster.execute(&action, false, move |stage| told.try_send(stage).unwrap()));
    runtime.block_on(async {
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            stage = stages.recv() => assert_eq!(stage, Some(Stage::Queued)),
        }
    });
    // Outside of the runtime, as a thread does that goes on to other things.
    drop(running);
    runtime.block_on(scene.liar().until(|state| state.canceled == [NAME]));
    drop(runtime);
}

/// A precondition that fails because these blobs are not there.
pub(super) fn lacking(digests: &[Digest]) -> Script {
    Err(with_details(Code::FailedPrecondition, vec![missing(digests)]))
}
