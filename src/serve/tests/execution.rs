//! Execution and operations.

use super::scene::*;
use crate::action::Digest;
use tonic::Code;

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
    let unknown = Digest::of(SHA, b"no such action");
    assert_eq!(scene.execute(request(&unknown)).await.unwrap_err().code(), Code::FailedPrecondition);
    scene.end().await;
}
