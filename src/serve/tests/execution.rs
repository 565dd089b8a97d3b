//! Execution and operations: the rules of REAPI that others break, one test each.

use super::scene::*;
use crate::action::{ActionResult, Digest};
use crate::exec::executor::{Execution, Verdict};
use crate::sched::SchedulerLimits;
use fulgurite_proto::google::longrunning::*;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::execution_stage::Value as Stage;
use prost::Message;
use std::time::Duration;
use tonic::Code;
use tonic::metadata::MetadataValue;

#[tokio::test]
async fn an_action_runs_and_then_comes_from_the_cache() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    let first = scene.run(&action).await;
    let status = first.status.clone().unwrap();
    assert_eq!((status.code, first.cached_result), (Code::Ok as i32, false), "{status:?}");
    let result = first.result.unwrap();
    assert_eq!(result.output_files[0].path, "out");
    assert!(!result.execution_metadata.as_ref().unwrap().worker.is_empty());
    assert!(result.stdout_raw.is_empty(), "inlined although nobody asked");
    let second = scene.run(&action).await;
    assert!(second.cached_result);
    assert_eq!(second.result.unwrap(), result);
    assert_eq!(scene.metrics.runs.value(), 1);
    scene.end().await;
}

#[tokio::test]
async fn skip_cache_lookup_runs_again_and_overwrites_the_entry() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    scene.run(&action).await;
    let again = reapi::ExecuteRequest { skip_cache_lookup: true, ..request(&action) };
    let again = done(scene.execute(again).await.unwrap()).await;
    assert!(!again.cached_result);
    assert_eq!(scene.metrics.runs.value(), 2);
    scene.end().await;
}

#[tokio::test]
async fn do_not_cache_is_neither_cached_nor_merged() {
    let (began, go) = (Latch::default(), Latch::default());
    let (began_here, go_here) = (began.clone(), go.clone());
    let scene = Scene::with(|_| {
        Fake::new(2, move |_, _, _| {
            began_here.open();
            go_here.wait(1);
            exited(0)
        })
    })
    .await;
    let action = scene.action("a", |action| action.do_not_cache = true);
    let first = scene.execute(request(&action)).await.unwrap();
    let second = scene.execute(request(&action)).await.unwrap();
    began.opened(2).await;
    go.open();
    assert!(!done(first).await.cached_result && !done(second).await.cached_result);
    assert!(!scene.run(&action).await.cached_result);
    assert_eq!(scene.metrics.runs.value(), 3);
    scene.end().await;
}

#[tokio::test]
async fn failures_and_broken_runs_are_not_cached() {
    let scene = Scene::with(|_| Fake::new(1, |_, _, _| exited(1))).await;
    let action = scene.action("a", |_| {});
    for _ in 0..2 {
        let response = scene.run(&action).await;
        // A non-zero exit is not an error.
        assert_eq!(response.status.unwrap().code, Code::Ok as i32);
        assert_eq!(response.result.unwrap().exit_code, 1);
        assert!(!response.cached_result);
    }
    scene.end().await;
}

#[tokio::test]
async fn a_timeout_tells_what_was_printed() {
    let scene = Scene::with(|cas| {
        let cas = cas.clone();
        Fake::new(1, move |_, _, _| {
            let verdict = Verdict::TimedOut { limit: Duration::from_secs(1) };
            Execution { verdict, ..hello(&cas) }
        })
    })
    .await;
    let response = scene.run(&scene.action("a", |_| {})).await;
    assert_eq!(response.status.unwrap().code, Code::DeadlineExceeded as i32);
    assert!(response.result.unwrap().stdout_digest.is_some());
    assert!(response.server_logs["stdout"].human_readable);
    assert!(response.message.contains("1s"), "{}", response.message);
    scene.end().await;
}

#[tokio::test]
async fn g10_a_missing_action_or_command_is_a_missing_blob() {
    let scene = Scene::new().await;
    let nowhere = Digest::of(SHA, b"nowhere");
    let status = scene.execute(request(&nowhere)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(missing_in(&details(&status)), [format!("blobs/{nowhere}")]);
    // With the command, all that is missing of the inputs is named as well.
    let (file, directory) = (Digest::of(SHA, b"no file"), Digest::of(SHA, b"no directory"));
    let wire = |digest: &Digest| Some(crate::action::encode::digest(digest));
    let root = reapi::Directory {
        files: vec![reapi::FileNode { name: "f".to_owned(), digest: wire(&file), ..Default::default() }],
        directories: vec![reapi::DirectoryNode { name: "d".to_owned(), digest: wire(&directory) }],
        ..Default::default()
    };
    let root = scene.put(&root.encode_to_vec());
    let action = scene.action("a", |action| {
        action.command_digest = wire(&nowhere);
        action.input_root_digest = wire(&root);
    });
    let status = scene.execute(request(&action)).await.unwrap_err();
    let mut named = missing_in(&details(&status));
    named.sort();
    let mut expected = [nowhere, file, directory].map(|digest| format!("blobs/{digest}"));
    expected.sort();
    assert_eq!(named, expected);
    scene.end().await;
}

#[tokio::test]
async fn missing_inputs_come_as_violations_in_the_response() {
    let missing: Vec<Digest> = (0..500).map(|n: u32| Digest::of(SHA, &n.to_le_bytes())).collect();
    let expected: Vec<String> = missing.iter().map(|digest| format!("blobs/{digest}")).collect();
    let scene = Scene::with(|_| {
        Fake::new(1, move |_, _, _| Execution {
            verdict: Verdict::Missing(missing.clone()),
            result: ActionResult::default(),
        })
    })
    .await;
    let response = scene.run(&scene.action("a", |_| {})).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert_eq!(missing_in(&status.details), expected);
    scene.end().await;
}

#[tokio::test]
async fn g13_timeouts_above_the_maximum_are_refused_and_never_clamped() {
    let scene = Scene::new().await;
    let span = |seconds, nanos| {
        move |action: &mut reapi::Action| action.timeout = Some(prost_types::Duration { seconds, nanos })
    };
    for (seconds, nanos) in [(1_000_000_000, 0), (-1, 0), (0, -5), (86_400, 1)] {
        let action = scene.action("a", span(seconds, nanos));
        let status = scene.execute(request(&action)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{seconds} {nanos}");
    }
    for seconds in [0, 86_400] {
        let response = scene.run(&scene.action("a", span(seconds, 0))).await;
        assert_eq!(response.status.unwrap().code, Code::Ok as i32);
    }
    scene.end().await;
}

#[tokio::test]
async fn platforms_that_cannot_be_had_are_refused_with_what_is_on_offer() {
    let scene = Scene::new().await;
    let platform = |name: &str, value: &str| {
        let property = reapi::platform::Property { name: name.to_owned(), value: value.to_owned() };
        Some(reapi::Platform { properties: vec![property] })
    };
    let action = scene.action("a", |action| action.platform = platform("OSFamily", "Linux"));
    assert_eq!(scene.run(&action).await.status.unwrap().code, Code::Ok as i32);
    for (name, value, code, offered) in [
        ("OSFamily", "windows", Code::FailedPrecondition, "linux"),
        ("favourite", "x", Code::InvalidArgument, "OSFamily"),
    ] {
        let action = scene.action("a", |action| action.platform = platform(name, value));
        let status = scene.execute(request(&action)).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(offered) && status.message().contains(name), "{status}");
    }
    scene.end().await;
}

#[tokio::test]
async fn g11_commands_that_are_none_are_refused() {
    let scene = Scene::new().await;
    let variable =
        |name: &str| reapi::command::EnvironmentVariable { name: name.to_owned(), value: "x".to_owned() };
    let argv = || vec!["true".to_owned()];
    for command in [
        reapi::Command::default(),
        reapi::Command { arguments: vec!["a\0b".to_owned()], ..Default::default() },
        reapi::Command {
            arguments: argv(),
            environment_variables: vec![variable("a=b")],
            ..Default::default()
        },
        reapi::Command { arguments: argv(), working_directory: "../x".to_owned(), ..Default::default() },
        reapi::Command { arguments: argv(), working_directory: "/etc".to_owned(), ..Default::default() },
        reapi::Command { arguments: argv(), output_paths: vec!["../x".to_owned()], ..Default::default() },
        reapi::Command {
            arguments: argv(),
            output_node_properties: vec!["colour".to_owned()],
            ..Default::default()
        },
    ] {
        let command_digest = scene.put(&command.encode_to_vec());
        let action = scene.action("a", |action| {
            action.command_digest = Some(crate::action::encode::digest(&command_digest));
        });
        let status = scene.execute(request(&action)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{command:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn stages_come_in_order_with_metadata() {
    let (began, go) = (Latch::default(), Latch::default());
    let (began_here, go_here) = (began.clone(), go.clone());
    let scene = Scene::with(|_| {
        Fake::new(1, move |_, _, watch| {
            go_here.wait(1);
            announce(watch);
            began_here.open();
            go_here.wait(2);
            exited(0)
        })
    })
    .await;
    let action = scene.action("a", |_| {});
    let mut stream = scene.execute(request(&action)).await.unwrap();
    let queued = next(&mut stream).await;
    assert_eq!(stage(&queued), Stage::Queued);
    assert_eq!(metadata(&queued).digest_function, reapi::digest_function::Value::Sha256 as i32);
    assert_eq!(metadata(&queued).action_digest.unwrap().hash, action.hex());
    go.open();
    let executing = until(&mut stream, Stage::Executing).await;
    let partial = metadata(&executing).partial_execution_metadata.unwrap();
    assert_eq!(partial.execution_start_timestamp.unwrap().seconds, 5);
    go.open();
    assert_eq!(stage(all(stream).await.last().unwrap()), Stage::Completed);
    scene.end().await;
}

#[tokio::test]
async fn streams_say_something_while_nothing_happens() {
    let go = Latch::default();
    let go_here = go.clone();
    let scene = Scene::tuned(
        |_| {
            Fake::new(1, move |_, _, _| {
                go_here.wait(1);
                exited(0)
            })
        },
        |options| options.limits.heartbeat = Duration::from_millis(5),
    )
    .await;
    let mut stream = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    for _ in 0..5 {
        assert_eq!(stage(&next(&mut stream).await), Stage::Queued);
    }
    go.open();
    all(stream).await;
    scene.end().await;
}

#[tokio::test]
async fn g20_identical_actions_run_once_and_end_for_each_alone() {
    let (began, canceled, go) = Default::default();
    let scene = Scene::with(holding(&began, &canceled, &go)).await;
    let action = scene.action("a", |_| {});
    let mut first = scene.execute(request(&action)).await.unwrap();
    let mut second = scene.execute(request(&action)).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(scene.execute(request(&action)).await.unwrap());
    }
    let (one, two) = (next(&mut first).await.name, next(&mut second).await.name);
    assert_ne!(one, two, "each has a name of its own");
    began.opened(1).await;
    scene.operations().cancel_operation(CancelOperationRequest { name: one }).await.unwrap();
    assert_eq!(done(first).await.status.unwrap().code, Code::Cancelled as i32);
    go.open();
    assert_eq!(done(second).await.status.unwrap().code, Code::Ok as i32);
    for other in others {
        assert_eq!(done(other).await.status.unwrap().code, Code::Ok as i32);
    }
    assert_eq!(scene.metrics.runs.value(), 1);
    scene.end().await;
}

#[tokio::test]
async fn canceling_the_last_kills_the_run_and_tells_what_was_printed() {
    let (began, canceled, go): (Latch, Latch, Latch) = Default::default();
    let scene = Scene::with(holding(&began, &canceled, &go)).await;
    let mut stream = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    let name = next(&mut stream).await.name;
    began.opened(1).await;
    scene.operations().cancel_operation(CancelOperationRequest { name: name.clone() }).await.unwrap();
    canceled.opened(1).await;
    let response = done(stream).await;
    assert_eq!(response.status.unwrap().code, Code::Cancelled as i32);
    assert!(response.result.unwrap().stdout_digest.is_some());
    // It can still be asked for, and a canceled run was not cached.
    let operation = scene.operations().get_operation(GetOperationRequest { name }).await.unwrap();
    assert!(operation.into_inner().done);
    scene.end().await;
}

#[tokio::test]
async fn an_operation_survives_its_stream() {
    let (began, canceled, go): (Latch, Latch, Latch) = Default::default();
    let scene = Scene::with(holding(&began, &canceled, &go)).await;
    let mut stream = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    let name = next(&mut stream).await.name;
    began.opened(1).await;
    drop(stream);
    let wait = || reapi::WaitExecutionRequest { name: name.clone() };
    let mut again = scene.execution().wait_execution(wait()).await.unwrap().into_inner();
    assert_eq!(stage(&next(&mut again).await), Stage::Executing);
    go.open();
    assert_eq!(done(again).await.status.unwrap().code, Code::Ok as i32);
    // And its end.
    let late = scene.execution().wait_execution(wait()).await.unwrap().into_inner();
    assert_eq!(done(late).await.result.unwrap().output_files.len(), 1);
    scene.end().await;
}

#[tokio::test]
async fn g21_operations_that_are_not_there_are_not_found() {
    let scene = Scene::new().await;
    for name in ["", "operations/1", "operations/00000000000000000000000000000000", "x"] {
        let name = name.to_owned();
        let wait = reapi::WaitExecutionRequest { name: name.clone() };
        let status = scene.execution().wait_execution(wait).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let status = scene.operations().cancel_operation(CancelOperationRequest { name }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    let delete = DeleteOperationRequest { name: String::new() };
    let status = scene.operations().delete_operation(delete).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let wait = WaitOperationRequest::default();
    assert_eq!(scene.operations().wait_operation(wait).await.unwrap_err().code(), Code::Unimplemented);
    scene.end().await;
}

#[tokio::test]
async fn g22_a_full_queue_says_when_to_come_back() {
    let (began, canceled, go): (Latch, Latch, Latch) = Default::default();
    let scene = Scene::tuned(holding(&began, &canceled, &go), |options| {
        options.scheduler = SchedulerLimits { queued_per_tenant: 1, ..SchedulerLimits::default() };
    })
    .await;
    let mut streams = Vec::new();
    for action in ["a", "b"] {
        let action = scene.action(action, |_| {});
        streams.push(scene.execute(request(&action)).await.unwrap());
        began.opened(1).await;
    }
    let listed = scene.operations().list_operations(ListOperationsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().operations.len(), 2);
    let status = scene.execute(request(&scene.action("c", |_| {}))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(retry_info(&details(&status)));
    go.open();
    for stream in streams {
        assert_eq!(done(stream).await.status.unwrap().code, Code::Ok as i32);
    }
    scene.end().await;
}

#[tokio::test]
async fn what_a_client_wants_inline_is_inline() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    for cached in [false, true] {
        let wanted = reapi::ExecuteRequest {
            inline_stdout: true,
            inline_output_files: vec!["out".to_owned()],
            ..request(&action)
        };
        let response = done(scene.execute(wanted).await.unwrap()).await;
        assert_eq!(response.cached_result, cached);
        let result = response.result.unwrap();
        assert_eq!(&result.stdout_raw[..], b"hello");
        assert_eq!(&result.output_files[0].contents[..], b"output");
        assert!(result.stdout_digest.is_some(), "the digest stays");
    }
    scene.end().await;
}

#[tokio::test]
async fn priorities_outside_the_advertised_range_are_refused() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    for (priority, code) in
        [(1000, Code::Ok), (1001, Code::InvalidArgument), (i32::MIN, Code::InvalidArgument)]
    {
        let execution_policy = Some(reapi::ExecutionPolicy { priority });
        let answer = scene.execute(reapi::ExecuteRequest { execution_policy, ..request(&action) }).await;
        assert_eq!(answer.map_or_else(|status| status.code(), |_| Code::Ok), code);
    }
    scene.end().await;
}

#[tokio::test]
async fn g16_request_metadata_that_is_garbage_is_refused() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    let mut call = tonic::Request::new(request(&action));
    let header = "build.bazel.remote.execution.v2.requestmetadata-bin";
    call.metadata_mut().insert_bin(header, MetadataValue::from_bytes(&[0xff, 0xff, 0xff]));
    assert_eq!(scene.execution().execute(call).await.unwrap_err().code(), Code::InvalidArgument);
    scene.end().await;
}

#[tokio::test]
async fn an_executor_that_panics_costs_its_action_and_nothing_else() {
    let scene = Scene::with(|_| {
        Fake::new(1, |job, _, _| {
            assert!(job.command.arguments[1] != "bad", "on purpose");
            exited(0)
        })
    })
    .await;
    let response = scene.run(&scene.action("bad", |_| {})).await;
    assert_eq!(response.status.unwrap().code, Code::Internal as i32);
    assert_eq!(scene.run(&scene.action("good", |_| {})).await.status.unwrap().code, Code::Ok as i32);
    scene.end().await;
}
