//! The end of a server, while actions wait and run.

use super::scene::*;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn draining_answers_what_waits_and_ends_what_runs() {
    let (began, canceled, go): (Latch, Latch, Latch) = Default::default();
    let mut scene = Scene::with(holding(&began, &canceled, &go)).await;
    let running = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    began.opened(1).await;
    let queued = scene.execute(request(&scene.action("b", |_| {}))).await.unwrap();
    scene.tell_to_end();
    let status = done(queued).await.status.unwrap();
    assert_eq!(status.code, Code::Unavailable as i32);
    assert!(retry_info(&status.details));
    let refused = scene.execute(request(&scene.action("c", |_| {}))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // Nobody new comes in; who is here gets its answer.
    let late = connect(scene.dir.path());
    let refused = tonic_health::pb::health_client::HealthClient::new(late)
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await;
    assert!(refused.is_err());
    let health = tonic_health::pb::health_client::HealthClient::new(scene.channel.clone())
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(
        health.into_inner().status(),
        tonic_health::pb::health_check_response::ServingStatus::NotServing
    );
    go.open();
    assert_eq!(done(running).await.status.unwrap().code, Code::Ok as i32);
    scene.ended().await;
}

#[tokio::test]
async fn what_runs_too_long_after_the_order_to_end_is_killed_and_may_be_retried() {
    let (began, canceled, go): (Latch, Latch, Latch) = Default::default();
    let mut scene =
        Scene::tuned(holding(&began, &canceled, &go), |options| options.drain_for = Duration::ZERO).await;
    let running = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    began.opened(1).await;
    scene.tell_to_end();
    let status = done(running).await.status.unwrap();
    assert_eq!(status.code, Code::Unavailable as i32);
    canceled.opened(1).await;
    scene.ended().await;
}
